# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on expression and shape: neutral, as in the photo, mirrored, reset, and a capture from Live Link Face."""

from pathlib import Path

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty, StringProperty

from .. import animate, capture, expression, session
from ..errors import AddonError
from ..importer import scene as importer
from ..importer import shape_keys
from ..ui_strings import MESSAGES, label, tip
from .base import PersonOperator


class ExpressionOperator(PersonOperator):
    """An operator that needs the head's shape keys."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head with shape keys."""
        if not super().poll(context):
            return False
        if importer.active_head(context).data.shape_keys is None:
            cls.poll_message_set(MESSAGES["no_keys"])
            return False
        return True


class GANFIT_OT_neutral(ExpressionOperator, bpy.types.Operator):
    bl_idname = "ganfit.neutral"
    bl_label = label("neutral")
    bl_description = tip("neutral")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """All expression keys to 0."""
        expression.set_neutral(importer.active_head(context))
        return {"FINISHED"}


class GANFIT_OT_as_in_photo(ExpressionOperator, bpy.types.Operator):
    bl_idname = "ganfit.as_in_photo"
    bl_label = label("as_in_photo")
    bl_description = tip("as_in_photo")
    bl_options = {"REGISTER", "UNDO"}

    view: IntProperty(name=label("photo"), description=tip("view"), min=0, default=0)

    def run(self, context: bpy.types.Context) -> set[str]:
        """The expression of a photo."""
        head = importer.active_head(context)
        if self.view >= len(importer.result_of(head).get("views", [])):
            raise AddonError("no_photo", f"The result of {head.name} has no photo number {self.view}.")
        importer.set_view_expression(head, self.view)
        return {"FINISHED"}


class GANFIT_OT_mirror_weights(ExpressionOperator, bpy.types.Operator):
    bl_idname = "ganfit.mirror_weights"
    bl_label = label("mirror_weights")
    bl_description = tip("mirror_weights")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Left and right exchanged."""
        expression.mirror(importer.active_head(context))
        return {"FINISHED"}


class GANFIT_OT_reset_shape(ExpressionOperator, bpy.types.Operator):
    bl_idname = "ganfit.reset_shape"
    bl_label = label("reset_shape")
    bl_description = tip("reset_shape")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """All shape components to 0."""
        expression.reset_shape(importer.active_head(context))
        return {"FINISHED"}


class GANFIT_OT_import_capture(ExpressionOperator, bpy.types.Operator):
    bl_idname = "ganfit.import_capture"
    bl_label = label("import_capture")
    bl_description = tip("import_capture")
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.csv", options={"HIDDEN"})
    fps: FloatProperty(name=label("capture_fps"), description=tip("capture_fps"), min=1.0, max=240.0, default=60.0)
    start: IntProperty(name=label("capture_start"), description=tip("capture_start"), default=1)
    move_head: BoolProperty(name=label("move_head"), description=tip("move_head"), default=True)
    invert_yaw: BoolProperty(name=label("invert_yaw"), description=tip("invert_yaw"), default=False)
    invert_pitch: BoolProperty(name=label("invert_pitch"), description=tip("invert_pitch"), default=False)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the file."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Reads the file into actions."""
        path = Path(bpy.path.abspath(self.filepath))
        taken = capture.read_capture(path, shape_keys.ARKIT, self.fps)
        head = importer.active_head(context)
        first, last = animate.apply_capture(
            context, head, taken, path.stem, self.start, self.move_head, self.invert_yaw, self.invert_pitch
        )
        session.current().dismiss()
        self.report({"INFO"}, MESSAGES["captured"].format(first=first, last=last))
        return {"FINISHED"}


CLASSES = (
    GANFIT_OT_neutral,
    GANFIT_OT_as_in_photo,
    GANFIT_OT_mirror_weights,
    GANFIT_OT_reset_shape,
    GANFIT_OT_import_capture,
)
