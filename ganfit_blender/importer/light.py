# SPDX-License-Identifier: GPL-3.0-or-later
"""The lights of a photo: a sun lamp, and a world whose radiance is the spherical harmonics."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Vector

from .axes import to_blender
from .bundle import View

MAP_SIZE = (128, 64)  # width, height of the world's environment texture
SUN_DISTANCE_M = 0.7


def harmonics(directions: np.ndarray) -> np.ndarray:
    """Real spherical harmonics to degree 2 of unit vectors (..., 3) -> (..., 9), without Condon-Shortley phase.

    Order (0,0), (1,-1), (1,0), (1,1), (2,-2), (2,-1), (2,0), (2,1), (2,2), as in Ramamoorthi and Hanrahan,
    "An Efficient Representation for Irradiance Environment Maps" (2001), equation 3.
    """
    x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
    return np.stack(
        [
            np.full_like(x, 0.28209479177387814),
            0.4886025119029199 * y,
            0.4886025119029199 * z,
            0.4886025119029199 * x,
            1.0925484305920792 * x * y,
            1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ],
        -1,
    )


def map_directions() -> np.ndarray:
    """(H, W, 3) GLB direction of each pixel of Blender's equirectangular environment texture, row 0 at the bottom."""
    width, height = MAP_SIZE
    u, v = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    azimuth, elevation = np.meshgrid((0.5 - u) * 2 * np.pi, (v - 0.5) * np.pi)
    across = np.cos(elevation)
    # Blender's (x, y, z) is GLB's (x, z, -y).
    return np.stack([across * np.cos(azimuth), np.sin(elevation), -across * np.sin(azimuth)], -1)


def radiance_map(sh: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 linear radiance of coefficients (9, 3), never negative."""
    return np.maximum(harmonics(map_directions()) @ sh, 0).astype(np.float32)


def make_world(view: View, name: str) -> bpy.types.World:
    """A world that lights by the view's spherical harmonics; its environment texture is packed into the file."""
    width, height = MAP_SIZE
    image = bpy.data.images.new(f"{name} light", width, height, float_buffer=True, is_data=False)
    image.colorspace_settings.name = "Linear Rec.709"
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = radiance_map(view.sh)
    image.pixels.foreach_set(pixels.ravel())
    image.update()
    image.pack()
    world = bpy.data.worlds.new(name)
    if hasattr(world, "cycles"):  # Cycles' own choice is a map of thousands of pixels, which takes seconds to make
        world.cycles.sampling_method = "MANUAL"
        world.cycles.sample_map_resolution = 2 * MAP_SIZE[0]
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    nodes.clear()
    output, background = nodes.new("ShaderNodeOutputWorld"), nodes.new("ShaderNodeBackground")
    texture = nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    texture.location, background.location, output.location = (-560, 0), (-240, 0), (0, 0)
    links.new(texture.outputs["Color"], background.inputs["Color"])
    links.new(background.outputs["Background"], output.inputs["Surface"])
    return world


def make_sun(view: View, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """A sun lamp from the view's direction; its strength is irradiance, like the fit's: albedo * strength / pi.

    It casts no shadow, because the fit's does not.
    """
    data = bpy.data.lights.new(name, "SUN")
    strength = float(view.sun_rgb.max())
    data.energy = max(strength, 0.0)
    data.color = (np.maximum(view.sun_rgb, 0) / strength).tolist() if strength > 0 else (1.0, 1.0, 1.0)
    data.angle = 0.0
    set_shadow(data, False)
    direction = Vector(to_blender(view.sun_direction).tolist())
    direction = direction.normalized() if direction.length > 0 else Vector((0, -1, 0))
    thing = bpy.data.objects.new(name, data)
    thing.rotation_euler = direction.to_track_quat("Z", "Y").to_euler()
    thing.location = direction * SUN_DISTANCE_M
    collection.objects.link(thing)
    return thing


def set_shadow(data: bpy.types.Light, on: bool) -> None:
    """Turns a lamp's shadow on or off for EEVEE and Cycles (which had a switch of its own before 4.5)."""
    data.use_shadow = on
    cycles = getattr(data, "cycles", None)
    if cycles is not None and hasattr(cycles, "cast_shadow"):
        cycles.cast_shadow = on
