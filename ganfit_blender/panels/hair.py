# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel of hair and glasses: the photo's, cuts, and what can be changed at any time."""

from __future__ import annotations

import bpy

from .. import hair_curves
from ..importer import scene as importer
from ..importer import shell
from ..ui_strings import label
from .draw import SubPanel

PIGMENTS = {"Melanin": "melanin", "Melanin Redness": "redness"}  # sockets of Principled Hair -> ids of labels


class GANFIT_PT_hair(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_hair"
    bl_label = label("panel.hair")

    def draw(self, context: bpy.types.Context) -> None:
        """The photo's hair and glasses, shown or not; Add Hair with its cuts; strands' length, thickness and colour."""
        layout, person = self.layout, importer.active_person(context)
        thing = hair_curves.find(person) if person is not None else None
        for part, standing in (shell.found(person) if person is not None else {}).items():
            shown = shell.is_seen(standing)
            layout.operator(f"ganfit.photo_{part}", icon="CHECKBOX_HLT" if shown else "CHECKBOX_DEHLT", depress=shown)
        layout.operator_menu_enum("ganfit.add_hair", "cut", text=label("add_hair"), icon="OUTLINER_OB_CURVES")
        if thing is None:
            return
        column = layout.column(align=True)
        for name, path in hair_curves.sockets(thing).items():
            column.prop(next(entry for entry in thing.modifiers if entry.type == "NODES"), path, text=name)
        shader = hair_curves.shader(thing)
        for name, text in PIGMENTS.items():
            if shader is not None and name in shader.inputs:
                column.prop(shader.inputs[name], "default_value", text=label(text))
        layout.operator("ganfit.remove_hair", icon="TRASH")


CLASSES = (GANFIT_PT_hair,)
