# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators that give a head hair and take it away, and show or hide the hair and the glasses of its photo."""

import bpy
from bpy.props import EnumProperty, FloatProperty, IntProperty

from .. import hair_curves
from ..importer import scene as importer
from ..importer import shell
from ..sculpt import object_mode
from ..ui_strings import MESSAGES, items, label, tip
from .base import PersonOperator


class GANFIT_OT_add_hair(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.add_hair"
    bl_label = label("add_hair")
    bl_description = tip("add_hair")
    bl_options = {"REGISTER", "UNDO"}
    adds_to_person = True

    cut: EnumProperty(name=label("cut"), description=tip("cut"), items=items("cut"), default="short")
    length: FloatProperty(name=label("hair_length"), description=tip("hair_length"), min=0.2, max=2.0, default=1.0)
    count: IntProperty(name=label("hair_count"), description=tip("hair_count"), min=1000, max=200000,
                       soft_max=60000, default=26000)
    seed: IntProperty(name=label("hair_seed"), description=tip("hair_seed"), min=0, default=0)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Grows the hair; what was there is replaced."""
        object_mode(context)
        hair_curves.add(importer.active_person(context), self.cut, self.length, self.count, self.seed)
        return {"FINISHED"}


class GANFIT_OT_remove_hair(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.remove_hair"
    bl_label = label("remove_hair")
    bl_description = tip("remove_hair")
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """The active person has hair."""
        if not super().poll(context):
            return False
        if hair_curves.find(importer.active_person(context)) is None:
            cls.poll_message_set(MESSAGES["no_hair"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Takes the hair away; the head stays active."""
        object_mode(context)
        head = importer.active_head(context)
        hair_curves.remove(importer.active_person(context))
        if context.view_layer.objects.active is None and head.visible_get():
            context.view_layer.objects.active = head
        return {"FINISHED"}


class ToggleOperator(PersonOperator):
    """Shows or hides what stands off the active person's head in the photo."""

    kind: shell.Kind
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """The active person has it."""
        if not super().poll(context):
            return False
        if shell.find(importer.active_person(context), cls.kind) is None:
            cls.poll_message_set(MESSAGES[f"no_photo_{cls.kind.part}"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Shows it or hides it."""
        shell.toggle(shell.find(importer.active_person(context), self.kind))
        return {"FINISHED"}


class GANFIT_OT_photo_hair(ToggleOperator, bpy.types.Operator):
    bl_idname = "ganfit.photo_hair"
    bl_label = label("photo_hair")
    bl_description = tip("photo_hair")
    kind = shell.HAIR


class GANFIT_OT_photo_glasses(ToggleOperator, bpy.types.Operator):
    bl_idname = "ganfit.photo_glasses"
    bl_label = label("photo_glasses")
    bl_description = tip("photo_glasses")
    kind = shell.GLASSES


CLASSES = (GANFIT_OT_add_hair, GANFIT_OT_remove_hair, GANFIT_OT_photo_hair, GANFIT_OT_photo_glasses)
