# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports a bundle as a collection, and matches the scene to the person's photo and back."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import bpy

from . import camera, hair, light, material, mesh, shape_keys, shell
from .bundle import SKIN, ResultBundle, read_bundle

PERSON = "ganfit_person"  # on the collection: the person's name
RESULT = "ganfit_result"  # on the head: result.json without the fit's curves, as JSON
VIEW = "ganfit_view"  # on cameras and suns: number of the photo
WORLD = "ganfit_world"  # on cameras: the photo's world
BEFORE = "ganfit_before"  # on the scene: what Match Photo has changed, as JSON
BEFORE_BLOCKS = "ganfit_before_blocks"  # on the scene: its camera and world, the person, what was hidden by number
HAIR = "ganfit_hair"  # on hair: the name of its cut. The photo has hair of its own, so Match Photo hides it
SHOWN = "ganfit_shown"  # on hair while it is hidden for Match Photo
LEFT_OUT = ("losses",)


def import_bundle(context: bpy.types.Context, folder: Path, match: bool = True) -> bpy.types.Collection:
    """Builds the person of a bundle in the scene.

    Args:
        context: gives the scene and the collection to put the person's collection into.
        folder: the bundle.
        match: also match the scene to the first photo.

    Returns:
        The new collection. Raises AddonError: `bundle_missing`, `bundle_version`, `bundle_damaged`.
    """
    steps = build(folder)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            collection = end.value
            break
    context.scene.collection.children.link(collection)
    select_head(context, head_of(collection))
    if match:
        match_photo(context, collection)
    return collection


def build(folder: Path) -> Generator[None, None, bpy.types.Collection]:
    """Builds the person of a bundle in a collection that is in no scene yet, in steps that each take a blink.

    Whoever takes the steps at different times has to expect a ReferenceError: an undo between them takes back what
    they have built.

    Returns:
        The new collection. Raises AddonError as `import_bundle` does.
    """
    bundle = read_bundle(folder)
    yield
    parts = mesh.split(bundle)
    eye = yield from material.eye_image(bundle, parts)
    yield
    shade = yield from hair.cropped(bundle, parts)
    yield
    collection = bpy.data.collections.new(bundle.name)
    collection[PERSON] = bundle.name
    things = {}
    for part in parts:
        thing = things[part.name] = mesh.make_object(bundle, part, collection)
        thing.data.materials.append(material.make_material(bundle, part, eye, shade))
        shape_keys.add_shape_keys(thing, bundle, part)
        yield
    skin = next(part for part in parts if part.name == SKIN)
    for kind in shell.KINDS:
        yield from shell.build(kind, bundle, skin, collection)
        yield
    head = things[SKIN]
    for thing in things.values():
        material.scale_with(thing.data.materials[0], head)
    for name, thing in (things | shell.found(collection)).items():
        if name != SKIN:
            thing.parent = head
            shape_keys.follow(thing, head)
    _add_views(bundle, collection)
    _set_provenance(head, bundle)
    shape_keys.set_expression(head, bundle.views[0].expression)
    return collection


def people(scene: bpy.types.Scene) -> list[bpy.types.Collection]:
    """The collections of the scene that hold a person."""
    return [collection for collection in scene.collection.children_recursive if PERSON in collection]


def active_person(context: bpy.types.Context) -> bpy.types.Collection | None:
    """The person that the active object belongs to, else the scene's last one, else None."""
    found = people(context.scene)
    thing = context.view_layer.objects.active
    for collection in found:
        if thing is not None and thing.name in collection.all_objects:
            return collection
    return found[-1] if found else None


def head_of(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """The skin object of a person, None when it was deleted."""
    return next((thing for thing in collection.all_objects if thing.get("ganfit_part") == SKIN), None)


def active_head(context: bpy.types.Context) -> bpy.types.Object | None:
    """The head of the active person."""
    collection = active_person(context)
    return head_of(collection) if collection is not None else None


def parts_of(collection: bpy.types.Collection) -> dict[str, bpy.types.Object]:
    """A person's objects by the bundle's name of the part, whatever they are called by now."""
    return {thing["ganfit_part"]: thing for thing in collection.all_objects if "ganfit_part" in thing}


def result_of(head: bpy.types.Object) -> dict[str, Any]:
    """The head's `result.json`; empty when it was not imported from a result."""
    return json.loads(head.get(RESULT, "{}"))


def cameras_of(collection: bpy.types.Collection) -> list[bpy.types.Object]:
    """The cameras of a person's photos, in their order."""
    found = [thing for thing in collection.all_objects if thing.type == "CAMERA" and VIEW in thing]
    return sorted(found, key=lambda thing: thing[VIEW])


def is_matched(scene: bpy.types.Scene) -> bool:
    """Whether the scene is matched to a photo."""
    return BEFORE in scene


def match_photo(context: bpy.types.Context, collection: bpy.types.Collection, view: int = 0) -> None:
    """Makes the scene show what the fit rendered: the photo's camera, size, lights and expression, plain colours.

    Everything else in the scene is hidden. Light is not bounced, surfaces have no highlights of their own (the albedo
    has the photo's), and colours are not tone mapped. `release_photo` puts back what was there.
    """
    found = {thing[VIEW]: thing for thing in cameras_of(collection)}
    if view not in found:
        return
    scene, eye = context.scene, found[view]
    release_photo(context)
    wanted = _settings(eye["ganfit_size"])
    shown = set(collection.all_objects)
    hidden = [thing for thing in context.view_layer.objects if thing not in shown and not thing.hide_render]
    scene[BEFORE] = json.dumps({
        "settings": [[path, get_value(scene, path)] for path in wanted if _has(scene, path)],
        "hidden": [thing.hide_get() for thing in hidden],
    })
    keep_blocks(scene, BEFORE_BLOCKS, hidden, person=collection, camera=scene.camera, world=scene.world)
    for path, value in wanted.items():
        set_value(scene, path, value)
    scene.camera, scene.world = eye, eye.get(WORLD) or scene.world
    for thing in hidden:
        thing.hide_render = True
        thing.hide_set(True)
    for thing in shown:
        if thing.type == "LIGHT" and VIEW in thing:
            thing.hide_render = thing.hide_viewport = thing[VIEW] != view
    _photo_look(collection, view)
    head = head_of(collection)
    if head is not None:
        set_view_expression(head, view)


def release_photo(context: bpy.types.Context) -> None:
    """Undoes `match_photo`; what was deleted in the meantime is left alone."""
    scene = context.scene
    if not is_matched(scene):
        return
    before = json.loads(scene[BEFORE])
    del scene[BEFORE]
    for path, value in before["settings"]:
        set_value(scene, path, value)
    named, hidden = take_blocks(scene, BEFORE_BLOCKS, len(before["hidden"]))
    scene.camera, scene.world = named.get("camera"), named.get("world")
    for thing, was_hidden in zip(hidden, before["hidden"]):
        if thing is not None:
            thing.hide_render = False
            if thing.name in context.view_layer.objects:
                thing.hide_set(was_hidden)
    if named.get("person") is not None:
        _photo_look(named["person"], None)


def keep_blocks(scene: bpy.types.Scene, key: str, many: Sequence[bpy.types.ID], **named: bpy.types.ID | None) -> None:
    """Writes down data-blocks on the scene, which finds them again whatever they are called by then."""
    numbered = {str(number): block for number, block in enumerate(many)}
    scene[key] = {name: block for name, block in (numbered | named).items() if block is not None}


def take_blocks(scene: bpy.types.Scene, key: str,
                count: int) -> tuple[dict[str, bpy.types.ID | None], list[bpy.types.ID | None]]:
    """What `keep_blocks` has kept: the named ones, and `count` others; None for what was deleted. The note is gone."""
    kept = scene.pop(key, {})
    for name, block in kept.items():
        if isinstance(block, bpy.types.Object) and not block.users_scene:
            kept[name] = None  # deleted by the artist; only the note has kept it in the file
    return kept, [kept.get(str(number)) for number in range(count)]


def _add_views(bundle: ResultBundle, collection: bpy.types.Collection) -> None:
    """A camera, a sun and a world for each photo; only the first photo's sun shines."""
    for number, view in enumerate(bundle.views):
        eye = camera.make_camera(view, f"Photo {number}", collection)
        sun = light.make_sun(view, f"Sun {number}", collection)
        eye[WORLD] = light.make_world(view, f"{bundle.name} {number}")
        eye[VIEW] = sun[VIEW] = number
        sun.hide_render = sun.hide_viewport = number != 0


def _set_provenance(head: bpy.types.Object, bundle: ResultBundle) -> None:
    """Custom properties: where the head comes from and with what it was made."""
    result = {name: value for name, value in bundle.result.items() if name not in LEFT_OUT}
    head[RESULT] = json.dumps(result)
    head["ganfit_layout_id"] = str(result.get("layout_id", ""))
    head["ganfit_bundle"] = str(bundle.folder)
    head["ganfit_photos"] = ", ".join(str(view["photo"].get("name", "")) for view in result["views"])
    head["ganfit_photo_sha256"] = ", ".join(str(view["photo"].get("sha256", "")) for view in result["views"])
    head["ganfit_seed"] = str(result.get("seed", ""))
    head["ganfit_basis"] = str(result.get("shape", {}).get("basis", ""))
    head["ganfit_generator"] = str(result.get("texture", {}).get("generator_sha256", ""))


def select_head(context: bpy.types.Context, head: bpy.types.Object) -> None:
    """Makes the head the only selected object, where it is in the view layer."""
    context.view_layer.update()  # since 5.0 a collection that was just linked is in the layer only then
    if head.name in context.view_layer.objects:
        for thing in context.view_layer.objects:
            thing.select_set(False)
        head.select_set(True)
        context.view_layer.objects.active = head


def _settings(size: Any) -> dict[str, Any]:
    """Data paths of the scene and their values while it is matched to a photo of this size (width, height)."""
    return {
        "render.resolution_x": int(size[0]),
        "render.resolution_y": int(size[1]),
        "render.resolution_percentage": 100,
        "render.pixel_aspect_x": 1.0,
        "render.pixel_aspect_y": 1.0,
        "render.film_transparent": True,
        "render.use_border": False,
        "display_settings.display_device": "sRGB",
        "view_settings.view_transform": "Standard",
        "view_settings.look": "None",
        "view_settings.exposure": 0.0,
        "view_settings.gamma": 1.0,
        "cycles.diffuse_bounces": 0,
    }


def _has(scene: bpy.types.Scene, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    holder = getattr(scene, owner, None)  # `scene.cycles` is there only with Cycles enabled
    return holder is not None and hasattr(holder, name)


def get_value(scene: bpy.types.Scene, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(getattr(scene, owner), name)


def set_value(scene: bpy.types.Scene, path: str, value: Any) -> None:
    owner, _, name = path.rpartition(".")
    if _has(scene, path):
        setattr(getattr(scene, owner), name, value)


def _photo_look(collection: bpy.types.Collection, view: int | None) -> None:
    """Gives all of a person the look of a photo, or with None the artist's own back."""
    on, head = view is not None, head_of(collection)
    strands = [thing for thing in collection.all_objects if HAIR in thing]
    if not strands:  # they may have been deleted without Remove Hair
        shell.give_way(collection, False)
    _lay_photo_hair(head, strands, on)
    for thing in list(collection.all_objects):  # hiding one rebuilds Blender's own list
        if HAIR in thing:
            _hide_hair(thing, on)
            continue
        if shell.is_shell(thing):
            shell.set_photo_look(thing, on, shell.GLASSES.mark not in thing or _shows_glasses(head, view))
        for slot in thing.material_slots:
            if slot.material is not None:
                material.set_photo_look(slot.material, on)


def _shows_glasses(head: bpy.types.Object | None, view: int | None) -> bool:
    """Whether a photo shows the glasses; results of earlier versions do not say."""
    views = result_of(head).get("views", []) if head is not None else []
    return view is None or view >= len(views) or bool(views[view].get("glasses", True))


def _lay_photo_hair(head: bpy.types.Object | None, strands: list[bpy.types.Object], on: bool) -> None:
    """Gives the photo's flat layer, which strands have faded, its strength before them, or what it has with them."""
    layer = hair.layer_strength(head.active_material) if head is not None else None
    before = next((thing[hair.LAYER_BEFORE] for thing in strands if hair.LAYER_BEFORE in thing), None)
    if on and layer is not None and before is not None and hair.LAYER_OUTSIDE not in head:
        head[hair.LAYER_OUTSIDE], layer.default_value = layer.default_value, before
    elif not on and head is not None:
        outside = head.pop(hair.LAYER_OUTSIDE, None)
        if layer is not None and before is not None and outside is not None:
            layer.default_value = outside


def _hide_hair(thing: bpy.types.Object, on: bool) -> None:
    """Hides strands that are shown, and shows again what this has hidden."""
    if on and not thing.hide_render:
        thing[SHOWN] = True
    elif on or not thing.pop(SHOWN, False):
        return
    thing.hide_render = thing.hide_viewport = on


def set_view_expression(head: bpy.types.Object, view: int) -> None:
    """Gives the head the expression that it has in a photo; nothing without a result that has this photo."""
    views = result_of(head).get("views", [])
    if view < len(views):
        shape_keys.set_expression(head, views[view]["expression"])
