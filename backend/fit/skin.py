# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a photo shows skin: colour statistics of the cheeks tell it from hair, collars and whatever lies over it."""
import torch
from torch import Tensor

from backend.render.color import srgb_to_linear

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
    red, green, blue = log.unbind(-1)
    return torch.stack([red - green, blue - green, green], -1)


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
