# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in Blender's Python: the manual's renders of a result, each a PNG in a folder.

python manual_renders.py '{"bundle": folder, "out": folder, "samples": 96}'
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import bpy
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from in_blender import empty_scene, render  # noqa: E402

from ganfit_blender import expression, hair_curves, studio  # noqa: E402
from ganfit_blender.importer import scene as importer  # noqa: E402

FRONT, THREE_QUARTER = 12.0, 47.0
"""Degrees that the head is turned by: towards the studio's camera, and past it."""
EXPRESSIONS = {
    "smile": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "cheekSquintLeft": 0.6, "cheekSquintRight": 0.6},
    "jaw": {"jawOpen": 0.6},
    "surprise": {"browInnerUp": 0.9, "browOuterUpLeft": 0.9, "browOuterUpRight": 0.9, "eyeWideLeft": 0.8,
                 "eyeWideRight": 0.8, "jawOpen": 0.25},
    "anger": {"browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.6, "noseSneerRight": 0.6,
              "mouthPressLeft": 0.6, "mouthPressRight": 0.6},
    "sad": {"browInnerUp": 0.8, "mouthFrownLeft": 0.9, "mouthFrownRight": 0.9, "mouthShrugLower": 0.5},
    "kiss": {"mouthPucker": 0.9},
    "wink": {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.5, "cheekSquintLeft": 0.6},
    "puff": {"cheekPuff": 0.9, "eyeLookUpLeft": 0.5, "eyeLookUpRight": 0.5},
}


HAIR = {"bob": FRONT, "side": THREE_QUARTER, "short": FRONT, "back": THREE_QUARTER}
"""Cuts and the turn that each is shown in."""
STRANDS = 26000


def turn(head: bpy.types.Object, degrees: float) -> None:
    """Turns the whole head, eyes and all, about the vertical axis."""
    head.rotation_euler[2] = math.radians(degrees)
    bpy.context.view_layer.update()


def plain_material(name: str, grey: float) -> bpy.types.Material:
    """A matt grey."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (grey, grey, grey, 1.0)
    shader.inputs["Roughness"].default_value = 0.7
    return material


def frame_head(head: bpy.types.Object, pixels: int, margin: float = 0.35) -> list[float]:
    """Renders only the square around the head, about `pixels` high; returns left, top, right, bottom in pixels of the
    scene's full size."""
    scene, render_settings = bpy.context.scene, bpy.context.scene.render
    width, height = render_settings.resolution_x, render_settings.resolution_y
    corners = [world_to_camera_view(scene, scene.camera, head.matrix_world @ Vector(c)) for c in head.bound_box]
    xs, ys = [c.x * width for c in corners], [(1 - c.y) * height for c in corners]
    half = (1 + margin) * max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    x, y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    box = [max(0.0, x - half), max(0.0, y - half), min(float(width), x + half), min(float(height), y + half)]
    render_settings.use_border = render_settings.use_crop_to_border = True
    render_settings.border_min_x, render_settings.border_max_x = box[0] / width, box[2] / width
    render_settings.border_min_y, render_settings.border_max_y = 1 - box[3] / height, 1 - box[1] / height
    render_settings.resolution_percentage = max(1, round(100 * pixels / (box[3] - box[1])))
    return box


def show_wires(collection: bpy.types.Collection) -> None:
    """Clay instead of skin, and every part's cage laid over it as thin bars; not to be undone."""
    clay, dark = plain_material("Clay", 0.55), plain_material("Wires", 0.01)
    for thing in list(importer.parts_of(collection).values()):
        for modifier in thing.modifiers:
            modifier.show_viewport = modifier.show_render = False
    depsgraph = bpy.context.evaluated_depsgraph_get()
    for thing in list(importer.parts_of(collection).values()):
        mesh = bpy.data.meshes.new_from_object(thing.evaluated_get(depsgraph))
        mesh.materials.clear()
        mesh.materials.append(dark)
        wires = bpy.data.objects.new(f"{thing.name} wires", mesh)
        wires.matrix_world = thing.matrix_world
        bars = wires.modifiers.new("Wires", "WIREFRAME")
        bars.thickness, bars.offset, bars.use_even_offset = 0.00045, 0.0, False
        collection.objects.link(wires)
        thing.data.materials.clear()
        thing.data.materials.append(clay)


def main(job: dict) -> None:
    """Matched to the photo, in the studio from two sides, expressions, cuts of hair, the cage."""
    out, samples = Path(job["out"]), job["samples"]
    scene = empty_scene()
    collection = importer.import_bundle(bpy.context, Path(job["bundle"]))
    head = importer.active_head(bpy.context)

    def picture(name: str) -> None:
        render(out / f"{name}.png", samples, denoise=True)
        print(name, flush=True)

    box = frame_head(head, 420)
    (out / "match.json").write_text(json.dumps(box), "utf-8")
    picture("match")
    scene.render.use_border = False
    importer.release_photo(bpy.context)
    studio.add(bpy.context, head)
    scene.render.resolution_percentage = 45
    importer.set_view_expression(head, 0)
    for name, degrees in (("three_quarter", THREE_QUARTER), ("front", FRONT)):
        turn(head, degrees)
        picture(name)
    scene.render.resolution_percentage = 24
    for name, weights in EXPRESSIONS.items():
        expression.set_neutral(head)
        for key, value in weights.items():
            head.data.shape_keys.key_blocks[key].value = value
        picture(f"expression_{name}")
    importer.set_view_expression(head, 0)
    scene.render.resolution_percentage = 36
    for number, (cut, degrees) in enumerate(HAIR.items()):
        turn(head, degrees)
        hair_curves.add(collection, cut, 1.0, STRANDS, 0)
        picture(f"hair_{number}_{cut}")
    hair_curves.remove(collection)
    scene.render.resolution_percentage = 45
    turn(head, THREE_QUARTER)
    show_wires(collection)
    picture("wires")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
