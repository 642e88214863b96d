# SPDX-License-Identifier: GPL-3.0-or-later
"""One level of Catmull-Clark subdivision as fixed sparse matrices over the cage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Subdivision:
    """Level 1 of a cage. Its vertices are the V0 cage vertices, then one per edge, then one per face."""

    smooth: sp.csr_matrix  # (V1, V0) Catmull-Clark positions
    linear: sp.csr_matrix  # (V1, V0) mid-points, for UVs and other attributes
    quads: np.ndarray  # (Q1, 4) int32; the children of a face follow each other, one per corner
    parent: np.ndarray  # (Q1,) cage face of each
    edges: np.ndarray  # (E, 2) vertices of the edge points, sorted

    @property
    def triangles(self) -> np.ndarray:
        """(2 Q1, 3) int32; quad i gives triangles 2i (corners 0, 1, 2) and 2i + 1 (corners 0, 2, 3)."""
        return self.quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def subdivide(quads: np.ndarray, count: int) -> Subdivision:
    """Catmull & Clark 1978 with the boundary as a cubic B-spline, as Blender's Subdivision Surface modifier has it
    (level 1, limit surface off, boundary smooth "All").

    Args:
        quads: (Q, 4) cage faces; a triangle repeats its last index.
        count: number of cage vertices V0.
    """
    sides = np.where(quads[:, 2] == quads[:, 3], 3, 4)
    face = np.repeat(np.arange(len(quads)), sides)
    slot = np.concatenate([np.arange(4)] * len(quads)).reshape(-1, 4)
    used = slot < sides[:, None]
    corner = quads[used]
    following = quads[np.arange(len(quads))[:, None], (slot + 1) % sides[:, None]][used]
    edges, edge = np.unique(np.sort(np.stack([corner, following], 1), axis=1), axis=0, return_inverse=True)
    edge = edge.ravel()

    def matrix(rows: np.ndarray, cols: np.ndarray, values: np.ndarray | float, shape: tuple[int, int]) -> sp.csr_matrix:
        return sp.csr_matrix((np.broadcast_to(values, rows.shape), (rows, cols)), shape=shape)

    face_points = matrix(face, corner, 1 / sides[face], (len(quads), count))
    ends = matrix(np.repeat(np.arange(len(edges)), 2), edges.ravel(), 0.5, (len(edges), count))
    edge_faces = matrix(edge, face, 1.0, (len(edges), len(quads)))
    border = np.asarray(edge_faces.sum(1)).ravel() == 1
    inner_edge = 0.5 * ends + 0.25 * edge_faces @ face_points
    edge_points = sp.diags(border.astype(float)) @ ends + sp.diags((~border).astype(float)) @ inner_edge

    vertex_faces = matrix(corner, face, 1.0, (count, len(quads)))
    vertex_edges = matrix(edges.ravel(), np.repeat(np.arange(len(edges)), 2), 1.0, (count, len(edges)))
    valence = np.asarray(vertex_faces.sum(1)).ravel()
    on_border = vertex_edges @ border.astype(float) > 0
    n = np.where(on_border, 1, valence)
    inner = sp.diags(1 / n**2) @ (vertex_faces @ face_points) + sp.diags(2 / n**2) @ (vertex_edges @ ends)
    inner = inner + sp.diags((n - 3) / n)
    outer = 0.5 * sp.identity(count) + 0.5 * (vertex_edges @ sp.diags(border * 0.5) @ ends)
    keep = on_border.astype(float)
    vertex_points = sp.diags(keep) @ outer + sp.diags(1 - keep) @ inner

    first_edge, first_face = count, count + len(edges)
    position = np.cumsum(sides) - sides
    index_in_face = np.arange(len(corner)) - position[face]
    before = edge[position[face] + (index_in_face - 1) % sides[face]]
    children = np.stack([corner, first_edge + edge, first_face + face, first_edge + before], axis=1)
    return Subdivision(
        smooth=sp.csr_matrix(sp.vstack([vertex_points, edge_points, face_points])),
        linear=sp.csr_matrix(sp.vstack([sp.identity(count), ends, face_points])),
        quads=children.astype(np.int32),
        parent=face.astype(np.int32),
        edges=edges.astype(np.int32),
    )


def subdivision_matrix(quads: np.ndarray, count: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Catmull-Clark matrix (V1, V0) and level-1 quads (Q1, 4) of a cage, see `subdivide`."""
    fine = subdivide(quads, count)
    return fine.smooth, fine.quads
