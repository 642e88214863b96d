# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the head as a binary glTF 2.0 file: level-1 triangles, 52 sparse morph targets, a texture per part."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from . import __version__
from .render.raster import get_rasterizer

if TYPE_CHECKING:
    from .head.model import HeadModel

FLOAT, USHORT, UINT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
CLAMP_TO_EDGE, LINEAR, LINEAR_MIPMAP_LINEAR = 33071, 9729, 9987
MOVED_M = 2e-6
"""A vertex that a morph target moves by less (metres) is left out of it."""


@dataclass(frozen=True)
class PartStyle:
    """How a part of the head appears: name of its node, roughness, side of its baked texture in pixels."""

    node: str
    roughness: float
    texture_size: int = 0
    double_sided: bool = False


STYLES = {
    "skin": PartStyle("Head", 0.5),
    "eye_left": PartStyle("EyeLeft", 0.1, 512),
    "eye_right": PartStyle("EyeRight", 0.1, 512),
    "teeth": PartStyle("Teeth", 0.3, 256),
    "tongue": PartStyle("Tongue", 0.4, 128),
    "lashes": PartStyle("Lashes", 0.8, 64, double_sided=True),
    "inside": PartStyle("Inside", 0.5),
}
"""Nodes in order. The skin comes as two nodes, so that `Head` is what a scanner would see of it."""
HAIR_STYLE = PartStyle("Hair", 0.6, double_sided=True)
GLASSES_STYLE = PartStyle("Glasses", 0.3, double_sided=True)
TINTED_MATERIAL = "Tinted"
INNER_SKIN_PART = {"inside": "skin"}
INNER_REGIONS = ("mouth_bag", "socket", "nostril")


@dataclass(frozen=True)
class Surface:
    """A textured surface with holes.

    Attributes:
        verts: (V, 3) metres.
        vertex, uv: (N,) and (N, 2) pairs of a vertex and a place in the picture, v up; triangles: (T, 3) of such pairs.
        tinted: (T,) bool, which triangles are mixed with what is behind them; the others are cut out at half cover.
        picture: PNG of colour and cover.
    """

    verts: np.ndarray
    vertex: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray
    tinted: np.ndarray
    picture: bytes


def glb_bytes(
    head: HeadModel,
    cage: np.ndarray,
    scale: float,
    expression: Sequence[float],
    albedo: bytes,
    palette: Mapping[str, Sequence[float]],
    normal: bytes | None = None,
    roughness: bytes | None = None,
    hair: Surface | None = None,
    glasses: Surface | None = None,
) -> bytes:
    """The content of `head.glb`.

    Args:
        cage: (V0, 3) the neutral cage, metres, metric scale.
        scale: factor from the head model's metres to metric ones, for the expressions.
        expression: (52,) default weights of the morph targets, in the order of `head.expression_names`.
        albedo: PNG or JPEG of the skin's albedo in the head's UV layout.
        palette: colour name -> (r, g, b), sRGB-encoded in [0, 1], for the parts that are not skin.
        normal: PNG or JPEG of the skin's tangent-space normals, +Y along v.
        roughness: the same of its roughness, in the green channel.
        hair, glasses: what stands off the head.
    """
    on_head = head.verts0
    cages = torch.as_tensor(cage, dtype=on_head.dtype, device=on_head.device)[None]
    verts = _host(head.subdivide(cages))[0]
    deltas = _host(head.subdivide(head.expression * scale))
    triangles, part_of = _host(head.tri1).astype(np.int64), _host(head.tri1_part)
    uv = _host(head.uv1)
    colours = _host(head.palette_weights1) @ np.array([palette[name] for name in head.palette_names], np.float32)
    normals = vertex_normals(verts, triangles)
    weights = np.asarray(expression, np.float64).tolist()
    gltf = _Writer(head.layout_id)
    skin_material = gltf.material(STYLES["skin"], albedo, normal, roughness)
    inside = inner_skin(head)
    for name, style in STYLES.items():
        chosen = part_of == head.PARTS.index(INNER_SKIN_PART.get(name, name))
        if name in ("skin", "inside"):
            chosen &= inside == (name == "inside")
        used, faces = np.unique(triangles[chosen], return_inverse=True)
        faces = faces.reshape(-1, 3)
        if len(faces) == 0:
            continue
        part_uv, material = uv[used], skin_material
        if style.texture_size:
            part_uv = fill_square(part_uv)
            material = gltf.material(style, bake_colours(part_uv, faces, colours[used], style.texture_size))
        attributes = {"POSITION": verts[used], "NORMAL": normals[used], "TEXCOORD_0": part_uv * (1, -1) + (0, 1)}
        if material == skin_material and normal is not None:
            attributes["TANGENT"] = tangents(verts[used], part_uv, faces, normals[used])
        gltf.add_part(
            style,
            attributes,
            {material: faces},
            deltas[:, used],
            list(head.expression_names),
            weights,
        )
    for style, surface in ((HAIR_STYLE, hair), (GLASSES_STYLE, glasses)):
        if surface is None:
            continue
        shape = {
            "POSITION": surface.verts[surface.vertex],
            "NORMAL": vertex_normals(surface.verts, surface.vertex[surface.triangles])[surface.vertex],
            "TEXCOORD_0": surface.uv * (1, -1) + (0, 1),
        }
        cut = gltf.material(style, surface.picture, cut_out=True)
        pieces = {cut: surface.triangles[~surface.tinted]}
        if surface.tinted.any():  # after what is cut, so that a viewer that does not sort draws it last
            pieces[gltf.mixed(cut, TINTED_MATERIAL)] = surface.triangles[surface.tinted]
        gltf.add_part(style, shape, pieces, np.zeros((0, len(surface.vertex), 3)), [], [])
    return gltf.to_bytes()


def inner_skin(head: HeadModel) -> np.ndarray:
    """(T,) bool: level-1 triangles of the mouth bag, the eye sockets and the nostrils."""
    hidden = torch.stack([head.regions[name] for name in INNER_REGIONS]).amax(0)
    fine = _host(head.subdivide(hidden[None, :, None].to(head.verts0)))[0, :, 0]
    return (fine[_host(head.tri1).astype(np.int64)] > 0.5).any(1)


def vertex_normals(verts: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Smooth unit normals (V, 3): area-weighted mean over the triangles (T, 3) at a vertex, +Z where there is none."""
    corners = verts[triangles].astype(np.float64)
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros(verts.shape, np.float64)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], face)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-20, normals / np.maximum(length, 1e-20), (0.0, 0.0, 1.0))
    return normals.astype(np.float32)


def tangents(verts: np.ndarray, uv: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Unit tangents along +u (V, 4) of vertices (V, 3) with uv (V, 2), v up, and unit normals (V, 3).

    The fourth number is the sign that makes cross(normal, tangent) times it point along +v.
    """
    corners, places = verts.astype(np.float64)[triangles], uv.astype(np.float64)[triangles]
    edges, chart = corners[:, 1:] - corners[:, :1], places[:, 1:] - places[:, :1]
    area = chart[:, 0, 0] * chart[:, 1, 1] - chart[:, 0, 1] * chart[:, 1, 0]
    sign = np.where(area < 0, -1.0, 1.0)[:, None]
    along_u = sign * (edges[:, 0] * chart[:, 1, 1:] - edges[:, 1] * chart[:, 0, 1:])
    along_v = sign * (edges[:, 1] * chart[:, 0, :1] - edges[:, 0] * chart[:, 1, :1])
    sums = np.zeros((len(verts), 6))
    for corner in range(3):
        np.add.at(sums, triangles[:, corner], np.concatenate([along_u, along_v], 1))
    tangent = sums[:, :3] - (sums[:, :3] * normals).sum(1, keepdims=True) * normals
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    other = np.where(np.abs(normals[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    other = other - (other * normals).sum(1, keepdims=True) * normals
    tangent = np.where(length > 1e-12, tangent, other)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    handed = np.where((np.cross(normals, tangent) * sums[:, 3:]).sum(1, keepdims=True) < 0, -1.0, 1.0)
    return np.concatenate([tangent, handed], 1).astype(np.float32)


def fill_square(uv: np.ndarray) -> np.ndarray:
    """The same map (V, 2) stretched to nearly the whole unit square, so that a small texture is used well."""
    low, size = uv.min(0), np.ptp(uv, 0)
    return (0.02 + 0.96 * (uv - low) / np.maximum(size, 1e-9)).astype(np.float32)


def bake_colours(uv: np.ndarray, faces: np.ndarray, colours: np.ndarray, size: int) -> bytes:
    """Vertex colours drawn into a texture, the gaps filled with the nearest colour.

    uv: (V, 2) in [0, 1], v up; faces: (T, 3); colours: (V, 3) sRGB-encoded in [0, 1]. Returns a square PNG.
    """
    from scipy.ndimage import distance_transform_edt  # slow to import: not before the first iteration

    clip = np.concatenate([uv * 2 - 1, np.zeros((len(uv), 1)), np.ones((len(uv), 1))], 1)
    raster = get_rasterizer("cpu")
    tri = torch.tensor(np.ascontiguousarray(faces), dtype=torch.int32)
    with torch.no_grad():
        rast = raster.rasterize(torch.as_tensor(clip, dtype=torch.float32)[None], tri, (size, size))
        drawn = raster.interpolate(torch.as_tensor(colours, dtype=torch.float32)[None], rast, tri)[0].numpy()
    empty = rast[0, ..., 3].numpy() == 0
    if not empty.all():
        rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
        drawn = drawn[rows, columns]
    else:
        drawn[:] = colours.mean(0)
    stream = io.BytesIO()
    pixels = (drawn[::-1].clip(0, 1) * 255).round().astype(np.uint8)  # row 0 of the rasteriser is the bottom
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


@dataclass
class _Writer:
    """The JSON document and the binary chunk of one GLB, filled part by part (glTF 2.0 specification)."""

    layout_id: str
    binary: bytearray = field(default_factory=bytearray)
    document: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.document = {
            "asset": {"version": "2.0", "generator": f"GANFIT {__version__}", "extras": {"layout_id": self.layout_id}},
            "scene": 0,
            "scenes": [{"name": "Head", "nodes": []}],
            "samplers": [
                {
                    "magFilter": LINEAR,
                    "minFilter": LINEAR_MIPMAP_LINEAR,
                    "wrapS": CLAMP_TO_EDGE,
                    "wrapT": CLAMP_TO_EDGE,
                }
            ],
        }

    def append(self, collection: str, item: dict[str, Any]) -> int:
        """Adds an item to one of the document's top-level lists and returns its index."""
        items = self.document.setdefault(collection, [])
        items.append(item)
        return len(items) - 1

    def view(self, data: bytes, target: int | None = None) -> int:
        """A buffer view of its own, aligned to four bytes."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.binary += data
        return self.append("bufferViews", view)

    def vectors(self, values: np.ndarray) -> int:
        """An accessor of float32 vectors (N, 2 or 3), with the bounds that readers want."""
        values = np.ascontiguousarray(values, "<f4")
        accessor = {
            "bufferView": self.view(values.tobytes(), ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(values),
            "type": f"VEC{values.shape[1]}",
            "min": values.min(0).tolist(),
            "max": values.max(0).tolist(),
        }
        return self.append("accessors", accessor)

    def indices(self, faces: np.ndarray, count: int) -> int:
        """An accessor of triangle corners, as short as the number of vertices allows (65535 is reserved)."""
        kind, code = _index_type(count)
        view = self.view(faces.astype(kind).tobytes(), ELEMENT_ARRAY_BUFFER)
        return self.append(
            "accessors", {"bufferView": view, "componentType": code, "count": faces.size, "type": "SCALAR"}
        )

    def targets(self, deltas: np.ndarray) -> list[dict[str, int]]:
        """Morph targets (K, N, 3) as sparse accessors; those of a mesh share two buffer views."""
        kind, code = _index_type(deltas.shape[1])
        moved = [np.flatnonzero(np.abs(delta).max(1) > MOVED_M) for delta in deltas]
        indices = self.view(np.concatenate(moved).astype(kind).tobytes())
        values = self.view(np.concatenate([d[m] for d, m in zip(deltas, moved, strict=True)]).astype("<f4").tobytes())
        accessors, done = [], 0
        for delta, move in zip(deltas, moved, strict=True):
            accessor: dict[str, Any] = {"componentType": FLOAT, "count": len(delta), "type": "VEC3"}
            sparse = np.zeros((len(delta), 3), np.float32)
            sparse[move] = delta[move]
            accessor |= {"min": sparse.min(0).tolist(), "max": sparse.max(0).tolist()}
            if len(move):
                accessor["sparse"] = {
                    "count": len(move),
                    "indices": {
                        "bufferView": indices,
                        "byteOffset": done * np.dtype(kind).itemsize,
                        "componentType": code,
                    },
                    "values": {"bufferView": values, "byteOffset": done * 12},
                }
            done += len(move)
            accessors.append({"POSITION": self.append("accessors", accessor)})
        return accessors

    def texture(self, picture: bytes, name: str) -> dict[str, int]:
        """A reference to a texture of its own with this PNG or JPEG."""
        kind = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
        image = self.append("images", {"bufferView": self.view(picture), "mimeType": kind, "name": name})
        return {"index": self.append("textures", {"sampler": 0, "source": image})}

    def material(
        self,
        style: PartStyle,
        albedo: bytes,
        normal: bytes | None = None,
        roughness: bytes | None = None,
        cut_out: bool = False,
    ) -> int:
        """A material of these pictures; without one of roughness it has the style's. cut_out: at half cover."""
        surface: dict[str, Any] = {"baseColorTexture": self.texture(albedo, style.node), "metallicFactor": 0.0}
        surface["roughnessFactor"] = style.roughness if roughness is None else 1.0
        if roughness is not None:
            surface["metallicRoughnessTexture"] = self.texture(roughness, f"{style.node} roughness")
        material: dict[str, Any] = {"name": style.node, "pbrMetallicRoughness": surface}
        if normal is not None:
            material["normalTexture"] = self.texture(normal, f"{style.node} normal")
        if style.double_sided:
            material["doubleSided"] = True
        if cut_out:
            material |= {"alphaMode": "MASK", "alphaCutoff": 0.5}
        return self.append("materials", material)

    def mixed(self, material: int, name: str) -> int:
        """The same as a material that is cut out, but mixed with what is behind it."""
        cut = self.document["materials"][material]
        return self.append(
            "materials", {k: v for k, v in cut.items() if k != "alphaCutoff"} | {"name": name, "alphaMode": "BLEND"}
        )

    def add_part(
        self,
        style: PartStyle,
        attributes: Mapping[str, np.ndarray],
        pieces: Mapping[int, np.ndarray],
        deltas: np.ndarray,
        names: list[str],
        weights: list[float],
    ) -> None:
        """A node with its mesh, whose faces (T, 3) each have a material; morph targets where one of them moves it."""
        shared: dict[str, Any] = {"attributes": {name: self.vectors(values) for name, values in attributes.items()}}
        mesh: dict[str, Any] = {"name": style.node}
        if np.abs(deltas).max(initial=0.0) > MOVED_M:
            shared["targets"] = self.targets(deltas)
            mesh |= {"weights": weights, "extras": {"targetNames": names}}
        count = len(attributes["POSITION"])
        mesh["primitives"] = [
            {**shared, "indices": self.indices(faces, count), "material": material}
            for material, faces in pieces.items()
            if len(faces)
        ]
        node = self.append("nodes", {"name": style.node, "mesh": self.append("meshes", mesh)})
        self.document["scenes"][0]["nodes"].append(node)

    def to_bytes(self) -> bytes:
        """Header, JSON chunk padded with spaces, binary chunk padded with zeros."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self.binary)
        head = struct.pack("<4sII", b"glTF", 2, length) + struct.pack("<I4s", len(text), b"JSON")
        return head + text + struct.pack("<I4s", len(self.binary), b"BIN\0") + bytes(self.binary)


def _index_type(count: int) -> tuple[str, int]:
    return ("<u2", USHORT) if count < 65535 else ("<u4", UINT)


def _host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
