# SPDX-License-Identifier: GPL-3.0-or-later
"""Close the lips of the mean head, which MakeHuman leaves parted by about a millimetre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from backend.head.makehuman import edge_loop

MOUTH = ((-0.030, 0.030), (-0.090, -0.055), (0.018, 0.060))
"""Box (x, y, z) in metres that holds the lips of the mean head."""
JAW_BORDER = 0.009
"""A vertex near the mouth that jawOpen lowers by more than this belongs to the lower lip (metres)."""
REACH = 0.006
"""Distance from the slit within which the lips are moved (metres)."""
UPPER_EDGES, LOWER_EDGES = (474, 520, 537), (493, 523, 540)
"""MakeHuman vertices on the midline of the loops around the mouth where the lips come closest."""


@dataclass(frozen=True)
class Edge:
    """One loop around the mouth as two lists of vertices from the subject's right corner to the left one."""

    upper: np.ndarray
    lower: np.ndarray


def lip_edges(quads: np.ndarray, makehuman_index: np.ndarray, verts: np.ndarray) -> list[Edge]:
    """The loops where the lips come closest, in the cage's own vertices; `verts` (S, 3) tells left from right."""
    edges = []
    low, high = np.transpose(MOUTH)
    quads = quads[((verts[quads] > low - 0.01) & (verts[quads] < high + 0.01)).all((1, 2))]
    for top, bottom in zip(UPPER_EDGES, LOWER_EDGES, strict=True):
        start, turn = (int(np.flatnonzero(makehuman_index == v)[0]) for v in (top, bottom))
        beside = {int(v) for quad in quads[(quads == start).any(1)] for v in quad} - {start}
        for second in sorted(beside, key=lambda v: -verts[v, 0]):
            loop = _loop(quads, start, second)
            if turn in loop:
                break
        half = loop.index(turn)
        left, right = loop[: half + 1], [start, *loop[:half - 1:-1]]
        corner = [max(range(len(side)), key=lambda i, s=side: abs(verts[s[i], 0])) for side in (left, right)]
        edges.append(Edge(
            np.array(right[corner[1]:0:-1] + left[: corner[0] + 1]),
            np.array(right[corner[1]:] + left[-2: corner[0] - 1: -1]),
        ))
    return edges


def _loop(quads: np.ndarray, first: int, second: int) -> list[int]:
    try:
        return edge_loop(quads, first, second)
    except ValueError:
        return []


def lip_gap(verts1: np.ndarray, edges: list[Edge], columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slit between the lips at places along x.

    Args:
        verts1: level-1 vertices (V1, 3), those of the cage first.
        columns: (C,) x coordinates, metres.

    Returns: heights (C,) of the slit's middle and widths (C,), metres; negative where the lips overlap.
    """
    upper = np.min([np.interp(columns, *verts1[e.upper, :2].T) for e in edges], axis=0)
    lower = np.max([np.interp(columns, *verts1[e.lower, :2].T) for e in edges], axis=0)
    return (upper + lower) / 2, upper - lower


def close_lips(verts: np.ndarray, smooth: sp.csr_matrix, edges: list[Edge], jaw_open: np.ndarray,
               rounds: int = 4) -> np.ndarray:
    """Move upper and lower lip towards each other until their level-1 surfaces meet.

    Args:
        verts: (S, 3) skin cage, metres.
        smooth: (V1, S) its subdivision matrix.
        edges: see `lip_edges`.
        jaw_open: (S, 3) the face unit jawOpen.

    Returns: (S, 3).
    """
    columns = np.linspace(-0.0235, 0.0235, 25)
    lowered = -jaw_open[:, 1]
    side = np.clip((lowered - JAW_BORDER) / 0.003, -1, 1)
    low, high = np.transpose(MOUTH)
    near = np.clip(np.minimum(verts - low, high - verts) / 0.004, 0, 1).prod(axis=1)
    result = verts.copy()
    for _ in range(rounds):
        middle, gap = lip_gap(smooth @ result, edges, columns)
        gap = np.maximum(np.convolve(np.pad((gap + gap[::-1]) / 2, 1, mode="edge"), [0.25, 0.5, 0.25], "valid"), 0)
        x = result[:, 0]
        away = result[:, 1] - np.interp(x, columns, (middle + middle[::-1]) / 2)
        fade = np.clip((0.0265 - np.abs(x)) / 0.003, 0, 1)
        amount = 0.5 * np.interp(x, columns, gap) * near * fade * np.exp(-((away / REACH) ** 2))
        result[:, 1] += side * amount
    return result
