# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs the extension's zip, imports a bundle by its operator and writes down everything that a test looks at.

The argument is JSON: zip, bundle, out (folder for report.json, geometry.npz, match.png), samples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from in_blender import answer, empty_scene, install, leave, quiet_stdout, render  # noqa: E402
from mathutils import Vector  # noqa: E402


def parts() -> dict[str, bpy.types.Object]:
    """Objects by the bundle's name of the part."""
    return {thing["ganfit_part"]: thing for thing in bpy.context.scene.objects if "ganfit_part" in thing}


def world_points(thing: bpy.types.Object, evaluated: bool) -> np.ndarray:
    """(V, 3) vertices in the world, of the evaluated object (shape keys, subdivision) or of the cage."""
    source = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()) if evaluated else thing
    mesh = source.to_mesh() if evaluated else source.data
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    matrix = np.array(source.matrix_world)
    return points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]


def attribute(mesh: bpy.types.Mesh, name: str, kind: str, width: int) -> np.ndarray:
    """A point attribute's values."""
    data = mesh.attributes[name].data
    values = np.empty(len(data) * width, np.int32 if kind == "value" and name.endswith("index") else np.float32)
    data.foreach_get(kind, values)
    return values.reshape(-1, width)


def describe(thing: bpy.types.Object) -> dict:
    """What of an object fits into JSON."""
    mesh = thing.data
    keys = mesh.shape_keys.key_blocks if mesh.shape_keys else []
    modifier = thing.modifiers[0]
    return {
        "name": thing.name,
        "vertices": len(mesh.vertices),
        "sizes": sorted({len(polygon.vertices) for polygon in mesh.polygons}),
        "polygons": len(mesh.polygons),
        "uv_layers": [layer.name for layer in mesh.uv_layers],
        "uv_active": mesh.uv_layers.active.name,
        "keys": {block.name: block.value for block in keys},
        "parent": thing.parent.name if thing.parent else "",
        "attributes": sorted(mesh.attributes.keys()),
        "modifier": [modifier.type, modifier.levels, modifier.render_levels, modifier.use_limit_surface,
                     modifier.uv_smooth],
        "materials": [material.name for material in mesh.materials],
        "boundary": int(np.sum(edge_uses(mesh) == 1)),
    }


def edge_uses(mesh: bpy.types.Mesh) -> np.ndarray:
    """(E,) number of polygons at each edge."""
    edges = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("edge_index", edges)
    return np.bincount(edges, minlength=len(mesh.edges))


def project(scene: bpy.types.Scene, points: np.ndarray) -> np.ndarray:
    """(N, 2) pixels from the top left, by Blender's own projection."""
    views = [world_to_camera_view(scene, scene.camera, Vector(point)) for point in points]
    width, height = scene.render.resolution_x, scene.render.resolution_y
    return np.array([(view.x * width, (1 - view.y) * height) for view in views])


def own_settings(scene: bpy.types.Scene) -> list:
    """Some of what Match Photo changes and has to put back."""
    view = scene.view_settings
    return [scene.render.resolution_x, view.view_transform, scene.world.name, scene.cycles.diffuse_bounces]


def main(job: dict) -> None:
    """Import, write down, render."""
    out = Path(job["out"])
    install(job["zip"])
    scene = empty_scene()
    bpy.data.worlds.new("Mine")
    scene.world = bpy.data.worlds["Mine"]
    stranger = bpy.data.objects.new("Stranger", bpy.data.lights.new("Stranger", "POINT"))
    scene.collection.objects.link(stranger)
    before = own_settings(scene)
    bpy.ops.ganfit.import_result(directory=job["bundle"])
    found, arrays = parts(), {}
    bpy.context.view_layer.update()
    for name, thing in found.items():
        arrays[f"{name}_cage"] = world_points(thing, False)
        arrays[f"{name}_level1"] = world_points(thing, True)
    head = found["skin"]
    arrays["projected"] = project(scene, arrays["skin_level1"])
    uv = np.empty(len(head.data.loops) * 2, np.float32)
    head.data.uv_layers["GANFIT"].uv.foreach_get("vector", uv)
    arrays["uv"], arrays["color"] = uv.reshape(-1, 2), attribute(found["eye_left"].data, "Color", "color", 4)
    arrays["makehuman_index"] = attribute(head.data, "makehuman_index", "value", 1)
    camera = scene.camera
    report = {
        "parts": {name: describe(thing) for name, thing in found.items()},
        "collection": [collection.name for collection in scene.collection.children],
        "camera": [camera.name, camera.data.background_images[0].image.filepath, camera.data.show_background_images],
        "render": [scene.render.resolution_x, scene.render.resolution_y, scene.view_settings.view_transform],
        "provenance": {key: head[key] for key in head.keys() if isinstance(head[key], str) and key != "ganfit_result"},
        "result": json.loads(head["ganfit_result"]),
        "stranger_hidden": stranger.hide_render,
        "eye_centre": list(found["eye_left"].matrix_world.translation),
    }
    with quiet_stdout():
        render(out / "match.png", job["samples"])
        bpy.ops.wm.save_as_mainfile(filepath=str(out / "saved.blend"))
        bpy.ops.wm.open_mainfile(filepath=str(out / "saved.blend"))
    scene = bpy.context.scene
    packed = {image.name: image.packed_file is not None for image in bpy.data.images if image.users}
    light = next(image for image in bpy.data.images if image.name.endswith("light"))
    arrays["light"] = np.array(light.pixels[:]).reshape(light.size[1], light.size[0], 4)
    report["packed"] = packed
    bpy.ops.ganfit.match_photo()
    report["before"] = before
    report["released"] = own_settings(scene)
    report["stranger_after"] = scene.objects["Stranger"].hide_render
    bpy.ops.ganfit.match_photo(view=len(report["result"]["views"]) - 1)
    report["last_camera"] = scene.camera.name
    report["last_jaw"] = parts()["skin"].data.shape_keys.key_blocks["jawOpen"].value
    np.savez(out / "geometry.npz", **arrays)
    answer(out / "report.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
