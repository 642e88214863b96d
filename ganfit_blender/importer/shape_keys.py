# SPDX-License-Identifier: GPL-3.0-or-later
"""The 52 ARKit expressions as shape keys; the other parts follow the head's keys by drivers."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np

from .axes import to_blender
from .bundle import SKIN, ResultBundle
from .mesh import Part

BASIS = "Basis"
MOVES_M = 1e-7  # a key that moves no vertex of a part further than this is left out of the part


def add_shape_keys(thing: bpy.types.Object, bundle: ResultBundle, part: Part) -> list[str]:
    """Adds Basis and one key an expression, all at 0; parts other than the skin get only the keys that move them.

    Returns:
        The names of the keys, without Basis.
    """
    names = [str(name) for name in bundle.head["expression_names"]]
    deltas = to_blender(bundle.head["expression_deltas"][:, part.vertices])
    basis = np.empty(len(part.vertices) * 3, np.float32)
    thing.data.vertices.foreach_get("co", basis)
    added: list[str] = []
    for name, delta in zip(names, deltas):
        if part.name != SKIN and np.abs(delta).max() <= MOVES_M:
            continue
        if not added:
            thing.shape_key_add(name=BASIS, from_mix=False)
        key = thing.shape_key_add(name=name, from_mix=False)
        key.slider_min, key.slider_max, key.value = 0.0, 1.0, 0.0
        key.data.foreach_set("co", basis + delta.ravel())
        added.append(name)
    if added:
        thing.data.shape_keys.name = thing.name
    return added


def follow(thing: bpy.types.Object, leader: bpy.types.Object) -> None:
    """Drives the values of the object's keys by the keys of the same name of the leader (no Python expressions)."""
    keys = thing.data.shape_keys
    if keys is None:
        return
    for block in keys.key_blocks[1:]:
        driver = block.driver_add("value").driver
        driver.type = "AVERAGE"
        variable = driver.variables.new()
        variable.name = "value"
        target = variable.targets[0]
        target.id_type = "KEY"
        target.id = leader.data.shape_keys
        target.data_path = f'key_blocks["{block.name}"].value'


def set_expression(head: bpy.types.Object, expression: Mapping[str, float]) -> None:
    """Sets the head's keys (0 to 1); names that the head has not are left out, keys that are not named become 0."""
    for block in head.data.shape_keys.key_blocks[1:]:
        block.value = min(1.0, max(0.0, expression.get(block.name, 0.0)))
