# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a scene: photos of one person and how to reconstruct them."""

import bpy
from bpy.props import CollectionProperty, EnumProperty, IntProperty, PointerProperty, StringProperty

from .ui_strings import items, label, tip


class GANFIT_PG_photo(bpy.types.PropertyGroup):
    """One photo of the list."""

    path: StringProperty(name=label("photo"), description=tip("photo"), subtype="FILE_PATH")


class GANFIT_PG_settings(bpy.types.PropertyGroup):
    """`scene.ganfit`."""

    photos: CollectionProperty(type=GANFIT_PG_photo, name=label("photos"), description=tip("photos"))
    preset: EnumProperty(name=label("preset"), description=tip("preset"), items=items("preset"), default="standard")
    basis: EnumProperty(name=label("basis"), description=tip("basis"), items=items("basis"), default="makehuman")
    device: EnumProperty(name=label("device"), description=tip("device"), items=items("device"), default="auto")
    seed: IntProperty(name=label("seed"), description=tip("seed"), min=0, default=0)
    output: StringProperty(name=label("output"), description=tip("output"), subtype="DIR_PATH")


CLASSES = (GANFIT_PG_photo, GANFIT_PG_settings)


def register() -> None:
    """Adds `scene.ganfit`."""
    bpy.types.Scene.ganfit = PointerProperty(type=GANFIT_PG_settings)


def unregister() -> None:
    """Removes `scene.ganfit`."""
    del bpy.types.Scene.ganfit
