# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers our head to another surface: similarity and basis coefficients by point-to-plane ICP, then a smooth free
form.

The statistical part follows Amberg et al., "Expression Invariant 3D Face Recognition with a Morphable Model" (2008);
the free form is a linearised variant of "Optimal Step Nonrigid ICP" (Amberg et al., CVPR 2007) with a bi-Laplacian
on the displacement. All lengths are metres, all arrays float64 numpy; the surface that is compared is the subdivided
one (`evaluate @ cage`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from backend.head.model import HeadModel


# ----------------------------------------------------------------------------------------------------------- geometry
def quads_to_triangles(quads: np.ndarray) -> np.ndarray:
    """Triangles (T, 3) of quads (Q, 4); a triangle stored as a quad repeats its last index and gives one triangle."""
    tri = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return tri[(tri[:, 0] != tri[:, 1]) & (tri[:, 1] != tri[:, 2]) & (tri[:, 0] != tri[:, 2])]


def vertex_normals(verts: np.ndarray, tris: np.ndarray) -> np.ndarray:
    """Unit area-weighted vertex normals (V, 3)."""
    face = np.cross(verts[tris[:, 1]] - verts[tris[:, 0]], verts[tris[:, 2]] - verts[tris[:, 0]])
    corners = sp.csr_matrix(
        (np.ones(tris.size), (tris.ravel(), np.repeat(np.arange(len(tris)), 3))), (len(verts), len(tris))
    )
    normals = corners @ face
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def boundary_vertices(tris: np.ndarray, count: int) -> np.ndarray:
    """Mask (count,) of the vertices on edges that only one triangle has."""
    edges = np.sort(np.concatenate([tris[:, [0, 1]], tris[:, [1, 2]], tris[:, [2, 0]]]).astype(np.int64), axis=1)
    unique, times = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
    mask = np.zeros(count, bool)
    mask[unique[times == 1] // count] = True
    mask[unique[times == 1] % count] = True
    return mask


def similarity(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, scale: bool = True
) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted least-squares (s, R, t) with s * a @ R.T + t ~ b (Umeyama 1991); a, b: (N, 3)."""
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    mean_a, mean_b = w @ a, w @ b
    u, d, vt = np.linalg.svd(((b - mean_b) * w[:, None]).T @ (a - mean_a))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    s = float((d * sign).sum() / (w @ ((a - mean_a) ** 2).sum(1))) if scale else 1.0
    return s, rotation, mean_b - s * rotation @ mean_a


def closest_on_triangles(points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentric weights (..., 3) of the points of triangles abc closest to `points` (Ericson 2005, section 5.1.5)."""
    dot = lambda x, y: np.einsum("...i,...i->...", x, y)  # noqa: E731
    safe = lambda x: np.where(np.abs(x) < 1e-30, 1e-30, x)  # noqa: E731
    ab, ac, ap, bp, cp = b - a, c - a, points - a, points - b, points - c
    d1, d2, d3, d4, d5, d6 = dot(ab, ap), dot(ac, ap), dot(ab, bp), dot(ac, bp), dot(ab, cp), dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    v, w = vb / safe(va + vb + vc), vc / safe(va + vb + vc)
    t = (d4 - d3) / safe((d4 - d3) + (d5 - d6))
    edge = (va <= 0) & (d4 >= d3) & (d5 >= d6)
    v, w = np.where(edge, 1 - t, v), np.where(edge, t, w)
    edge = (vb <= 0) & (d2 >= 0) & (d6 <= 0)
    v, w = np.where(edge, 0, v), np.where(edge, d2 / safe(d2 - d6), w)
    edge = (vc <= 0) & (d1 >= 0) & (d3 <= 0)
    v, w = np.where(edge, d1 / safe(d1 - d3), v), np.where(edge, 0, w)
    for corner, (x, y) in (
        ((d6 >= 0) & (d5 <= d6), (0, 1)),
        ((d3 >= 0) & (d4 <= d3), (1, 0)),
        ((d1 <= 0) & (d2 <= 0), (0, 0)),
    ):
        v, w = np.where(corner, x, v), np.where(corner, y, w)
    return np.stack([1 - v - w, v, w], -1)


class SurfaceIndex:
    """Closest points, normals and boundary flags of a triangle surface.

    Candidates are the triangles at the `k` nearest sample points (every triangle holds its centroid, long ones
    more), so an answer is exact up to badly shaped neighbours; that is what an ICP needs.
    """

    def __init__(
        self, verts: np.ndarray, tris: np.ndarray, max_edge: float = 0.006, boundary: np.ndarray | None = None
    ) -> None:
        self.verts, self.tris = np.asarray(verts, float), np.asarray(tris)
        corners = self.verts[self.tris]
        self.face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.face_normals /= np.maximum(np.linalg.norm(self.face_normals, axis=1, keepdims=True), 1e-20)
        self.normals = vertex_normals(self.verts, self.tris)
        self.boundary = boundary_vertices(self.tris, len(verts))[self.tris].any(1) if boundary is None else boundary
        samples, owner = self._samples(corners, max_edge)
        self.tree, self.owner = cKDTree(samples), owner

    @staticmethod
    def _samples(corners: np.ndarray, max_edge: float) -> tuple[np.ndarray, np.ndarray]:
        """Sample points: centroids, and for long triangles a grid of sub-centroids."""
        length = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        parts = np.clip(np.ceil(length / max_edge).astype(int), 1, 8)
        points, owner = [], []
        for n in np.unique(parts):
            ids = np.flatnonzero(parts == n)
            i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
            keep = (i + j) < n
            grid = np.stack([i[keep], j[keep]], 1) + 1 / 3
            if n > 1:
                flipped = (i + j) < n - 1
                grid = np.concatenate([grid, np.stack([i[flipped], j[flipped]], 1) + 2 / 3])
            bary = np.concatenate([1 - grid.sum(1, keepdims=True) / n, grid / n], 1)
            points.append(np.einsum("gk,tkd->tgd", bary, corners[ids]).reshape(-1, 3))
            owner.append(np.repeat(ids, len(bary)))
        return np.concatenate(points), np.concatenate(owner)

    def closest(self, points: np.ndarray, k: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Closest surface points (N, 3), their triangles (N,), barycentric weights (N, 3) and distances (N,)."""
        candidates = self.owner[self.tree.query(points, min(k, len(self.owner)))[1].reshape(len(points), -1)]
        corners = self.verts[self.tris[candidates]]
        bary = closest_on_triangles(points[:, None], corners[:, :, 0], corners[:, :, 1], corners[:, :, 2])
        found = np.einsum("nkc,nkcd->nkd", bary, corners)
        distance = np.linalg.norm(found - points[:, None], axis=2)
        best, rows = distance.argmin(1), np.arange(len(points))
        return found[rows, best], candidates[rows, best], bary[rows, best], distance[rows, best]

    def normals_at(self, tris: np.ndarray, bary: np.ndarray) -> np.ndarray:
        """Interpolated unit normals (N, 3)."""
        n = np.einsum("nk,nkd->nd", bary, self.normals[self.tris[tris]])
        return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-20)


# ------------------------------------------------------------------------------------------------------- the template
@dataclass
class Template:
    """What is registered: a head as a linear model over cage vertices, and the surface that is compared.

    mean: (V0, 3) metres. modes: (K, V0, 3) metres per sigma (K may be 0). evaluate: sparse (V1, V0), subdivision.
    tris: (T, 3) triangles of the evaluated surface to compare (skin that can be seen from outside). weights: (V1,)
    >= 0, trust in each evaluated vertex. smoothness: sparse (R, V0) operator whose square penalises the free form
    (see `smoothness`).
    """

    mean: np.ndarray
    modes: np.ndarray
    evaluate: sp.csr_matrix
    tris: np.ndarray
    weights: np.ndarray
    smoothness: sp.csr_matrix
    evaluated_modes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.used = np.unique(self.tris)
        self.used = self.used[self.weights[self.used] > 0]
        flat = self.modes.transpose(1, 2, 0).reshape(len(self.mean), -1)
        self.boundary = boundary_vertices(self.tris, self.evaluate.shape[0])[self.tris].any(1)
        self.evaluated_modes = (self.evaluate @ flat).reshape(self.evaluate.shape[0], 3, len(self.modes))

    def cage(self, coefficients: np.ndarray) -> np.ndarray:
        """Cage vertices (V0, 3) for coefficients (K,)."""
        return self.mean + np.tensordot(coefficients, self.modes, 1)


@dataclass
class Registration:
    """Result of `register`: cage in the template's and in the target's frame, the transform between them, residuals.

    target = scale * template @ rotation.T + translation. `distance` (V1,): unsigned distance of the evaluated
    vertices to the target surface, metres in the target's frame, NaN where a vertex was not compared.
    """

    cage: np.ndarray
    coefficients: np.ndarray
    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    distance: np.ndarray

    def to_target(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the template's frame in the target's frame."""
        return self.scale * points @ self.rotation.T + self.translation

    @property
    def cage_in_target(self) -> np.ndarray:
        """Registered cage (V0, 3) in the target's frame."""
        return self.to_target(self.cage)


def smoothness(quads: np.ndarray, outer: np.ndarray, membrane: float = 0.5) -> sp.csr_matrix:
    """Operator (R, V) whose square penalises a displacement field of the cage.

    On the outer skin (mask (V,)): the uniform graph Laplacian, so that the field bends little. Inside (mouth, sockets,
    nostrils, which no scan shows): differences along edges, so that the inside moves with its rim and does not swing
    out.
    """
    count = len(outer)
    edges = np.concatenate([quads[:, [0, 1]], quads[:, [1, 2]], quads[:, [2, 3]], quads[:, [3, 0]]])
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    i, j = edges.T
    adjacency = sp.csr_matrix((np.ones(2 * len(edges)), (np.r_[i, j], np.r_[j, i])), (count, count))
    degree = np.asarray(adjacency.sum(1)).ravel()
    bend = sp.diags(np.where(degree > 0, 1.0, 1e-3)) - sp.diags(1 / np.maximum(degree, 1)) @ adjacency
    inner = edges[~outer[edges].all(1)]
    rows = np.repeat(np.arange(len(inner)), 2)
    stretch = sp.csr_matrix((np.tile([membrane, -membrane], len(inner)), (rows, inner.ravel())), (len(inner), count))
    return sp.vstack([sp.diags(outer.astype(float)) @ bend, stretch]).tocsr()


# ---------------------------------------------------------------------------------------------------- correspondences
@dataclass
class _Matches:
    """Linear constraints `normal . (rows @ surface - point) = 0` with weights, in the template's frame."""

    rows: sp.csr_matrix
    points: np.ndarray
    normals: np.ndarray
    weights: np.ndarray


@dataclass
class _Target:
    """The target surface in its own frame, and the similarity that takes the template there."""

    index: SurfaceIndex
    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def to_template(self, points: np.ndarray) -> np.ndarray:
        return (points - self.translation) @ self.rotation / self.scale

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For points of the template's frame: closest points, normals and distances there, and boundary flags."""
        found, tri, bary, distance = self.index.closest(self.scale * points @ self.rotation.T + self.translation)
        normals = self.index.normals_at(tri, bary) @ self.rotation
        return self.to_template(found), normals, distance / self.scale, self.index.boundary[tri]

    def move(self, turn: np.ndarray, shift: np.ndarray, grow: float) -> None:
        """Moves the target's points by x -> exp(grow) R(turn) x + shift in the template's frame."""
        self.rotation = self.rotation @ Rotation.from_rotvec(turn).as_matrix().T
        self.scale = float(self.scale / np.exp(grow))
        self.translation = self.translation - self.scale * self.rotation @ shift


def _robust(distance: np.ndarray, scale: float) -> np.ndarray:
    """Geman-McClure weights, 1 at zero distance and 1/4 at `scale`."""
    return 1.0 / (1.0 + (distance / scale) ** 2) ** 2


def _forward(template: Template, surface: np.ndarray, target: _Target, ids: np.ndarray, scale: float) -> _Matches:
    """Matches from evaluated vertices `ids` to the target."""
    normals = vertex_normals(surface, template.tris)[ids]
    points, target_normals, distance, boundary = target.closest(surface[ids])
    agree = np.einsum("nd,nd->n", normals, target_normals)
    weights = template.weights[ids] * _robust(distance, scale) * np.clip((agree - 0.3) / 0.5, 0, 1) * ~boundary
    rows = sp.csr_matrix((np.ones(len(ids)), (np.arange(len(ids)), ids)), (len(ids), len(surface)))
    return _Matches(rows, points, target_normals, weights)


def _backward(template: Template, surface: np.ndarray, target: _Target, ids: np.ndarray, scale: float) -> _Matches:
    """Matches from target vertices `ids` to the template's surface; they pull it out of valleys."""
    source = SurfaceIndex(surface, template.tris, boundary=template.boundary)
    points, normals = target.to_template(target.index.verts[ids]), target.index.normals[ids] @ target.rotation
    _, tri, bary, distance = source.closest(points)
    agree = np.einsum("nd,nd->n", source.normals_at(tri, bary), normals)
    columns = template.tris[tri]
    trust = np.einsum("nk,nk->n", template.weights[columns], bary)
    weights = trust * _robust(distance, scale) * np.clip((agree - 0.3) / 0.5, 0, 1) * ~source.boundary[tri]
    rows = sp.csr_matrix((bary.ravel(), (np.repeat(np.arange(len(ids)), 3), columns.ravel())), (len(ids), len(surface)))
    return _Matches(rows, points, normals, weights)


def _matches(
    template: Template,
    surface: np.ndarray,
    target: _Target,
    scale: float,
    both: bool,
    forward: np.ndarray,
    backward: np.ndarray,
) -> _Matches:
    """Forward and, if asked, backward matches stacked; the backward ones count for half."""
    one = _forward(template, surface, target, forward, scale)
    if not both:
        return one
    two = _backward(template, surface, target, backward, scale)
    return _Matches(
        sp.vstack([one.rows, two.rows]).tocsr(),
        np.concatenate([one.points, two.points]),
        np.concatenate([one.normals, two.normals]),
        np.concatenate([one.weights, 0.5 * two.weights]),
    )


# ------------------------------------------------------------------------------------------------------------ solving
def _statistical_step(
    template: Template,
    match: _Matches,
    surface: np.ndarray,
    coefficients: np.ndarray,
    ridge: float,
    landmarks: tuple[sp.csr_matrix, np.ndarray, float] | None,
    free_scale: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """One Gauss-Newton step: new coefficients and the motion (rotation vector, translation, log scale) of the
    target."""
    count = len(coefficients)
    rows, points, normals, weights = match.rows, match.points, match.normals, match.weights
    jacobian = np.einsum(
        "nd,ndk->nk",
        normals,
        (rows @ template.evaluated_modes.reshape(len(surface), -1)).reshape(len(points), 3, count),
    )
    residual = np.einsum("nd,nd->n", rows @ surface - points, normals)
    rigid = -np.concatenate([np.cross(points, normals), normals, np.einsum("nd,nd->n", points, normals)[:, None]], 1)
    full = np.concatenate([jacobian, rigid], 1)
    hessian, gradient = full.T @ (weights[:, None] * full), full.T @ (weights * residual)
    if landmarks is not None:
        lm_rows, lm_points, lm_weight = landmarks
        lm_modes = (lm_rows @ template.evaluated_modes.reshape(len(surface), -1)).reshape(-1, count)
        cross = np.stack([np.cross(lm_points, axis) for axis in np.eye(3)], 1).reshape(-1, 3)
        lm_rigid = -np.concatenate([cross, np.tile(np.eye(3), (len(lm_points), 1)), lm_points.reshape(-1, 1)], 1)
        lm_full = np.concatenate([lm_modes, lm_rigid], 1)
        hessian += lm_weight * lm_full.T @ lm_full
        gradient += lm_weight * lm_full.T @ (lm_rows @ surface - lm_points).ravel()
    prior = np.r_[np.full(count, ridge), np.full(7, 1e-12)]
    if not free_scale:
        prior[-1] = 1e6
    step = -np.linalg.solve(hessian + np.diag(prior), gradient + prior * np.r_[coefficients, np.zeros(7)])
    return coefficients + step[:count], step[count : count + 3], step[count + 3 : count + 6], float(step[-1])


def _free_form_step(
    template: Template,
    match: _Matches,
    cage: np.ndarray,
    base: np.ndarray,
    stiffness: float,
    landmarks: tuple[sp.csr_matrix, np.ndarray, float] | None,
    point_weight: float,
) -> np.ndarray:
    """New cage: `base` plus the smoothest displacement that meets the matches (sparse normal equations over x, y, z).

    The residual across the normal counts with `point_weight` (some is needed to keep the triangulation from drifting).
    """
    count = len(cage)
    selector = (match.rows @ template.evaluate).tocsr()
    start = selector @ base
    blocks: list[list[Any]] = [[None] * 3 for _ in range(3)]
    right = np.zeros((3, count))
    smooth = stiffness * (template.smoothness.T @ template.smoothness)
    metric = (
        np.einsum("ni,nj->nij", match.normals, match.normals) * (1 - point_weight) + point_weight * np.eye(3)
    ) * match.weights[:, None, None]
    pull = np.einsum("nij,nj->ni", metric, match.points - start)
    for i in range(3):
        right[i] = selector.T @ pull[:, i]
        for j in range(i, 3):
            block = selector.T @ sp.diags(metric[:, i, j]) @ selector
            blocks[i][j] = block
            blocks[j][i] = block if i == j else block.T
        blocks[i][i] = blocks[i][i] + smooth + sp.diags(np.full(count, 1e-9))
    if landmarks is not None:
        lm_rows, lm_points, lm_weight = landmarks
        lm_selector = (lm_rows @ template.evaluate).tocsr()
        for i in range(3):
            blocks[i][i] = blocks[i][i] + lm_weight * (lm_selector.T @ lm_selector)
            right[i] += lm_weight * (lm_selector.T @ (lm_points - lm_selector @ base)[:, i])
    system = sp.bmat(blocks, format="csc")
    order = np.arange(3 * count).reshape(3, count).T.ravel()
    solution = splu(
        system[order][:, order], permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0
    ).solve(right.ravel()[order])
    return base + solution.reshape(count, 3)


def register(
    template: Template,
    target_verts: np.ndarray,
    target_tris: np.ndarray,
    *,
    landmarks: tuple[sp.csr_matrix, np.ndarray] | None = None,
    landmark_weight: float = 1.0,
    start: tuple[float, np.ndarray, np.ndarray] | None = None,
    iterations: int = 30,
    ridge: tuple[float, float] = (1e-7, 1e-9),
    reach: tuple[float, float] = (0.03, 0.004),
    both: bool = True,
    free_scale: bool = True,
    free_form: tuple[float, ...] = (),
    point_weight: float = 0.05,
    samples: int = 4000,
    seed: int = 0,
) -> Registration:
    """Registers the template to a target surface.

    target_verts (N, 3) metres, target_tris (M, 3). landmarks: (rows (L, V1) sparse that pick points of the evaluated
    surface, target points (L, 3)); their weight falls from `landmark_weight` (times the number of matches per
    landmark) to a tenth. start: (s, R, t) with target ~ s * template @ R.T + t; else from the landmarks, else the
    frames are taken as equal. ridge: prior weight on coefficients in square metres per match (first, last
    iteration); reach: distance in metres at which a match has a quarter of its weight. free_form: stiffness of each
    non-rigid step, falling, e.g. (30, 10, 3, 1); empty: none.
    """
    rng = np.random.default_rng(seed)
    if start is None and landmarks is not None:
        start = similarity(landmarks[0] @ (template.evaluate @ template.mean), landmarks[1])
    target = _Target(
        SurfaceIndex(target_verts, target_tris), *(start if start is not None else (1.0, np.eye(3), np.zeros(3)))
    )
    forward = _sample(template.used, samples, rng)
    backward = _sample(np.unique(target_tris), samples, rng)
    coefficients = np.zeros(len(template.modes))
    for step in range(iterations):
        phase = step / max(iterations - 1, 1)
        surface = template.evaluate @ template.cage(coefficients)
        match = _matches(template, surface, target, _between(reach, phase), both and step % 2 == 1, forward, backward)
        total = match.weights.sum()
        pulled = (
            None
            if landmarks is None
            else (
                landmarks[0],
                target.to_template(landmarks[1]),
                landmark_weight * _between((1.0, 0.1), phase) * total / len(landmarks[1]),
            )
        )
        coefficients, turn, shift, grow = _statistical_step(
            template, match, surface, coefficients, _between(ridge, phase) * total, pulled, free_scale
        )
        target.move(turn, shift, grow)
    cage = base = template.cage(coefficients)
    for stiffness in free_form:
        match = _matches(
            template, template.evaluate @ cage, target, reach[1], both, template.used, np.unique(target_tris)
        )
        total = match.weights.sum() / len(template.used)
        pulled = (
            None if landmarks is None else (landmarks[0], target.to_template(landmarks[1]), landmark_weight * total)
        )
        cage = _free_form_step(template, match, cage, base, stiffness * total, pulled, point_weight)
    distance = np.full(template.evaluate.shape[0], np.nan)
    distance[template.used] = target.scale * target.closest((template.evaluate @ cage)[template.used])[2]
    return Registration(cage, coefficients, target.scale, target.rotation, target.translation, distance)


def _between(ends: tuple[float, float], phase: float) -> float:
    """Geometric interpolation between two positive numbers."""
    return float(ends[0] * (ends[1] / ends[0]) ** phase)


def _sample(ids: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` of the ids, drawn without replacement."""
    return ids if len(ids) <= count else rng.choice(ids, count, replace=False)


# -------------------------------------------------------------------------------------------------------------- scans
SCAN_RIDGE = (3e-7, 3e-9)
SCAN_REACH = (0.015, 0.003)
SCAN_FREE_FORM = (100.0, 30.0, 10.0, 3.0)
HAIR_TRUST = 0.05
"""Trust in the scalp of a scan: hair is in the way, so it must not shape the face, and the free form stays smooth
there."""


def register_scan(
    verts: np.ndarray,
    faces: np.ndarray,
    landmarks: np.ndarray | None,
    head: HeadModel,
    free_form: tuple[float, ...] = SCAN_FREE_FORM,
) -> np.ndarray:
    """Brings our head to a scan: cage (V0, 3) in the scan's frame and unit, float64; all parts, skin registered.

    verts (N, 3), faces (M, 3): the scan's skin, +Y up, +Z towards the face. landmarks: (68, 3) iBUG or (468, 3)
    MediaPipe points on the scan, NaN where unknown; without them the scan must be in metres with the origin between
    the eyes. The scalp counts little (hair). Eyes, teeth, tongue and lashes move with the skin around them.
    """
    from backend.head.stat import skin_of_head, template_of, whole_cage

    skin = skin_of_head(head)
    modes = head.identity.cpu().numpy().astype(float)[:, : len(skin.verts)]
    template = template_of(skin, skin.verts, modes, HAIR_TRUST)
    pairs = None if landmarks is None else _landmark_pairs(head, np.asarray(landmarks, float), template)
    unit = 1.0 if pairs is None else similarity(pairs[0] @ (template.evaluate @ template.mean), pairs[1])[0]
    fitted = register(
        template,
        np.asarray(verts, float) / unit,
        np.asarray(faces),
        ridge=SCAN_RIDGE,
        reach=SCAN_REACH,
        landmarks=None if pairs is None else (pairs[0], pairs[1] / unit),
        landmark_weight=0.1,
        iterations=40,
        free_form=free_form,
    )
    whole = whole_cage(skin, fitted.cage)
    moved = fitted.cage[skin.face].mean(0) - whole[: len(skin.verts)][skin.face].mean(0)
    return unit * fitted.to_target(whole + moved)


def _landmark_pairs(head: HeadModel, points: np.ndarray, template: Template) -> tuple[sp.csr_matrix, np.ndarray]:
    """Rows (L, V1) over the skin's level-1 vertices and the points (L, 3) that are known."""
    from backend.head.subdivision import subdivide

    which = {68: "68", 468: "468"}[len(points)]
    tri, weight = head.landmark_tri[which].cpu().numpy(), head.landmark_weight[which].cpu().numpy()
    quads = head.quads[head.quad_part == 0].cpu().numpy()
    corners = subdivide(quads, len(template.mean)).triangles  # the skin's faces come first, so the numbers agree
    known = np.isfinite(points).all(1) & (tri >= 0) & (tri < len(corners))
    rows = np.repeat(np.arange(known.sum()), 3)
    shape = (int(known.sum()), template.evaluate.shape[0])
    return sp.csr_matrix((weight[known].ravel(), (rows, corners[tri[known]].ravel())), shape), points[known]
