# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in Blender's Python: imports a bundle with the add-on's importer and renders it with Cycles, film transparent.

python render_bundle.py '{"bundle": folder, "out": PNG, "samples": 64}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ganfit_blender.importer.scene import import_bundle  # noqa: E402


def main() -> None:
    """One picture, matched to the bundle's first photo."""
    job = json.loads(sys.argv[1])
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    import_bundle(bpy.context, Path(job["bundle"]))
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = job["samples"]
    scene.cycles.seed = 1
    scene.render.film_transparent = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = job["out"]
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main()
