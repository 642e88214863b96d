# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators that hand a head on: export to other programs, and marking it as an asset."""

from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from .. import asset, export, session
from ..importer import scene as importer
from ..ui_strings import MESSAGES, items, label, tip
from .base import PersonOperator


class GANFIT_OT_export(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.export"
    bl_label = label("export")
    bl_description = tip("export")

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    kind: EnumProperty(name=label("export_kind"), description=tip("export_kind"), items=items("export_kind"))
    level: IntProperty(name=label("export_level"), description=tip("export_level"), min=0, max=5, default=1)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the file; the format is chosen at the side."""
        if not self.filepath:
            self.filepath = importer.active_person(context).name + export.FORMATS[self.kind]
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, context: bpy.types.Context) -> bool:
        """Keeps the file's ending with the format."""
        wanted = str(Path(self.filepath).with_suffix(export.FORMATS[self.kind])) if self.filepath else ""
        changed, self.filepath = wanted != self.filepath, wanted
        return changed

    def run(self, context: bpy.types.Context) -> set[str]:
        """Writes the file."""
        path = Path(bpy.path.abspath(self.filepath)).absolute()
        written = export.export(context, importer.active_person(context), path, self.kind, self.level)
        session.current().dismiss()
        self.report({"INFO"}, MESSAGES["exported"].format(path=written))
        return {"FINISHED"}


class GANFIT_OT_mark_asset(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.mark_asset"
    bl_label = label("mark_asset")
    bl_description = tip("mark_asset")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Marks, or takes the mark away."""
        collection = importer.active_person(context)
        if collection.asset_data is not None:
            asset.unmark(collection)
        else:
            asset.mark(collection)
        return {"FINISHED"}


CLASSES = (GANFIT_OT_export, GANFIT_OT_mark_asset)
