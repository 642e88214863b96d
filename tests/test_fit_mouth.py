# SPDX-License-Identifier: GPL-3.0-or-later
"""Teeth in the opening of the mouth: seen where they are painted, and what that says of the jaw."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.fit.parameters import ViewFrame
from backend.fit.views import CHEEKS, CLOSED_JAW, INNER_LIPS, LIPS_TRUST, View, expression_stiffness
from backend.networks.facemesh import FaceLandmarks
from backend.photo import Photo

SKIN, TOOTH, DARK, TONGUE = (200, 150, 125), (225, 215, 195), (40, 20, 18), (190, 100, 95)


def view(*layers: tuple[tuple[int, int, int], float], height: float = 24.0) -> View:
    """A face of bare skin with a mouth 90 pixels wide, `height` high; layers (colour, share of the height) from the
    top."""
    points = np.full((468, 2), 20.0, np.float32)
    points[list(CHEEKS)] = [[60, 100], [80, 120], [240, 100], [220, 120]]
    angle = np.linspace(np.pi, 3 * np.pi, len(INNER_LIPS), endpoint=False)
    points[list(INNER_LIPS)] = np.stack((150 + 45 * np.cos(angle), 200 + height / 2 * np.sin(angle)), 1)
    picture = Image.new("RGB", (300, 300), SKIN)
    top = 200 - height / 2
    for colour, share in layers:
        ImageDraw.Draw(picture).rectangle((100, top, 200, top + share * height), fill=colour)
        top += share * height
    marks = FaceLandmarks(points, np.zeros(468, np.float32), 1.0, np.eye(2, 3), np.zeros((2, 5, 2), np.float32),
                          np.zeros(4, np.float32))
    return View(Photo(np.asarray(picture), "face", ""), marks, ViewFrame((300, 300), (150.0, 100.0), 80.0), False,
                (0.0, 0.0, 300.0))


@pytest.mark.parametrize(("layers", "share"), [
    ([(TOOTH, 1.0)], 1.0), ([(DARK, 1.0)], 0.0), ([(TONGUE, 1.0)], 0.0), ([(TOOTH, 0.5), (DARK, 0.5)], 0.5)])
def test_teeth_are_what_is_bright_and_white(layers: list, share: float) -> None:
    pixels, found = view(*layers).teeth()
    assert found == pytest.approx(share, abs=0.05)
    if share:
        assert np.allclose(np.median(pixels, 0), np.array(TOOTH) / 255, atol=0.01)
    else:
        assert len(pixels) == 0


def test_a_closed_mouth_shows_none() -> None:
    assert view((TOOTH, 1.0), height=0.5).teeth()[1] == 0


def test_the_light_on_the_face_does_not_matter() -> None:
    one = view((TOOTH, 0.7), (DARK, 0.3))
    for factor in ((0.5, 0.5, 0.5), (1.0, 0.85, 0.7), (0.7, 0.9, 1.1)):
        lit = view((TOOTH, 0.7), (DARK, 0.3))
        lit.photo = Photo((one.photo.image * np.array(factor)).clip(0, 255).astype(np.uint8), "face", "")
        assert lit.teeth()[1] == pytest.approx(one.teeth()[1], abs=0.05)


def test_only_the_jaw_of_a_mouth_full_of_teeth_is_stiff() -> None:
    names = ["browInnerUp", "jawOpen", "mouthSmileLeft"]
    weights = expression_stiffness([view((TOOTH, 1.0)), view((DARK, 1.0))], names)
    assert weights.shape == (2, 3)
    assert weights[:, [0, 2]].eq(1).all() and float(weights[1, 1]) == 1
    assert float(weights[0, 1]) == pytest.approx(1 + CLOSED_JAW, rel=0.05)


def test_the_opening_is_its_area_over_its_width() -> None:
    """Of an ellipse 90 pixels wide, drawn with 20 corners: pi / 4 of its height; the eyes are 80 pixels apart."""
    corners = len(INNER_LIPS)
    polygon = corners / 2 * np.sin(2 * np.pi / corners) / 4
    assert view(height=24).opening() == pytest.approx(polygon * 24 / 80, rel=1e-4)


@pytest.mark.parametrize(("height", "trust"), [(0.5, 1.0), (3.0, 1.0), (12.0, LIPS_TRUST), (40.0, LIPS_TRUST)])
def test_only_the_lips_of_an_open_mouth_count_more(height: float, trust: float) -> None:
    found = view(height=height).trust()
    others = np.setdiff1d(np.arange(470), INNER_LIPS)
    assert found[others].eq(1).all() and np.allclose(found[list(INNER_LIPS)], trust)


def test_trust_grows_with_the_opening() -> None:
    found = [float(view(height=height).trust()[INNER_LIPS[0]]) for height in np.linspace(3, 12, 10)]
    assert found == sorted(found) and len(set(found)) > 3
