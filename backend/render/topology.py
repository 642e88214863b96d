# SPDX-License-Identifier: GPL-3.0-or-later
"""What a triangle list says about neighbourhood: edge adjacency and the faces around each vertex."""

from __future__ import annotations

import numpy as np


def edge_adjacency(tri: np.ndarray) -> np.ndarray:
    """Across which edge of which triangle each edge is shared.

    Args:
        tri: (T, 3) vertex indices. Edge k of a triangle lies opposite to its vertex k.

    Returns:
        (T, 3) int32: 3 * other triangle + its edge; -1 where an edge belongs to one triangle, or to more than two.
    """
    tri = np.asarray(tri, dtype=np.int64)
    ends = np.stack([tri[:, [1, 2]], tri[:, [2, 0]], tri[:, [0, 1]]], axis=1).reshape(-1, 2)
    ends.sort(axis=1)
    key = ends[:, 0] * (tri.max(initial=0) + 1) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    pairs = starts[np.diff(np.r_[starts, len(ordered)]) == 2]
    adjacent = np.full(len(key), -1, dtype=np.int32)
    adjacent[order[pairs]] = order[pairs + 1]
    adjacent[order[pairs + 1]] = order[pairs]
    return adjacent.reshape(-1, 3)


def incident_faces(tri: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray]:
    """The faces around each vertex as a compressed list.

    Returns:
        first: (V + 1,) int32 and incident: (3T,) int32; vertex i's faces are incident[first[i]:first[i + 1]],
        ascending.
    """
    corners = np.asarray(tri, dtype=np.int64).reshape(-1)
    order = np.argsort(corners, kind="stable")
    first = np.zeros(vertex_count + 1, dtype=np.int32)
    np.cumsum(np.bincount(corners, minlength=vertex_count), out=first[1:])
    return first, (order // 3).astype(np.int32)
