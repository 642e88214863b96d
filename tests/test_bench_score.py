# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's own measures on surfaces whose distance is known, and on a GLB that another reader reads."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import bench  # noqa: E402
import score  # noqa: E402
from test_glb import small_glb  # noqa: E402

AXES = np.array([75.0, 110.0, 90.0])  # of an ellipsoid as large as a head, millimetres


def known_head(bump_mm: float = 0.0) -> score.Head:
    """An ellipsoid that looks along +Z with 68 marks on its front; a smooth bump on its forehead along the normal."""
    ball = trimesh.creation.icosphere(5, 1.0)
    direction = np.asarray(ball.vertices)
    points = direction * AXES
    near = np.exp(-0.5 * (np.linalg.norm(points - [0.0, 55.0, 78.0], axis=1) / 15.0) ** 2)
    normal = direction / AXES
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    marks = rng.normal(size=(68, 3)) * [0.5, 0.4, 0.1] + [0.0, -0.2, 1.0]
    fixed = {30: (0, 0, 1), 33: (0, -0.2, 1), 36: (-0.6, 0.2, 1), 39: (-0.2, 0.2, 1), 42: (0.2, 0.2, 1),
             45: (0.6, 0.2, 1), 48: (-0.3, -0.5, 1), 54: (0.3, -0.5, 1)}  # fmt: skip
    for number, place in fixed.items():
        marks[number] = place
    marks = marks / np.linalg.norm(marks, axis=1, keepdims=True) * AXES
    masks = {"forehead": (points[:, 1] > 30).astype(float), "chin": (points[:, 1] < -50).astype(float)}
    verts = points + bump_mm * near[:, None] * normal
    return score.Head(verts, np.asarray(ball.faces), marks, verts, masks)


def turned(head: score.Head, scale: float) -> score.Head:
    matrix = trimesh.transformations.euler_matrix(0.3, -0.7, 0.2)[:3, :3]
    move = lambda x: scale * x @ matrix.T + [30.0, -400.0, 90.0]  # noqa: E731
    return score.Head(move(head.verts), head.triangles, move(head.landmarks), move(head.region_points),
                      head.region_masks)  # fmt: skip


def test_a_head_turned_moved_and_scaled_is_the_same() -> None:
    row, _ = score.geometry(known_head(), turned(known_head(), 1.7))
    assert max(row["micc_mean"], row["now_median"], row["region_forehead"]) < 0.02


def test_a_bump_is_found_where_it_is() -> None:
    """A bump of 4 mm and 15 mm width: the forehead is off, the chin hardly, and the map peaks at the bump."""
    truth = known_head(4.0)
    row, (points, distance) = score.geometry(truth, turned(known_head(), 0.8))
    assert row["region_forehead"] > 4 * row["region_chin"] and row["region_chin"] < 0.15
    assert 2.5 < distance.max() < 4.2
    assert np.linalg.norm(points[distance.argmax()] - [0.0, 58.0, 80.0]) < 10
    unmoved = score.Surface(known_head().verts, known_head().triangles).closest(points)[1]
    rms = [float(np.sqrt((d**2).mean())) for d in (distance, unmoved)]
    assert 0.5 * rms[1] < rms[0] < rms[1], "the alignment makes the squares' sum smaller, and only somewhat"


def test_closest_points_of_a_sphere() -> None:
    """Points outside a sphere are their distance to the centre less the radius away."""
    ball = trimesh.creation.icosphere(5, 50.0)
    points = np.random.default_rng(1).normal(size=(200, 3)) * 40 + [0, 0, 90]
    distance = score.Surface(np.asarray(ball.vertices), np.asarray(ball.faces)).closest(points)[1]
    assert np.abs(distance - np.abs(np.linalg.norm(points, axis=1) - 50)).max() < 0.06


def test_the_glb_is_read_with_its_expression(tmp_path: Path) -> None:
    """The rest pose as trimesh reads it (which ignores morph targets), and moved by a target's weight."""
    (tmp_path / "rest.glb").write_bytes(small_glb([0.0] * 52))
    verts, triangles = score.read_glb_head(tmp_path / "rest.glb")
    known = trimesh.load(tmp_path / "rest.glb", process=False).geometry["Head"]
    assert np.allclose(verts, known.vertices * 1000, atol=1e-3) and len(triangles) == len(known.faces)
    (tmp_path / "moved.glb").write_bytes(small_glb([1.0, *[0.0] * 51]))
    moved, _ = score.read_glb_head(tmp_path / "moved.glb")
    assert 0 < (np.linalg.norm(moved - verts, axis=1) > 0.1).sum() <= 15, "the target moves 15 points"


def test_image_error_of_a_known_difference() -> None:
    photo = np.random.default_rng(2).integers(20, 200, (64, 64, 3), np.uint8)
    render = np.dstack([photo, np.full((64, 64), 255, np.uint8)])
    same = score.image_error(photo, render)
    assert same["img_mae"] == 0 and same["img_ssim"] == pytest.approx(1)
    render[:, :, 0] += 51  # a fifth of the range in one channel of three, where there is alpha
    render[32:, :, 3] = 0
    assert score.image_error(photo, render)["img_mae"] == pytest.approx(0.2 / 3, abs=1e-6)


def test_skin_tones_of_known_colours() -> None:
    """Angles by hand: L 65, b 15 is 45 degrees, L 50 is 0; sRGB patches of the ends of the scale."""
    assert score.skin_tone_angle(np.array([[65.0, 12.0, 15.0]] * 3)) == pytest.approx(45)
    assert score.skin_tone_angle(np.array([[50.0, 12.0, 15.0]])) == pytest.approx(0)
    tones = {(250, 225, 205): "very light", (225, 185, 155): "light", (185, 135, 100): "tan", (165, 115, 85): "brown",
             (75, 50, 40): "dark"}  # fmt: skip
    for rgb, tone in tones.items():
        colours = score.rgb2lab(np.array([[rgb]]) / 255.0)[0]
        assert score.skin_tone(score.skin_tone_angle(colours)) == tone, rgb
    assert [score.skin_tone(angle) for angle in (90.0, 30.0, -29.0, -31.0, -90.0)] == [
        "very light", "intermediate", "brown", "dark", "dark"]  # fmt: skip


def test_people_as_cases_name_them() -> None:
    assert bench.person_of({"skin": "middleage_darkskinned_female_diffuse2", "source": "x"}) == ("female", "dark")
    assert bench.person_of({"source": "Hispanic_M_1"}) == ("male", "hispanic")
    assert bench.person_of({"source": "menpo3d_james"}) == ("", "")


def test_throughput_counts_time_failures_and_growth() -> None:
    """Ten photos of 6 s, two failed, one after another in any order; memory settles, then grows 3 MB a photo."""
    memory = [100.0, 900.0, *(1000.0 + 3 * k for k in range(8))]
    rows = [{"ended": k, "seconds": 6.0, "cpu_seconds": 9.0, "rss_mb": m, "peak_mb": m + 50}
            for k, m in enumerate(memory)]  # fmt: skip
    rows[3]["error"] = rows[7]["error"] = "no_face: nobody"
    found = bench.throughput(rows[::-1], 1)
    assert found["photos_per_minute"] == pytest.approx(10) and found["cpu_seconds_per_photo"] == pytest.approx(9)
    assert found["failed"] == 2 and found["peak_mb"] == 1071
    assert found["growth_mb_per_photo"] == pytest.approx(3)


def test_series_take_the_first_photos_of_a_subject_and_stand_beside_them() -> None:
    """Three photos of one, one of another: series of two and three, beside the mean of the very photos in them."""
    def case(subject: str, condition: str) -> bench.Case:
        name = f"{subject}_{condition}"
        return bench.Case(name, Path(f"{name}.png"), "dev", subject, condition)

    single = [case("ann", "outdoor"), case("ann", "cooperative"), case("bob", "indoor"), case("ann", "indoor")]
    series = bench.series_of(single)
    assert [(c.id, c.photo.stem, [p.stem for p in c.more]) for c in series] == [
        ("ann_2_photos", "ann_cooperative", ["ann_indoor"]),
        ("ann_3_photos", "ann_cooperative", ["ann_indoor", "ann_outdoor"])]  # fmt: skip
    errors = {"ann_cooperative": 1.0, "ann_indoor": 2.0, "ann_outdoor": 6.0, "bob_indoor": 9.0, "ann_2_photos": 0.5,
              "ann_3_photos": 0.25}  # fmt: skip
    found = bench.series_report({name: {"micc_mean": error} for name, error in errors.items()}, [*single, *series])
    assert found == {"ann": {"alone": [1.5, 3.0], "together": [0.5, 0.25]}}
