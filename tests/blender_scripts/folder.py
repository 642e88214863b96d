# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs folders through the installed extension with a stand-in worker, and writes what the scene holds then.

The argument is JSON: zip, python (a Python whose `-m backend` is the stand-in), people (folder), bundle, out (folder).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, preferences  # noqa: E402


def run() -> str:
    """The operator's report."""
    try:
        return sorted(bpy.ops.ganfit.batch())[0]
    except RuntimeError as error:
        return str(error)


def described(scene: bpy.types.Scene) -> dict:
    """Collections with their people, and the table in the panel."""
    rows = bpy.context.window_manager.ganfit_batch.rows
    found = {}
    for parent in scene.collection.children:
        skins = {c: next(t for t in c.all_objects if t.get("ganfit_part") == "skin") for c in parent.children}
        heads = [(c.name, [round(v, 3) for v in thing.location], c.hide_viewport) for c, thing in skins.items()]
        cameras = {c.name: [round(v, 3) for v in next(t for t in c.all_objects if t.type == "CAMERA").location]
                   for c in parent.children}
        links = [(t.name, [round(v, 3) for v in t.location], t.instance_collection.library.filepath)
                 for t in parent.objects if t.instance_collection]
        found[parent.name] = {"heads": sorted(heads), "cameras": cameras, "links": sorted(links)}
    return {"collections": found, "rows": [[row.name, row.state, row.text] for row in rows],
            "message": sys.modules[f"{EXTENSION}.session"].current().message}


def watched() -> list:
    """From now on: how many heads there are, and everyone's state, after each step in placing heads."""
    gallery, seen = sys.modules[f"{EXTENSION}.gallery"], []
    place = gallery.place_people

    def watching(context, name, people, *more, **named):
        for added in place(context, name, people, *more, **named):
            heads = [thing for thing in context.scene.objects if thing.get("ganfit_part") == "skin"]
            seen.append([len(heads), [person.state for person in people]])
            yield added

    gallery.place_people = watching
    return seen


def undone_between_steps(folder: Path, built: int) -> list:
    """An undo to the state after so many steps while someone is being placed: how the steps end, who comes by new ones,
    how many heads there are, and what is in no scene."""
    gallery, table = (sys.modules[f"{EXTENSION}.{name}"] for name in ("gallery", "batch_table"))
    placed: set[str] = set()

    def place():
        return gallery.place_people(bpy.context, "again", table.read_table(folder), False, placed)

    steps, end = place(), ""
    for number in range(built + 3):
        if number == built:
            bpy.ops.ed.undo_push(message="one")
        next(steps)
    bpy.ops.ed.undo_push(message="two")
    bpy.ops.ed.undo()
    try:
        list(steps)
    except ReferenceError:
        end = "ReferenceError"
    added = sum(place())
    return [end, added, len([t for t in bpy.context.scene.objects if t.get("ganfit_part") == "skin"]),
            [t.name for t in bpy.data.objects if not t.users_scene],
            [c.name for c in bpy.data.collections if c.users == 0]]


def restarted(mode: str) -> None:
    """The stand-in behaves like this from now on."""
    sys.modules[f"{EXTENSION}.session"].current().abandon()
    os.environ["FAKE_WORKER"] = mode


def main(job: dict) -> None:
    """A grid, the same again, a folder that has grown, linked files, a batch that is cancelled and goes on, no folder.
    """
    out, report = Path(job["out"]), {}
    os.environ.update(FAKE_BUNDLE=job["bundle"], FAKE_WORKER="ok")
    install(job["zip"])
    scene = empty_scene()
    preferences().python_path = job["python"]
    report["none"] = run()
    scene.ganfit.folder, scene.ganfit.output = "/no/such/folder", str(out / "results")
    report["missing"] = run()
    scene.ganfit.folder = job["people"]
    report["seen"] = watched()
    bpy.ops.ed.undo_push(message="before")
    report["result"], report["grid"] = run(), described(scene)
    bpy.ops.ed.undo_push(message="after")
    report["again result"], report["again"] = run(), described(scene)
    bpy.ops.ed.undo_push(message="again")
    bpy.ops.ed.undo()
    bpy.ops.ed.undo()
    report["undone"] = described(bpy.context.scene)["collections"]
    scene = empty_scene()
    scene.ganfit.folder, scene.ganfit.output = job["people"], str(out / "linked")
    scene.ganfit.arrange = "linked"
    count = len(bpy.data.meshes)
    report["linked result"], report["linked"] = run(), described(scene)
    report["local meshes"] = len([m for m in bpy.data.meshes if m.library is None]) - count
    report["blends"] = sorted(str(p.relative_to(out)) for p in out.glob("linked/**/*.blend"))
    scene = empty_scene()
    scene.ganfit.folder, scene.ganfit.output = job["people"], str(out / "stopped")
    restarted("stop")
    report["stopped result"], report["stopped"] = run(), described(scene)
    restarted("exit")
    report["dead result"], report["dead"] = run(), described(scene)
    restarted("ok")
    next(t for t in scene.objects if t.get("ganfit_part") == "skin").location.x += 0.05  # the artist's own move
    (Path(job["people"]) / "abe.jpg").write_bytes(b"abe")
    report["on result"], report["on"] = run(), described(scene)
    report["undone between steps"] = []
    for built in (0, 6):
        empty_scene()
        report["undone between steps"].append(undone_between_steps(out / "results" / "people", built))
    answer(out / "report.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
