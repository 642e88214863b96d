# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera that took a photo, with the photo as its background."""

from __future__ import annotations

import math

import bpy
import numpy as np
from mathutils import Matrix

from .axes import GLB_TO_BLENDER
from .bundle import View

SENSOR_HEIGHT_MM = 24.0


def make_camera(view: View, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """A camera object with the view's pose, field of view and principal point; pixels are square."""
    data = bpy.data.cameras.new(name)
    width, height = view.size
    data.sensor_fit = "VERTICAL"
    data.sensor_height = SENSOR_HEIGHT_MM
    data.lens = SENSOR_HEIGHT_MM / 2 / math.tan(view.yfov / 2)
    # Shifts are in units of the side that the sensor is fitted to: the height.
    data.shift_x = (width / 2 - view.principal[0]) / height
    data.shift_y = (view.principal[1] - height / 2) / height
    data.clip_start, data.clip_end = 0.01, 100.0
    data.display_size = 0.05
    _add_background(data, view)
    thing = bpy.data.objects.new(name, data)
    thing.matrix_world = Matrix(world_matrix(view).tolist())
    thing["ganfit_size"] = [width, height]
    collection.objects.link(thing)
    return thing


def world_matrix(view: View) -> np.ndarray:
    """(4, 4) the camera's matrix in Blender's world; camera axes are the same in both."""
    matrix = np.eye(4)
    matrix[:3, :3] = GLB_TO_BLENDER @ view.cam_to_world[:3, :3]
    matrix[:3, 3] = GLB_TO_BLENDER @ view.cam_to_world[:3, 3]
    return matrix


def _add_background(data: bpy.types.Camera, view: View) -> None:
    if not view.photo.is_file():
        return
    background = data.background_images.new()
    background.image = bpy.data.images.load(str(view.photo), check_existing=True)
    background.alpha = 1.0
    background.display_depth = "BACK"
    background.frame_method = "STRETCH"
    data.show_background_images = True
