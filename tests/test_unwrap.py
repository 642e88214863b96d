# SPDX-License-Identifier: GPL-3.0-or-later
"""A photo laid into the UV layout: a head of known texture, drawn by the renderer, gives its albedo back."""
from __future__ import annotations

import pytest
import torch

pytest.importorskip("backend.head.model")

from known_head import known_parameters, photograph, view_of  # noqa: E402

from backend.fit.person import Person  # noqa: E402
from backend.options import Options  # noqa: E402
from backend.pipeline import Models, choose_device  # noqa: E402
from backend.render.color import srgb_to_linear  # noqa: E402
from backend.texture.unwrap import Unwrapped, unwrap_view, uv_raster  # noqa: E402

RESOLUTION = 256


@pytest.fixture(scope="module")
def person() -> Person:
    """Head, generator and rasteriser."""
    return Models().person(Options(), choose_device("cpu"))


def known_texture() -> torch.Tensor:
    """(1, 3, R, R) smooth skin-like colours that differ between left and right and between top and bottom."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, RESOLUTION),) * 2, indexing="ij")
    red = 0.45 + 0.3 * x + 0.08 * torch.sin(25 * y)
    green = 0.3 + 0.25 * y + 0.08 * torch.sin(21 * x + 9 * y)
    return torch.stack([red, green, 0.5 - 0.2 * x + 0.1 * y])[None]


@pytest.fixture(scope="module")
def unwrapped(person: Person) -> Unwrapped:
    """The known head, photographed and unwrapped."""
    params, frame = known_parameters(person)
    photo = photograph(person, params, frame, known_texture())
    return unwrap_view(person, params, view_of(photo, frame), RESOLUTION)


def median_error(albedo: torch.Tensor, texture: torch.Tensor, weight: torch.Tensor) -> float:
    """Median relative difference of linear albedo (R, R, 3) from a texture (1, 3, R, R) where the weight is high."""
    truth = srgb_to_linear(texture[0].permute(1, 2, 0))
    return float(((albedo - truth).abs() / truth)[weight[..., 0] > 0.8].median())


def test_the_known_albedo_comes_back(unwrapped: Unwrapped) -> None:
    """Camera, layout, light and decoding are those of the renderer: the rest is filtering and 8 bits."""
    texture = known_texture()
    assert int((unwrapped.weight > 0.8).sum()) > 0.15 * RESOLUTION**2
    assert median_error(unwrapped.albedo, texture, unwrapped.weight) < 0.012
    truth = srgb_to_linear(texture[0].permute(1, 2, 0))
    worst = ((unwrapped.albedo - truth).abs() / truth).amax(-1)[unwrapped.weight[..., 0] > 0.3].quantile(0.99)
    assert float(worst) < 0.04


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_layout_is_noticed(unwrapped: Unwrapped, axis: int) -> None:
    """The same comparison fails for a texture upside down or left for right."""
    assert median_error(unwrapped.albedo, known_texture().flip(axis), unwrapped.weight) > 0.08


def test_only_what_the_photo_shows_is_trusted(person: Person, unwrapped: Unwrapped) -> None:
    """No texel with weight has the background's green; sockets, mouth and the far side have no weight."""
    seen = unwrapped.weight[..., 0] > 0.02
    green = unwrapped.photo[..., 1] - unwrapped.photo[..., [0, 2]].amax(-1)
    assert float(green[seen].max()) < 0.25
    hidden = person.head.regions["socket"] + person.head.regions["mouth_bag"]
    rast, tri = uv_raster(person.raster, person.head, RESOLUTION)
    inner = person.raster.interpolate(person.head.subdivide(hidden[None, :, None]), rast, tri)[0, ..., 0] > 0.9
    assert int(inner.sum()) > 300 and float(unwrapped.weight[..., 0][inner].mean()) < 0.02
    # The head turns to its left: the layout's left half (the subject's right) is what the camera sees.
    half = unwrapped.weight.sum((0, 2))
    left, right = float(half[:RESOLUTION // 2].sum()), float(half[RESOLUTION // 2:].sum())
    assert max(left, right) > 1.3 * min(left, right)


def test_what_the_nose_hides_is_not_read(person: Person) -> None:
    """From far to the side, texels with weight carry their own colour, also beside the nose."""
    params, frame = known_parameters(person, yaw=0.9)
    texture = known_texture()
    found = unwrap_view(person, params, view_of(photograph(person, params, frame, texture), frame), RESOLUTION)
    truth = srgb_to_linear(texture[0].permute(1, 2, 0))
    wrong = ((found.albedo - truth).abs() / truth).amax(-1) > 0.15
    weight = found.weight[..., 0]
    assert float((weight * wrong).sum() / weight.sum()) < 0.01


def test_density_is_the_photo_s_own_resolution(person: Person, unwrapped: Unwrapped) -> None:
    """Texels across a row, times their density, are about the pixels that they span in the photo."""
    row = RESOLUTION // 2
    inside = unwrapped.weight[row, :, 0] > 0.9
    steps = (unwrapped.pixel[row, 1:] - unwrapped.pixel[row, :-1]).norm(dim=-1)
    both = inside[1:] & inside[:-1]
    assert float(steps[both].mean() / unwrapped.density[row, 1:, 0][both].mean()) == pytest.approx(1, abs=0.35)
