# SPDX-License-Identifier: GPL-3.0-or-later
"""The colour of the hair as the photo shows it over the forehead, and the pigments that look like it."""

from __future__ import annotations

import bpy
import numpy as np

from .importer import hair, textures
from .importer import scene as importer
from .importer.axes import srgb_to_linear, to_blender
from .strands import Skull

PHOTO_PIXELS = 640
SAMPLES = 6000
OUT_M = 0.006  # hair is looked for so far above the skin
DEEP_M = 0.012  # and so far inside the hairline
FACING = 0.2  # cosine to the camera from which on a place counts as seen
SKIN_LIKE = 0.30  # largest difference of the logarithms of two colours that may both be skin
FEWEST = 60
COVERED = 0.9  # cover from which a texel of the result's layer is nothing but hair
BROW_LIGHTER = 3.0  # the painted shade's colour is darker than hair, for it stands for its depth
BROWN = (0.09, 0.05, 0.035)
DOUBT = 0.4  # a photo's white balance moves the hue of hair: so much of it is not believed
# What the strands look like in a photo's light, over the head and beyond its outline: mean linear radiance (red, green)
# over that of white skin below, for melanin, at redness 0 and 1; Cycles, default cut and number of strands, mean over
# the lights of two portraits, which are up to 12 % to either side.
MELANIN = (0.02, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
RED = ((0.496, 0.354, 0.245, 0.146, 0.083, 0.050, 0.032), (0.504, 0.398, 0.301, 0.201, 0.125, 0.074, 0.041))
GREEN = ((0.477, 0.285, 0.170, 0.089, 0.048, 0.032, 0.026), (0.481, 0.306, 0.189, 0.103, 0.056, 0.036, 0.027))


def measure(collection: bpy.types.Collection, skull: Skull) -> np.ndarray:
    """(3,) linear reflectance of the hair: as the first photo shows it, else that of the result's own layer, else what
    the brows say."""
    head = importer.head_of(collection)
    found = _in_photo(collection, head, skull)
    if found is not None:
        return found
    layer = hair.photo_layer(head.active_material)
    if layer is not None:
        pixels = textures.read_image(layer)
        covered = pixels[pixels[..., 3] > COVERED, :3]
        if len(covered):
            return srgb_to_linear(covered).mean(0)
    nodes = head.active_material.node_tree.nodes if head.active_material is not None else {}
    shade = hair.mix_socket(nodes[hair.MIX].inputs, "B") if hair.MIX in nodes else None
    if shade is None or shade.is_linked:
        return np.array(BROWN)
    return BROW_LIGHTER * np.array(shade.default_value[:3])


def pigments(color: np.ndarray) -> tuple[float, float]:
    """Melanin and redness (0 to 1) at which Principled Hair looks like a linear colour; other hues become the nearest
    that hair has."""
    green = np.log(np.mean(GREEN, 0))
    melanin = float(np.interp(-np.log(max(float(color[1]), 1e-4)), -green, MELANIN))
    warmth = [np.interp(melanin, MELANIN, np.divide(RED[kind], GREEN[kind])) for kind in (0, 1)]
    redness = (float(color[0]) / max(float(color[1]), 1e-4) - warmth[0]) / (warmth[1] - warmth[0])
    return melanin, DOUBT * 0.5 + (1 - DOUBT) * float(np.clip(redness, 0, 1))


def _in_photo(collection: bpy.types.Collection, head: bpy.types.Object, skull: Skull) -> np.ndarray | None:
    """The mean of what lies over the scalp and is not skin, by the light on the face; None where it is skin."""
    cameras, views = importer.cameras_of(collection), importer.result_of(head).get("views", [])
    albedo = _albedo(head)
    if not cameras or not views or albedo is None or not len(cameras[0].data.background_images):
        return None
    photo = _pixels(cameras[0].data.background_images[0].image)
    if photo is None:
        return None
    rng = np.random.default_rng(0)
    corner = skull.verts[skull.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.linalg.norm(normal, axis=1)
    chosen = rng.choice(len(area), 4 * SAMPLES, p=area / area.sum())
    weights = rng.dirichlet((1, 1, 1), len(chosen))[..., None]
    place, normal = (weights * corner[chosen]).sum(1), normal[chosen] / area[chosen, None]
    inside = (weights[..., 0] * skull.inside[skull.triangles[chosen]]).sum(1)
    face = (inside < -DEEP_M) & (inside > -0.5) & (place[:, 2] > -0.06) & (place[:, 1] < skull.centre[1])
    pixels, seen = _look(views[0]["camera"], place + np.where(inside > 0, OUT_M, 0)[:, None] * normal, normal, photo)
    over, face = seen & (inside > DEEP_M), seen & face
    if over.sum() < FEWEST or face.sum() < FEWEST:
        return None
    uv = (weights * skull.uv[chosen]).sum(1)[face]
    y, x = (np.clip(uv[:, ::-1], 0, 0.999) * albedo.shape[:2]).astype(int).T
    light = np.median(pixels[face] / np.maximum(albedo[y, x], 0.02), 0)
    skin = np.median(pixels[face], 0)
    unlike = np.abs(np.log(np.maximum(pixels[over], 1e-3) / skin)).max(1) > SKIN_LIKE
    if unlike.mean() < 0.35:
        return None
    return pixels[over][unlike].mean(0) / np.maximum(light, 1e-3)


def _look(camera: dict, place: np.ndarray, normal: np.ndarray, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) the photo's linear colours at places (N, 3) in Blender's axes, and whether they are seen (N,)."""
    pose = np.array(camera["cam_to_world"], np.float64).reshape(4, 4)
    eye, axes = to_blender(pose[:3, 3]), to_blender(pose[:3, :3].T)
    local = (place - eye) @ axes.T
    width, height = camera["size"]
    focal = height / 2 / np.tan(camera["yfov"] / 2)
    depth = np.maximum(-local[:, 2], 1e-3)
    x = (camera["principal_point"][0] + focal * local[:, 0] / depth) / width
    y = (camera["principal_point"][1] - focal * local[:, 1] / depth) / height
    away = eye - place
    facing = (normal * away).sum(1) / np.linalg.norm(away, axis=1)
    seen = (facing > FACING) & (x > 0) & (x < 1) & (y > 0) & (y < 1)
    rows = np.clip(((1 - y) * photo.shape[0]).astype(int), 0, photo.shape[0] - 1)
    columns = np.clip((x * photo.shape[1]).astype(int), 0, photo.shape[1] - 1)
    return photo[rows, columns], seen


def _albedo(head: bpy.types.Object) -> np.ndarray | None:
    """(H, W, 3) linear albedo of the head's material."""
    nodes = head.active_material.node_tree.nodes if head.active_material is not None else ()
    image = next((node.image for node in nodes if node.type == "TEX_IMAGE" and node.image and node.name != hair.MASK
                  and node.image.colorspace_settings.name == "sRGB"), None)
    return None if image is None or not image.size[0] else srgb_to_linear(textures.read_image(image)[..., :3])


def _pixels(image: bpy.types.Image | None) -> np.ndarray | None:
    """(H, W, 3) linear colours of a photo, made small; None where its file is gone."""
    if image is None or not image.size[0]:
        return None
    small = image.copy()
    try:
        factor = PHOTO_PIXELS / max(small.size)
        if factor < 1:
            small.scale(max(1, round(factor * small.size[0])), max(1, round(factor * small.size[1])))
        return srgb_to_linear(textures.read_image(small)[..., :3])
    finally:
        bpy.data.images.remove(small)
