# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that starts painting on the skin's albedo."""

import bpy

from ..importer import scene as importer
from ..sculpt import object_mode, select
from ..ui_strings import MESSAGES, label, tip
from ..viewport import show_material
from .base import PersonOperator


class GANFIT_OT_paint_skin(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.paint_skin"
    bl_label = label("paint_skin")
    bl_description = tip("paint_skin")
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head that can be seen, with a material."""
        if not super().poll(context):
            return False
        head = importer.active_head(context)
        material = head.active_material
        if not head.visible_get() or material is None or material.node_tree is None:
            cls.poll_message_set(MESSAGES["head_hidden" if not head.visible_get() else "no_material"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Texture paint mode with the albedo as its canvas."""
        head = importer.active_head(context)
        object_mode(context)
        select(context, head)
        bpy.ops.object.mode_set(mode="TEXTURE_PAINT")
        context.scene.tool_settings.image_paint.mode = "MATERIAL"
        material = head.active_material
        canvas = material.node_tree.nodes.active
        if canvas is not None and canvas.type == "TEX_IMAGE" and canvas.image is not None:
            images = [image.name for image in material.texture_paint_images]
            if canvas.image.name in images:
                material.paint_active_slot = images.index(canvas.image.name)
        show_material(context, fast=True)
        return {"FINISHED"}


CLASSES = (GANFIT_OT_paint_skin,)
