# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural skin grain: pores, mottling and fine lines that no photo of a whole face resolves."""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from backend.refine.pyramid import down, join, up

WAVELENGTHS_MM = (0.25, 0.5, 1.0, 2.0, 4.0)
STRENGTH: dict[str, tuple[float, ...]] = {
    "skin": (0.0051, 0.0066, 0.0073, 0.0073, 0.0077),
    "cheek": (0.0060, 0.0088, 0.0109, 0.0100, 0.0092),
    "forehead": (0.0096, 0.0113, 0.0089, 0.0091, 0.0105),
    "nose": (0.0085, 0.0080, 0.0084, 0.0105, 0.0102),
    "lips": (0.0077, 0.0082, 0.0099, 0.0141, 0.0180),
}
"""Standard deviation of the logarithm of albedo per octave around each wavelength; `skin` is the chin's. Measured on
the 8192-texel maps "Reom" (CC-BY, ComplexAce and Hope), the mean of the light and the dark one, cheeks averaged."""
CHANNELS = (0.69, 1.08, 1.19)
"""Strength of the grain in red, green and blue over that of its luma; the same maps, octaves up to 1 mm."""
SKEW = 0.07
"""Weight of the squared noise that makes pores darker than ridges are bright: a skewness of -0.4, as measured."""
ENLARGED = 0.58
"""What is left of an octave's deviation when it is enlarged bilinearly: the noise is made stronger by this."""
NONE_IN = ("socket", "mouth_bag", "nostril")
LIP_STRETCH = 4
"""Length of the lips' lines over their width."""
SLOPE = (0.075, 0.07, 0.05, 0.035, 0.02)
"""Root mean square slope of the relief per octave where the grain is as strong as a cheek's: together 7 degrees."""


def table_at(values: tuple[float, ...], wavelength_mm: float) -> float:
    """A value per wavelength, interpolated over the logarithm; constant beyond the ends."""
    return float(np.interp(math.log(wavelength_mm), np.log(WAVELENGTHS_MM), values))


def octaves(size: int, mm_per_texel: float) -> list[float]:
    """Wavelengths (mm) of the bands of a map that hold grain, from fine to coarse."""
    return [3 * 2**k * mm_per_texel for k in range(8) if k == 0 or 3 * 2**k * mm_per_texel < 6.0]


def strength_map(regions: dict[str, Tensor], wavelength_mm: float) -> Tensor:
    """(1, 1, R, R) standard deviation of the grain around a wavelength."""
    strength = torch.full_like(regions["covered"], table_at(STRENGTH["skin"], wavelength_mm))
    for name in STRENGTH:
        if name != "skin":
            strength = torch.lerp(strength, torch.full_like(strength, table_at(STRENGTH[name], wavelength_mm)),
                                  regions[name])
    for name in NONE_IN:
        strength = strength * (1 - regions[name])
    return strength * regions["covered"] * regions["even"]


def noise_band(size: int, lips: Tensor, rng: torch.Generator) -> Tensor:
    """(1, 1, size, size) one octave of skewed noise, unit variance; on the lips in lines that run down the face."""
    plain = torch.randn(1, 1, size, size, generator=rng)
    lines = torch.randn(1, 1, max(2, size // LIP_STRETCH), size, generator=rng)
    lines = torch.nn.functional.interpolate(lines, (size, size), mode="bilinear", align_corners=False)
    noise = []
    for white in (plain, lines):
        band = white - up(down(white), size)
        band = band / band.std()
        noise.append(band - SKEW * (band * band - 1))
    return torch.lerp(noise[0], noise[1], lips.cpu())


def grain(size: int, mm_per_texel: float, regions: dict[str, Tensor], missing: list[Tensor],
          seed: int) -> tuple[Tensor, Tensor]:
    """Grain where the photos show none.

    Args:
        size: side of the map, texels.
        regions: name -> (1, 1, r, r), r at most `size`.
        missing: per octave of `octaves` (1, 1, r, r) in [0, 1]: how much of it no photo shows.

    Returns:
        (1, 3, size, size) addition to the logarithm of linear albedo, and (1, 1, size, size) relief in millimetres.
    """
    rng = torch.Generator().manual_seed(seed)
    colour, relief = [], []
    for k, wavelength in enumerate(octaves(size, mm_per_texel)):
        side = size >> k
        strength = resized(strength_map(regions, wavelength) * missing[k], side)
        band = noise_band(side, resized(regions["lips"], side), rng).to(strength.device) * strength
        band = band / ENLARGED if k else band
        colour.append(band)
        relief.append(band * (table_at(SLOPE, wavelength) / table_at(STRENGTH["cheek"], wavelength)
                              * wavelength / (2 * math.pi)))
    channels = regions["covered"].new_tensor(CHANNELS)[:, None, None]
    return join(colour, size) * channels, join(relief, size)


def resized(values: Tensor, side: int) -> Tensor:
    """(1, C, r, r) averaged down or bilinearly up to `side` texels a side; both powers of two."""
    if values.shape[-1] > side:
        return torch.nn.functional.avg_pool2d(values, values.shape[-1] // side)
    return up(values, side)
