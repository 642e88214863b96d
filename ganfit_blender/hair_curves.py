# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair as Blender's curves on a head: the object, the node group that binds it to the skin, its material."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils.bvhtree import BVHTree

from . import hair_color, shapes, strands
from .errors import AddonError
from .importer import hair, shell
from .importer import scene as importer
from .importer.mesh import UV_LAYERS
from .importer.scene import HAIR
from .ui_strings import label, tip

REST_BEFORE = "ganfit_rest_before"  # on the hair: whether the head had a rest position of its own
GROUP = "GANFIT Hair"
LENGTH, THICKNESS = label("hair_left"), label("hair_thickness")
INPUTS = {LENGTH: (1.0, tip("hair_left")), THICKNESS: (4.0, tip("hair_thickness"))}
"""Inputs of the node group: largest value and tooltip; both begin at 1."""
CELL_M, BAND_M, MARGIN_M = 0.005, 0.02, 0.05  # of the grid of distances; far from the head, cells are twice as wide
SHADE_SHARE = 0.25  # the shade under the strands is so much of their colour
ROUGHNESS, RADIAL_ROUGHNESS, RANDOM_COLOR, RANDOM_ROUGHNESS = 0.35, 0.4, 0.2, 0.3


def find(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """The person's hair, None without."""
    return next((thing for thing in collection.all_objects if HAIR in thing), None)


def add(collection: bpy.types.Collection, cut: str, length: float, count: int, seed: int) -> bpy.types.Object:
    """Adds hair to a head, in place of what is there, whose material is kept.

    Args:
        cut: a key of `strands.CUTS`.
        length: 1 for the cut's own.
        count: of strands; some fewer are made, since the hairline thins out.

    Returns:
        The hair. Raises AddonError: `no_scalp`.
    """
    head, old = importer.head_of(collection), find(collection)
    skull = _skull(head)
    made = strands.grow(skull, distance_field(skull.verts, skull.triangles), strands.CUTS[cut], count, length, seed)
    material = old.data.materials[0] if old is not None and len(old.data.materials) else None
    if material is None:
        color = hair_color.measure(collection, skull)
        material = _material(collection.name, color)
        _set_shade(head, SHADE_SHARE * color)
    before = bool(old[REST_BEFORE]) if old is not None else head.add_rest_position_attribute
    standing = shell.find(collection, shell.HAIR)
    replaces = old is None or (standing is not None and shell.REPLACED in standing)  # else it was shown for good
    remove(collection)
    layer = hair.layer_strength(head.active_material)
    thing = bpy.data.objects.new("Strands", _curves(made, head))
    thing[HAIR], thing[REST_BEFORE] = cut, before
    if layer is not None:  # the photo's hair, flat on forehead and temples, would show between the strands
        thing[hair.LAYER_BEFORE], layer.default_value = layer.default_value, 0.0
    if replaces:
        shell.give_way(collection, True)
    _set_rooted(head, skull)
    head.add_rest_position_attribute = True
    thing.parent = head
    collection.objects.link(thing)
    thing.data.materials.append(material)
    thing.modifiers.new("Hair", "NODES").node_group = _group()
    return thing


def remove(collection: bpy.types.Collection) -> None:
    """Takes the hair away."""
    thing, head = find(collection), importer.head_of(collection)
    if thing is None:
        return
    shell.give_way(collection, False)
    if head is not None:
        head.add_rest_position_attribute = bool(thing[REST_BEFORE])
        layer = hair.layer_strength(head.active_material)
        head.pop(hair.LAYER_OUTSIDE, None)
        if layer is not None and hair.LAYER_BEFORE in thing:
            layer.default_value = thing[hair.LAYER_BEFORE]
        rooted = head.data.attributes.get(hair.ROOTED)
        if rooted is not None:
            head.data.attributes.remove(rooted)
    data = thing.data
    bpy.data.objects.remove(thing)
    if data.users == 0:
        bpy.data.hair_curves.remove(data)


def move(thing: bpy.types.Object, skin: np.ndarray, offset: np.ndarray) -> None:
    """Moves strands with their roots when the head's basis (V, 3) is moved by an offset (V, 3)."""
    amount = strands.CUTS[thing[HAIR]].steps + 1
    data = thing.data.attributes["position"].data
    points = np.empty(len(data) * 3, np.float32)
    data.foreach_get("vector", points)
    points = points.reshape(-1, amount, 3)
    indices, weights = shapes.nearest(points[:, 0], skin, 4)
    points += (weights[..., None] * offset[indices]).sum(1).astype(np.float32)[:, None]
    data.foreach_set("vector", points.ravel())
    thing.data.update_tag()


def sockets(thing: bpy.types.Object) -> dict[str, str]:
    """Paths, from the hair's modifier, of the node group's inputs by their names; empty without modifier."""
    modifier = next((entry for entry in thing.modifiers if entry.type == "NODES" and entry.node_group), None)
    if modifier is None:
        return {}
    items = modifier.node_group.interface.items_tree
    return {item.name: f'["{item.identifier}"]' for item in items if item.item_type == "SOCKET" and item.name in INPUTS}


def shader(thing: bpy.types.Object) -> bpy.types.ShaderNode | None:
    """The strands' Principled Hair node, None when the artist has taken another."""
    material = thing.active_material
    nodes = material.node_tree.nodes if material is not None and material.node_tree is not None else ()
    return next((node for node in nodes if node.type == "BSDF_HAIR_PRINCIPLED"), None)


def _skull(head: bpy.types.Object) -> strands.Skull:
    """The measures of a head's basis shape. Raises AddonError: `no_scalp`."""
    mesh = head.data
    corner = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corner)
    uv = np.empty(len(mesh.loops) * 2, np.float32)
    layer = mesh.uv_layers.get(next(iter(UV_LAYERS)))
    scalp = _mask(mesh, "scalp")
    if layer is None or len(corner) != 4 * len(mesh.polygons) or (scalp > 0.5).sum() < 20:
        raise AddonError("no_scalp", f"{head.name} has no scalp that hair could grow on.")
    layer.uv.foreach_get("vector", uv)
    points, ears = shapes.mesh_points(mesh).astype(np.float64), _mask(mesh, "ear_left") + _mask(mesh, "ear_right")
    return strands.measure(points, corner.reshape(-1, 4), uv.reshape(-1, 4, 2), scalp, ears)


def _mask(mesh: bpy.types.Mesh, region: str) -> np.ndarray:
    """(V,) a region's mask, zeros where there is none."""
    values = np.zeros(len(mesh.vertices), np.float32)
    attribute = mesh.attributes.get(f"region_{region}")
    if attribute is not None:
        attribute.data.foreach_get("value", values)
    return values


def distance_field(points: np.ndarray, triangles: np.ndarray) -> strands.Field:
    """Signed distances to a mesh (V, 3), (T, 3) and their gradients, from a grid: exact near the mesh."""
    tree = BVHTree.FromPolygons(points.tolist(), triangles.tolist())
    low = points.min(0) - MARGIN_M
    shape = np.ceil((points.max(0) + MARGIN_M - low) / (2 * CELL_M)).astype(int) + 1

    def distances(places: np.ndarray) -> np.ndarray:
        found, find_nearest = np.empty(len(places)), tree.find_nearest
        for number, (x, y, z) in enumerate(places.tolist()):
            near, normal, _, length = find_nearest((x, y, z))
            out = (x - near[0]) * normal[0] + (y - near[1]) * normal[1] + (z - near[2]) * normal[2]
            found[number] = length if out >= 0 else -length
        return found

    coarse = distances(low + 2 * CELL_M * np.indices(shape).reshape(3, -1).T).reshape(*shape, 1)
    fine = 2 * shape - 1
    place = np.indices(fine).reshape(3, -1).T
    distance = _trilinear(coarse, place / 2)[:, 0]
    band = np.abs(distance) < BAND_M
    distance[band] = distances(low + CELL_M * place[band])
    distance = distance.reshape(fine)
    grid = np.concatenate([distance[..., None], np.stack(np.gradient(distance, CELL_M), -1)], -1).astype(np.float32)

    def field(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = _trilinear(grid, (where - low) / CELL_M)
        return values[:, 0], values[:, 1:] / np.maximum(np.linalg.norm(values[:, 1:], axis=1, keepdims=True), 1e-6)

    return field


def _trilinear(grid: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(N, C) values of a grid (X, Y, Z, C) at places (N, 3) in its cells; outside the value at its edge."""
    place = np.clip(place, 0, np.array(grid.shape[:3]) - 1 - 1e-6)
    low = place.astype(np.int64)
    (x, y, z) = (place - low).astype(np.float32).T[..., None]
    u, v, w = 1 - x, 1 - y, 1 - z
    right, up = grid.shape[1] * grid.shape[2], grid.shape[2]
    base, flat = low @ np.array([right, up, 1]), grid.reshape(-1, grid.shape[3])

    def plane(start: np.ndarray) -> np.ndarray:
        return v * (w * flat[start] + z * flat[start + 1]) + y * (w * flat[start + up] + z * flat[start + up + 1])

    return u * plane(base) + x * plane(base + right)


def _curves(made: strands.Strands, head: bpy.types.Object) -> bpy.types.Curves:
    """The strands as hair curves that know where on the head's skin they are rooted."""
    data = bpy.data.hair_curves.new("Hair")
    count, amount = made.points.shape[:2]
    data.add_curves([amount] * count)
    data.attributes["position"].data.foreach_set("vector", made.points.ravel())
    radius = data.attributes.get("radius") or data.attributes.new("radius", "FLOAT", "POINT")
    radius.data.foreach_set("value", made.radii.ravel())
    roots = data.attributes.new("surface_uv_coordinate", "FLOAT2", "CURVE")
    roots.data.foreach_set("vector", made.uv.ravel())
    data.surface, data.surface_uv_map = head, next(iter(UV_LAYERS))
    return data


def _group() -> bpy.types.NodeTree:
    """The node group that all hair of a file shares: bind to the skin, cut to a length, thickness."""
    known = next((tree for tree in bpy.data.node_groups if tree.name.startswith(GROUP) and tree.library is None), None)
    if known is not None:
        return known
    tree = bpy.data.node_groups.new(GROUP, "GeometryNodeTree")
    tree.is_modifier = True
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    for name, (largest, description) in INPUTS.items():
        socket = tree.interface.new_socket(name, description=description, in_out="INPUT",
                                           socket_type="NodeSocketFloat")
        socket.default_value, socket.min_value, socket.max_value = 1.0, 0.0, largest
    kinds = ("NodeGroupInput", "GeometryNodeDeformCurvesOnSurface", "GeometryNodeTrimCurve",
             "GeometryNodeSetCurveRadius", "NodeGroupOutput", "GeometryNodeInputRadius", "ShaderNodeMath")
    given, deform, trim, thick, done, own, times = (tree.nodes.new(kind) for kind in kinds)
    for number, node in enumerate((given, deform, trim, thick, done)):
        node.location = (220 * number, 0)
    own.location, times.location, times.operation = (220, -260), (440, -260), "MULTIPLY"
    for source, target in (
        (given.outputs["Geometry"], deform.inputs["Curves"]), (deform.outputs["Curves"], trim.inputs["Curve"]),
        (given.outputs[LENGTH], trim.inputs["End"]), (trim.outputs["Curve"], thick.inputs["Curve"]),
        (own.outputs["Radius"], times.inputs[0]), (given.outputs[THICKNESS], times.inputs[1]),
        (times.outputs[0], thick.inputs["Radius"]), (thick.outputs["Curve"], done.inputs["Geometry"]),
    ):
        tree.links.new(source, target)
    return tree


def _material(name: str, color: np.ndarray) -> bpy.types.Material:
    """Principled Hair with the pigments that look like a linear colour."""
    material = bpy.data.materials.new(f"{name} hair")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    fibre, output = nodes.new("ShaderNodeBsdfHairPrincipled"), nodes.new("ShaderNodeOutputMaterial")
    output.location = (300, 0)
    material.node_tree.links.new(fibre.outputs[0], output.inputs["Surface"])
    linear = (*np.clip(color, 0, 1).tolist(), 1.0)
    fibre.parametrization = "COLOR"
    fibre.inputs["Color"].default_value = linear  # which EEVEE shows whatever the parametrization is
    fibre.parametrization = "MELANIN"
    melanin, redness = hair_color.pigments(color)
    values = {"Melanin": melanin, "Melanin Redness": redness, "Roughness": ROUGHNESS,
              "Radial Roughness": RADIAL_ROUGHNESS, "Random Color": RANDOM_COLOR,
              "Random Roughness": RANDOM_ROUGHNESS}
    for socket, value in values.items():
        fibre.inputs[socket].default_value = value
    material.diffuse_color = linear
    return material


def _set_shade(head: bpy.types.Object, color: np.ndarray) -> None:
    """Gives the skin between the strands, and the shade that is painted on the scalp, a linear colour."""
    nodes = head.active_material.node_tree.nodes if head.active_material is not None else {}
    if hair.MIX in nodes:
        hair.shade_under(head.active_material, color)
        hair.mix_socket(nodes[hair.MIX].inputs, "B").default_value = (*np.clip(color, 0, 1).tolist(), 1.0)


def _set_rooted(head: bpy.types.Object, skull: strands.Skull) -> None:
    """Writes where strands are rooted into the skin, for its shade: full where the hair has its density."""
    attributes = head.data.attributes
    rooted = attributes.get(hair.ROOTED) or attributes.new(hair.ROOTED, "FLOAT", "POINT")
    soft = strands.SOFT_M * skull.face / strands.FACE_M
    rooted.data.foreach_set("value", np.clip(skull.inside / soft, 0, 1).astype(np.float32))
