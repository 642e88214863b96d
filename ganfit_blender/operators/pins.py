# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on the photos of a finished head: its landmarks are dragged in the image editor, and it is fitted again."""

from pathlib import Path
from typing import Any

import bpy

from .. import overlay, preferences, protocol, views
from ..errors import AddonError
from ..importer import scene as importer
from ..job import WorkerJob
from ..landmarks import clamped, face_box, hit_test, remove_pin, set_pin, shown_points, view_to_pixel
from ..ui_strings import MESSAGES, label, tip
from ..viewport import redraw
from .base import JobOperator, PersonOperator
from .reconstruct import new_folder
from .result import import_folder

SETTLE_S = 0.1  # after which an image editor that was just opened has been drawn, and knows its view
REACH = 12.0  # pixels at scale 1 within which a point is taken
REFIT_OPTIONS = ("preset", "device", "basis", "identity", "landmarks", "seed")


class GANFIT_OT_pins_edit(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.pins_edit"
    bl_label = label("pins_edit")
    bl_description = tip("pins_edit")

    def run(self, context: bpy.types.Context) -> set[str]:
        """Shows the head's chosen photo in an image editor and starts to edit its landmarks there."""
        head = importer.active_head(context)
        views.setup(head)
        number = min(head.ganfit_view, len(head.ganfit_views) - 1)
        views.landmarks_of(head, number)
        image = bpy.data.images.load(str(views.photo_of(head, number)), check_existing=True)
        if bpy.app.background:
            raise AddonError("no_window", "Landmarks are dragged in a window; Blender runs without one.")
        window, area = image_editor(context)
        area.spaces.active.image = image
        region = next(region for region in area.regions if region.type == "WINDOW")
        with context.temp_override(window=window, area=area, region=region):
            bpy.ops.image.view_all(fit_view=True)
            bpy.ops.ganfit.pins_drag("INVOKE_DEFAULT", head=head.name, view=number)
        bpy.app.timers.register(zoom_to_face, first_interval=SETTLE_S)
        return {"FINISHED"}


class GANFIT_OT_pins_drag(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.pins_drag"
    bl_label = label("pins_edit")
    bl_description = tip("pins_edit")
    bl_options = {"INTERNAL"}

    head: bpy.props.StringProperty(options={"SKIP_SAVE"})
    view: bpy.props.IntProperty(min=0, options={"SKIP_SAVE"})

    _dragged: int | None = None

    def run(self, context: bpy.types.Context) -> set[str]:
        """There is nothing to drag with without a window."""
        return {"CANCELLED"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Shows the landmarks and follows the mouse until Escape or Enter."""
        head = bpy.data.objects.get(self.head)
        if head is None:
            return {"CANCELLED"}
        entry = importer.result_of(head)["views"][self.view]
        image = context.space_data.image
        found = shown_points(views.landmarks_of(head, self.view), [])
        overlay.begin(overlay.Overlay(image.name, tuple(entry["photo"]["size"]), dict(found), found))
        self._refresh(head)
        context.workspace.status_text_set(MESSAGES["pins_help"])
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Takes the mouse over the photo, Delete, Escape and Enter; everything else belongs to Blender."""
        shown, head = overlay.current(), bpy.data.objects.get(self.head)
        if shown is None or head is None or self.view >= len(head.ganfit_views):
            return self._finish(context)
        pins = head.ganfit_views[self.view].pins
        area, region = photo_region(context, event, shown.image)
        if event.type in {"ESC", "RET", "NUMPAD_ENTER"} and event.value == "PRESS" and (area or event.type == "ESC"):
            if self._dragged is None:
                return self._finish(context)
            self._dragged = None
            self._refresh(head)
            return {"RUNNING_MODAL"}
        if region is None:
            return {"PASS_THROUGH"}
        handled = self._mouse(context, event, region, shown, pins)
        if not handled and event.type in {"X", "DEL"} and event.value == "PRESS" and shown.hovered is not None:
            handled = remove_pin(pins, shown.hovered)
            if handled:
                bpy.ops.ed.undo_push(message=label("pin"))
        if self._dragged is None and event.type != "MOUSEMOVE":
            self._refresh(head)  # also after an undo
        area.tag_redraw()
        return {"RUNNING_MODAL"} if handled else {"PASS_THROUGH"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender calls this when the window closes or another file is opened."""
        overlay.end()

    def _mouse(self, context: bpy.types.Context, event: bpy.types.Event, region: bpy.types.Region,
               shown: overlay.Overlay, pins: Any) -> bool:
        """Hovers, takes, moves and lets go of a point; whether the event was used."""
        at = (event.mouse_x - region.x, event.mouse_y - region.y)
        if event.type == "MOUSEMOVE":
            if self._dragged is not None:
                place = view_to_pixel(region.view2d.region_to_view(*at), shown.size)
                shown.points[self._dragged] = clamped(place, shown.size)
                return True
            scale = context.preferences.system.ui_scale or 1.0
            places = {i: overlay.on_screen(region, p, shown.size) for i, p in shown.points.items()}
            shown.hovered = hit_test(places, at, REACH * scale)
        elif event.type == "LEFTMOUSE" and event.value == "PRESS" and shown.hovered is not None:
            self._dragged = shown.hovered
            shown.pinned.add(shown.hovered)
            return True
        elif event.type == "LEFTMOUSE" and event.value == "RELEASE" and self._dragged is not None:
            set_pin(pins, self._dragged, shown.points[self._dragged])
            self._dragged = None
            bpy.ops.ed.undo_push(message=label("pin"))
            redraw(context)
            return True
        return False

    def _refresh(self, head: bpy.types.Object) -> None:
        """Puts what the head remembers on screen."""
        shown, pins = overlay.current(), head.ganfit_views[self.view].pins
        shown.points = shown_points(views.landmarks_of(head, self.view), pins)
        shown.pinned = {pin.index for pin in pins}

    def _finish(self, context: bpy.types.Context) -> set[str]:
        overlay.end()
        context.workspace.status_text_set(None)
        for window in context.window_manager.windows:
            for area in window.screen.areas:
                if area.type == "IMAGE_EDITOR":
                    area.tag_redraw()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_pins_clear(PersonOperator, bpy.types.Operator):
    bl_idname = "ganfit.pins_clear"
    bl_label = label("pins_clear")
    bl_description = tip("pins_clear")
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Takes all pins of the head's photos away."""
        for view in importer.active_head(context).ganfit_views:
            view.pins.clear()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_refit(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.refit"
    bl_label = label("refit")
    bl_description = tip("refit")
    bl_options = {"UNDO"}

    output: bpy.props.StringProperty(name=label("output"), description=tip("output"), subtype="DIR_PATH",
                                     options={"SKIP_SAVE"})
    _old = ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head, and no other job."""
        return PersonOperator.poll.__func__(cls, context) and super().poll(context)

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker to fit the head's result again with its pins, photos and focal lengths."""
        head = importer.active_head(context)
        views.setup(head)
        if not any(view.use for view in head.ganfit_views):
            raise AddonError("no_photo", "Every photo of this head is switched off.", MESSAGES["switch_on"])
        source = views.bundle_of(head)
        asked = importer.result_of(head).get("options", {})
        options = {name: asked[name] for name in REFIT_OPTIONS if asked.get(name) is not None}
        options["preset"] = context.scene.ganfit.preset
        out = Path(bpy.path.abspath(self.output)).absolute() if self.output else new_folder(source.parent, source.name)
        params = {"bundle": str(source), "out": str(out), "options": options, **views.refit_params(head)}
        self._old = importer.active_person(context).name
        worker = preferences.worker()
        return WorkerJob(worker, protocol.REFIT, params), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Imports the new result as another version; the old one stays, hidden."""
        message = import_folder(context, Path(result["bundle"]), match=True)
        old = bpy.data.collections.get(self._old)
        if old is not None:
            before, now = importer.head_of(old), importer.active_head(context)
            if before is not None and now is not None and before != now:
                views.carry_over(before, now)
            old.hide_viewport = old.hide_render = True
        return message


CLASSES = (GANFIT_OT_pins_edit, GANFIT_OT_pins_drag, GANFIT_OT_pins_clear, GANFIT_OT_refit)


def image_editor(context: bpy.types.Context) -> tuple[bpy.types.Window, bpy.types.Area]:
    """An image editor that is open, else one in a new window."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR":
                return window, area
    bpy.ops.wm.window_new()
    window = context.window_manager.windows[-1]
    area = window.screen.areas[0]
    area.type = "IMAGE_EDITOR"
    return window, area


def zoom_to_face() -> None:
    """Fits the view of the image editor that shows the landmarks to them; nothing when it was closed meanwhile."""
    shown = overlay.current()
    for window in bpy.context.window_manager.windows if shown is not None else ():
        for area in window.screen.areas:
            image = area.spaces.active.image if area.type == "IMAGE_EDITOR" else None
            if image is None or image.name != shown.image:
                continue
            region = next(region for region in area.regions if region.type == "WINDOW")
            low, high = face_box(shown.points.values(), shown.size)
            (left, bottom), (right, top) = (region.view2d.view_to_region(*corner, clip=False) for corner in (low, high))
            with bpy.context.temp_override(window=window, area=area, region=region):
                bpy.ops.image.view_zoom_border(xmin=left, xmax=right, ymin=bottom, ymax=top)
            area.tag_redraw()


def photo_region(context: bpy.types.Context, event: bpy.types.Event,
                 image: str) -> tuple[bpy.types.Area | None, bpy.types.Region | None]:
    """The image editor under the mouse that shows this image, and its main region; its sidebars do not count."""
    def inside(thing: Any) -> bool:
        return thing.x <= event.mouse_x < thing.x + thing.width and thing.y <= event.mouse_y < thing.y + thing.height

    for area in context.window.screen.areas:
        if area.type != "IMAGE_EDITOR" or not inside(area):
            continue
        space = area.spaces.active
        if space.image is None or space.image.name != image:
            return None, None
        over = [region for region in area.regions if region.width > 1 and inside(region)]
        if all(region.type == "WINDOW" for region in over) and over:
            return area, over[0]
    return None, None
