# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a scene: photos of one person and how to reconstruct them."""

from pathlib import Path

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .exif import focal_35mm
from .ui_strings import items, label, tip


def _read_focal(photo: "GANFIT_PG_photo", context: bpy.types.Context) -> None:
    photo.focal_mm = focal_35mm(Path(bpy.path.abspath(photo.path))) or 0.0


class GANFIT_PG_photo(bpy.types.PropertyGroup):
    """One photo of the list."""

    path: StringProperty(name=label("photo"), description=tip("photo"), subtype="FILE_PATH", update=_read_focal)
    use: BoolProperty(name=label("use_photo"), description=tip("use_photo"), default=True)
    focal_mm: FloatProperty(name=label("focal"), description=tip("focal"), min=0, soft_max=200, max=1200, precision=0)


class GANFIT_PG_settings(bpy.types.PropertyGroup):
    """`scene.ganfit`."""

    photos: CollectionProperty(type=GANFIT_PG_photo, name=label("photos"), description=tip("photos"))
    active_photo: IntProperty(name=label("photo"), description=tip("photo"), min=0)
    preset: EnumProperty(name=label("preset"), description=tip("preset"), items=items("preset"), default="standard")
    basis: EnumProperty(name=label("basis"), description=tip("basis"), items=items("basis"), default="makehuman")
    device: EnumProperty(name=label("device"), description=tip("device"), items=items("device"), default="auto")
    seed: IntProperty(name=label("seed"), description=tip("seed"), min=0, default=0)
    output: StringProperty(name=label("output"), description=tip("output"), subtype="DIR_PATH")
    folder: StringProperty(name=label("folder"), description=tip("folder"), subtype="DIR_PATH")
    arrange: EnumProperty(name=label("arrange"), description=tip("arrange"), items=items("arrange"), default="grid")


class GANFIT_PG_person(bpy.types.PropertyGroup):
    """One line of a batch's table; `name` is the person's."""

    state: StringProperty(name=label("state"), description=tip("state"))
    text: StringProperty(name=label("state_text"), description=tip("state_text"))


class GANFIT_PG_batch(bpy.types.PropertyGroup):
    """`window_manager.ganfit_batch`: the table of the last batch, not saved."""

    rows: CollectionProperty(type=GANFIT_PG_person, name=label("people"), description=tip("people"))
    active: IntProperty(name=label("people"), description=tip("people"), min=0)


CLASSES = (GANFIT_PG_photo, GANFIT_PG_settings, GANFIT_PG_person, GANFIT_PG_batch)


def register() -> None:
    """Adds `scene.ganfit` and the window manager's table."""
    bpy.types.Scene.ganfit = PointerProperty(type=GANFIT_PG_settings)
    bpy.types.WindowManager.ganfit_batch = PointerProperty(type=GANFIT_PG_batch)


def unregister() -> None:
    """Removes what `register` has added."""
    del bpy.types.WindowManager.ganfit_batch
    del bpy.types.Scene.ganfit
