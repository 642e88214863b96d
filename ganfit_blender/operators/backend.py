# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on the backend: set it up, ask it for its licences, read its log; the manual and the small buttons."""

from pathlib import Path
from typing import Any

import bpy
from bpy.props import EnumProperty, StringProperty

from .. import manual, preferences, protocol, session
from ..job import WorkerJob
from ..setup_env import SetupJob
from ..ui_strings import MESSAGES, items, label, tip
from ..viewport import redraw
from .base import JobOperator, Reporting


class GANFIT_OT_setup(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.setup"
    bl_label = label("setup")
    bl_description = tip("setup")

    def begin(self, context: bpy.types.Context) -> tuple[SetupJob, Path]:
        """Starts the installation."""
        plan = preferences.setup_plan()
        return SetupJob(plan, online=bpy.app.online_access), plan.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Nothing is left to do."""
        return MESSAGES["setup_done"]


class GANFIT_OT_check(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.check"
    bl_label = label("check")
    bl_description = tip("check")

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for its assets."""
        worker = preferences.worker()
        return WorkerJob(worker, protocol.ASSETS_LIST, {}), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Keeps the list for the preferences."""
        assets = result.get("assets")
        session.current().assets = assets if isinstance(assets, list) else []
        return ", ".join(str(asset.get("name")) for asset in session.current().assets if asset.get("installed"))


class GANFIT_OT_open_log(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.open_log"
    bl_label = label("open_log")
    bl_description = tip("open_log")

    def run(self, context: bpy.types.Context) -> set[str]:
        """Puts the log into a text and shows it in a window of its own, where there is one."""
        path = session.current().log_path or preferences.log_path("worker")
        content = path.read_text("utf-8", "replace") if path.is_file() else ""
        show_text(context, path.name, content[-200_000:])
        self.report({"INFO"}, str(path))
        return {"FINISHED"}


class GANFIT_OT_manual(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.manual"
    bl_label = label("manual")
    bl_description = tip("manual")
    bl_options = {"INTERNAL"}

    page: EnumProperty(
        name=label("manual_page"), description=tip("manual_page"), items=items("manual_page"), options={"SKIP_SAVE"}
    )
    code: StringProperty(name=label("manual_code"), description=tip("manual_code"), options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context) -> set[str]:
        """Shows a page that ships with the add-on, at an error's entry when it is asked for one."""
        text = show_text(context, f"{self.page}.md", manual.page_text(self.page))
        text.cursor_set(manual.line_of(self.page, self.code))
        return {"FINISHED"}


class GANFIT_OT_dismiss(bpy.types.Operator):
    bl_idname = "ganfit.dismiss"
    bl_label = label("dismiss")
    bl_description = tip("dismiss")
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Forgets the message."""
        session.current().dismiss()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_preferences(bpy.types.Operator):
    bl_idname = "ganfit.preferences"
    bl_label = label("preferences")
    bl_description = tip("preferences")
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Opens Blender's preferences at this add-on."""
        bpy.ops.preferences.addon_show(module=preferences.GANFIT_preferences.bl_idname)
        return {"FINISHED"}


def show_text(context: bpy.types.Context, name: str, content: str) -> bpy.types.Text:
    """Puts lines into a text and shows it in a window of its own, where there is one."""
    text = bpy.data.texts.get(name) or bpy.data.texts.new(name)
    text.from_string(content)
    if not bpy.app.background:
        bpy.ops.wm.window_new()
        area = context.window_manager.windows[-1].screen.areas[0]
        area.type = "TEXT_EDITOR"
        area.spaces.active.text = text
        area.spaces.active.show_word_wrap = True
    return text


CLASSES = (
    GANFIT_OT_setup,
    GANFIT_OT_check,
    GANFIT_OT_open_log,
    GANFIT_OT_manual,
    GANFIT_OT_dismiss,
    GANFIT_OT_preferences,
)
