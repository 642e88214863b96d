# SPDX-License-Identifier: GPL-3.0-or-later
"""Lights against Monte Carlo integration, and their projections."""

from __future__ import annotations

import json
import math

import pytest
import torch

from backend.render.lights import Lights, random_lights, sh_basis, sphere_directions


def lights(batch: int = 2) -> Lights:
    return random_lights(batch, torch.Generator().manual_seed(5))


def unit(count: int, seed: int) -> torch.Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(points, dim=-1)


def test_basis_is_orthonormal_and_in_the_right_order():
    directions = unit(400_000, 0)
    basis = sh_basis(directions)
    gram = basis.T @ basis * (4 * math.pi / len(directions))
    assert (gram - torch.eye(9)).abs().max() < 0.02
    y1 = math.sqrt(3 / (4 * math.pi))
    assert torch.allclose(sh_basis(torch.eye(3))[:, 1:4], y1 * torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    assert sh_basis(torch.tensor([0.6, 0.8, 0.0]))[4] == pytest.approx(0.48 * math.sqrt(15 / (4 * math.pi)))


def test_irradiance_equals_monte_carlo_integration():
    """E(n) = integral of L(w) max(0, n.w): the radiance of the coefficients summed over 400,000 directions."""
    light = lights()
    directions = unit(400_000, 1)
    radiance = light.radiance(directions.float()).double()
    normals = unit(6, 2)
    cosine = (normals @ directions.T).clamp_min(0.0)
    expected = 4 * math.pi / len(directions) * cosine @ radiance
    sky = Lights(light.sh, light.sun_direction, torch.zeros_like(light.sun_rgb))
    assert torch.allclose(sky.irradiance(normals.float().expand(2, -1, -1)).double(), expected, rtol=0.01, atol=0.01)


def test_even_light_shows_the_albedo_and_the_sun_follows_the_cosine():
    ambient = torch.full((1, 3), math.pi)
    even = Lights.ambient_and_sun(ambient, torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(1, 3))
    normals = unit(5, 3).float()[None]
    assert torch.allclose(even.irradiance(normals), torch.full((1, 5, 3), math.pi), rtol=1e-5)
    assert torch.allclose(even.radiance(normals[0]), torch.ones(1, 5, 3), rtol=1e-5)
    sun = Lights.ambient_and_sun(torch.zeros(1, 3), torch.tensor([[0.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]))
    tilted = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]])
    assert torch.allclose(sun.irradiance(tilted)[0, :, 1], torch.tensor([1.6, 1.2, 0.0]), atol=1e-6)


def test_ambient_occlusion_dims_the_sky_only():
    light = Lights.ambient_and_sun(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3))
    up = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert light.irradiance(up, torch.tensor([[[0.25]]]))[0, 0, 0] == pytest.approx(1.25, abs=1e-5)


def test_point_light_falls_off_with_the_square_of_the_distance():
    position = torch.tensor([[0.0, 0.0, 2.0]])
    light = Lights(torch.zeros(1, 9, 3), position / 2, torch.ones(1, 3), point_position=position)
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2.0, 0.0, 2.0]]])
    normals = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [-0.6, 0.0, 0.8]]])
    assert torch.allclose(light.irradiance(normals, points=points)[0, :, 0], torch.tensor([1.0, 4.0, 0.6]), atol=1e-5)


def test_negative_radiance_is_punished_and_projected_away():
    sh = torch.zeros(1, 9, 3)
    sh[:, 0] = 1.0
    sh[:, 2, 0] = 3.0
    light = Lights(sh.requires_grad_(), torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[-1.0, 0.5, 0.5]]))
    penalty = light.nonnegative_radiance_penalty()
    penalty.backward()
    assert penalty > 0.05 and sh.grad[0, 2, 0] > 0 and sh.grad[0, 2, 1] == 0
    fixed = light.detach().nonnegative()
    assert fixed.radiance(sphere_directions(5000)).min() > -1e-3
    assert fixed.sun_rgb.min() == 0
    assert torch.equal(fixed.sh[:, 0], sh[:, 0]) and torch.equal(fixed.sh[..., 1:], sh[..., 1:])
    assert fixed.nonnegative_radiance_penalty() < 1e-6


def test_random_lights_are_plausible_and_repeatable():
    many = random_lights(64, torch.Generator().manual_seed(0))
    assert many.radiance(sphere_directions(2000)).min() > -1e-3
    front = many.irradiance(torch.tensor([0.0, 0.0, 1.0]).expand(64, 1, 3)) / math.pi
    assert front.min() > 0.5 and front.max() < 1.5
    assert torch.allclose(many.sun_direction.norm(dim=-1), torch.ones(64), atol=1e-6) and many.sun_rgb.min() >= 0
    assert torch.equal(many.sh, random_lights(64, torch.Generator().manual_seed(0)).sh)


def test_result_round_trip():
    light = lights()
    entry = json.loads(json.dumps(light.to_result(1)))
    back = Lights.from_result(entry)
    assert torch.allclose(back.sh[0], light.sh[1]) and torch.allclose(back.sun_rgb[0], light.sun_rgb[1])
    assert torch.allclose(back.sun_direction[0], light.sun_direction[1])
