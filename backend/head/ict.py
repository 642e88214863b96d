# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries ICT-FaceKit's light-stage identity modes (MIT, (c) 2020 USC ICT) over to our topology by registration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from backend.head.registration import SurfaceIndex, Template, quads_to_triangles, register

SKIN_VERTICES = 11248
"""ICT-FaceKit's vertices up to here are face, head and neck; mouth, sockets, teeth and eyes come after."""
EYE_LEFT, EYE_RIGHT = slice(21451, 23021), slice(23021, 24591)
LANDMARKS68 = (
    1225,
    1888,
    1052,
    367,
    1719,
    1722,
    2199,
    1447,
    966,
    3661,
    4390,
    3927,
    3924,
    2608,
    3272,
    4088,
    3443,
    268,
    493,
    1914,
    2044,
    1401,
    3615,
    4240,
    4114,
    2734,
    2509,
    978,
    4527,
    4942,
    4857,
    1140,
    2075,
    1147,
    4269,
    3360,
    1507,
    1542,
    1537,
    1528,
    1518,
    1511,
    3742,
    3751,
    3756,
    3721,
    3725,
    3732,
    5708,
    5695,
    2081,
    0,
    4275,
    6200,
    6213,
    6346,
    6461,
    5518,
    5957,
    5841,
    5702,
    5711,
    5533,
    6216,
    6207,
    6470,
    5517,
    5966,
)
"""Vertices of the 68 iBUG points (ICT-FaceKit's README; 0 at the subject's right ear)."""
FREE_FORM = (30.0, 10.0, 3.0, 1.0, 0.3)
MODE_SMOOTHNESS = 0.02
"""Weight of the smoothness when displacements of the subdivided surface are turned into displacements of the cage."""


@dataclass(frozen=True)
class IctModel:
    """ICT-FaceKit in metres with the origin between the eyeballs' centres.

    verts (N, 3), modes (100, N, 3) metres per sigma, tris (T, 3) of the skin, eyes (2, 3) centres (left, right) and
    eye_modes (100, 2, 3), landmarks (68,) vertex indices.
    """

    verts: np.ndarray
    modes: np.ndarray
    tris: np.ndarray
    eyes: np.ndarray
    eye_modes: np.ndarray
    landmarks: np.ndarray


def load_ict(folder: Path | str) -> IctModel:
    """Reads `ict_facekit_light.npz` (neutral, identity, faces; centimetres, y up, z forward) from a folder."""
    path = sorted(Path(folder).rglob("*.npz"))[0]
    with np.load(path, allow_pickle=False) as data:
        verts, modes, faces = data["neutral"] / 100.0, data["identity"].astype(np.float64) / 100.0, data["faces"]
    centre = lambda part: (verts[part].max(0) + verts[part].min(0)) / 2  # noqa: E731
    eyes = np.stack([centre(EYE_LEFT), centre(EYE_RIGHT)])
    skin = faces[(faces.max(1) < SKIN_VERTICES) & (faces.min(1) >= 0)]
    eye_modes = np.stack([modes[:, EYE_LEFT].mean(1), modes[:, EYE_RIGHT].mean(1)], axis=1)
    origin = eyes.mean(0)
    return IctModel(
        verts[:SKIN_VERTICES] - origin,
        modes[:, :SKIN_VERTICES],
        quads_to_triangles(skin),
        eyes - origin,
        eye_modes,
        np.array(LANDMARKS68),
    )


@dataclass(frozen=True)
class CarriedIct:
    """ICT-FaceKit on our skin, in its own scale (metres): mean (V, 3), modes (100, V, 3), eyes (2, 3), eye_modes.

    distance (V1,): registration residual of the evaluated vertices in metres (NaN: not compared); surface_tri,
    surface_bary: the point of ICT's mean surface under every evaluated vertex.
    """

    mean: np.ndarray
    modes: np.ndarray
    eyes: np.ndarray
    eye_modes: np.ndarray
    distance: np.ndarray
    surface_tri: np.ndarray
    surface_bary: np.ndarray


def cage_displacements(
    evaluate: sp.csr_matrix,
    smooth: sp.csr_matrix,
    weights: np.ndarray,
    displacement: np.ndarray,
    stiffness: float = MODE_SMOOTHNESS,
) -> np.ndarray:
    """Cage displacements (M, V0, 3) whose subdivided surface moves by `displacement` (M, V1, 3) where weights (V1,)
    > 0.

    Elsewhere (mouth, sockets) the displacement is extended smoothly.
    """
    weighted = sp.diags(weights) @ evaluate
    system = (evaluate.T @ weighted + stiffness * (smooth.T @ smooth) + 1e-9 * sp.identity(evaluate.shape[1])).tocsc()
    flat = displacement.transpose(1, 0, 2).reshape(len(weights), -1)
    solved = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0).solve(
        np.ascontiguousarray(weighted.T @ flat)
    )
    return solved.reshape(evaluate.shape[1], len(displacement), 3).transpose(1, 0, 2)


def carry_over(ict: IctModel, template: Template) -> CarriedIct:
    """Registers the template (our skin with MakeHuman's modes) to ICT's mean head and moves the identity modes over."""
    fitted = register(
        template, ict.verts, ict.tris, start=(0.98, np.eye(3), np.zeros(3)), iterations=25, free_form=FREE_FORM
    )
    mean = fitted.cage_in_target
    surface = template.evaluate @ mean
    _, tri, bary, _ = SurfaceIndex(ict.verts, ict.tris).closest(surface)
    moved = np.einsum("vk,mvkd->mvd", bary, ict.modes[:, ict.tris[tri]])
    near = np.nan_to_num(fitted.distance, nan=np.inf) < 0.004
    modes = cage_displacements(template.evaluate, template.smoothness, near * template.weights, moved)
    return CarriedIct(mean, modes, ict.eyes, ict.eye_modes, fitted.distance, tri, bary)
