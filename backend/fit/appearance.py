# SPDX-License-Identifier: GPL-3.0-or-later
"""What a photo's colours say before the first step: where skin is seen, its tone, the light, the irises."""
from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backend.constants import constant
from backend.fit import losses
from backend.fit.losses import as_grey
from backend.fit.parameters import FitParameters
from backend.fit.skin import (
    HUE_SPREAD,
    MIN_PIXELS,
    TONE_SPREAD,
    USUAL_TONE,
    log_luma,
    of_ratios,
    ratios,
    skin_likelihood,
    usual_ratios,
)
from backend.render.color import LUMA, linear_to_srgb, srgb_to_linear
from backend.render.lights import COSINE_LOBE, sh_basis
from backend.render.render import RenderOutput

if TYPE_CHECKING:
    from backend.fit.energy import Energy


class Start:
    """The head as it is before the first step, seen in the photos: what the photos' colours say at once.

    Light and albedo explain a photo's brightness together; how much of it each gets is decided here by the spread of
    both among people and photographs, and held by `losses.light_prior` and `losses.tone_prior`.
    """

    CHEEK_SHADING = 0.8
    """Usual shading of the cheeks (irradiance / pi) of a well exposed portrait."""
    TONE_SHARE = TONE_SPREAD**2 / (TONE_SPREAD**2 + losses.EXPOSURE_SPREAD**2)
    HUE_SHARE = HUE_SPREAD**2 / (HUE_SPREAD**2 + losses.BALANCE_SPREAD**2)
    """Shares of an unusual brightness and of an unusual hue that are the skin's, see `losses.tone_prior`."""

    def __init__(self, energy: Energy, params: FitParameters):
        self.energy, self.params = energy, params
        self.out, (self.weight, self.bare, self.cheeks) = self._picture()

    def _picture(self) -> tuple[RenderOutput, tuple[Tensor, Tensor, Tensor]]:
        out, _ = self.energy.look(self.params, self.energy.target.frames.cameras(self.params))
        return out, self.energy.person.masks(out)

    def skin(self) -> Tensor:
        """(V, H, W, 1) likelihood of skin in the photos, see `skin.skin_likelihood`."""
        target = self.energy.target
        return skin_likelihood(target.photo, self.cheeks * target.inside)

    def latent(self) -> Tensor:
        """Latent (1, 512) of the mean face with the skin tone that the cheeks have in the photos."""
        energy, generator = self.energy.target, self.energy.person.generator
        seen = (self.cheeks * energy.inside * energy.skin)[..., 0] > 0.5
        if int(seen.sum()) < MIN_PIXELS:
            return self.params.latent
        photo = srgb_to_linear(energy.photo[seen]).clamp(min=0.004).log().median(0).values
        shown = photo - math.log(self.CHEEK_SHADING)
        seen_luma = log_luma(shown)
        luma = USUAL_TONE + self.TONE_SHARE * (seen_luma - USUAL_TONE)
        hue = usual_ratios(luma)
        if not bool(energy.grey.any()):
            hue = hue + self.HUE_SHARE * (ratios(shown) - usual_ratios(seen_luma))
        mean = generator(self.params.latent, generator.spec.base_resolution)
        change = of_ratios(luma, hue) - losses.mean_colour(mean, self.energy.person.cheek_map)[0]
        target = srgb_to_linear(mean) * torch.exp(change)[None, :, None, None]
        return generator.solve_latent(linear_to_srgb(target.clamp(0, 1)))

    def light(self) -> Tensor:
        """Spherical harmonics (V, 9, 3) that light the texture like the photo, ridge least squares per view.

        Linear in the nine coefficients: photo = albedo * ao / pi * sum_k A_k Y_k(n) c_k (Ramamoorthi & Hanrahan 2001).
        """
        energy, out = self.energy.target, self.out
        visible = 1 - self.bare * (1 - energy.skin)
        mask = (self.weight * visible * energy.inside * (out.skin > 0.5))[..., 0]
        basis = sh_basis(out.normal) * constant(COSINE_LOBE, out.normal) * out.ao / torch.pi
        sh = self.params.sh.clone()
        white = constant((0.7 * math.sqrt(4 * math.pi), *8 * (0.0,)), sh)
        ridge = torch.diag(constant((0.01, *8 * (0.03,)), sh))
        for i in range(len(sh)):
            chosen = mask[i] > 0.5
            if int(chosen.sum()) < 100:
                continue
            albedo, photo = srgb_to_linear(out.albedo[i][chosen]), srgb_to_linear(energy.photo[i][chosen])
            if bool(energy.grey[i]):  # else the light turns blue to make brown skin grey, and the skin red against it
                albedo = (albedo * constant(LUMA, albedo)).sum(-1, keepdim=True).expand(-1, 3)
            for channel in range(3):
                rows = basis[i][chosen] * albedo[:, channel:channel + 1]
                count = len(rows) * float((albedo[:, channel] ** 2).mean())
                system = rows.T @ rows + ridge * count
                sh[i, :, channel] = torch.linalg.solve(system, rows.T @ photo[:, channel] + ridge @ white * count)
        return sh

    def palette(self, usual: Tensor) -> Tensor:
        """The usual palette (1, N, 3) with the colours of irises and teeth that the photos show at the brightness that
        they have there, under the light that is known so far."""
        energy, head = self.energy, self.energy.person.head
        palette = usual.clone()
        if energy.any_grey:
            return palette
        for name, pixels in (("iris", [v.iris_pixels() for v in energy.views[0]]),
                             ("teeth", [v.teeth()[0] for v in energy.views[0]])):
            index = head.palette_names.index(name)
            weights = head.palette_weights1[None, :, index:index + 1]
            shares = energy.person.raster.interpolate(weights, self.out.rast, head.tri1)[..., 0]
            photo, lit = [torch.zeros(0, 3, device=energy.device)], [torch.zeros(0, 3, device=energy.device)]
            for shown, share, shading in zip(pixels, shares, self.out.shading, strict=True):
                if bool((share > 0.5).any()):
                    photo.append(torch.from_numpy(shown).to(energy.device))
                    lit.append(shading[share > 0.5].median(0).values.expand(len(shown), 3))
            palette[0, index] = surface_colour(torch.cat(photo), torch.cat(lit), palette[0, index])
        return palette

    @torch.no_grad()
    def error(self) -> float:
        """Mean absolute difference of render and photo, encoded colours, without the robust weights: for those a light
        that is wrong everywhere looks like something in front of the face."""
        energy = self.energy.target
        mask = self.weight * (1 - self.bare * (1 - energy.skin)) * energy.inside
        return float(losses.pixel_distance(energy.photo, as_grey(self.out.rgb, energy.grey), mask, robust=False))


MIN_SURFACE_PIXELS = 20
"""Fewer pixels than this show lashes and highlights rather than an iris, and no tooth."""

BRIGHTEST, DARKEST = 0.8, 0.002
"""Linear albedo of a surface's brightest channel at most, whose hue is kept, and of each channel at least."""
DIMMEST = 0.05
"""Luma of the least shading that is believed."""


def surface_colour(photo: Tensor, shading: Tensor, usual: Tensor) -> Tensor:
    """Encoded albedo (3,) of a surface seen in pixels (N, 3) under their shading (N, 3): the median, so that highlights
    and lashes do not count; `usual` (3,) where fewer than `MIN_SURFACE_PIXELS` are seen."""
    if len(photo) < MIN_SURFACE_PIXELS:
        return usual
    luma = (shading * constant(LUMA, shading)).sum(-1, keepdim=True)
    shading = (shading * (luma.clamp(min=DIMMEST) / luma.clamp(min=1e-6))).clamp(min=1e-3)
    albedo = (srgb_to_linear(photo) / shading).median(0).values
    return linear_to_srgb((albedo * (BRIGHTEST / albedo.max().clamp(min=BRIGHTEST))).clamp(min=DARKEST))


@torch.no_grad()
def initial_appearance(energy: Energy, params: FitParameters) -> FitParameters:
    """Skin tone, then the light that shows it like the photo, then the irises; sets the energy's skin masks and what it
    holds the palette to, and where no photo has colour the skin's tint. Of one person: P is 1."""
    target = energy.target
    target.skin = Start(energy, params).skin()
    params = replace(params, latent=Start(energy, params).latent())
    if bool(target.grey.all()):
        target.usual_tint = losses.tint(energy.person.generator(params.latent, energy.stage.texture_size))
        target.has_tint = torch.ones_like(target.has_tint)
    params = replace(params, sh=Start(energy, params).light())
    target.usual_palette = Start(energy, params).palette(params.palette)
    return replace(params, palette=target.usual_palette)


@torch.no_grad()
def usual_hue(energy: Energy, params: FitParameters) -> Tensor:
    """(P, 2) ratios that people's cheeks have where they are as bright as these, see `losses.tone_prior`."""
    texture = energy.person.generator(params.latent, energy.stage.texture_size)
    return usual_ratios(log_luma(losses.mean_colour(texture, energy.person.cheek_map)))
