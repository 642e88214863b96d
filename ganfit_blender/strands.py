# SPDX-License-Identifier: GPL-3.0-or-later
"""Grows the strands of a haircut on a head: roots inside the hairline, a flow over the skull, clumps; numpy alone.

Lengths are metres, axes Blender's: the head faces -Y, Z is up, its left is +X. Strands are grown step by step: each
step follows the flow of the cut along the skull, keeps the height over it that the cut wants, and never enters it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Signed distances (N,) to the head of points (N, 3), below 0 inside, and their gradients (N, 3) of length 1."""


@dataclass(frozen=True)
class Cut:
    """A haircut. Lengths in metres, shares 0 to 1.

    Attributes:
        top, sides: length of the hair on top, and low at the sides and the nape.
        steps: of a strand; it has one point more.
        height: over the skull, that the middle of the hair wants.
        rise: slope at which it rises from the skin.
        flow: name of the direction field, one of FLOWS.
        gravity: share by which a strand is drawn down over its length.
        clump: how much tips draw together; clumps: strands in each.
        frizz: sideways wandering of a strand, metres.
        end: height above (below 0: under) the eyes at which the hair is cut off; None: nowhere.
        radius: of a strand at its root.
        part: place of the parting, of the head's half width to its left.
        loose: how far strands stray from the flow.
        backward: how much hair beside a parting goes backwards.
    """

    top: float
    sides: float
    steps: int
    height: float
    rise: float
    flow: str
    gravity: float = 0.0
    clump: float = 0.3
    clumps: int = 30
    frizz: float = 0.0005
    end: float | None = None
    radius: float = 0.00006
    part: float = 0.0
    loose: float = 0.22
    backward: float = 0.35


CUTS = {
    "buzz": Cut(0.007, 0.0035, 3, 0.005, 0.8, "whorl", clump=0.0, frizz=0.0004, radius=0.000055),
    "short": Cut(0.040, 0.011, 8, 0.022, 1.3, "swept", gravity=0.1, clump=0.5, clumps=20, frizz=0.0015),
    "back": Cut(0.085, 0.024, 10, 0.018, 1.3, "back", gravity=0.05, clump=0.45, clumps=40, frizz=0.0012),
    "side": Cut(0.075, 0.018, 10, 0.017, 1.2, "part", gravity=0.1, clump=0.45, clumps=40, frizz=0.0012, part=0.45),
    "bob": Cut(0.270, 0.170, 16, 0.026, 1.0, "part", gravity=0.5, clump=0.5, clumps=60, frizz=0.0025, end=-0.105,
               part=0.35, loose=0.1, backward=0.12),
}


@dataclass(frozen=True)
class Skull:
    """What the flow and the hairline are measured by.

    Attributes:
        verts: (V, 3), triangles: (T, 3), uv: (T, 3, 2) of the head's skin.
        inside: (V,) metres inside the hairline, below 0 outside.
        centre: (3,) of the skull; radius: of the sphere nearest to the scalp.
        whorl: (3,) where the hair turns, on the crown.
        face: height of the scalp over the eyes, which other measures are taken in proportion to.
    """

    verts: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    inside: np.ndarray
    centre: np.ndarray
    radius: float
    whorl: np.ndarray
    face: float


@dataclass(frozen=True)
class Strands:
    """(N, K, 3) points, root first; (N, K) radii; (N, 2) the roots' places in the UV map."""

    points: np.ndarray
    radii: np.ndarray
    uv: np.ndarray


CLEAR_M, CLEAR_FAR_M = 0.001, 0.005
FACE_M = 0.114
"""Height of a usual scalp over the eyes: measures of the hairline below are for such a head."""
LOWER_M = 0.009  # the hair begins so much outside the scalp's mask, which was drawn for a shade
BURN_M, BURN_WIDE_M, BURN_LONG_M = 0.020, 0.011, 0.030
TEMPLE_M = 0.007
SOFT_M = 0.007
"""Sideburns before the ears, the recess of the temples, the width over which the hairline thins out."""


def measure(verts: np.ndarray, quads: np.ndarray, corner_uv: np.ndarray, scalp: np.ndarray, ears: np.ndarray) -> Skull:
    """The skull of a head.

    Args:
        verts: (V, 3); quads: (F, 4) vertex indices; corner_uv: (F, 4, 2).
        scalp, ears: (V,) masks.
    """
    order = [[0, 1, 2], [0, 2, 3]]
    triangles, uv = quads[:, order].reshape(-1, 3), corner_uv[:, order].reshape(-1, 3, 2)
    hair = verts[scalp > 0.5]
    system = np.column_stack([2 * hair, np.ones(len(hair))])
    solution, *_ = np.linalg.lstsq(system.astype(np.float64), (hair**2).sum(1), rcond=None)
    centre = np.array([0.0, solution[1], solution[2]])
    radius = float(np.linalg.norm(hair - centre, axis=1).mean())
    face = float(hair[:, 2].max())
    turn = np.array([0.12, 0.62, 0.78])
    whorl = centre + radius * turn / np.linalg.norm(turn)
    inside = _hairline(verts, triangles, scalp, ears, face / FACE_M)
    return Skull(verts, triangles, uv, inside, centre, radius, whorl, face)


def _hairline(verts: np.ndarray, triangles: np.ndarray, scalp: np.ndarray, ears: np.ndarray, size: float) -> np.ndarray:
    """(V,) metres inside a natural hairline: the mask's edge, lower, with sideburns and temples; none on the ears."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    a, b = scalp[edges[:, 0]], scalp[edges[:, 1]]
    crossing = (a > 0.5) & (b <= 0.5)
    share = ((a - 0.5) / np.where(crossing, a - b, 1))[crossing, None]
    rim = verts[edges[crossing, 0]] * (1 - share) + verts[edges[crossing, 1]] * share
    away = np.full(len(verts), np.inf)
    for start in range(0, len(verts), 1024):
        part = slice(start, start + 1024)
        away[part] = np.sqrt(((verts[part, None] - rim[None]) ** 2).sum(-1).min(1))
    inside = np.where(scalp > 0.5, away, -away) + LOWER_M * size
    x, y, z = np.abs(verts[:, 0]), verts[:, 1], verts[:, 2]
    if (ears > 0.5).any():
        ear = verts[ears > 0.5]
        front, top = ear[:, 1].min(), ear[:, 2].max()
        burn = np.exp(-(((y - front + 0.004 * size) / (BURN_WIDE_M * size)) ** 2))
        burn *= np.exp(-(((z - top - 0.004 * size) / (BURN_LONG_M * size)) ** 4))
        inside += BURN_M * size * burn
    temple = np.exp(-(((x - 0.046 * size) / (0.016 * size)) ** 2) - ((y - 0.012 * size) / (0.02 * size)) ** 2)
    inside -= TEMPLE_M * size * temple
    return np.where(ears > 0.5, -1.0, inside)


def grow(skull: Skull, field: Field, cut: Cut, count: int, length: float, seed: int) -> Strands:
    """A haircut of about `count` strands (fewer where the hairline thins out); `length` scales the cut's own."""
    rng = np.random.default_rng(seed)
    roots, uv, inside = _roots(skull, count, rng)
    size = skull.face / FACE_M
    edge = _smooth(inside, 0.0, 0.018 * size)
    lengths = length * size * _lengths(skull, cut, roots) * (0.45 + 0.55 * edge) * rng.uniform(0.75, 1.0, len(roots))
    strays = rng.random(len(roots)) < 0.03
    points = _march(skull, field, cut, roots, lengths, size, strays, rng)
    points = _clumped(skull, cut, points, rng)
    points = _outside(field, points, lengths)
    if cut.end is not None:
        points = _cut_off(points, size * (cut.end + rng.normal(0, 0.006, len(roots))))
    along = np.linspace(0, 1, cut.steps + 1)
    taper = 1 - 0.75 * along**2
    radii = cut.radius * (0.65 + 0.35 * edge)[:, None] * taper
    return Strands(points.astype(np.float32), radii.astype(np.float32), uv.astype(np.float32))


def _roots(skull: Skull, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (N, 3) spread by area inside the hairline, their UVs (N, 2), how far inside they lie (N,)."""
    soft = SOFT_M * skull.face / FACE_M
    near = (skull.inside[skull.triangles] > -soft).any(1) & (skull.inside[skull.triangles] > -0.5).all(1)
    triangles, uv = skull.triangles[near], skull.uv[near]
    corner = skull.verts[triangles]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    chosen = rng.choice(len(triangles), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - u, u * (1 - v), u * v], 1)[..., None]
    roots, places = (weights * corner[chosen]).sum(1), (weights * uv[chosen]).sum(1)
    inside = (weights[..., 0] * skull.inside[triangles][chosen]).sum(1)
    inside += 0.0025 * wander(roots, 0.011, 3) + 0.0012 * wander(roots, 0.004, 4)
    kept = rng.random(count) < _smooth(inside, -0.3 * soft, soft) ** 1.5
    return roots[kept], places[kept], inside[kept]


def _lengths(skull: Skull, cut: Cut, roots: np.ndarray) -> np.ndarray:
    """(N,) from the sides' length at the ears to the top's at the crown's height."""
    up = (roots[:, 2] - skull.centre[2]) / skull.radius
    return cut.sides + (cut.top - cut.sides) * _smooth(up, 0.05, 0.85)


def _march(skull: Skull, field: Field, cut: Cut, roots: np.ndarray, lengths: np.ndarray, size: float,
           strays: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, K, 3) strands, step by step."""
    count = len(roots)
    flow = FLOWS[cut.flow]
    points = np.empty((count, cut.steps + 1, 3))
    points[:, 0] = place = roots
    step = (lengths / cut.steps)[:, None]
    front = _smooth((skull.centre[1] - roots[:, 1]) / skull.radius, 0.3, 0.9)
    full = (1 - 0.6 * _low(skull, roots)) * (1 + 0.35 * front)
    high = size * cut.height * full * rng.uniform(0.3, 1.0, count) * np.where(strays, 1.6, 1.0)
    high = np.minimum(high, 0.45 * lengths)
    way, twist = np.zeros((count, 3)), rng.normal(0, 1, (count, 3))
    for number in range(cut.steps):
        share = number / cut.steps
        distance, normal = field(place)
        along = flow(skull, cut, place) + cut.loose * (1 + 1.2 * strays)[:, None] * twist
        along = _unit(along - (along * normal).sum(1, keepdims=True) * normal)
        arc = lengths * (number + 1) / cut.steps
        wanted = np.minimum(high, cut.rise * arc) * (1 - 0.35 * share**2)
        climb = np.clip(0.8 * (wanted - distance) / np.maximum(step[:, 0], 1e-5), -0.6, 0.85)[:, None]
        new = np.sqrt(1 - climb**2) * along + climb * normal
        new[:, 2] -= cut.gravity * share
        way = _unit(new if number == 0 else 0.55 * new + 0.45 * way)
        place = place + step * way
        distance, normal = field(place)
        place = place + np.maximum(_clear(arc) - distance, 0)[:, None] * normal
        points[:, number + 1] = place
    along = np.linspace(0, 1, cut.steps + 1)[None, :, None]
    phase, turns = rng.uniform(0, 6.28, (count, 1, 3)), rng.uniform(1.5, 4.0, (count, 1, 3))
    return points + cut.frizz * size * along * np.sin(phase + turns * 3.14 * along)


def _clumped(skull: Skull, cut: Cut, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strands drawn to the nearest of some of them, more so towards the tip."""
    if not cut.clump or len(points) < 2 * cut.clumps:
        return points
    leaders = rng.choice(len(points), len(points) // cut.clumps, replace=False)
    place = points[:, min(2, cut.steps)] + 0.3 * (points[:, -1] - points[:, min(2, cut.steps)])
    nearest = np.empty(len(points), np.int64)
    for start in range(0, len(points), 2048):
        part = slice(start, start + 2048)
        squared = (place[part] ** 2).sum(1)[:, None] - 2 * place[part] @ place[leaders].T
        nearest[part] = (squared + (place[leaders] ** 2).sum(1)).argmin(1)
    leader = points[leaders][nearest]
    share = cut.clump * np.linspace(0, 1, points.shape[1]) ** 1.3
    share = share[None] * rng.uniform(0.3, 1.0, (len(points), 1))
    return points + share[..., None] * (leader - points)


def _clear(arc: np.ndarray) -> np.ndarray:
    """Metres that a strand keeps off the cage so far from its root: the smooth head that is shown lies a little beside
    it, and a strand moves with its root."""
    return np.minimum(CLEAR_M + 0.04 * arc, CLEAR_FAR_M)


def _outside(field: Field, points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Points pushed out of the head, all but the roots."""
    arc = lengths[:, None] * np.linspace(0, 1, points.shape[1])[None, 1:]
    flat = points[:, 1:].reshape(-1, 3)
    distance, normal = field(flat)
    flat = flat + np.maximum(_clear(arc.ravel()) - distance, 0)[:, None] * normal
    return np.concatenate([points[:, :1], flat.reshape(len(points), -1, 3)], 1)


def _cut_off(points: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Strands that end where they first come below a height (N,), with as many points as before."""
    count, amount = points.shape[:2]
    below = points[..., 2] < end[:, None]
    below[:, :2] = False
    first = np.where(below.any(1), below.argmax(1), amount - 1)
    upper, lower = points[np.arange(count), first - 1, 2], points[np.arange(count), first, 2]
    part = np.where(below.any(1), (upper - end) / np.maximum(upper - lower, 1e-9), 1.0)
    last = first - 1 + np.clip(part, 0, 1)
    place = np.linspace(0, 1, amount)[None] * last[:, None]
    low = np.minimum(place.astype(int), amount - 2)
    rest = (place - low)[..., None]
    rows = np.arange(count)[:, None]
    return points[rows, low] * (1 - rest) + points[rows, low + 1] * rest


def _from_whorl(skull: Skull, cut: Cut, place: np.ndarray) -> np.ndarray:
    """Away from the whorl, with a turn near it, and down at the sides and the back."""
    off = place - skull.whorl
    near = np.exp(-((np.linalg.norm(off, axis=1) / (0.35 * skull.radius)) ** 2))[:, None]
    way = _unit(off) + 0.9 * near * _unit(np.cross(skull.whorl - skull.centre, off))
    return way + _low(skull, place)[:, None] * np.array([0, 0.15, -0.8])


def _swept(skull: Skull, cut: Cut, place: np.ndarray) -> np.ndarray:
    """Like that of the whorl, but the front of the top goes to the side."""
    front = _smooth((skull.centre[1] - place[:, 1]) / skull.radius, -0.1, 0.8) * (1 - _low(skull, place))
    way = _unit(_from_whorl(skull, cut, place))
    aside = np.array([-1.0, -0.25, 0.05])
    return way * (1 - 0.75 * front)[:, None] + front[:, None] * aside


def _back(skull: Skull, cut: Cut, place: np.ndarray) -> np.ndarray:
    """Backwards, at the sides also down."""
    low, off = _low(skull, place), place - skull.centre
    way = np.stack([0.25 * off[:, 0] / skull.radius, np.ones(len(place)), -0.15 - 0.55 * low], 1)
    behind = _smooth(off[:, 1] / skull.radius, 0.3, 0.9)[:, None]
    return way * (1 - 0.6 * behind) + behind * np.array([0, 0.2, -1.0])


def _parted(skull: Skull, cut: Cut, place: np.ndarray) -> np.ndarray:
    """To both sides of a parting that runs from the forehead to the whorl, and a little backwards; then down."""
    off = (place - skull.centre) / skull.radius
    line = cut.part * _smooth(off[:, 1], 0.75, 0.2) if cut.part else np.zeros(len(place))
    side = np.tanh((off[:, 0] - line) / 0.04)
    behind, low = _smooth(off[:, 1], 0.1, 0.8), _low(skull, place)
    return np.stack([side * (1 - 0.75 * behind) * (1 - 0.7 * low), cut.backward * (1 + 0.9 * low - behind),
                     -0.25 - 0.9 * low - 0.8 * behind], 1)


FLOWS = {"whorl": _from_whorl, "swept": _swept, "back": _back, "part": _parted}


def _low(skull: Skull, place: np.ndarray) -> np.ndarray:
    """(N,) 0 on top of the skull, 1 at its sides."""
    return _smooth((place[:, 2] - skull.centre[2]) / skull.radius, 0.75, 0.15)


def wander(points: np.ndarray, length: float, seed: int) -> np.ndarray:
    """(N,) a smooth random function of place within [-1, 1]: a few waves of about that length."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(0, 1, (6, 3)) * (2 * np.pi / length / 1.7)
    return np.sin(points @ waves.T + rng.uniform(0, 6.28, 6)).mean(1) * 1.5


def _smooth(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at `low`, 1 at `high`, smooth between; `low` may be the larger."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
