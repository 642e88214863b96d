# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws a photo's landmarks over it in the image editor, while they are edited."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import bpy
import gpu
from gpu_extras.batch import batch_for_shader

from .landmarks import CONTOURS, Point, pixel_to_view

LINE, DOT = (0.25, 0.75, 1.0, 0.55), (0.25, 0.75, 1.0, 0.95)
PINNED, HOVERED, TRACE = (1.0, 0.55, 0.1, 1.0), (1.0, 1.0, 1.0, 1.0), (1.0, 0.55, 0.1, 0.6)
DOT_RADIUS, PIN_RADIUS = 3.0, 5.0  # pixels at scale 1
CORNERS = 12


@dataclass
class Overlay:
    """What is drawn: points by index in photo pixels, over the image of this name and size (width, height)."""

    image: str
    size: tuple[int, int]
    points: dict[int, Point]
    found: dict[int, Point]  # where the network had seen them
    pinned: set[int] = field(default_factory=set)
    hovered: int | None = None


_handle: Any = None
_overlay: Overlay | None = None


def current() -> Overlay | None:
    """What is being drawn, None when nothing is."""
    return _overlay


def begin(overlay: Overlay) -> None:
    """Starts to draw, or draws this from now on."""
    global _handle, _overlay
    _overlay = overlay
    if _handle is None:
        _handle = bpy.types.SpaceImageEditor.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL")


def end() -> None:
    """Stops drawing."""
    global _handle, _overlay
    if _handle is not None:
        bpy.types.SpaceImageEditor.draw_handler_remove(_handle, "WINDOW")
    _handle = _overlay = None


def on_screen(region: bpy.types.Region, point: Point, size: tuple[int, int]) -> Point:
    """A photo pixel's place in the region, pixels from its bottom left."""
    x, y = region.view2d.view_to_region(*pixel_to_view(point, size), clip=False)
    return float(x), float(y)


def _draw() -> None:
    """Blender calls this for every image editor."""
    context, shown = bpy.context, _overlay
    space = context.space_data
    if shown is None or space.image is None or space.image.name != shown.image:
        return
    region, scale = context.region, context.preferences.system.ui_scale or 1.0
    places = {index: on_screen(region, point, shown.size) for index, point in shown.points.items()}
    gpu.state.blend_set("ALPHA")
    lines = [places[index] for line in CONTOURS.values() for pair in zip(line, line[1:]) for index in pair]
    _fill("LINES", lines, LINE)
    trace = [end for i in shown.pinned if i in shown.found
             for end in (on_screen(region, shown.found[i], shown.size), places[i])]
    _fill("LINES", trace, TRACE)
    plain = [places[i] for i in places if i not in shown.pinned]
    _fill("TRIS", _discs(plain, DOT_RADIUS * scale), DOT)
    _fill("TRIS", _discs([places[i] for i in shown.pinned], PIN_RADIUS * scale), PINNED)
    if shown.hovered in places:
        _fill("TRIS", _discs([places[shown.hovered]], PIN_RADIUS * scale), HOVERED)
    gpu.state.blend_set("NONE")


def _discs(centres: list[Point], radius: float) -> list[Point]:
    """Triangles of small discs: points of a given size are not drawn by every graphics backend."""
    rim = [(radius * math.cos(2 * math.pi * k / CORNERS), radius * math.sin(2 * math.pi * k / CORNERS))
           for k in range(CORNERS + 1)]
    return [corner for x, y in centres for a, b in zip(rim, rim[1:])
            for corner in ((x, y), (x + a[0], y + a[1]), (x + b[0], y + b[1]))]


def _fill(kind: str, places: list[Point], colour: tuple[float, float, float, float]) -> None:
    if not places:
        return
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    shader.uniform_float("color", colour)
    batch_for_shader(shader, kind, {"pos": [(x, y, 0.0) for x, y in places]}).draw(shader)
