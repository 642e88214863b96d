# SPDX-License-Identifier: GPL-3.0-or-later
"""The hair that lies on the head in the photos, as a layer over the skin: colour and cover of every texel."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from backend.refine.skin import skin_colour
from backend.render.color import linear_to_srgb
from backend.texture.unwrap import Unwrapped

HAIR_FACING, HAIR_RIM = (0.02, 0.2), 0.004
"""As in `unwrap`, but nearer to the silhouette: of hair only the colour matters, and it lies where the head ends."""
SURE, MAYBE = 0.6, 0.25
"""How unlike skin a texel of the scalp is from which it is hair, and from which it is hair beside hair."""
ROOTED = 0.5
"""Scalp mask above which hair may begin; below, hair only hangs."""
THIN = 1 / 50
"""Things on the face that are narrower than this share of the map are no hair: frames of glasses, wrinkles."""
TINT_SPREAD, TINT_LIMIT = 0.22, 3.0
"""Deviation of log(red / green) and log(blue / green) over one head of hair, and how many of them still are hair."""
BLUEST = 0.25
"""Largest log(blue / red) of hair: what is bluer is background or a hat."""
SOLID = (0.15, 0.65)
"""Unlikeness to skin at which hair begins to cover and at which it covers all."""
SEEN_LEAST = 0.004
"""Share of the map that hair has to cover in the photos; less is taken for a shaven or bald head."""
GUESS = 0.02
"""Weight of the guess that an unseen scalp is covered, beside what is seen near it."""
TRUSTED = (0.15, 0.5)
"""Trust in a texel's hair at which its colour begins to count and at which it needs no neighbours."""


@dataclass(frozen=True)
class SeenHair:
    """Of one photo: cover (1, 1, R, R) in [0, 1], its trust (1, 1, R, R), log of the linear albedo (1, 3, R, R)."""

    cover: Tensor
    trust: Tensor
    colour: Tensor


def seen_hair(photo: Unwrapped, regions: dict[str, Tensor]) -> SeenHair:
    """What hangs together with the scalp, does not have the cheeks' colour, and has a colour that hair can have."""
    trust = photo.weight.permute(2, 0, 1)[None]
    log = photo.albedo.permute(2, 0, 1)[None].clamp(2e-3, 1).log()
    red, green, blue = log[0]
    other = 1 - skin_colour(photo, trust * (1 - regions["scalp"]), regions)[0, 0]
    other = other * torch.sigmoid(12 * (BLUEST - (blue - red))) * (trust[0, 0] > 0.05)
    strength, rooted = other.cpu().numpy(), regions["scalp"][0, 0].cpu().numpy() > ROOTED
    side = strength.shape[0]
    wide = np.where(rooted, strength, ndimage.grey_opening(strength, max(3, round(THIN * side)) | 1))
    core = (wide > SURE) & rooted
    if core.any():
        tints = torch.stack((red - green, blue - green), -1).cpu().numpy()
        apart = np.linalg.norm((tints - np.median(tints[core], 0)) / TINT_SPREAD, axis=-1)
        wide = wide / (1 + np.exp(3 * (apart - TINT_LIMIT)))
        core &= wide > SURE
    mask = ndimage.binary_propagation(core, mask=wide > MAYBE)
    mask = ndimage.binary_dilation(mask, iterations=max(1, side // 256))
    cover = mask * np.clip((strength - SOLID[0]) / (SOLID[1] - SOLID[0]), 0, 1)
    seen = (trust[0, 0] > 0.05).cpu().numpy().astype(np.float32)
    blurred, share = (ndimage.gaussian_filter(values, side / 512) for values in (cover * seen, seen))
    cover = (blurred / np.maximum(share, 1e-3)).astype(np.float32)
    return SeenHair(torch.from_numpy(cover).to(trust)[None, None], trust, log)


def hair_layer(photos: Sequence[SeenHair], regions: dict[str, Tensor]) -> Tensor | None:
    """Colour (sRGB) and cover, (1, 4, R, R) in 8-bit steps, or None for a head without hair.

    The side that no photo shows is the other side's; the scalp that neither shows is filled from its neighbourhood.
    """
    trust = torch.stack([p.trust for p in photos])
    seen, total = trust.amax(0), trust.sum(0).clamp_min(1e-6)
    cover = torch.stack([p.cover for p in photos]).mul(trust).sum(0) / total
    if float((cover * seen).mean()) < SEEN_LEAST:
        return None
    share = trust * torch.stack([p.cover for p in photos])
    colour = (torch.stack([p.colour for p in photos]) * share).sum(0) / share.sum(0).clamp_min(1e-6)
    known = ((share.sum(0) - TRUSTED[0]) / (TRUSTED[1] - TRUSTED[0])).clamp(0, 1)
    mirrored = known.flip(-1) * (1 - seen)
    colour = _filled(known * colour + mirrored * colour.flip(-1), known + mirrored)
    layer = torch.cat((linear_to_srgb(colour.exp()), _whole_cover(cover, seen, regions["scalp"])), 1)
    return (layer.clamp(0, 1) * 255).round() / 255


def _whole_cover(cover: Tensor, seen: Tensor, scalp: Tensor) -> Tensor:
    """Cover (1, 1, R, R) of the whole head from what was seen."""
    other = seen.flip(-1) * (1 - seen)
    known, both = seen + other, seen * cover + other * cover.flip(-1)
    # A bare forehead says nothing of an unseen scalp: only the scalp's own texels fill it.
    guess = GUESS * (1 - known) * scalp
    filled = _filled(both * scalp + guess, known * scalp + guess, known)
    filled = torch.lerp(((filled - 0.1) / 0.7).clamp(0, 1), filled, known)  # unseen: hair or none, hardly in between
    width = cover.shape[-1] // 64 * 2 + 1
    inside = ((F.avg_pool2d(scalp, width, 1, width // 2, count_include_pad=False) - 0.5) / 0.4).clamp(0, 1) * scalp
    hanging = cover * (seen / TRUSTED[0]).clamp(0, 1)
    place = torch.maximum(inside, torch.maximum(hanging, hanging.flip(-1)))
    return torch.where(scalp > 0.02, filled, both / known.clamp_min(1e-6)) * place


def _filled(weighted: Tensor, weight: Tensor, known: Tensor | None = None) -> Tensor:
    """(1, C, R, R) `weighted` over `weight` where `known` (None: the weight) is 1, else of ever wider neighbourhoods
    (push-pull, Gortler et al. 1996)."""
    known = (weight if known is None else known).clamp(0, 1)
    value = weighted / weight.clamp_min(1e-6)
    if weight.shape[-1] <= 4:
        return value
    coarse = _filled(F.avg_pool2d(weighted, 2), F.avg_pool2d(weight, 2), F.avg_pool2d(known, 2))
    return torch.lerp(F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False), value, known)
