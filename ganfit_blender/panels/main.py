# SPDX-License-Identifier: GPL-3.0-or-later
"""The tab's main panel: photos, settings, the big button, progress."""

from __future__ import annotations

import bpy

from .. import preferences, session, thumbnails
from ..ui_strings import MESSAGES, label
from .draw import draw_error, draw_job, draw_message, draw_setup

THUMBNAIL_SCALE = 5.0


class GANFIT_PT_main(bpy.types.Panel):
    bl_idname = "GANFIT_PT_main"
    bl_label = label("panel")
    bl_category = label("panel")
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        """The way to the manual, at the right of the panel's title."""
        self.layout.operator("ganfit.manual", text="", icon="HELP", emboss=False)

    def draw(self, context: bpy.types.Context) -> None:
        """Photos, settings, the big button; while a job runs, its progress."""
        layout, state = self.layout, session.current()
        running = state.status is not None
        ready = preferences.is_set_up()
        if not ready and not running:
            draw_setup(layout, context)
        column = layout.column()
        column.enabled = not running
        draw_photos(column, context.scene.ganfit)
        draw_settings(column, context.scene.ganfit)
        if state.status is not None:
            draw_job(layout, context, state.status)
        else:
            row = layout.row()
            row.scale_y = 1.6
            row.enabled = ready
            row.operator("ganfit.reconstruct", icon="USER")
        if state.error is not None and (ready or state.error.code != "environment_missing"):
            draw_error(layout, context, state.error)
        elif state.message:
            draw_message(layout, context, state.message)


class GANFIT_UL_photos(bpy.types.UIList):
    bl_idname = "GANFIT_UL_photos"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flags=0) -> None:
        """Whether it counts, its picture, its name."""
        row = layout.row(align=True)
        row.prop(item, "use", text="")
        name = row.row()
        name.active = item.use
        picture, text = thumbnails.icon(item.path), bpy.path.basename(item.path) or MESSAGES["no_file"]
        if picture:
            name.label(text=text, icon_value=picture)
        else:
            name.label(text=text, icon="ERROR")


def draw_photos(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The list of photos with their order; the chosen one larger, with its path and focal length."""
    if not settings.photos:
        layout.operator("ganfit.photos_add", icon="FILE_IMAGE")
        return
    row = layout.row()
    row.template_list(GANFIT_UL_photos.bl_idname, "", settings, "photos", settings, "active_photo", rows=4, maxrows=6)
    side, active = row.column(align=True), min(settings.active_photo, len(settings.photos) - 1)
    side.operator("ganfit.photos_add", text="", icon="ADD")
    side.operator("ganfit.photo_remove", text="", icon="REMOVE").index = active
    side.separator()
    for step, icon in ((-1, "TRIA_UP"), (1, "TRIA_DOWN")):
        move = side.operator("ganfit.photo_move", text="", icon=icon)
        move.index, move.step = active, step
    photo = settings.photos[active]
    box = layout.box()
    if picture := thumbnails.icon(photo.path):
        box.template_icon(icon_value=picture, scale=THUMBNAIL_SCALE)
    box.prop(photo, "path", text="")
    row = box.row()
    row.prop(photo, "focal_mm")


def draw_settings(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """How to reconstruct."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    for name in ("preset", "basis", "device", "seed", "output"):
        column.prop(settings, name)


CLASSES = (GANFIT_UL_photos, GANFIT_PT_main)
