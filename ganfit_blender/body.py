# SPDX-License-Identifier: GPL-3.0-or-later
"""The fitted head on MakeHuman's whole body: same vertices and order, so that MPFB's rigs, clothes and hair fit."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from . import shapes
from .errors import AddonError
from .importer import hair, shape_keys, textures
from .importer import scene as importer
from .importer.axes import srgb_to_linear, to_blender
from .importer.mesh import (
    EYES,
    INDEX_ATTRIBUTE,
    ROUGHNESS_ATTRIBUTE,
    SKIN_ROUGHNESS,
    SKIN_SPECULAR,
    SPECULAR_ATTRIBUTE,
    SUBDIVISION,
    UV_LAYERS,
    sphere_centre,
)

VERSION = 1
BODY = "ganfit_body"  # on the body object
PLACE = "ganfit_place"  # on the body object: where the head stood before, as 16 numbers
SHADE_ATTRIBUTE = "ganfit_body_shade"  # 0 where the head's texture is seen, 1 where the body's plain colour is
BLEND_M = 0.14  # so far below the neck's loop the head's shape fades into the body's, at the head's scale 1
SHADE_M = 0.035
SCALES = {"METERS": 1.0, "DECIMETERS": 10.0}
EYE_HELPERS = {"eye_left": "helper-l-eye", "eye_right": "helper-r-eye"}
NEAR = 6  # vertices that a helper's vertex takes its motion from
# What MPFB stores on a base mesh: its prefix, then the property's own name (object_type, scale_factor, gender, ...).
MPFB_GENERAL, MPFB_HUMAN = "MPFB_GEN_", "MPFB_HUM_"


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base mesh: arrays of `body.npz`, positions in Blender's axes and metres."""

    verts: np.ndarray  # (N, 3) the chosen adult
    quads: np.ndarray  # (F, 4)
    corner_uvs: np.ndarray  # (F, 4, 2)
    groups: dict[str, np.ndarray]  # vertex group -> vertex indices


def read_base(path: Path, gender: float) -> BaseMesh:
    """Reads `body.npz`; `gender` goes from 0, female, to 1, male. Raises AddonError: `body_missing`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
        if int(data["version"]) != VERSION:
            raise ValueError(f"version {data['version']}")
        decimetres = data["verts"] + (1 - gender) * data["female"] + gender * data["male"]
        groups: dict[str, list[np.ndarray]] = {}
        for number, first, last in data["group_ranges"]:
            groups.setdefault(str(data["group_names"][number]), []).append(np.arange(first, last + 1))
        joined = {name: np.concatenate(parts) for name, parts in groups.items()}
        return BaseMesh(0.1 * to_blender(decimetres), data["quads"], data["corner_uvs"], joined)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AddonError("body_missing", f"The body's file {path.name} cannot be read ({error}).") from None


def find(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """The person's body, None when there is none."""
    return next((thing for thing in collection.all_objects if BODY in thing), None)


def add(context: bpy.types.Context, collection: bpy.types.Collection, base: BaseMesh, gender: float, units: str,
        feet_on_ground: bool) -> bpy.types.Object:
    """Adds the body; the head's own skin is hidden but goes on to drive the expressions.

    Args:
        units: a key of SCALES: what one unit of the scene is to MakeHuman.

    Returns:
        The body. Raises AddonError: `topology`.
    """
    head = importer.head_of(collection)
    index = _makehuman_index(head)
    skin = shapes.neutral_points(head)
    scale, place = similarity(base.verts[index], skin)
    points = scale * base.verts + place
    moved = np.zeros_like(points)
    moved[index] = skin - points[index]
    blend_below(base, index, points, moved, BLEND_M * scale)
    follow_helpers(base, points, moved)
    _fit_eyes(base, importer.parts_of(collection), points, moved)
    points = (points + moved) * SCALES[units]
    body = _make_object(collection, base, points)
    _add_uvs(body.data, base, head, index)
    _add_skin(collection, body, head, index, base, points / SCALES[units])
    _add_keys(body, head, index, SCALES[units])
    _tell_mpfb(body, gender, 0.1 * scale * SCALES[units])
    _join(body, head, SCALES[units])
    if feet_on_ground:
        body.location.z -= float(points[base.groups["body"], 2].min())
    return body


def remove(collection: bpy.types.Collection) -> None:
    """Removes the body and shows the head's own skin again, at its own size."""
    body, head = find(collection), importer.head_of(collection)
    if body is not None:
        head.parent = None
        place = np.array(body[PLACE]).reshape(4, 4)
        head.matrix_world = Matrix(place.tolist())
        mesh = body.data
        bpy.data.objects.remove(body)
        bpy.data.meshes.remove(mesh)
    head.hide_render = False
    head.hide_set(False)


def attach_to_rig(collection: bpy.types.Collection) -> str:
    """Hangs the head with eyes and teeth on the head bone of the body's rig; returns the bone's name.

    Raises AddonError: `no_rig`.
    """
    body, head = find(collection), importer.head_of(collection)
    rigs = [modifier.object for modifier in body.modifiers if modifier.type == "ARMATURE" and modifier.object]
    rigs += [body.parent] if body.parent is not None and body.parent.type == "ARMATURE" else []
    bones = [bone.name for rig in rigs for bone in rig.data.bones if bone.name.lower().endswith("head")]
    if not bones:
        raise AddonError("no_rig", f"{body.name} has no rig with a bone that is named head.")
    kept = head.matrix_world.copy()
    head.parent, head.parent_type, head.parent_bone = rigs[0], "BONE", bones[0]
    head.matrix_world = kept
    return bones[0]


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and translation that lay (N, 3) on (N, 3) in the least-squares sense."""
    a, b = source.mean(0), target.mean(0)
    scale = float(((source - a) * (target - b)).sum() / ((source - a) ** 2).sum())
    return scale, b - scale * a


def boundary(quads: np.ndarray) -> np.ndarray:
    """Vertices on edges that only one of the faces (F, 4) has."""
    edges = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), 1)
    pairs, uses = np.unique(edges, axis=0, return_counts=True)
    return np.unique(pairs[uses == 1])


def blend_below(base: BaseMesh, index: np.ndarray, points: np.ndarray, moved: np.ndarray, reach: float) -> None:
    """Fills in the motion of the body below the head: smooth over the loop, nothing beyond `reach` metres.

    Minimises the sum of squared Laplacians of the motion (a thin plate), with head and far body held.
    """
    faces = base.quads[np.isin(base.quads, base.groups["body"]).all(1)]
    inside = np.zeros(len(points), bool)
    inside[index] = True
    loop = boundary(base.quads[inside[base.quads].all(1)])
    body = np.setdiff1d(np.unique(faces), index)
    near = np.sqrt(((points[body, None] - points[loop][None]) ** 2).sum(-1)).min(1)
    free = body[near < reach]
    edges = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
    edges = np.unique(np.sort(edges, 1), axis=0)
    known = free
    for _ in range(2):  # the Laplacian at a neighbour reaches two edges far
        known = np.unique(edges[np.isin(edges, known).any(1)])
    rows = np.unique(edges[np.isin(edges, free).any(1)])
    number = np.full(len(points), -1)
    number[known] = np.arange(len(known))
    pairs = number[edges[np.isin(edges, known).all(1)]]
    laplacian = np.zeros((len(known), len(known)))
    laplacian[pairs[:, 0], pairs[:, 1]] = laplacian[pairs[:, 1], pairs[:, 0]] = -1
    laplacian /= np.maximum(-laplacian.sum(1, keepdims=True), 1)
    laplacian[np.diag_indices(len(known))] = 1
    laplacian = laplacian[number[rows]]
    unknown, held = number[free], np.setdiff1d(np.arange(len(known)), number[free])
    right = -laplacian[:, held] @ moved[known[held]]
    a = laplacian[:, unknown]
    moved[free] = np.linalg.solve(a.T @ a + 1e-9 * np.eye(len(free)), a.T @ right)


def follow_helpers(base: BaseMesh, points: np.ndarray, moved: np.ndarray) -> None:
    """Moves what is not body (teeth, tongue, lashes, hair cap, joints) with the body's nearest vertices."""
    body = base.groups["body"]
    others = np.setdiff1d(np.arange(len(points)), body)
    still = body[np.linalg.norm(moved[body], axis=1) < 1e-9]
    lively = np.setdiff1d(body, still)
    if not len(lively):
        return
    low, high = points[lively].min(0) - 0.1, points[lively].max(0) + 0.1
    others = others[((points[others] > low) & (points[others] < high)).all(1)]
    around = body[((points[body] > low) & (points[body] < high)).all(1)]
    indices, weights = shapes.nearest(points[others], points[around], NEAR)
    moved[others] = (weights[..., None] * moved[around][indices]).sum(1)


def _fit_eyes(base: BaseMesh, parts: dict[str, bpy.types.Object], points: np.ndarray, moved: np.ndarray) -> None:
    """Lays MakeHuman's eye helpers, which its eyes are fitted to, on our eyeballs."""
    for name in EYES:
        if name not in parts:
            continue
        helper = base.groups[EYE_HELPERS[name]]
        ours = shapes.neutral_points(parts[name])
        centre = sphere_centre(points[helper])
        radius = np.linalg.norm(points[helper] - centre, axis=1).mean()
        size = np.median(np.linalg.norm(ours - sphere_centre(ours), axis=1)) / radius
        target = np.array(parts[name].location) + sphere_centre(ours)
        moved[helper] = target + size * (points[helper] - centre) - points[helper]


def _makehuman_index(head: bpy.types.Object) -> np.ndarray:
    """(V,) the head's vertices in MakeHuman's numbers. Raises AddonError: `topology`."""
    attribute = head.data.attributes.get(INDEX_ATTRIBUTE)
    if attribute is None:
        raise AddonError("topology", f"{head.name} does not know its vertices' numbers in MakeHuman's mesh.")
    index = np.empty(len(head.data.vertices), np.int32)
    attribute.data.foreach_get("value", index)
    if index.min() < 0 or len(np.unique(index)) != len(index):
        raise AddonError("topology", f"{head.name} has other vertices than MakeHuman's head.")
    return index


def _make_object(collection: bpy.types.Collection, base: BaseMesh, points: np.ndarray) -> bpy.types.Object:
    """The base mesh as an object: all faces, vertex groups, helpers masked, smooth."""
    mesh = bpy.data.meshes.new("Body")
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", points.astype(np.float32).ravel())
    mesh.loops.add(base.quads.size)
    mesh.loops.foreach_set("vertex_index", base.quads.astype(np.int32).ravel())
    mesh.polygons.add(len(base.quads))
    mesh.polygons.foreach_set("loop_start", np.arange(0, base.quads.size, 4, dtype=np.int32))
    mesh.update(calc_edges=True)
    mesh.shade_smooth()
    body = bpy.data.objects.new("Body", mesh)
    body[BODY] = True
    collection.objects.link(body)
    for name, vertices in base.groups.items():
        body.vertex_groups.new(name=name).add(vertices.tolist(), 1.0, "REPLACE")
    mask = body.modifiers.new("Hide helpers", "MASK")  # as MPFB names it
    mask.vertex_group = "body"
    mask.show_in_editmode = mask.show_on_cage = True
    smooth = body.modifiers.new(SUBDIVISION, "SUBSURF")
    smooth.levels = smooth.render_levels = 1
    return body


def _add_uvs(mesh: bpy.types.Mesh, base: BaseMesh, head: bpy.types.Object, index: np.ndarray) -> None:
    """Our layer, which only the head has, and MakeHuman's for all."""
    ours, theirs = UV_LAYERS
    source = head.data
    corner = np.empty(len(source.loops), np.int32)
    source.loops.foreach_get("vertex_index", corner)
    uv = np.empty(len(source.loops) * 2, np.float32)
    source.uv_layers[ours].uv.foreach_get("vector", uv)
    uv = uv.reshape(-1, 4, 2)
    quads = index[corner].reshape(-1, 4)
    place = {tuple(sorted(quad)): number for number, quad in enumerate(quads.tolist())}
    layer = np.zeros((len(base.quads), 4, 2), np.float32)
    for number, quad in enumerate(base.quads.tolist()):
        found = place.get(tuple(sorted(quad)))
        if found is not None:
            where = quads[found].tolist()
            layer[number] = uv[found][[where.index(vertex) for vertex in quad]]
    mesh.uv_layers.new(name=ours, do_init=False).uv.foreach_set("vector", layer.ravel())
    flat = np.ascontiguousarray(base.corner_uvs, np.float32).ravel()
    mesh.uv_layers.new(name=theirs, do_init=False).uv.foreach_set("vector", flat)
    mesh.uv_layers.active = mesh.uv_layers[ours]


def _add_skin(collection: bpy.types.Collection, body: bpy.types.Object, head: bpy.types.Object, index: np.ndarray,
              base: BaseMesh, points: np.ndarray) -> None:
    """The head's material on all of the body; below the neck its texture gives way to the neck's own colour."""
    count = len(points)
    inside = np.zeros(count, bool)
    inside[index] = True
    loop = boundary(base.quads[inside[base.quads].all(1)])
    away = np.sqrt(((points[index, None] - points[loop][None]) ** 2).sum(-1)).min(1)
    shade = np.ones(count, np.float32)
    fade = np.clip(away / SHADE_M, 0, 1)
    shade[index] = 1 - fade * fade * (3 - 2 * fade)
    values = {SHADE_ATTRIBUTE: shade}
    for name, plain in ((ROUGHNESS_ATTRIBUTE, SKIN_ROUGHNESS), (SPECULAR_ATTRIBUTE, SKIN_SPECULAR)):
        values[name] = np.full(count, plain, np.float32)
        source = head.data.attributes.get(name)
        if source is not None:
            own = np.empty(len(index), np.float32)
            source.data.foreach_get("value", own)
            values[name][index] = own
    for name, numbers in values.items():
        body.data.attributes.new(name, "FLOAT", "POINT").data.foreach_set("value", numbers)
    source_material = head.data.materials[0] if head.data.materials else None
    if source_material is not None:
        material = source_material.copy()
        material.name = f"{collection.name} body"
        _fade_to_plain(material, neck_color(head, away < 2 * SHADE_M))
        body.data.materials.append(material)


def neck_color(head: bpy.types.Object, near: np.ndarray) -> np.ndarray:
    """(3,) linear colour of the head's texture along the neck: the median over vertices that are `near` the loop."""
    material = head.data.materials[0]
    image = next((node.image for node in material.node_tree.nodes
                  if node.type == "TEX_IMAGE" and node.image and node.name != hair.MASK
                  and node.image.colorspace_settings.name == "sRGB"), None)
    if image is None or not image.size[0]:
        return np.array([0.4, 0.25, 0.2])
    mesh = head.data
    corner = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corner)
    uv = np.empty(len(mesh.loops) * 2, np.float32)
    mesh.uv_layers[next(iter(UV_LAYERS))].uv.foreach_get("vector", uv)
    size = np.array(image.size)
    x, y = np.clip((uv.reshape(-1, 2)[near[corner]] * size).astype(int), 0, size - 1).T
    return np.median(srgb_to_linear(textures.read_image(image)[y, x, :3]), axis=0)


def _fade_to_plain(material: bpy.types.Material, color: np.ndarray) -> None:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    socket = shader.inputs["Base Color"]
    mix, share = nodes.new("ShaderNodeMix"), nodes.new("ShaderNodeAttribute")
    mix.data_type, mix.label = "RGBA", "Body Color"
    share.attribute_name = SHADE_ATTRIBUTE
    mix.location, share.location = (-120, 560), (-320, 560)
    if socket.is_linked:
        links.new(socket.links[0].from_socket, hair.mix_socket(mix.inputs, "A"))
    hair.mix_socket(mix.inputs, "B").default_value = (*color.tolist(), 1.0)
    links.new(share.outputs["Fac"], hair.mix_socket(mix.inputs, "Factor", "Float"))
    links.new(hair.mix_socket(mix.outputs, "Result"), socket)


def _add_keys(body: bpy.types.Object, head: bpy.types.Object, index: np.ndarray, scale: float) -> None:
    """ARKit's expressions on the body's head, driven by the hidden head's keys."""
    keys = shape_keys.expression_keys(head)
    if not keys:
        return
    basis = shapes.key_points(head.data.shape_keys.key_blocks[0])
    points = shapes.mesh_points(body.data)
    body.shape_key_add(name=shape_keys.BASIS, from_mix=False)
    for key in keys:
        moved = points.copy()
        moved[index] += scale * (shapes.key_points(key) - basis)
        shapes.set_key_points(body.shape_key_add(name=key.name, from_mix=False), moved)
    body.data.shape_keys.name = body.name
    shape_keys.follow(body, head)


def _tell_mpfb(body: bpy.types.Object, gender: float, scale_factor: float) -> None:
    """What MPFB looks for: with MPFB enabled its own properties, else custom ones that it finds when it is."""
    values = {
        f"{MPFB_GENERAL}object_type": "Basemesh",
        f"{MPFB_GENERAL}scale_factor": scale_factor,
        f"{MPFB_HUMAN}is_human_project": True,
        f"{MPFB_HUMAN}gender": gender,
    }
    for name, value in values.items():
        if hasattr(body, name):
            setattr(body, name, value)
        else:
            body[name] = value


def _join(body: bpy.types.Object, head: bpy.types.Object, scale: float) -> None:
    """Stands the body where the head is and hangs the head, with eyes and teeth, on it."""
    body[PLACE] = np.array(head.matrix_world).ravel().tolist()
    if head.parent is None:
        body.matrix_world = head.matrix_world
        head.parent = body
        head.matrix_parent_inverse.identity()
        head.location, head.rotation_euler, head.scale = (0, 0, 0), (0, 0, 0), (scale, scale, scale)
    head.hide_render = True
    head.hide_set(True)
