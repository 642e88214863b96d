# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels on what a head does and is: expression, shape, sculpt."""

from __future__ import annotations

import bpy

from .. import body, expression, sculpt
from ..importer import scene as importer
from ..importer import shape_keys
from ..ui_strings import MESSAGES, label
from .draw import SubPanel, draw_text


class GANFIT_PT_expression(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_expression"
    bl_label = label("panel.expression")

    def draw(self, context: bpy.types.Context) -> None:
        """Buttons, then a slider for each of ARKit's expressions."""
        layout, head = self.layout, importer.active_head(context)
        row = layout.row(align=True)
        row.operator("ganfit.neutral")
        row.operator("ganfit.as_in_photo")
        layout.operator("ganfit.mirror_weights", icon="MOD_MIRROR")
        layout.operator("ganfit.import_capture", icon="RENDER_ANIMATION")
        for group, keys in expression.grouped(head).items() if head is not None else ():
            if keys:
                column = layout.column(align=True)
                column.label(text=label(group))
                for key in keys:
                    column.prop(key, "value", text=key.name, slider=True)


class GANFIT_PT_shape(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_shape"
    bl_label = label("panel.shape")

    def draw(self, context: bpy.types.Context) -> None:
        """A slider for each leading shape component, in standard deviations."""
        layout, head = self.layout, importer.active_head(context)
        keys = shape_keys.identity_keys(head) if head is not None else []
        if head is not None and not keys:
            draw_text(layout, context, MESSAGES["no_shapes"], "INFO")
        column = layout.column(align=True)
        person = importer.active_person(context)
        if person is not None and body.find(person) is not None:
            draw_text(layout, context, MESSAGES["body_first"], "INFO")
            column.enabled = False
        for key in keys:
            column.prop(key, "value", text=key.name.replace("_", " ").capitalize(), slider=True)
        layout.operator("ganfit.reset_shape", icon="LOOP_BACK")


class GANFIT_PT_sculpt(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_sculpt"
    bl_label = label("panel.sculpt")

    def draw(self, context: bpy.types.Context) -> None:
        """Prepare, then what can be done with the sculpt."""
        layout, person = self.layout, importer.active_person(context)
        layout.operator("ganfit.sculpt_prepare", icon="SCULPTMODE_HLT")
        if person is not None and sculpt.find(person) is not None:
            layout.operator("ganfit.sculpt_transfer", icon="SHAPEKEY_DATA")
            layout.operator("ganfit.sculpt_discard", icon="TRASH")
        layout.operator("ganfit.sculpt_refit", icon="TEXTURE")


CLASSES = (GANFIT_PT_expression, GANFIT_PT_shape, GANFIT_PT_sculpt)
