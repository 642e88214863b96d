# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on the scene's list of photos."""

from pathlib import Path

import bpy
from bpy.props import CollectionProperty, IntProperty, StringProperty

from .. import session
from ..ui_strings import label, tip
from ..viewport import redraw
from .base import Reporting

IMAGE_FILTER = "*.png;*.jpg;*.jpeg;*.jpe;*.webp;*.tif;*.tiff;*.bmp;*.heic;*.heif;*.avif"


class GANFIT_OT_photos_add(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.photos_add"
    bl_label = label("photos_add")
    bl_description = tip("photos_add")
    bl_options = {"UNDO", "INTERNAL"}

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE"})
    filter_glob: StringProperty(default=IMAGE_FILTER, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the photos."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Appends the chosen photos to the scene's list."""
        photos = context.scene.ganfit.photos
        known = {photo.path for photo in photos}
        for file in self.files:
            path = str(Path(self.directory, file.name))
            if file.name and path not in known:
                photos.add().path = path
                context.scene.ganfit.active_photo = len(photos) - 1
        session.current().dismiss()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_photo_remove(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.photo_remove"
    bl_label = label("photo_remove")
    bl_description = tip("photo_remove")
    bl_options = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Removes one photo from the list."""
        settings = context.scene.ganfit
        settings.photos.remove(self.index)
        settings.active_photo = max(0, min(settings.active_photo, len(settings.photos) - 1))
        return {"FINISHED"}


class GANFIT_OT_photo_move(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.photo_move"
    bl_label = label("photo_move")
    bl_description = tip("photo_move")
    bl_options = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)
    step: IntProperty(min=-1, max=1)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Exchanges a photo with its neighbour."""
        settings = context.scene.ganfit
        place = self.index + self.step
        if not 0 <= place < len(settings.photos):
            return {"CANCELLED"}
        settings.photos.move(self.index, place)
        settings.active_photo = place
        return {"FINISHED"}


CLASSES = (GANFIT_OT_photos_add, GANFIT_OT_photo_remove, GANFIT_OT_photo_move)
