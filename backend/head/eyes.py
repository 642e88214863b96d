# SPDX-License-Identifier: GPL-3.0-or-later
"""Eyeballs: a sphere with a cornea, its rings aligned with the borders of pupil, iris and limbus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEGMENTS = 20
IRIS_RADIUS = 0.00585
"""Half of the mean visible iris diameter of adults, 11.7 mm."""
PUPIL_RADIUS = 0.00175
CORNEA_BULGE = 0.0006
"""How far the cornea's top stands out of the sphere; more would pierce MakeHuman's closed lids."""
CORNEA_RADIUS = 1.15 * IRIS_RADIUS
SCLERA_ANGLES = (29, 38, 50, 68, 95, 135)
"""Angles from the optical axis (degrees) of the sclera's rings behind the limbus."""
RINGS = (
    (0.55 * PUPIL_RADIUS, {"pupil": 1.0}), (0.93 * PUPIL_RADIUS, {"pupil": 1.0}), (1.10 * PUPIL_RADIUS, {"iris": 1.0}),
    (0.55 * IRIS_RADIUS, {"iris": 1.0}), (0.80 * IRIS_RADIUS, {"iris": 1.0}),
    (0.93 * IRIS_RADIUS, {"iris": 0.5, "limbus": 0.5}), (0.99 * IRIS_RADIUS, {"limbus": 0.8, "sclera": 0.2}),
    (1.06 * IRIS_RADIUS, {"sclera": 1.0}), (1.2 * IRIS_RADIUS, {"sclera": 1.0}),
)
"""Rings around the pole: distance from the optical axis (metres) and colours."""
GAZE = {"Up": 14.0, "Down": 18.0, "In": 26.0, "Out": 26.0}
"""Degrees that an eyeLook unit turns the eye at weight 1. MakeHuman's face units turn by 10 to 15 degrees only, too
little for the sideways glances of photos; the lids keep MakeHuman's motion."""


@dataclass(frozen=True)
class Eyeball:
    """A left eye around the origin, looking along +Z; the right eye is its mirror image, vertex by vertex."""

    verts: np.ndarray  # (n, 3)
    quads: np.ndarray  # (q, 4)
    uv: np.ndarray  # (n, 2): the pole in the middle, distance proportional to the angle from it
    palette: np.ndarray  # (n, P)


def eyeball(radius: float, palette_names: tuple[str, ...]) -> Eyeball:
    """An eyeball whose subdivided surface has the given radius (metres)."""
    axial = [r for r, _ in RINGS] + [radius * np.sin(np.radians(a)) for a in SCLERA_ANGLES]
    angle = [np.arcsin(r / radius) for r, _ in RINGS] + list(np.radians(SCLERA_ANGLES))
    axial, angle = np.array([0.0, *axial, 0.0]), np.array([0.0, *angle, np.pi])
    bulge = CORNEA_BULGE * np.clip(1 - (axial / CORNEA_RADIUS) ** 2, 0, None) ** 2 * (angle < np.pi / 2)
    height = radius * np.cos(angle) + bulge
    turn = np.arange(SEGMENTS) * 2 * np.pi / SEGMENTS
    around = np.stack([np.cos(turn), np.sin(turn)], axis=1)

    flat = (axial[1:-1, None, None] * around).reshape(-1, 2)
    rings = np.concatenate([flat, np.repeat(height[1:-1], SEGMENTS)[:, None]], axis=1)
    target = np.concatenate([[[0, 0, height[0]]], rings, [[0, 0, height[-1]]]])
    uv = 0.5 + 0.5 * np.repeat(angle[1:-1] / np.pi, SEGMENTS)[:, None] * np.tile(around, (len(axial) - 2, 1))
    uv = np.concatenate([[[0.5, 0.5]], uv, [[0.5, 0.0]]])
    colours = [RINGS[0][1], *(colour for _, colour in RINGS)] + [{"sclera": 1.0}] * (len(SCLERA_ANGLES) + 1)
    weights = np.array([[c.get(name, 0.0) for name in palette_names] for c in colours])
    palette = np.concatenate([weights[:1], np.repeat(weights[1:-1], SEGMENTS, axis=0), weights[-1:]])
    quads = _quads(len(axial) - 2)
    return Eyeball(_interpolating_cage(target, quads), quads, uv, palette)


def _quads(rings: int) -> np.ndarray:
    """Faces of pole, rings and pole, outward; the caps' triangles repeat their last index."""
    here = np.arange(SEGMENTS)
    there = (here + 1) % SEGMENTS
    last = 1 + rings * SEGMENTS
    faces = [np.stack([np.zeros_like(here), 1 + here, 1 + there, 1 + there], axis=1)]
    for ring in range(rings - 1):
        a, b = 1 + ring * SEGMENTS, 1 + (ring + 1) * SEGMENTS
        faces.append(np.stack([a + here, b + here, b + there, a + there], axis=1))
    a = last - SEGMENTS
    faces.append(np.stack([a + here, np.full_like(here, last), a + there, a + there], axis=1))
    return np.concatenate(faces)


def _interpolating_cage(target: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Cage whose level-1 vertex points lie on `target`, since subdivision draws a convex cage inwards."""
    count = len(target)
    from backend.head.subdivision import subdivide  # with scipy, which landmarks of a cached head do without

    smooth = subdivide(quads, count).smooth[:count]
    cage = target.copy()
    for _ in range(30):
        cage += target - smooth @ cage
    return cage


def gaze_delta(verts: np.ndarray, direction: str, side: str) -> np.ndarray:
    """Displacement (n, 3) of an eye's vertices about its centre for eyeLook{direction}{side} at weight 1."""
    angle = np.radians(GAZE[direction])
    outward = 1.0 if side == "Left" else -1.0
    sin, cos = np.sin(angle), np.cos(angle)
    if direction in ("Up", "Down"):
        rise = sin if direction == "Up" else -sin
        rotation = np.array([[1, 0, 0], [0, cos, rise], [0, -rise, cos]])
    else:
        aside = outward * (sin if direction == "Out" else -sin)
        rotation = np.array([[cos, 0, aside], [0, 1, 0], [-aside, 0, cos]])
    return verts @ rotation.T - verts
