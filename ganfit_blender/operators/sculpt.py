# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators around sculpting: prepare, transfer to all shape keys, discard, fit the texture to the sculpt."""

import uuid
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from .. import body, preferences, protocol, sculpt, session
from ..errors import AddonError
from ..importer import scene as importer
from ..importer.bundle import read_bundle
from ..job import WorkerJob
from ..ui_strings import MESSAGES, label, tip
from ..viewport import show_material, shows_material
from .base import JobOperator, PersonOperator
from .reconstruct import new_folder
from .result import import_folder


class GANFIT_OT_sculpt_prepare(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.sculpt_prepare"
    bl_label = label("sculpt_prepare")
    bl_description = tip("sculpt_prepare")
    bl_options = {"REGISTER", "UNDO"}
    adds_to_person = True

    levels: IntProperty(name=label("sculpt_levels"), description=tip("sculpt_levels"), min=1, max=6, default=3)
    show_skin: BoolProperty(name=label("show_skin"), description=tip("show_skin"), default=True)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head that stands alone and can be seen, or a sculpt to go on with."""
        if not super().poll(context):
            return False
        person = importer.active_person(context)
        if body.find(person) is not None:
            cls.poll_message_set(MESSAGES["body_first"])
            return False
        if sculpt.find(person) is None and not importer.head_of(person).visible_get():
            cls.poll_message_set(MESSAGES["head_hidden"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Makes the multires copy and goes into sculpt mode."""
        copy = sculpt.prepare(context, importer.active_person(context), self.levels, self.show_skin)
        if self.show_skin and not shows_material(context):
            show_material(context)
        session.current().dismiss()
        self.report({"INFO"}, MESSAGES["sculpting"].format(name=copy.name))
        return {"FINISHED"}


class SculptOperator(PersonOperator):
    """An operator on a sculpt that is under way."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a copy that is sculpted."""
        if not super().poll(context):
            return False
        if sculpt.find(importer.active_person(context)) is None:
            cls.poll_message_set(MESSAGES["no_sculpt"])
            return False
        return True


class GANFIT_OT_sculpt_transfer(SculptOperator, bpy.types.Operator):
    bl_idname = "ganfit.sculpt_transfer"
    bl_label = label("sculpt_transfer")
    bl_description = tip("sculpt_transfer")
    bl_options = {"REGISTER", "UNDO"}

    keep_detail: BoolProperty(name=label("keep_detail"), description=tip("keep_detail"), default=True)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Carries the sculpt to the neutral head and all expressions."""
        moved = sculpt.transfer(context, importer.active_person(context), self.keep_detail)
        session.current().dismiss()
        self.report({"INFO"}, MESSAGES["sculpt_transferred"].format(millimetres=1000 * moved))
        return {"FINISHED"}


class GANFIT_OT_sculpt_discard(SculptOperator, bpy.types.Operator):
    bl_idname = "ganfit.sculpt_discard"
    bl_label = label("sculpt_discard")
    bl_description = tip("sculpt_discard")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Removes the copy."""
        sculpt.discard(context, importer.active_person(context))
        return {"FINISHED"}


class GANFIT_OT_sculpt_refit(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.sculpt_refit"
    bl_label = label("sculpt_refit")
    bl_description = tip("sculpt_refit")
    bl_options = {"UNDO"}

    output: StringProperty(name=label("output"), description=tip("output"), subtype="DIR_PATH", options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head that came from a result, and no other job."""
        return PersonOperator.poll.__func__(cls, context) and super().poll(context)

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Sends the sculpted cage to the worker."""
        collection = importer.active_person(context)
        head = importer.active_head(context)
        source = Path(head.get("ganfit_bundle", ""))
        if not head.get("ganfit_bundle") or not source.is_dir():
            raise AddonError("bundle_missing", f"The result of {head.name} is not at its place any more: {source}.")
        worker = preferences.worker()
        self._old = collection.name
        self._file = preferences.user_folder(create=True) / "sculpt" / f"{uuid.uuid4().hex[:12]}.npz"
        sculpt.write_offsets(self._file, sculpt.offsets(context, collection, read_bundle(source)))
        out = Path(bpy.path.abspath(self.output)).absolute() if self.output else new_folder(source.parent, source.name)
        params = {"bundle": str(source), "out": str(out), "sculpt": str(self._file)}
        return WorkerJob(worker, protocol.REFIT, params), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Imports the new result as another version beside the old one."""
        self._file.unlink(missing_ok=True)
        message = import_folder(context, Path(result["bundle"]), match=True)
        old = bpy.data.collections.get(self._old)
        if old is not None:
            old.hide_viewport = old.hide_render = True
        return message


CLASSES = (GANFIT_OT_sculpt_prepare, GANFIT_OT_sculpt_transfer, GANFIT_OT_sculpt_discard, GANFIT_OT_sculpt_refit)
