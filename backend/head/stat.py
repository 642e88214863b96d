# SPDX-License-Identifier: GPL-3.0-or-later
"""The statistics of identity: bases on our topology whose mean and covariance are those of real people.

`python -m backend.head.stat calibrate --ict DIR [--scans DIR]` makes calibration.npz; loading needs neither.

Basis `makehuman`: MakeHuman's own directions (CC0), their principal components registered to heads drawn from
ICT-FaceKit's light-stage statistics (MIT, (c) 2020 USC ICT); a small set of smooth residual modes holds what
MakeHuman cannot express. Mean and covariance of the joint coefficients are folded into the basis: c = 0 is the mean
head and c ~ N(0, I). Basis `ict`: ICT-FaceKit's 100 modes carried over by registration (backend.head.ict).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from backend.errors import GanfitError
from backend.head.cage import sphere_fit
from backend.head.parts import PARTS
from backend.head.regions import ZONES, skin_zones
from backend.head.registration import Template, quads_to_triangles, similarity, smoothness, vertex_normals
from backend.head.subdivision import subdivide

if TYPE_CHECKING:
    from backend.head.cage import Cage
    from backend.head.ict import CarriedIct
    from backend.head.model import HeadModel

BASES = ("makehuman", "ict")
CALIBRATION = Path(__file__).with_name("calibration.npz")
INTERPUPILLARY = 0.063
"""Distance of the mean head's eyeball centres in metres (mean adult); identity is free of scale, the fit finds it."""

SLIDER_SIGMA = 0.15
"""Standard deviation of MakeHuman's sliders (full range 1): plausible heads; 0.3 gives caricatures."""
SLIDER_SIGMA_OF = {"asym": 0.05, "macro": 0.35}
"""The same for asymmetries (people are nearly symmetric) and for the macros of age, sex, ethnicity and weight."""
ZONE_WEIGHT = {"face": 1.0, "forehead": 1.0, "ear_left": 0.3, "ear_right": 0.3, "scalp": 0.4, "neck": 0.3}
"""Weight of the squared residual by zone of the skin when heads are registered; zones left out are hidden: 0."""
MAKEHUMAN_COMPONENTS = 140
RESIDUAL_COMPONENTS = 60
COMPONENTS = 150
"""Components that the drawn heads give; `backend.fit.people` adds one."""
HEADS = 400
DRAW_SIGMA = 1.0
TANGENTIAL = 0.15
"""Weight of the residual along the surface against the one across it."""
RIDGE = 0.02
"""Weight of MakeHuman's own prior (per component) when a head is registered: 1 / (residual in mm)^2 units, see
`_fit_head`."""
SHRINKAGE = 0.15
"""Share of MakeHuman's own prior in the calibrated covariance, for variation that the drawn heads do not show.
Measured on 12 registered avatars (mean distance on the face with 150 components under the prior): 0.416 mm with
0.02, 0.403 with 0.05, 0.386 with 0.15, 0.378 with 0.3; the 100 modes of ICT-FaceKit alone leave 0.435, MakeHuman's
140 components alone 0.574."""


# ----------------------------------------------------------------------------------------------------------- the skin
@dataclass(frozen=True)
class Skin:
    """What the statistics need to know of the head: the skin (the cage's first S vertices) and where the parts sit
    in it.

    verts (S, 3) metres of MakeHuman's mean adult, quads (Q, 4), tris, outer (S,) bool seen from outside, weights
    (S,) by zone, zone (S,) index into ZONES, face (S,) bool the region that fixes position, rotation and scale,
    lids: two index arrays, the rims of the sockets, eyes (2, 3) centres, whole (V0, 3) the whole cage, part (V0,)
    index into PARTS.
    """

    verts: np.ndarray
    quads: np.ndarray
    tris: np.ndarray
    outer: np.ndarray
    weights: np.ndarray
    zone: np.ndarray
    face: np.ndarray
    lids: tuple[np.ndarray, np.ndarray]
    eyes: np.ndarray
    whole: np.ndarray
    part: np.ndarray


def skin_of(cage: Cage, outer: np.ndarray) -> Skin:
    """The skin of MakeHuman's mean adult; outer: (S,) bool."""
    return _skin(cage.verts, cage.vertex_part, cage.quads[cage.part == 0], skin_zones(cage)[: len(outer)], outer)


def skin_of_head(head: HeadModel) -> Skin:
    """The skin of a head model's mean."""
    outer = load_calibration().outer
    masks = np.stack([head.regions[name].cpu().numpy()[: len(outer)] for name in ZONES])
    quads = head.quads[head.quad_part == 0].cpu().numpy()
    return _skin(head.verts0.cpu().numpy().astype(float), head.vertex_part.cpu().numpy(), quads, masks.argmax(0), outer)


def _skin(whole: np.ndarray, part: np.ndarray, quads: np.ndarray, zone: np.ndarray, outer: np.ndarray) -> Skin:
    verts = whole[: len(outer)]
    weights = np.array([ZONE_WEIGHT.get(name, 0.0) for name in ZONES])[zone] * outer
    face = outer & np.isin(zone, [ZONES.index("face"), ZONES.index("forehead")])
    socket = zone == ZONES.index("socket")
    rim = np.zeros(len(outer), bool)
    rim[quads[socket[quads].any(1)]] = True
    rim &= ~socket
    lids = (np.flatnonzero(rim & (verts[:, 0] > 0)), np.flatnonzero(rim & (verts[:, 0] < 0)))
    eyes = np.stack([sphere_fit(whole[part == PARTS.index(name)])[0] for name in ("eye_left", "eye_right")])
    return Skin(verts, quads, quads_to_triangles(quads), outer, weights, zone, face, lids, eyes, whole, part)


def template_of(skin: Skin, mean: np.ndarray, modes: np.ndarray, scalp: float = 1.0) -> Template:
    """Template for registration: mean (S, 3), modes (K, S, 3) on the skin, compared on its level-1 surface.

    scalp: factor on the trust in scalp and neck (hair, collars)."""
    level1 = subdivide(skin.quads, len(skin.verts))
    evaluate = sp.csr_matrix(level1.smooth)
    seen = np.asarray(evaluate @ skin.outer.astype(float)).ravel() > 0.99
    trust = skin.weights * np.where(np.isin(skin.zone, [ZONES.index("scalp"), ZONES.index("neck")]), scalp, 1.0)
    weights = np.where(seen, np.clip(evaluate @ trust, 0.1 * scalp, 1.0), 0.0)
    tris = level1.triangles
    return Template(mean, modes, evaluate, tris[seen[tris].all(1)], weights, smoothness(skin.quads, skin.outer))


# ---------------------------------------------------------------------------------------------------------- the gauge
def remove_motion(displacements: np.ndarray, verts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Displacements (M, V, 3) less the small rigid motion and scaling that explains most of them over `mask` (V,)."""
    centred = verts - verts[mask].mean(0)
    motion = np.zeros((len(verts), 3, 7))
    motion[:, :, :3] = np.eye(3)
    for axis in range(3):
        motion[:, :, 3 + axis] = np.cross(np.eye(3)[axis], centred)
    motion[:, :, 6] = centred
    flat = displacements[:, mask].reshape(len(displacements), -1).T
    amount = np.linalg.lstsq(motion[mask].reshape(-1, 7), flat, rcond=None)[0]
    return displacements - np.einsum("vik,km->mvi", motion, amount)


def eye_motion(skin: Skin, verts: np.ndarray, displacements: np.ndarray) -> np.ndarray:
    """Motion (M, 2, 3) of the eyeballs (fixed radius) that keeps them in touch with the lids of `verts` (S, 3).

    Least squares of the change of distance between lid rim and eyeball, held near the rim's mean motion.
    """
    centres = eye_centres(skin, verts)
    result = np.zeros((len(displacements), 2, 3))
    for eye, rim in enumerate(skin.lids):
        away = verts[rim] - centres[eye]
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        moved = displacements[:, rim]
        system = away.T @ away + LID_SLACK * len(rim) * np.eye(3)
        right = np.einsum("nd,mnd,ne->me", away, moved, away) + LID_SLACK * moved.sum(1)
        result[:, eye] = np.linalg.solve(system, right.T).T
    return result


LID_SLACK = 0.1


def eye_centres(skin: Skin, verts: np.ndarray) -> np.ndarray:
    """Centres (2, 3) of the eyeballs for skin `verts` (S, 3): the lids keep the distances that they have in
    MakeHuman."""
    centres = np.zeros((2, 3))
    for eye, rim in enumerate(skin.lids):
        radius = np.linalg.norm(skin.verts[rim] - skin.eyes[eye], axis=1)
        anchor = centre = skin.eyes[eye] + (verts[rim] - skin.verts[rim]).mean(0)
        for _ in range(8):
            away = verts[rim] - centre
            distance = np.linalg.norm(away, axis=1)
            away /= distance[:, None]
            right = away.T @ (distance - radius) + LID_SLACK * len(rim) * (anchor - centre)
            centre = centre + np.linalg.solve(away.T @ away + LID_SLACK * len(rim) * np.eye(3), right)
        centres[eye] = centre
    return centres


def carry_inside(skin: Skin, displacement: np.ndarray) -> np.ndarray:
    """The displacement (M, S, 3) with that of the hidden skin replaced: lining, sockets and nostrils go with their
    rims and, the nearer the more, with the outer skin in front of them, so that they never come through it."""
    hidden, outer = np.flatnonzero(~skin.outer), np.flatnonzero(skin.outer)
    edges = np.concatenate([skin.quads[:, [i, (i + 1) % 4]] for i in range(4)])
    i, j = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0).T
    count = len(skin.verts)
    adjacency = sp.csr_matrix((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), (count, count))
    membrane = sp.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
    distance, nearest = cKDTree(skin.verts[outer]).query(skin.verts[hidden], 12)
    pull = np.exp(-0.5 * (distance / NEAR_SKIN) ** 2)
    spring = sp.csr_matrix(
        (pull.ravel(), (np.repeat(np.arange(len(hidden)), 12), outer[nearest].ravel())), (len(hidden), count)
    )
    system = membrane[hidden][:, hidden] + sp.diags(pull.sum(1))
    flat = displacement.transpose(1, 0, 2).reshape(count, -1)
    right = (
        spring
        - membrane[hidden][:, outer]
        @ sp.csr_matrix((np.ones(len(outer)), (np.arange(len(outer)), outer)), (len(outer), count))
    ) @ flat
    result = displacement.copy()
    result[:, hidden] = splu(system.tocsc()).solve(right).reshape(len(hidden), len(displacement), 3).transpose(1, 0, 2)
    return result


NEAR_SKIN = 0.006
"""Distance in metres over which hidden skin goes with the outer skin in front of it."""


def follow(skin: Skin, displacement: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Displacements (M, V0, 3) of the whole cage for those of the skin (M, S, 3) and of the eyeballs (M, 2, 3).

    Eyeballs move rigidly; lashes with the skin next to them; teeth and tongue with a wide average of the mouth's
    lining.
    """
    result = np.zeros((len(displacement), len(skin.whole), 3))
    result[:, : len(skin.verts)] = displacement
    lining = np.flatnonzero(skin.zone == ZONES.index("mouth_bag"))
    for part, reach, candidates in (
        ("lashes", 0.002, np.flatnonzero(skin.outer)),
        ("teeth", 0.012, lining),
        ("tongue", 0.012, lining),
    ):
        ids = np.flatnonzero(skin.part == PARTS.index(part))
        squared = ((skin.whole[ids, None] - skin.verts[candidates]) ** 2).sum(2)
        weight = np.exp(-0.5 * (squared - squared.min(1, keepdims=True)) / reach**2)
        weight /= weight.sum(1, keepdims=True)
        result[:, ids] = (
            (weight @ displacement[:, candidates].transpose(1, 0, 2).reshape(len(candidates), -1))
            .reshape(len(ids), -1, 3)
            .transpose(1, 0, 2)
        )
    for eye, part in enumerate(("eye_left", "eye_right")):
        result[:, skin.part == PARTS.index(part)] = eyes[:, eye, None]
    return result


# ------------------------------------------------------------------------------------------------------------ loading
@dataclass(frozen=True)
class Calibration:
    """Content of calibration.npz.

    skin_index (S,) MakeHuman indices of the skin; outer (S,) bool; direction_names D; weights (1 + K, D): MakeHuman
    directions in the mean (row 0) and in the modes; residual (R, S, 3) metres and residual_weights (1 + K, R): what
    is added to them; about: provenance and figures.
    """

    skin_index: np.ndarray
    outer: np.ndarray
    direction_names: tuple[str, ...]
    weights: np.ndarray
    residual: np.ndarray
    residual_weights: np.ndarray
    about: dict


@lru_cache(maxsize=2)
def load_calibration(path: Path = CALIBRATION) -> Calibration:
    """Reads calibration.npz (no pickle)."""
    with np.load(path, allow_pickle=False) as data:
        residual = data["residual"].astype(np.float64) * data["residual_scale"][:, None, None]
        return Calibration(
            data["skin_index"],
            np.unpackbits(data["outer"])[: len(data["skin_index"])].astype(bool),
            tuple(str(n) for n in data["direction_names"]),
            data["weights"].astype(np.float64),
            residual,
            data["residual_weights"].astype(np.float64),
            json.loads(str(data["about"])),
        )


def outer_skin(cage: Cage) -> np.ndarray:
    """Mask (V0,) of the skin that can be seen from outside: no sockets, mouth lining, nostril tubes, other parts."""
    mask = np.zeros(len(cage.verts), bool)
    mask[: len(load_calibration().outer)] = load_calibration().outer
    return mask


def load_identity_basis(name: str, cage: Cage) -> tuple[np.ndarray, np.ndarray]:
    """Mean head (V0, 3) in metres and modes (K, V0, 3) in metres per sigma, float32, prior N(0, I).

    The origin lies midway between the mean's eyeball centres, which are 63 mm apart, and no mode moves that
    midpoint; modes are free of rigid motion and scale over the face. Raises GanfitError for an unknown name, or, for
    "ict", a missing asset.
    """
    if name not in BASES:
        raise GanfitError(
            "unknown_basis", f"There is no identity basis called '{name}'.", hint=f"Use one of {', '.join(BASES)}."
        )
    calibration = load_calibration()
    skin = _checked_skin(cage, calibration)
    mean, modes = _makehuman_skin(cage, calibration)
    if name == "ict":
        from backend.assets import require

        mean, modes = _ict_skin(skin, mean, modes, require("ict"))
    return fold(skin, mean, modes)


def fold(skin: Skin, mean: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole cage for skin statistics: parts follow, motion and scale are taken out, the origin goes between the
    eyes."""
    for _ in range(5):  # the eyeballs keep their size, so their distance does not quite follow the scale
        scale = INTERPUPILLARY / np.linalg.norm(np.subtract(*eye_centres(skin, mean)))
        mean, modes = mean * scale, modes * scale
    modes = carry_inside(skin, remove_motion(modes, mean, skin.face))
    moves = eye_motion(skin, mean, modes)
    whole_modes = follow(skin, modes, moves) - moves.mean(1)[:, None]
    return whole_cage(skin, mean).astype(np.float32), whole_modes.astype(np.float32)


def whole_cage(skin: Skin, verts: np.ndarray) -> np.ndarray:
    """Whole cage (V0, 3) around skin vertices (S, 3) of another head, the origin moved between its eyeballs."""
    centres = eye_centres(skin, verts)
    displacement = carry_inside(skin, (verts - skin.verts)[None])
    return skin.whole + follow(skin, displacement, (centres - skin.eyes)[None])[0] - centres.mean(0)


def _checked_skin(cage: Cage, calibration: Calibration) -> Skin:
    """The skin, if the calibration was made for it."""
    count = len(calibration.skin_index)
    if not np.array_equal(cage.makehuman_index[:count], calibration.skin_index):
        raise GanfitError(
            "calibration_mismatch",
            "The identity calibration belongs to another version of the head.",
            hint="Run python -m backend.head.stat calibrate --ict DIR.",
        )
    return skin_of(cage, calibration.outer)


def _makehuman_skin(cage: Cage, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated mean (S, 3) and modes (K, S, 3) on the skin."""
    count = len(calibration.skin_index)
    order = [cage.identity_names.index(n) for n in calibration.direction_names]
    directions = cage.identity[order, :count].astype(np.float64).reshape(len(order), -1)
    both = calibration.weights @ directions + calibration.residual_weights @ calibration.residual.reshape(
        len(calibration.residual), -1
    )
    both = both.reshape(-1, count, 3)
    return cage.verts[:count] + both[0], both[1:]


def _ict_skin(skin: Skin, mean: np.ndarray, modes: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """ICT-FaceKit's mean and modes on the skin, in the size of our heads."""
    from backend.head.ict import carry_over, load_ict

    origin = eye_centres(skin, mean).mean(0)  # ICT's head is centred between the eyes, MakeHuman's mean is not
    carried = carry_over(load_ict(folder), template_of(skin, mean - origin, modes))
    scale = INTERPUPILLARY / np.linalg.norm(np.subtract(*eye_centres(skin, carried.mean)))
    return carried.mean * scale, carried.modes * scale


# -------------------------------------------------------------------------------------------------------- calibrating
@dataclass(frozen=True)
class Components:
    """Principal components of plausible MakeHuman heads: weights (K, D) over the directions, modes (K, S, 3), unit
    variance."""

    weights: np.ndarray
    modes: np.ndarray


def slider_sigma(name: str) -> float:
    """Standard deviation of one MakeHuman direction."""
    return SLIDER_SIGMA_OF.get(name.split("/")[0], SLIDER_SIGMA)


def makehuman_components(cage: Cage, skin: Skin, count: int = MAKEHUMAN_COMPONENTS) -> Components:
    """Principal components of MakeHuman heads with independent sliders.

    The directions are linear, so their covariance is exact and nothing has to be sampled: an eigendecomposition of
    the Gram matrix of the sigma-scaled, motion-free directions.
    """
    clean = remove_motion(cage.identity[:, : len(skin.verts)].astype(np.float64), skin.verts, skin.face)
    sigma = np.array([slider_sigma(n) for n in cage.identity_names])
    scaled = clean * sigma[:, None, None]
    gram = np.einsum("avi,bvi,v->ab", scaled, scaled, skin.weights, optimize=True)
    vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    weights = vectors.T * sigma
    return Components(weights, np.tensordot(weights, clean, 1))


def _fit_head(skin: Skin, components: Components, head: np.ndarray, rounds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """MakeHuman coefficients (K,) of a head (S, 3) in dense correspondence, and the head brought into MakeHuman's
    frame.

    Point to plane with some weight along the surface (a head may slide a little over the other), similarity solved
    together.
    """
    used = np.flatnonzero(skin.weights > 0)[::2]
    weights = skin.weights[used] * 1e6
    scale, rotation, shift = similarity(head[skin.face], skin.verts[skin.face])
    head = scale * head @ rotation.T + shift
    modes = np.ascontiguousarray(components.modes[:, used].transpose(1, 2, 0))
    count = modes.shape[2]
    coefficients = np.zeros(count)
    for _ in range(rounds):
        points = head[used]
        normals = vertex_normals(head, skin.tris)[used]
        gap = points - skin.verts[used] - modes @ coefficients
        turning = np.stack([np.cross(axis, points) for axis in np.eye(3)], 2)
        jacobian = np.concatenate([modes, -np.tile(np.eye(3), (len(used), 1, 1)), -turning, -points[:, :, None]], 2)
        across = np.einsum("ni,nik->nk", normals, jacobian) * np.sqrt((1 - TANGENTIAL) * weights)[:, None]
        all_round = (jacobian * np.sqrt(TANGENTIAL * weights)[:, None, None]).reshape(-1, count + 7)
        prior = np.r_[np.full(count, RIDGE * weights.sum() / 1e8), np.zeros(7)]
        right = across.T @ (np.einsum("ni,ni->n", normals, gap) * np.sqrt((1 - TANGENTIAL) * weights))
        right += (
            all_round.T @ (gap * np.sqrt(TANGENTIAL * weights)[:, None]).ravel()
            - prior * np.r_[coefficients, np.zeros(7)]
        )
        step = np.linalg.solve(across.T @ across + all_round.T @ all_round + np.diag(prior), right)
        coefficients = coefficients + step[:count]
        shift, turn, grow = step[count : count + 3], step[count + 3 : count + 6], step[-1]
        head = head + np.cross(turn, head) + grow * head + shift
    return coefficients, head


def calibrate(
    cage: Cage, skin: Skin, carried: CarriedIct, heads: int = HEADS, seed: int = 0, report=print
) -> Calibration:
    """Calibrates MakeHuman's components on `heads` heads drawn from ICT-FaceKit's statistics."""
    half = np.random.default_rng(seed).standard_normal(((heads + 1) // 2, len(carried.modes)))
    draws = DRAW_SIGMA * np.stack([half, -half], axis=1).reshape(-1, len(carried.modes))[:heads]  # in pairs: exact mean
    components = makehuman_components(cage, skin)
    coefficients, residuals = [], []
    for i, draw in enumerate(draws):
        drawn = carried.mean + np.tensordot(draw, carried.modes, 1)
        c, placed = _fit_head(skin, components, drawn)
        coefficients.append(c)
        residuals.append(placed - skin.verts - np.tensordot(c, components.modes, 1))
        if (i + 1) % 50 == 0:
            rms = np.sqrt(((np.stack(residuals)[:, skin.face]) ** 2).sum(2).mean()) * 1e3
            report(f"  registered {i + 1} of {heads} heads; residual on the face {rms:.2f} mm rms")
    return summarise(cage, skin, components, np.stack(coefficients), np.stack(residuals), report)


def summarise(
    cage: Cage, skin: Skin, components: Components, coefficients: np.ndarray, residuals: np.ndarray, report=print
) -> Calibration:
    """Joint mean and covariance of MakeHuman coefficients (H, K) and residuals (H, S, 3), whitened and cut."""
    mean_c, mean_r = coefficients.mean(0), residuals.mean(0)
    spread = (residuals - mean_r).reshape(len(residuals), -1)
    weighted = spread * np.repeat(np.sqrt(skin.weights + 1e-3), 3)
    u, s, _ = np.linalg.svd(weighted, full_matrices=False)
    scores = u[:, :RESIDUAL_COMPONENTS] * np.sqrt(len(u))
    residual_modes = (scores.T @ spread / len(u)).reshape(-1, *mean_r.shape)
    report(
        f"  residual modes hold {(s[:RESIDUAL_COMPONENTS] ** 2).sum() / (s**2).sum():.3f} of the residuals' variance"
    )
    joint = np.concatenate([coefficients - mean_c, scores], 1)
    covariance = (1 - SHRINKAGE) * joint.T @ joint / len(joint)
    k = len(mean_c)
    covariance[np.arange(k), np.arange(k)] += SHRINKAGE
    space = np.concatenate([components.modes, residual_modes]).reshape(k + len(residual_modes), -1)
    metric = (space * np.repeat(skin.weights, 3)) @ space.T
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance)))
    values, vectors = np.linalg.eigh(root.T @ metric @ root)
    mixing = (root @ vectors[:, ::-1][:, :COMPONENTS]).T
    report(f"  {COMPONENTS} components hold {values[::-1][:COMPONENTS].sum() / values.sum():.4f} of the variance")
    weights = np.concatenate([mean_c[None], mixing[:, :k]]) @ components.weights
    extra = np.zeros((1 + COMPONENTS, 1 + len(residual_modes)))
    extra[0, 0], extra[1:, 1:] = 1.0, mixing[:, k:]
    about = {
        "sources": "MakeHuman (CC0); ICT-FaceKit (MIT, (c) 2020 USC Institute for Creative Technologies)",
        "heads": len(coefficients),
        "draw_sigma": DRAW_SIGMA,
        "shrinkage": SHRINKAGE,
    }
    return Calibration(
        cage.makehuman_index[: len(skin.verts)],
        skin.outer,
        cage.identity_names,
        weights,
        np.concatenate([mean_r[None], residual_modes]),
        extra,
        about,
    )


def save_calibration(calibration: Calibration, path: Path = CALIBRATION) -> None:
    """Writes calibration.npz, residuals as int16 (steps below 1 um). What `carry_inside` replaces anyway is left
    out."""
    residual = calibration.residual * calibration.outer[:, None]
    scale = np.abs(residual).max((1, 2)) / 32767
    np.savez_compressed(
        path,
        skin_index=calibration.skin_index.astype(np.int32),
        outer=np.packbits(calibration.outer),
        direction_names=np.array(calibration.direction_names),
        weights=calibration.weights.astype(np.float32),
        residual=np.round(residual / scale[:, None, None]).astype(np.int16),
        residual_scale=scale,
        residual_weights=calibration.residual_weights.astype(np.float32),
        about=json.dumps(calibration.about),
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m backend.head.stat calibrate --ict DIR [--heads N] [--seed N] [--out FILE]`."""
    from backend.head.cage import build_cage
    from backend.head.ict import carry_over, load_ict

    parser = argparse.ArgumentParser(prog="python -m backend.head.stat", description=main.__doc__)
    parser.add_argument("command", choices=["calibrate"])
    parser.add_argument("--ict", type=Path, required=True, help="folder of ict_facekit_light.npz")
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=CALIBRATION)
    chosen = parser.parse_args(arguments)
    print("Reading MakeHuman's head and ICT-FaceKit")
    cage = build_cage()
    skin = skin_of(cage, load_calibration().outer)  # which skin is seen from outside does not depend on the statistics
    components = makehuman_components(cage, skin)
    print("Registering our head to ICT-FaceKit's mean head")
    carried = carry_over(load_ict(chosen.ict), template_of(skin, skin.verts, components.modes))
    print(f"  residual {np.nanmedian(carried.distance) * 1e3:.3f} mm median")
    print(f"Registering MakeHuman's components to {chosen.heads} drawn heads")
    calibration = calibrate(cage, skin, carried, chosen.heads, chosen.seed)
    save_calibration(calibration, chosen.out)
    print(f"{chosen.out}: {len(calibration.weights) - 1} components, {chosen.out.stat().st_size / 1e6:.2f} MB")
    print("Now python -m backend.fit.people adds the direction of the avatars")


if __name__ == "__main__":
    main()
