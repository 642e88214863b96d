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

from backend.refine.skin import LUMA, skin_colour
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
NEVER = ("brow", "eyes", "nose", "lips", "cheek", "chin", "jaw", "neck", "ear_left", "ear_right")
"""Regions that hair from the scalp is not looked for on: what covers them are glasses, beards, collars."""
BARE_TRUST = (0.5, 0.95)
"""Trust in a bare texel at which it begins to count, and from which it counts as much as hair."""
TINT_SPREAD, TINT_LIMIT = 0.22, 3.0
"""Deviation of log(red / green) and log(blue / green) over one head of hair, and how many of them still are hair."""
BLUEST = 0.12
"""Largest log(blue / red) of hair: what is bluer is background or a hat."""
LOCK = 1 / 40
"""Lights and partings in hair are narrower than this share of the map."""
STRANDS = (0.045, 0.10)
"""Deviation of the logarithm of luma from its mean over 2.5 mm: of skin at most the first, of locks the second."""
SCALP_REACH = 1 / 16
"""Neighbourhood on the scalp, in map sides, that counts as much as the texel itself."""
EDGE = 1 / 200
"""Softness of the hairline, in map sides."""
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
    """What hangs together with the scalp, does not look like the cheeks, and has a colour that hair can have."""
    trust = photo.weight.permute(2, 0, 1)[None]
    log = photo.albedo.permute(2, 0, 1)[None].clamp(2e-3, 1).log()
    seen = (trust[0, 0] > 0.05).cpu().numpy()
    scalp = regions["scalp"][0, 0].cpu().numpy()
    strength = _unlike_skin(photo, trust, log, regions) * seen
    side = strength.shape[0]
    core = (strength > SURE) & (scalp > ROOTED)
    if core.any():
        tints = np.stack([(log[0, k] - log[0, 1]).cpu().numpy() for k in (0, 2)], -1)
        apart = np.linalg.norm((tints - np.median(tints[core], 0)) / TINT_SPREAD, axis=-1)
        strength = strength / (1 + np.exp(3 * (apart - TINT_LIMIT)))
    bare = torch.cat([regions[name] for name in NEVER]).amax(0)[0].cpu().numpy() > 0.3
    strength[bare & (scalp < ROOTED)] = 0
    # Locks shine: what lies between hair is hair. On the scalp the neighbourhood decides, on the face the texel.
    lock, thin = (max(3, round(share * side)) | 1 for share in (LOCK, THIN))
    closed = _mean(ndimage.grey_closing(strength, lock), seen, side / 256)
    opened = ndimage.grey_opening(closed, thin)
    usual = _mean(strength, seen & (scalp > 0.1), SCALP_REACH * side)
    likely = np.where(scalp > ROOTED, 0.5 * (closed + usual), opened)
    mask = ndimage.binary_propagation((likely > SURE) & (scalp > ROOTED), mask=likely > MAYBE)
    mask &= likely > 0.5
    mask &= (scalp > ROOTED) | ndimage.binary_opening(mask, iterations=max(1, round(0.5 * THIN * side)))
    cover = _mean(mask, seen, EDGE * side)
    cover = np.clip((cover - 0.2) / 0.6, 0, 1).astype(np.float32)
    found = torch.from_numpy(cover).to(trust)[None, None]
    # Along the silhouette a bare texel may be the background beside hair: there only hair counts.
    certain = ((trust - BARE_TRUST[0]) / (BARE_TRUST[1] - BARE_TRUST[0])).clamp(0, 1)
    return SeenHair(found, trust * torch.maximum(found, certain), log)


def _unlike_skin(photo: Unwrapped, trust: Tensor, log: Tensor, regions: dict[str, Tensor]) -> np.ndarray:
    """(R, R) in [0, 1]: colours that are not the cheeks', or a texture that skin has not, and that hair can have."""
    other = 1 - skin_colour(photo, trust * (1 - regions["scalp"]), regions)[0, 0]
    luma = (log * log.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    rough = F.avg_pool2d((luma - F.avg_pool2d(luma, 5, 1, 2)).square(), 5, 1, 2).sqrt()
    rough = -F.max_pool2d(-rough, 7, 1, 3)[0, 0]  # a lone edge is no texture
    strands = ((rough - STRANDS[0]) / (STRANDS[1] - STRANDS[0])).clamp(0, 1)
    gamut = torch.sigmoid(12 * (BLUEST - (log[0, 2] - log[0, 0])))
    return (torch.maximum(other, strands) * gamut).cpu().numpy()


def _mean(values: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of (R, R) over the known texels."""
    share = known.astype(np.float32)
    total, weight = (ndimage.gaussian_filter(x, sigma) for x in (values * share, share))
    return total / np.maximum(weight, 1e-3)


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
    filled = torch.lerp(((filled - 0.25) / 0.5).clamp(0, 1), filled, known)  # unseen: hair or none, hardly in between
    hanging = cover * (seen / TRUSTED[0]).clamp(0, 1)
    place = torch.maximum(scalp, torch.maximum(hanging, hanging.flip(-1)))
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
