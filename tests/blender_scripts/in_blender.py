# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scripts that run inside Blender share: the installed extension, quiet Cycles renders, results as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

EXTENSION = "bl_ext.user_default.ganfit"


def install(zip_file: str | Path) -> None:
    """Installs and enables the extension's zip in the profile that BLENDER_USER_RESOURCES names."""
    if not os.environ.get("BLENDER_USER_RESOURCES"):
        raise SystemExit("Set BLENDER_USER_RESOURCES to a folder of its own: this script changes the profile.")
    with quiet_stdout():
        bpy.ops.extensions.package_install_files(
            filepath=str(zip_file), repo="user_default", enable_on_install=True, overwrite=True
        )
    if EXTENSION not in bpy.context.preferences.addons:
        raise SystemExit(f"Blender did not enable the extension {zip_file}.")


def leave() -> None:
    """Disables the extension, which ends what it has started: the last thing that a script does.

    The module of Blender 4.2 crashes after Python's end, in `SpaceType`'s destructor, whenever something still refers
    to it; `import bpy; bpy.ops.export_scene.gltf(filepath=...)` is enough. There the process ends here, with everything
    done: a crash before stays a crash.
    """
    bpy.ops.preferences.addon_disable(module=EXTENSION)
    if bpy.app.version < (4, 3, 0):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def preferences() -> bpy.types.AddonPreferences:
    """The extension's preferences."""
    return bpy.context.preferences.addons[EXTENSION].preferences


def empty_scene() -> bpy.types.Scene:
    """A new file without objects; the extension stays enabled."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


def render(path: str | Path, samples: int, subsurface: bool = True, denoise: bool = False) -> None:
    """Renders the scene's camera with Cycles on the processor to a PNG (or EXR, by the name)."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", samples
    scene.cycles.use_denoising, scene.cycles.use_adaptive_sampling = denoise, False
    scene.cycles.seed = 1
    scene.render.threads_mode, scene.render.threads = "FIXED", 2
    exr = Path(path).suffix == ".exr"
    scene.render.image_settings.file_format = "OPEN_EXR" if exr else "PNG"
    scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "32" if exr else "8"
    scene.render.filepath = str(path)
    if not subsurface:
        for material in bpy.data.materials:
            for node in material.node_tree.nodes if material.node_tree else ():
                if node.type == "BSDF_PRINCIPLED":
                    node.inputs["Subsurface Weight"].default_value = 0.0
    with quiet_stdout():
        bpy.ops.render.render(write_still=True)


def linear_pixels(path: str | Path) -> list:
    """(H, W, 4) float32 array of a rendered EXR, row 0 at the top."""
    import numpy as np

    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(image.size[1], image.size[0], 4)[::-1]


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Keeps what Blender's C code prints off the terminal."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def answer(path: str | Path, **values: object) -> None:
    """Writes a script's findings for the test that has started it; numpy's numbers as plain ones."""
    Path(path).write_text(json.dumps(values, default=lambda value: value.item()), "utf-8")
