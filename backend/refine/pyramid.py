# SPDX-License-Identifier: GPL-3.0-or-later
"""Gaussian pyramids of maps that are known in places, and the bands between their levels."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-6


def down(x: Tensor) -> Tensor:
    """Half the side of (B, C, H, W) after the binomial filter 1 3 3 1, edges repeated; mirrors to itself."""
    kernel = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    channels = x.shape[1]
    x = F.conv2d(F.pad(x, (1, 1, 0, 0), "replicate"), kernel.expand(channels, 1, 1, 4), stride=(1, 2), groups=channels)
    column = kernel[:, None].expand(channels, 1, 4, 1)
    return F.conv2d(F.pad(x, (0, 0, 1, 1), "replicate"), column, stride=(2, 1), groups=channels)


def up(x: Tensor, size: int) -> Tensor:
    """(B, C, h, w) enlarged to `size` texels a side, doubling it bilinearly as often as needed."""
    while x.shape[-1] < size:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x


@dataclass(frozen=True)
class Bands:
    """A map (1, C, R, R) that is known where its weight is high, as bands from fine to coarse and what remains.

    bands[k] (1, C, R >> k, R >> k) holds wavelengths around 3 * 2^k texels; weights[k] (1, 1, R >> k, R >> k) says how
    well it is known; rest is the level below the last band.
    """

    bands: list[Tensor]
    weights: list[Tensor]
    rest: Tensor


def split(values: Tensor, weight: Tensor, count: int) -> Bands:
    """Bands of `values` (1, C, R, R) under a weight (1, 1, R, R) in [0, 1]; R is a multiple of 2^count.

    Every level is a weighted mean (normalised convolution, Knutsson and Westin 1993): what has no weight leaves no
    trace in any band, and no edge appears where the weight ends.
    """
    bands, weights = [], []
    level, value = values * weight, values
    for _ in range(count):
        smaller, smaller_weight = down(level), down(weight)
        coarse = smaller / smaller_weight.clamp_min(TINY)
        bands.append((value - up(coarse, value.shape[-1])) * (weight > TINY))
        weights.append(weight)
        level, weight, value = smaller, smaller_weight, coarse
    return Bands(bands, weights, value)


def join(bands: list[Tensor], size: int) -> Tensor:
    """Sum of bands (1, C, h_k, h_k), each half as large as the one before, as a map (1, C, size, size)."""
    total = bands[-1]
    for band in reversed(bands[:-1]):
        total = up(total, band.shape[-1]) + band
    return up(total, size)


def filled(weighted: Tensor, weight: Tensor, known: Tensor | None = None) -> Tensor:
    """(1, C, R, R) `weighted` over `weight` where `known` (None: the weight) is 1, else of ever wider neighbourhoods
    (push-pull, Gortler et al. 1996)."""
    known = (weight if known is None else known).clamp(0, 1)
    value = weighted / weight.clamp_min(TINY)
    if weight.shape[-1] <= 4:
        return value
    coarse = filled(F.avg_pool2d(weighted, 2), F.avg_pool2d(weight, 2), F.avg_pool2d(known, 2))
    return torch.lerp(F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False), value, known)
