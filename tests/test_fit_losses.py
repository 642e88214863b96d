# SPDX-License-Identifier: GPL-3.0-or-later
"""Every term of the energy against a case worked out by hand."""
import math

import pytest
import torch

from backend.fit import losses
from backend.fit.skin import log_luma, ratios
from backend.render.color import linear_to_srgb


def test_content_distance_is_norm_over_size() -> None:
    """Two layers: |(3, 4)| / 2 and |(0, 0, 12, 5)| / 4."""
    a = [torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 2, 2)]
    b = [torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 0, 12, 5]).reshape(1, 1, 2, 2)]
    assert losses.content_distance(a, b).item() == pytest.approx(5 / 2 + 13 / 4)


def test_pixel_distance_inside_the_mask() -> None:
    """Half of the pixels count, each differs by 0.1 in one of three channels: 0.1 / 3, free of the other half."""
    photo, render, mask = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 1)
    render[0, 0, :, 1] = 0.1
    render[0, 1] = 1.0
    mask[0, 0] = 1
    assert losses.pixel_distance(photo, render, mask, robust=False).item() == pytest.approx(0.1 / 3)
    assert losses.pixel_distance(photo, render, mask * 0).item() == 0


def test_robust_weights_are_geman_mcclure() -> None:
    """A residual equal to the scale in every channel has weight 1/4, none has weight 1; no gradient passes."""
    difference = torch.tensor([[0.0] * 3, [0.2] * 3]).reshape(1, 1, 2, 3).requires_grad_(True)
    weights = losses.robust_weights(difference, 0.2)
    assert weights.flatten().tolist() == pytest.approx([1.0, 0.25])
    assert not weights.requires_grad


def test_landmark_distance_in_interocular_units() -> None:
    """(3, 4) pixels at 50 pixels between the eyes is 0.1, less the width of the Charbonnier norm."""
    a, b = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    expected = math.sqrt(0.1**2 + 0.005**2) - 0.005
    unit = torch.tensor([50.0])
    assert losses.landmark_distance(a, b, unit).item() == pytest.approx(expected / 2, rel=1e-5)
    weighted = losses.landmark_distance(a, b, unit, torch.tensor([1.0, 0.0]))
    assert weighted.item() == pytest.approx(expected, rel=1e-5)


def test_landmark_distance_has_a_gradient_at_zero() -> None:
    """No NaN where prediction and target agree."""
    a = torch.zeros(1, 3, 2, requires_grad=True)
    losses.landmark_distance(a, torch.zeros(1, 3, 2), torch.ones(1)).backward()
    assert torch.equal(a.grad, torch.zeros(1, 3, 2))


def test_gaussian_prior_is_mean_square() -> None:
    """(9 + 16) / 2."""
    assert losses.gaussian_prior(torch.tensor([[3.0, -4.0]])).item() == 12.5


def test_palette_prior_holds_hue_and_lets_eyeballs_darken() -> None:
    """A step of 0.1 in all channels is 1, or 0.08 in the shade; a step of hue counts the same in both."""
    shaded = torch.tensor([True, False])
    darker = torch.tensor([[-0.1] * 3, [0.0] * 3])
    assert losses.palette_prior(darker[None], shaded).item() == pytest.approx(0.08 / 2)
    assert losses.palette_prior(darker.flip(0)[None], shaded).item() == pytest.approx(1 / 2)
    hue = torch.tensor([[0.1, 0.0, -0.1], [0.0] * 3])
    assert losses.palette_prior(hue[None], shaded).item() == pytest.approx(2 / 6)
    assert losses.palette_prior(hue.flip(0)[None], shaded).item() == pytest.approx(2 / 6)


def test_tint_is_the_same_at_any_brightness() -> None:
    """A map twice as bright has the same tint; e^0.1 times as much red moves the first coordinate by one."""
    skin = torch.tensor([0.30, 0.20, 0.10]).reshape(1, 3, 1, 1).expand(1, 3, 64, 64)
    redder = skin * torch.tensor([math.exp(0.1), 1.0, 1.0]).reshape(1, 3, 1, 1)
    usual, bright, red = (losses.tint(linear_to_srgb(m)) for m in (skin, 2 * skin, redder))
    assert usual.shape == (1, 32, 32, 2)
    torch.testing.assert_close(bright, usual, atol=1e-4, rtol=0)
    assert (red - usual).mean((0, 1, 2)).tolist() == pytest.approx([1, 0], abs=1e-4)
    assert usual[0, 0, 0].tolist() == pytest.approx([10 * math.log(1.5), 10 * math.log(0.5)], abs=1e-3)


def test_light_prior_prefers_grey_light_of_the_usual_brightness() -> None:
    """Zero for a constant grey radiance whose irradiance is 0.7 pi: c00 = 0.7 * sqrt(4 pi); one for a spread more."""
    sh = torch.zeros(1, 9, 3)
    sh[:, 0] = 0.7 * math.sqrt(4 * math.pi)
    assert losses.light_prior(sh, torch.zeros(1, 3)).item() == pytest.approx(0, abs=1e-9)
    assert losses.light_prior(sh * math.exp(0.35), torch.zeros(1, 3)).item() == pytest.approx(1, rel=1e-4)
    tinted = sh.clone()
    tinted[:, 0, 0] *= math.exp(0.1)
    assert losses.light_prior(tinted, torch.zeros(1, 3)).item() > 0.2


def test_skin_and_light_share_what_is_unusual_in_a_photo() -> None:
    """Of the colour that both together show each takes the share of its variance: the product of two Gaussians."""
    seen = torch.tensor([0.30, 0.22, 0.20], dtype=torch.float64).log()  # a dim, bluish picture of the cheeks
    albedo = seen.clone()[None].requires_grad_()
    usual = torch.tensor([0.74, -0.48], dtype=torch.float64)
    descent = torch.optim.SGD([albedo], lr=1e-3)
    for _ in range(4000):
        sh = torch.zeros(1, 9, 3, dtype=torch.float64)
        sh[:, 0] = (seen - albedo).exp() * math.sqrt(4 * math.pi)
        descent.zero_grad()
        light = losses.light_prior(sh, torch.zeros(1, 3, dtype=torch.float64))
        (losses.tone_prior(albedo, usual[None]) + light).backward()
        descent.step()
    skin = albedo.detach()[0]
    shown = float(log_luma(seen)) - math.log(0.7)
    assert float(log_luma(skin)) == pytest.approx(-1.3 + 16 / 17 * (shown + 1.3), abs=1e-4)
    assert (ratios(skin) - usual).tolist() == pytest.approx(
        (0.08**2 / (0.08**2 + 0.14**2) * (ratios(seen) - usual)).tolist(), abs=1e-4)


def test_mean_colour_of_a_map_is_weighted_in_linear_light() -> None:
    """Half of the weight on a bright, half on a dark square: the mean of their linear values."""
    linear = torch.zeros(1, 3, 64, 64)
    linear[..., :32], linear[..., 32:] = 0.6, 0.2
    weight = torch.zeros(4, 4)
    weight[1, 0] = weight[2, 3] = 0.5
    torch.testing.assert_close(losses.mean_colour(linear_to_srgb(linear), weight).exp(), torch.full((1, 3), 0.4))


def test_distance_prior_in_sigmas() -> None:
    """Two sigma away costs four."""
    assert losses.distance_prior(torch.tensor([[0.7]]), -0.1, 0.4).item() == pytest.approx(4)
