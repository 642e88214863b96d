# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders a white diffuse sphere with Cycles under the lights that the extension's importer makes; writes EXRs.

The argument is JSON: zip, out (folder), cases: name -> {sh [9][3], direction [3], rgb [3]}, size, samples. The camera
is orthographic on GLB's axes: looks along -Z at the origin (the sphere's front faces +Z), or from behind for names
that end in `_back`. Writes `<name>.npy` (H, W, 4), row 0 at the top.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from in_blender import EXTENSION, empty_scene, install, leave, linear_pixels, render  # noqa: E402


def white_sphere(scene: bpy.types.Scene) -> None:
    """A unit sphere of albedo 1, smooth and finely divided."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=96, ring_count=64, radius=1)
    sphere = bpy.context.object
    bpy.ops.object.shade_smooth()
    material = bpy.data.materials.new("white")
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    output, diffuse = nodes.new("ShaderNodeOutputMaterial"), nodes.new("ShaderNodeBsdfDiffuse")
    diffuse.inputs["Color"].default_value = (1, 1, 1, 1)
    material.node_tree.links.new(diffuse.outputs[0], output.inputs[0])
    sphere.data.materials.append(material)


def camera(scene: bpy.types.Scene, back: bool) -> None:
    """In front of the face (-Y in Blender) or behind it, up is +Z."""
    data = bpy.data.cameras.new("camera")
    data.type, data.ortho_scale = "ORTHO", 2.2
    scene.camera = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(scene.camera)
    scene.camera.location = (0, 5 if back else -5, 0)
    scene.camera.rotation_euler = (np.pi / 2, 0, np.pi if back else 0)


def main(job: dict) -> None:
    """One render a case."""
    install(job["zip"])
    light = importlib.import_module(f"{EXTENSION}.importer.light")
    bundle = importlib.import_module(f"{EXTENSION}.importer.bundle")
    for name, case in job["cases"].items():
        scene = empty_scene()
        white_sphere(scene)
        camera(scene, name.endswith("_back"))
        scene.render.resolution_x = scene.render.resolution_y = job["size"]
        scene.render.film_transparent, scene.cycles.diffuse_bounces = True, 0
        view = bundle.View(Path("none"), (1, 1), np.eye(4), 1.0, (0.0, 0.0), np.array(case["sh"]),
                           np.array(case["direction"]), np.array(case["rgb"]), {})
        scene.world = light.make_world(view, name)
        light.make_sun(view, name, scene.collection)
        path = Path(job["out"], f"{name}.exr")
        render(path, job["samples"])
        np.save(path.with_suffix(".npy"), linear_pixels(path))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
