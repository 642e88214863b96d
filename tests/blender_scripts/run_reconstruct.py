# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in Blender's Python for `build.py run`: installs the extension, reconstructs, saves the .blend, renders it.

python run_reconstruct.py '{"zip": ..., "backend_python": ..., "photos": [...], "out": ..., "preset": ...}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import bpy

ADDON = "bl_ext.user_default.ganfit"
SAMPLES = 128
LONGEST_SIDE = 1024  # of the render, pixels
PROGRESS_SECONDS = 5.0


def install(zip_file: str, backend_python: str) -> None:
    """Installs the zip in the profile that BLENDER_USER_RESOURCES names and points it at the backend's Python."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    bpy.ops.extensions.package_install_files(
        filepath=zip_file, repo="user_default", enable_on_install=True, overwrite=True
    )
    bpy.context.preferences.addons[ADDON].preferences.python_path = backend_python
    bpy.ops.wm.save_userpref()


def reconstruct(job: dict[str, Any]) -> None:
    """The add-on's own operator, as the panel's button calls it; it prints its progress."""
    settings = bpy.context.scene.ganfit
    settings.photos.clear()
    for photo in job["photos"]:
        settings.photos.add().path = photo
    settings.preset, settings.device = job["preset"], job["device"]
    try:
        bpy.ops.ganfit.reconstruct(output=job["out"])
    except RuntimeError:  # the operator's report, which Blender has printed already
        sys.exit(1)


def save(blend: Path) -> None:
    """The scene, its pictures named relative to it, so that the folder can be moved as a whole."""
    bpy.ops.wm.save_as_mainfile(filepath=str(blend), compress=True)
    bpy.ops.file.make_paths_relative()
    bpy.ops.wm.save_mainfile()
    Path(f"{blend}1").unlink(missing_ok=True)  # Blender's backup of the first of the two


def render(picture: Path) -> None:
    """A Cycles render through the photo's camera."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = SAMPLES
    side = max(scene.render.resolution_x, scene.render.resolution_y)
    scene.render.resolution_percentage = max(1, min(100, round(100 * LONGEST_SIDE / side)))
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(picture)
    with quiet_stdout() as out:
        show = _progress(out)
        bpy.app.handlers.render_stats.append(show)
        bpy.ops.render.render(write_still=True)
        bpy.app.handlers.render_stats.remove(show)


def _progress(out: TextIO) -> Any:
    """A render handler that prints where Cycles is, every few seconds."""
    last = time.monotonic()

    def show(stats: str, *_: object) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            print(f"Cycles: {stats.rsplit('|', 1)[-1].strip()}", file=out, flush=True)

    return show


@contextmanager
def quiet_stdout() -> Iterator[TextIO]:
    """Blender's own lines go nowhere; gives the real stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        with os.fdopen(os.dup(kept), "w") as out:
            yield out
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Prints what is done and how long it took."""
    start = time.monotonic()
    print(f"{title} ...", flush=True)
    yield
    print(f"{title}: done in {time.monotonic() - start:.1f} s", flush=True)


def main() -> int:
    """One job; the exit status is 1 when something was reported as an error."""
    job = json.loads(sys.argv[1])
    out = Path(job["out"])
    try:
        with timed("Installing the extension in a scratch Blender profile"), quiet_stdout():
            install(job["zip"], job["backend_python"])
        with timed("Reconstructing through the add-on's operator"):
            reconstruct(job)
        with timed(f"Rendering {out.name}_cycles.png"):
            render(out / f"{out.name}_cycles.png")
        with timed(f"Saving {out.name}.blend"), quiet_stdout():
            save(out / f"{out.name}.blend")
    except RuntimeError as error:  # what one of Blender's operators reports
        print(str(error).strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
