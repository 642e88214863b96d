# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that builds the neutral studio and takes it back."""

import bpy
from mathutils import Vector

from .. import body, studio
from ..importer import scene as importer
from ..ui_strings import MESSAGES, label, tip
from ..viewport import look_through_camera
from .base import Reporting


class GANFIT_OT_studio(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.studio"
    bl_label = label("studio")
    bl_description = tip("studio")
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head to light, or a studio to take back."""
        if not studio.is_on(context.scene) and importer.active_head(context) is None:
            cls.poll_message_set(MESSAGES["no_person"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Turns the studio on or off."""
        if studio.is_on(context.scene):
            studio.remove(context)
            look_through_camera(context, False)
            return {"FINISHED"}
        figure = body.find(importer.active_person(context))
        floor = None
        if figure is not None:
            context.view_layer.update()
            floor = min((figure.matrix_world @ Vector(corner)).z for corner in figure.bound_box)
        studio.add(context, importer.active_head(context), floor)
        look_through_camera(context, True)
        return {"FINISHED"}


CLASSES = (GANFIT_OT_studio,)
