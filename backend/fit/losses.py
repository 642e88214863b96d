# SPDX-License-Identifier: GPL-3.0-or-later
"""The terms of GANFIT's energy as pure functions (Gecer et al., CVPR 2019, Sec. 3.3)."""
import math

import torch
from torch import Tensor

from backend.constants import constant
from backend.fit.skin import HUE_SPREAD, TONE_SPREAD, USUAL_TONE, log_colour, log_luma, ratios
from backend.render.color import LUMA, srgb_to_linear

WHITE_IRRADIANCE = math.pi
"""A white, unshaded surface under this irradiance encodes to exactly 1 (out = albedo / pi * E)."""

TINT_SIZE, TINT_SPREAD = 32, 0.1
"""Side of the map whose tints are compared and whose cheeks are measured; spread of logarithms that counts as one."""

EXPOSURE, EXPOSURE_SPREAD, BALANCE_SPREAD = 0.7, 0.35, 0.14
"""Mean irradiance over all directions that photographers choose, in shares of WHITE_IRRADIANCE; standard deviations of
its logarithm, and of those of red / green and blue / green in what the photo's white balance leaves of the light's hue.
The latter: 73 portraits' cheeks have ratios that spread by 0.155 and 0.178 around usual skin's, which people explain by
`skin.HUE_SPREAD`."""


def as_grey(rgb: Tensor, grey: Tensor) -> Tensor:
    """rgb (B, H, W, 3); views with grey (B,) set are replaced by their luma, as a black-and-white film would.

    A grey photo says nothing of hue: the gradient brightens all three channels by the same factor, where luma's own
    would turn teeth green.
    """
    luma = (rgb * constant(LUMA, rgb)).sum(-1, keepdim=True).detach()
    log = rgb.clamp(min=0.02).log().mean(-1, keepdim=True)
    same_hue = (luma * torch.exp(log - log.detach())).expand_as(rgb)
    return torch.where(grey[:, None, None, None], same_hue, rgb)


def content_distance(photo: list[Tensor], render: list[Tensor]) -> Tensor:
    """`L_con` (Eq. 5): (B,) sum over layers of the L2 norm of the difference over H * W * C.

    photo, render: lists of (B, C, H, W) activations of the same network.
    """
    norms = [(a - b).flatten(1).norm(dim=1) / a[0].numel() for a, b in zip(photo, render, strict=True)]
    return torch.stack(norms).sum(0)


def robust_weights(difference: Tensor, scale: float = 0.2) -> Tensor:
    """Weights in (0, 1] that fall with the size of a residual, constants for the gradient (Geman-McClure).

    difference: (B, H, W, C), encoded sRGB. Occluders, hair and glasses differ by more than `scale` and stop pulling.
    Returns (B, H, W, 1).
    """
    square = (difference.detach() ** 2).mean(-1, keepdim=True)
    return 1 / (1 + square / scale**2) ** 2


def pixel_distance(photo: Tensor, render: Tensor, mask: Tensor, robust: bool = True,
                   owner: Tensor | None = None, people: int = 1) -> Tensor:
    """`L_pix` (Eq. 6): (P,) weighted mean absolute difference of encoded colours over all pictures of a person.

    photo, render: (B, H, W, 3) in [0, 1]; mask: (B, H, W, 1) in [0, 1], constant. An empty mask gives 0. owner: (B,)
    number of the person that a picture shows, None where all show one.
    """
    difference = photo - render
    weights = mask * robust_weights(difference) if robust else mask
    total, area = (weights * difference.abs()).sum((1, 2, 3)), 3 * mask.sum((1, 2, 3))
    return sum_by_person(total, owner, people) / sum_by_person(area, owner, people).clamp(min=1)


def sum_by_person(values: Tensor, owner: Tensor | None, people: int) -> Tensor:
    """(P,) sums of values (B,) of pictures over those of each person, `owner` (B,); None: all are of one.

    Not by a product with zeros and ones, which would hand one person's NaN to the others.
    """
    if owner is None or people == 1:
        return values.sum()[None]
    if people == len(values):
        return values
    return values.new_zeros(people).index_add(0, owner, values)


def landmark_distance(a: Tensor, b: Tensor, unit: Tensor, weights: Tensor | None = None) -> Tensor:
    """`L_lan` (Eq. 7): (B,) weighted mean distance of corresponding points in units of the interocular distance.

    a, b: (B, N, 2) pixels; unit: (B,) pixels; weights: (N,) or (B, N). A Charbonnier norm with a width of 0.5 %
    keeps the gradient finite at zero.
    """
    distance = (((a - b) / unit[:, None, None]) ** 2).sum(-1).add(0.005**2).sqrt() - 0.005
    if weights is None:
        return distance.mean(1)
    weights = weights.expand_as(distance)
    return (weights * distance).sum(1) / weights.sum(1).clamp(min=1e-9)


def tint(texture: Tensor) -> Tensor:
    """Hue and saturation of maps (P, 3, R, R), encoded, R a multiple of TINT_SIZE: log(red / green) and
    log(blue / green) of their means over squares, (P, TINT_SIZE, TINT_SIZE, 2), in units of TINT_SPREAD."""
    small = torch.nn.functional.interpolate(texture, (TINT_SIZE, TINT_SIZE), mode="area").permute(0, 2, 3, 1)
    return log_colour(small)[..., :2] / TINT_SPREAD


def gaussian_prior(coefficients: Tensor) -> Tensor:
    """Mean square over all but the first dimension: the negative log of a standard normal up to constants."""
    return (coefficients**2).flatten(1).mean(1)


def palette_prior(step: Tensor, shaded: Tensor) -> Tensor:
    """(P,) mean square of the palettes' step (P, N, 3) from the usual colours, in units of 0.1.

    Where `shaded` (N,) is True, brightness is nearly free (`SHADE` of the weight) and only hue is held: lids, lashes
    and lips shade eyeballs and teeth by an amount that the light model does not know.
    """
    grey = step.mean(-1, keepdim=True)
    share = 1 - (1 - SHADE) * shaded.to(step.dtype)[:, None]
    return ((step - grey).square() + share * grey.square()).mean((1, 2)) / 0.1**2


SHADE = 0.08
"""How much of the palette's weight holds the brightness of what is shaded: eyeballs and teeth."""


def mean_irradiance(sh: Tensor, sun_rgb: Tensor) -> Tensor:
    """(B, 3) over all normals: pi * c00 * Y00 + sun / 4, positive; sh: (B, 9, 3) radiance; sun_rgb: (B, 3)."""
    return (math.pi * sh[:, 0] / math.sqrt(4 * math.pi) + sun_rgb / 4).clamp(min=1e-3)


def light_prior(sh: Tensor, sun_rgb: Tensor) -> Tensor:
    """(B,) the light's share of the gauge in `albedo x light`, see `tone_prior`: grey, and bright enough for skin.

    sh: (B, 9, 3) radiance; sun_rgb: (B, 3) irradiance. Squares of the logarithms of the mean irradiance's luma and of
    its channels' ratios over their spreads. Bands 1 and 2 of different channels have the same shape (0.1).
    """
    mean = mean_irradiance(sh, sun_rgb)
    log = torch.log(mean / (EXPOSURE * WHITE_IRRADIANCE))
    directional = sh[:, 1:] / mean[:, None]
    tint = directional - directional.mean(-1, keepdim=True)
    return ((log_luma(log) / EXPOSURE_SPREAD) ** 2 + ((ratios(log) / BALANCE_SPREAD) ** 2).sum(-1)
            + ((tint / 0.1) ** 2).mean((1, 2)))


def tone_prior(cheeks: Tensor, usual_hue: Tensor) -> Tensor:
    """(P,) the skin's share of the gauge in `albedo x light`: skin is as bright as people's, and has its hue.

    cheeks: (P, 3) logarithm of the cheeks' linear albedo; usual_hue: (P, 2) ratios of people's skin of that brightness,
    see `skin.usual_ratios`, a constant, so that hue says nothing of brightness. With `light_prior` at the same weight
    skin and light share what is unusual in a photo as their spreads tell (the maximum of the product of two normal
    distributions).
    """
    hue = (ratios(cheeks) - usual_hue) / HUE_SPREAD
    return ((log_luma(cheeks) - USUAL_TONE) / TONE_SPREAD) ** 2 + hue.square().sum(-1)


def mean_colour(texture: Tensor, weight: Tensor) -> Tensor:
    """(P, 3) logarithm of the weighted mean, linear, of maps (P, 3, R, R), encoded; weight (T, T), sum 1: of squares
    that divide the map, each at its encoded mean."""
    small = torch.nn.functional.interpolate(texture, weight.shape, mode="area")
    return (srgb_to_linear(small) * weight).sum((2, 3)).clamp(min=1e-4).log()


def distance_prior(log_distance: Tensor, mean: float, sigma: float) -> Tensor:
    """(B,) squared deviation of the log distance (B, 1), in standard deviations."""
    return (((log_distance - mean) / sigma) ** 2).mean(1)
