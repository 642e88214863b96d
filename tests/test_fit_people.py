# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of textured heads: pictures of known surfaces, heads of known coefficients, known steps of points."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from backend.fit import people
from backend.head.cage import build_cage
from backend.head.landmarks import FACE_OVAL, LIPS_INNER, load_landmarks
from backend.head.registration import similarity
from backend.head.stat import COMPONENTS, load_calibration, load_identity_basis


@pytest.fixture(scope="module")
def model() -> people.Model:
    return people.Model.load()


@pytest.fixture(scope="module")
def marks() -> people.Marks:
    placed = load_landmarks()
    return people.Marks(placed.tri["468"], placed.weight["468"])


def test_ply_is_read_as_trimesh_writes_it(tmp_path):
    ball = trimesh.creation.icosphere(2)
    (tmp_path / "ball.ply").write_bytes(trimesh.exchange.ply.export_ply(ball, vertex_normal=False))
    verts, tris = people.read_ply(tmp_path / "ball.ply")
    np.testing.assert_allclose(verts, ball.vertices, atol=1e-6)
    np.testing.assert_array_equal(tris, ball.faces)
    (tmp_path / "text.ply").write_bytes(trimesh.exchange.ply.export_ply(ball, encoding="ascii"))
    with pytest.raises(ValueError, match="binary"):
        people.read_ply(tmp_path / "text.ply")


def test_front_view_shows_the_picture_upright_and_knows_the_place():
    """A pyramid 20 cm wide and 1 mm high, red at the left of the picture and green at its top, an eye before it."""
    corner = 0.1 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 0.01]])
    tris = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    uv = (corner[:, :2] / 0.1 + 1) / 2
    image = np.zeros((64, 64, 3), np.float32)
    image[:, :32, 0], image[:32, :, 1] = 1, 1
    head = people.TexturedHead("pyramid", corner, tris, uv[tris], image, ((corner * 0.1 + (0, 0, 0.01), tris),))
    picture, number, place = people.front_view(head)
    middle, step = people.VIEW_SIZE // 2, people.VIEW_WIDTH_M / people.VIEW_SIZE
    np.testing.assert_array_equal(picture[middle - 100, middle - 100], (255, 255, 0))
    np.testing.assert_array_equal(picture[middle + 100, middle + 100], 0)
    assert number[middle, middle] == -1 and number[0, 0] == -1 and picture[middle, middle, 2] == picture[0, 0, 2] > 100
    sides = [number[middle + 100, middle], number[middle, middle + 100], number[middle - 100, middle],
             number[middle, middle - 100]]
    assert sides == [0, 1, 2, 3]
    np.testing.assert_allclose(place[middle - 90, middle + 40], [40.5 * step, 89.5 * step, 0.001 - 0.01 * 89.5 * step],
                               atol=1e-5)


def heads(model: people.Model, marks: people.Marks, step: np.ndarray, coefficients: list[np.ndarray]):
    """Heads of our own with these coefficients, turned, moved and 5 % larger, and the points that a network finds on
    them `step` beside the marks."""
    made, found = [], {}
    for i, c in enumerate(coefficients):
        turn = Rotation.from_euler("xyz", [4, -6 + 4 * i, 3], degrees=True).as_matrix()
        surface = model.template.evaluate @ model.template.cage(c)
        points = model.points(marks, c) + step

        def move(x: np.ndarray, turn: np.ndarray = turn) -> np.ndarray:
            return 1.05 * x @ turn.T + (0.01, -0.02, 0.03)

        name = f"head {i}"
        nothing = np.zeros((1, 3, 2)), np.zeros((1, 1, 3))
        made.append(people.TexturedHead(name, move(surface), model.template.tris, *nothing))
        found[name] = move(points)
    return made, lambda head: found[head.name]


def test_steps_and_means_are_those_of_known_heads(model, marks, monkeypatch):
    mirror = load_landmarks().mirror468
    step = np.zeros((468, 3))
    step[[33, 130, 4]] = [[0.002, 0, 0.0005], [0.002, 0, 0.0005], [0, 0.002, 0]]
    step[mirror[[33, 130]]] = step[[33, 130]] * (-1, 1, 1)
    rng = np.random.default_rng(0)
    common = np.where(np.arange(COMPONENTS) < 40, rng.standard_normal(COMPONENTS), 0)
    own = [common + 0.3 * rng.standard_normal(COMPONENTS) * (np.arange(COMPONENTS) < 40) for _ in range(3)]
    made, found = heads(model, marks, step, own)
    monkeypatch.setattr(people, "found_points", found)
    seen = people.mean_step(model, made, marks, mirror)
    np.testing.assert_allclose(seen[[33, 263, 4]], step[[33, 263, 4]], atol=6e-4)
    assert np.sqrt(((seen - step) ** 2).sum(1).mean()) < 4e-4
    np.testing.assert_allclose(seen[mirror], seen * (-1, 1, 1), atol=1e-12)
    wanted = model.template.cage(np.mean(own, 0))[model.skin.face]

    def apart(coefficients: np.ndarray) -> float:
        face = model.template.cage(coefficients)[model.skin.face]
        scale, rotation, shift = similarity(face, wanted)
        return float(np.sqrt(((scale * face @ rotation.T + shift - wanted) ** 2).sum(1).mean()))

    assert apart(people.mean_coefficients(model, made, marks)) < 0.35 * apart(np.zeros(COMPONENTS))


def test_points_that_are_found_on_few_heads_and_the_oval_stay(model, marks, monkeypatch):
    step = np.full((468, 3), (0.0, 0.002, 0.0))
    made, found = heads(model, marks, step, [np.zeros(COMPONENTS)] * 3)

    def lost(head: people.TexturedHead) -> np.ndarray:
        points = found(head).copy()
        if head.name != "head 0":
            points[[5, 50]] = np.nan
        return points

    monkeypatch.setattr(people, "found_points", lost)
    seen = people.mean_step(model, made, marks, load_landmarks().mirror468)
    assert (seen[[5, 50, 280]] == 0).all() and (seen[list(FACE_OVAL)] == 0).all()
    assert np.abs(seen[4]).max() > 1e-4


def test_moved_points_lie_on_the_outer_skin(model, marks):
    step = np.zeros((468, 3))
    step[33] = [0.002, 0, 0]
    step[13] = [0, 0.002, 0]
    moved = model.moved(marks, step)
    zero = np.zeros(COMPONENTS)
    before, after = (model.points(m, zero) for m in (marks, moved))
    assert np.linalg.norm(after[33] - before[33] - step[33]) < 1e-3 and after[33, 0] > before[33, 0] + 0.001
    same = np.arange(468) != 33
    np.testing.assert_array_equal(moved.tri[same], marks.tri[same])
    assert 13 in LIPS_INNER


def test_the_last_component_is_the_combination(model):
    """Of the modes of the whole head, teeth and eyes too; doing it twice changes nothing."""
    calibration = load_calibration()
    direction = np.random.default_rng(1).standard_normal(COMPONENTS)
    once = people.with_direction(calibration, direction)
    again = people.with_direction(once, direction)
    assert len(once.weights) == 2 + COMPONENTS
    np.testing.assert_array_equal(again.weights, once.weights)
    np.testing.assert_array_equal(again.residual_weights, once.residual_weights)
    np.testing.assert_allclose(once.weights[-1], direction @ calibration.weights[1:1 + COMPONENTS])
    modes = load_identity_basis("makehuman", build_cage())[1].astype(float)
    assert len(modes) == COMPONENTS + 1
    own = np.linalg.lstsq(modes[:-1].reshape(COMPONENTS, -1).T, modes[-1].ravel(), rcond=None)[0]
    np.testing.assert_allclose(np.tensordot(own, modes[:-1], 1), modes[-1], atol=2e-5)
    assert 5 < np.linalg.norm(own) < 12


def test_avatars_lie_in_the_last_components_direction(model, marks, shared):
    """Three of the avatars: along it they are about one standard deviation from the mean head."""
    calibration = load_calibration()
    own = np.linalg.lstsq(calibration.weights[1:-1].T, calibration.weights[-1], rcond=None)[0]
    chosen = ("Asian_F_3", "Hispanic_M_1", "White_F_1")
    some = [a for a in people.avatars(shared / "data" / "avatars") if a.name in chosen]
    mean = people.mean_coefficients(model, some, marks)
    assert 0.6 < mean @ own / (own @ own) < 1.4
