# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses the operators on a finished head: expression, capture, studio, sculpt, refit; writes what came of them.

The argument is JSON: zip, bundle, python (of the stand-in worker), capture (CSV), out (folder).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from in_blender import answer, empty_scene, install, leave, preferences  # noqa: E402

report: dict = {}
arrays: dict[str, np.ndarray] = {}
BUMP_M, BUMP_RADIUS_M = 0.008, 0.035


def find(key: str, value: object = None) -> bpy.types.Object | None:
    """The object with a custom property (of a value), whatever its name is."""
    return next((t for t in bpy.context.scene.objects if key in t and value in (None, t[key])), None)


def head() -> bpy.types.Object:
    """The skin."""
    return find("ganfit_part", "skin")


def weights() -> dict[str, float]:
    """The head's keys."""
    return {block.name: block.value for block in head().data.shape_keys.key_blocks[1:]}


def points(owner: object) -> np.ndarray:
    """(V, 3) of a mesh's vertices or a key's data."""
    values = np.empty(len(owner) * 3, np.float32)
    owner.foreach_get("co", values)
    return values.reshape(-1, 3)


def evaluated(thing: bpy.types.Object) -> np.ndarray:
    """(V, 3) what the viewport shows."""
    bpy.context.view_layer.update()
    shown = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
    values = points(shown.to_mesh().vertices).copy()
    shown.to_mesh_clear()
    return values


def attempt(operator, **arguments: object) -> str:
    """The error of an operator that should fail."""
    try:
        operator(**arguments)
    except RuntimeError as error:
        return str(error)
    return ""


def expressions() -> None:
    """Neutral, as in the photo, mirrored; shape components stay; undo."""
    keys = head().data.shape_keys.key_blocks
    keys["shape_01"].value = 1.5
    bpy.ops.ganfit.neutral()
    report["neutral"] = weights()
    bpy.ops.ganfit.as_in_photo(view=1)
    report["photo 1"] = weights()
    report["photo 7"] = attempt(bpy.ops.ganfit.as_in_photo, view=7)
    bpy.ops.ganfit.as_in_photo()
    bpy.ops.ed.undo_push(message="photo")
    bpy.ops.ganfit.mirror_weights()
    report["mirrored"] = weights()
    bpy.ops.ed.undo_push(message="mirrored")
    bpy.ops.ed.undo()
    report["undone"] = weights()
    eye = find("ganfit_part", "eye_left")
    report["eye follows"] = eye.data.shape_keys.key_blocks["shape_01"].value if eye.data.shape_keys else None
    bpy.ops.ganfit.reset_shape()
    report["reset"] = weights()


def captures(path: str) -> None:
    """A recording as actions, and files that are none."""
    scene = bpy.context.scene
    scene.render.fps, scene.render.fps_base = 30, 1.0
    bpy.ops.ganfit.import_capture(filepath=path, start=10)
    samples = {}
    for frame in (10, 11, 12, 14):
        scene.frame_set(frame)
        samples[frame] = {**weights(), "rotation": list(head().rotation_euler), "place": list(head().location)}
    report["capture"] = samples
    report["capture end"] = scene.frame_end
    bad = Path(path).with_name("bad.csv")
    bad.write_text("Timecode,JawOpen\n00:00:00:01,0.5\n00:00:00:02,much\n")
    report["bad capture"] = attempt(bpy.ops.ganfit.import_capture, filepath=str(bad))
    bad.write_text("Name,Value\na,1\n")
    report["other csv"] = attempt(bpy.ops.ganfit.import_capture, filepath=str(bad))
    for owner in (head(), head().data.shape_keys):
        owner.animation_data_clear()
    head().location = head().rotation_euler = (0, 0, 0)
    bpy.ops.ganfit.neutral()


def state() -> list:
    """What the studio changes."""
    scene = bpy.context.scene
    lamps = sorted(t.name for t in scene.objects if t.type == "LIGHT" and not t.hide_render)
    return [scene.camera.name if scene.camera else "", scene.world.name if scene.world else "",
            scene.render.resolution_x, scene.view_settings.view_transform, lamps,
            sorted(c.name for c in scene.collection.children), len(bpy.data.worlds), len(bpy.data.lights),
            scene.view_settings.look]


def studio() -> None:
    """On and off."""
    before = state()
    bpy.ops.ganfit.studio()
    report["studio"] = state()
    bpy.ops.ganfit.studio()
    report["studio back"] = [before, state()]


def bump(at: np.ndarray) -> np.ndarray:
    """A smooth bump on the nose's side of the head, with a fine ripple that the cage cannot hold."""
    front = np.array([0.0, at[:, 1].min(), 0.0], np.float32)
    near = np.exp(-((at - front) ** 2).sum(1) / BUMP_RADIUS_M**2)[:, None]
    return (near * [0.0, -BUMP_M, 0.3 * BUMP_M] + 0.0002 * near * np.sin(2500 * at[:, :1])).astype(np.float32)


def carve(copy: bpy.types.Object) -> np.ndarray:
    """Sculpts the copy as a brush would: through its multires; returns the surface that it has then."""
    bpy.ops.object.mode_set(mode="OBJECT")
    surface = evaluated(copy)
    mesh = bpy.data.meshes.new_from_object(copy.evaluated_get(bpy.context.evaluated_depsgraph_get()))
    target = surface + bump(surface)
    mesh.vertices.foreach_set("co", target.ravel())
    source = bpy.data.objects.new("brush", mesh)
    bpy.context.scene.collection.objects.link(source)
    for thing in bpy.context.view_layer.objects:
        thing.select_set(thing in (source, copy))
    bpy.context.view_layer.objects.active = copy
    bpy.ops.object.multires_reshape(modifier=copy.modifiers[0].name)
    bpy.data.objects.remove(source)
    bpy.context.view_layer.objects.active = copy
    return target


def sculpts(out: Path) -> None:
    """Prepare, carve, refit, transfer, and all that must stay as it was."""
    report["no sculpt"] = attempt(bpy.ops.ganfit.sculpt_transfer)
    keys = head().data.shape_keys.key_blocks
    deltas = {block.name: points(block.data) - points(keys[0].data) for block in keys[1:]}
    arrays["basis"] = points(keys[0].data)
    keys["jawOpen"].value = 0.4
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ganfit.sculpt_prepare(levels=2)
    copy = find("ganfit_sculpt_of")
    report["prepared"] = {
        "mode": bpy.context.mode, "levels": copy.modifiers[0].total_levels, "keys": len(keys),
        "hidden": head().hide_get(), "copy has keys": copy.data.shape_keys is not None,
    }
    arrays["sculpted"] = carve(copy)
    lashes = find("ganfit_part", "lashes")
    lashes_before = points(lashes.data.vertices)
    bpy.ops.ganfit.sculpt_refit(output=str(out / "refitted"))
    report["versions"] = sorted(c.name for c in bpy.context.scene.collection.children)
    report["refit request"] = json.loads((out / "refitted" / "request.json").read_text())
    arrays["refit offsets"] = np.load(out / "refitted" / "sculpt.npz")["offsets"]
    new = bpy.data.collections["refitted"]
    report["old hidden"] = next(c for c in bpy.context.scene.collection.children if c != new).hide_viewport
    bpy.ops.ganfit.match_photo()
    for thing in list(new.all_objects):
        bpy.data.objects.remove(thing)
    bpy.data.collections.remove(new)
    for collection in bpy.context.scene.collection.children:
        collection.hide_viewport = collection.hide_render = False
    bpy.ops.ganfit.sculpt_transfer()
    after = head()
    keys = after.data.shape_keys.key_blocks
    report["transferred"] = {"jawOpen": keys["jawOpen"].value, "hidden": after.hide_get(),
                             "copy": find("ganfit_sculpt_of") is not None, "keys": len(keys),
                             "modifiers": [modifier.type for modifier in after.modifiers],
                             "drift": max(float(np.abs(points(keys[name].data) - points(keys[0].data) - delta).max())
                                          for name, delta in deltas.items())}
    keys["jawOpen"].value = 0.0
    arrays["after"], arrays["after basis"] = evaluated(after), points(keys[0].data)
    arrays["lashes moved"] = points(find("ganfit_part", "lashes").data.vertices) - lashes_before
    cage_only = after.copy()
    cage_only.data = after.data.copy()
    bpy.context.scene.collection.objects.link(cage_only)
    cage_only.modifiers.clear()
    smooth = cage_only.modifiers.new("Smooth", "SUBSURF")
    smooth.levels, smooth.use_limit_surface = 2, True
    arrays["cage only"] = evaluated(cage_only)
    bpy.data.objects.remove(cage_only)


def scene_signature() -> list:
    """What an undo has to bring back."""
    scene = bpy.context.scene
    things = sorted((t.name, t.hide_render, len(t.modifiers), len(t.constraints), t.type) for t in scene.objects)
    return [things, state(), {name: round(value, 5) for name, value in weights().items()},
            sorted(len(m.vertices) for m in bpy.data.meshes if m.users), bpy.context.mode,
            [c.asset_data is not None for c in scene.collection.children],
            [(c.name, c.hide_viewport) for c in scene.collection.children], scene.frame_end,
            {kind: len([item for item in getattr(bpy.data, kind) if item.users]) for kind in (
                "objects", "materials", "images", "actions", "shape_keys", "cameras", "collections", "node_groups")},
            sorted(round(float(np.abs(points(block.data)).sum()), 3) for t in scene.objects
                   if t.type == "MESH" and t.data.shape_keys for block in t.data.shape_keys.key_blocks),
            [owner.animation_data is not None and owner.animation_data.action is not None
             for owner in (head(), head().data.shape_keys)]]


def undo(out: Path, capture: str) -> None:
    """Every operator on a head, taken back in one step."""
    bpy.ops.ganfit.as_in_photo()
    report["undo"] = {}
    for name, arguments in (
        ("neutral", {}), ("mirror_weights", {}), ("studio", {}), ("match_photo", {}), ("eye_target", {}),
        ("mark_asset", {}), ("sculpt_prepare", {"levels": 1}), ("sculpt_transfer", {}), ("sculpt_discard", {}),
        ("import_capture", {"filepath": capture}), ("paint_skin", {}), ("refit", {"output": str(out / "fitted")}),
        ("sculpt_refit", {"output": str(out / "sculpted")}), ("import_result", {"directory": str(out / "fitted")}),
    ):
        if name in ("sculpt_transfer", "sculpt_discard"):
            bpy.ops.ganfit.sculpt_prepare(levels=2)
            carve(find("ganfit_sculpt_of"))
        bpy.context.view_layer.objects.active = head()
        bpy.ops.ed.undo_push(message="before")
        before = json.loads(json.dumps(scene_signature()))
        getattr(bpy.ops.ganfit, name)(**arguments)
        during = json.loads(json.dumps(scene_signature()))
        bpy.ops.ed.undo_push(message=name)
        bpy.ops.ed.undo()
        after = json.loads(json.dumps(scene_signature()))
        report["undo"][name] = [during != before, [[was, now] for was, now in zip(before, after) if was != now]]
        if find("ganfit_sculpt_of"):
            bpy.ops.ganfit.sculpt_discard()
    bpy.ops.ganfit.neutral()


def renamed() -> None:
    """Operators find their objects after everything has another name."""
    for thing in bpy.context.scene.objects:
        thing.name = f"x{thing.name}y"
    for collection in bpy.context.scene.collection.children:
        collection.name = "somebody"
    bpy.ops.ganfit.as_in_photo()
    report["renamed"] = weights()["jawOpen"]
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    bpy.ops.ganfit.sculpt_discard()
    report["discarded"] = [find("ganfit_sculpt_of") is None, head().hide_get(), weights()["jawOpen"]]


def main(job: dict) -> None:
    """All of it on one imported head."""
    out = Path(job["out"])
    os.environ["FAKE_BUNDLE"] = job["bundle"]
    install(job["zip"])
    empty_scene()
    preferences().python_path = job["python"]
    report["nobody"] = bpy.ops.ganfit.neutral.poll()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    expressions()
    captures(job["capture"])
    studio()
    undo(out, job["capture"])
    sculpts(out)
    renamed()
    np.savez(out / "character.npz", **arrays)
    answer(out / "character.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
