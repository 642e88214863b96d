# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in Blender's Python: a bundle's head as a photo, under lamps of this script instead of the bundle's lights.

python render_own_head.py '{"bundle": folder, "out": PNG, "condition": "cooperative" | "indoor" | "outdoor"}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy
from mathutils import Vector

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

from in_blender import render  # noqa: E402

from ganfit_blender.importer.scene import import_bundle  # noqa: E402

SAMPLES = 48
# World colour and strength, then lamps: kind, place in metres (Blender's axes), watts or strength, size, colour.
LIGHTS = {
    "cooperative": ((0.9, 0.95, 1.0), 0.45, [("AREA", (0.7, -1.2, 0.5), 12, 1.0, (1, 1, 1)),
                                             ("AREA", (-0.9, -1.1, 0.3), 8, 1.2, (1, 0.97, 0.94))]),
    "indoor": ((1.0, 0.9, 0.8), 0.25, [("AREA", (-0.9, -0.8, 0.9), 18, 0.5, (1, 0.82, 0.62)),
                                       ("AREA", (1.0, -0.6, 0.1), 7, 0.7, (0.7, 0.85, 1))]),
    "outdoor": ((0.65, 0.8, 1.0), 0.5, [("SUN", (0.8, -1.0, 1.1), 2.2, 0.01, (1, 0.96, 0.88))]),
}  # fmt: skip


def main() -> None:
    """One picture over an even grey wall."""
    job = json.loads(sys.argv[1])
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    import_bundle(bpy.context, Path(job["bundle"]))
    scene = bpy.context.scene
    for lamp in [thing for thing in bpy.data.objects if thing.type == "LIGHT"]:
        bpy.data.objects.remove(lamp)
    colour, strength, lamps = LIGHTS[job["condition"]]
    world = scene.world = bpy.data.worlds.new("Bench")
    world.use_nodes = True
    background = world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (*colour, 1)
    background.inputs["Strength"].default_value = strength
    for lamp in lamps:
        add_lamp(*lamp)
    add_wall()
    scene.render.film_transparent = False
    render(job["out"], SAMPLES)


def add_lamp(kind: str, place: tuple, energy: float, size: float, colour: tuple) -> None:
    """A lamp that points at the head."""
    data = bpy.data.lights.new("Lamp", kind)
    data.energy, data.color = energy, colour
    setattr(data, "size" if kind == "AREA" else "angle", size)
    lamp = bpy.data.objects.new("Lamp", data)
    lamp.location = place
    lamp.rotation_euler = (-Vector(place)).to_track_quat("-Z", "Y").to_euler()
    bpy.context.collection.objects.link(lamp)


def add_wall() -> None:
    """A grey wall behind the head."""
    bpy.ops.mesh.primitive_plane_add(size=6, location=(0, 1.2, 0), rotation=(1.5708, 0, 0))
    material = bpy.data.materials.new("Wall")
    material.diffuse_color = (0.3, 0.32, 0.34, 1)
    bpy.context.object.data.materials.append(material)


if __name__ == "__main__":
    main()
