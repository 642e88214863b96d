# SPDX-License-Identifier: GPL-3.0-or-later
"""Albedo maps in our UV layout from openly licensed people: bake, mask what is not skin, fill it plausibly."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from PIL import Image
from scipy import ndimage

from backend.head.registration import SurfaceIndex, Template, quads_to_triangles, register, smoothness, vertex_normals
from backend.texture.uvmap import TexelMap, push_pull, rasterize_uv, sample_image, split_quads

if TYPE_CHECKING:
    from backend.head.model import HeadModel

HELD_OUT = ("AIAN_M_1", "AIAN_M_2", "Black_F_3", "Black_M_3", "White_M_2", "young_lightskinned_male_diffuse3",
            "old_lightskinned_male_diffuse")
"""Never trained on. Some avatars share one photographed face (their detail correlates by over 0.8), so whole groups are
held out: AIAN_M_1 with AIAN_M_2, Black_F_3 with Black_M_3, and White_M_2, which nobody shares."""
SKIPPED = ("young_caucasian_female_special_suit", "Asian_M_2")
"""Drawn make-up and hair instead of skin; a fringe over forehead and brows."""
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
FIT_POINTS: tuple[tuple[int, tuple[float, float, float]], ...] = (
    (4853, (-0.0467, -0.0009, 0.0036)), (6764, (-0.0176, -0.0035, 0.0085)),
    (4847, (-0.0323, 0.0038, 0.0126)), (6774, (-0.0308, -0.0056, 0.0111)),
    (13360, (0.0177, -0.0033, 0.0074)), (11471, (0.0467, -0.0001, 0.0043)),
    (6787, (0.0322, 0.0044, 0.0126)), (7761, (0.0335, -0.0049, 0.0069)),
    (3735, (-0.0269, -0.0699, 0.0166)), (7185, (0.0271, -0.0697, 0.0169)),
    (492, (-0.0002, -0.0815, 0.0266)), (294, (-0.0001, -0.0352, 0.0441)),
    (336, (-0.0159, -0.0416, 0.0292)), (7098, (0.0171, -0.0408, 0.0257)),
    (5296, (0.0000, -0.1134, 0.0171)),
)
"""MakeHuman vertex and where it lies on the mean avatar (metres): eye and mouth corners, lids, nose, chin."""


@dataclass(frozen=True)
class SkinLayout:
    """The skin of the head as the texture code needs it."""

    verts: np.ndarray
    """(V, 3) metres."""
    quads: np.ndarray
    """(Q, 4) skin quads into `verts`."""
    corner_uv: np.ndarray
    """(Q, 4, 2), v up."""
    corner_uv_makehuman: np.ndarray
    """(Q, 4, 2), v up."""
    makehuman_index: np.ndarray
    """(V,), -1 where the vertex is ours."""
    regions: dict[str, np.ndarray]
    """Name to (V,) mask in [0, 1]."""
    modes: np.ndarray
    """(K, V, 3) identity modes, metres per sigma."""
    layout_id: str

    @classmethod
    def of(cls, head: HeadModel) -> SkinLayout:
        """Take the skin out of the head model."""
        skin = head.quad_part.cpu().numpy() == 0
        numpy = {name: getattr(head, name).cpu().numpy() for name in
                 ("verts0", "quads", "corner_uv", "corner_uv_makehuman", "makehuman_index", "identity")}
        regions = {name: mask.cpu().numpy() for name, mask in head.regions.items()}
        return cls(numpy["verts0"].astype(float), numpy["quads"][skin], numpy["corner_uv"][skin],
                   numpy["corner_uv_makehuman"][skin], numpy["makehuman_index"], regions,
                   numpy["identity"].astype(float), head.layout_id)

    def texels(self, resolution: int) -> TexelMap:
        """Rasterise the chart; triangle t of the map is triangle t of `corners`."""
        return rasterize_uv(split_quads(self.quads, self.corner_uv.astype(np.float64)), resolution)

    def corners(self, per_vertex: np.ndarray) -> np.ndarray:
        """Per-vertex values (V, C) as corner values (T, 3, C) for `TexelMap.interpolate`."""
        return split_quads(self.quads, per_vertex[self.quads].astype(np.float64))

    def region_maps(self, texels: TexelMap) -> dict[str, np.ndarray]:
        """Region masks as maps (R, R) in [0, 1]."""
        names = sorted(self.regions)
        values = texels.interpolate(self.corners(np.stack([self.regions[n] for n in names], -1)))
        return {name: values[..., i] for i, name in enumerate(names)}


@dataclass(frozen=True)
class SourceMap:
    """One person's baked albedo."""

    name: str
    origin: str
    albedo: np.ndarray
    """(R, R, 3) sRGB in [0, 1], filled everywhere."""
    valid: np.ndarray
    """(R, R) in [0, 1]: 1 where the source itself was seen."""

    @property
    def held_out(self) -> bool:
        """Whether no training may see this person."""
        return self.name in HELD_OUT


def name_hash(name: str) -> str:
    """Short hash under which a person stands in committed splits."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) float32 sRGB in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


# -------------------------------------------------------------------------------------------------------------- avatars
def mean_avatar(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean mesh of the avatars, which share one atlas: vertices (N, 3), triangles (M, 3), atlas UVs (N, 2).

    Vertices are told apart by their atlas UV, so that a vertex on a seam appears once per side.
    """
    places: list[dict[int, np.ndarray]] = []
    keys: np.ndarray | None = None
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            grid = np.round(data["skin_corner_uvs"] * 20000).astype(np.int64)
            keys = grid[..., 0] * 100_000 + grid[..., 1]
            unique, first = np.unique(keys, return_index=True)
            verts = data["skin_verts"][data["skin_faces"].reshape(-1)[first]]
        places.append(dict(zip(unique.tolist(), verts, strict=True)))
    if keys is None:
        raise FileNotFoundError(f"no avatars in {folder}")
    common = sorted(set.intersection(*(set(p) for p in places)))
    number = {key: i for i, key in enumerate(common)}
    verts = np.mean([[p[key] for key in common] for p in places], 0)
    tris = np.array([[number.get(key, -1) for key in corner] for corner in keys.tolist()])
    atlas = np.stack((np.array(common) // 100_000, np.array(common) % 100_000), -1) / 20000
    return verts, tris[(tris >= 0).all(1)], atlas


def register_to_avatars(layout: SkinLayout, verts: np.ndarray, tris: np.ndarray) -> np.ndarray:
    """Our cage (V, 3) laid over the mean avatar; the skin's inner parts follow smoothly."""
    skin = np.unique(layout.quads)
    number = np.full(len(layout.verts), -1)
    number[skin] = np.arange(len(skin))
    quads = number[layout.quads]
    inner = np.max([layout.regions[n][skin] for n in ("mouth_bag", "socket", "nostril")], 0)
    template = Template(layout.verts[skin], layout.modes[:, skin], sp.identity(len(skin), format="csr"),
                        quads_to_triangles(quads), 1 - inner, smoothness(quads, inner < 0.5))
    index = {m: i for i, m in enumerate(layout.makehuman_index[skin].tolist())}
    chosen = [index[m] for m, _ in FIT_POINTS]
    rows = sp.csr_matrix((np.ones(len(chosen)), (np.arange(len(chosen)), chosen)), (len(chosen), len(skin)))
    _, first, inverse = np.unique(np.round(verts * 1e6), axis=0, return_index=True, return_inverse=True)
    found = register(template, verts[first], inverse.ravel()[tris], iterations=20, samples=3000,
                     landmarks=(rows, np.array([p for _, p in FIT_POINTS])), free_form=(100, 30, 10, 3, 1))
    cage = layout.verts.copy()
    cage[skin] = found.cage_in_target
    return cage


def avatar_correspondence(layout: SkinLayout, texels: TexelMap, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atlas UV (R, R, 2) of every texel of our map, and (R, R) bool where the avatars have that place."""
    verts, tris, atlas = mean_avatar(folder)
    cage = register_to_avatars(layout, verts, tris)
    normals = texels.interpolate(layout.corners(vertex_normals(cage, quads_to_triangles(layout.quads))))
    covered = np.flatnonzero(texels.covered)
    points = texels.interpolate(layout.corners(cage)).reshape(-1, 3)[covered]
    surface = SurfaceIndex(verts, tris, max_edge=0.004)
    _, triangle, bary, distance = surface.closest(points, 12)
    agree = np.einsum("nd,nd->n", surface.face_normals[triangle], normals.reshape(-1, 3)[covered])
    uv = np.zeros((texels.triangle.size, 2), np.float32)
    uv[covered] = np.einsum("nk,nkd->nd", bary, atlas[tris[triangle]])
    seen = np.zeros(texels.triangle.size, bool)
    seen[covered] = (distance < 0.0025) & (agree > 0.2)
    return uv.reshape(*texels.triangle.shape, 2), seen.reshape(texels.triangle.shape)


# ----------------------------------------------------------------------------------------------- what is skin, what not
def skin_colour(albedo: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """Median colour (3,) of cheeks, nose and forehead, in the encoding of `albedo` (R, R, 3)."""
    chosen = (regions["cheek"] > 0.3) | (regions["nose"] > 0.5)
    return np.median(albedo[chosen], axis=0)


def hair_mask(albedo: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """(R, R) bool: scalp, and the hair, caps and collars that hang together with it or with the neck's edge."""
    skin = skin_colour(albedo, regions)
    step = ndimage.gaussian_filter(albedo, (1.5, 1.5, 0)) - skin
    luma = step @ LUMA
    tint = np.abs(step - luma[..., None]).max(-1)
    ears = (regions["ear_left"] + regions["ear_right"]) > 0.5
    neck = regions["neck"] > 0.3
    other = (luma < -0.2) | (luma < -0.5 * float(skin @ LUMA)) | (tint > 0.13)
    other |= neck & ((abs(luma) > 0.12) | (tint > 0.07))
    other |= ndimage.binary_dilation(ears, iterations=len(albedo) // 18) & (luma < -0.3 * float(skin @ LUMA))
    keep = (regions["face"] > 0.5) & ~_temples(regions)
    seed = (regions["scalp"] > 0.4) | (regions["neck"] > 0.4)
    grown = ndimage.binary_propagation(seed & other, mask=other & ~keep & ~ears)
    grown = ndimage.binary_dilation(grown, iterations=9) & ~ears
    above = ndimage.binary_dilation(regions["scalp"] > 0.3, iterations=len(albedo) // 28)
    return (grown | above) & ~(regions["brow"] > 0.5) & ~ears | (regions["scalp"] > 0.3)


def _temples(regions: dict[str, np.ndarray]) -> np.ndarray:
    """Upper outer face, where sideburns and fringes lie: face texels near the forehead, the scalp or the ears."""
    rim = (regions["forehead"] + regions["scalp"] + regions["ear_left"] + regions["ear_right"]) > 0.2
    size = len(rim)
    return ndimage.binary_dilation(rim, iterations=size // 14)


def fill_map(albedo: np.ndarray, valid: np.ndarray, regions: dict[str, np.ndarray], covered: np.ndarray,
             seed: int) -> np.ndarray:
    """Complete (R, R, 3) sRGB albedo: mirrored side, smooth continuation with grain, then sockets and mouth bag."""
    linear = decode(albedo)
    weight = ndimage.gaussian_filter(ndimage.binary_erosion(valid, iterations=2).astype(np.float32), 1.5)
    weight = np.minimum(weight * 1.0, valid)
    mirrored_weight = weight[:, ::-1] * (1 - weight)
    known = weight + mirrored_weight
    mixed = linear * weight[..., None] + linear[:, ::-1] * mirrored_weight[..., None]
    mixed /= np.maximum(known, 1e-6)[..., None]
    far = 0.0004 * (1 - known)
    skin = skin_colour(linear, regions)
    seeded = (mixed * known[..., None] + skin * far[..., None]) / (known + far)[..., None]
    filled = push_pull(seeded.astype(np.float32), known + far)
    filled = filled * (1 + _grain(linear, valid, regions, seed) * (1 - known)[..., None])
    for name, share, fixed in (("socket", 0.35, (0.16, 0.045, 0.035)), ("mouth_bag", 0.12, (0.17, 0.035, 0.03))):
        inside = ndimage.gaussian_filter(ndimage.maximum_filter(regions[name], 5), 1.2)[..., None]
        filled = filled * (1 - inside) + (share * skin * (1.1, 0.7, 0.65) + np.array(fixed) * (1 - share)) * inside
    outside = push_pull(filled.astype(np.float32), covered.astype(np.float32))
    return encode(outside)


def _grain(linear: np.ndarray, valid: np.ndarray, regions: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """Relative skin grain (R, R, 1) with the cheeks' strength, for texels that are filled."""
    luma = np.log(np.maximum(linear @ LUMA, 1e-4))
    fine = luma - ndimage.gaussian_filter(luma, 2)
    cheek = (regions["cheek"] > 0.3) & valid
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(luma.shape), 0.8)
    return (noise / noise.std() * fine[cheek].std())[..., None]


def decode(encoded: np.ndarray) -> np.ndarray:
    """sRGB curve: encoded [0, 1] to linear."""
    encoded = np.clip(encoded, 0, 1)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encode(linear: np.ndarray) -> np.ndarray:
    """sRGB curve: linear [0, 1] to encoded."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- the sources
def load_sources(layout: SkinLayout, shared: Path, resolution: int = 512) -> Iterator[SourceMap]:
    """Bake every avatar and MakeHuman skin of the developer data folder `shared` (its `data/`)."""
    texels = layout.texels(resolution)
    regions = layout.region_maps(texels)
    hidden = (regions["mouth_bag"] + regions["socket"]) > 0.3
    atlas, seen = avatar_correspondence(layout, texels, shared / "avatars")
    for path in sorted((shared / "avatars").glob("*_albedo.webp")):
        name = path.name.removesuffix("_albedo.webp")
        if name in SKIPPED:
            continue
        yield _finish(name, "avatar", _sample(read_image(path), atlas),
                      seen & ~hidden, regions, texels.covered)
    places = texels.interpolate(split_quads(layout.quads, layout.corner_uv_makehuman.astype(np.float64)))
    for path in sorted((shared / "skins").glob("*.png")) + sorted((shared / "skins" / "512").glob("*.png")):
        if path.stem not in SKIPPED:
            yield _finish(path.stem, "makehuman", _sample(read_image(path), places),
                          texels.covered & ~hidden, regions, texels.covered)


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Sample an atlas with the mean of 2 x 2 places per texel where neighbours lie on the same chart."""
    total = np.zeros((*uv.shape[:2], 3), np.float32)
    along_x, along_y = np.gradient(uv, axis=1), np.gradient(uv, axis=0)
    for step in (along_x, along_y):
        step[np.abs(step).max(-1) > 0.01] = 0
    for i in (-0.25, 0.25):
        for j in (-0.25, 0.25):
            total += sample_image(image, uv + i * along_x + j * along_y)
    return total / 4


def _finish(name: str, origin: str, baked: np.ndarray, seen: np.ndarray, regions: dict[str, np.ndarray],
            covered: np.ndarray) -> SourceMap:
    """Mask and fill one baked map."""
    valid = seen & ~hair_mask(baked, regions)
    seed = int(name_hash(name), 16) % 2**32
    return SourceMap(name, origin, fill_map(baked, valid, regions, covered, seed), valid.astype(np.float32))
