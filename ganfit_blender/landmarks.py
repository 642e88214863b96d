# SPDX-License-Identifier: GPL-3.0-or-later
"""Landmarks of a photo as an artist edits them: which are shown, where they are on screen, pins; needs no Blender.

Photo pixels begin at the top left, x right, y down. An image editor's view coordinates run from 0 to 1 over the image,
from the bottom left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# fmt: off
CONTOURS: dict[str, tuple[int, ...]] = {
    "brow_right": (70, 63, 105, 66, 107),
    "brow_left": (336, 296, 334, 293, 300),
    "nose": (168, 197, 5, 4),
    "nostrils": (98, 97, 2, 326, 327),
    "eye_right": (33, 160, 158, 133, 153, 144, 33),
    "eye_left": (362, 385, 387, 263, 373, 380, 362),
    "lips_outer": (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 61),
    "lips_inner": (78, 81, 13, 311, 308, 402, 14, 178, 78),
    "oval": (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176,
             149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10),
}
"""Lines over points of MediaPipe's face mesh: those of the 68 iBUG points that lie still, and the outline."""
# fmt: on
SHOWN = tuple(sorted({index for line in CONTOURS.values() for index in line}))
"""Points that are drawn and can be dragged."""

Point = tuple[float, float]


def pixel_to_view(point: Point, size: tuple[int, int]) -> Point:
    """Photo pixels to the image editor's view coordinates; size (width, height)."""
    return point[0] / size[0], 1.0 - point[1] / size[1]


def view_to_pixel(point: Point, size: tuple[int, int]) -> Point:
    """The image editor's view coordinates to photo pixels."""
    return point[0] * size[0], (1.0 - point[1]) * size[1]


def hit_test(points: dict[int, Point], at: Point, radius: float) -> int | None:
    """The index of the nearest point within a radius, None when there is none; all in the same unit."""
    best, reach = None, radius * radius
    for index, (x, y) in points.items():
        distance = (x - at[0]) ** 2 + (y - at[1]) ** 2
        if distance <= reach:
            best, reach = index, distance
    return best


def clamped(point: Point, size: tuple[int, int]) -> Point:
    """The nearest point inside the photo."""
    return min(max(point[0], 0.0), float(size[0])), min(max(point[1], 0.0), float(size[1]))


def shown_points(landmarks: Sequence[Sequence[float]], pins: Iterable[Any]) -> dict[int, Point]:
    """Places in pixels of the points that are shown: those of the network, and the pins where there are some."""
    points = {index: (float(landmarks[index][0]), float(landmarks[index][1])) for index in SHOWN}
    return points | {pin.index: (pin.x, pin.y) for pin in pins}


def face_box(points: Iterable[Point], size: tuple[int, int], margin: float = 0.12) -> tuple[Point, Point]:
    """The lowest and highest view coordinates of a box around points in pixels, larger by a share of its sides."""
    xs, ys = zip(*(pixel_to_view(point, size) for point in points))
    low, high = (min(xs), min(ys)), (max(xs), max(ys))
    x, y = margin * (high[0] - low[0]), margin * (high[1] - low[1])
    return (low[0] - x, low[1] - y), (high[0] + x, high[1] + y)


def set_pin(pins: Any, index: int, point: Point) -> None:
    """Puts a pin into a collection (iteration, `add()`, `remove(number)`), in place of an older one there."""
    pin = next((pin for pin in pins if pin.index == index), None)
    if pin is None:
        pin = pins.add()
        pin.index = index
    pin.x, pin.y = point


def remove_pin(pins: Any, index: int) -> bool:
    """Takes the pin of a point away; whether there was one."""
    for number, pin in enumerate(pins):
        if pin.index == index:
            pins.remove(number)
            return True
    return False


def pins_to_json(pins: Iterable[Any], view: int) -> list[dict[str, Any]]:
    """Pins of one view as the worker wants them."""
    return [{"view": view, "index": pin.index, "x": pin.x, "y": pin.y} for pin in pins]
