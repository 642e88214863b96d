# SPDX-License-Identifier: GPL-3.0-or-later
"""The cornea as a layer of the eye's material: the iris is seen refracted behind it, and lit as the bowl that it is.

The eye's mesh has no inside. Where the cornea lies, the view ray is refracted (Snell's law) and followed to the plane
of the iris, and the eye's picture is read there. The eye's axes come from a point's place about the eye's centre and
the tangent of a UV layer that is a flat projection, so they turn with the eyeLook keys and the eye target (the mesh's
own normals would do but for its narrow rings where colours change). It works in Cycles and EEVEE alike; the picture is
read without its coarse levels, which EEVEE chooses by how fast places change on screen, and gets wrong here.
"""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np

from .bundle import ResultBundle
from .hair import PHOTO_OFF
from .mesh import EYE_LAYER, EYE_LAYER_M, UV_LAYERS, Part, neutral
from .textures import EYE_SIZE

GROUP = "GANFIT Cornea"
IOR = 1.376
LIMBUS_MM, CURVATURE_MM, DEPTH_MM = 5.85, 7.8, 2.7
"""A grown-up's cornea (Gullstrand's eye): radius of its rim, radius of curvature, from its top to the plane of the rim;
taken in proportion to the rim of the mesh."""
BOWL = 0.55  # slope of the iris' outer edge as far as light is concerned: the cornea focuses it onto the far side
INPUTS = {
    # name -> default, smallest, largest, tooltip
    "Depth (mm)": (DEPTH_MM, 0.0, 8.0, "How far the iris lies behind the cornea. 0: the iris is painted on the eye"),
    "Iris Light": (1.0, 0.0, 1.0, "How much the iris is lit as a bowl behind the cornea, not as a part of the ball"),
    "IOR": (IOR, 1.0, 2.0, "Index of refraction of the cornea"),
    "UV Length (mm)": (100.0, 1.0, 1000.0, "Millimetres of the eye along one unit of its picture"),
    "Rim (mm)": (LIMBUS_MM, 0.1, 100.0, "Radius of the cornea's rim"),
    "Curvature (mm)": (CURVATURE_MM, 0.1, 100.0, "Radius of the cornea's surface"),
}
OUTPUTS = {"UV": "NodeSocketVector", "Iris Normal": "NodeSocketVector", "Cornea Normal": "NodeSocketVector",
           "Scatter": "NodeSocketFloat"}
MASK_EDGES = (0.95, 1.2)  # of the rim's radius: within the first all cornea, beyond the second all sclera


def picture_length(bundle: ResultBundle, part: Part, rim: float) -> float:
    """Millimetres across an eye's axis along one unit of its picture's UV map, within `rim` units of its middle."""
    uv = bundle.head["corner_uvs"][part.faces].reshape(-1, 2).astype(np.float64) - 0.5
    inside = np.hypot(*uv.T) < rim
    across = (neutral(bundle)[part.vertices] - part.origin)[part.corners.reshape(-1)[inside]][:, [0, 2]]
    turn, *_ = np.linalg.lstsq(uv[inside], across, rcond=None)
    return 1000 * float(np.linalg.det(turn)) ** 0.5


def add_nodes(material: bpy.types.Material, bundle: ResultBundle, part: Part, rim: float) -> bpy.types.ShaderNode:
    """The cornea's group in an eye's material, with that eye's measures; its outputs are not linked yet."""
    length = picture_length(bundle, part, rim)
    node = material.node_tree.nodes.new("ShaderNodeGroup")
    node.node_tree = _group()
    node.name = node.label = GROUP
    node.location, node.width = (-700, 60), 200
    size = rim * length / LIMBUS_MM
    values = {"Depth (mm)": DEPTH_MM * size, "UV Length (mm)": length, "Rim (mm)": LIMBUS_MM * size,
              "Curvature (mm)": CURVATURE_MM * size}
    for name, value in values.items():
        node.inputs[name].default_value = value
    node[PHOTO_OFF] = [node.inputs.find(name) for name in ("Depth (mm)", "Iris Light")]
    return node


def _group() -> bpy.types.NodeTree:
    """The node group, which all eyes of a file share."""
    known = next((tree for tree in bpy.data.node_groups if tree.name.startswith(GROUP) and tree.library is None), None)
    if known is not None:
        return known
    tree = bpy.data.node_groups.new(GROUP, "ShaderNodeTree")
    for name, (default, low, high, description) in INPUTS.items():
        socket = tree.interface.new_socket(name, description=description, in_out="INPUT",
                                           socket_type="NodeSocketFloat")
        socket.default_value, socket.min_value, socket.max_value = default, low, high
    for name, kind in OUTPUTS.items():
        tree.interface.new_socket(name, in_out="OUTPUT", socket_type=kind)
    _build(_Graph(tree))
    return tree


class _Graph:
    """Builds nodes from expressions: an operand is a socket, a number or a vector."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree, self._count = tree, 0
        self.inputs = self.node("NodeGroupInput").outputs

    def node(self, kind: str) -> bpy.types.Node:
        """A new node, laid out in rows in the order of the computation."""
        node = self.tree.nodes.new(kind)
        node.location = (-1200 + 190 * (self._count % 12), 600 - 240 * (self._count // 12))
        self._count += 1
        return node

    def link(self, value: Any, socket: bpy.types.NodeSocket) -> None:
        """Links a socket, or sets a number or vector."""
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def math(self, operation: str, *operands: Any) -> bpy.types.NodeSocket:
        """A number."""
        node = self.node("ShaderNodeMath")
        node.operation = operation
        for operand, socket in zip(operands, node.inputs):
            self.link(operand, socket)
        return node.outputs[0]

    def vector(self, operation: str, *operands: Any, scale: Any = None) -> bpy.types.NodeSocket:
        """A vector, or the number that an operation on vectors gives."""
        node = self.node("ShaderNodeVectorMath")
        node.operation = operation
        for operand, socket in zip(operands, node.inputs):
            self.link(operand, socket)
        if scale is not None:
            self.link(scale, node.inputs["Scale"])
        return node.outputs["Value" if operation in ("DOT_PRODUCT", "LENGTH") else "Vector"]

    def scaled(self, vector: Any, factor: Any) -> bpy.types.NodeSocket:
        """vector * factor."""
        return self.vector("SCALE", vector, scale=factor)

    def total(self, *vectors: Any) -> bpy.types.NodeSocket:
        """The sum of vectors."""
        result = vectors[0]
        for vector in vectors[1:]:
            result = self.vector("ADD", result, vector)
        return result

    def root(self, squared: Any) -> bpy.types.NodeSocket:
        """sqrt(1 - squared), 0 where that is negative."""
        return self.math("SQRT", self.math("MAXIMUM", self.math("SUBTRACT", 1.0, squared), 0.0))


def _build(g: _Graph) -> None:
    """The group's nodes: the eye's axes out of the UV map, the refracted ray, normals of cornea and iris."""
    geometry, uv = g.node("ShaderNodeNewGeometry"), g.node("ShaderNodeUVMap")
    flat, tangent = g.node("ShaderNodeUVMap"), g.node("ShaderNodeTangent")
    uv.uv_map = next(iter(UV_LAYERS))
    flat.uv_map = tangent.uv_map = EYE_LAYER
    tangent.direction_type = "UV_MAP"
    normal, given = geometry.outputs["Normal"], g.inputs
    q = g.scaled(flat.outputs["UV"], 1000 * EYE_LAYER_M)  # mm from the axis
    radius = g.vector("LENGTH", q)
    axis, right, up = _axes(g, tangent.outputs["Tangent"], q)

    def in_space(place: Any) -> bpy.types.NodeSocket:
        parts = g.node("ShaderNodeSeparateXYZ")
        g.link(place, parts.inputs[0])
        return g.total(g.scaled(right, parts.outputs["X"]), g.scaled(up, parts.outputs["Y"]))

    def bent(place: Any, curvature: Any, length: Any) -> bpy.types.NodeSocket:
        """The normal of a sphere of a radius (below 0: of a bowl) at a place `length` from the axis."""
        share = g.math("DIVIDE", length, curvature)
        return g.total(g.scaled(axis, g.root(g.math("MULTIPLY", share, share))),
                       g.scaled(in_space(place), g.math("DIVIDE", 1.0, curvature)))

    mask = g.node("ShaderNodeMapRange")
    mask.interpolation_type = "SMOOTHSTEP"
    g.link(radius, mask.inputs["Value"])
    for name, edge in zip(("From Min", "From Max"), MASK_EDGES):
        g.link(g.math("MULTIPLY", given["Rim (mm)"], edge), mask.inputs[name])
    mask.inputs["To Min"].default_value, mask.inputs["To Max"].default_value = 1.0, 0.0
    inside = mask.outputs[0]
    cornea = _mixed(g, normal, bent(q, given["Curvature (mm)"], radius), inside)
    seen = _refracted(g, geometry.outputs["Incoming"], cornea, (axis, right, up), q, radius)
    slope = g.math("DIVIDE", given["Rim (mm)"], -BOWL)
    iris = _mixed(g, normal, bent(seen, slope, g.vector("LENGTH", seen)),
                  g.math("MULTIPLY", inside, given["Iris Light"]))
    moved = g.scaled(g.vector("SUBTRACT", seen, q), g.math("DIVIDE", 1.0, given["UV Length (mm)"]))
    chance = g.node("ShaderNodeTexWhiteNoise")
    g.link(geometry.outputs["Position"], chance.inputs["Vector"])
    jitter = g.scaled(g.vector("SUBTRACT", chance.outputs["Color"], (0.5, 0.5, 0.5)), 1 / EYE_SIZE)
    place = g.total(uv.outputs["UV"], moved, jitter)
    done = g.node("NodeGroupOutput")
    for value, name in ((place, "UV"), (iris, "Iris Normal"), (cornea, "Cornea Normal"),
                        (g.math("SUBTRACT", 1.0, inside), "Scatter")):
        g.link(value, done.inputs[name])


def _axes(g: _Graph, tangent: Any, q: Any) -> tuple[Any, Any, Any]:
    """The eye's axis and the directions of U and V across it, at a point q mm off the axis.

    In those axes the direction from the eye's centre to the point is (x, y, z) with x, y in proportion to q, and the
    tangent (cos, 0, sin) lies across it: sin / cos = -x / z. The axis' own coordinates in that direction, the tangent
    and their cross product are the third ones of these three.
    """
    coordinates, to_world = g.node("ShaderNodeTexCoord"), g.node("ShaderNodeVectorTransform")
    place, parts = coordinates.outputs["Object"], g.node("ShaderNodeSeparateXYZ")
    to_world.vector_type, to_world.convert_from, to_world.convert_to = "VECTOR", "OBJECT", "WORLD"
    g.link(place, to_world.inputs[0])
    out = g.vector("NORMALIZE", to_world.outputs[0])
    tangent = g.vector("NORMALIZE", g.vector("SUBTRACT", tangent, g.scaled(out, g.vector("DOT_PRODUCT", tangent, out))))
    distance = g.math("MULTIPLY", g.vector("LENGTH", place), 1000.0)
    tilted = g.scaled(q, g.math("DIVIDE", 1.0, distance))
    g.link(tilted, parts.inputs[0])
    z = g.root(g.vector("DOT_PRODUCT", tilted, tilted))
    angle = g.math("ARCTAN2", g.math("MULTIPLY", parts.outputs["X"], -1.0), z)
    third = g.math("MULTIPLY", g.math("MULTIPLY", parts.outputs["Y"], -1.0), g.math("COSINE", angle))
    axis = g.vector("NORMALIZE", g.total(
        g.scaled(out, z), g.scaled(tangent, g.math("SINE", angle)),
        g.scaled(g.vector("CROSS_PRODUCT", out, tangent), third)))
    along = g.scaled(axis, g.vector("DOT_PRODUCT", tangent, axis))
    right = g.vector("NORMALIZE", g.vector("SUBTRACT", tangent, along))
    return axis, right, g.vector("CROSS_PRODUCT", axis, right)


def _refracted(g: _Graph, incoming: Any, cornea: Any, axes: tuple[Any, Any, Any], q: Any,
               radius: Any) -> bpy.types.NodeSocket:
    """Where the view ray meets the plane of the iris: mm across the axis, never beyond the rim."""
    axis, right, up = axes
    rim = g.inputs["Rim (mm)"]
    ray = g.vector("REFRACT", g.scaled(incoming, -1.0), cornea, scale=g.math("DIVIDE", 1.0, g.inputs["IOR"]))
    out = g.math("DIVIDE", radius, rim)
    height = g.math("MULTIPLY", g.inputs["Depth (mm)"],
                    g.math("MAXIMUM", g.math("SUBTRACT", 1.0, g.math("MULTIPLY", out, out)), 0.0))
    steep = g.math("MAXIMUM", g.math("MULTIPLY", g.vector("DOT_PRODUCT", ray, axis), -1.0), 0.25)
    across = g.node("ShaderNodeCombineXYZ")
    for number, direction in enumerate((right, up)):
        g.link(g.vector("DOT_PRODUCT", ray, direction), across.inputs[number])
    place = g.vector("ADD", q, g.scaled(across.outputs[0], g.math("DIVIDE", height, steep)))
    furthest = g.math("MAXIMUM", rim, radius)
    length = g.math("MAXIMUM", g.vector("LENGTH", place), furthest)
    return g.scaled(place, g.math("DIVIDE", furthest, length))


def _mixed(g: _Graph, a: Any, b: Any, share: Any) -> bpy.types.NodeSocket:
    """The direction a + share * (b - a)."""
    return g.vector("NORMALIZE", g.vector("ADD", a, g.scaled(g.vector("SUBTRACT", b, a), share)))
