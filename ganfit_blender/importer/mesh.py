# SPDX-License-Identifier: GPL-3.0-or-later
"""One mesh object per part: quads with shared vertices, UV layers, colours and masks as attributes, subdivision."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from .axes import srgb_to_linear, to_blender
from .bundle import SKIN, ResultBundle

OBJECT_NAMES = {
    SKIN: "Head",
    "eye_left": "EyeLeft",
    "eye_right": "EyeRight",
    "teeth": "Teeth",
    "tongue": "Tongue",
    "lashes": "Lashes",
    "hair": "Hair",
    "glasses": "Glasses",
}
EYES = ("eye_left", "eye_right")
UV_LAYERS = {"GANFIT": "corner_uvs", "MakeHuman": "corner_uvs_makehuman"}  # the first one is active
EYE_LAYER, EYE_LAYER_M = "GANFIT Eye", 0.1  # on eyes: a flat projection along the axis, so many metres a unit
COLOR_ATTRIBUTE = "Color"
ROUGHNESS_ATTRIBUTE = "ganfit_roughness"
SPECULAR_ATTRIBUTE = "ganfit_specular"
INDEX_ATTRIBUTE = "makehuman_index"
OFFSET_ATTRIBUTE = "ganfit_offset"
SUBDIVISION = "Subdivision"

SKIN_ROUGHNESS = 0.52
REGION_ROUGHNESS = {
    "lips": 0.36, "nose": 0.42, "forehead": 0.45, "eyes": 0.46, "cheek": 0.5, "chin": 0.48, "mouth_bag": 0.25,
    "socket": 0.3, "nostril": 0.6, "scalp": 0.6,
}
SKIN_SPECULAR = 0.35
REGION_SPECULAR = {"lips": 0.5, "nose": 0.42, "forehead": 0.38, "mouth_bag": 0.4, "nostril": 0.15, "scalp": 0.2}


@dataclass(frozen=True)
class Part:
    """What of the bundle belongs to one part.

    Attributes:
        name: the bundle's name of the part.
        vertices: (V,) indices into the bundle's vertex arrays.
        faces: (F,) indices into its quads.
        corners: (F, 4) indices into `vertices`.
        sizes: (F,) 3 or 4: a triangle repeats its last corner.
        origin: (3,) the object's origin, Blender axes, metres.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    corners: np.ndarray
    sizes: np.ndarray
    origin: np.ndarray


def neutral(bundle: ResultBundle) -> np.ndarray:
    """(V0, 3) the neutral cage with its free-form offsets, Blender axes, metres."""
    return to_blender(bundle.head["verts"] + bundle.head["offsets"])


def split(bundle: ResultBundle) -> list[Part]:
    """The parts that have faces, in the bundle's order. Eyes get their origin at the eyeball's centre."""
    points = neutral(bundle)
    parts = []
    for number, name in enumerate(bundle.part_names):
        faces = np.flatnonzero(bundle.head["part"] == number)
        if not len(faces):
            continue
        vertices, corners = np.unique(bundle.head["quads"][faces], return_inverse=True)
        corners = corners.reshape(-1, 4)
        sizes = np.where(corners[:, 2] == corners[:, 3], 3, 4)
        origin = sphere_centre(points[vertices]) if name in EYES else np.zeros(3, np.float32)
        parts.append(Part(name, vertices, faces, corners, sizes, origin))
    return parts


def sphere_centre(points: np.ndarray) -> np.ndarray:
    """(3,) centre of the sphere that lies closest to the points (V, 3), by linear least squares."""
    centre = points.mean(0)
    local = (points - centre).astype(np.float64)
    system = np.column_stack([2 * local, np.ones(len(local))])
    solution, *_ = np.linalg.lstsq(system, (local**2).sum(1), rcond=None)
    return (centre + solution[:3]).astype(np.float32)


def make_object(bundle: ResultBundle, part: Part, collection: bpy.types.Collection) -> bpy.types.Object:
    """The part as an object of the collection, neutral, without material and shape keys."""
    name = OBJECT_NAMES.get(part.name, part.name)
    mesh = bpy.data.meshes.new(name)
    used = _used_corners(part)
    mesh.vertices.add(len(part.vertices))
    mesh.vertices.foreach_set("co", (neutral(bundle)[part.vertices] - part.origin).ravel())
    mesh.loops.add(int(part.sizes.sum()))
    mesh.loops.foreach_set("vertex_index", part.corners[used].astype(np.int32))
    mesh.polygons.add(len(part.sizes))
    mesh.polygons.foreach_set("loop_start", np.concatenate([[0], np.cumsum(part.sizes)[:-1]]).astype(np.int32))
    mesh.update(calc_edges=True)
    _add_uv_layers(mesh, bundle, part, used)
    _add_attributes(mesh, bundle, part)
    mesh.shade_smooth()
    if mesh.validate():
        print(f"GANFIT: the mesh of {name} had errors, which Blender has removed")
    thing = bpy.data.objects.new(name, mesh)
    thing.location = part.origin.tolist()
    thing["ganfit_part"] = part.name
    _add_subdivision(thing)
    collection.objects.link(thing)
    return thing


def _used_corners(part: Part) -> np.ndarray:
    """(F, 4) bool: False at the repeated last corner of a triangle."""
    used = np.ones(part.corners.shape, bool)
    used[part.sizes == 3, 3] = False
    return used


def _add_uv_layers(mesh: bpy.types.Mesh, bundle: ResultBundle, part: Part, used: np.ndarray) -> None:
    for layer_name, key in UV_LAYERS.items():
        if key in bundle.head:
            uvs = np.ascontiguousarray(bundle.head[key][part.faces][used], np.float32)
            mesh.uv_layers.new(name=layer_name, do_init=False).uv.foreach_set("vector", uvs.ravel())
    if part.name in EYES:
        flat = (neutral(bundle)[part.vertices] - part.origin)[part.corners[used]][:, [0, 2]] / EYE_LAYER_M
        mesh.uv_layers.new(name=EYE_LAYER, do_init=False).uv.foreach_set("vector", flat.astype(np.float32).ravel())
    mesh.uv_layers.active = mesh.uv_layers[0]
    mesh.uv_layers[0].active_render = True


def _add_attributes(mesh: bpy.types.Mesh, bundle: ResultBundle, part: Part) -> None:
    """Per vertex: index in MakeHuman's mesh, offset; skin: region masks and roughness; other parts: colour."""
    head = bundle.head
    if "makehuman_index" in head:
        values = np.ascontiguousarray(head["makehuman_index"][part.vertices], np.int32)
        mesh.attributes.new(INDEX_ATTRIBUTE, "INT", "POINT").data.foreach_set("value", values)
    offsets = head["offsets"][part.vertices]
    if offsets.any():
        attribute = mesh.attributes.new(OFFSET_ATTRIBUTE, "FLOAT_VECTOR", "POINT")
        attribute.data.foreach_set("vector", to_blender(offsets).ravel())
    if part.name != SKIN:
        _add_color(mesh, head["palette_weights"][part.vertices] @ bundle.palette)
        return
    masks = _region_masks(bundle, part)
    for name, mask in masks.items():
        mesh.attributes.new(f"region_{name}", "FLOAT", "POINT").data.foreach_set("value", mask)
    count = len(part.vertices)
    for name, values in (
        (ROUGHNESS_ATTRIBUTE, _blend(masks, SKIN_ROUGHNESS, REGION_ROUGHNESS, count)),
        (SPECULAR_ATTRIBUTE, _blend(masks, SKIN_SPECULAR, REGION_SPECULAR, count)),
    ):
        mesh.attributes.new(name, "FLOAT", "POINT").data.foreach_set("value", values)


def _add_color(mesh: bpy.types.Mesh, encoded: np.ndarray) -> None:
    """Colour attribute from sRGB-encoded colours (V, 3); Blender stores them linear."""
    rgba = np.ones((len(encoded), 4), np.float32)
    rgba[:, :3] = srgb_to_linear(np.clip(encoded, 0, 1))
    attribute = mesh.color_attributes.new(COLOR_ATTRIBUTE, "FLOAT_COLOR", "POINT")
    attribute.data.foreach_set("color", rgba.ravel())
    mesh.color_attributes.active_color = attribute


def _region_masks(bundle: ResultBundle, part: Part) -> dict[str, np.ndarray]:
    head = bundle.head
    if "region_names" not in head:
        return {}
    masks = np.asarray(head["region_masks"], np.float32)[:, part.vertices]
    return {str(name): np.ascontiguousarray(mask) for name, mask in zip(head["region_names"], masks)}


def _blend(masks: dict[str, np.ndarray], skin: float, regions: dict[str, float], count: int) -> np.ndarray:
    """(V,) the skin's value, drawn towards each region's own by the region's mask."""
    values = np.full(count, skin, np.float32)
    for region, value in regions.items():
        if region in masks:
            values += np.clip(masks[region], 0, 1) * (np.float32(value) - values)
    return values


def _add_subdivision(thing: bpy.types.Object) -> None:
    """Catmull-Clark level 1 exactly as the fit sees it: no limit surface, UVs not smoothed, boundaries smooth."""
    modifier = thing.modifiers.new(SUBDIVISION, "SUBSURF")
    modifier.levels = modifier.render_levels = 1
    modifier.use_limit_surface = False
    modifier.use_creases = False
    modifier.uv_smooth = "NONE"
    modifier.boundary_smooth = "ALL"
