# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the sidebar's tab, and the page in the preferences; they only draw."""

from __future__ import annotations

import textwrap

import bpy

from . import operators, preferences, preview, session, setup_env
from .errors import AddonError
from .importer import scene as importer
from .job import CANCELLING, JobStatus
from .ui_strings import MESSAGES, label, stage, time_left

CHARACTER_WIDTH = 7.0  # pixels of a letter at scale 1, a little more than the average
PREVIEW_SCALE = 9.0


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
            row.operator(operators.GANFIT_OT_reconstruct.bl_idname, icon="USER")
        if state.error is not None and (ready or state.error.code != "environment_missing"):
            draw_error(layout, context, state.error)
        elif state.message:
            draw_message(layout, context, state.message)


class GANFIT_PT_result(bpy.types.Panel):
    bl_idname = "GANFIT_PT_result"
    bl_label = label("panel.result")
    bl_category = label("panel")
    bl_parent_id = "GANFIT_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"

    def draw(self, context: bpy.types.Context) -> None:
        """What can be done with a head that is there."""
        layout = self.layout
        layout.operator(operators.GANFIT_OT_import_result.bl_idname, icon="IMPORT")
        matched = importer.is_matched(context.scene)
        row = layout.row()
        row.operator(operators.GANFIT_OT_match_photo.bl_idname, icon="CAMERA_DATA", depress=matched)


CLASSES = (GANFIT_PT_main, GANFIT_PT_result)


def draw_photos(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The list of photos with a field and a remove button each, and the button that adds some."""
    for index, photo in enumerate(settings.photos):
        row = layout.row(align=True)
        row.prop(photo, "path", text="", icon="IMAGE_DATA")
        row.operator(operators.GANFIT_OT_photo_remove.bl_idname, text="", icon="X").index = index
    layout.operator(operators.GANFIT_OT_photos_add.bl_idname, icon="FILE_IMAGE")


def draw_settings(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """How to reconstruct."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    for name in ("preset", "basis", "device", "seed", "output"):
        column.prop(settings, name)


def draw_job(layout: bpy.types.UILayout, context: bpy.types.Context, status: JobStatus) -> None:
    """Progress bar with stage and time left, the newest picture, Cancel."""
    box = layout.box()
    text = MESSAGES["cancelling"] if status.state == CANCELLING else stage(status.stage)
    if status.steps > 1:
        text += f" {status.step}/{status.steps}"
    left = time_left(status.eta_s)
    box.progress(factor=min(1.0, max(0.0, status.fraction)), text=f"{text}, {left}" if left else text)
    if status.log:
        draw_text(box, context, status.log[-1][:160])
    if preview.current().icon:
        box.template_icon(icon_value=preview.current().icon, scale=PREVIEW_SCALE)
    box.operator(operators.GANFIT_OT_cancel.bl_idname, icon="CANCEL")


def draw_error(layout: bpy.types.UILayout, context: bpy.types.Context, error: AddonError) -> None:
    """What went wrong and what to do."""
    box = layout.box()
    row = box.row()
    column = row.column()
    column.alert = True
    draw_text(column, context, error.message, "ERROR")
    row.operator(operators.GANFIT_OT_dismiss.bl_idname, text="", icon="X", emboss=False)
    if error.hint:
        draw_text(box, context, error.hint, "INFO")
    row = box.row()
    row.operator(operators.GANFIT_OT_open_log.bl_idname, icon="TEXT")
    row.operator(operators.GANFIT_OT_preferences.bl_idname, icon="PREFERENCES")


def draw_message(layout: bpy.types.UILayout, context: bpy.types.Context, message: str) -> None:
    """The last job's good news."""
    row = layout.row()
    draw_text(row.column(), context, message, "CHECKMARK")
    row.operator(operators.GANFIT_OT_dismiss.bl_idname, text="", icon="X", emboss=False)


def draw_setup(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What Set Up will do, its size and place, and its button."""
    prefs = preferences.get()
    box = layout.box()
    draw_text(box, context, MESSAGES["not_set_up"], "INFO")
    size = setup_env.SIZES[prefs.compute]
    draw_text(box, context, MESSAGES["setup_size"].format(size=size, place=preferences.environment_folder()))
    if not bpy.app.online_access and not prefs.wheel_folder:
        draw_text(box, context, MESSAGES["offline"], "ERROR")
    row = box.row()
    row.operator(operators.GANFIT_OT_setup.bl_idname, icon="IMPORT")
    row.operator(operators.GANFIT_OT_preferences.bl_idname, text="", icon="PREFERENCES")


def draw_preferences(prefs: bpy.types.AddonPreferences, layout: bpy.types.UILayout) -> None:
    """The page in Blender's preferences: set-up, places, licences."""
    context, state = bpy.context, session.current()
    column = layout.column()
    column.use_property_split = True
    for name in ("python_path", "base_python", "compute", "index_url", "wheel_folder", "cache"):
        column.prop(prefs, name)
    if state.status is not None:
        draw_job(layout, context, state.status)
    else:
        if preferences.is_set_up():
            place = prefs.python_path or preferences.environment_folder()
            draw_text(layout, context, MESSAGES["ready"].format(place=place), "CHECKMARK")
        row = layout.row()
        row.operator(operators.GANFIT_OT_setup.bl_idname, icon="IMPORT")
        row.operator(operators.GANFIT_OT_check.bl_idname, icon="INFO")
        row.operator(operators.GANFIT_OT_open_log.bl_idname, icon="TEXT")
    if state.error is not None:
        draw_error(layout, context, state.error)
    draw_licences(layout, context)


def draw_licences(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """One line an asset: name, what for, licence, and whether results may be sold."""
    assets = session.current().assets
    box = layout.box()
    if not assets:
        draw_text(box, context, MESSAGES["no_assets"])
    for asset in assets:
        sellable = MESSAGES["sellable" if asset.get("sellable") else "not_sellable"]
        absent = "" if asset.get("installed") else f" ({MESSAGES['not_installed']})"
        text = f"{asset.get('name')}{absent}: {asset.get('purpose', '')}; {asset.get('licence', '')}; {sellable}"
        draw_text(box, context, text, "CHECKMARK" if asset.get("installed") else "BLANK1")


def draw_text(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str = "NONE") -> None:
    """Text in as many lines as the region's width needs; the icon stands before the first."""
    width = context.region.width if context.region else 300
    scale = context.preferences.system.ui_scale or 1.0  # 0 without a window
    column = layout.column(align=True)
    lines = textwrap.wrap(str(text), max(16, int((width / scale - 50) / CHARACTER_WIDTH))) or [""]
    for number, line in enumerate(lines):
        column.label(text=line, icon=icon if number == 0 else "BLANK1" if icon != "NONE" else "NONE")
