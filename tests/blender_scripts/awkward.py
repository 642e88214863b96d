# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on heads that an artist has renamed, hidden, excluded and emptied; writes what came of it.

The argument is JSON: zip, bundle, out (folder).
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from character import attempt, find, head  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, quiet_stdout  # noqa: E402

report: dict = {}


def person(bundle: str) -> bpy.types.Collection:
    """A fresh scene with the head in it, and things of the artist's own: camera, lamp, world, a cube."""
    empty_scene()
    scene = bpy.context.scene
    for name, data in (("Cube", None), ("Lamp", bpy.data.lights.new("Lamp", "POINT")),
                       ("Own", bpy.data.cameras.new("Own"))):
        scene.collection.objects.link(bpy.data.objects.new(name, data))
    scene.camera, scene.world = bpy.data.objects["Own"], bpy.data.worlds.new("Own")
    with quiet_stdout():
        bpy.ops.ganfit.import_result(directory=bundle, match=False)
    return next(found for found in bpy.data.collections if "ganfit_person" in found)


def rename_everything() -> None:
    """Other names for all data-blocks, in the same order."""
    for kind in (bpy.data.objects, bpy.data.collections, bpy.data.worlds, bpy.data.materials, bpy.data.cameras):
        for number, block in enumerate(list(kind)):
            block.name = f"thing {number:02d}"


def state() -> dict:
    """What Match Photo and the studio change, without names."""
    scene = bpy.context.scene
    shaders = [node for material in bpy.data.materials for node in material.node_tree.nodes
               if node.type == "BSDF_PRINCIPLED"]
    return {"camera": scene.camera is not None and VIEW not in scene.camera, "world": scene.world is OWN["world"],
            "hidden": [[thing.hide_render, thing.hide_get()] for thing in scene.objects if VIEW not in thing],
            "specular": [node.inputs["Specular IOR Level"].default_value for node in shaders]}


VIEW = "ganfit_view"
OWN: dict = {}


def renamed(bundle: str) -> None:
    """Match Photo and the studio, put back after everything got another name."""
    for name, operator in (("match", bpy.ops.ganfit.match_photo), ("studio", bpy.ops.ganfit.studio)):
        person(bundle)
        OWN["world"] = bpy.context.scene.world
        before = state()
        operator()
        during = state()
        rename_everything()
        operator()
        report[name] = [before, during, state()]
    person(bundle)
    bpy.ops.ganfit.match_photo()
    bpy.ops.object.select_all(action="DESELECT")
    own = bpy.data.objects["Own"]
    own.hide_set(False)
    own.select_set(True)
    bpy.ops.object.delete()
    bpy.ops.ganfit.match_photo()
    report["deleted camera"] = bpy.context.scene.camera is None


def hidden_hair(bundle: str) -> None:
    """Hair that is not the last thing of its collection: hiding it must not disturb the rest."""
    collection = person(bundle)
    hair = bpy.data.objects.new("A wig", None)
    hair["ganfit_hair"] = "short"
    others = [bpy.data.objects.new(f"Pin {number}", None) for number in range(12)]
    for thing in (hair, *others):
        collection.objects.link(thing)
    bpy.context.view_layer.update()
    bpy.ops.ganfit.match_photo()
    bpy.context.view_layer.update()
    report["hair"] = [hair.hide_viewport, any(thing.hide_viewport for thing in others)]
    bpy.ops.ganfit.match_photo()
    report["hair"].append(hair.hide_viewport)


def disable(collection: bpy.types.Collection) -> None:
    for thing in list(collection.all_objects):
        thing.hide_viewport = True


def exclude(collection: bpy.types.Collection) -> None:
    bpy.context.view_layer.layer_collection.children[collection.name].exclude = True


def no_material(collection: bpy.types.Collection) -> None:
    head().data.materials.clear()


def own_material(collection: bpy.types.Collection) -> None:
    material = bpy.data.materials.new("Mine")
    material.use_nodes = True
    material.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (0.1, 0.2, 0.3, 1.0)
    head().data.materials[0] = material


def no_faces(collection: bpy.types.Collection) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = find("ganfit_part", "teeth")
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.delete(type="VERT")
    bpy.ops.object.mode_set(mode="OBJECT")


def nothing(collection: bpy.types.Collection) -> None:
    pass


def exported(bundle: str, out: Path) -> None:
    """A GLB of a head in each state, read back; and what sculpting and painting say to it."""
    changes: list[Callable] = [nothing, disable, exclude, no_material, own_material, no_faces]
    for change in changes:
        collection = person(bundle)
        change(collection)
        bpy.context.view_layer.update()
        path, found = out / f"{change.__name__}.glb", {}
        for name in ("sculpt_prepare", "paint_skin"):
            found[name] = getattr(bpy.ops.ganfit, name).poll()
        with quiet_stdout():
            found["error"] = attempt(bpy.ops.ganfit.export, filepath=str(path), kind="GLB", level=1)
            empty_scene()
            bpy.ops.import_scene.gltf(filepath=str(path))
        skin = bpy.data.objects["Head"]
        shaders = [node for slot in skin.material_slots if slot.material for node in slot.material.node_tree.nodes
                   if node.type == "BSDF_PRINCIPLED"]
        found["vertices"], found["keys"] = len(skin.data.vertices), len(skin.data.shape_keys.key_blocks)
        found["color"] = [list(node.inputs["Base Color"].default_value)[:3] for node in shaders]
        report[change.__name__] = found


def without_faces(bundle: str) -> None:
    """Sculpting a head whose faces are gone ends, with a sentence and without a copy."""
    person(bundle)
    bpy.context.view_layer.objects.active = head()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.delete(type="FACE")
    bpy.ops.object.mode_set(mode="OBJECT")
    count = len(bpy.data.objects)
    report["no faces"] = [attempt(bpy.ops.ganfit.sculpt_prepare, levels=1), len(bpy.data.objects) - count]


def without_pictures(bundle: str) -> None:
    """Painting on a head whose pictures were all deleted begins, with nothing to paint on yet, as Blender has it."""
    person(bundle)
    bpy.data.batch_remove(list(bpy.data.images))
    bpy.context.view_layer.objects.active = head()
    report["no pictures"] = [attempt(bpy.ops.ganfit.paint_skin), bpy.context.mode]
    bpy.ops.object.mode_set(mode="OBJECT")


def linked(bundle: str, out: Path) -> None:
    """A head out of another file: what adds objects to it refuses, the rest works."""
    name = person(bundle).name
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "people.blend"), copy=True)
    empty_scene()
    with bpy.data.libraries.load(str(out / "people.blend"), link=True) as (_, wanted):
        wanted.collections = [name]
    bpy.context.scene.collection.children.link(wanted.collections[0])
    bpy.context.view_layer.update()
    report["linked"] = {kind: getattr(bpy.ops.ganfit, kind).poll() for kind in ("eye_target", "add_hair", "add_body",
                                                                                "sculpt_prepare", "export")}
    with quiet_stdout():
        report["linked"]["error"] = attempt(bpy.ops.ganfit.export, filepath=str(out / "linked.glb"), kind="GLB")


def news(bundle: str) -> None:
    """Good news of one file is not told in another."""
    session = importlib.import_module(f"{EXTENSION}.session")
    session.current().message = "Astrid is in the scene."
    empty_scene()
    report["news"] = session.current().message


def main(job: dict) -> None:
    install(job["zip"])
    renamed(job["bundle"])
    hidden_hair(job["bundle"])
    exported(job["bundle"], Path(job["out"]))
    without_faces(job["bundle"])
    without_pictures(job["bundle"])
    linked(job["bundle"], Path(job["out"]))
    news(job["bundle"])
    answer(Path(job["out"]) / "awkward.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
