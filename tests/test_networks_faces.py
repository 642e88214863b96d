# SPDX-License-Identifier: GPL-3.0-or-later
"""Detection and landmarks on photographs: sizes, turns, mirrors, two faces, none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.networks.detector import FaceDetector
from backend.networks.facemesh import FaceLandmarks, FaceMesh, points5
from backend.networks.fan import Fan, FanLandmarks

GOLDEN = Path(__file__).parent / "golden" / "dlib.npz"
sys.path.insert(0, str(GOLDEN.parent))
from seeded import seeded_weights  # noqa: E402

FACE = (slice(20, 200), slice(140, 290))
"""rows and columns of the astronaut's face with some hair"""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


@pytest.fixture(scope="module")
def photo(astronaut: Path) -> np.ndarray:
    return np.asarray(Image.open(astronaut).convert("RGB"))


@pytest.fixture(scope="module")
def upright(photo: np.ndarray, detector: FaceDetector, mesh: FaceMesh) -> FaceLandmarks:
    return mesh.landmarks(photo, detector.detect(photo)[0])


def five(landmarks: FaceLandmarks) -> np.ndarray:
    return points5(torch.from_numpy(landmarks.points)[None])[0].numpy()


def eye_distance(landmarks: FaceLandmarks) -> float:
    return float(np.linalg.norm(landmarks.iris[0, 0] - landmarks.iris[1, 0]))


def test_landmarks_agree_with_dlib(photo: np.ndarray, upright: FaceLandmarks) -> None:
    with np.load(GOLDEN) as stored:
        expected = stored["points"] + 0.5
    error = np.linalg.norm(five(upright) - expected, axis=1)
    assert error.max() < 0.1 * eye_distance(upright)
    assert upright.presence > 0.9


def test_irises_lie_between_the_corners_of_their_eyes(upright: FaceLandmarks) -> None:
    for side, (outer, inner) in enumerate(((33, 133), (263, 362))):
        corners = upright.points[[outer, inner]]
        width = np.linalg.norm(corners[0] - corners[1])
        centre, rim = upright.iris[side, 0], upright.iris[side, 1:]
        along = (centre - corners[0]) @ (corners[1] - corners[0]) / width**2
        assert 0.2 < along < 0.8
        assert np.linalg.norm(rim - centre, axis=1) == pytest.approx(0.21 * width, rel=0.35)
    assert upright.iris[0, 0, 0] < upright.iris[1, 0, 0], "the subject's right eye is on the left of the photo"


def test_a_mirrored_photo_gives_mirrored_landmarks(
    photo: np.ndarray, upright: FaceLandmarks, detector: FaceDetector, mesh: FaceMesh
) -> None:
    flipped = photo[:, ::-1]
    found = mesh.landmarks(flipped, detector.detect(flipped)[0])
    back = five(found)[[2, 3, 0, 1, 4]] * [-1, 1] + [photo.shape[1], 0]
    iris = found.iris[::-1, 0] * [-1, 1] + [photo.shape[1], 0]
    assert np.linalg.norm(back - five(upright), axis=1).max() < 0.06 * eye_distance(upright)
    assert np.linalg.norm(iris - upright.iris[:, 0], axis=1).max() < 0.04 * eye_distance(upright)


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_turned_photo_gives_turned_landmarks(
    degrees: int, photo: np.ndarray, upright: FaceLandmarks, detector: FaceDetector, mesh: FaceMesh
) -> None:
    turned = np.asarray(Image.fromarray(photo).rotate(degrees, Image.Resampling.BICUBIC))
    found = mesh.landmarks(turned, detector.detect(turned)[0])
    angle, centre = np.radians(degrees), np.array([256.0, 256.0])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # PIL turns counter-clockwise
    expected = (upright.points - centre) @ turn.T + centre
    assert np.linalg.norm(found.points - expected, axis=1).mean() < 0.05 * eye_distance(upright)


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3, 0.6, 0.9])
def test_faces_of_all_sizes_are_found(share: float, photo: np.ndarray, detector: FaceDetector) -> None:
    face = Image.fromarray(photo[FACE])
    side = 800
    width = round(side * share * 150 / 95)  # the face itself is 95 of the cut-out's 150 pixels wide
    face = face.resize((width, round(width * 180 / 150)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), (90, 110, 100))
    canvas.paste(face, ((side - face.width) // 2, (side - face.height) // 2))
    (found,) = detector.detect(np.asarray(canvas))
    centre = (found.box[:2] + found.box[2:]) / 2
    assert np.abs(centre - side / 2).max() < 0.25 * side * share
    assert 0.6 < (found.box[2] - found.box[0]) / (side * share) < 1.5


def test_a_face_cut_by_the_border_is_found(photo: np.ndarray, detector: FaceDetector) -> None:
    tight = photo[60:170, 175:275]  # brows to chin
    (found,) = detector.detect(tight)
    assert found.area > 0.3 * tight.shape[0] * tight.shape[1]


def test_a_large_photo_gives_the_same_landmarks(
    photo: np.ndarray, upright: FaceLandmarks, detector: FaceDetector, mesh: FaceMesh
) -> None:
    large = np.asarray(Image.fromarray(photo).resize((3072, 3072), Image.Resampling.BICUBIC))
    found = mesh.landmarks(large, detector.detect(large)[0])
    assert np.linalg.norm(found.points / 6 - upright.points, axis=1).mean() < 0.03 * eye_distance(upright)


def test_two_faces_come_largest_first(photo: np.ndarray, detector: FaceDetector) -> None:
    face = Image.fromarray(photo[FACE])
    canvas = Image.new("RGB", (640, 400), (90, 110, 100))
    canvas.paste(face.resize((120, 144)), (40, 120))
    canvas.paste(face.resize((240, 288)), (340, 60))
    found = detector.detect(np.asarray(canvas))
    assert len(found) == 2
    assert found[0].box[0] > 340 > 160 > found[1].box[2]


def test_no_face_is_no_face(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.full((64, 200, 3), 128, np.uint8)) == []
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_every_portrait_holds_one_face(shared: Path, detector: FaceDetector) -> None:
    files = sorted((shared / "data" / "portraits").glob("*.jpg"))[::120]
    counts = [len(detector.detect(np.asarray(Image.open(file).convert("RGB")))) for file in files]
    assert counts == [1] * len(files)


def test_fan_runs_on_a_photo_with_gradients(
    photo: np.ndarray, upright: FaceLandmarks, detector: FaceDetector, mesh: FaceMesh
) -> None:
    shapes = {name: tuple(value.shape) for name, value in Fan().state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes, 2).items()}
    fan = FanLandmarks(weights, mesh)
    found = fan.landmarks(photo, detector.detect(photo)[0])
    assert found.points.shape == (68, 2) and np.isfinite(found.points).all()
    assert np.array_equal(found.iris, upright.iris)
    crop = torch.rand(1, 3, 256, 256, requires_grad=True)
    (gradient,) = torch.autograd.grad(fan(crop)[0].sum(), crop)
    assert gradient.abs().sum() > 0
