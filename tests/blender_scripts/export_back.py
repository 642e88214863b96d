# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports a head in every format and smoothing, reads each file into an empty scene, writes down all that came back.

The argument is JSON: zip, bundle (of the real head), out (folder).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import head  # noqa: E402
from in_blender import answer, empty_scene, install, leave, quiet_stdout  # noqa: E402
from mathutils import Euler, Matrix, Vector  # noqa: E402

PLACED = Matrix.LocRotScale(Vector((0.3, -1.2, 1.6)), Euler((0.2, -0.1, 0.7)), Vector((1.1, 1.1, 1.1)))
ENDINGS = {"GLB": ".glb", "FBX": ".fbx", "OBJ": ".obj", "USD": ".usdc"}
SOCKETS = ("Base Color", "Roughness", "Normal")
arrays: dict[str, np.ndarray] = {}
report: dict = {}


def read(path: Path) -> None:
    """Opens a file in an empty scene."""
    empty_scene()
    operator = {".glb": bpy.ops.import_scene.gltf, ".fbx": bpy.ops.import_scene.fbx, ".obj": bpy.ops.wm.obj_import,
                ".usdc": bpy.ops.wm.usd_import}[path.suffix]
    with quiet_stdout():
        operator(filepath=str(path))
    bpy.context.scene.frame_set(1)  # where a USD has the weights


def get(collection: object, name: str, width: int, kind: type = np.float32) -> np.ndarray:
    """A property of every element of a Blender collection, (n, width)."""
    values = np.empty(len(collection) * width, kind)
    collection.foreach_get(name, values)
    return values.reshape(-1, width)


def keep_mesh(thing: bpy.types.Object, name: str) -> None:
    """Points, corners, normals and motions in the world, UVs as they are."""
    mesh, matrix = thing.data, np.array(thing.matrix_world)
    turn = np.linalg.inv(matrix[:3, :3]).T
    keys = mesh.shape_keys.key_blocks if mesh.shape_keys else []
    points = get(keys[0].data if keys else mesh.vertices, "co", 3)
    normals = get(mesh.corner_normals, "vector", 3) @ turn.T
    arrays[f"{name} points"] = points @ matrix[:3, :3].T + matrix[:3, 3]
    arrays[f"{name} corners"] = get(mesh.loops, "vertex_index", 1, np.int32)[:, 0]
    arrays[f"{name} sizes"] = get(mesh.polygons, "loop_total", 1, np.int32)[:, 0]
    arrays[f"{name} normals"] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    arrays[f"{name} uvs"] = get(mesh.uv_layers[0].uv, "vector", 2)
    for key in keys[1:]:
        arrays[f"{name} key {key.name}"] = (get(key.data, "co", 3) - points) @ matrix[:3, :3].T


def image_behind(socket: bpy.types.NodeSocket) -> bpy.types.Image | None:
    """The first image upstream of a socket."""
    waiting = [socket]
    while waiting:
        for link in waiting.pop(0).links:
            if link.from_node.type == "TEX_IMAGE":
                return link.from_node.image
            waiting += [entry for entry in link.from_node.inputs if entry.is_linked]
    return None


def pixels_of(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 4) values as they are stored, row 0 at the bottom."""
    values = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(values)
    return values.reshape(image.size[1], image.size[0], 4)


def material_of(thing: bpy.types.Object, name: str) -> dict:
    """Images and numbers of the Principled shader; pixels are kept as they are stored."""
    material = thing.material_slots[0].material
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    found: dict = {"slots": len(thing.material_slots), "name": material.name,
                   "Roughness": shader.inputs["Roughness"].default_value,
                   "Metallic": shader.inputs["Metallic"].default_value}
    for socket in SOCKETS:
        image = image_behind(shader.inputs[socket])
        if image is not None:
            found[f"{socket} space"] = image.colorspace_settings.name
            arrays[f"{name} {socket}"] = pixels_of(image)
    return found


def keep(label: str) -> None:
    """Everything that the scene holds."""
    found = {}
    for thing in bpy.context.scene.objects:
        entry = {"type": thing.type, "parent": thing.parent.name if thing.parent else None,
                 "origin": list(thing.matrix_world.translation)}
        if thing.type == "MESH":
            keep_mesh(thing, f"{label} {thing.name}")
            entry["layers"] = [len(thing.data.uv_layers), len(thing.data.color_attributes)]
            entry["material"] = material_of(thing, f"{label} {thing.name}")
            keys = thing.data.shape_keys.key_blocks if thing.data.shape_keys else []
            entry["values"] = {key.name: key.value for key in keys[1:]}
        found[thing.name] = entry
    report[label] = found


def alone(path: Path) -> Path:
    """The file in a folder of its own, with what lies beside it by the manual: nothing for a GLB and an FBX."""
    folder = path.with_name(f"{path.stem}_moved")
    folder.mkdir()
    textures = path.with_name(f"{path.stem}_textures")
    if path.suffix in (".obj", ".usdc"):
        textures.rename(folder / textures.name)
    elif textures.is_dir():
        shutil.rmtree(textures)
    if path.suffix == ".obj":
        path.with_suffix(".mtl").rename(folder / f"{path.stem}.mtl")
    return path.rename(folder / path.name)


def complaints(path: Path) -> list[str] | None:
    """What Pixar's checker says of a USD file; None where Blender brings no checker."""
    try:
        bpy.utils.expose_bundled_modules()
        from pxr import UsdUtils
    except (AttributeError, ImportError):
        return None
    checker = UsdUtils.ComplianceChecker(arkit=False)
    checker.CheckCompliance(str(path))
    return checker.GetErrors() + checker.GetFailedChecks() + checker.GetWarnings()


def settings() -> list:
    """What an export may touch of the scene and of the artist's work on it."""
    scene, keys = bpy.context.scene, head().data.shape_keys.key_blocks
    names = [[block.name for block in kind] for kind in (bpy.data.objects, bpy.data.meshes, bpy.data.materials)]
    return [scene.frame_start, scene.frame_end, scene.frame_current, [key.value for key in keys], names,
            [thing.name for thing in bpy.context.selected_objects]]


def main(job: dict) -> None:
    """All of it on one imported head, placed and scaled somewhere in the world."""
    out = Path(job["out"])
    install(job["zip"])
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    bpy.ops.ganfit.neutral()
    head().matrix_world = PLACED
    bpy.context.scene.world = bpy.data.worlds.new("Backdrop")  # no part of a head
    keys = head().data.shape_keys.key_blocks
    keys["mouthSmileLeft"].keyframe_insert("value", frame=5)
    bpy.context.scene.frame_set(7)
    keys["jawOpen"].value, keys["mouthSmileLeft"].value = 0.5, 0.25  # the smile over its keyframe
    report["placed"] = [list(row) for row in PLACED]
    for thing in head().children:
        if thing.type == "MESH" and thing["ganfit_part"] == "eye_left":
            arrays["eye"] = pixels_of(image_behind(thing.active_material.node_tree.nodes["Principled BSDF"].inputs[0]))
    before = settings()
    files = [(kind, level) for kind in ENDINGS for level in (0, 1)]
    for kind, level in files:
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(out / f"{kind.lower()}{level}"), kind=kind, level=level)
    report["kept"] = [before, settings()]
    for kind, level in files:
        path = alone(out / f"{kind.lower()}{level}{ENDINGS[kind]}")
        read(path)
        keep(f"{kind} {level}")
        if kind == "USD":
            report[f"complaints {level}"] = complaints(path)
    report["left in the folder"] = sorted(path.name for path in out.iterdir() if not path.name.endswith("_moved"))
    np.savez(out / "back.npz", **arrays)
    answer(out / "back.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
