# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of skin's colour: how it spreads among people, and where a photo shows this person's: the cheeks tell
it from hair, collars and whatever lies over it."""
import torch
from torch import Tensor

from backend.constants import constant
from backend.render.color import LUMA, srgb_to_linear

RED_OVER_GREEN, BLUE_OVER_GREEN = (0.44, -0.25), (-0.37, 0.09)
"""Logarithms of the usual ratios at luma 1, and their slopes over the logarithm of luma: lines through the cheeks'
linear albedo of the generator's training people (440 of log luma -2.2 to -0.3), in dark skin half way to ColorChecker's
patch, which is less red than theirs."""
USUAL_TONE, TONE_SPREAD, HUE_SPREAD = -1.3, 1.4, 0.08
"""Mean over people of log luma (CIELAB's L* is 61); standard deviations among people of log luma, and of the logarithms
of both ratios among people of one luma (2.5 units of a* and b*: an estimate). That of luma is twice what it is: dark
faces are exposed longer, so what is left of their darkness in a photo is nearly all the skin's. A prior as narrow as
people are would make dark skin lighter, by 4 units of L* at 35."""
FLOOR = 0.004
"""Linear value below which logarithms are cut: sensor noise."""
SPREAD = (0.05, 0.10, 0.30)
"""Smallest standard deviations of log(red / green), log(blue / green) and log(green) over one face: cheeks are lit
more evenly than foreheads and jaws."""
LIMIT = 3.0
"""Mahalanobis distance at which a pixel is as likely skin as not."""
MIN_PIXELS = 60
"""Fewer pixels than this say nothing about a person's colour."""


def log_colour(photo: Tensor) -> Tensor:
    """(..., 3) encoded sRGB -> log(red / green), log(blue / green), log(green) of the linear values."""
    log = srgb_to_linear(photo).clamp(min=FLOOR).log()
    return torch.cat([ratios(log), log[..., 1:2]], -1)


def colour_statistics(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3,) and inverse covariance (3, 3) of skin colours (N, 3), with outliers (a strand of hair, a highlight)
    taken off once and the spread of at least `SPREAD`."""
    centre = colours.median(0).values
    near = (colours - centre).abs() < 3 * (1.4826 * (colours - centre).abs().median(0).values).clamp(
        min=colours.new_tensor(SPREAD))
    kept = colours[near.all(-1)]
    mean = kept.mean(0)
    offset = kept - mean
    covariance = offset.T @ offset / len(kept) + torch.diag(colours.new_tensor(SPREAD) ** 2)
    return mean, torch.linalg.inv(covariance)


def usual_ratios(luma: Tensor) -> Tensor:
    """(..., 2) logarithms of red / green and blue / green of the usual skin of a log luma (...)."""
    return torch.stack([at + slope * luma for at, slope in (RED_OVER_GREEN, BLUE_OVER_GREEN)], -1)


def log_luma(log: Tensor) -> Tensor:
    """Weighted mean (...) of the logarithms (..., 3) of linear colours."""
    return (log * constant(LUMA, log)).sum(-1)


def ratios(log: Tensor) -> Tensor:
    """(..., 2) logarithms of red / green and blue / green from the logarithms (..., 3) of linear colours."""
    return torch.stack([log[..., 0] - log[..., 1], log[..., 2] - log[..., 1]], -1)


def of_ratios(luma: Tensor, hue: Tensor) -> Tensor:
    """The logarithms (..., 3) whose `log_luma` (...) and `ratios` (..., 2) these are."""
    green = luma - LUMA[0] * hue[..., 0] - LUMA[2] * hue[..., 1]
    return torch.stack([green + hue[..., 0], green, green + hue[..., 1]], -1)


@torch.no_grad()
def skin_likelihood(photo: Tensor, cheeks: Tensor) -> Tensor:
    """How likely every pixel is this person's skin.

    photo: (B, H, W, 3) encoded sRGB in [0, 1]; cheeks: (B, H, W, 1), above 0.5 where the aligned head shows its cheeks
    and nose. Returns (B, H, W, 1) in [0, 1]; 1 everywhere where too few cheek pixels are seen. Lips, brows and beards
    are no skin by this measure: ask it only where nothing but skin is expected.
    """
    colours = log_colour(photo)
    out = torch.ones_like(photo[..., :1])
    for i, (picture, mask) in enumerate(zip(colours, cheeks[..., 0] > 0.5, strict=True)):
        if int(mask.sum()) < MIN_PIXELS:
            continue
        mean, inverse = colour_statistics(picture[mask])
        offset = picture - mean
        distance = ((offset @ inverse) * offset).sum(-1).clamp(min=0).sqrt()
        out[i, ..., 0] = torch.sigmoid(4 * (LIMIT - distance))
    # Edges of hair are mixed colours: a pixel counts as skin when its neighbourhood does.
    small = -torch.nn.functional.max_pool2d(-out.permute(0, 3, 1, 2), 3, 1, 1)
    return torch.nn.functional.avg_pool2d(small, 5, 1, 2, count_include_pad=False).permute(0, 2, 3, 1)
