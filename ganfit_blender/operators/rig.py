# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that adds the eyes' target and takes it away."""

import bpy

from .. import eye_target
from ..importer import scene as importer
from ..ui_strings import label, tip
from .base import PersonOperator


class GANFIT_OT_eye_target(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.eye_target"
    bl_label = label("eye_target")
    bl_description = tip("eye_target")
    bl_options = {"REGISTER", "UNDO"}
    adds_to_person = True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Turns the eye rig on or off."""
        collection = importer.active_person(context)
        if eye_target.find(collection) is not None:
            eye_target.remove(collection)
        else:
            eye_target.add(collection)
        return {"FINISHED"}


CLASSES = (GANFIT_OT_eye_target,)
