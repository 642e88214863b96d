# SPDX-License-Identifier: GPL-3.0-or-later
"""Many people in one scene: each in its collection on a grid, or linked from a .blend of its own."""

from __future__ import annotations

from pathlib import Path

import bpy

from . import views
from .batch_table import DONE, SKIPPED, Person, grid_place
from .importer import scene as importer

KINDS = ("objects", "meshes", "shape_keys", "materials", "images", "cameras", "lights", "worlds", "collections",
         "node_groups", "actions")


def place_people(context: bpy.types.Context, name: str, people: list[Person], linked: bool) -> int:
    """Puts everyone who has a result into the collection `name` of the scene; returns how many are new in it.

    Whoever is there from an earlier run stays; a result that was made anew takes the place of the old one, which is
    hidden. Raises AddonError: of a bundle that cannot be read.
    """
    if not any(person.bundle for person in people):
        return 0
    parent = bpy.data.collections.get(name)
    if parent is None or parent.name not in context.scene.collection.children:
        parent = bpy.data.collections.new(name)
        context.scene.collection.children.link(parent)
    added = 0
    for number, person in enumerate(people):
        if person.state not in (DONE, SKIPPED) or not person.bundle:
            continue
        before = _versions(parent, person.bundle)
        if before and person.state == SKIPPED:
            continue
        for thing in before:
            thing.hide_viewport = thing.hide_render = True
        x, z = grid_place(number, len(people))
        folder = Path(person.bundle)
        _add_linked(context, parent, folder, (x, 0.0, z)) if linked else _add(context, parent, folder, (x, 0.0, z))
        added += 1
    return added


def _versions(parent: bpy.types.Collection, bundle: str) -> list[bpy.types.Collection | bpy.types.Object]:
    """What shows this bundle already: a person's collection, or the instance of a linked one."""
    found: list[bpy.types.Collection | bpy.types.Object] = [
        thing for thing in parent.objects if thing.get("ganfit_bundle") == bundle and not thing.hide_viewport
    ]
    for collection in parent.children:
        head = importer.head_of(collection)
        if head is not None and head.get("ganfit_bundle") == bundle and not collection.hide_viewport:
            found.append(collection)
    return found


def _add(context: bpy.types.Context, parent: bpy.types.Collection, folder: Path,
         place: tuple[float, float, float]) -> bpy.types.Collection:
    """The person's own collection, everything in it moved to its place."""
    collection = importer.import_bundle(context, folder, match=False)
    views.setup(importer.head_of(collection))
    context.scene.collection.children.unlink(collection)
    parent.children.link(collection)
    for thing in collection.all_objects:
        if thing.parent is None:
            thing.location = [a + b for a, b in zip(thing.location, place)]
    return collection


def _add_linked(context: bpy.types.Context, parent: bpy.types.Collection, folder: Path,
                place: tuple[float, float, float]) -> bpy.types.Object:
    """Writes the person into `<name>.blend` in its folder, and an instance linked from there into the scene."""
    path = folder / f"{folder.name}.blend"
    known = {item for kind in KINDS for item in getattr(bpy.data, kind)}
    collection = importer.import_bundle(context, folder, match=False)
    name = collection.name
    bpy.data.libraries.write(str(path), {collection}, path_remap="RELATIVE_ALL", compress=True)
    bpy.data.batch_remove([item for kind in KINDS for item in getattr(bpy.data, kind)
                           if item not in known and kind != "shape_keys"])
    with bpy.data.libraries.load(str(path), link=True, relative=bool(bpy.data.filepath)) as (_, wanted):
        wanted.collections = [name]
    thing = bpy.data.objects.new(folder.name, None)
    thing.instance_type, thing.instance_collection = "COLLECTION", wanted.collections[0]
    thing.empty_display_size = 0.05
    thing.location = place
    thing["ganfit_bundle"] = str(folder)
    parent.objects.link(thing)
    return thing
