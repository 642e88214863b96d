# SPDX-License-Identifier: GPL-3.0-or-later
"""A neutral photo studio around a head: three area lamps, a grey backdrop, a portrait camera; on and off as a whole."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from .importer import scene as importer
from .importer import shell

STUDIO = "ganfit_studio"  # on the studio's collection; on the scene: what it has changed, as JSON
BEFORE_BLOCKS = "ganfit_studio_before"  # on the scene: its camera and world, its lamps by number
LENS_MM, SENSOR_MM, RESOLUTION = 85.0, 36.0, (1080, 1350)
SEEN_FROM = (12.0, 2.0)  # the camera's place around the head, as the lamps' below
GREY = (0.18, 0.18, 0.18)

# Per lamp: place around the head in degrees (0 in front, positive to the subject's left; height above), distance and
# size in head heights, power in watts at a head height of 25 cm.
LAMPS = {
    "Key": (40.0, 35.0, 4.0, 2.0, 15.5),
    "Fill": (-50.0, 8.0, 4.5, 3.0, 5.5),
    "Rim": (155.0, 40.0, 4.0, 1.2, 11.0),
}
REFERENCE_HEIGHT_M = 0.25
LOOK = "AgX - Medium High Contrast"  # AgX alone makes skin pale


def find(scene: bpy.types.Scene) -> bpy.types.Collection | None:
    """The scene's studio, None when it has none."""
    return next((found for found in scene.collection.children_recursive if STUDIO in found), None)


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether the studio is built, or parts of it are left."""
    return STUDIO in scene or find(scene) is not None


def add(context: bpy.types.Context, head: bpy.types.Object, floor: float | None = None) -> bpy.types.Collection:
    """Builds the studio around a head, and lights and frames the scene with it alone; `remove` takes it back.

    Args:
        floor: height of the feet in the world where there is a body to stand on it.
    """
    scene = context.scene
    importer.release_photo(context)
    remove(context)
    collection = bpy.data.collections.new("Studio")
    collection[STUDIO] = True
    scene.collection.children.link(collection)
    centre, height = bounds(context, head)
    camera = _camera(collection, *_frame(context, head, centre, height))
    for name, (side, up, distance, size, power) in LAMPS.items():
        place = centre + height * distance * _direction(side, up)
        _lamp(collection, name, place, centre, height * size, power * (height / REFERENCE_HEIGHT_M) ** 2)
    _backdrop(collection, centre, height, -1.6 * height if floor is None else floor - centre.z)
    _take_over(context, collection, camera)
    return collection


def remove(context: bpy.types.Context) -> bool:
    """Removes the studio and puts camera, world, size and lamps back; False when there is none."""
    scene, collection = context.scene, find(context.scene)
    if collection is not None:
        for thing in list(collection.objects):
            data = [thing.data, *(slot.material for slot in thing.material_slots)]
            bpy.data.objects.remove(thing)
            for block in data:
                if block is not None and block.users == 0:
                    bpy.data.batch_remove([block])
        bpy.data.collections.remove(collection)
    if STUDIO not in scene:
        return collection is not None
    before = json.loads(scene.pop(STUDIO))
    ours = scene.world
    named, lamps = importer.take_blocks(scene, BEFORE_BLOCKS, before["lamps"])
    scene.camera, scene.world = named.get("camera"), named.get("world")
    if ours is not None and STUDIO in ours and ours.users == 0:
        bpy.data.worlds.remove(ours)
    for path, value in before["settings"]:
        importer.set_value(scene, path, value)
    for lamp in lamps:
        if lamp is not None:
            lamp.hide_render = lamp.hide_viewport = False
    return True


def bounds(context: bpy.types.Context, head: bpy.types.Object) -> tuple[Vector, float]:
    """Middle (in the world) and height of a head as it stands, without its neck's lower edge."""
    context.view_layer.update()
    corners = _corners(head)
    low, high = corners.min(0), corners.max(0)
    return Vector(((low + high) / 2).tolist()), float(high[2] - low[2])


def _frame(context: bpy.types.Context, head: bpy.types.Object, centre: Vector, height: float) -> tuple[Vector, float]:
    """Middle and height of what the camera should show: the head's own, and the photo's hair where that is shown."""
    hair = [thing for thing in head.children if shell.HAIR.mark in thing and shell.is_shown(thing)]
    if not hair:
        return centre, height
    corners = np.concatenate([_corners(thing) for thing in (head, *hair)])
    low, high = corners.min(0), corners.max(0)
    middle = Vector((centre.x, centre.y, float(low[2] + high[2]) / 2))
    right = np.array(Vector((0, 0, 1)).cross(_direction(*SEEN_FROM)).normalized())
    across = 2 * float(np.abs((corners - np.array(middle)) @ right).max())
    return middle, max(height, float(high[2] - low[2]), across)


def _corners(thing: bpy.types.Object) -> np.ndarray:
    """(8, 3) corners of the box around an object, in the world."""
    return np.array([thing.matrix_world @ Vector(corner) for corner in thing.bound_box])


def _direction(side: float, up: float) -> Vector:
    """Unit vector from the head, which faces -Y: `side` degrees to its left (+X), `up` degrees above."""
    a, e = math.radians(side), math.radians(up)
    return Vector((math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)))


def _camera(collection: bpy.types.Collection, centre: Vector, height: float) -> bpy.types.Object:
    data = bpy.data.cameras.new("Studio Camera")
    data.lens, data.sensor_width, data.sensor_fit = LENS_MM, SENSOR_MM, "HORIZONTAL"
    data.clip_start, data.clip_end = height / 50, height * 200
    # The head fills seven tenths of the picture's height; what is as wide as it is high, seven eighths of the width.
    picture = height / 0.7 * RESOLUTION[0] / RESOLUTION[1]
    thing = bpy.data.objects.new("Studio Camera", data)
    thing.location = centre + picture * LENS_MM / SENSOR_MM * _direction(*SEEN_FROM)
    thing.rotation_euler = (thing.location - centre).to_track_quat("Z", "Y").to_euler()
    data.dof.use_dof = False
    collection.objects.link(thing)
    return thing


def _lamp(collection: bpy.types.Collection, name: str, place: Vector, target: Vector, size: float,
          power: float) -> None:
    data = bpy.data.lights.new(f"Studio {name}", "AREA")
    data.shape, data.size, data.energy = "DISK", size, power
    thing = bpy.data.objects.new(f"Studio {name}", data)
    thing.location = place
    thing.rotation_euler = (place - target).to_track_quat("Z", "Y").to_euler()
    collection.objects.link(thing)


def _backdrop(collection: bpy.types.Collection, centre: Vector, height: float, floor: float) -> None:
    """A sheet that comes from the floor, so far from the head's middle, up behind the head, in grey."""
    turn = np.linspace(0, np.pi / 2, 12)
    radius, half, back = 3 * height, 8 * height, 5 * height
    bend = np.stack([back - radius + radius * np.sin(turn), floor + radius - radius * np.cos(turn)], 1)
    profile = np.concatenate([[[-4 * height, floor]], bend, [[back, 8 * height]]])
    points = np.array([[x, y, z] for y, z in profile for x in (-half, half)], np.float32)
    faces = [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(len(profile) - 1)]
    mesh = bpy.data.meshes.new("Studio Backdrop")
    mesh.from_pydata(points.tolist(), [], faces)
    mesh.shade_smooth()
    material = bpy.data.materials.new("Studio Backdrop")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (*GREY, 1.0)
    shader.inputs["Roughness"].default_value = 0.9
    mesh.materials.append(material)
    thing = bpy.data.objects.new("Studio Backdrop", mesh)
    thing.location = centre
    collection.objects.link(thing)


def _take_over(context: bpy.types.Context, collection: bpy.types.Collection, camera: bpy.types.Object) -> None:
    """Makes the studio what is rendered, and writes down what was there."""
    scene = context.scene
    ours = set(collection.all_objects)
    lamps = [thing for thing in scene.objects if thing.type == "LIGHT" and thing not in ours and not thing.hide_render]
    wanted: dict[str, Any] = {
        "render.resolution_x": RESOLUTION[0],
        "render.resolution_y": RESOLUTION[1],
        "render.resolution_percentage": 100,
        "render.film_transparent": False,
        "view_settings.view_transform": "AgX" if bpy.app.version >= (4, 0, 0) else "Filmic",
        "view_settings.look": "None",
        "view_settings.exposure": 0.0,
        "view_settings.gamma": 1.0,
    }
    settings = [[path, importer.get_value(scene, path)] for path in wanted]
    scene[STUDIO] = json.dumps({"lamps": len(lamps), "settings": settings})
    importer.keep_blocks(scene, BEFORE_BLOCKS, lamps, camera=scene.camera, world=scene.world)
    for path, value in wanted.items():
        importer.set_value(scene, path, value)
    with contextlib.suppress(TypeError):  # an older or somebody's own colour configuration has other looks
        scene.view_settings.look = LOOK
    for lamp in lamps:
        lamp.hide_render = lamp.hide_viewport = True
    scene.camera, scene.world = camera, _world()


def _world() -> bpy.types.World:
    """A dim grey surrounding."""
    world = bpy.data.worlds.new("Studio")
    world[STUDIO] = True
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    background = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (*GREY, 1.0)
    background.inputs["Strength"].default_value = 0.5
    return world
