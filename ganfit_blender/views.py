# SPDX-License-Identifier: GPL-3.0-or-later
"""The photos of a finished head: which count, their focal lengths and pins, as properties of the head's object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, CollectionProperty, FloatProperty, IntProperty

from .errors import AddonError
from .importer import scene as importer
from .landmarks import pins_to_json
from .ui_strings import label, tip


class GANFIT_PG_pin(bpy.types.PropertyGroup):
    """A landmark that was put right by hand."""

    index: IntProperty(name=label("pin"), description=tip("pin"), min=0, max=467)
    x: FloatProperty(name=label("pin"), description=tip("pin"))
    y: FloatProperty(name=label("pin"), description=tip("pin"))


class GANFIT_PG_view(bpy.types.PropertyGroup):
    """A photo of the head; `name` is its file's."""

    use: BoolProperty(name=label("use_photo"), description=tip("use_photo"), default=True)
    focal_mm: FloatProperty(name=label("focal"), description=tip("focal"), min=0, soft_max=200, max=1200, precision=0)
    pins: CollectionProperty(type=GANFIT_PG_pin, name=label("pins"), description=tip("pins"))


CLASSES = (GANFIT_PG_pin, GANFIT_PG_view)


def register() -> None:
    """Adds `object.ganfit_views` and the number of the chosen one."""
    bpy.types.Object.ganfit_views = CollectionProperty(type=GANFIT_PG_view)
    bpy.types.Object.ganfit_view = IntProperty(name=label("photo"), description=tip("photo"), min=0)


def unregister() -> None:
    """Removes what `register` has added."""
    del bpy.types.Object.ganfit_views
    del bpy.types.Object.ganfit_view


def setup(head: bpy.types.Object) -> None:
    """Gives a head its list of photos, when it has none yet."""
    if len(head.ganfit_views):
        return
    for entry in importer.result_of(head).get("views", []):
        view = head.ganfit_views.add()
        view.name = str(entry["photo"].get("name", ""))
        view.focal_mm = float(entry["photo"].get("focal_35mm") or 0)


def photo_of(head: bpy.types.Object, view: int) -> Path:
    """The photo of a view in the head's result. Raises AddonError: `bundle_missing`, `photo_missing`."""
    photo = bundle_of(head) / Path(importer.result_of(head)["views"][view]["photo"]["file"]).name
    if not photo.is_file():
        raise AddonError("photo_missing", f"There is no photo {photo}.")
    return photo


def bundle_of(head: bpy.types.Object) -> Path:
    """The folder of the head's result. Raises AddonError: `bundle_missing`."""
    folder = Path(head.get("ganfit_bundle", ""))
    if not head.get("ganfit_bundle") or not folder.is_dir():
        raise AddonError("bundle_missing", f"The result of {head.name} is not at its place any more: {folder}.")
    return folder


def landmarks_of(head: bpy.types.Object, view: int) -> list[list[float]]:
    """The network's 468 points in the photo, pixels. Raises AddonError: `no_landmarks`."""
    points = importer.result_of(head)["views"][view].get("landmarks") or []
    if len(points) != 468:
        raise AddonError("no_landmarks", "This result has no landmarks: it was made by an earlier version.")
    return points


def refit_params(head: bpy.types.Object) -> dict[str, Any]:
    """What a refit is asked for: pins, photos and focal lengths, as far as they differ from the result's."""
    asked: dict[str, Any] = {}
    views = head.ganfit_views
    used = [number for number, view in enumerate(views) if view.use]
    if len(used) < len(views):
        asked["photos"] = used
    pins = [pin for number in used for pin in pins_to_json(views[number].pins, number)]
    if pins:
        asked["pins"] = pins
    was = [float(v["photo"].get("focal_35mm") or 0) for v in importer.result_of(head)["views"]]
    focal = [None if abs(view.focal_mm - old) < 0.01 else view.focal_mm for view, old in zip(views, was, strict=True)]
    if any(value is not None for value in focal):
        asked["focal_mm"] = focal
    return asked


def carry_over(old: bpy.types.Object, new: bpy.types.Object) -> None:
    """The pins of a head to the version that was fitted with them; the photos that were switched off are gone there."""
    setup(new)
    used = [view for view in old.ganfit_views if view.use]
    for source, target in zip(used, new.ganfit_views):
        for pin in source.pins:
            copy = target.pins.add()
            copy.index, copy.x, copy.y = pin.index, pin.x, pin.y
