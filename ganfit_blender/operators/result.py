# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on a finished result: import it, and match the scene to its photo."""

from pathlib import Path

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from .. import session, views
from ..importer import scene as importer
from ..ui_strings import MESSAGES, label, tip
from ..viewport import look_through_camera, redraw
from .base import Reporting


class GANFIT_OT_import_result(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.import_result"
    bl_label = label("import_result")
    bl_description = tip("import_result")
    bl_options = {"UNDO"}

    directory: StringProperty(name=label("import_result"), subtype="DIR_PATH", options={"SKIP_SAVE"})
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE", "HIDDEN"})
    match: BoolProperty(name=label("match_photo"), description=tip("match_photo"), default=True)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the folder."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Imports the chosen folder, or the folder of the chosen file."""
        folder = Path(bpy.path.abspath(self.filepath or self.directory))
        message = import_folder(context, folder.parent if folder.is_file() else folder, self.match)
        session.current().dismiss()
        self.report({"INFO"}, message)
        return {"FINISHED"}


class GANFIT_OT_match_photo(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.match_photo"
    bl_label = label("match_photo")
    bl_description = tip("match_photo")
    bl_options = {"REGISTER", "UNDO"}

    view: IntProperty(name=label("photo"), description=tip("photo"), min=0, default=0)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a person to match, or a match to leave."""
        return importer.is_matched(context.scene) or importer.active_person(context) is not None

    def run(self, context: bpy.types.Context) -> set[str]:
        """Turns the match on or off."""
        if importer.is_matched(context.scene):
            importer.release_photo(context)
            look_through_camera(context, False)
            return {"FINISHED"}
        importer.match_photo(context, importer.active_person(context), self.view)
        look_through_camera(context, True)
        self.report({"INFO"}, MESSAGES["matched_hidden"])
        return {"FINISHED"}


def import_folder(context: bpy.types.Context, folder: Path, match: bool) -> str:
    """Imports a bundle and looks at it; returns a sentence for the artist."""
    if context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    collection = importer.import_bundle(context, folder, match)
    views.setup(importer.head_of(collection))
    if match:
        look_through_camera(context, True)
    redraw(context)
    return MESSAGES["finished"].format(name=collection.name)


CLASSES = (GANFIT_OT_import_result, GANFIT_OT_match_photo)
