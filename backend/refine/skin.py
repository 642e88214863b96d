# SPDX-License-Identifier: GPL-3.0-or-later
"""Which texels of an unwrapped photo show the person's skin: no hair, glasses, hands, highlights or hard shadows."""
from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.fit.skin import skin_likelihood
from backend.refine.pyramid import split, up
from backend.render.color import LUMA, linear_to_srgb
from backend.texture.unwrap import Unwrapped

SURE, MAYBE = 0.5, 0.25
"""Strength, in logarithms of albedo, from which a texel is surely a thing in front of the skin, and from which it is
one when it lies beside one that surely is."""
LINE = 1 / 42
"""Width of frames and strands of hair, in map sides (about 5 mm)."""
EDGE_SHARE, AREA_SHARE, TINT_SHARE = 0.7, 0.45, 1.0
"""How much a sharp step (the edge of a shadow), a difference that is no line, and one of colour count beside a line."""
FEATURES = ("brow", "eyes", "lips", "beard")
"""Regions where hair and make-up are the person's own."""
FEATURE_REACH = 1 / 36
"""How far around these regions the features may lie, in map sides: brows differ in place."""
FEATURE_SHARE = 0.6
"""A dark outlier that lies there to this share is a brow, lash line or beard."""
BRIDGE = (0.465, 0.535, 0.37, 0.45)
"""Where glasses rest and faces have no feature: left, right, top and bottom in shares of the map, row 0 at the top."""
MOLE = 1 / 40
"""Largest extent of a dark spot of the skin itself, in map sides."""
BIT, BESIDE_FRAMES, FRAME_DARK = 1 / 20, 1 / 40, -1.0
"""Largest extent of a bit of a frame that the known frame has left, in map sides; how far beside that; logarithm of
lightness below which all is frame there."""
CLIPPED = 0.985
"""sRGB value from which a photo is overexposed."""
JUDGED_WAVELENGTH = 1 / 4
"""Differences longer than this share of the map are light and say nothing of what lies over the skin."""
ROBUST_STEPS = 2


def residual(unwrapped: Unwrapped, base: Tensor) -> Tensor:
    """(1, 3, R, R) logarithm of the photo's albedo over the map `base` (1, 3, R, R), both linear."""
    photo = unwrapped.albedo.permute(2, 0, 1)[None]
    return (photo.clamp_min(1e-3) / base.clamp_min(1e-3)).log().clamp(-3, 3)


def luma(values: Tensor) -> Tensor:
    """(1, 1, R, R) weighted mean of the channels of (1, 3, R, R)."""
    return (values * values.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def skin_trust(unwrapped: Unwrapped, difference: Tensor, regions: dict[str, Tensor],
               frames: Tensor | None = None, glasses_possible: bool = False) -> Tensor:
    """(1, 1, R, R) in [0, 1]: trust of the unwrapping where the photo shows this person's skin, 0 elsewhere.

    Args:
        difference: (1, 3, R, R) see `residual`.
        regions: name -> (1, 1, R, R).
        frames: (1, 1, R, R) in [0, 1], what glasses hide; None without.
        glasses_possible: whether there may be some that nobody has found.
    """
    trust = unwrapped.weight.permute(2, 0, 1)[None] * (1 - _overexposed(unwrapped))
    trust = trust * (1 - regions["scalp"])
    frames = torch.zeros_like(trust) if frames is None else frames
    trust = trust * (1 - frames)
    likely = skin_colour(unwrapped, trust, regions)
    outlier = 1 - likely
    levels = round(math.log2(JUDGED_WAVELENGTH * trust.shape[-1])) - 1
    for _ in range(ROBUST_STEPS):
        bands = split(difference, trust * (1 - outlier), levels)
        rest = difference - up(bands.rest, trust.shape[-1])
        outlier = _outliers(rest, likely, trust, regions, frames, glasses_possible)
    return trust * (1 - outlier)


def _overexposed(unwrapped: Unwrapped) -> Tensor:
    full = (unwrapped.photo.amax(-1) > CLIPPED).float()[None, None]
    return torch.nn.functional.max_pool2d(full, 5, 1, 2)


def skin_colour(unwrapped: Unwrapped, trust: Tensor, regions: dict[str, Tensor]) -> Tensor:
    """(1, 1, R, R) how likely the colour is this skin's; 1 in the face's features, where it says nothing."""
    encoded = linear_to_srgb(unwrapped.albedo.clamp(0, 1))[None]
    cheeks = torch.maximum(regions["cheek"], regions["nose"]) * (trust > 0.5)
    likely = skin_likelihood(encoded, cheeks.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return torch.lerp(likely, torch.ones_like(likely), _feature(regions))


def _feature(regions: dict[str, Tensor]) -> Tensor:
    """(1, 1, R, R) where brows, eyes, lips and beard are, with FEATURE_REACH around them."""
    feature = (3 * torch.cat([regions[name] for name in FEATURES]).amax(0, keepdim=True)).clamp(0, 1)
    reach = round(FEATURE_REACH * feature.shape[-1])
    rows = torch.nn.functional.max_pool2d(feature, (1, 2 * reach + 1), 1, (0, reach))
    return torch.nn.functional.max_pool2d(rows, (2 * reach + 1, 1), 1, (reach, 0))


def _outliers(rest: Tensor, likely: Tensor, trust: Tensor, regions: dict[str, Tensor], frames: Tensor,
              glasses_possible: bool) -> Tensor:
    """(1, 1, R, R) 1 where a residual without low frequencies is a thing in front of the skin.

    What surely differs is grown over what maybe does (hysteresis); small spots and features of the face are let off,
    unless they are bits of frames, beside what of these is known, or hang together with what rests on the nose where
    glasses are possible.
    """
    size = rest.shape[-1]
    seen = trust[0, 0].cpu().numpy() > 0.05
    smooth = ndimage.gaussian_filter(rest[0].cpu().numpy(), (0, size / 512, size / 512)) * seen
    light = np.tensordot(np.array(LUMA), smooth, 1)
    tint = np.abs(smooth - light).max(0)
    width = max(3, round(LINE * size)) | 1
    line = np.maximum(ndimage.grey_closing(light, width) - light, 0.7 * (light - ndimage.grey_opening(light, width)))
    edge = ndimage.grey_dilation(light, width // 2 | 1) - ndimage.grey_erosion(light, width // 2 | 1)
    strength = np.maximum.reduce([line, EDGE_SHARE * edge, AREA_SHARE * np.abs(light), TINT_SHARE * tint,
                                  1 - likely[0, 0].cpu().numpy()]) * seen
    mask = ndimage.binary_propagation(strength > SURE, mask=strength > MAYBE)
    feature = _feature(regions)[0, 0].cpu().numpy() > 0.3
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    near = ndimage.binary_dilation(frames[0, 0].cpu().numpy() > 0.1, iterations=max(1, round(BESIDE_FRAMES * size)))
    beside = np.unique(labels[near])
    left, right, top, bottom = (round(edge * size) for edge in BRIDGE)
    resting = set(np.unique(labels[top:bottom, left:right]).tolist()) if glasses_possible else set()
    kept = near & (light < FRAME_DARK)
    for index, place in enumerate(ndimage.find_objects(labels), 1):
        part = labels[place] == index
        own = index not in resting and feature[place][part].mean() > FEATURE_SHARE and light[place][part].mean() < 0
        extent = max(axis.stop - axis.start for axis in place)
        if (index in beside and extent < BIT * size) or (extent > MOLE * size and not own):
            kept[place] |= part
    grown = ndimage.binary_dilation(kept, iterations=max(1, size // 170))
    soft = np.maximum(ndimage.gaussian_filter(grown.astype(np.float32), size / 256), grown)
    return torch.from_numpy(soft.astype(np.float32)).to(trust)[None, None]
