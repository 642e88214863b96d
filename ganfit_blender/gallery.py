# SPDX-License-Identifier: GPL-3.0-or-later
"""Many people in one scene: each in its collection on a grid, or linked from a .blend of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import bpy

from . import views
from .batch_table import DONE, SKIPPED, Person, grid_place
from .errors import AddonError
from .importer import scene as importer

KINDS = ("objects", "meshes", "materials", "images", "cameras", "lights", "worlds", "collections",
         "node_groups", "actions")
PLACE = "ganfit_place"  # on a person's collection or instance: (x, z) on the grid, metres


def place_people(context: bpy.types.Context, name: str, people: list[Person], linked: bool,
                 placed: set[str]) -> Iterator[bool]:
    """Puts everyone who has a result into the collection `name` of the scene, in steps that each take a blink.

    A step gives whether it has brought someone into the scene. What an undo between two steps takes back ends them
    with a ReferenceError; begun anew, they go on with whoever is not there.

    Whoever is there from an earlier run stays; a result that was made anew takes the place of the old one, which is
    hidden. When the folder has grown since, those who are there move to their places on the larger grid.

    Args:
        placed: bundles that this run has placed already, which are left alone; those placed now are added.

    Raises AddonError: of a bundle that cannot be read, when all others are in.
    """
    if not any(person.bundle for person in people):
        return
    parent = bpy.data.collections.get(name)
    if parent is None or parent.name not in context.scene.collection.children:
        parent = bpy.data.collections.new(name)
        context.scene.collection.children.link(parent)
    places = {person.bundle: grid_place(number, len(people)) for number, person in enumerate(people) if person.bundle}
    _rearrange(parent, places)
    problem = None
    for person in people:
        if person.state not in (DONE, SKIPPED) or not person.bundle or person.bundle in placed:
            continue
        before = _versions(parent, person.bundle)
        if before and person.state == SKIPPED:
            placed.add(person.bundle)
            continue
        made = set[tuple[str, str]]()
        try:
            thing = yield from (_linked if linked else _local)(Path(person.bundle), made)
            for old in before:
                old.hide_viewport = old.hide_render = True
            thing[PLACE] = [0.0, 0.0]
            _move(thing, places[person.bundle])
            (parent.objects if linked else parent.children).link(thing)
        except AddonError as error:
            _remove(made)
            placed.add(person.bundle)
            problem = problem or error
            continue
        except ReferenceError:
            _remove(made)
            raise
        placed.add(person.bundle)
        if context.view_layer.objects.active is None and not linked:
            importer.select_head(context, importer.head_of(thing))
        yield True
    if problem is not None:
        raise problem


def _rearrange(parent: bpy.types.Collection, places: dict[str, tuple[float, float]]) -> None:
    """Moves whoever stands elsewhere on the grid than they should now; what the artist has moved them by stays."""
    for thing in [*parent.children, *parent.objects]:
        place = places.get(_bundle(thing))
        if place is not None and PLACE in thing and tuple(thing[PLACE]) != place:
            _move(thing, place)


def _move(thing: bpy.types.Collection | bpy.types.Object, place: tuple[float, float]) -> None:
    """Moves a person from their place (x, z) on the grid to another."""
    step = place[0] - thing[PLACE][0], 0.0, place[1] - thing[PLACE][1]
    thing[PLACE] = list(place)
    for part in thing.all_objects if isinstance(thing, bpy.types.Collection) else [thing]:
        if part.parent is None:
            part.location = [a + b for a, b in zip(part.location, step)]


def _bundle(thing: bpy.types.Collection | bpy.types.Object) -> str:
    """The bundle that a person's collection, or the instance of a linked one, shows; empty for anything else."""
    holder = importer.head_of(thing) if isinstance(thing, bpy.types.Collection) else thing
    return holder.get("ganfit_bundle", "") if holder is not None else ""


def _versions(parent: bpy.types.Collection, bundle: str) -> list[bpy.types.Collection | bpy.types.Object]:
    """What shows this bundle already."""
    return [thing for thing in (*parent.objects, *parent.children)
            if _bundle(thing) == bundle and not thing.hide_viewport]


def _local(folder: Path, made: set[tuple[str, str]]) -> Generator[bool, None, bpy.types.Collection]:
    """The person's own collection."""
    collection = yield from _built(folder, made)
    views.setup(importer.head_of(collection))
    return collection


def _linked(folder: Path, made: set[tuple[str, str]]) -> Generator[bool, None, bpy.types.Object]:
    """Writes the person into `<name>.blend` in its folder; an instance linked from there."""
    path = folder / f"{folder.name}.blend"
    collection = yield from _built(folder, made)
    name = collection.name
    bpy.data.libraries.write(str(path), {collection}, path_remap="RELATIVE_ALL", compress=True)
    yield False
    _remove(made)
    made.clear()
    yield False
    with bpy.data.libraries.load(str(path), link=True, relative=bool(bpy.data.filepath)) as (_, wanted):
        wanted.collections = [name]
    thing = bpy.data.objects.new(folder.name, None)
    thing.instance_type, thing.instance_collection = "COLLECTION", wanted.collections[0]
    thing.empty_display_size = 0.05
    thing["ganfit_bundle"] = str(folder)
    return thing


def _built(folder: Path, made: set[tuple[str, str]]) -> Generator[bool, None, bpy.types.Collection]:
    """The steps of a person's import; kind and name of what each of them adds to the file are noted in `made`."""
    steps = importer.build(folder)
    while True:
        known = _everything()
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        finally:
            made |= _everything() - known
        yield False


def _remove(made: set[tuple[str, str]]) -> None:
    """Removes what of this is still in the file: an undo may have taken some of it."""
    found = (getattr(bpy.data, kind).get(name) for kind, name in made)
    bpy.data.batch_remove([block for block in found if block is not None])


def _everything() -> set[tuple[str, str]]:
    """Kind and name of all that is in the file, and of no other file."""
    return {(kind, item.name) for kind in KINDS for item in getattr(bpy.data, kind) if item.library is None}
