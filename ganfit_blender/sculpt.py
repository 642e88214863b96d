# SPDX-License-Identifier: GPL-3.0-or-later
"""Sculpting a head without losing anything: a multires copy to sculpt on, and the way back to all shape keys."""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import numpy as np

from . import hair_curves, sculpt_skin, shapes
from .errors import AddonError
from .importer import scene as importer
from .importer import shape_keys, shell
from .importer.axes import from_blender
from .importer.bundle import SKIN, ResultBundle
from .importer.mesh import SUBDIVISION, split
from .importer.scene import HAIR

COPY_OF = "ganfit_sculpt_of"  # on the copy: the head
WEIGHTS = "ganfit_weights"  # on the copy: the head's expression before, as JSON
MULTIRES = "Sculpt"
FIT_STEPS = 24
LASHES = "lashes"


def find(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """The copy that is being sculpted, None when there is none."""
    return next((thing for thing in collection.all_objects if COPY_OF in thing), None)


def prepare(context: bpy.types.Context, collection: bpy.types.Collection, levels: int,
            show_skin: bool = True) -> bpy.types.Object:
    """Makes a multires copy of the head's neutral shape and hides the head, which keeps its shape keys.

    Args:
        levels: of multires; each has four times the last one's quads.
        show_skin: show the skin's colours in sculpt mode too, laid over the surface as it is now.

    Returns:
        The copy, selected, in sculpt mode; one that is there already is taken up again. Raises AddonError: `topology`.
    """
    object_mode(context)
    head = importer.head_of(collection)
    copy = find(collection)
    if not head.data.polygons:
        raise AddonError("topology", f"{head.name} has no faces.")
    if copy is None:
        copy = _copy(context, collection, head)
    modifier = _multires(copy)
    for _ in range(levels - modifier.total_levels):
        with context.temp_override(object=copy, active_object=copy):
            bpy.ops.object.multires_subdivide(modifier=modifier.name, mode="CATMULL_CLARK")
    modifier.levels = modifier.sculpt_levels = modifier.render_levels = modifier.total_levels
    copy.hide_set(False)
    sculpt_skin.hide(copy, head.active_material)
    if show_skin:
        sculpt_skin.show(copy, shapes.evaluated_points(context, copy)[: len(copy.data.vertices)])
    head.hide_render = True
    head.hide_set(True)
    _show_worn(context, collection, False)
    select(context, copy)
    bpy.ops.object.mode_set(mode="SCULPT")
    return copy


def transfer(context: bpy.types.Context, collection: bpy.types.Collection, keep_detail: bool) -> float:
    """Carries the sculpted shape to the head's neutral and to all its shape keys, then removes the copy.

    What the cage cannot hold stays as multires detail on the head when `keep_detail` is set.

    Returns:
        The furthest that a vertex of the cage has moved, metres. Raises AddonError: `no_sculpt`, `topology`.
    """
    head, copy = importer.head_of(collection), find(collection)
    if copy is None:
        raise AddonError("no_sculpt", "There is no sculpt of this head.")
    object_mode(context)
    neutral = shapes.neutral_points(head)
    offset = sculpted_cage(context, copy, len(neutral)) - neutral
    values = {block.name: block.value for block in shape_keys.expression_keys(head)}
    shape_keys.set_expression(head, {})
    shapes.move_all_keys(head, offset)
    lashes = importer.parts_of(collection).get(LASHES)
    if lashes is not None:
        shapes.move_all_keys(lashes, _with_skin(lashes, neutral, offset))
    for standing in shell.found(collection).values():
        carried = shell.carried(standing.data, shapes.neutral_points(standing), neutral, offset[None])[0]
        shapes.move_all_keys(standing, carried)
    strands = hair_curves.find(collection)
    if strands is not None:
        hair_curves.move(strands, neutral, offset)
    head.hide_set(False)
    if keep_detail:
        _take_detail(context, head, copy)
    shape_keys.set_expression(head, values | json.loads(copy.get(WEIGHTS, "{}")))
    _remove(context, collection, copy)
    return float(np.linalg.norm(offset, axis=1).max())


def discard(context: bpy.types.Context, collection: bpy.types.Collection) -> None:
    """Removes the copy and shows the head as it was. Raises AddonError: `no_sculpt`."""
    copy = find(collection)
    if copy is None:
        raise AddonError("no_sculpt", "There is no sculpt of this head.")
    object_mode(context)
    head = importer.head_of(collection)
    shape_keys.set_expression(head, json.loads(copy.get(WEIGHTS, "{}")))
    _remove(context, collection, copy)


def sculpted_cage(context: bpy.types.Context, copy: bpy.types.Object, count: int) -> np.ndarray:
    """(V, 3) the cage whose smooth surface lies at the sculpted one's cage points: what multires adds is undone.

    Raises AddonError: `topology`, when the mesh is not the head's any more.
    """
    base = shapes.mesh_points(copy.data)
    if len(base) != count:
        text = f"The sculpt {copy.name} has {len(base)} vertices, the head {count}."
        raise AddonError("topology", text)
    modifier = _multires(copy)
    if modifier.total_levels == 0:
        return base
    modifier.levels = modifier.total_levels
    target = shapes.evaluated_points(context, copy)[:count]  # Blender puts the cage's own vertices first
    smooth = _Smooth(context, copy)
    try:
        cage = base.copy()
        for _ in range(FIT_STEPS):
            cage += target - smooth(cage)
    finally:
        smooth.close()
    return cage


def offsets(context: bpy.types.Context, collection: bpy.types.Collection, bundle: ResultBundle) -> np.ndarray:
    """(V0, 3) metres, GLB axes, the bundle's vertices: how far the neutral cage lies from the bundle's `verts`.

    It replaces the bundle's own `offsets`; a sculpt that is not transferred yet is included.
    Raises AddonError: `topology`.
    """
    moved = np.zeros((len(bundle.head["verts"]), 3), np.float32)
    things, copy = importer.parts_of(collection), find(collection)
    for part in split(bundle):
        thing = things.get(part.name)
        if thing is None:
            continue
        points, count = shapes.neutral_points(thing), len(part.vertices)
        if len(points) != count:
            raise AddonError("topology", f"{thing.name} has {len(points)} vertices, the result {count}.")
        if copy is not None and part.name in (SKIN, LASHES):
            object_mode(context)
            skin = shapes.neutral_points(things[SKIN])
            carved = sculpted_cage(context, copy, len(skin)) - skin
            points = points + (carved if part.name == SKIN else _with_skin(thing, skin, carved))
        moved[part.vertices] = from_blender(points + part.origin) - bundle.head["verts"][part.vertices]
    return moved


def write_offsets(path: Path, values: np.ndarray) -> None:
    """The file that the worker's `refit` takes as `sculpt`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, offsets=values.astype(np.float32))


def object_mode(context: bpy.types.Context) -> None:
    """Leaves sculpt, paint or edit mode; only then Blender's data is whole."""
    if context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")


def select(context: bpy.types.Context, *things: bpy.types.Object) -> None:
    """Selects these objects alone; the last one is active."""
    for thing in context.view_layer.objects:
        thing.select_set(thing in things)
    context.view_layer.objects.active = things[-1]


class _Smooth:
    """Evaluates the multires base surface for cages: linear in the cage, its first points belong to the cage."""

    def __init__(self, context: bpy.types.Context, copy: bpy.types.Object) -> None:
        self._context = context
        self._thing = bpy.data.objects.new("GANFIT smooth", copy.data.copy())
        context.scene.collection.objects.link(self._thing)
        source = _multires(copy)
        modifier = self._thing.modifiers.new(SUBDIVISION, "SUBSURF")
        modifier.levels, modifier.use_limit_surface = source.total_levels, True
        modifier.quality, modifier.use_creases = source.quality, source.use_creases
        modifier.boundary_smooth = source.boundary_smooth

    def __call__(self, cage: np.ndarray) -> np.ndarray:
        shapes.set_mesh_points(self._thing.data, cage)
        return shapes.evaluated_points(self._context, self._thing)[: len(cage)]

    def close(self) -> None:
        mesh = self._thing.data
        bpy.data.objects.remove(self._thing)
        bpy.data.meshes.remove(mesh)


def _copy(context: bpy.types.Context, collection: bpy.types.Collection, head: bpy.types.Object) -> bpy.types.Object:
    """The head's neutral shape as an object of its own, with the head's detail where it has some."""
    values = {block.name: block.value for block in shape_keys.expression_keys(head)}
    neutral = shapes.neutral_points(head)
    shape_keys.set_expression(head, {})
    copy = head.copy()
    copy.data = head.data.copy()
    copy.name = copy.data.name = f"{head.name} Sculpt"
    collection.objects.link(copy)
    shapes.remove_keys(copy)
    shapes.set_mesh_points(copy.data, neutral)
    for name in [name for name in copy.keys() if name.startswith("ganfit_")]:
        del copy[name]
    copy[COPY_OF], copy[WEIGHTS] = head, json.dumps(values)
    for modifier in list(copy.modifiers):
        if modifier.type != "MULTIRES":
            copy.modifiers.remove(modifier)
    return copy


def _multires(thing: bpy.types.Object) -> bpy.types.MultiresModifier:
    """The object's multires modifier, a new one if it has none."""
    found = next((modifier for modifier in thing.modifiers if modifier.type == "MULTIRES"), None)
    return found or thing.modifiers.new(MULTIRES, "MULTIRES")


def _take_detail(context: bpy.types.Context, head: bpy.types.Object, copy: bpy.types.Object) -> None:
    """Gives the head the sculpt's surface as multires; the head is neutral and its cage fitted already."""
    levels = _multires(copy).total_levels
    if levels == 0:
        return
    for modifier in list(head.modifiers):
        if modifier.type == "SUBSURF":
            head.modifiers.remove(modifier)
    modifier = _multires(head)
    with context.temp_override(object=head, active_object=head):
        while modifier.total_levels < levels:
            bpy.ops.object.multires_subdivide(modifier=modifier.name, mode="CATMULL_CLARK")
    modifier.levels = modifier.render_levels = modifier.sculpt_levels = modifier.total_levels
    head.active_shape_key_index = 0
    select(context, copy, head)
    bpy.ops.object.multires_reshape(modifier=modifier.name)


def _with_skin(lashes: bpy.types.Object, skin: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(V, 3) how the lashes move with the lids that they stand on, whose vertices (N, 3) move by `offset`."""
    indices, weights = shapes.nearest(shapes.neutral_points(lashes), skin, 4)
    return (weights[..., None] * offset[indices]).sum(1).astype(np.float32)


def _remove(context: bpy.types.Context, collection: bpy.types.Collection, copy: bpy.types.Object) -> None:
    """Deletes the copy and shows the head."""
    head, mesh = importer.head_of(collection), copy.data
    sculpt_skin.hide(copy, head.active_material)
    bpy.data.objects.remove(copy)
    if mesh.users == 0:
        bpy.data.meshes.remove(mesh)
    head.hide_render = False
    head.hide_set(False)
    _show_worn(context, collection, True)
    select(context, head)


def _show_worn(context: bpy.types.Context, collection: bpy.types.Collection, on: bool) -> None:
    """Hair and glasses would stand in the way of the brush."""
    for thing in list(collection.all_objects):  # hiding one rebuilds Blender's own list
        if shell.is_shell(thing):
            shell.set_aside(context, thing, not on)
        elif HAIR in thing and thing.name in context.view_layer.objects:
            thing.hide_set(not on)
