# SPDX-License-Identifier: GPL-3.0-or-later
"""An eye rig: an empty that both eyes look at, with the lids following; ARKit's eyeLook keys stay free on top of it."""

from __future__ import annotations

import math

import bpy

from . import shapes
from .importer import scene as importer
from .importer import shape_keys
from .importer.mesh import EYES

TARGET = "ganfit_eye_target"  # on the empty
FOLLOW = "follow"  # on the empty: 0 to 1, how much the eyes follow it
CONSTRAINT = "GANFIT Look At"
PREFIX = "look_at_"  # keys of the lids that the rig drives, so that ARKit's own stay the artist's
DISTANCE_M, SIZE_M = 0.5, 0.02
# Degrees of the eyeball at which the lids' motion is ARKit's eyeLook key at 1 (backend/head/eyes.py, GAZE).
REACH = {"Up": 14.0, "Down": 18.0, "In": 26.0, "Out": 26.0}


def find(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """The person's target, None without a rig."""
    return next((thing for thing in collection.all_objects if TARGET in thing), None)


def add(collection: bpy.types.Collection) -> bpy.types.Object:
    """Adds the target in front of the eyes; returns it. The eyes keep their gaze, since it stands straight ahead."""
    head, parts = importer.head_of(collection), importer.parts_of(collection)
    eyes = [parts[name] for name in EYES if name in parts]
    target = bpy.data.objects.new("Look At", None)
    target.empty_display_type, target.empty_display_size = "SPHERE", SIZE_M
    target[TARGET], target[FOLLOW] = True, 1.0
    target.id_properties_ui(FOLLOW).update(min=0.0, max=1.0, description="How much the eyes follow this target")
    target.parent = head
    height = sum(eye.location.z for eye in eyes) / len(eyes) if eyes else 0.0
    target.location = (0.0, -DISTANCE_M, height)
    collection.objects.link(target)
    for eye in eyes:
        _constrain(eye, target)
    for name in ("skin", "lashes"):
        if name in parts and parts[name].data.shape_keys is not None:
            _add_lid_keys(parts[name], parts)
    return target


def remove(collection: bpy.types.Collection) -> None:
    """Takes target, constraints, drivers and the lids' extra keys away."""
    for name, thing in importer.parts_of(collection).items():
        if name in EYES:
            for constraint in [found for found in thing.constraints if found.name == CONSTRAINT]:
                constraint.driver_remove("influence")
                thing.constraints.remove(constraint)
        keys = thing.data.shape_keys
        for block in [found for found in keys.key_blocks if found.name.startswith(PREFIX)] if keys else ():
            block.driver_remove("value")
            thing.shape_key_remove(block)
    target = find(collection)
    if target is not None:
        bpy.data.objects.remove(target)


def _constrain(eye: bpy.types.Object, target: bpy.types.Object) -> None:
    """The eye, which looks along -Y, turns to the target as far as the target's own property says."""
    constraint = eye.constraints.new("DAMPED_TRACK")
    constraint.name = CONSTRAINT
    constraint.target, constraint.track_axis = target, "TRACK_NEGATIVE_Y"
    driver = constraint.driver_add("influence").driver
    driver.type = "AVERAGE"
    variable = driver.variables.new()
    variable.targets[0].id = target
    variable.targets[0].data_path = f'["{FOLLOW}"]'


def _add_lid_keys(thing: bpy.types.Object, parts: dict[str, bpy.types.Object]) -> None:
    """Copies of the eyeLook keys that are driven by how far the eyeballs have turned."""
    blocks = thing.data.shape_keys.key_blocks
    for key in [block for block in shape_keys.expression_keys(thing) if block.name.startswith("eyeLook")]:
        way, side = key.name.removeprefix("eyeLook").removesuffix("Left").removesuffix("Right"), key.name[-4:]
        eye = parts.get("eye_left" if side == "Left" else "eye_right")
        if eye is None:
            continue
        points = shapes.key_points(key)
        copy = thing.shape_key_add(name=f"{PREFIX}{key.name}", from_mix=False)
        shapes.set_key_points(blocks[copy.name], points)
        outward = 1.0 if side == "Left" else -1.0
        axis, sign = {"Up": ("ROT_X", -1.0), "Down": ("ROT_X", 1.0), "Out": ("ROT_Z", outward),
                      "In": ("ROT_Z", -outward)}[way]
        _drive_by_turn(blocks[copy.name], eye, axis, sign / math.radians(REACH[way]))


def _drive_by_turn(block: bpy.types.ShapeKey, eye: bpy.types.Object, axis: str, factor: float) -> None:
    """The key's value is the eye's turn times a factor within 0 and 1: an expression that needs no Python."""
    block.slider_min, block.slider_max = 0.0, 1.0
    driver = block.driver_add("value").driver
    variable = driver.variables.new()
    variable.name, variable.type = "turn", "TRANSFORMS"
    variable.targets[0].id = eye
    variable.targets[0].transform_type, variable.targets[0].transform_space = axis, "LOCAL_SPACE"
    driver.type, driver.expression = "SCRIPTED", f"clamp(turn * {factor:.6f})"
