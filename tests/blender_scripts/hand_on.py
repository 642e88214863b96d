# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports a head in all formats and reads it again, adds the eye target, marks the asset, asks for the licences.

The argument is JSON: zip, bundle, out (folder).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import attempt, carve, evaluated, find, head, points  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, quiet_stdout  # noqa: E402
from mathutils import Vector  # noqa: E402

report: dict = {}
arrays: dict[str, np.ndarray] = {}


def contents() -> dict:
    """Names of everything that an export could leave behind."""
    return {kind: sorted(entry.name for entry in getattr(bpy.data, kind))
            for kind in ("objects", "meshes", "materials", "images", "collections", "shape_keys")}


def exports(out: Path) -> None:
    """All formats; the scene stays as it was."""
    keys = head().data.shape_keys.key_blocks
    keys["shape_01"].value, keys["jawOpen"].value = 1.0, 0.5
    before = contents()
    for kind, level in (("GLB", 0), ("FBX", 0), ("OBJ", 0), ("USD", 1)):
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(out / f"head_{kind.lower()}"), kind=kind, level=level)
    with quiet_stdout():
        bpy.ops.ganfit.export(filepath=str(out / "smooth.glb"), kind="GLB", level=1)
    report["left over"] = [before == contents(), bpy.context.view_layer.objects.active == head()]
    report["files"] = sorted(str(path.relative_to(out)) for path in out.rglob("*") if "head_" in str(path))
    report["no folder"] = attempt(bpy.ops.ganfit.export, filepath=str(out / "none" / "x.glb"), kind="GLB")
    keys["shape_01"].value = keys["jawOpen"].value = 0.0


def detailed(out: Path) -> None:
    """What is sculpted on multires: while the sculpt is under way, and transferred; what Blender itself shows."""
    bpy.ops.ganfit.neutral()
    bpy.ops.ganfit.sculpt_prepare(levels=2)
    arrays["sculpt"] = carve(find("ganfit_sculpt_of"))
    before = contents()
    with quiet_stdout():
        bpy.ops.ganfit.export(filepath=str(out / "under_way.glb"), kind="GLB", level=2)
    report["left of a sculpt"] = before == contents()
    bpy.ops.ganfit.sculpt_transfer()
    keys = head().data.shape_keys.key_blocks
    arrays["transferred"] = evaluated(head())
    keys["jawOpen"].value = 1.0
    arrays["jaw"] = evaluated(head())
    with quiet_stdout():
        bpy.ops.ganfit.export(filepath=str(out / "detail.glb"), kind="GLB", level=2)
        bpy.ops.ganfit.export(filepath=str(out / "finest.glb"), kind="GLB", level=4)
    keys["jawOpen"].value = 0.0
    np.savez(out / "detail.npz", **arrays)


def look() -> None:
    """The target at some place: where the eyes look, what the lids do, what stays free."""
    bpy.ops.ganfit.eye_target()
    target, eyes = find("ganfit_eye_target"), [find("ganfit_part", name) for name in ("eye_left", "eye_right")]
    keys = head().data.shape_keys.key_blocks
    report["straight"] = max(block.value for block in keys if block.name.startswith("look_at_"))
    target.location = (0.12, -0.4, 0.06)
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    found = []
    for eye in eyes:
        matrix = eye.evaluated_get(depsgraph).matrix_world
        wanted = (target.matrix_world.translation - matrix.translation).normalized()
        ahead = (matrix.to_3x3() @ Vector((0, -1, 0))).normalized()
        found.append([wanted.angle(ahead), *wanted])
    shown = head().evaluated_get(depsgraph).data.shape_keys or head().data.shape_keys
    report["look"] = {"eyes": found, "lids": {b.name: b.value for b in keys if b.name.startswith("look_at_")},
                      "evaluated": {b.name: b.value for b in shown.key_blocks if b.name.startswith("look_at_")}}
    keys["eyeLookUpLeft"].value = 0.7
    bpy.context.view_layer.update()
    eye_keys = eyes[0].evaluated_get(bpy.context.evaluated_depsgraph_get()).data.shape_keys
    report["free"] = [keys["eyeLookUpLeft"].value,
                      eye_keys.key_blocks["eyeLookUpLeft"].value if eye_keys and "eyeLookUpLeft" in eye_keys.key_blocks
                      else None]
    target["follow"] = 0.0
    target.update_tag()
    bpy.context.view_layer.update()
    matrix = eyes[0].evaluated_get(bpy.context.evaluated_depsgraph_get()).matrix_world
    report["off"] = (matrix.to_3x3() @ Vector((0, -1, 0))).angle(Vector((0, -1, 0)))
    bpy.ops.ganfit.eye_target()
    animation = head().data.shape_keys.animation_data
    report["removed"] = [find("ganfit_eye_target") is None, [len(eye.constraints) for eye in eyes],
                         sum(block.name.startswith("look_at_") for block in keys),
                         len(animation.drivers) if animation else 0]


def assets(out: Path) -> None:
    """Marked and unmarked."""
    collection = bpy.context.scene.collection.children[0]
    bpy.ops.ganfit.mark_asset()
    data = collection.asset_data
    pixels = np.array(collection.preview.image_pixels_float)
    report["asset"] = {"tags": [tag.name for tag in data.tags], "licence": data.license,
                       "description": data.description, "size": list(collection.preview.image_size),
                       "mean": float(pixels.reshape(-1, 4)[:, :3].mean())}
    bpy.ops.ganfit.mark_asset()
    report["unmarked"] = collection.asset_data is None


def read_back(out: Path) -> None:
    """What Blender itself finds in the files."""
    for kind, operator in (("FBX", bpy.ops.import_scene.fbx), ("USD", bpy.ops.wm.usd_import)):
        empty_scene()
        ending = {"FBX": ".fbx", "USD": ".usdc"}[kind]
        with quiet_stdout():
            operator(filepath=str(out / f"head_{kind.lower()}{ending}"))
        things = [thing for thing in bpy.context.scene.objects if thing.type == "MESH"]
        main = max(things, key=lambda thing: len(thing.data.vertices))
        keys = main.data.shape_keys.key_blocks if main.data.shape_keys else []
        height = max((main.matrix_world @ vertex.co).z for vertex in main.data.vertices)
        images = [node.image for slot in main.material_slots for node in slot.material.node_tree.nodes
                  if node.type == "TEX_IMAGE" and node.image]
        report[f"read {kind}"] = {
            "objects": sorted(thing.name for thing in things), "keys": [key.name for key in keys], "height": height,
            "jaw": float(np.abs(points(keys["jawOpen"].data) - points(keys[0].data)).max()) if len(keys) > 1 else 0.0,
            "images": [list(image.size) for image in images],
        }


def main(job: dict) -> None:
    """All of it on one imported head."""
    out = Path(job["out"])
    install(job["zip"])
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    bpy.ops.ganfit.neutral()
    exports(out)
    look()
    assets(out)
    detailed(out)
    licence = importlib.import_module(f"{EXTENSION}.licence")
    scene = importlib.import_module(f"{EXTENSION}.importer.scene")
    report["verdict"] = licence.answer(scene.result_of(head())).verdict
    read_back(out)
    answer(out / "hand_on.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
