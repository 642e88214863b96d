# SPDX-License-Identifier: GPL-3.0-or-later
"""Landmarks on the head: anatomy, symmetry, agreement of the two sets, and the network on a real photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.head.cage import build_cage
from backend.head.landmarks import (
    EYE_LEFT,
    EYE_RIGHT,
    FACE_OVAL,
    IBUG_FROM_MEDIAPIPE,
    LIPS_INNER,
    LIPS_OUTER,
    iris_vertices,
    load_landmarks,
)
from backend.head.model import load_head
from backend.head.stat import load_identity_basis, outer_skin
from backend.head.subdivision import subdivide


@pytest.fixture(scope="module")
def placed():
    """The map, the mean head's level-1 vertices and triangles, and both sets of points in millimetres."""
    cage = build_cage()
    level1 = subdivide(cage.quads, len(cage.verts))
    mean, modes = load_identity_basis("makehuman", cage)
    verts1 = level1.smooth @ mean.astype(float) * 1e3
    marks = load_landmarks(cage)
    points = {which: marks.positions(verts1, level1.triangles, which) for which in ("68", "468")}
    seen = np.asarray(level1.smooth @ outer_skin(cage).astype(float)).ravel()
    return marks, level1.triangles, points, seen, (level1, mean, modes)


def test_every_point_lies_on_the_outer_skin(placed):
    marks, tris, _, seen, _ = placed
    for which, count in (("68", 68), ("468", 468)):
        assert marks.tri[which].shape == (count,) and (marks.tri[which] >= 0).all()
        np.testing.assert_allclose(marks.weight[which].sum(1), 1, atol=1e-5)
        assert marks.weight[which].min() > -1e-6
        assert seen[tris[marks.tri[which]]].min() > 0.9
        assert (marks.sigma[which] > 0).all() and marks.sigma[which].max() < 0.02


def test_the_68_points_follow_ibug(placed):
    p = placed[2]["68"]
    assert p[0, 0] < -50 and p[16, 0] > 50, "0 is at the subject's right"
    assert p[:, 1].argmin() == 8, "8 is the lowest point of the chin"
    assert p[30, 2] == p[:, 2].max(), "30 is the tip of the nose"
    assert p[36, 0] < p[39, 0] < 0 < p[42, 0] < p[45, 0]
    assert 25 < p[42, 0] - p[39, 0] < 42, "inner corners of the eyes are about 33 mm apart"
    assert 75 < p[45, 0] - p[36, 0] < 105
    assert 40 < np.linalg.norm(p[54] - p[48]) < 60, "width of the mouth"
    mirror = p * [-1, 1, 1]
    for a, b in ((0, 16), (17, 26), (31, 35), (36, 45), (39, 42), (48, 54), (60, 64)):
        assert np.linalg.norm(mirror[a] - p[b]) < 1.0


def test_the_468_points_are_symmetric_and_ordered(placed):
    marks, _, points, _, _ = placed
    p = points["468"]
    mirror = marks.mirror468
    assert (mirror[mirror] == np.arange(468)).all()
    assert mirror[33] == 263 and mirror[61] == 291 and mirror[234] == 454 and mirror[1] == 1
    assert np.median(np.linalg.norm(p * [-1, 1, 1] - p[mirror], axis=1)) < 0.5
    assert p[10, 1] == p[list(FACE_OVAL), 1].max() and p[152, 1] < p[list(FACE_OVAL), 1].min() + 3
    for rim, x in ((EYE_RIGHT, -31.5), (EYE_LEFT, 31.5)):
        np.testing.assert_allclose(p[list(rim)].mean(0)[:2], [x, 0], atol=5)
    assert np.ptp(p[list(LIPS_INNER), 1]) < np.ptp(p[list(LIPS_OUTER), 1])


def test_lips_part_where_the_landmarks_say():
    """A lip that is drawn down takes the lower lip's points along and none of the upper's, and the other way round."""
    head = load_head()

    def drawn(which: str, units: tuple[str, ...]) -> np.ndarray:
        expression = torch.zeros(2, len(head.expression_names))
        expression[1, [head.expression_names.index(unit) for unit in units]] = 1
        still, moved = head.landmarks(head.subdivide(head.cage(torch.zeros(2, 1), expression)), which)
        return (1000 * (moved - still)[:, 1]).numpy()

    for which, upper, lower in (
        ("468", (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)),
        ("468", (40, 39, 37, 0, 267, 269, 270), (91, 181, 84, 17, 314, 405, 321)),
        ("68", (50, 51, 52, 61, 62, 63), (56, 57, 58, 65, 66, 67)),
    ):
        down = -drawn(which, ("mouthLowerDownLeft", "mouthLowerDownRight"))
        up = drawn(which, ("mouthUpperUpLeft", "mouthUpperUpRight"))
        assert (up > down)[list(upper)].all() and (down > up)[list(lower)].all()
        assert down[lower[len(lower) // 2]] > 3 and up[upper[len(upper) // 2]] > 3


def test_both_sets_agree_where_they_mean_the_same(placed):
    """Corners of eyes and mouth, lids, bridge and tip of the nose of iBUG and MediaPipe, independently placed."""
    same = [28, 30, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 51, 54, 57]
    gap = placed[2]["68"] - placed[2]["468"][list(IBUG_FROM_MEDIAPIPE)]
    distance = np.linalg.norm(gap[same], axis=1)
    assert distance.max() < 5 and np.median(distance) < 2, distance.round(1)


def test_iris_rims_are_circles_of_the_mean_iris(placed):
    """11.7 mm across (mean of adults), around the pole, in the documented order."""
    mean = placed[4][1].astype(float) * 1e3
    for side, vertices in zip((-1, 1), iris_vertices(build_cage().vertex_part), strict=True):
        centre, *rim = mean[vertices]
        assert centre[0] == pytest.approx(side * 31.5, abs=0.5)
        offsets = np.array(rim)[:, :2] - centre[:2]
        np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 5.85, atol=0.35)
        assert np.argmax(offsets @ np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]).T, axis=1).tolist() == [0, 1, 2, 3]


def test_contour_candidates_cross_the_jaw_line(placed):
    marks, tris, points, _, (level1, mean, _) = placed
    verts1 = level1.smooth @ mean.astype(float) * 1e3
    candidates = np.einsum("jck,jckd->jcd", marks.contour_weight, verts1[tris[marks.contour_tri]])
    middle = candidates.shape[1] // 2
    np.testing.assert_allclose(candidates[:, middle], points["68"][:17], atol=0.05)
    length = np.linalg.norm(np.diff(candidates, axis=1), axis=2).sum(1)
    assert (length > 30).all() and (length < 60).all()


def test_network_and_head_agree_on_a_photo(placed, astronaut):
    """The head's 468 points, turned and fitted with 20 coefficients, lie over the network's on a real photo."""
    from PIL import Image
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    from backend.networks.detector import FaceDetector
    from backend.networks.facemesh import FaceMesh

    marks, tris, points, _, (level1, _, modes) = placed
    image = np.asarray(Image.open(astronaut).convert("RGB"))
    seen = FaceMesh().landmarks(image, FaceDetector().detect(image)[0]).points
    count = 20
    columns = modes[:count].transpose(1, 0, 2).reshape(modes.shape[1], -1).astype(float) * 1e3
    moves = marks.positions((level1.smooth @ columns).reshape(-1, count * 3), tris, "468").reshape(468, count, 3)
    inner = np.setdiff1d(np.arange(468), list(FACE_OVAL) + list(LIPS_OUTER) + list(LIPS_INNER))  # she smiles
    span = np.linalg.norm(seen[263] - seen[33])

    def residual(x: np.ndarray, order: np.ndarray) -> np.ndarray:
        solid = (points["468"] + np.einsum("k,nkd->nd", x[6:], moves))[order]
        turned = Rotation.from_rotvec(x[:3]).apply(solid)[:, :2] * [1, -1]
        gap = (np.exp(x[3]) * turned + x[4:6] * 100 - seen)[inner] / span
        return np.concatenate([gap.ravel() * 100, 0.5 * x[6:]])

    start = np.concatenate([[0, 0, 0, np.log(span / 90)], seen.mean(0) / 100, np.zeros(count)])

    def fit(order: np.ndarray) -> float:
        x = least_squares(residual, start, args=(order,), loss="soft_l1", max_nfev=30).x
        return float(np.median(np.linalg.norm(residual(x, order)[: 2 * len(inner)].reshape(-1, 2), axis=1)))

    good = fit(np.arange(468))
    assert good < 2.5, f"{good:.2f} % of the distance of the outer eye corners"
    assert fit(np.roll(np.arange(468), 1)) > 3 * good, "another numbering must not fit"
