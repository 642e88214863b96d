# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a head with glasses, changes head and glasses in all ways, exports both; writes what came of it.

The argument is JSON: zip, egg (a small head with hair and glasses), real (a real one with glasses), both (that one with
hair, too), bare and old (whose second photo shows none, and of whose photos nobody knows), without (folders of bundles
whose head gets none), broken (folders of damaged bundles), mixed (colours and covers), out (folder) and samples.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import attempt, evaluated, find, head  # noqa: E402
from export_back import image_behind, pixels_of  # noqa: E402
from in_blender import EXTENSION, answer, install, leave, quiet_stdout, render  # noqa: E402
from operators import Layout  # noqa: E402
from shell import COUNT, ENDINGS, person, raise_sculpt, read, seen, shell, state_of, strands, taken  # noqa: E402

report: dict = {}


def glasses() -> bpy.types.Object | None:
    """The glasses that came with the result."""
    return find("ganfit_glasses")


def shader() -> bpy.types.ShaderNode:
    """The principled one of the glasses' material."""
    return next(node for node in glasses().data.materials[0].node_tree.nodes if node.type == "BSDF_PRINCIPLED")


def all_seen() -> list:
    """Whether strands, the photo's hair and the glasses are seen."""
    return [seen(strands()), seen(shell()), seen(glasses())]


def buttons_drawn() -> list[str]:
    """The buttons of the panel for the photo's hair and glasses."""
    drawn: list[str] = []
    panel = importlib.import_module(f"{EXTENSION}.panels.hair").GANFIT_PT_hair
    panel.draw(type("Panel", (), {"layout": Layout(drawn)})(), bpy.context)
    return [name for name in drawn if "photo" in name]


def mixed(job: dict) -> None:
    """What the importer makes of colours and covers (N, 4), and of the file's picture, also once that is saved."""
    module = importlib.import_module(f"{EXTENSION}.importer.shell")
    report["mixed"] = module.mixed_linearly(np.array([job["mixed"]])).tolist()[0]
    person(job["egg"])
    image = image_behind(shader().inputs["Alpha"])
    before, path = pixels_of(image), str(Path(job["out"]) / "saved.blend")
    np.save(Path(job["out"]) / "picture.npy", before)
    image.reload()
    report["kept"] = [float(np.abs(pixels_of(image) - before).max())]
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    report["kept"].append(float(np.abs(pixels_of(image_behind(shader().inputs["Alpha"])) - before).max()))


def imported(job: dict) -> None:
    """What the object is, and which bundles give none."""
    report["without"], report["broken"] = {}, {}
    for folder in map(Path, job["without"]):
        person(str(folder))
        lost = [image.name for image in bpy.data.images if image.name.endswith("glasses")]
        able = bpy.ops.ganfit.photo_glasses.poll()
        report["without"][folder.name] = [glasses() is not None, len(lost), able, buttons_drawn()]
    for folder in map(Path, job["broken"]):
        bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
        error = attempt(bpy.ops.ganfit.import_result, directory=str(folder))
        report["broken"][folder.name] = [error, len(bpy.data.objects)]
    collection = person(job["egg"])
    thing, image = glasses(), image_behind(shader().inputs["Base Color"])
    mesh, material = thing.data, thing.data.materials[0]
    report["object"] = {
        "name": thing.name, "parent": thing.parent is head(), "collection": thing.name in collection.objects,
        "sides": sorted({len(polygon.vertices) for polygon in mesh.polygons}), "faces": len(mesh.polygons),
        "modifiers": len(thing.modifiers), "layers": [layer.name for layer in mesh.uv_layers],
        "keys": list(mesh.shape_keys.key_blocks.keys()), "material": material.name, "image": image.name,
        "packed": image.packed_file is not None, "alpha": image_behind(shader().inputs["Alpha"]) is image,
        "culled": material.use_backface_culling, "roughness": round(shader().inputs["Roughness"].default_value, 4),
        "buttons": buttons_drawn(), "hair": shell().data.materials[0].name, "solid": list(material.diffuse_color)[:3],
    }


def matched(job: dict) -> None:
    """The photo's look and back, and a picture of it."""
    def look() -> list:
        shine = shader().inputs["Specular IOR Level"].default_value
        return [glasses().visible_shadow, glasses().visible_diffuse, round(shine, 4), seen(glasses())]

    person(job["egg"])
    report["match"] = [look()]
    for _ in range(2):
        bpy.ops.ganfit.match_photo()
        report["match"].append(look())
    person(job["real"])
    bpy.ops.ganfit.match_photo()
    render(Path(job["out"]) / "match.png", job["samples"])


def absent(job: dict) -> None:
    """The second of two photos shows none: Match Photo, its button meanwhile, a file, a sculpt."""
    match, toggle = bpy.ops.ganfit.match_photo, bpy.ops.ganfit.photo_glasses
    other = lambda: match(view=1)  # noqa: E731
    report["absent"] = {}
    for name, steps in {"other": (match, match, other, match), "first": (other, match, match, match),
                        "shown there": (other, toggle, match), "twice": (other, toggle, toggle, match),
                        "hidden": (toggle, other, match, toggle)}.items():
        person(job["bare"])
        report["absent"][name] = taken(steps, lambda: seen(glasses()))
    person(job["bare"])
    other()
    path = Path(job["out"]) / "absent.glb"
    with quiet_stdout():
        bpy.ops.ganfit.export(filepath=str(path), kind="GLB", level=0)
    report["absent"]["file"] = "Glasses" in read(path, None)["names"]
    person(job["old"])
    report["absent"]["old"] = taken((other, match), lambda: seen(glasses()))


def buttons(job: dict) -> None:
    """Each button has a thing of its own; strands take the hair's place alone; undo."""
    add = lambda: bpy.ops.ganfit.add_hair(cut="buzz", count=COUNT)  # noqa: E731
    person(job["both"])
    report["buttons"] = taken((bpy.ops.ganfit.photo_glasses, bpy.ops.ganfit.photo_hair, bpy.ops.ganfit.photo_glasses,
                               bpy.ops.ganfit.photo_hair), all_seen)
    report["strands"] = taken((add, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.remove_hair),
                              all_seen)
    report["hidden"] = taken((bpy.ops.ganfit.photo_glasses, add, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo,
                              bpy.ops.ganfit.remove_hair, bpy.ops.ganfit.photo_glasses), all_seen)
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ganfit.photo_glasses()
    bpy.ops.ed.undo_push(message="hidden")
    report["undo"] = taken((None, bpy.ops.ed.undo), all_seen)


def ends() -> np.ndarray:
    """(E, 2) the vertices of the glasses' edges."""
    found = np.empty(2 * len(glasses().data.edges), np.int32)
    glasses().data.edges.foreach_get("vertices", found)
    return found.reshape(-1, 2)


def lengths(places: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(E,) lengths of edges (E, 2) between places (V, 3)."""
    return np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1)


def follows(job: dict) -> None:
    """Sliders and sculpts."""
    person(job["real"])
    keys, edges, plain = head().data.shape_keys.key_blocks, ends(), evaluated(glasses())
    report["stretched"] = {}
    for name in ("shape_01", "shape_02", "shape_03", "shape_04"):
        keys[name].value = 2.5
        moved = evaluated(glasses())
        ratio = lengths(moved, edges) / lengths(plain, edges)
        report["stretched"][name] = [float(np.abs(moved - plain).max()), float(ratio.min()), float(ratio.max())]
        keys[name].value = 0.0
    person(job["egg"])
    bpy.ops.ganfit.neutral()
    keys, plain = head().data.shape_keys.key_blocks, evaluated(glasses())
    report["moved"] = {}
    for name, value in (("shape_01", 2.0), ("shape_03", 2.0), ("jawOpen", 1.0)):
        keys[name].value = value
        moved = evaluated(glasses()) - plain
        report["moved"][name] = [moved.min(0).tolist(), moved.max(0).tolist()]
        keys[name].value = 0.0
    report["sculpting"] = []
    for act in ((), (bpy.ops.ganfit.photo_glasses,)):
        bpy.ops.ganfit.sculpt_prepare(levels=1)
        states = [state_of(glasses())]
        for step in act:
            step()
            states.append(state_of(glasses()))
        bpy.ops.ganfit.sculpt_discard()
        report["sculpting"].append([*states, state_of(glasses())])
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    raise_sculpt(np.array([0, 0.002, 0.006], np.float32))
    report["raised"] = float(np.abs(evaluated(glasses()) - plain - [0, 0.002, 0.006]).max())


def exported(job: dict) -> None:
    """Files with the glasses, of all kinds and smoothings, and without them, read back."""
    report["files"] = {}
    wanted = [(kind, 1, True) for kind in ENDINGS] + [("GLB", level, True) for level in (0, 4)] + [("GLB", 0, False)]
    for kind, level, shown in wanted:
        path = Path(job["out"]) / f"glasses_{level}{ENDINGS[kind]}"
        person(job["egg"])
        head().data.shape_keys.key_blocks["shape_01"].value = 2.0
        if not shown:
            bpy.ops.ganfit.photo_glasses()
        places, faces = evaluated(glasses()), len(glasses().data.polygons)
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(path), kind=kind, level=level)
        found = read(path, places, "Glasses")
        divided = [len(thing.data.polygons) > 2 * faces for thing in bpy.data.objects if thing.name == "Glasses"]
        report["files"][f"{kind} {level} {shown}"] = found | {"divided": any(divided)}


def awkward(job: dict) -> None:
    """Deleted glasses, glasses without their head, and a head that is imported once more."""
    report["deleted"] = {}
    for name, lost in (("glasses", glasses), ("hair", shell)):
        person(job["egg"])
        bpy.data.objects.remove(lost())
        errors = [attempt(bpy.ops.ganfit.match_photo) for _ in range(2)]
        errors += [attempt(bpy.ops.ganfit.sculpt_prepare, levels=1), attempt(bpy.ops.ganfit.sculpt_transfer)]
        path = Path(job["out"]) / "deleted.glb"
        with quiet_stdout():
            errors.append(attempt(bpy.ops.ganfit.export, filepath=str(path), kind="GLB", level=0))
        report["deleted"][name] = [errors, bpy.ops.ganfit.photo_glasses.poll(), read(path, None)["names"]]
    person(job["egg"])
    bpy.ops.ganfit.match_photo()
    bpy.data.objects.remove(glasses())
    report["deleted in match"] = attempt(bpy.ops.ganfit.match_photo)
    with quiet_stdout():
        bpy.ops.ganfit.import_result(directory=job["egg"], match=True)
        bpy.ops.ganfit.import_result(directory=job["egg"], match=True)
    report["again"] = [[thing.name, thing.parent.name] for thing in bpy.data.objects if "ganfit_glasses" in thing]
    person(job["egg"])
    bpy.data.objects.remove(head())
    report["alone"] = [bpy.ops.ganfit.photo_glasses.poll(), attempt(bpy.ops.ganfit.match_photo)]


def main(job: dict) -> None:
    """All of it."""
    install(job["zip"])
    for part in (mixed, imported, matched, absent, buttons, follows, exported, awkward):
        part(job)
    answer(Path(job["out"]) / "glasses.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
