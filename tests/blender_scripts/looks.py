# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a bundle and writes down what its materials are made of, in Match Photo and out of it, and at other scales.

The argument is JSON: zip, bundle, mapped (a bundle with normal.png and roughness.png), out (folder).
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from character import find, head  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, linear_pixels, render  # noqa: E402

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
        "teeth": inputs("teeth", "Teeth Brightness", "Factor_Float"),
        "skin under": shader("skin").inputs["Subsurface Weight"].default_value,
        "teeth under": shader("teeth").inputs["Subsurface Weight"].default_value,
        "lash tips": inputs("lashes", "Lash Tips", "Value_001"),
        "cornea": cornea("eye_left").inputs["Depth (mm)"].default_value,
        "iris light": cornea("eye_left").inputs["Iris Light"].default_value,
    }


def inputs(part: str, label: str, socket: str) -> float:
    """A number of a part's node with a label."""
    nodes = find("ganfit_part", part).data.materials[0].node_tree.nodes
    node = next(node for node in nodes if node.label == label)
    return next(entry.default_value for entry in node.inputs if entry.identifier == socket)


def cornea(part: str) -> bpy.types.ShaderNode:
    """The cornea's group in an eye's material."""
    return find("ganfit_part", part).data.materials[0].node_tree.nodes["GANFIT Cornea"]


def corneas(out: Path) -> None:
    """Pictures of what the cornea's group gives for each eye alone, turned and not: where it looks, and normals."""
    scene = bpy.context.scene
    camera = bpy.data.objects.new("Eye Camera", bpy.data.cameras.new("Eye Camera"))
    scene.collection.objects.link(camera)
    camera.data.type, camera.data.ortho_scale, camera.data.clip_start = "ORTHO", 0.02, 0.001
    scene.camera, scene.render.resolution_x, scene.render.resolution_y = camera, 48, 48
    camera.rotation_euler = (math.pi / 2, 0, 0)  # looks along +Y: into the eyes
    for other in scene.objects:
        other.hide_render = other.type == "MESH"
    report["cornea"] = {}
    for part in ("eye_left", "eye_right"):
        eye, node = find("ganfit_part", part), cornea(part)
        eye.hide_render = False
        tree = eye.data.materials[0].node_tree
        light = tree.nodes.new("ShaderNodeEmission")
        tree.links.new(light.outputs[0], next(n for n in tree.nodes if n.type == "OUTPUT_MATERIAL").inputs["Surface"])
        report["cornea"][part] = {entry.name: entry.default_value for entry in node.inputs}
        for turn in (0, 35):
            eye.rotation_euler = (0, 0, math.radians(turn))
            camera.location = eye.matrix_world.translation.x, -0.1, eye.matrix_world.translation.z
            for name in ("UV", "Cornea Normal", "Iris Normal"):
                tree.links.new(node.outputs[name], light.inputs["Color"])
                for suffix, depth in (("", report["cornea"][part]["Depth (mm)"]), (" flat", 0.0)):
                    if suffix and name != "UV":
                        continue
                    node.inputs["Depth (mm)"].default_value = depth
                    file = out / "cornea.exr"
                    render(file, 1)
                    arrays[f"{part} {turn} {name}{suffix}"] = linear_pixels(file)
            geometry, place = tree.nodes.new("ShaderNodeNewGeometry"), tree.nodes.new("ShaderNodeVectorMath")
            place.operation = "SUBTRACT"
            place.inputs[1].default_value = eye.matrix_world.translation
            tree.links.new(geometry.outputs["Position"], place.inputs[0])
            tree.links.new(place.outputs[0], light.inputs["Color"])
            render(out / "cornea.exr", 1)
            arrays[f"{part} {turn} Place"] = linear_pixels(out / "cornea.exr")
        eye.hide_render = True


def photo_hair(out: Path) -> None:
    """The skin's colour as light, seen from the front, with all of the photo's hair and with none."""
    scene, skin = bpy.context.scene, head().data.materials[0]
    nodes = skin.node_tree.nodes
    look = importlib.import_module(f"{EXTENSION}.panels.look")
    hair = importlib.import_module(f"{EXTENSION}.importer.hair")
    report["hair sockets"] = sorted(look.skin_sockets(skin))
    camera = bpy.data.objects.new("Hair Camera", bpy.data.cameras.new("Hair Camera"))
    scene.collection.objects.link(camera)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 0.35
    camera.location, camera.rotation_euler = (head().matrix_world.translation.x, -1, 0), (math.pi / 2, 0, 0)
    scene.camera, scene.render.resolution_x, scene.render.resolution_y = camera, 64, 64
    for other in scene.objects:
        other.hide_render = other != head()
    light = nodes.new("ShaderNodeEmission")
    skin.node_tree.links.new(shader("skin").inputs["Base Color"].links[0].from_socket, light.inputs["Color"])
    skin.node_tree.links.new(light.outputs[0], next(n for n in nodes if n.type == "OUTPUT_MATERIAL").inputs["Surface"])
    for strength in (1.0, 0.0):
        nodes[hair.SHADE].inputs[1].default_value = strength
        render(out / "hair.exr", 4)
        arrays[f"hair {strength:.0f}"] = linear_pixels(out / "hair.exr")
        arrays[f"hair baked {strength:.0f}"] = hair.compose(skin, np.full((32, 32, 3), 0.5, np.float32))


def sculpts(out: Path) -> None:
    """The sculpt from three sides: with the head's skin, with its own, and without UV maps, as sculpt mode has it."""
    def packed() -> list[list[str]]:
        images = (image.name for image in bpy.data.images if image.packed_file)
        return [sorted(images), bpy.data.materials.keys(), bpy.data.meshes.keys()]

    scene, skin, before = bpy.context.scene, head().active_material, packed()
    skin.node_tree.nodes["Hair Shade"].inputs[1].default_value = 0.4  # what lies under the hair is seen, too
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    bpy.ops.object.mode_set(mode="OBJECT")
    copy = find("ganfit_sculpt_of")
    scene.world, scene.cycles.diffuse_bounces = bpy.data.worlds.new("White"), 0
    if bpy.app.version < (5, 0, 0):
        scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    for thing in scene.objects:
        thing.hide_render = thing != copy
    camera = bpy.data.objects.new("Sculpt Camera", bpy.data.cameras.new("Sculpt Camera"))
    scene.collection.objects.link(camera)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 0.35
    scene.camera, scene.render.resolution_x, scene.render.resolution_y = camera, 120, 120
    scene.render.film_transparent = True
    own, plain = copy.active_material, copy.data.copy()
    while plain.uv_layers:
        plain.uv_layers.remove(plain.uv_layers[0])
    report["sculpt's own"] = [own != skin, own.node_tree.nodes.active.image == skin.node_tree.nodes.active.image]
    for side, turn in (("front", 0), ("left", 60), ("right", -60), ("back", 180)):
        camera.rotation_euler = (math.pi / 2, 0, math.radians(turn))
        camera.location = head().matrix_world.translation + camera.rotation_euler.to_matrix().col[2]
        for name, mesh, material in (("skin", copy.data, skin), ("own", copy.data, own), ("no UV", plain, own)):
            kept, copy.data = copy.data, mesh
            copy.active_material = material
            render(out / "sculpt.exr", 32, subsurface=False)
            arrays[f"sculpt {side} {name}"] = linear_pixels(out / "sculpt.exr")
            copy.data = kept
    copy.active_material = own
    bpy.data.meshes.remove(plain)
    bpy.data.worlds.remove(scene.world)
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    again = find("ganfit_sculpt_of").active_material
    bpy.ops.ganfit.sculpt_prepare(levels=1, show_skin=False)
    report["sculpt's last"] = [again != skin, find("ganfit_sculpt_of").active_material == skin]
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    bpy.ops.ganfit.sculpt_discard()
    report["left of the sculpt's skin"] = [before, packed()]


def teeth(out: Path) -> None:
    """How bright the teeth of a smile are in Match Photo, with lips around them and alone: means over what is seen."""
    bpy.ops.ganfit.match_photo()
    for name in ("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"):
        head().data.shape_keys.key_blocks[name].value = 0.9
    own = find("ganfit_part", "teeth")
    others = [thing for thing in bpy.context.scene.objects if thing.type == "MESH" and thing != own]
    pictures = {}
    for name in ("within", "seen", "alone"):
        for thing in others:
            thing.is_holdout, thing.hide_render = name == "seen", name == "alone"
        render(out / "teeth.exr", 32)
        pictures[name] = linear_pixels(out / "teeth.exr")
    seen = pictures["seen"][..., 3] > 0.95
    report["teeth"] = [int(seen.sum()), *(float(pictures[name][seen, :3].mean()) for name in ("within", "alone"))]


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
    corneas(out)
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["mapped"], match=False)
    report["mapped"] = images("skin")
    photo_hair(out)
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["mapped"], match=False)
    sculpts(out)
    empty_scene()
    bpy.ops.ganfit.import_result(directory=job["bundle"], match=False)
    teeth(out)
    np.savez(out / "looks.npz", **arrays)
    answer(out / "looks.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
