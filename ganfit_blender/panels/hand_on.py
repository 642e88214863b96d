# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels for what comes after: rig and body, export and asset, and whether it may be sold."""

from __future__ import annotations

import bpy

from .. import body, eye_target, licence, session
from ..importer import scene as importer
from ..ui_strings import MESSAGES, label
from .draw import SubPanel, draw_text

ICONS = {licence.YES: "CHECKMARK", licence.NO: "CANCEL", licence.UNKNOWN: "QUESTION"}


class GANFIT_PT_rig(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_rig"
    bl_label = label("panel.rig")

    def draw(self, context: bpy.types.Context) -> None:
        """The eyes' target, the body."""
        layout, person = self.layout, importer.active_person(context)
        target = eye_target.find(person) if person is not None else None
        layout.operator("ganfit.eye_target", icon="HIDE_OFF", depress=target is not None)
        if target is not None:
            layout.prop(target, f'["{eye_target.FOLLOW}"]', text=MESSAGES["follow"], slider=True)
        layout.operator("ganfit.add_body", icon="OUTLINER_OB_ARMATURE")
        if person is not None and body.find(person) is not None:
            layout.operator("ganfit.attach_to_rig", icon="BONE_DATA")
            layout.operator("ganfit.remove_body", icon="TRASH")


class GANFIT_PT_export(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_export"
    bl_label = label("panel.export")

    def draw(self, context: bpy.types.Context) -> None:
        """A button a format, the asset, and the licences."""
        layout, head = self.layout, importer.active_head(context)
        row = layout.row(align=True)
        for kind in ("GLB", "FBX", "OBJ", "USD"):
            row.operator("ganfit.export", text=kind).kind = kind
        person = importer.active_person(context)
        marked = person is not None and person.asset_data is not None
        layout.operator("ganfit.mark_asset", icon="ASSET_MANAGER", depress=marked)
        if head is not None:
            draw_answer(layout, context, importer.result_of(head))


CLASSES = (GANFIT_PT_rig, GANFIT_PT_export)


def draw_answer(layout: bpy.types.UILayout, context: bpy.types.Context, result: dict) -> None:
    """May I sell this? The verdict, then one line an asset; likeness and photo are another matter, and said."""
    found = licence.answer(result, session.current().assets)
    box = layout.box()
    draw_text(box, context, MESSAGES["may_sell"])
    draw_text(box, context, MESSAGES[f"sell.{found.verdict}"], ICONS[found.verdict])
    for row in found.rows:
        draw_text(box, context, f"{row['name']}: {row['licence']}")
    if found.verdict == licence.UNKNOWN:
        box.operator("ganfit.check", icon="INFO")
    draw_text(box, context, MESSAGES["likeness"], "USER")
