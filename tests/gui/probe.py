# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the windowed Blender: executes what the driver sends as a file and answers in another.

Started by `blender --python probe.py`; GANFIT_GUI_OUT is the folder of both files.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

import bpy

OUT = Path(os.environ["GANFIT_GUI_OUT"])
EXTENSION = "bl_ext.user_default.ganfit"
TICKS: list[tuple[float, float]] = []  # (wall, processor) seconds of each tick of a running job
_names: dict = {}


def view_3d() -> tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region]:
    """The first window's 3D view and its sidebar."""
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    return window, area, next(region for region in area.regions if region.type == "UI")


def sidebar() -> dict:
    """Opens the sidebar at the add-on's tab; its place in the window, pixels from the window's bottom left."""
    window, area, region = view_3d()
    area.spaces.active.show_region_ui = True
    try:
        region.active_panel_category = "GANFIT"
    except (AttributeError, TypeError):  # before the sidebar was drawn it has no tabs
        pass
    area.tag_redraw()
    return {"x": region.x, "y": region.y, "width": region.width, "height": region.height, "window": window.height,
            "tab": region.active_panel_category if region.width > 1 else ""}


def hovered() -> str:
    """The operator of the button under the mouse, as Blender itself would copy it; empty where there is none."""
    window, area, region = view_3d()
    with bpy.context.temp_override(window=window, area=area, region=region):
        if not bpy.ops.ui.copy_python_command_button.poll():
            return ""
        window_manager = bpy.context.window_manager
        window_manager.clipboard = ""
        bpy.ops.ui.copy_python_command_button()
        return window_manager.clipboard


def session():
    """The add-on's session."""
    return sys.modules[f"{EXTENSION}.session"].current()


def job() -> dict:
    """The running job as the panel shows it, and what the last one left."""
    state = session()
    status = state.status
    heads = [thing.name for thing in bpy.context.scene.objects if thing.get("ganfit_part") == "skin"]
    shown = (status.stage, status.step, status.preview) if status else ("", 0, "")
    return {"running": status is not None, **dict(zip(("stage", "step", "preview"), shown)),
            "error": str(state.error or ""), "message": state.message, "heads": heads,
            "active": getattr(bpy.context.view_layer.objects.active, "name", "")}


def open_panels(*names: str) -> None:
    """Opens panels that are closed by default, before they are drawn: later each sidebar has its own memory of it."""
    for name in names:
        panel = getattr(bpy.types, name)
        bpy.utils.unregister_class(panel)
        panel.bl_options = panel.bl_options - {"DEFAULT_CLOSED"}
        bpy.utils.register_class(panel)


def landmark_place(index: int) -> dict:
    """A landmark's place in the window that shows it, pixels from its bottom left, and the window's height."""
    overlay = sys.modules[f"{EXTENSION}.overlay"]
    shown = overlay.current()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR":
                region = next(region for region in area.regions if region.type == "WINDOW")
                x, y = overlay.on_screen(region, shown.points[index], shown.size)
                return {"x": region.x + x, "y": region.y + y, "height": window.height}
    return {}


def measure_ticks() -> None:
    """Times the add-on's part of every timer event while a job runs; the last one, which builds the head, is apart."""
    operators = sys.modules[f"{EXTENSION}.operators.base"].JobOperator
    inner = operators.modal

    def modal(self, context, event):
        wall, processor = time.perf_counter(), time.thread_time()
        result = inner(self, context, event)
        if event.type == "TIMER" and result == {"PASS_THROUGH"}:
            TICKS.append((time.perf_counter() - wall, time.thread_time() - processor))
        return result

    operators.modal = modal


def _serve() -> float:
    command = OUT / "command.py"
    if command.is_file():
        source = command.read_text()
        command.unlink()
        try:
            answer = {"value": eval(source, _names)}  # noqa: S307 - the driver's own words
        except SyntaxError:
            exec(source, _names)  # noqa: S102
            answer = {"value": None}
        except Exception:
            answer = {"error": traceback.format_exc()}
        (OUT / "answer.part").write_text(json.dumps(answer, default=str))
        os.replace(OUT / "answer.part", OUT / "answer.json")
    return 0.03


bpy.context.preferences.view.show_splash = False
measure_ticks()
open_panels("GANFIT_PT_batch", "GANFIT_PT_photos")
_names.update(globals())
bpy.app.timers.register(_serve, first_interval=0.2, persistent=True)
