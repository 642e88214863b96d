# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators that put the head on MakeHuman's body and hang it on a rig."""

from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty

from .. import body, preferences, protocol, session
from ..importer import scene as importer
from ..job import WorkerJob
from ..sculpt import object_mode, select
from ..ui_strings import MESSAGES, items, label, tip
from .base import JobOperator, PersonOperator


class GANFIT_OT_add_body(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.add_body"
    bl_label = label("add_body")
    bl_description = tip("add_body")
    bl_options = {"REGISTER", "UNDO"}
    adds_to_person = True

    gender: FloatProperty(name=label("gender"), description=tip("gender"), min=0.0, max=1.0, default=0.5)
    units: EnumProperty(name=label("body_units"), description=tip("body_units"), items=items("body_units"))
    feet_on_ground: BoolProperty(name=label("feet_on_ground"), description=tip("feet_on_ground"), default=False)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head without a body, and no job."""
        if not PersonOperator.poll.__func__(cls, context):
            return False
        if body.find(importer.active_person(context)) is not None:
            cls.poll_message_set(MESSAGES["has_body"])
            return False
        return super().poll(context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """The backend is asked for the body's file once; then it is kept."""
        return self.execute(context) if body_file().is_file() else super().invoke(context, event)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Builds the body at once when its file is there."""
        if not body_file().is_file():
            return super().run(context)
        self.report({"INFO"}, self.build(context))
        session.current().dismiss()
        return {"FINISHED"}

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for the body."""
        worker = preferences.worker()
        return WorkerJob(worker, protocol.BODY_EXPORT, {"out": str(body_file(create=True))}), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Builds it."""
        return self.build(context)

    def build(self, context: bpy.types.Context) -> str:
        """Adds the body to the scene; returns the sentence."""
        object_mode(context)
        base = body.read_base(body_file(), self.gender)
        made = body.add(
            context, importer.active_person(context), base, self.gender, self.units, self.feet_on_ground
        )
        select(context, made)
        return MESSAGES["body_added"].format(name=made.name)


class BodyOperator(PersonOperator):
    """An operator on a body that is there."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """The active person has a body."""
        if not super().poll(context):
            return False
        if body.find(importer.active_person(context)) is None:
            cls.poll_message_set(MESSAGES["no_body"])
            return False
        return True


class GANFIT_OT_remove_body(BodyOperator, bpy.types.Operator):
    bl_idname = "ganfit.remove_body"
    bl_label = label("remove_body")
    bl_description = tip("remove_body")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Takes the body away."""
        object_mode(context)
        body.remove(importer.active_person(context))
        return {"FINISHED"}


class GANFIT_OT_attach_to_rig(BodyOperator, bpy.types.Operator):
    bl_idname = "ganfit.attach_to_rig"
    bl_label = label("attach_to_rig")
    bl_description = tip("attach_to_rig")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Hangs eyes and teeth on the rig's head bone."""
        object_mode(context)
        bone = body.attach_to_rig(importer.active_person(context))
        self.report({"INFO"}, MESSAGES["attached"].format(bone=bone))
        return {"FINISHED"}


CLASSES = (GANFIT_OT_add_body, GANFIT_OT_remove_body, GANFIT_OT_attach_to_rig)


def body_file(create: bool = False) -> Path:
    """Where the body's file is kept: the extension's user folder."""
    return preferences.user_folder(create=create) / f"body-{body.VERSION}.npz"
