# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by `build.py run` with Blender's Python: photos to a .blend and a Cycles render through the installed extension.

The argument is JSON: zip, backend_python, photos, out (the bundle's folder), preset, device, and optionally basis,
seed and samples. Writes `<name>.blend` and `<name>_cycles.png` into the bundle's folder.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from in_blender import empty_scene, install, leave, preferences, quiet_stdout, render  # noqa: E402

SAMPLES = 96
LONGEST_SIDE = 1024  # of the render, in pixels
LIVE_SECONDS, QUIET_SECONDS = 2.0, 10.0  # how often a terminal and a pipe see that it goes on


@contextmanager
def step(name: str, silent: bool = True):
    """Says what goes on, that it still does when the step itself is silent, and how long it took."""
    done, start, live = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def tick() -> None:
        while not done.wait(LIVE_SECONDS if live else QUIET_SECONDS):
            line = f"{name} {time.monotonic() - start:.0f} s"
            sys.stderr.write(f"\r{line}" if live else f"  {line}\n")
            sys.stderr.flush()

    print(f"{name} ...", flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    if silent:
        ticker.start()
    try:
        yield
    finally:
        done.set()
    end = "\r" if live else ""
    print(f"{end}{name}: {time.monotonic() - start:.1f} s", flush=True)


def reconstruct(job: dict) -> None:
    """The extension's own operator, blocking, on the scene's settings."""
    scene = empty_scene()
    preferences().python_path = job["backend_python"]
    for photo in job["photos"]:
        scene.ganfit.photos.add().path = photo
    for name in ("preset", "device", "basis", "seed"):
        if name in job:
            setattr(scene.ganfit, name, job[name])
    bpy.ops.ganfit.reconstruct(output=job["out"])


def save(blend: Path) -> None:
    """The scene, its pictures named relative to it, so that the folder can be moved as a whole."""
    bpy.ops.wm.save_as_mainfile(filepath=str(blend), check_existing=False)
    bpy.ops.file.make_paths_relative()
    bpy.ops.wm.save_mainfile()
    Path(f"{blend}1").unlink(missing_ok=True)  # Blender's backup of the first of the two


def main(job: dict) -> None:
    """Install, reconstruct, save, render."""
    out = Path(job["out"])
    with step("Installing the extension"):
        install(job["zip"])
    try:
        with step("Reconstructing", silent=False):  # the operator prints its progress
            reconstruct(job)
    except RuntimeError as error:  # an operator's error report
        sys.exit(str(error).strip().removeprefix("Error: "))
    with step("Saving the .blend"), quiet_stdout():
        save(out / f"{out.name}.blend")
    size = bpy.context.scene.render
    size.resolution_percentage = min(100, round(100 * LONGEST_SIDE / max(size.resolution_x, size.resolution_y)))
    with step("Rendering with Cycles"):
        render(out / f"{out.name}_cycles.png", job.get("samples", SAMPLES))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
