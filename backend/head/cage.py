# SPDX-License-Identifier: GPL-3.0-or-later
"""The control cage of the head: MakeHuman's skin and the parts around it, in metres and GLB axes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.assets import require
from backend.head import makehuman
from backend.head.eyes import GAZE, eyeball, gaze_delta
from backend.head.lashes import ROWS, lash_uv, place, strand
from backend.head.parts import PALETTE_NAMES, PARTS
from backend.head.teeth import HELPERS, affine_motion, tooth_row

TONGUE_SCALE = (0.85, 0.68, 0.95)
TONGUE_BACK = 0.004
SMALLEST_LID_MOTION = 1e-5
"""Face units that move a lid by less than this (metres) leave its lashes alone."""
MEAN_INTERPUPILLARY = 0.063
"""Metres between the mean adult's pupils; MakeHuman's mean adult has 57.8 mm, so the head is scaled by it."""


@dataclass(frozen=True)
class Part:
    """One part of the head before it is stacked; `motion` rows follow the same order as the directions."""

    name: str
    verts: np.ndarray  # (n, 3)
    quads: np.ndarray  # (q, 4) into verts
    uv: np.ndarray  # (n, 2) in the part's own map
    palette: np.ndarray  # (n, P) weights of PALETTE_NAMES
    corner_uv_makehuman: np.ndarray  # (q, 4, 2)
    makehuman_index: np.ndarray  # (n,), -1 where the vertex is ours
    identity: np.ndarray  # (D, n, 3)
    expression: np.ndarray  # (52, n, 3)
    mirror: np.ndarray  # (n,) within the part; for an eye: within the other eye


@dataclass(frozen=True)
class Cage:
    """The stacked cage. Metres, +Y up, +Z towards the viewer, +X the subject's left, origin between the eyes."""

    verts: np.ndarray  # (V, 3) float64, MakeHuman's mean young adult
    quads: np.ndarray  # (Q, 4) int32
    part: np.ndarray  # (Q,) uint8 into PARTS
    vertex_part: np.ndarray  # (V,) uint8 into PARTS
    uv: np.ndarray  # (V, 2) float32, each part's own map in [0, 1]; zeros on the skin, whose UVs are the frozen layout
    palette_weights: np.ndarray  # (V, P) float32, weights of PALETTE_NAMES; zeros on the skin
    corner_uv_makehuman: np.ndarray  # (Q, 4, 2) float32, v up
    makehuman_index: np.ndarray  # (V,) int32, -1 where the vertex is ours
    mirror: np.ndarray  # (V,) int32
    identity_names: tuple[str, ...]  # D names, e.g. "nose/nose-scale-horiz-incr"
    identity: np.ndarray  # (D, V, 3) float32, metres per unit of the slider, as MakeHuman has them (rigid motion in)
    expression_names: tuple[str, ...]  # 52 ARKit names, sorted
    expression: np.ndarray  # (52, V, 3) float32, metres at weight 1

    def part_vertices(self, name: str) -> np.ndarray:
        """Sorted vertex indices of one part."""
        return np.unique(self.quads[self.part == PARTS.index(name)])


def sphere_fit(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares sphere through points (n, 3): centre (3,) and radius."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    centre = solution[:3]
    return centre, float(np.sqrt(solution[3] + centre @ centre))


def _group_vertices(base: makehuman.BaseMesh, *groups: str) -> np.ndarray:
    return np.unique(base.quads[np.isin(base.group, groups)])


def _copied_part(name: str, base: makehuman.BaseMesh, faces: np.ndarray, verts: np.ndarray,
                 identity: np.ndarray, expression: np.ndarray) -> Part:
    """A part that takes its faces (F,) bool from MakeHuman as they are."""
    index = np.unique(base.quads[faces])
    quads, corner_uv = np.searchsorted(index, base.quads[faces]), base.uv[base.uv_quads[faces]]
    uv = np.zeros((len(index), 2))
    uv[quads] = corner_uv
    palette = np.zeros((len(index), len(PALETTE_NAMES)))
    if name != "skin":
        palette[:, PALETTE_NAMES.index({"eye_left": "sclera", "eye_right": "sclera"}.get(name, name))] = 1
    return Part(
        name, verts[index], quads, uv, palette, corner_uv,
        index, identity[:, index], expression[:, index], np.searchsorted(index, base.mirror[index]),
    )


def build_cage(folder: Path | None = None) -> Cage:
    """Build the cage from MakeHuman's files (2 to 3 seconds).

    Args:
        folder: holds `mpfb2/` and `faceunits01/`; by default the installed asset `makehuman`.
    """
    folder = folder or require("makehuman")
    base = makehuman.read_base(folder)
    count = len(base.verts)
    mean, directions = makehuman.read_identity(folder, count)
    units = makehuman.read_expressions(folder, count)
    verts = base.verts + mean

    left, right = (sphere_fit(verts[_group_vertices(base, f"helper-{side}-eye")])[0] for side in "lr")
    scale = MEAN_INTERPUPILLARY / np.linalg.norm(left - right)
    verts = (verts - (left + right) / 2) * scale
    skin = makehuman.head_faces(base)
    head = np.unique(base.quads[skin])
    names = tuple(n for n, d in directions.items() if np.abs(d[head]).max() * scale > makehuman.SMALLEST_DIRECTION)
    identity = np.stack([directions[n] for n in names]) * scale
    expression = np.stack(list(units.values())) * scale
    parts = _build_parts(base, skin, verts, identity, expression, tuple(units))
    return _stack(parts, names, tuple(units))


def _build_parts(base: makehuman.BaseMesh, skin: np.ndarray, verts: np.ndarray, identity: np.ndarray,
                 expression: np.ndarray, expression_names: tuple[str, ...]) -> list[Part]:
    parts = [_copied_part("skin", base, skin, verts, identity, expression)]
    parts += [_eye(base, side, verts, identity, expression_names) for side in ("Left", "Right")]
    parts.append(_teeth(base, verts, identity, expression))
    parts.append(_lowered(_copied_part("tongue", base, base.group == "helper-tongue", verts, identity, expression)))
    parts.append(_lashes(base, verts, identity, expression))
    return parts


def _lowered(tongue: Part) -> Part:
    """MakeHuman's tongue fills the mouth: make it flatter and narrower and lay it between the lower teeth."""
    low, front = tongue.verts.min(0)[1], tongue.verts.max(0)[2]
    verts = (tongue.verts - [0, low, front]) * TONGUE_SCALE + [0, low, front - TONGUE_BACK]
    return dataclasses.replace(tongue, verts=verts)


def _teeth(base: makehuman.BaseMesh, verts: np.ndarray, identity: np.ndarray, expression: np.ndarray) -> Part:
    """Our teeth in the place of MakeHuman's, whose motion each row follows as a whole."""
    rows, moves, motions = [], [], []
    for group, jaw in HELPERS:
        helper = _group_vertices(base, group)
        row = tooth_row(jaw, verts)
        rows.append(row)
        moves.append(affine_motion(verts[helper], identity[:, helper], row.verts))
        motions.append(affine_motion(verts[helper], expression[:, helper], row.verts))
    first = len(rows[0].verts)
    uv, gums = np.concatenate([r.uv for r in rows]), np.concatenate([r.gums for r in rows])
    quads = np.concatenate([rows[0].quads, rows[1].quads + first])
    palette = np.zeros((len(uv), len(PALETTE_NAMES)))
    palette[:, PALETTE_NAMES.index("gums")] = gums
    palette[:, PALETTE_NAMES.index("teeth")] = 1 - gums
    return Part(
        "teeth", np.concatenate([r.verts for r in rows]), quads, uv, palette, uv[quads], np.full(len(uv), -1),
        np.concatenate(moves, axis=1), np.concatenate(motions, axis=1),
        np.concatenate([rows[0].mirror, rows[1].mirror + first]),
    )


def _lashes(base: makehuman.BaseMesh, verts: np.ndarray, identity: np.ndarray, expression: np.ndarray) -> Part:
    """Both eyes' lashes: they move with the margin's vertices, and in the face units they turn with the lids."""
    eyes = [sphere_fit(verts[_group_vertices(base, f"helper-{side}-eye")])[0] for side in "lr"]
    rows = [(strand(row, mirror), eye) for mirror, eye in ((None, eyes[0]), (base.mirror, eyes[1])) for row in ROWS]
    start = np.cumsum([0] + [len(row.weights) for row, _ in rows])
    moves = [row.weights @ identity[:, row.vertices].mean(1) for row, _ in rows]
    neutral = [place(row, verts, eye) for row, eye in rows]
    motion = np.zeros((len(expression), start[-1], 3))
    for unit, delta in enumerate(expression):
        for i, (row, eye) in enumerate(rows):
            if np.abs(delta[row.vertices]).max() > SMALLEST_LID_MOTION:
                motion[unit, start[i]: start[i + 1]] = place(row, verts + delta, eye) - neutral[i]
    quads = np.concatenate([row.quads + first for (row, _), first in zip(rows, start, strict=False)])
    uv = lash_uv([row for row, _ in rows])
    palette = np.zeros((start[-1], len(PALETTE_NAMES)))
    palette[:, PALETTE_NAMES.index("lashes")] = 1
    half = start[len(ROWS)]
    mirror = np.roll(np.arange(start[-1]), half)
    return Part(
        "lashes", np.concatenate(neutral), quads, uv, palette, uv[quads], np.full(start[-1], -1),
        np.concatenate(moves, axis=1), motion, mirror,
    )


def _eye(base: makehuman.BaseMesh, side: str, verts: np.ndarray, identity: np.ndarray,
         expression_names: tuple[str, ...]) -> Part:
    """Our eyeball in the place of MakeHuman's helper eye, whose moves and growth it follows."""
    helper = _group_vertices(base, f"helper-{side[0].lower()}-eye")
    centre, radius = sphere_fit(verts[helper])
    ball = eyeball(radius, PALETTE_NAMES)
    flip = np.array([1 if side == "Left" else -1, 1, 1])
    local = ball.verts * flip
    quads = ball.quads if side == "Left" else ball.quads[:, [0, 3, 2, 1]]
    if side == "Right":  # a triangle repeats its last index
        quads = np.where((ball.quads[:, 2] == ball.quads[:, 3])[:, None], ball.quads[:, [0, 2, 1, 1]], quads)
    around = verts[helper] - centre
    move = identity[:, helper].mean(1)
    growth = np.einsum("dnc,nc->d", identity[:, helper] - move[:, None], around) / (around**2).sum()
    gaze = np.zeros((len(expression_names), len(local), 3))
    for direction in GAZE:
        gaze[expression_names.index(f"eyeLook{direction}{side}")] = gaze_delta(local, direction, side)
    uv = ball.uv if side == "Left" else ball.uv * [-1, 1] + [1, 0]
    return Part(
        f"eye_{side.lower()}", centre + local, quads, uv, ball.palette, uv[quads], np.full(len(local), -1),
        move[:, None] + growth[:, None, None] * local, gaze, np.arange(len(local)),
    )


def _stack(parts: list[Part], identity_names: tuple[str, ...], expression_names: tuple[str, ...]) -> Cage:
    """Stack the parts in the order of PARTS; an eye's mirror lies in the other eye."""
    assert tuple(part.name for part in parts) == PARTS
    counts = [len(part.verts) for part in parts]
    start = np.concatenate([[0], np.cumsum(counts)])
    home = {"eye_left": "eye_right", "eye_right": "eye_left"}
    mirror = [start[PARTS.index(home.get(p.name, p.name))] + p.mirror for p in parts]
    return Cage(
        verts=np.concatenate([p.verts for p in parts]),
        quads=np.concatenate([p.quads + s for p, s in zip(parts, start, strict=False)]).astype(np.int32),
        part=np.concatenate([np.full(len(p.quads), i) for i, p in enumerate(parts)]).astype(np.uint8),
        vertex_part=np.concatenate([np.full(n, i) for i, n in enumerate(counts)]).astype(np.uint8),
        uv=np.concatenate([p.uv for p in parts]).astype(np.float32),
        palette_weights=np.concatenate([p.palette for p in parts]).astype(np.float32),
        corner_uv_makehuman=np.concatenate([p.corner_uv_makehuman for p in parts]).astype(np.float32),
        makehuman_index=np.concatenate([p.makehuman_index for p in parts]).astype(np.int32),
        mirror=np.concatenate(mirror).astype(np.int32),
        identity_names=identity_names,
        identity=np.concatenate([p.identity for p in parts], axis=1).astype(np.float32),
        expression_names=expression_names,
        expression=np.concatenate([p.expression for p in parts], axis=1).astype(np.float32),
    )
