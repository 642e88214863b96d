# SPDX-License-Identifier: GPL-3.0-or-later
"""UV space as a picture: which triangle covers each texel, and values carried from corners to texels."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class TexelMap:
    """Coverage of a square map by triangles; row 0 is the top (v = 1), texel centres lie at +0.5."""

    triangle: np.ndarray
    """(R, R) int32, -1 where no triangle covers the texel."""
    barycentric: np.ndarray
    """(R, R, 3) float32, zero where uncovered."""

    @property
    def covered(self) -> np.ndarray:
        """(R, R) bool."""
        return self.triangle >= 0

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """Values (R, R, C) of per-corner attributes (T, 3, C); zero where uncovered."""
        chosen = corners[np.maximum(self.triangle, 0)]
        return np.einsum("yxk,yxkc->yxc", self.barycentric, chosen).astype(np.float32)


def rasterize_uv(corner_uv: np.ndarray, resolution: int, slack: float = 1e-6) -> TexelMap:
    """Rasterise triangles given by UV corners (T, 3, 2), v up, into a map of `resolution` texels a side.

    Where triangles overlap the later one wins; `slack` widens each triangle (barycentric) to close shared edges.
    """
    xy = np.stack((corner_uv[..., 0] * resolution, (1 - corner_uv[..., 1]) * resolution), -1).astype(np.float64)
    low = np.floor(xy.min(1) - 0.5).astype(int).clip(0, resolution - 1)
    high = np.ceil(xy.max(1) - 0.5).astype(int).clip(0, resolution - 1)
    span = (high - low).max(1) + 1
    triangle = np.full((resolution, resolution), -1, np.int32)
    barycentric = np.zeros((resolution, resolution, 3), np.float32)
    for size in np.unique(np.minimum(2 ** np.ceil(np.log2(span)).astype(int), resolution)):
        lower = size // 2 if size > 1 else 0
        chosen = np.flatnonzero((span > lower) & (span <= size)) if size < resolution else np.flatnonzero(span > lower)
        for part in np.array_split(chosen, max(1, len(chosen) * size * size // 2_000_000)):
            _fill(triangle, barycentric, xy[part], low[part], part, int(size), slack)
    return TexelMap(triangle, barycentric)


def _fill(triangle: np.ndarray, barycentric: np.ndarray, xy: np.ndarray, low: np.ndarray, ids: np.ndarray, size: int,
          slack: float) -> None:
    """Write the triangles `ids`, whose bounding boxes start at `low` and span at most `size` texels."""
    offset = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    texel = low[:, None] + offset[None]
    point = texel + 0.5
    a, b, c = (xy[:, None, i] for i in range(3))
    area = _cross(b - a, c - a)
    flat = np.abs(area) < 1e-12
    area = np.where(flat, 1, area)
    weights = np.stack((_cross(b - point, c - point), _cross(c - point, a - point), _cross(a - point, b - point)), -1)
    weights = weights / area[..., None]
    inside = (weights >= -slack).all(-1) & ~flat & (texel < len(triangle)).all(-1)
    which, cell = np.nonzero(inside)
    x, y = texel[which, cell].T
    triangle[y, x] = ids[which]
    barycentric[y, x] = weights[which, cell]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def split_quads(quads: np.ndarray, corner_values: np.ndarray) -> np.ndarray:
    """Cut quads (Q, 4) with per-corner values (Q, 4, C) into the 8 triangles of subdivision level 1, bilinearly.

    Returns corner values (8 Q, 3, C) (a triangle stored as a quad with its last index repeated gives slivers, too).
    """
    middle = 0.5 * (corner_values + np.roll(corner_values, -1, 1))
    centre = corner_values.mean(1)
    repeated = quads[:, 2] == quads[:, 3]
    centre[repeated] = corner_values[repeated, :3].mean(1)
    pieces = []
    for i in range(4):
        corner, after, before = corner_values[:, i], middle[:, i], middle[:, i - 1]
        pieces += [np.stack((corner, after, centre), 1), np.stack((corner, centre, before), 1)]
    return np.stack(pieces, 1).reshape(-1, 3, corner_values.shape[-1])


def sample_image(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear samples (..., C) of `image` (H, W, C), row 0 at the top, at `uv` (..., 2), v up; edges are repeated."""
    height, width = image.shape[:2]
    rows = (1 - uv[..., 1]) * height - 0.5
    columns = uv[..., 0] * width - 0.5
    channels = [ndimage.map_coordinates(image[..., c], (rows, columns), order=1, mode="nearest")
                for c in range(image.shape[2])]
    return np.stack(channels, -1)


def area_down(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of `factor` texels a side of (H, W, C) or (H, W)."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(height, factor, width, factor, *image.shape[2:]).mean((1, 3))


def push_pull(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill (H, W, C) where `weight` (H, W) in [0, 1] is low from coarser levels of its pyramid (Gortler et al. 1996).

    H and W are powers of two; known texels (weight 1) stay as they are, unknown ones get a smooth continuation.
    """
    weight = weight.astype(np.float32)
    if min(image.shape[:2]) <= 1:
        return image
    small_weight = area_down(weight, 2)
    small = area_down(image * weight[..., None], 2) / np.maximum(small_weight, 1e-8)[..., None]
    filled = push_pull(small, np.minimum(1, 4 * small_weight))
    smooth = ndimage.zoom(filled, (2, 2, 1), order=1, mode="nearest", grid_mode=True)
    return image * weight[..., None] + smooth * (1 - weight[..., None])
