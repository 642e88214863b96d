# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a bundle and writes down what its materials are made of, in Match Photo and out of it, and at other scales.

The argument is JSON: zip, bundle, mapped (a bundle with normal.png and roughness.png), out (folder).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import find, head  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, quiet_stdout, render  # noqa: E402

report: dict = {}
arrays: dict[str, np.ndarray] = {}


def shader(part: str) -> bpy.types.ShaderNode:
    """The Principled node of a part."""
    material = find("ganfit_part", part).data.materials[0]
    return next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")


def state() -> dict:
    """What Match Photo switches."""
    skin = head().data.materials[0].node_tree.nodes
    return {
        "coat": shader("eye_left").inputs["Coat Weight"].default_value,
        "specular": next(n for n in skin if n.label == "Specular Strength").inputs[1].default_value,
        "pores": next(n for n in skin if n.type == "BUMP").inputs["Strength"].default_value,
        "hair": skin["Hair Shade"].inputs[1].default_value if "Hair Shade" in skin else None,
    }


def scatter() -> float:
    """The scale of the skin's subsurface as it is evaluated, in the scene's units."""
    bpy.context.view_layer.update()
    material = head().data.materials[0].evaluated_get(bpy.context.evaluated_depsgraph_get())
    nodes = material.node_tree.nodes
    return nodes["Scatter (mm)"].outputs[0].default_value * 0.001 * nodes["Object Scale"].outputs[0].default_value


def images(part: str) -> dict[str, list]:
    """Name of the socket that an image leads to -> size, whether it is data, whether it is packed."""
    found = {}
    for node in find("ganfit_part", part).data.materials[0].node_tree.nodes:
        if node.type == "TEX_IMAGE":
            for link in node.outputs["Color"].links:
                found[f"{link.to_node.type}.{link.to_socket.name}"] = [
                    *node.image.size, node.image.colorspace_settings.is_data, node.image.packed_file is not None]
    return found


def main(job: dict) -> None:
    """Plain bundle, then the one with maps."""
    out = Path(job["out"])
    with quiet_stdout():
        install(job["zip"])
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    report["own"] = state()
    shader("eye_left").inputs["Coat Weight"].default_value = 0.8  # the artist's own choice has to survive
    bpy.ops.ganfit.match_photo()
    report["matched"] = state()
    bpy.ops.ganfit.match_photo()
    report["back"] = state()
    report["scatter"] = [scatter()]
    head().scale = (10, 10, 10)
    report["scatter"].append(scatter())
    head().scale = (1, 1, 1)
    report["skin"], report["eye"] = images("skin"), images("eye_left")
    both = [node.image.name for part in ("eye_left", "eye_right")
            for node in find("ganfit_part", part).data.materials[0].node_tree.nodes if node.type == "TEX_IMAGE"]
    report["shared"] = len(set(both)) == 1 and len(both) == 2
    nodes = head().data.materials[0].node_tree.nodes
    report["paint"] = nodes.active.image.name if nodes.active and nodes.active.type == "TEX_IMAGE" else ""
    eye = bpy.data.images[both[0]] if both else None
    if eye is not None:
        pixels = np.empty(eye.size[0] * eye.size[1] * 4, np.float32)
        eye.pixels.foreach_get(pixels)
        arrays["eye"] = pixels.reshape(eye.size[1], eye.size[0], 4)[..., :3]
    for name in ("ganfit_roughness", "ganfit_specular", "region_lips"):
        values = np.empty(len(head().data.vertices), np.float32)
        head().data.attributes[name].data.foreach_get("value", values)
        arrays[name] = values
    bpy.ops.ganfit.paint_skin()
    skin = head().active_material
    canvas = skin.texture_paint_images[skin.paint_active_slot] if skin.texture_paint_images else None
    report["canvas"] = [bpy.context.mode, canvas.name if canvas else ""]
    bpy.ops.object.mode_set(mode="OBJECT")
    report["sliders"] = sorted(importlib.import_module(f"{EXTENSION}.panels.look").skin_sockets(skin))
    bpy.ops.ganfit.studio()
    bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y = 120, 150
    render(out / "studio.png", 8)
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["mapped"], match=False)
    report["mapped"] = images("skin")
    np.savez(out / "looks.npz", **arrays)
    answer(out / "looks.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    bpy.ops.preferences.addon_disable(module=EXTENSION)
