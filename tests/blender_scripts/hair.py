# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives a head hair with every cut, moves the head under it, undoes, exports, removes; writes what came of it.

The argument is JSON: zip, bundle (of the real head), bald (the same with another photo), layered (with a hair.png),
plain (a head without scalp),
out (folder).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import attempt, carve, find, head, points  # noqa: E402
from in_blender import answer, empty_scene, install, leave, linear_pixels, quiet_stdout, render  # noqa: E402
from mathutils import Vector  # noqa: E402
from mathutils.bvhtree import BVHTree  # noqa: E402

report: dict = {"cuts": {}}
COUNT = 3000


def hair() -> bpy.types.Object | None:
    """The strands."""
    return find("ganfit_hair")


def shown(first: bool = False) -> np.ndarray:
    """(N, K, 3) evaluated points in the world; or the length of the first strand, where they have unlike counts."""
    bpy.context.view_layer.update()
    thing = hair().evaluated_get(bpy.context.evaluated_depsgraph_get())
    data = thing.data.attributes["position"].data
    values = np.empty(len(data) * 3, np.float32)
    data.foreach_get("vector", values)
    matrix = np.array(thing.matrix_world)
    count = len(thing.data.curves)
    if first:
        strand = values.reshape(-1, 3)[: thing.data.curve_offset_data[1].value]
        return np.linalg.norm(np.diff(strand, axis=0), axis=1).sum()
    return (values.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]).reshape(count, -1, 3)


def heights(places: np.ndarray) -> np.ndarray:
    """(N,) signed distances of places in the world to the head as it is shown."""
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    tree = BVHTree.FromObject(head(), depsgraph)
    back = np.linalg.inv(np.array(head().evaluated_get(depsgraph).matrix_world))
    found = np.empty(len(places))
    for number, place in enumerate((places @ back[:3, :3].T + back[:3, 3]).tolist()):
        near, normal, _, distance = tree.find_nearest(place)
        out = sum((a - b) * c for a, b, c in zip(place, near, normal))
        found[number] = distance if out >= 0 else -distance
    return found


def depth(places: np.ndarray) -> float:
    """How deep the deepest place in the world is inside the head as it is shown (0: none is).

    The nearest face's side says little beside a thin ear: of places that seem to be inside, those count whose rays
    in four directions cross the skin an odd number of times.
    """
    off = heights(places)
    tree, matrix = BVHTree.FromObject(head(), bpy.context.evaluated_depsgraph_get()), head().matrix_world.inverted()
    for number in np.argsort(off):
        if off[number] >= 0:
            break
        odd = 0
        for way in ((0.03, 0.01, 1), (0.6, -0.2, 0.6), (-0.6, 0.3, 0.6), (0.1, 1, 0.3)):
            place, crossings = matrix @ Vector(places[number]), 0
            while (hit := tree.ray_cast(place, way)[0]) is not None:
                place, crossings = hit + 1e-5 * Vector(way), crossings + 1
            odd += crossings % 2
        if odd > 2:
            return -float(off[number])
    return 0.0


def mask(name: str) -> np.ndarray:
    """(V,) a region's mask."""
    values = np.empty(len(head().data.vertices), np.float32)
    head().data.attributes[f"region_{name}"].data.foreach_get("value", values)
    return values


def cuts() -> None:
    """Where the strands of every cut are."""
    skin = points(head().data.vertices)
    scalp, ears = mask("scalp") > 0.5, mask("ear_left") + mask("ear_right") > 0.5
    for cut in ("buzz", "short", "back", "side", "bob"):
        bpy.ops.ganfit.add_hair(cut=cut, count=COUNT)
        strands = shown()
        roots, rest = strands[:, 0], strands[:, 1:].reshape(-1, 3)
        squared = ((roots[:, None] - skin[None]) ** 2).sum(-1)
        off = heights(rest)
        report["cuts"][cut] = {
            "count": len(strands), "roots": float(np.abs(heights(roots)).max()), "deepest": depth(rest),
            "highest": float(np.quantile(off, 0.999)), "lowest": float(rest[:, 2].min()),
            "from scalp": float(np.sqrt(squared[:, scalp].min(1)).max()),
            "on ears": float(ears[squared.argmin(1)].mean()),
            "left": float((roots[:, 0] > 0).mean()),
            "length": float(np.median(np.linalg.norm(np.diff(strands, axis=1), axis=2).sum(1))),
        }


def follows() -> None:
    """A key, the object, the length, a sculpt."""
    bpy.ops.ganfit.add_hair(cut="short", count=COUNT)
    before = shown()
    key = head().shape_key_add(name="lift", from_mix=False)
    moved = points(head().data.shape_keys.key_blocks[0].data) + np.array([0.004, 0, 0.012], np.float32)
    key.data.foreach_set("co", moved.ravel())
    key.value = 1.0
    report["key"] = np.abs(shown() - before - [0.004, 0, 0.012]).max().item()
    key.value = 0.0
    head().data.shape_keys.key_blocks["shape_01"].value = 2.5
    report["shape"] = [float(np.abs(shown() - before).max()), float(np.abs(heights(shown()[:, 0])).max())]
    head().data.shape_keys.key_blocks["shape_01"].value = 0.0
    head().location, head().scale = (0.1, 0.2, 0.3), (2, 2, 2)
    report["object"] = float(np.abs(shown() - 2 * before - [0.1, 0.2, 0.3]).max())
    head().location, head().scale = (0, 0, 0), (1, 1, 1)
    modifier = hair().modifiers[0]
    name = next(i.identifier for i in modifier.node_group.interface.items_tree if i.name == "Length")
    modifier[name] = 0.5
    hair().update_tag()
    report["half"] = float(shown(first=True) / np.linalg.norm(np.diff(before[0], axis=0), axis=1).sum())
    modifier[name] = 1.0
    bpy.ops.ganfit.neutral()
    bpy.ops.ganfit.sculpt_prepare(levels=2)
    report["sculpting"] = hair().hide_get()
    carve(find("ganfit_sculpt_of"))
    bpy.ops.ganfit.sculpt_transfer(keep_detail=False)
    report["sculpted"] = [hair().hide_get(), float(np.abs(heights(shown()[:, 0])).max()), depth(
        shown()[:, 1:].reshape(-1, 3))]


def manners(out: Path) -> None:
    """Match Photo, export, undo, removal, material kept."""
    state = lambda: [hair().hide_render, hair().hide_viewport]  # noqa: E731
    report["match"] = [state()]
    for _ in range(2):
        bpy.ops.ganfit.match_photo()
        report["match"].append(state())
    hair().active_material.name = "Mine"
    bpy.ops.ganfit.add_hair(cut="buzz", count=COUNT)
    report["kept material"] = [hair().active_material.name, len(bpy.data.hair_curves)]
    with quiet_stdout():
        bpy.ops.ganfit.export(filepath=str(out / "with_hair.glb"), kind="GLB", level=0)
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ganfit.remove_hair()
    report["removed"] = [hair() is None, len(bpy.data.hair_curves), head().add_rest_position_attribute]
    report["remove again"] = bpy.ops.ganfit.remove_hair.poll()
    bpy.ops.ed.undo_push(message="removed")
    bpy.ops.ed.undo()
    report["undone"] = [hair() is not None, len(hair().data.curves) if hair() else 0]


def color(bundle: str) -> dict:
    """What Add Hair takes from the photo."""
    empty_scene()
    bpy.ops.ganfit.import_result(directory=bundle, match=False)
    mix = head().active_material.node_tree.nodes["Hair Mix"]
    shade = [list(s.default_value)[:3] for s in mix.inputs if s.identifier == "B_Color"][0]
    bpy.ops.ganfit.add_hair(count=COUNT)
    fibre = next(n for n in hair().active_material.node_tree.nodes if n.type == "BSDF_HAIR_PRINCIPLED")
    return {"color": list(hair().active_material.diffuse_color)[:3], "shade": shade,
            "melanin": fibre.inputs["Melanin"].default_value}


def radiance(out: Path) -> None:
    """How bright the strands look in the photo's light, beside white skin below them: linear red, green, blue."""
    bpy.ops.ganfit.match_photo()
    strands, others = hair(), [thing for thing in bpy.data.objects if thing.type == "MESH"]
    strands.hide_render = False
    white = bpy.data.materials.new("White")
    if bpy.app.version < (5, 0, 0):
        white.use_nodes = True
    nodes = white.node_tree.nodes
    nodes.clear()
    diffuse, output = nodes.new("ShaderNodeBsdfDiffuse"), nodes.new("ShaderNodeOutputMaterial")
    diffuse.inputs["Color"].default_value = (1, 1, 1, 1)
    white.node_tree.links.new(diffuse.outputs[0], output.inputs["Surface"])
    pictures = {}
    for name in ("hair", "cover", "white"):
        for thing in others:
            thing.is_holdout = name == "cover"
        if name == "white":
            strands.hide_render, head().material_slots[0].material = True, white
        render(out / f"{name}.exr", 16)
        pictures[name] = linear_pixels(out / f"{name}.exr")
    covered = pictures["cover"][..., 3]
    below = (covered > 0.5) & (pictures["white"][..., 3] > 0.9)
    report["radiance"] = (pictures["hair"][covered > 0.9, :3].mean(0) / pictures["white"][below, :3].mean(0)).tolist()


def layer(folder: str) -> None:
    """A head with the photo's hair as a layer: how strong it is before, with strands, with others, in Match Photo, out
    of it, in it again, there without strands, and after; whether the skin knows where strands are rooted."""
    report["layer"] = {"color": color(folder)["color"]}
    empty_scene()
    bpy.ops.ganfit.import_result(directory=folder, match=False)
    socket = head().active_material.node_tree.nodes["Hair Shade"].inputs[1]
    socket.default_value, strengths, rooted = 0.75, [], []
    for act in (lambda: None, lambda: bpy.ops.ganfit.add_hair(cut="short", count=COUNT),
                lambda: bpy.ops.ganfit.add_hair(cut="side", count=COUNT), bpy.ops.ganfit.match_photo,
                bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.remove_hair,
                bpy.ops.ganfit.match_photo):
        act()
        strengths.append(head().active_material.node_tree.nodes["Hair Shade"].inputs[1].default_value)
        rooted.append("hair_rooted" in head().data.attributes)
    report["layer"].update(strengths=strengths, rooted=rooted)
    report["layer"]["kept"] = {}
    for case in ("hidden", "copied", "deleted", "left"):
        empty_scene()
        bpy.ops.ganfit.import_result(directory=folder, match=False)
        socket = head().active_material.node_tree.nodes["Hair Shade"].inputs[1]
        socket.default_value = 0.75
        bpy.ops.ganfit.add_hair(cut="short", count=COUNT)
        if case == "hidden":
            hair().hide_render = hair().hide_viewport = True
        elif case == "copied":
            hair().users_collection[0].objects.link(hair().copy())
        strengths = []
        for number in range(4):
            bpy.ops.ganfit.match_photo()
            if case == "left" and number == 0:  # as files are that an older version has saved while matched
                socket.default_value = 0.0
                del head()["ganfit_layer_outside"]
            if case == "deleted" and number == 0:
                bpy.data.objects.remove(hair())
            strengths.append(socket.default_value)
        report["layer"]["kept"][case] = [*strengths, any("ganfit_layer_outside" in thing for thing in bpy.data.objects)]


def main(job: dict) -> None:
    """All of it."""
    out = Path(job["out"])
    install(job["zip"])
    report["photo"] = color(job["bundle"])
    bpy.ops.ganfit.add_hair()
    radiance(out)
    report["bald"] = color(job["bald"])
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    bpy.ops.ganfit.neutral()
    cuts()
    follows()
    manners(out)
    layer(job["layered"])
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["plain"], match=False)
    report["no scalp"] = [attempt(bpy.ops.ganfit.add_hair), hair() is None]
    answer(out / "hair.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
