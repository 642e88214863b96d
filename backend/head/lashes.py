# SPDX-License-Identifier: GPL-3.0-or-later
"""Eyelashes: a thin dark line on each lid's margin with tapered lashes on it, no transparency needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

UPPER_MARGIN = (
    (13369, 13371, 13359, 13352, 13353, 13358, 13357, 13356, 13355, 13354, 13377),
    (6844, 6841, 6838, 6785, 6784, 6790, 6793, 6796, 6799, 6802, 6805),
)
LOWER_MARGIN = (
    (13378, 13367, 13368, 13370, 13372, 13373, 13374, 13366, 13379),
    (11695, 6834, 6831, 6828, 6825, 6820, 6817, 6814, 11693),
)
"""MakeHuman vertices of the left lids' inner and outer edge, from the nose outwards; lashes grow between them."""
STEADYING = 0.03
"""Share of the eyeball's radius that steadies the direction in which the narrow margin faces."""
LASH_WIDTH = 0.42
"""Width of a lash at its root as a share of the space between two."""
OUTER_SHARE = 0.6
"""Where the lashes' roots lie between the margin's inner (0) and outer edge (1)."""


@dataclass(frozen=True)
class Row:
    """How the lashes of one lid look."""

    margin: tuple[tuple[int, ...], tuple[int, ...]]
    count: int
    length: float  # metres, of the longest
    shortest: float  # share of it at the corners
    forward: float  # away from the eyeball
    lift: float  # along the lid, away from the opening
    line: float  # width of the dark line along the roots, metres
    up: float  # +1 for an upper lid, -1 for a lower one


ROWS = (
    Row(UPPER_MARGIN, 30, 0.0075, 0.45, 0.97, 0.24, 0.0009, 1.0),
    Row(LOWER_MARGIN, 18, 0.0035, 0.55, 0.88, 0.47, 0.00018, -1.0),
)


@dataclass(frozen=True)
class Strand:
    """The lashes of one lid as offsets in frames along its margin."""

    vertices: np.ndarray  # (2, m) MakeHuman indices of the margin
    weights: np.ndarray  # (n, m): a lash vertex's root from the margin's vertices
    slopes: np.ndarray  # (n, m): the margin's tangent there
    offsets: np.ndarray  # (n, 3): along the tangent, away from the eyeball, along the lid away from the opening
    quads: np.ndarray  # (q, 4)
    up: float


def strand(row: Row, mirror: np.ndarray | None) -> Strand:
    """Lay one row out; with `mirror` (MakeHuman's table) it is the right eye's."""
    knots = np.linspace(0, 1, len(row.margin[0]))
    spline = CubicSpline(knots, np.eye(len(knots)))
    line, count = np.linspace(0, 1, row.count + 1), row.count
    middle = (line[1:] + line[:-1]) / 2
    half = LASH_WIDTH / 2 / count
    at = np.concatenate([line, line, middle - half, middle + half, middle])
    size = row.length * (row.shortest + (1 - row.shortest) * np.sin(np.pi * middle**1.4) ** 0.8)
    size = size * np.where(np.arange(count) % 2, 1.0, 0.82)
    direction = np.array([row.forward, row.lift])
    offsets = np.zeros((len(at), 3))
    offsets[count + 1: 2 * count + 2, 1:] = row.line * direction
    offsets[2 * count + 2: 4 * count + 2, 1:] = 0.5 * row.line * direction
    offsets[4 * count + 2:, 0] = size * 0.45 * (2 * middle - 0.9)
    offsets[4 * count + 2:, 1:] = size[:, None] * direction
    i, tip = np.arange(count), 4 * count + 2 + np.arange(count)
    band = np.stack([i, i + 1, count + 2 + i, count + 1 + i], axis=1)
    spikes = np.stack([2 * count + 2 + i, 3 * count + 2 + i, tip, tip], axis=1)
    margin = np.array(row.margin)
    if (row.up < 0) != (mirror is not None):  # keep the outer side in front
        band, spikes = band[:, [1, 0, 3, 2]], spikes[:, [1, 0, 2, 3]]
    return Strand(
        margin if mirror is None else mirror[margin], spline(at), spline(at, 1), offsets,
        np.concatenate([band, spikes]), row.up,
    )


def place(rows: Strand, verts: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Lash vertices (n, 3) for MakeHuman's vertices (N, 3) and the eyeball's centre (3,); they turn with the lid."""
    inner, outer = verts[rows.vertices]
    margin = inner + OUTER_SHARE * (outer - inner)
    root = rows.weights @ margin
    tangent = rows.slopes @ margin
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    forward = rows.weights @ (outer - inner) + STEADYING * (root - eye)
    forward -= (forward * tangent).sum(1, keepdims=True) * tangent
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    lift = np.cross(forward, tangent)
    lift *= np.sign(lift[:, 1:2]) * rows.up
    frame = np.stack([tangent, forward, lift], axis=1)
    return root + np.einsum("nk,nkc->nc", rows.offsets, frame)


def lash_uv(rows: list[Strand]) -> np.ndarray:
    """UVs (n, 2): the map's lower half for upper lids, its upper half for lower ones; both eyes share it."""
    maps = []
    for i, row in enumerate(rows):
        count = (len(row.weights) - 2) // 5
        line = np.linspace(0.02, 0.98, count + 1)
        middle = (line[1:] + line[:-1]) / 2
        half = 0.48 * LASH_WIDTH / count
        along = np.concatenate([line, line, middle - half, middle + half, middle])
        out = np.repeat([0.0, 0.2, 0.1, 0.1, 1.0], [count + 1, count + 1, count, count, count])
        maps.append(np.stack([along, (i % 2 + 0.05 + 0.9 * out) / 2], axis=1))
    return np.concatenate(maps)
