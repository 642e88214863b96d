# SPDX-License-Identifier: GPL-3.0-or-later
"""Vertex positions of meshes and shape keys as arrays, and the neutral shape that they give."""

from __future__ import annotations

import bpy
import numpy as np

from .importer.shape_keys import is_identity


def mesh_points(mesh: bpy.types.Mesh) -> np.ndarray:
    """(V, 3) float32 positions of a mesh's vertices."""
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def set_mesh_points(mesh: bpy.types.Mesh, points: np.ndarray) -> None:
    """Moves a mesh's vertices to (V, 3)."""
    mesh.vertices.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
    mesh.update()


def key_points(block: bpy.types.ShapeKey) -> np.ndarray:
    """(V, 3) float32 positions of a shape key."""
    points = np.empty(len(block.data) * 3, np.float32)
    block.data.foreach_get("co", points)
    return points.reshape(-1, 3)


def set_key_points(block: bpy.types.ShapeKey, points: np.ndarray) -> None:
    """Moves a shape key's points to (V, 3)."""
    block.data.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())


def evaluated_points(context: bpy.types.Context, thing: bpy.types.Object) -> np.ndarray:
    """(V', 3) positions in the object's space with shape keys and modifiers as the viewport shows them."""
    context.view_layer.update()
    evaluated = thing.evaluated_get(context.evaluated_depsgraph_get())
    points = mesh_points(evaluated.to_mesh())
    evaluated.to_mesh_clear()
    return points


def neutral_points(thing: bpy.types.Object) -> np.ndarray:
    """(V, 3) the cage without expression, with the identity sliders as they stand."""
    if thing.data.shape_keys is None:
        return mesh_points(thing.data)
    blocks = thing.data.shape_keys.key_blocks
    basis = key_points(blocks[0])
    moved = basis.copy()
    for block in blocks[1:]:
        if is_identity(block.name) and block.value:
            moved += block.value * (key_points(block) - basis)
    return moved


def remove_keys(thing: bpy.types.Object) -> None:
    """Removes all shape keys of an object whose mesh is its own."""
    if thing.data.shape_keys is None:
        return
    name = thing.data.shape_keys.name
    thing.shape_key_clear()
    left = bpy.data.shape_keys.get(name)  # before 5.2 Blender leaves them behind, without an owner
    if left is not None:
        bpy.data.batch_remove([left])


def move_all_keys(thing: bpy.types.Object, offset: np.ndarray) -> None:
    """Adds (V, 3) to the mesh and to every shape key, so that expressions keep their motion."""
    if thing.data.shape_keys is not None:
        for block in thing.data.shape_keys.key_blocks:
            set_key_points(block, key_points(block) + offset)
    set_mesh_points(thing.data, mesh_points(thing.data) + offset)


def nearest(points: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of (N, 3) the `count` nearest of (M, 3): their indices (N, count) and weights that sum to 1."""
    indices, weights = np.empty((len(points), count), np.int64), np.empty((len(points), count))
    for start in range(0, len(points), 256):  # a full table of distances would take hundreds of megabytes
        part = slice(start, start + 256)
        squared = ((points[part, None] - others[None]) ** 2).sum(-1)
        near = np.argpartition(squared, count - 1, 1)[:, :count]
        indices[part] = near
        weights[part] = 1 / (np.take_along_axis(squared, near, 1) + 1e-8)
    return indices, weights / weights.sum(1, keepdims=True)
