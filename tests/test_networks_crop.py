# SPDX-License-Identifier: GPL-3.0-or-later
"""Crops: against analytic images, finite differences, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.networks.crop import (
    Cropper,
    apply_transform,
    crop_photo,
    differentiable_crop,
    invert_transform,
    similarity_transform,
    square_transform,
)


def _transform(angle: float, scale: float, x: float, y: float) -> torch.Tensor:
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    return torch.tensor([[[c, -s, x], [s, c, y]]], dtype=torch.float64)


def _ramp(height: int, width: int) -> torch.Tensor:
    """An image whose two channels are the pixel centres' x and y."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None].double()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 4.0, 6.3])
def test_crop_of_a_ramp_reads_the_positions_of_the_transform(scale: float) -> None:
    transform = _transform(0.4, scale, 150.0, 40.0)
    crop = differentiable_crop(_ramp(320, 400), transform, 24)
    centres = _ramp(24, 24)[0].flatten(1).T[None]
    expected = apply_transform(transform, centres)[0].T.reshape(2, 24, 24)
    assert (crop[0] - expected).abs().max() < 1e-6 * 400 + (0 if scale < 2 else 0.02)


def test_crop_with_the_identity_is_the_image() -> None:
    image = torch.rand(2, 3, 20, 30)
    same = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, -1, -1)
    assert torch.allclose(differentiable_crop(image, same, (20, 30)), image, atol=1e-5)


def test_shrinking_averages_instead_of_aliasing() -> None:
    board = ((torch.arange(600)[:, None] + torch.arange(600)) % 2).double().expand(1, 1, -1, -1)
    crop = differentiable_crop(board, _transform(0.3, 7.3, 250, 100), 32)
    assert (crop - 0.5).abs().max() < 0.05


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 2, 40, 40, dtype=torch.float64)
    image = torch.nn.functional.interpolate(image, scale_factor=2, mode="bicubic").requires_grad_()
    transform = _transform(0.2, 2.3, 12.0, 9.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda i: differentiable_crop(i, transform, 8), image, fast_mode=True)
    smooth = torch.sin(_ramp(80, 80) / 15)
    crop = differentiable_crop(smooth, transform, 8).square().sum()
    (gradient,) = torch.autograd.grad(crop, transform)
    for index in ((0, 0, 0), (0, 1, 0), (0, 0, 2)):
        step = torch.zeros_like(transform)
        step[index] = 1e-3
        with torch.no_grad():
            high, low = (differentiable_crop(smooth, transform + sign * step, 8).square().sum() for sign in (1, -1))
        assert gradient[index] == pytest.approx(float(high - low) / 2e-3, rel=0.02)


@pytest.mark.parametrize(("scale", "height", "width"), [(0.7, 40, 40), (1.9, 60, 50), (4.3, 171, 150)])
def test_a_fixed_crop_is_the_same_crop(scale: float, height: int, width: int) -> None:
    """A table of pixels against torch's sampler: crops and gradients, partly beyond the border; two images."""
    transform = torch.cat([_transform(0.3, scale, 9.0, 4.0), _transform(-0.1, 0.9 * scale, -6.0, 11.0)]).float()
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fixed = Cropper.fixed(transform, 24, (height, width))
    expected = differentiable_crop(image, transform, 24)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(1))
    found = fixed(image)
    assert fixed.table is not None and found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5
    slopes = [torch.autograd.grad((crop * weights).sum(), image)[0] for crop in (found, expected)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-5 * slopes[1].abs().max()


def test_similarity_is_recovered_and_inverted() -> None:
    torch.manual_seed(1)
    true = _transform(-0.7, 1.9, 30.0, -4.0)
    points = torch.rand(1, 5, 2, dtype=torch.float64) * 100
    found = similarity_transform(points, apply_transform(true, points))
    assert torch.allclose(found, true, atol=1e-9)
    assert torch.allclose(apply_transform(invert_transform(true), apply_transform(true, points)), points, atol=1e-9)


def test_similarity_is_the_least_squares_one() -> None:
    torch.manual_seed(2)
    source, target = torch.rand(1, 6, 2, dtype=torch.float64), torch.rand(1, 6, 2, dtype=torch.float64)
    x, y = source[0].T
    zero, one = torch.zeros(6), torch.ones(6)
    system = torch.cat([torch.stack([x, -y, one, zero], 1), torch.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(system.numpy(), target[0].T.reshape(-1).numpy(), rcond=None)[0]
    expected = torch.tensor([[[a, -b, tx], [b, a, ty]]])
    assert torch.allclose(similarity_transform(source, target), expected, atol=1e-9)


def test_square_is_centred_and_turned() -> None:
    transform = square_transform(torch.tensor([[50.0, 60.0]]), torch.tensor([40.0]), torch.tensor([math.pi / 2]), 10)
    corners = apply_transform(transform, torch.tensor([[[5.0, 5.0], [10.0, 5.0]]]))[0]
    assert torch.allclose(corners, torch.tensor([[50.0, 60.0], [50.0, 80.0]]), atol=1e-4)


@pytest.mark.parametrize("scale", [0.8, 9.0])
def test_photo_crop_equals_the_differentiable_crop(scale: float) -> None:
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.random((1, 3, 12, 16), dtype=np.float32))
    image = torch.nn.functional.interpolate(coarse, scale_factor=60, mode="bicubic").clamp(0, 1)
    photo = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    transform = _transform(0.3, scale, 300, 100).float()
    expected = differentiable_crop(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255, transform, 48)
    assert (crop_photo(photo, transform[0], 48) - expected).abs().max() < 0.01
