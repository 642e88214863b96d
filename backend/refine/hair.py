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

from backend.refine.matte import Matte
from backend.refine.skin import luma
from backend.render.color import linear_to_srgb
from backend.texture.unwrap import Unwrapped

HAIR_FACING, HAIR_RIM = (0.02, 0.2), 0.004
"""As in `unwrap`, but nearer to the silhouette: of hair only the colour matters, and it lies where the head ends."""
COVERED = (0.3, 0.7)
"""Share of hair in hair and skin from which the cover grows, and from which it is whole."""
NEVER = ("brow", "eyes", "nose", "lips", "cheek", "chin", "jaw", "neck")
"""Regions that hair from the scalp is not looked for on: what covers them are glasses, beards, collars."""
ROOTED = 0.5
"""Scalp mask above which hair begins; elsewhere it only hangs."""
EAR_COVERED, EAR_SEEN = 0.5, 0.05
"""Share of an ear's seen surface from which hair lies over all of it, and what has to be seen to decide that."""
GAP = 1 / 24
"""Unseen skin between hair, in map sides, that is narrower than this is under hair: temples turn from the camera."""
SEEN_LEAST = 0.004
"""Share of the map that hair has to cover in the photos; less is taken for a shaven or bald head."""
GUESS = 0.02
"""Weight of the guess that an unseen scalp is covered, beside what is seen near it."""
TRUSTED = (0.15, 0.5)
"""Trust in a texel's hair at which its colour begins to count and at which it needs no neighbours."""


@dataclass(frozen=True)
class SeenHair:
    """Of one photo: cover (1, 1, R, R) in [0, 1], its trust (1, 1, R, R), log of the linear albedo (1, 3, R, R); also
    `over` (1, 1, R, R), the share of what lies over the skin: hair, and on the neck all that is no skin."""

    cover: Tensor
    trust: Tensor
    colour: Tensor
    over: Tensor


def seen_hair(photo: Unwrapped, matte: Matte, regions: dict[str, Tensor], grey: bool = False) -> SeenHair:
    """The photo's hair on the map; what is neither hair nor skin there is not seen. grey: the photo has no colour."""
    hair, skin, _ = matte.at(photo.pixel).permute(2, 0, 1)[None].split(1, 1)
    known = (hair + skin).clamp(0, 1)
    trust = photo.weight.permute(2, 0, 1)[None]
    cover = ((hair / known.clamp_min(1e-3) - COVERED[0]) / (COVERED[1] - COVERED[0])).clamp(0, 1)
    bare = (3 * torch.cat([regions[name] for name in NEVER]).amax(0, keepdim=True)).clamp(0, 1)
    cover = cover * (1 - bare)
    trust = trust * known
    for ear in (regions["ear_left"], regions["ear_right"]):
        # Half an ear in hair looks torn: it is covered as a whole, with the colour of what lies around it, or not.
        weight, place = ear * trust, (2 * ear).clamp(0, 1)
        if float(weight.sum()) < EAR_SEEN * float(ear.sum()):
            continue
        covered = float((weight * cover).sum() / weight.sum()) > EAR_COVERED
        cover = torch.lerp(cover, torch.full_like(cover, float(covered)), place)
        trust = torch.maximum(trust, TRUSTED[0] * place)
    cover = _rooted(cover, regions["scalp"])
    colour = photo.albedo.permute(2, 0, 1)[None].clamp(2e-3, 1).log()
    if grey:
        colour = luma(colour).expand_as(colour)
    return SeenHair(cover, trust, colour, torch.maximum(cover, (1 - skin) * regions["neck"]))


def _rooted(cover: Tensor, scalp: Tensor) -> Tensor:
    """The cover (1, 1, R, R) without what does not hang together with the scalp."""
    labels, count = ndimage.label(((cover > 0.1) | (scalp > ROOTED))[0, 0].cpu().numpy())
    kept = np.zeros(count + 1, np.float32)
    kept[np.unique(labels[(scalp > ROOTED)[0, 0].cpu().numpy()])] = 1
    return cover * torch.from_numpy(kept[labels]).to(cover)


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
    whole = torch.where(scalp > 0.02, filled, both / known.clamp_min(1e-6)) * place
    width = round(GAP * scalp.shape[-1]) | 1
    closed = torch.from_numpy(ndimage.grey_closing(whole[0, 0].cpu().numpy(), width)).to(whole)[None, None]
    return torch.lerp(whole, torch.maximum(closed, whole), 1 - (known / TRUSTED[1]).clamp(0, 1))


def _filled(weighted: Tensor, weight: Tensor, known: Tensor | None = None) -> Tensor:
    """(1, C, R, R) `weighted` over `weight` where `known` (None: the weight) is 1, else of ever wider neighbourhoods
    (push-pull, Gortler et al. 1996)."""
    known = (weight if known is None else known).clamp(0, 1)
    value = weighted / weight.clamp_min(1e-6)
    if weight.shape[-1] <= 4:
        return value
    coarse = _filled(F.avg_pool2d(weighted, 2), F.avg_pool2d(weight, 2), F.avg_pool2d(known, 2))
    return torch.lerp(F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False), value, known)
