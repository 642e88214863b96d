# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts an imported head on MakeHuman's body, in both units, hangs it on a rig and takes it off again.

The argument is JSON: zip, bundle, python (of the stand-in worker), body (npz), out (folder).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import attempt, find, head, points  # noqa: E402
from in_blender import answer, empty_scene, install, leave, preferences  # noqa: E402

report: dict = {}
arrays: dict[str, np.ndarray] = {}


def world(thing: bpy.types.Object, local: np.ndarray) -> np.ndarray:
    """(V, 3) in the world."""
    bpy.context.view_layer.update()
    matrix = np.array(thing.matrix_world)
    return local @ matrix[:3, :3].T + matrix[:3, 3]


def evaluated_keys(thing: bpy.types.Object) -> np.ndarray:
    """(V, 3) cage with shape keys, without modifiers."""
    shown = [(modifier, modifier.show_viewport) for modifier in thing.modifiers]
    for modifier, _ in shown:
        modifier.show_viewport = False
    bpy.context.view_layer.update()
    found = points(thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.vertices).copy()
    for modifier, state in shown:
        modifier.show_viewport = state
    return found


def describe(body: bpy.types.Object) -> dict:
    """What fits into JSON."""
    mesh = body.data
    groups = {}
    for name in ("body", "joint-head", "helper-l-eye", "Left", "Mid"):
        number = body.vertex_groups[name].index
        groups[name] = sorted(v.index for v in mesh.vertices if any(g.group == number for g in v.groups))
    return {
        "vertices": len(mesh.vertices), "faces": len(mesh.polygons), "groups": groups,
        "group count": len(body.vertex_groups), "modifiers": [[m.name, m.type] for m in body.modifiers],
        "keys": [block.name for block in mesh.shape_keys.key_blocks], "uv": [layer.name for layer in mesh.uv_layers],
        "mpfb": {key: body[key] for key in body.keys() if key.startswith("MPFB_")},
        "head hidden": head().hide_get(), "head parent": head().parent == body,
        "visible": len(body.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.vertices),
    }


def signature() -> list:
    """What an undo has to bring back."""
    things = sorted((t.name, t.hide_get(), t.hide_render, t.parent.name if t.parent else "", len(t.constraints),
                     [round(value, 5) for row in t.matrix_world for value in row]) for t in bpy.context.scene.objects)
    counts = {kind: len([item for item in getattr(bpy.data, kind) if item.users])
              for kind in ("objects", "meshes", "materials", "images", "shape_keys", "node_groups", "collections")}
    return json.loads(json.dumps([things, counts, bpy.context.view_layer.objects.active.name]))


def undone(name: str, **arguments: object) -> list:
    """Whether an operator changes something, and what its undo does not bring back."""
    bpy.context.view_layer.objects.active = head()
    bpy.context.view_layer.update()
    bpy.ops.ed.undo_push(message="before")
    before = signature()
    getattr(bpy.ops.ganfit, name)(**arguments)
    bpy.context.view_layer.update()
    changed = signature() != before
    bpy.ops.ed.undo_push(message=name)
    bpy.ops.ed.undo()
    bpy.context.view_layer.update()
    return [changed, [was for was, now in zip(before, signature()) if was != now]]


def main(job: dict) -> None:
    """Metres, then decimetres."""
    out = Path(job["out"])
    os.environ["FAKE_BODY"] = job["body"]
    install(job["zip"])
    empty_scene()
    preferences().python_path = job["python"]
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    bpy.ops.ganfit.neutral()
    arrays["head"] = world(head(), points(head().data.vertices))
    arrays["eye"] = world(find("ganfit_part", "eye_left"), points(find("ganfit_part", "eye_left").data.vertices))
    index = np.empty(len(head().data.vertices), np.int32)
    head().data.attributes["makehuman_index"].data.foreach_get("value", index)
    arrays["index"] = index
    report["no body"] = attempt(bpy.ops.ganfit.remove_body)
    report["undo"] = [undone("add_body", gender=1.0)]
    bpy.ops.ed.undo_push(message="head")
    bpy.ops.ganfit.add_body(gender=0.0)
    report["undo"].append(undone("remove_body"))
    body = find("ganfit_body")
    report["metres"] = describe(body)
    arrays["body"] = world(body, points(body.data.vertices))
    arrays["quads"] = np.array([polygon.vertices[:] for polygon in body.data.polygons])
    uv = np.empty(len(body.data.loops) * 2, np.float32)
    body.data.uv_layers["GANFIT"].uv.foreach_get("vector", uv)
    arrays["uv"] = uv.reshape(-1, 4, 2)
    shade = np.empty(len(body.data.vertices), np.float32)
    body.data.attributes["ganfit_body_shade"].data.foreach_get("value", shade)
    arrays["shade"] = shade
    keys = head().data.shape_keys.key_blocks
    keys["jawOpen"].value = 1.0
    arrays["jaw body"], arrays["jaw head"] = evaluated_keys(body)[index], evaluated_keys(head())
    keys["jawOpen"].value = 0.0
    report["twice"] = bpy.ops.ganfit.add_body.poll()
    report["no rig"] = attempt(bpy.ops.ganfit.attach_to_rig)
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for name, height in (("spine", -0.6), ("head", -0.1)):
        bone = rig.data.edit_bones.new(name)
        bone.head, bone.tail = (0, 0.05, height), (0, 0.05, height + 0.2)
    bpy.ops.object.mode_set(mode="OBJECT")
    body.modifiers.new("Armature", "ARMATURE").object = rig
    bpy.context.view_layer.objects.active = body
    bpy.ops.ganfit.attach_to_rig()
    arrays["rigged"] = world(head(), points(head().data.vertices))
    rig.pose.bones["head"].location = (0, 0.1, 0)
    arrays["posed"] = world(head(), points(head().data.vertices))
    report["bone"] = [head().parent.name, head().parent_bone]
    bpy.ops.ganfit.remove_body()
    arrays["removed"] = world(head(), points(head().data.vertices))
    report["removed"] = [find("ganfit_body") is None, head().hide_get(), head().parent is None]
    bpy.ops.ganfit.add_body(gender=1.0, units="DECIMETERS", feet_on_ground=True)
    body = find("ganfit_body")
    arrays["body dm"] = world(body, points(body.data.vertices))
    arrays["head dm"] = world(head(), points(head().data.vertices))
    report["decimetres"] = describe(body)["mpfb"]
    np.savez(out / "body_report.npz", **arrays)
    answer(out / "body.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
