# SPDX-License-Identifier: GPL-3.0-or-later
"""What the face does: neutral, as in a photo, mirrored; and how its keys are grouped for the panel."""

from __future__ import annotations

import bpy

from .importer import shape_keys

# Groups of ARKit's names by how they begin, in the order of the panel.
GROUPS = {
    "brows": ("brow",),
    "eyes": ("eye",),
    "cheeks": ("cheek", "nose"),
    "jaw": ("jaw", "tongue"),
    "mouth": ("mouth",),
}


def grouped(head: bpy.types.Object) -> dict[str, list[bpy.types.ShapeKey]]:
    """The head's expression keys by group."""
    keys = shape_keys.expression_keys(head)
    return {group: [key for key in keys if key.name.startswith(starts)] for group, starts in GROUPS.items()}


def set_neutral(head: bpy.types.Object) -> None:
    """All expression keys to 0; who it is stays."""
    shape_keys.set_expression(head, {})


def reset_shape(head: bpy.types.Object) -> None:
    """All shape components to 0: the head as it was fitted."""
    for block in shape_keys.identity_keys(head):
        block.value = 0.0


def mirror(head: bpy.types.Object) -> None:
    """Exchanges the weights of the left and the right side, those of `jawLeft` and `jawRight` as well."""
    values = {block.name: block.value for block in shape_keys.expression_keys(head)}
    shape_keys.set_expression(head, {mirrored_name(name): value for name, value in values.items()})


def mirrored_name(name: str) -> str:
    """The key of the other side; a key of both sides is its own."""
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name.removesuffix(side) + other
    return name
