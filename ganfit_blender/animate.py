# SPDX-License-Identifier: GPL-3.0-or-later
"""A capture as actions: one on the head's shape keys, one on the head object's rotation."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np
from mathutils import Euler, Vector

from .capture import Capture
from .importer import shape_keys

NECK_PIVOT = Vector((0.0, 0.075, -0.11))  # metres, head's frame: about where the skull turns on the neck
LINEAR = 1  # number of the interpolation in Blender's files


def apply_capture(context: bpy.types.Context, head: bpy.types.Object, capture: Capture, name: str, start: int,
                  move_head: bool, invert_yaw: bool = False, invert_pitch: bool = False) -> tuple[int, int]:
    """Makes the actions from `start` on, at the scene's own frame rate; returns first and last frame."""
    scene = context.scene
    rate = scene.render.fps / scene.render.fps_base
    frames = start + capture.seconds * rate
    keys = head.data.shape_keys
    curves = new_curves(keys, name, "KEY")
    for key in shape_keys.expression_keys(head):
        curve = curves.new(f'key_blocks["{key.name}"].value')
        fill(curve, frames, capture.weights.get(key.name, np.zeros(len(frames))))
    if move_head and capture.head is not None and head.parent is None:  # on a body, the body's rig turns the head
        yaw, pitch, roll = (capture.head * [-1 if invert_yaw else 1, -1 if invert_pitch else 1, 1]).T
        _turn_head(head, f"{name} head", frames, np.stack([pitch, roll, yaw], 1))
    last = int(np.ceil(frames[-1]))
    scene.frame_start, scene.frame_end = min(scene.frame_start, start), max(scene.frame_end, last)
    scene.frame_set(start)
    return start, last


def _turn_head(head: bpy.types.Object, name: str, frames: np.ndarray, angles: np.ndarray) -> None:
    """Keys rotation (F, 3) radians about Blender's X, Y, Z and the location that keeps the neck's pivot in place."""
    head.rotation_mode = "XYZ"
    scale = sum(head.scale) / 3
    places = np.array([scale * (NECK_PIVOT - Euler(angle).to_matrix() @ NECK_PIVOT) for angle in angles.tolist()])
    places += np.array(head.location)
    curves = new_curves(head, name, "OBJECT")
    for axis in range(3):
        fill(curves.new("rotation_euler", index=axis), frames, angles[:, axis])
        fill(curves.new("location", index=axis), frames, places[:, axis])


def new_curves(owner: Any, name: str, kind: str) -> Any:
    """The F-curves of a new action that drives `owner`; Blender 4.4 and later keep them in a slot's channel bag."""
    action = bpy.data.actions.new(name)
    action.use_fake_user = True
    animation = owner.animation_data or owner.animation_data_create()
    animation.action = action
    if bpy.app.version < (4, 4, 0):
        action.id_root = kind
        return action.fcurves
    slot = action.slots.new(kind, owner.name)
    animation.action_slot = slot
    strip = action.layers.new("Capture").strips.new(type="KEYFRAME")
    return strip.channelbag(slot, ensure=True).fcurves


def fill(curve: bpy.types.FCurve, frames: np.ndarray, values: np.ndarray) -> None:
    """Linear keyframes."""
    points = curve.keyframe_points
    points.add(len(frames))
    points.foreach_set("co", np.stack([frames, values], 1).astype(np.float32).ravel())
    points.foreach_set("interpolation", np.full(len(frames), LINEAR, np.int32))
    curve.update()
