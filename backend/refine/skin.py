# SPDX-License-Identifier: GPL-3.0-or-later
"""Which texels of an unwrapped photo show the person's skin: no hair, glasses, hands, highlights or hard shadows."""
from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.fit.skin import skin_likelihood
from backend.refine.pyramid import split, up
from backend.render.color import linear_to_srgb
from backend.texture.unwrap import Unwrapped

LUMA = (0.2126, 0.7152, 0.0722)
SURE, MAYBE = 0.5, 0.25
"""Strength, in logarithms of albedo, from which a texel is surely a thing in front of the skin, and from which it is
one when it lies beside one that surely is."""
LINE = 1 / 42
"""Width of frames and strands of hair, in map sides (about 5 mm)."""
AREA_SHARE, TINT_SHARE = 0.45, 1.0
"""How much a difference that is no line, and one of colour, counts beside a line."""
FEATURES = ("brow", "eyes", "lips", "beard")
"""Regions where hair and make-up are the person's own."""
FEATURE_SHARE = 0.7
"""An outlier that lies in these regions to this share is a brow, a lash line or a beard."""
MOLE = 1 / 40
"""Largest extent of a dark spot of the skin itself, in map sides."""
CLIPPED = 0.985
"""sRGB value from which a photo is overexposed."""
ROBUST_STEPS = 2


def residual(unwrapped: Unwrapped, base: Tensor) -> Tensor:
    """(1, 3, R, R) logarithm of the photo's albedo over the map `base` (1, 3, R, R), both linear."""
    photo = unwrapped.albedo.permute(2, 0, 1)[None]
    return (photo.clamp_min(1e-3) / base.clamp_min(1e-3)).log().clamp(-3, 3)


def luma(values: Tensor) -> Tensor:
    """(1, 1, R, R) weighted mean of the channels of (1, 3, R, R)."""
    return (values * values.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def skin_trust(unwrapped: Unwrapped, difference: Tensor, regions: dict[str, Tensor], levels: int) -> Tensor:
    """(1, 1, R, R) in [0, 1]: trust of the unwrapping where the photo shows this person's skin, 0 elsewhere.

    Args:
        difference: (1, 3, R, R) see `residual`.
        regions: name -> (1, 1, R, R).
        levels: octaves that the photo's detail is taken from; what is coarser is light and not judged.
    """
    trust = unwrapped.weight.permute(2, 0, 1)[None] * (1 - _overexposed(unwrapped))
    trust = trust * (1 - regions["scalp"])
    likely = _likelihood(unwrapped, trust, regions)
    outlier = 1 - likely
    for _ in range(ROBUST_STEPS):
        bands = split(difference, trust * (1 - outlier), levels)
        outlier = _outliers(difference - up(bands.rest, trust.shape[-1]), likely, trust, regions)
    return trust * (1 - outlier)


def _overexposed(unwrapped: Unwrapped) -> Tensor:
    full = (unwrapped.photo.amax(-1) > CLIPPED).float()[None, None]
    return torch.nn.functional.max_pool2d(full, 5, 1, 2)


def _likelihood(unwrapped: Unwrapped, trust: Tensor, regions: dict[str, Tensor]) -> Tensor:
    """(1, 1, R, R) how likely the colour is this skin's; 1 in the face's features, where it says nothing."""
    encoded = linear_to_srgb(unwrapped.albedo.clamp(0, 1))[None]
    cheeks = torch.maximum(regions["cheek"], regions["nose"]) * (trust > 0.5)
    likely = skin_likelihood(encoded, cheeks.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    feature = torch.cat([regions[name] for name in FEATURES]).amax(0, keepdim=True)
    return torch.lerp(likely, torch.ones_like(likely), (3 * feature).clamp(0, 1))


def _outliers(rest: Tensor, likely: Tensor, trust: Tensor, regions: dict[str, Tensor]) -> Tensor:
    """(1, 1, R, R) 1 where a residual without low frequencies is a thing in front of the skin.

    What surely differs is grown over what maybe does (hysteresis); small spots and features of the face are let off.
    """
    size = rest.shape[-1]
    seen = trust[0, 0].cpu().numpy() > 0.05
    smooth = ndimage.gaussian_filter(rest[0].cpu().numpy(), (0, size / 512, size / 512)) * seen
    light = np.tensordot(np.array(LUMA), smooth, 1)
    tint = np.abs(smooth - light).max(0)
    width = max(3, round(LINE * size)) | 1
    line = np.maximum(ndimage.grey_closing(light, width) - light, 0.7 * (light - ndimage.grey_opening(light, width)))
    strength = np.maximum.reduce([line, AREA_SHARE * np.abs(light), TINT_SHARE * tint,
                                  1 - likely[0, 0].cpu().numpy()]) * seen
    mask = ndimage.binary_propagation(strength > SURE, mask=strength > MAYBE)
    feature = np.max([regions[name][0, 0].cpu().numpy() for name in FEATURES], 0) > 0.3
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    share = ndimage.mean(feature, labels, np.arange(1, count + 1)) if count else []
    kept = np.zeros_like(mask)
    for index, (place, own) in enumerate(zip(ndimage.find_objects(labels), share, strict=True), 1):
        if max(axis.stop - axis.start for axis in place) > MOLE * size and own < FEATURE_SHARE:
            kept[place] |= labels[place] == index
    grown = ndimage.binary_dilation(kept, iterations=max(1, size // 170))
    soft = np.maximum(ndimage.gaussian_filter(grown.astype(np.float32), size / 256), grown)
    return torch.from_numpy(soft.astype(np.float32)).to(trust)[None, None]
