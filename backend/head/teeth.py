# SPDX-License-Identifier: GPL-3.0-or-later
"""Two rows of seven teeth a side with gums, laid along the arches of MakeHuman's coarse helper teeth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

NARROWING = 0.87
"""MakeHuman's arches are 73 mm wide, wider than people's; ours are this much narrower about the front teeth."""
COLUMNS = ((-0.5, True), (-0.30, False), (0.30, False))
"""Columns of one tooth: place across its width, and whether it is the gap to its neighbour (shared with it)."""
GAP_DEPTH = 0.0011
GAP_CUT = 0.0010
PAPILLA = 0.0024
"""How far, between two teeth, the front recedes, the cutting edge withdraws and the gum comes down (metres)."""
GUM_HEIGHT = 0.0065


@dataclass(frozen=True)
class Jaw:
    """Measures of one jaw's teeth from the middle backwards, millimetres (after Ash, Wheeler's Dental Anatomy)."""

    edge: tuple[int, ...]  # MakeHuman vertices of the cutting edge from the middle to the left
    widths: tuple[float, ...]
    heights: tuple[float, ...]  # of the crowns
    depths: tuple[float, ...]  # from cheek to tongue at the neck
    edge_depths: tuple[float, ...]  # the same at the biting surface
    longer: tuple[float, ...]  # how far the cutting edge stands out
    up: float  # direction of the roots along y
    back: float  # metres by which the arch stands behind the helper's
    bite: float  # metres that the edge is raised towards the other jaw


UPPER = Jaw(
    (15069, 15086, 15071, 15070, 15085, 15078, 15077, 15076, 15080),
    (8.5, 6.6, 7.6, 7.1, 6.7, 10.2, 9.6), (10.4, 9.2, 10.2, 8.6, 8.0, 7.4, 7.0), (6.5, 5.8, 7.4, 8.2, 8.2, 9.6, 9.4),
    (1.3, 1.3, 1.8, 5.0, 5.2, 7.6, 7.4), (0.0, -0.6, 0.5, 0.2, 0.0, 0.0, 0.0), 1.0, -0.0034, 0.0026,
)
LOWER = Jaw(
    (15010, 15001, 15002, 15003, 15004, 15005, 15006, 15007, 15008),
    (5.4, 5.9, 6.9, 7.0, 7.1, 10.8, 10.3), (8.8, 9.0, 10.2, 8.6, 8.0, 7.5, 7.0), (5.8, 6.0, 7.2, 7.6, 7.9, 9.4, 9.2),
    (1.2, 1.2, 1.7, 4.4, 5.0, 7.6, 7.6), (0.0, 0.0, 0.4, 0.1, 0.0, 0.0, 0.0), -1.0, -0.0010, 0.0008,
)
HELPERS = (("helper-upper-teeth", UPPER), ("helper-lower-teeth", LOWER))


@dataclass(frozen=True)
class Row:
    """One jaw's teeth as a grid of columns (from the subject's right to the left) by lines (from lips to tongue)."""

    verts: np.ndarray  # (n, 3)
    quads: np.ndarray  # (q, 4)
    uv: np.ndarray  # (n, 2) along the arch and across
    gums: np.ndarray  # (n,) 1 on the gums, 0 on the teeth
    mirror: np.ndarray  # (n,)


def _arch(points: np.ndarray, length: float) -> CubicSpline:
    """Left half of the arch (x, y, z) over the distance from the middle; symmetric about it.

    The helper's curve is narrowed and then runs at the teeth's own scale, so `length` metres fill it.
    """
    narrow = points.copy()
    front = points[0, 2]
    narrow[:, 0] *= NARROWING
    narrow[:, 2] = front + NARROWING * (points[:, 2] - front)
    steps = np.linalg.norm(np.diff(narrow[:, [0, 2]], axis=0), axis=1)
    distance = np.concatenate([[0], np.cumsum(steps)]) * length / steps.sum()
    both = np.concatenate([narrow[:0:-1] * [-1, 1, 1], narrow])
    return CubicSpline(np.concatenate([-distance[:0:-1], distance]), both)


def _columns(jaw: Jaw) -> np.ndarray:
    """(c, 7) of the left half: place along the arch, gap (0 or 1), height, depth, edge depth, longer; metres."""
    columns = []
    place = 0.0
    for tooth, width in enumerate(jaw.widths):
        for at, gap in COLUMNS:
            before = max(tooth - 1, 0) if gap else tooth
            mean = [(row[tooth] + row[before]) / 2 for row in (jaw.heights, jaw.depths, jaw.edge_depths, jaw.longer)]
            columns.append([place + (at + 0.5) * width, gap, *mean])
        place += width
    columns.append([place, True, jaw.heights[-1], jaw.depths[-1], jaw.edge_depths[-1], jaw.longer[-1]])
    return np.array(columns) * [1e-3, 1, 1e-3, 1e-3, 1e-3, 1e-3]


def tooth_row(jaw: Jaw, makehuman: np.ndarray) -> Row:
    """Build one jaw's teeth on MakeHuman's vertices (N, 3) of the mean head, metres."""
    left = _columns(jaw)
    right = left[:0:-1] * [-1, 1, 1, 1, 1, 1]
    place, gap, height, depth, thin, longer = np.concatenate([right, left]).T
    arch = _arch(makehuman[list(jaw.edge)], left[-1, 0])
    edge, along = arch(place), arch(place, 1)
    outward = np.stack([along[:, 2], 0 * place, -along[:, 0]], axis=1)
    outward /= -np.linalg.norm(outward, axis=1, keepdims=True)
    edge = edge - np.stack([0 * place, jaw.up * (longer - gap * GAP_CUT + jaw.bite), 0 * place + jaw.back], axis=1)

    front = -gap * GAP_DEPTH
    gum = height - gap * PAPILLA
    # (distance towards the lips, distance towards the roots, gums) of each line, from lips to tongue
    lines = [
        (front * 0.3 + 0.0006, gum + GUM_HEIGHT, 1), (front * 0.5 + 0.0004, gum + 0.0012, 1),
        (front * 0.8 + 0.0001, gum + 0.0001, 1), (front - 0.0003, gum - 0.0006, 0),
        (front + 0.0004, 0.45 * height, 0), (front, 0.04 * height, 0), (-thin + gap * 0.0004, 0.05 * height, 0),
        (-0.6 * depth - 0.4 * thin, 0.5 * height, 0), (-depth, gum - 0.0004, 0), (-depth - 0.0006, gum + 0.0008, 1),
    ]
    lines += [(-depth - 0.002, gum + GUM_HEIGHT, 1)]
    verts = np.stack([edge + out[:, None] * outward + np.outer(rise + 0 * place, [0, jaw.up, 0])
                      for out, rise, _ in ((o + 0 * place, r, g) for o, r, g in lines)], axis=1)
    columns, count = verts.shape[:2]
    index = np.arange(columns * count).reshape(columns, count)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    if jaw.up < 0:
        quads = quads[:, ::-1]
    u, v = np.meshgrid(np.linspace(0.01, 0.99, columns), np.linspace(0.02, 0.48, count), indexing="ij")
    uv = np.stack([u, v + (0.5 if jaw.up > 0 else 0.0)], axis=-1).reshape(-1, 2)
    gums = np.tile([float(g) for _, _, g in lines], columns)
    return Row(verts.reshape(-1, 3), quads, uv, gums, index[::-1].reshape(-1))


def affine_motion(points: np.ndarray, moves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Displacements (D, n, 3) at `targets` (n, 3) of the affine maps that fit `moves` (D, m, 3) of `points` (m, 3)."""
    centre = points.mean(0)
    system = np.concatenate([points - centre, np.full((len(points), 1), 0.01)], axis=1)
    there = np.concatenate([targets - centre, np.full((len(targets), 1), 0.01)], axis=1)
    return there @ (np.linalg.pinv(system) @ moves)
