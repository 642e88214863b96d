# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's page in Blender's preferences."""

from __future__ import annotations

import bpy

from .. import preferences, session
from ..ui_strings import MESSAGES
from .draw import draw_error, draw_job, draw_licences, draw_text


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
        row.operator("ganfit.setup", icon="IMPORT")
        row.operator("ganfit.check", icon="INFO")
        row.operator("ganfit.open_log", icon="TEXT")
        row.operator_menu_enum("ganfit.manual", "page", icon="HELP")
    if state.error is not None:
        draw_error(layout, context, state.error)
    draw_licences(layout, context)
