# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a head whose hair stands off it, changes head and hair in all ways, exports both; writes what came of it.

The argument is JSON: zip, bundle (of the real head with a shell), without (folders of bundles without), egg (a small
head with a shell), broken (folders of damaged bundles), out (folder), samples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
import numpy as np  # noqa: E402
from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from character import attempt, carve, evaluated, find, head, points  # noqa: E402
from export_back import image_behind, pixels_of  # noqa: E402
from in_blender import answer, empty_scene, install, leave, quiet_stdout, render  # noqa: E402
from mathutils import Matrix, Vector  # noqa: E402
from mathutils.bvhtree import BVHTree  # noqa: E402

report: dict = {}
COUNT = 2000
ENDINGS = {"GLB": ".glb", "FBX": ".fbx", "OBJ": ".obj", "USD": ".usdc"}


def person(bundle: str) -> bpy.types.Collection:
    """A fresh scene with the head in it, not matched to the photo."""
    empty_scene()
    with quiet_stdout():
        bpy.ops.ganfit.import_result(directory=bundle, match=False)
    return next(found for found in bpy.data.collections if "ganfit_person" in found)


def shell() -> bpy.types.Object | None:
    """The hair that came with the result."""
    return find("ganfit_hair_shell")


def strands() -> bpy.types.Object | None:
    """The hair that the add-on has grown."""
    return find("ganfit_hair")


def seen(thing: bpy.types.Object | None) -> bool | None:
    """Whether it is seen, in the viewport and in renders; None where these differ or there is nothing."""
    if thing is None:
        return None
    bpy.context.view_layer.update()
    return thing.visible_get() if thing.visible_get() != thing.hide_render else None


def heights() -> np.ndarray:
    """(H,) signed distances of the shell's vertices to the head, as both are shown, metres of the head."""
    places = evaluated(shell())
    tree = BVHTree.FromObject(head(), bpy.context.evaluated_depsgraph_get())
    found = np.empty(len(places))
    for number, place in enumerate(places.tolist()):
        near, normal, _, distance = tree.find_nearest(place)
        found[number] = distance if sum((a - b) * c for a, b, c in zip(place, near, normal)) >= 0 else -distance
    return found


def imported(job: dict) -> None:
    """What the object is."""
    report["without"] = []
    for folder in job["without"]:
        person(folder)
        lost = [image for image in bpy.data.images if "shell" in image.name]
        report["without"].append([shell() is not None, len(lost)])
    collection = person(job["bundle"])
    thing = shell()
    mesh, material = thing.data, thing.data.materials[0]
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    image = image_behind(shader.inputs["Base Color"])
    uv = np.empty(len(mesh.loops) * 2, np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", uv)
    vertex = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", vertex)
    np.savez(Path(job["out"]) / "shell.npz", points=points(mesh.vertices), uv=uv, vertex=vertex, image=pixels_of(image))
    report["object"] = {
        "name": thing.name, "parent": thing.parent is head(), "collection": thing.name in collection.objects,
        "part": "ganfit_part" in thing, "smooth": all(polygon.use_smooth for polygon in mesh.polygons),
        "sides": sorted({len(polygon.vertices) for polygon in mesh.polygons}), "modifiers": len(thing.modifiers),
        "layers": [layer.name for layer in mesh.uv_layers], "keys": list(mesh.shape_keys.key_blocks.keys()),
        "image": [image.packed_file is not None, image.alpha_mode, image.colorspace_settings.name],
        "alpha": image_behind(shader.inputs["Alpha"]) is image, "solid": list(material.diffuse_color)[:3],
        "material": material.name,
    }
    errors = {}
    for folder in job["broken"]:
        empty_scene()
        errors[Path(folder).name] = attempt(bpy.ops.ganfit.import_result, directory=folder)
        errors[Path(folder).name] += f" {len(bpy.data.objects)}"
    report["broken"] = errors


def matched(job: dict) -> None:
    """The photo's look and back, and a picture of it."""
    person(job["bundle"])

    def look() -> list:
        thing = shell()
        shader = next(node for node in thing.data.materials[0].node_tree.nodes if node.type == "BSDF_PRINCIPLED")
        shine = shader.inputs["Specular IOR Level"].default_value
        return [thing.visible_shadow, thing.visible_diffuse, round(shine, 4)]

    report["match"] = [look()]
    bpy.ops.ganfit.match_photo()
    report["match"].append(look())
    render(Path(job["out"]) / "match.png", job["samples"])
    bpy.ops.ganfit.match_photo()
    report["match"].append(look())


def state() -> list:
    """Whether strands and shell are seen."""
    return [seen(strands()), seen(shell())]


def replaced(job: dict) -> None:
    """Strands and the shell are not seen together."""
    person(job["bundle"])
    add = lambda cut="buzz": bpy.ops.ganfit.add_hair(cut=cut, count=COUNT)  # noqa: E731
    steps = (None, add, lambda: add("short"), bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo,
             bpy.ops.ganfit.remove_hair)
    report["strands"] = taken(steps)
    report["in match"] = taken((bpy.ops.ganfit.match_photo, add, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo,
                                bpy.ops.ganfit.remove_hair, bpy.ops.ganfit.match_photo))
    report["by hand"] = taken((bpy.ops.ganfit.photo_hair, add, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo,
                               bpy.ops.ganfit.remove_hair, bpy.ops.ganfit.photo_hair))
    report["both"] = taken((add, bpy.ops.ganfit.photo_hair, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo,
                            bpy.ops.ganfit.photo_hair, bpy.ops.ganfit.remove_hair, bpy.ops.ganfit.photo_hair))
    report["other cut"] = taken((add, bpy.ops.ganfit.photo_hair, lambda: add("short"), bpy.ops.ganfit.remove_hair))
    delete = lambda: bpy.data.objects.remove(strands())  # noqa: E731
    report["deleted"] = taken((add, delete, bpy.ops.ganfit.match_photo, bpy.ops.ganfit.match_photo))
    report["deleted in match"] = taken((add, bpy.ops.ganfit.match_photo, delete, bpy.ops.ganfit.match_photo))
    shell().hide_set(True)
    report["eye"] = taken((None, bpy.ops.ganfit.photo_hair))
    undo = []
    bpy.ops.ed.undo_push(message="before")
    for act in (add, bpy.ops.ganfit.remove_hair, bpy.ops.ganfit.photo_hair):
        act()
        bpy.ops.ed.undo_push(message="act")
        undo.append(state())
    for _ in range(3):
        bpy.ops.ed.undo()
        undo.append(state())
    report["undo"] = undo
    report["names"] = [shell().name]
    add()
    report["names"].append(strands().name)


def taken(steps: tuple[Callable | None, ...], look: Callable[[], list] = state) -> list:
    """What is seen after each of the steps."""
    found = []
    for act in steps:
        if act is not None:
            act()
        found.append(look())
    return found


def follows(job: dict) -> None:
    """Sliders, the object's place, a parent, a sculpt."""
    person(job["bundle"])
    bpy.ops.ganfit.neutral()
    keys, before, plain = head().data.shape_keys.key_blocks, heights(), evaluated(shell())
    report["height"] = [float(before.min()), float(np.median(before))]
    report["shape"] = {}
    for number in (1, 2, 3, 4):
        name = f"shape_{number:02d}"
        keys[name].value = 2.5
        moved = np.linalg.norm(evaluated(shell()) - plain, axis=1)
        off = heights()
        report["shape"][name] = [float(moved.max()), float(np.quantile(np.abs(off - before), 0.99)),
                                 float((before - off).max())]
        keys[name].value = 0.0
    keys["jawOpen"].value = 1.0
    report["jaw"] = float(np.abs(evaluated(shell()) - plain).max())
    keys["jawOpen"].value = 0.0
    holder = bpy.data.objects.new("Rig", None)
    bpy.context.scene.collection.objects.link(holder)
    head().parent, holder.matrix_world = holder, Matrix.LocRotScale((0.1, 0.2, 0.3), None, (10, 10, 10))
    head().hide_set(True)
    head().hide_render = True
    bpy.context.view_layer.update()
    world = np.array(shell().matrix_world)
    report["placed"] = [float(np.abs(world[:3, :3] - 10 * np.eye(3)).max()), seen(shell())]
    head().parent, head().hide_render = None, False
    head().hide_set(False)
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    copy = find("ganfit_sculpt_of")
    report["sculpting"] = [state_of(shell()), "ganfit_hair_shell" in copy]
    carve(copy)
    bpy.ops.ganfit.sculpt_transfer(keep_detail=False)
    report["sculpting"].append(state_of(shell()))
    report["transferred"] = float(np.linalg.norm(evaluated(shell()) - plain, axis=1).max())
    person(job["bundle"])
    keys = head().data.shape_keys.key_blocks
    bpy.ops.ganfit.neutral()
    bpy.ops.ganfit.sculpt_prepare(levels=1)
    raise_sculpt(np.array([0, 0.002, 0.006], np.float32))
    report["raised"] = float(np.abs(evaluated(shell()) - plain - [0, 0.002, 0.006]).max())


def raise_sculpt(by: np.ndarray) -> None:
    """Moves the whole sculpt that has begun, and transfers it."""
    copy = find("ganfit_sculpt_of")
    copy.data.vertices.foreach_set("co", (points(copy.data.vertices) + by).ravel())
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.ops.ganfit.sculpt_transfer(keep_detail=False)


def state_of(thing: bpy.types.Object) -> list[bool]:
    """Whether it is hidden: in this view, in all views, in renders."""
    return [thing.hide_get(), thing.hide_viewport, thing.hide_render]


def set_aside(job: dict) -> None:
    """What a sculpt does to it: hidden by the eye before, shown or hidden by its button meanwhile, exported."""
    path = Path(job["out"]) / "sculpted.glb"
    report["aside"], report["aside files"] = {}, {}
    button, match = bpy.ops.ganfit.photo_hair, bpy.ops.ganfit.match_photo
    acts = {"button": (button,), "twice": (button, button), "match": (match, match),
            "again": (button, lambda: bpy.ops.ganfit.sculpt_prepare(levels=1))}
    for name in ("eye", "button", "twice", "nothing", "match", "again"):
        person(job["egg"])
        if name == "eye":
            shell().hide_set(True)
        bpy.ops.ganfit.sculpt_prepare(levels=1)
        states = [state_of(shell())]
        for act in acts.get(name, ()):
            act()
            states.append(state_of(shell()))
        bpy.ops.ganfit.sculpt_discard()
        report["aside"][name] = [*states, state_of(shell())]
    for name, eye in (("shown", False), ("hidden", True)):
        person(job["egg"])
        shell().hide_set(eye)
        bpy.ops.ganfit.sculpt_prepare(levels=1)
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(path), kind="GLB", level=0)
        report["aside files"][name] = [state_of(shell()), read(path, None)["names"]]


def framed(job: dict) -> None:
    """Where the studio's picture has the hair, by how it is stretched, and where the lamps stand then."""
    report["studio"] = {}
    for name, scale in (("bald", None), ("own", (1, 1, 1)), ("high", (1, 1, 1.6)), ("wide", (2, 1.5, 1))):
        person(job["bundle"])
        shell().scale = scale or (1, 1, 1)
        if scale is None:
            bpy.ops.ganfit.photo_hair()
        bpy.ops.ganfit.studio()
        bpy.context.view_layer.update()
        scene, matrix = bpy.context.scene, shell().matrix_world
        places = [world_to_camera_view(scene, scene.camera, matrix @ Vector(place)) for place in evaluated(shell())]
        heads = [world_to_camera_view(scene, scene.camera, head().matrix_world @ Vector(place))
                 for place in evaluated(head())]
        x, y, _ = np.array(places).T
        lamps = {thing.name: [*thing.location, thing.data.size, thing.data.energy] for thing in scene.objects
                 if thing.type == "LIGHT" and not thing.hide_render}
        report["studio"][name] = {"hair": [x.min(), x.max(), y.min(), y.max()], "lamps": lamps,
                                  "head": float(np.ptp(np.array(heads)[:, 1]))}


def exported(job: dict) -> None:
    """Files with the hair and without, read back."""
    out = Path(job["out"])
    for kind, ending in ENDINGS.items():
        person(job["bundle"])
        head().data.shape_keys.key_blocks["shape_01"].value = 2.0
        wanted = evaluated(shell())
        before = [[thing.name, thing.hide_render] for thing in bpy.context.scene.objects]
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(out / f"{kind.lower()}_hair"), kind=kind, level=1)
        after = [[thing.name, thing.hide_render] for thing in bpy.context.scene.objects]
        report[f"{kind} read"] = read(out / f"{kind.lower()}_hair{ending}", wanted)
        report[f"{kind} read"]["kept"] = before == after
        person(job["bundle"])
        bpy.ops.ganfit.photo_hair()
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(out / f"{kind.lower()}_bald"), kind=kind, level=0)
        report[f"{kind} bald"] = read(out / f"{kind.lower()}_bald{ending}", None)
    report["matched files"] = []
    for by_hand in (False, True):
        person(job["bundle"])
        bpy.ops.ganfit.add_hair(cut="buzz", count=COUNT)
        if by_hand:
            bpy.ops.ganfit.photo_hair()
        bpy.ops.ganfit.match_photo()
        visible = seen(shell())
        with quiet_stdout():
            bpy.ops.ganfit.export(filepath=str(out / "matched"), kind="GLB", level=0)
        report["matched files"].append([visible, read(out / "matched.glb", None)["names"]])


def read(path: Path, wanted: np.ndarray | None, name: str = "Hair") -> dict:
    """The names of a file's meshes; the place, picture and keys of the one with a name."""
    empty_scene()
    operator = {".glb": bpy.ops.import_scene.gltf, ".fbx": bpy.ops.import_scene.fbx, ".obj": bpy.ops.wm.obj_import,
                ".usdc": bpy.ops.wm.usd_import}[path.suffix]
    with quiet_stdout():
        operator(filepath=str(path))
    meshes = [thing for thing in bpy.context.scene.objects if thing.type == "MESH"]
    found: dict = {"names": sorted(thing.name.split(".")[0] for thing in meshes)}
    thing = next((thing for thing in meshes if thing.name.startswith(name)), None)
    if thing is None or wanted is None:
        return found
    material = thing.material_slots[0].material
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    pictures = [image_behind(shader.inputs[name]) for name in ("Base Color", "Alpha")]
    matrix = np.array(thing.matrix_world)
    places = points(thing.data.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
    far = [np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min(1)).max() for a, b in ((places, wanted), (wanted, places))]
    above = thing.parent
    while above is not None and above.parent is not None:
        above = above.parent
    return found | {
        "off": float(max(far)), "material": material.name, "keys": thing.data.shape_keys is not None,
        "pictures": [image is not None and list(image.size) for image in pictures],
        "cover": float(pixels_of(pictures[1])[..., 3].mean()) if pictures[1] else None,
        "above": above.name.split(".")[0] if above else None,
    }


def rename_everything() -> None:
    """Other names for all that the person consists of."""
    for kind in (bpy.data.objects, bpy.data.meshes, bpy.data.materials, bpy.data.images):
        for number, block in enumerate(list(kind)):
            block.name = f"thing {number:02d}"


def no_pictures() -> None:
    bpy.data.batch_remove(list(bpy.data.images))


def no_material() -> None:
    shell().data.materials.clear()


def no_shell() -> None:
    bpy.data.objects.remove(shell())


def no_vertices() -> None:
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = shell()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.delete(type="VERT")
    bpy.ops.object.mode_set(mode="OBJECT")


def no_keys() -> None:
    shell().shape_key_clear()


def no_layer() -> None:
    shell().data.uv_layers.remove(shell().data.uv_layers[0])


def no_head() -> None:
    bpy.data.objects.remove(head())


def disabled() -> None:
    for thing in list(bpy.context.scene.objects):
        thing.hide_viewport = True


def nothing() -> None:
    pass


def awkward(job: dict) -> None:
    """A head in a state that people get into: match, export, sculpt; errors and whether the export has hair."""
    out = Path(job["out"])
    states = (nothing, rename_everything, no_pictures, no_material, no_shell, no_vertices, no_keys, no_layer, no_head,
              disabled)
    for change in states:
        person(job["egg"])
        change()
        bpy.context.view_layer.update()
        found: dict = {"errors": []}
        for _ in range(2):
            found["errors"].append(attempt(bpy.ops.ganfit.match_photo))
        found["toggle"] = bpy.ops.ganfit.photo_hair.poll()
        if head() is not None:
            if change is not disabled:
                found["errors"].append(attempt(bpy.ops.ganfit.sculpt_prepare, levels=1))
                found["errors"].append(attempt(bpy.ops.ganfit.sculpt_transfer))
            path = out / f"{change.__name__}.glb"
            with quiet_stdout():
                found["errors"].append(attempt(bpy.ops.ganfit.export, filepath=str(path), kind="GLB", level=0))
            found |= read(path, None)
        report[f"state {change.__name__}"] = found
    collection = person(job["egg"])
    name = collection.name
    bpy.ops.ganfit.mark_asset()
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "people.blend"), copy=True)
    for link in (True, False):
        empty_scene()
        with bpy.data.libraries.load(str(out / "people.blend"), link=link) as (_, wanted):
            wanted.collections = [name]
        bpy.context.scene.collection.children.link(wanted.collections[0])
        bpy.context.view_layer.update()
        found = {"seen": seen(shell()), "errors": [attempt(bpy.ops.ganfit.match_photo) for _ in range(2)]}
        found["toggle"] = [bpy.ops.ganfit.photo_hair.poll()]
        if found["toggle"][0]:
            found["toggle"] += [attempt(bpy.ops.ganfit.photo_hair), seen(shell()), attempt(bpy.ops.ganfit.photo_hair)]
        with quiet_stdout():
            found["errors"].append(attempt(bpy.ops.ganfit.export, filepath=str(out / "out.glb"), kind="GLB", level=0))
        found |= read(out / "out.glb", None)
        report["linked" if link else "appended"] = found
    person(job["egg"])
    with quiet_stdout():
        bpy.ops.ganfit.import_result(directory=job["egg"], match=True)
    report["twice"] = [[thing.name, thing.parent.name] for thing in bpy.data.objects if "ganfit_hair_shell" in thing]


def main(job: dict) -> None:
    """All of it."""
    install(job["zip"])
    for part in (imported, matched, replaced, follows, set_aside, framed, exported, awkward):
        part(job)
    answer(Path(job["out"]) / "shell.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
