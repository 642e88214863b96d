# SPDX-License-Identifier: GPL-3.0-or-later
"""What panels share: text in lines, messages, progress, the set-up box."""

from __future__ import annotations

import textwrap
from pathlib import Path

import bpy

from .. import manual, preferences, preview, session, setup_env
from ..errors import AddonError
from ..job import CANCELLING, JobStatus
from ..ui_strings import MESSAGES, label, stage, time_left

CHARACTER_WIDTH = 7.0  # pixels of a letter at scale 1, a little more than the average
MARGIN = 50  # pixels at scale 1 beside the text of a line: the edges of region and box, an icon
BUTTON = 30  # the same of a button beside the text
PREVIEW_SCALE = 9.0


class SubPanel:
    """Where a closed panel below the main one stands."""

    bl_category = label("panel")
    bl_parent_id = "GANFIT_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_options = {"DEFAULT_CLOSED"}


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
    box.operator("ganfit.cancel", icon="CANCEL")


def draw_error(layout: bpy.types.UILayout, context: bpy.types.Context, error: AddonError) -> None:
    """What went wrong and what to do."""
    box = layout.box()
    row = box.row()
    column = row.column()
    column.alert = True
    draw_text(column, context, error.message, "ERROR", MARGIN + 3 * BUTTON)  # two, and the edges of the box
    help_button = row.operator("ganfit.manual", text="", icon="QUESTION", emboss=False)
    help_button.page, help_button.code = manual.TROUBLESHOOTING, error.code
    row.operator("ganfit.dismiss", text="", icon="X", emboss=False)
    if error.hint:
        draw_text(box, context, error.hint, "INFO")
    row = box.row()
    row.operator("ganfit.open_log", icon="TEXT")
    row.operator("ganfit.preferences", icon="PREFERENCES")


def draw_message(layout: bpy.types.UILayout, context: bpy.types.Context, message: str) -> None:
    """The last job's good news."""
    row = layout.row()
    draw_text(row.column(), context, message, "CHECKMARK", MARGIN + BUTTON)
    row.operator("ganfit.dismiss", text="", icon="X", emboss=False)


def draw_setup(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What Set Up will do, its size and place, and its button."""
    prefs = preferences.get()
    box = layout.box()
    draw_text(box, context, MESSAGES["not_set_up"], "INFO")
    size = setup_env.SIZES[prefs.compute]
    place = str(preferences.environment_folder()).replace(str(Path.home()), "~", 1)
    draw_text(box, context, MESSAGES["setup_size"].format(size=size, place=place))
    draw_text(box, context, MESSAGES["setup_licences"])
    if not bpy.app.online_access and not prefs.wheel_folder:
        draw_text(box, context, MESSAGES["offline"], "ERROR")
    row = box.row()
    row.operator("ganfit.setup", icon="IMPORT")
    row.operator("ganfit.preferences", text="", icon="PREFERENCES")


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


def draw_text(
    layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str = "NONE", margin: float = MARGIN
) -> None:
    """Text in as many lines as the region's width needs; the icon stands before the first."""
    width = context.region.width if context.region else 300
    scale = context.preferences.system.ui_scale or 1.0  # 0 without a window
    column = layout.column(align=True)
    lines = textwrap.wrap(str(text), max(16, int((width / scale - margin) / CHARACTER_WIDTH))) or [""]
    for number, line in enumerate(lines):
        column.label(text=line, icon=icon if number == 0 else "BLANK1" if icon != "NONE" else "NONE")
