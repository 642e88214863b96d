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
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Vector

OUT = Path(os.environ["GANFIT_GUI_OUT"])
EXTENSION = "bl_ext.user_default.ganfit"
TICKS: list[tuple[float, float]] = []  # (wall, processor) seconds of each tick of a running job
ITERATIONS = 8
VIEWS: list[float] = []  # when the 3D view was drawn
DRAWN: set[str] = set()  # panels that were drawn since others were last shown
_draws: dict = {}
_names: dict = {}
_shows = 0


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


def preferences_place() -> list:
    """The preferences' list of sections and what is beside it: x, y, width, height from the window's top left."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                regions = {region.type: region for region in area.regions}
                return [[region.x, window.height - region.y - region.height, region.width, region.height]
                        for region in (regions["NAVIGATION_BAR"], regions["WINDOW"])]
    return []


def hovered() -> str:
    """What the mouse is over, as Blender itself would copy it: a button's operator or a property's path; else empty."""
    window, area, region = view_3d()
    window_manager = bpy.context.window_manager
    with bpy.context.temp_override(window=window, area=area, region=region):
        window_manager.clipboard = ""
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
        elif bpy.ops.ui.copy_data_path_button.poll():
            bpy.ops.ui.copy_data_path_button(full_path=True)
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


def show_panels(*names: str) -> None:
    """Leaves these panels alone below the main one, open, as if the artist had closed all others; none: all are back.

    A panel under a new name is new to the sidebar, which has no memory of it.
    """
    global _shows
    _shows += 1
    DRAWN.clear()
    panels = sys.modules[f"{EXTENSION}.panels"].CLASSES
    for panel in panels:
        if getattr(panel, "bl_parent_id", "") != "GANFIT_PT_main":
            continue
        own = panel.__name__
        if own not in _draws:
            _draws[own] = panel.draw
            panel.draw = noted(own)
        if panel.is_registered:
            bpy.utils.unregister_class(panel)
        if not names or own in names:
            panel.bl_idname = f"{own}_{_shows}"
            panel.bl_options = getattr(panel, "bl_options", set()) - {"DEFAULT_CLOSED"}
            bpy.utils.register_class(panel)
    view_3d()[1].tag_redraw()


def noted(name: str):
    """A panel's way to draw, which writes down that it was drawn."""
    def draw(self, context):
        DRAWN.add(name)
        _draws[name](self, context)

    return draw


def short_fits(iterations: int) -> None:
    """Makes every fit a short one without refinement: how well it fits is another test's."""
    jobs = sys.modules[f"{EXTENSION}.job"].WorkerJob
    inner = jobs._ask

    def ask(self):
        if "options" in self._params:
            self._params["options"].update(iterations=iterations, refine=False)
        inner(self)

    jobs._ask = ask


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


def seen_points() -> list:
    """Where the active object's vertices that face the artist are seen: pixels from the window's top left."""
    window, area, sidebar = view_3d()
    region = next(region for region in area.regions if region.type == "WINDOW")
    view, thing = area.spaces.active.region_3d, bpy.context.view_layer.objects.active
    shown = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
    towards = ((view.view_matrix @ thing.matrix_world).inverted().to_3x3() @ Vector((0, 0, 1))).normalized()
    mesh, found = shown.to_mesh(), []
    for vertex in mesh.vertices:
        if vertex.normal.dot(towards) > 0.7:
            place = location_3d_to_region_2d(region, view, thing.matrix_world @ vertex.co)
            x, y = region.x + place.x, window.height - region.y - place.y
            if region.x < x < sidebar.x and 0 < place.y < region.height:
                found.append([round(x), round(y)])
    shown.to_mesh_clear()
    return found


def object_mode() -> None:
    """Leaves sculpt mode."""
    window, area, _ = view_3d()
    with bpy.context.temp_override(window=window, area=area):
        bpy.ops.object.mode_set(mode="OBJECT")
    VIEWS.clear()


def head_points() -> list:
    """The active object's evaluated vertices, every tenth, as one list of metres."""
    thing = bpy.context.view_layer.objects.active.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return [value for vertex in list(thing.data.vertices)[::10] for value in vertex.co]


def row_height() -> float:
    """Pixels from one row of buttons to the next."""
    return 22.0 * (bpy.context.preferences.system.ui_scale or 1.0)


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


def watch_extension() -> None:
    """Changes in the extension, once it is installed, what the test needs."""
    measure_ticks()
    short_fits(ITERATIONS)
    open_panels("GANFIT_PT_batch", "GANFIT_PT_photos")


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
bpy.context.preferences.view.use_save_prompt = False  # a session that is closed asks nothing
bpy.types.SpaceView3D.draw_handler_add(lambda: VIEWS.append(time.perf_counter()), (), "WINDOW", "POST_PIXEL")
_names.update(globals())
bpy.app.timers.register(_serve, first_interval=0.2, persistent=True)
