# SPDX-License-Identifier: GPL-3.0-or-later
"""The hair that lies on the head in the photos, as a layer over the skin: colour and cover of every texel."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.refine.matte import Matte
from backend.refine.pyramid import filled
from backend.refine.skin import luma
from backend.render.color import linear_to_srgb
from backend.texture.unwrap import Unwrapped

HAIR_FACING, HAIR_RIM = (0.02, 0.2), 0.004
"""As in `unwrap`, but nearer to the silhouette: of hair only the colour matters, and it lies where the head ends."""
COVERED = (0.3, 0.7)
"""Share of hair in hair and skin from which the cover grows, and from which it is whole."""
NEVER = ("brow", "eyes", "nose", "lips", "cheek", "chin", "jaw", "neck")
"""Regions that hair from the scalp is not looked for on: what covers them are glasses, beards, collars."""
EARS = ("ear_left", "ear_right")
"""Regions that hair may hide, so that the photo shows nothing of their skin; no hair is painted on them."""
HANGING = (0.015, 0.025)
"""Distance from the scalp, metres, at which the cover of hair beside the forehead begins to fade, and is gone: locks
that hang lower are not painted on the face."""
ROOTED = 0.5
"""Mask above which there is ground that something hangs together with: scalp for hair, skin for what is bare."""
GAP = 1 / 24
"""Unseen skin between hair, in map sides, that is narrower than this is under hair: temples turn from the camera."""
EDGE = 15
"""Width, texels, in which what holds at the chart's edge holds outside it too, where filters reach."""
UNLIKE, BESIDE, OFF_SCALP = 0.5, 41, 0.01
"""Difference of hair and skin in log lightness from which what is as light as skin lends hair no colour beside the skin
and is, in a photo without colour, no hair off the scalp; width of what is beside the skin, texels; distance from the
scalp's edge, metres."""
SEEN_LEAST = 0.004
"""Share of the map that hair has to cover in the photos; less is taken for a shaven or bald head."""
GUESS = 0.02
"""Weight of the guess that an unseen scalp is covered, beside what is seen near it."""
TRUSTED = (0.15, 0.5)
"""Trust in a texel's hair at which its colour begins to count and at which it needs no neighbours."""


@dataclass(frozen=True)
class SeenHair:
    """Of one photo: cover (1, 1, R, R) in [0, 1], its trust (1, 1, R, R), log of the linear albedo (1, 3, R, R), `pure`
    (1, 1, R, R), how far that is the hair's and not the skin's under it; also `over` (1, 1, R, R), the share of what
    lies over the skin: hair, and on the neck all that is no skin."""

    cover: Tensor
    trust: Tensor
    colour: Tensor
    pure: Tensor
    over: Tensor


def seen_hair(photo: Unwrapped, matte: Matte, regions: dict[str, Tensor], grey: bool = False) -> SeenHair:
    """The photo's hair on the map; what is neither hair nor skin there is not seen. grey: the photo has no colour."""
    hair, skin, _ = matte.at(photo.pixel).permute(2, 0, 1)[None].split(1, 1)
    known = (hair + skin).clamp(0, 1)
    trust = photo.weight.permute(2, 0, 1)[None]
    cover = ((hair / known.clamp_min(1e-3) - COVERED[0]) / (COVERED[1] - COVERED[0])).clamp(0, 1)
    over = _rooted(cover * (1 - _any(regions, NEVER)), regions["scalp"])
    far = ((regions["reach"] - HANGING[0]) / (HANGING[1] - HANGING[0])).clamp(0, 1) * (1 - regions["forehead"])
    cover = _rooted(over * (1 - _any(regions, EARS)) * (1 - far), regions["scalp"])
    trust = trust * known
    colour = photo.albedo.permute(2, 0, 1)[None].clamp(2e-3, 1).log()
    if grey:
        colour = luma(colour).expand_as(colour)
    unlike = _unlike_skin(luma(colour), cover * trust * regions["scalp"], skin * trust * regions["face"])
    beside = torch.nn.functional.max_pool2d((skin * trust > TRUSTED[0]).to(skin), BESIDE, 1, BESIDE // 2)
    if grey:  # elsewhere hue has told hair from skin, and hair that is as light as skin shines
        bare = _rooted(1 - unlike, skin * trust)  # not the shine within a fringe
        cover = cover * (1 - bare * (regions["reach"] / OFF_SCALP).clamp(0, 1))
    pure = 1 - beside * (1 - unlike)
    return SeenHair(cover, trust, colour, pure, torch.maximum(over, (1 - skin) * regions["neck"]))


def skin_colour(photos: Sequence[SeenHair], regions: dict[str, Tensor]) -> np.ndarray | None:
    """(3,) median log of the linear albedo that forehead and cheeks have in the photos, the face's where these hide;
    None where it hides, too."""
    colours = torch.cat([p.colour for p in photos], 2)[0]
    bare = torch.cat([p.trust * (1 - p.over) for p in photos], 2)[0, 0] > TRUSTED[1]
    for names in (("forehead", "cheek"), ("face",)):
        where = torch.cat([regions[n] for n in names]).amax(0)[0].repeat(len(photos), 1) > 0.5
        if (bare & where).any():
            return colours[:, bare & where].median(1).values.cpu().numpy()
    return None


def _unlike_skin(light: Tensor, hair: Tensor, skin: Tensor) -> Tensor:
    """(1, 1, R, R): 0 where the log lightness is the skin's, 1 from half way to the hair's; 1 where both are alike."""
    on_hair, on_skin = light[hair > TRUSTED[1]], light[skin > TRUSTED[1]]
    if len(on_hair) == 0 or len(on_skin) == 0 or abs(on_hair.median() - on_skin.median()) < UNLIKE:
        return torch.ones_like(light)
    return (2 * (light - on_skin.median()) / (on_hair.median() - on_skin.median())).clamp(0, 1)


def _any(regions: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """(1, 1, R, R) where any of the regions is, to their outermost texels and over the chart's edge."""
    found = (3 * torch.cat([regions[name] for name in names]).amax(0, keepdim=True)).clamp(0, 1)
    around = torch.nn.functional.max_pool2d(found, EDGE, 1, EDGE // 2)
    return torch.maximum(found, around * (1 - regions["covered"]))


def _rooted(values: Tensor, ground: Tensor) -> Tensor:
    """Values (1, 1, R, R) without what does not hang together with the ground: hair with the scalp, for example."""
    labels, count = ndimage.label(((values > 0.1) | (ground > ROOTED))[0, 0].cpu().numpy())
    kept = np.zeros(count + 1, np.float32)
    kept[np.unique(labels[(ground > ROOTED)[0, 0].cpu().numpy()])] = 1
    return values * torch.from_numpy(kept[labels]).to(values)


def hair_layer(photos: Sequence[SeenHair], regions: dict[str, Tensor]) -> Tensor | None:
    """Colour (sRGB) and cover, (1, 4, R, R) in 8-bit steps, or None for a head without hair.

    The side that no photo shows is the other side's; the scalp that neither shows is filled from its neighbourhood.
    """
    trust = torch.stack([p.trust for p in photos])
    seen, total = trust.amax(0), trust.sum(0).clamp_min(1e-6)
    cover = torch.stack([p.cover for p in photos]).mul(trust).sum(0) / total
    if float((cover * seen).mean()) < SEEN_LEAST:
        return None
    share = trust * torch.stack([p.cover * p.pure for p in photos])
    colour = (torch.stack([p.colour for p in photos]) * share).sum(0) / share.sum(0).clamp_min(1e-6)
    known = ((share.sum(0) - TRUSTED[0]) / (TRUSTED[1] - TRUSTED[0])).clamp(0, 1)
    mirrored = known.flip(-1) * (1 - seen)
    colour = filled(known * colour + mirrored * colour.flip(-1), known + mirrored)
    layer = torch.cat((linear_to_srgb(colour.exp()), _whole_cover(cover, seen, regions)), 1)
    return (layer.clamp(0, 1) * 255).round() / 255


def _whole_cover(cover: Tensor, seen: Tensor, regions: dict[str, Tensor]) -> Tensor:
    """Cover (1, 1, R, R) of the whole head from what was seen."""
    scalp, other = regions["scalp"], seen.flip(-1) * (1 - seen)
    known, both = seen + other, seen * cover + other * cover.flip(-1)
    # A bare forehead says nothing of an unseen scalp: only the scalp's own texels fill it.
    guess = GUESS * (1 - known) * scalp
    hair = filled(both * scalp + guess, known * scalp + guess, known)
    hair = torch.lerp(((hair - 0.25) / 0.5).clamp(0, 1), hair, known)  # unseen: hair or none, hardly in between
    hanging = cover * (seen / TRUSTED[0]).clamp(0, 1)
    place = torch.maximum(scalp, torch.maximum(hanging, hanging.flip(-1)))
    whole = torch.where(scalp > 0.02, hair, both / known.clamp_min(1e-6)) * place
    width = round(GAP * scalp.shape[-1]) | 1
    closed = torch.from_numpy(ndimage.grey_closing(whole[0, 0].cpu().numpy(), width)).to(whole)[None, None]
    closed = closed * (1 - _any(regions, (*NEVER, *EARS)))
    return torch.lerp(whole, torch.maximum(closed, whole), 1 - (known / TRUSTED[1]).clamp(0, 1))
