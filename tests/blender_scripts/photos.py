# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of photos, pins and a refit through the installed extension with a stand-in worker; writes what came.

The argument is JSON: zip, python (a Python whose `-m backend` is the stand-in), photos, bundle (two views), out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, preferences  # noqa: E402


def head() -> bpy.types.Object:
    """The active head."""
    return sys.modules[f"{EXTENSION}.importer.scene"].active_head(bpy.context)


def pinned() -> list:
    """Pins of all photos of the active head."""
    return [[[pin.index, round(pin.x, 3), round(pin.y, 3)] for pin in view.pins] for view in head().ganfit_views]


def attempt(operator, **arguments: object) -> str:
    """How an operator ended."""
    try:
        return sorted(operator(**arguments))[0]
    except RuntimeError as error:
        return str(error)


def main(job: dict) -> None:
    """The list before a fit, the head's photos after it, pins, fitting again, errors."""
    out, report = Path(job["out"]), {}
    record = out / "requests.jsonl"
    os.environ.update(FAKE_BUNDLE=job["bundle"], FAKE_WORKER="ok", FAKE_RECORD=str(record))
    install(job["zip"])
    scene = empty_scene()
    preferences().python_path = job["python"]
    settings = scene.ganfit
    folder = Path(job["photos"][0]).parent
    files = [{"name": Path(photo).name} for photo in job["photos"]]
    bpy.ops.ganfit.photos_add(directory=str(folder), files=files)
    report["focal"] = [photo.focal_mm for photo in settings.photos]
    bpy.ops.ganfit.photo_move(index=2, step=-1)
    report["order"] = [Path(photo.path).name for photo in settings.photos]
    report["end of list"] = attempt(bpy.ops.ganfit.photo_move, index=2, step=1)
    settings.photos[1].use = False
    settings.photos[2].focal_mm = 35
    report["reconstruct"] = attempt(bpy.ops.ganfit.reconstruct, output=str(out / "anna"))
    for photo in settings.photos:
        photo.use = False
    report["all off"] = attempt(bpy.ops.ganfit.reconstruct, output=str(out / "anna"))

    landmarks = sys.modules[f"{EXTENSION}.landmarks"]
    report["views"] = [[view.name, view.use, view.focal_mm] for view in head().ganfit_views]
    report["edit"] = attempt(bpy.ops.ganfit.pins_edit)
    bpy.ops.ed.undo_push(message="before pins")
    landmarks.set_pin(head().ganfit_views[1].pins, 61, (20.5, 30.25))
    landmarks.set_pin(head().ganfit_views[0].pins, 4, (1.0, 2.0))
    landmarks.set_pin(head().ganfit_views[1].pins, 61, (21.5, 30.25))
    bpy.ops.ed.undo_push(message="pins")
    report["pins"] = pinned()
    bpy.ops.ed.undo()
    report["undone"] = pinned()
    bpy.ops.ed.redo()
    head().ganfit_views[0].use = False
    head().ganfit_views[1].focal_mm = 85
    head().name = "renamed"
    report["refit"] = attempt(bpy.ops.ganfit.refit, output=str(out / "again"))
    report["collections"] = sorted([c.name, c.hide_viewport] for c in bpy.context.scene.collection.children)
    report["new pins"] = pinned()
    report["clear"], report["cleared"] = attempt(bpy.ops.ganfit.pins_clear), pinned()
    for view in head().ganfit_views:
        view.use = False
    report["none used"] = attempt(bpy.ops.ganfit.refit)
    head().ganfit_views[0].use = True
    head()["ganfit_bundle"] = str(out / "gone")
    report["gone"] = attempt(bpy.ops.ganfit.refit)
    report["requests"] = [json.loads(line) for line in record.read_text().splitlines()]
    answer(out / "report.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
