# SPDX-License-Identifier: GPL-3.0-or-later
"""Skin is told from hair by colour, whatever the skin's tone and the light on it."""
from __future__ import annotations

import pytest
import torch

from backend.fit.skin import MIN_PIXELS, log_luma, of_ratios, skin_likelihood, usual_ratios
from backend.render.color import linear_to_srgb, srgb_to_linear

SIZE = 64
TONES = {"pale": (0.62, 0.42, 0.34), "brown": (0.25, 0.14, 0.09), "dark": (0.075, 0.042, 0.030)}
HAIR = {"black": (0.012, 0.010, 0.010), "blond": (0.42, 0.27, 0.10), "grey": (0.33, 0.33, 0.34),
        "green": (0.10, 0.30, 0.10)}


def picture(skin: tuple[float, float, float], hair: tuple[float, float, float]) -> torch.Tensor:
    """A cheek lit from the side with sensor noise, its upper third under hair: (1, SIZE, SIZE, 3) sRGB."""
    rng = torch.Generator().manual_seed(3)
    light = torch.linspace(0.55, 1.35, SIZE)[None, :, None]
    linear = torch.tensor(skin).expand(SIZE, SIZE, 3) * light
    linear[: SIZE // 3] = torch.tensor(hair)
    linear = linear * (1 + 0.05 * torch.randn(SIZE, SIZE, 1, generator=rng))
    return linear_to_srgb(linear.clamp(0, 1))[None]


def cheeks() -> torch.Tensor:
    """Reference pixels in the lower part, a few of them under hair as a misplaced mask has them."""
    mask = torch.zeros(1, SIZE, SIZE, 1)
    mask[:, SIZE // 3 - 2 : 50, 8:56] = 1
    return mask


PAIRS = [(tone, hair) for tone in TONES for hair in HAIR if (tone, hair) != ("dark", "black")]
"""By colour alone black hair on the darkest skin is a shadow."""


@pytest.mark.parametrize(("tone", "hair"), PAIRS)
def test_hair_is_not_skin(tone: str, hair: str) -> None:
    """Across a light that changes by a factor of 2.5 skin stays skin; hair over it is found."""
    found = skin_likelihood(picture(TONES[tone], HAIR[hair]), cheeks())[0, ..., 0]
    assert float(found[SIZE // 3 + 4 : -3, 3:-3].mean()) > 0.9
    assert float(found[3 : SIZE // 3 - 3, 3:-3].mean()) < 0.1


def test_too_few_cheek_pixels_exclude_nothing() -> None:
    """Without a reference every pixel may be skin."""
    mask = torch.zeros(1, SIZE, SIZE, 1)
    mask[0, 30, : MIN_PIXELS - 1] = 1
    assert float(skin_likelihood(picture(TONES["pale"], HAIR["black"]), mask).min()) == 1


@pytest.mark.parametrize("patch", [(115, 82, 68), (194, 150, 130)])
def test_usual_skin_is_that_of_the_colour_checker(patch: tuple[int, int, int]) -> None:
    """ColorChecker's dark and light skin, sRGB: skin of their brightness has their hue."""
    linear = srgb_to_linear(torch.tensor(patch) / 255).log()
    rec709 = torch.tensor([0.2126, 0.7152, 0.0722])
    luma = (linear * rec709).sum()
    assert float(log_luma(linear)) == pytest.approx(float(luma), abs=1e-5)
    usual = of_ratios(luma, usual_ratios(luma))
    assert float((usual * rec709).sum()) == pytest.approx(float(luma), abs=1e-5)
    assert float((usual - linear).abs().max()) < 0.3
