# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of texture generators: the nearest map of a given one, fine structure, skin tone."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.texture.data import decode
from backend.texture.linear import shrink


def invert(draw: Callable[[Tensor, int], Tensor], start: Tensor, target: Tensor, weight: Tensor, steps: int = 150,
           rate: float = 0.05, prior: float = 1e-7, resolutions: Sequence[int] = (128, 256, 512)) -> Tensor:
    """Latents (B, L) whose maps are nearest to `target` (B, 3, R, R) where `weight` (B, 1, R, R) is positive.

    draw: latents and a resolution to maps, such as a `Generator`. Descends from `start` (B, L) through `resolutions`;
    L1 on map and fine structure, `prior` on the latent's square.
    """
    z = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr=rate)
    for resolution in resolutions:
        small, known = shrink(target * weight, resolution), shrink(weight, resolution)
        small = small / known.clamp_min(1e-3)
        for i in range(steps // len(resolutions)):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - 0.7 * i * len(resolutions) / steps)
            error = known * (draw(z, resolution) - small)
            fine = error - F.avg_pool2d(error, 5, 1, 2)
            loss = error.abs().mean() + fine.abs().mean() + prior * z.square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return z.detach()


def skin_angle(maps: np.ndarray, cheek: np.ndarray) -> np.ndarray:
    """Individual typology angle (B,) in degrees of the cheeks' mean colour; maps (B, R, R, 3) sRGB, cheek (R, R) bool.

    ITA = atan2(L* - 50, b*) (Chardon et al. 1991): above 55 very light, below -30 dark.
    """
    linear = decode(maps[:, cheek]).mean(1)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.degrees(np.arctan2(116 * f[:, 1] - 16 - 50, 200 * (f[:, 1] - f[:, 2])))
