# SPDX-License-Identifier: GPL-3.0-or-later
"""The tab's main panel: photos, settings, the big button, progress."""

from __future__ import annotations

import bpy

from .. import preferences, session
from ..ui_strings import label
from .draw import draw_error, draw_job, draw_message, draw_setup


class GANFIT_PT_main(bpy.types.Panel):
    bl_idname = "GANFIT_PT_main"
    bl_label = label("panel")
    bl_category = label("panel")
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"

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


def draw_photos(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The list of photos with a field and a remove button each, and the button that adds some."""
    for index, photo in enumerate(settings.photos):
        row = layout.row(align=True)
        row.prop(photo, "path", text="", icon="IMAGE_DATA")
        row.operator("ganfit.photo_remove", text="", icon="X").index = index
    layout.operator("ganfit.photos_add", icon="FILE_IMAGE")


def draw_settings(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """How to reconstruct."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    for name in ("preset", "basis", "device", "seed", "output"):
        column.prop(settings, name)


CLASSES = (GANFIT_PT_main,)
