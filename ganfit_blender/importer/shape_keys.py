# SPDX-License-Identifier: GPL-3.0-or-later
"""The 52 ARKit expressions and the leading shape components as shape keys; other parts follow the head's by drivers."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np

from .axes import to_blender
from .bundle import SKIN, ResultBundle
from .mesh import Part

BASIS = "Basis"
# ARKit's blend shape locations, as Apple spells them (ARFaceAnchor.BlendShapeLocation).
ARKIT = frozenset(
    "browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
    "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
    "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
    "noseSneerRight tongueOut".split()
)
IDENTITY_PREFIX = "shape_"  # names of the shape components' keys; their unit is the standard deviation
IDENTITY_RANGE = 3.0
MOVES_M = 1e-7  # a key that moves no vertex of a part further than this is left out of the part


def is_identity(name: str) -> bool:
    """Whether a key changes who it is, not what the face does."""
    return name.startswith(IDENTITY_PREFIX)


def add_shape_keys(thing: bpy.types.Object, bundle: ResultBundle, part: Part) -> list[str]:
    """Adds Basis, one key an expression and one a shape component, all at 0.

    Parts other than the skin get only the keys that move them.

    Returns:
        The names of the keys, without Basis.
    """
    head = bundle.head
    basis = np.empty(len(part.vertices) * 3, np.float32)
    thing.data.vertices.foreach_get("co", basis)
    names = [str(name) for name in head["expression_names"]]
    limits = {name: (0.0, 1.0) for name in names}
    motions = dict(zip(names, to_blender(head["expression_deltas"][:, part.vertices])))
    shapes = identity_motions(bundle, part)
    limits |= {name: (-IDENTITY_RANGE, IDENTITY_RANGE) for name in shapes}
    added: list[str] = []
    for name, delta in (motions | shapes).items():
        if part.name != SKIN and np.abs(delta).max() <= MOVES_M:
            continue
        if not added:
            thing.shape_key_add(name=BASIS, from_mix=False)
        key = thing.shape_key_add(name=name, from_mix=False)
        key.slider_min, key.slider_max = limits[name]
        key.value = 0.0
        key.points.foreach_set("co", basis + delta.ravel())
        added.append(name)
    if added:
        thing.data.shape_keys.name = thing.name
    return added


def identity_motions(bundle: ResultBundle, part: Part) -> dict[str, np.ndarray]:
    """(V, 3) how a shape component moves the part's vertices, Blender's axes, by the key's name."""
    deltas = [to_blender(delta[part.vertices]) for delta in bundle.head.get("identity_deltas", ())]
    return {f"{IDENTITY_PREFIX}{number + 1:02d}": delta for number, delta in enumerate(deltas)}


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


def expression_keys(head: bpy.types.Object) -> list[bpy.types.ShapeKey]:
    """The head's keys for expressions, in their order; empty when the artist has removed the shape keys."""
    keys = head.data.shape_keys
    return [] if keys is None else [block for block in keys.key_blocks[1:] if block.name in ARKIT]


def identity_keys(head: bpy.types.Object) -> list[bpy.types.ShapeKey]:
    """The head's keys for shape components."""
    keys = head.data.shape_keys
    return [] if keys is None else [block for block in keys.key_blocks[1:] if is_identity(block.name)]


def set_expression(head: bpy.types.Object, expression: Mapping[str, float]) -> None:
    """Sets the head's expression (0 to 1); names that the head has not are left out, what is not named becomes 0."""
    for block in expression_keys(head):
        block.value = min(1.0, max(0.0, expression.get(block.name, 0.0)))
