# SPDX-License-Identifier: GPL-3.0-or-later
"""The UV layout of the skin: one chart without fold-overs, solved once and kept beside this file.

`python -m backend.head.uv_layout` solves it anew. Every texture generator is tied to the stored result by its
`layout_id`, so the stored file only ever changes together with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from backend.head.cage import PARTS, Cage, build_cage
from backend.head.regions import ZONES, quad_zones, skin_zones

LAYOUT_FILE = Path(__file__).with_name("uv_layout.npz")
OUTLINE_EXPONENT = 3.0
"""The neck loop lies on the superellipse |x|^n + |y|^n = 1 that fills the square."""
MARGIN = 1 / 256
"""Distance of the outline from the border of the square."""
AREA_SHARE = {
    "face": 0.66, "forehead": 0.08, "ear_left": 0.03, "ear_right": 0.03, "scalp": 0.08, "neck": 0.06,
    "mouth_bag": 0.016, "socket": 0.016, "nostril": 0.003,
}
"""Share of the occupied area that each zone is asked to take."""
STIFFNESS = {
    "face": 30.0, "forehead": 2.0, "ear_left": 6.0, "ear_right": 6.0, "scalp": 0.4, "neck": 0.6,
    "mouth_bag": 0.5, "socket": 0.5, "nostril": 4.0,
}
"""How much a zone's distortion counts, per area of the map."""
SMALL_TRIANGLES = 0.3
"""Exponent by which small triangles of the face (lids, wings of the nose) count more than their area."""
DETAIL = (((0.0315, 0.0, 0.017), 0.020, 0.7), ((0.0, -0.066, 0.045), 0.030, 0.4), ((0.0, -0.040, 0.045), 0.025, 0.3))
"""Places of the face (left side) that get more texels: centre, radius (metres), extra density."""


def layout_id(quads: np.ndarray, uv: np.ndarray) -> str:
    """sha256 over the skin's topology and UVs.

    Args:
        quads: (Qs, 4) quads of the skin.
        uv: (Vs, 2) UV per skin vertex.
    """
    digest = hashlib.sha256(b"ganfit-uv-layout-1")
    digest.update(np.ascontiguousarray(quads, "<i4").tobytes())
    digest.update(np.ascontiguousarray(uv, "<f4").tobytes())
    return digest.hexdigest()


def load_layout() -> tuple[np.ndarray, np.ndarray, str]:
    """The frozen layout: MakeHuman indices (Vs,) of the skin's vertices, UVs (Vs, 2) float32 with v up, layout id."""
    with np.load(LAYOUT_FILE, allow_pickle=False) as data:
        return data["makehuman_index"], data["uv"], str(data["layout_id"])


@dataclass(frozen=True)
class HalfDisc:
    """The subject's left half of the skin, with its own numbering."""

    index: np.ndarray  # (n,) vertex of the cage
    verts: np.ndarray  # (n, 3)
    quads: np.ndarray  # (q, 4)
    quad_zone: np.ndarray  # (q,)
    midline: np.ndarray  # (n,) bool
    neck: np.ndarray  # vertices of half the neck loop, from the throat to the nape


def half_disc(cage: Cage) -> HalfDisc:
    """Cut the symmetric skin along the midline and keep the subject's left half."""
    quads = cage.quads[cage.part == PARTS.index("skin")]
    zone = quad_zones(cage, skin_zones(cage))
    middle = cage.mirror == np.arange(len(cage.verts))
    keep = ((cage.verts[:, 0] > 0) | middle)[quads].all(1)
    index = np.unique(quads[keep])
    local = np.searchsorted(index, quads[keep])
    verts, midline = cage.verts[index], middle[index]
    edges, count = np.unique(np.sort(_edges(local), axis=1), axis=0, return_counts=True)
    rim = edges[(count == 1) & ~midline[edges].all(1)]
    return HalfDisc(index, verts, local, zone[keep], midline, _chain(rim, verts))


def _edges(quads: np.ndarray) -> np.ndarray:
    return np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)


def _chain(edges: np.ndarray, verts: np.ndarray) -> np.ndarray:
    """Order the edges of an open path, from its end that lies further to the front."""
    beside: dict[int, list[int]] = {}
    for a, b in edges.tolist():
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    start = max((v for v, n in beside.items() if len(n) == 1), key=lambda v: verts[v, 2])
    path = [start, beside[start][0]]
    while len(beside[path[-1]]) > 1:
        path.append(next(v for v in beside[path[-1]] if v != path[-2]))
    return np.array(path)


def outline(angle: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the chart's outline at polar angles (n,), inside the unit square."""
    cos, sin = np.cos(angle), np.sin(angle)
    radius = (0.5 - MARGIN) * (np.abs(cos) ** OUTLINE_EXPONENT + np.abs(sin) ** OUTLINE_EXPONENT) ** (
        -1 / OUTLINE_EXPONENT
    )
    return np.stack([0.5 + radius * cos, 0.5 + radius * sin], axis=-1)


class Energy:
    """Symmetric Dirichlet energy of the half chart against a reference with the wanted texel density.

    Smith & Schaefer 2015, eq. 4: |J|^2 + |J^-1|^2 per triangle. All four corner triangles of each quad are used,
    so a finite energy means convex quads, and those stay positively oriented when they are split bilinearly.
    """

    def __init__(self, half: HalfDisc) -> None:
        q = half.quads
        self.tri = np.concatenate([np.roll(q, -k, axis=1)[:, :3] for k in range(4)])
        zone = np.tile(half.quad_zone, 4)
        x = half.verts[self.tri]
        first, second = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
        length = np.linalg.norm(first, axis=1)
        along = (first * second).sum(1) / length
        across = np.sqrt(np.maximum((second**2).sum(1) - along**2, 1e-12))
        area = 0.5 * length * across
        density = _density(x, area, zone)
        scale = np.sqrt(density)
        reference = np.zeros((len(x), 2, 2))
        reference[:, 0, 0], reference[:, 0, 1], reference[:, 1, 1] = length * scale, along * scale, across * scale
        self.inverse = np.linalg.inv(reference)
        small = np.where(zone == ZONES.index("face"), np.clip((np.median(area) / area) ** SMALL_TRIANGLES, 0.5, 5), 1)
        self.weight = area * density * small * np.array([STIFFNESS[name] for name in ZONES])[zone]
        corner = np.stack([-self.inverse.sum(1), self.inverse[:, 0], self.inverse[:, 1]], axis=1)  # (T, 3, 2)
        self.operator = np.zeros((len(x), 4, 6))  # vec(J) = operator @ (u0, v0, u1, v1, u2, v2)
        for vertex in range(3):
            for axis in range(2):
                self.operator[:, 2 * axis: 2 * axis + 2, 2 * vertex + axis] = corner[:, vertex]

    def jacobians(self, uv: np.ndarray) -> np.ndarray:
        """(T, 2, 2) of the map from the reference to uv (n, 2)."""
        corners = uv[self.tri]
        return np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=-1) @ self.inverse

    def value(self, uv: np.ndarray) -> float:
        """The energy; infinite when a triangle is flipped."""
        jacobian = self.jacobians(uv)
        determinant = np.linalg.det(jacobian)
        if (determinant <= 0).any():
            return np.inf
        return float((self.weight * (jacobian**2).sum((1, 2)) * (1 + 1 / determinant**2)).sum())

    def derivatives(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (T, 6) and positive semi-definite Hessian (T, 6, 6) per triangle in its corners' coordinates."""
        jacobian = self.jacobians(uv)
        d = np.linalg.det(jacobian)
        f = jacobian.reshape(-1, 4)
        g = f[:, [3, 2, 1, 0]] * np.array([1, -1, -1, 1])  # gradient of the determinant
        square = (f**2).sum(1)
        gradient = 2 * f * (1 + 1 / d**2)[:, None] - (2 * square / d**3)[:, None] * g
        mixed = f[:, :, None] * g[:, None]
        curl = np.fliplr(np.diag([1.0, -1.0, -1.0, 1.0]))
        hessian = (
            (2 + 2 / d**2)[:, None, None] * np.eye(4)
            - (4 / d**3)[:, None, None] * (mixed + mixed.transpose(0, 2, 1))
            + (6 * square / d**4)[:, None, None] * (g[:, :, None] * g[:, None])
            - (2 * square / d**3)[:, None, None] * curl
        )
        value, vector = np.linalg.eigh(hessian)
        value = np.maximum(value, 1e-9 * value[:, -1:])
        hessian = (vector * value[:, None]) @ vector.transpose(0, 2, 1) * self.weight[:, None, None]
        transposed = self.operator.transpose(0, 2, 1)
        return (transposed @ (gradient * self.weight[:, None])[..., None])[..., 0], transposed @ hessian @ self.operator


def _density(corners: np.ndarray, area: np.ndarray, zone: np.ndarray) -> np.ndarray:
    """Wanted map area per surface area of every corner triangle, from AREA_SHARE and the face's DETAIL."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    centre = corners.mean(1)
    density = np.ones(len(corners))
    face = zone == ZONES.index("face")
    density[face] = 0.8 + np.clip(normal[face, 2], 0, 1)
    for place, radius, extra in DETAIL:
        density[face] += extra * np.exp(-((centre[face] - place) ** 2).sum(1) / radius**2)
    share = np.array([AREA_SHARE[name] for name in ZONES])
    wanted = share / share.sum()
    for i in np.unique(zone):
        name = ZONES[i]
        half = 1.0 if name in ("ear_left", "ear_right") else 0.5
        mine = zone == i
        # Each quad is counted twice by its four corner triangles.
        density[mine] *= 2 * half * wanted[i] / (density[mine] * area[mine]).sum()
    return density


def _tutte(half: HalfDisc, angle: np.ndarray) -> np.ndarray:
    """Convex combination map (Tutte 1963): no fold-overs, since the half chart's border is convex."""
    count = len(half.verts)
    edges = np.unique(np.sort(_edges(half.quads), axis=1), axis=0)
    both = np.concatenate([edges, edges[:, ::-1]]).T
    weight = sp.coo_matrix((np.ones(len(both[0])), both), shape=(count, count)).tocsr()
    laplacian = (sp.diags(np.asarray(weight.sum(1)).ravel()) - weight).tocsr()
    uv = np.full((count, 2), 0.5)
    uv[half.neck] = outline(angle)
    uv[half.neck[[0, -1]], 0] = 0.5
    for axis in range(2):
        fixed = np.zeros(count, bool)
        fixed[half.neck] = True
        if axis == 0:
            fixed |= half.midline
        inner = laplacian[~fixed]
        uv[~fixed, axis] = sla.spsolve(inner[:, ~fixed].tocsc(), -inner[:, fixed] @ uv[fixed, axis])
    return uv


def _first_flip(jacobian: np.ndarray, step: np.ndarray) -> float:
    """Smallest t > 0 at which det(jacobian + t step) vanishes in a triangle (T, 2, 2), infinity if none."""
    a, c = np.linalg.det(step), np.linalg.det(jacobian)
    b = np.linalg.det(jacobian + step) - a - c
    root = b * b - 4 * a * c
    sure = root >= 0
    q = -0.5 * (b + np.where(b >= 0, 1, -1) * np.sqrt(np.where(sure, root, 0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.concatenate([(q / a)[sure], (c / q)[sure]])
    times = times[np.isfinite(times) & (times > 0)]
    return float(times.min()) if len(times) else np.inf


@dataclass(frozen=True)
class Chart:
    """A state of the solver: UVs of the half disc, and the polar angles of its neck loop on the outline."""

    uv: np.ndarray  # (n, 2)
    angle: np.ndarray  # (k,)

    def moved(self, half: HalfDisc, step: np.ndarray, slide: np.ndarray, length: float) -> Chart:
        """The chart after `length` times a step (n, 2); the neck goes by `slide` (k,) along the outline."""
        angle = self.angle + length * slide
        uv = self.uv + length * step
        uv[half.neck[1:-1]] = outline(angle)[1:-1]
        return Chart(uv, angle)


class Newton:
    """Projected Newton steps on the free coordinates: midline vertices keep u, neck vertices keep to the outline."""

    def __init__(self, half: HalfDisc, energy: Energy) -> None:
        self.half, self.energy = half, energy
        free = np.ones((len(half.verts), 2), bool)
        free[half.midline, 0] = False
        free[half.neck, 1] = False
        free[half.neck[[0, -1]]] = False
        self.free = free.ravel()
        number = np.where(self.free, np.cumsum(self.free) - 1, -1)
        self.dofs = (energy.tri[:, :, None] * 2 + np.arange(2)).reshape(-1, 6)
        rows, cols = number[np.repeat(self.dofs, 6, axis=1)].ravel(), number[np.tile(self.dofs, 6)].ravel()
        self.used = (rows >= 0) & (cols >= 0)
        self.rows, self.cols = rows[self.used], cols[self.used]

    def _frames(self, chart: Chart) -> np.ndarray:
        """(n, 2, 2) axes of every vertex: u and v, but tangent and normal of the outline on the neck."""
        frame = np.tile(np.eye(2), (len(chart.uv), 1, 1))
        tangent = (outline(chart.angle + 1e-6) - outline(chart.angle - 1e-6))[1:-1] / 2e-6
        frame[self.half.neck[1:-1]] = np.stack([tangent, tangent[:, ::-1] * [-1, 1]], axis=-1)
        return frame

    def step(self, chart: Chart) -> tuple[np.ndarray, np.ndarray, float]:
        """Step (n, 2) of the UVs, slide (k,) of the neck's angles, and the energy's slope along them."""
        frame = self._frames(chart)
        gradient, hessian = self.energy.derivatives(chart.uv)
        turn = np.zeros((len(gradient), 6, 6))
        for k in range(3):
            turn[:, 2 * k: 2 * k + 2, 2 * k: 2 * k + 2] = frame[self.energy.tri[:, k]]
        turned = turn.transpose(0, 2, 1)
        slope = np.bincount(self.dofs.ravel(), (turned @ gradient[..., None]).ravel(), chart.uv.size)[self.free]
        entries = (turned @ hessian @ turn).ravel()[self.used]
        matrix = sp.coo_matrix((entries, (self.rows, self.cols)), shape=(len(slope),) * 2).tocsc()
        local = np.zeros(chart.uv.size)
        local[self.free] = -sla.spsolve(matrix, slope, permc_spec="MMD_AT_PLUS_A")
        descent = float(slope @ local[self.free])
        local = local.reshape(-1, 2)
        slide = np.zeros(len(self.half.neck))
        slide[1:-1] = local[self.half.neck[1:-1], 0]
        return np.einsum("nij,nj->ni", frame, local), slide, descent


def solve(half: HalfDisc, iterations: int = 200, tolerance: float = 1e-9) -> np.ndarray:
    """Minimise the energy from Tutte's embedding by Newton steps that never flip a triangle.

    Returns: UVs (n, 2) float64 of the half disc.
    """
    energy = Energy(half)
    newton = Newton(half, energy)
    angle = np.linspace(-np.pi / 2, np.pi / 2, len(half.neck))
    chart = Chart(_tutte(half, angle), angle)
    now = energy.value(chart.uv)
    for _ in range(iterations):
        step, slide, descent = newton.step(chart)
        length = min(1.0, 0.9 * _first_flip(energy.jacobians(chart.uv), energy.jacobians(step)))
        trial = chart.moved(half, step, slide, length)
        while energy.value(trial.uv) > now + 1e-4 * length * descent and length > 1e-12:
            length *= 0.6
            trial = chart.moved(half, step, slide, length)
        before, chart, now = now, trial, energy.value(trial.uv)
        if before - now < tolerance * now and length > 0.5:
            break
    return chart.uv


def full_layout(cage: Cage, half: HalfDisc, uv_half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the half chart: MakeHuman indices (Vs,) and UVs (Vs, 2) float32 of all skin vertices."""
    skin = cage.part_vertices("skin")
    uv = np.zeros((len(cage.verts), 2))
    uv[cage.mirror[half.index]] = uv_half * [-1, 1] + [1, 0]
    uv[half.index] = uv_half
    return cage.makehuman_index[skin], uv[skin].astype(np.float32)


def draw(cage: Cage, uv: np.ndarray, path: Path, size: int = 1024) -> None:
    """Picture of the chart (PNG): quads coloured by zone."""
    from PIL import Image, ImageDraw

    colours = ("#d8402c", "#e0c040", "#30c050", "#20a080", "#909090", "#7088c8", "#2828d0", "#8028d0", "#ff00ff")
    image = Image.new("RGB", (size, size), "#101010")
    pen = ImageDraw.Draw(image)
    points = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1) * size
    skin = cage.quads[cage.part == PARTS.index("skin")]
    for quad, zone in zip(skin, quad_zones(cage, skin_zones(cage)), strict=True):
        pen.polygon([tuple(points[i]) for i in quad], fill=colours[zone], outline="white")
    image.save(path)


def main() -> None:
    """Solve the layout and write `uv_layout.npz` and a picture of it."""
    cage = build_cage()
    half = half_disc(cage)
    index, uv = full_layout(cage, half, solve(half))
    name = layout_id(cage.quads[cage.part == PARTS.index("skin")], uv)
    np.savez_compressed(LAYOUT_FILE, makehuman_index=index.astype(np.int32), uv=uv, layout_id=np.array(name))
    draw(cage, uv, Path("uv_layout.png"))
    print(f"{LAYOUT_FILE}: layout_id {name}; picture in uv_layout.png")


if __name__ == "__main__":
    main()
