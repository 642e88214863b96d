# SPDX-License-Identifier: GPL-3.0-or-later
"""The discriminator: is the fine structure of this piece of a map photographed or generated?

It sees what is left of a crop after its blur is taken off, and where the crop lies. Skin colour and shading, which the
reconstruction loss rules, are hidden from it, so that the two losses do not fight (PatchGAN on a Laplacian band, with
minibatch standard deviation as in Karras et al. 2018).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.texture.generator import EqualConv, EqualLinear

CROP = 128
BLUR = 16
CONTRAST = 6.0


def fine_structure(maps: Tensor) -> Tensor:
    """What is left of maps (B, 3, R, R) after their blur is taken off, about in [-1, 1]."""
    return (maps - F.interpolate(F.avg_pool2d(maps, BLUR), scale_factor=BLUR, mode="bilinear")) * CONTRAST


def random_crops(maps: Tensor, places: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (B, 5, S, S), S at most 128, of maps (B, 3, R, R) inside `places` (row, column limits), with u and v."""
    side = maps.shape[-1]
    crop = min(CROP, side)
    line = torch.linspace(-1, 1, side, device=maps.device)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    stack = torch.cat((maps, torch.stack((rows, columns)).expand(len(maps), -1, -1, -1)), 1)
    low, high = places
    out = []
    for item in stack:
        drawn = [int(torch.randint(int(a), max(int(b) - crop, int(a)) + 1, (1,), generator=generator))
                 for a, b in zip(low, high, strict=True)]
        corner = [min(c, side - crop) for c in drawn]
        out.append(item[:, corner[0]:corner[0] + crop, corner[1]:corner[1] + crop])
    return torch.stack(out)


class Discriminator(nn.Module):
    """Score (B,) of crops (B, 5, S, S), S = 128 (or 64, in small maps); every step halves the side."""

    def __init__(self, channels: tuple[int, ...] = (24, 40, 64, 96, 128, 128)) -> None:
        super().__init__()
        self.first = EqualConv(5, channels[0], 3)
        self.steps = nn.ModuleList(EqualConv(a, b, 3) for a, b in zip(channels, channels[1:], strict=False))
        self.last = EqualConv(channels[-1] + 1, channels[-1], 3)
        self.score = EqualLinear(channels[-1] * 16, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Higher is more like a photograph."""
        x = F.leaky_relu(self.first(crops), 0.2)
        for step in self.steps:
            x = F.leaky_relu(step(x, stride=2), 0.2)
        spread = x.std(0, unbiased=False).mean().expand(len(x), 1, *x.shape[2:])
        x = F.adaptive_avg_pool2d(F.leaky_relu(self.last(torch.cat((x, spread), 1)), 0.2), 4)
        return self.score(x.flatten(1))[:, 0]


def discriminator_loss(judge: Discriminator, real: Tensor, fake: Tensor, r1: float) -> Tensor:
    """Non-saturating logistic loss, R1 on the real crops weighted by `r1` / 2 unless 0 (Mescheder et al. 2018)."""
    real = real.requires_grad_(r1 > 0)
    score = judge(real)
    loss = F.softplus(-score).mean() + F.softplus(judge(fake)).mean()
    if r1 > 0:
        (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
        loss = loss + 0.5 * r1 * slope.square().sum((1, 2, 3)).mean()
    return loss
