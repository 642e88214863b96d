# SPDX-License-Identifier: GPL-3.0-or-later
"""The linear model under the generator: whitened principal components of the maps give every map its latent.

With z = whitened principal coefficients, codes of real maps have zero mean and unit covariance, so that the prior
N(0, I) and the code agree without an encoder network, and any map, seen or not, has a latent in closed form.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from backend.texture.generator import Generator, local_strength, spread, squash, unsquash, upsample

FEATURE_RESOLUTION = 128
BAND_GAIN = (1.0, 1.5, 2.0)
"""How much the base and the bands above it count in a code; details weigh more than their contrast."""


def as_maps(images: Tensor) -> Tensor:
    """uint8 (B, R, R, 3) to float (B, 3, R, R) in [0, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def shrink(maps: Tensor, resolution: int) -> Tensor:
    """Mean over blocks of texels, (B, C, R, R) to (B, C, resolution, resolution)."""
    return maps if maps.shape[-1] == resolution else F.adaptive_avg_pool2d(maps, resolution)


def raw_band(maps: Tensor, resolution: int) -> Tensor:
    """What `resolution` adds to raw values to the map of half that resolution, (B, 3, R, R)."""
    return unsquash(shrink(maps, resolution)) - upsample(unsquash(shrink(maps, resolution // 2)))


def features(maps: Tensor, weight: Tensor, base: int) -> Tensor:
    """Weighted base and bands (B, F) of raw values; equal areas count equally at every resolution, the last is grey."""
    parts = [unsquash(shrink(maps, base)) * shrink(weight, base) * (FEATURE_RESOLUTION / base) * BAND_GAIN[0]]
    half = FEATURE_RESOLUTION // 2
    parts.append(raw_band(maps, half) * shrink(weight, half) * 2 * BAND_GAIN[1])
    grey = raw_band(maps, FEATURE_RESOLUTION).mean(1, keepdim=True) * 3**0.5
    parts.append(grey * shrink(weight, FEATURE_RESOLUTION) * BAND_GAIN[2])
    return torch.cat([p.flatten(1) for p in parts], 1)


@dataclass
class LinearCode:
    """Whitening projection of maps to latents."""

    mean: Tensor
    """(F,)"""
    directions: Tensor
    """(L, F), unit rows."""
    sigma: Tensor
    """(L,) standard deviation along each direction."""
    weight: Tensor
    """(1, 1, 128, 128) importance of texels."""
    base: int

    def encode(self, maps: Tensor) -> Tensor:
        """Latents (B, L) of maps (B, 3, R, R), R >= 128."""
        return (features(maps, self.weight, self.base) - self.mean) @ self.directions.T / self.sigma

    def decode(self, z: Tensor) -> Tensor:
        """Maps (B, 3, 128, 128) of the linear model alone: what a principal component analysis reconstructs."""
        flat = z * self.sigma @ self.directions + self.mean
        sizes = ((3, self.base), (3, FEATURE_RESOLUTION // 2), (1, FEATURE_RESOLUTION))
        raw: Tensor | None = None
        start = 0
        for gain, (channels, size) in zip(BAND_GAIN, sizes, strict=True):
            part = flat[:, start:start + channels * size * size].view(-1, channels, size, size)
            part = part / (shrink(self.weight, size) * (FEATURE_RESOLUTION / size) * gain * (3 / channels) ** 0.5)
            raw = part if raw is None else upsample(raw) + part
            start += channels * size * size
        return squash(raw)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_file({"mean": self.mean, "directions": self.directions.half(), "sigma": self.sigma, "weight": self.weight},
                  path, metadata={"base": str(self.base)})

    @classmethod
    def load(cls, path: Path) -> LinearCode:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            return cls(base=int(file.metadata()["base"]), **tensors)


def fit_code(images: Tensor, weight: Tensor, latent: int, base: int, batch: int = 64) -> tuple[LinearCode, Tensor]:
    """Principal components of images, uint8 (N, R, R, 3), N > latent, and their latents; `weight` (1, 1, S, S) > 0."""
    weight = shrink(weight, FEATURE_RESOLUTION)
    rows = torch.cat([features(as_maps(part), weight, base) for part in images.split(batch)])
    mean = rows.mean(0)
    rows -= mean
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    values, vectors = values.flip(0)[:latent].clamp_min(1e-8), vectors.flip(1)[:, :latent]
    directions = (vectors.T @ rows) / values.sqrt()[:, None]
    return LinearCode(mean, directions, (values / len(rows)).sqrt(), weight, base), vectors * len(rows) ** 0.5


@torch.no_grad()
def initialise(generator: Generator, latents: Tensor, images: Tensor, weight: Tensor, leading: dict[int, int],
               batch: int = 32) -> None:
    """Set the linear base or bands by regression of the images on their latents.

    weight: (1, 1, S, S) importance of texels. leading: resolution -> how many latents, the first ones, that resolution
    may depend on.
    """
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    base = generator.spec.base_resolution
    for part, z in zip(images.split(batch), latents.split(batch), strict=True):
        maps = as_maps(part)
        for r, used in leading.items():
            values = (unsquash(shrink(maps, base)) if r == base else raw_band(maps, r)).flatten(1)
            total, moment = values.sum(0), z[:, :used].T @ values
            sums[r] = (sums[r][0] + total, sums[r][1] + moment) if r in sums else (total, moment)
    count = len(latents)
    for r, (total, moment) in sums.items():
        mean = total / count
        known = latents[:, :leading[r]]
        centred = known - known.mean(0)
        slope = torch.linalg.solve(centred.T @ centred / count + 0.02 * torch.eye(known.shape[1]),
                                   moment / count - known.mean(0)[:, None] * mean)
        mean = mean - known.mean(0) @ slope
        if r == base:
            generator.base.copy_(slope.view_as(generator.base))
            generator.base_mean.copy_(mean.view_as(generator.base_mean))
        else:
            _set_band(generator, r, mean.view(3, r, r), slope.view(-1, 3, r, r), weight)


def _set_band(generator: Generator, resolution: int, mean: Tensor, slope: Tensor, weight: Tensor) -> None:
    """Mean and detail maps of one band; all detail maps share the tint that explains most of `slope` (L', 3, R, R)."""
    band = generator.band(resolution)
    half = resolution // 2
    symmetric = (0.5 * (mean + mean.flip(-1)))[..., :half]
    tints, values, planes = torch.linalg.svd(symmetric.flatten(1), full_matrices=False)
    unit, count = 3**0.5, len(band.mean)
    band.mean.copy_((values[:, None] * planes)[:count].view_as(band.mean) / unit)
    band.mean_tint.copy_(tints.T[:count] * unit)
    colours = slope.transpose(0, 1).flatten(1)
    tint = torch.linalg.eigh(colours @ colours.T)[1][:, -1]
    tint = tint * tint.sum().sign()
    grey = torch.einsum("c,lcp->lp", tint, slope.flatten(2)) / unit
    amounts, maps = local_factors(grey, shrink(weight, resolution).flatten(), len(band.maps), band.grid)
    band.maps.copy_(maps)
    band.tint.copy_(tint * unit)
    band.weight.zero_()
    band.weight[:, :len(grey)] = amounts


def local_factors(target: Tensor, weight: Tensor, maps: int, grid: int, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Amounts (K * G * G, L) on a grid and maps (K, R, R) whose product is nearest to `target` (L, R * R).

    Alternating least squares, weighted by `weight` (R * R) per texel, from the global principal components: with the
    maps fixed the amounts are one regression, with the amounts fixed every texel's map values are one.
    """
    side = round(target.shape[1] ** 0.5)
    line = spread_matrix(side, grid)
    nodes = torch.einsum("ya,xb->yxab", line, line).reshape(side * side, grid * grid)
    corner = line.gt(0).float().argmax(1).clamp(max=grid - 2)
    found = torch.linalg.eigh((target * weight) @ target.T)[1].flip(1)[:, :maps].T @ target
    found = torch.cat((found, found.new_zeros(maps - len(found), found.shape[1])))
    amounts = target.new_zeros(maps * grid * grid, len(target))
    for _ in range(rounds):
        local = (found.T[:, :, None] * nodes[:, None, :]).flatten(1)
        square = (local * weight[:, None]).T @ local
        ridge = 1e-4 * square.diagonal().mean() * torch.eye(len(square))
        amounts = torch.linalg.solve(square + ridge, (local * weight[:, None]).T @ target.T)
        overlap = (amounts @ amounts.T).view(maps, grid * grid, maps, grid * grid)
        wanted = (amounts @ target).view(maps, grid * grid, -1)
        for y in range(grid - 1):
            for x in range(grid - 1):
                texels = ((corner == y)[:, None] & (corner == x)).flatten().nonzero()[:, 0]
                ids = [y * grid + x, y * grid + x + 1, (y + 1) * grid + x, (y + 1) * grid + x + 1]
                near = nodes[texels][:, ids]
                square = torch.einsum("pa,pb,kalb->pkl", near, near, overlap[:, ids][..., ids])
                ridge = 1e-4 * square.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-12) * torch.eye(maps)
                right = torch.einsum("pa,kap->pk", near, wanted[:, ids][..., texels])
                found[:, texels] = torch.linalg.solve(square + ridge, right).T
    return amounts, found.view(maps, side, side)


def spread_matrix(side: int, grid: int) -> Tensor:
    """(R, G): how much each node counts for each texel of a line; the rows of `generator.spread`."""
    return spread(torch.eye(grid)[None, :, :, None].expand(-1, -1, -1, grid), side)[0, :, :, 0].T.contiguous()


GRAIN_LATENTS = 24
"""How many leading latents may decide how strong a skin's grain is, at most a quarter as many as maps."""


@torch.no_grad()
def set_grain(generator: Generator, latents: Tensor, images: Tensor, valid: Tensor, resolution: int, unit: Tensor,
              batch: int = 8) -> None:
    """Give one band the grain `unit` (R, R), of standard deviation 1, as strong as what the rest of the map lacks.

    images: uint8 (N, S, S, 3) of real people, S >= R; valid: (N, 1, S, S) where they are photographed, the rest does
    not count. Grain and detail are independent, so their energies add: the grain gets the energy of the images' band
    less that of the generator's without grain, in proportion to the detail one resolution below, which it follows.
    How strongly varies over the map; the level is the mean of what people ask for.
    """
    band = generator.band(resolution)
    band.grain.zero_()

    def energies() -> Iterator[Tensor]:
        """Of people, (3, B, R, R): the images' band, the generator's, and that of `unit` as it follows the latter."""
        for part, seen, z in zip(images.split(batch), valid.split(batch), latents.split(batch), strict=True):
            known = (unit.abs() > 0) * (shrink(seen, resolution)[:, 0] > 0.9)
            made = generator.raw(z, resolution)
            coarse = generator.raw(z, resolution // 2)
            below = coarse - upsample(generator.raw(z, resolution // 4))
            follower = local_strength(below, resolution)[:, 0] * unit
            values = (raw_band(as_maps(part), resolution).mean(1), (made - upsample(coarse)).mean(1), follower)
            yield torch.stack([v.clamp(-0.5, 0.5).square() * known for v in values])

    place, people = torch.zeros(3, resolution, resolution), []
    for energy in energies():
        place += (energy / energy[2].sum((1, 2), keepdim=True).clamp_min(1e-6)).sum(1)
    blur = max(3, resolution // 64) | 1
    wanted, made, followed = F.avg_pool2d(place, blur, 1, blur // 2)
    share = torch.maximum(wanted - made, 0.1 * wanted) / followed.clamp_min(1e-3 * followed.mean())
    for energy in energies():
        wanted, made, followed = (energy * torch.stack((torch.ones_like(share), torch.ones_like(share), share))[:, None]
                                  ).sum((2, 3))
        people.append(torch.maximum(wanted - made, 0.1 * wanted) / followed.clamp_min(1e-6))
    level = torch.cat(people).mean()
    band.grain.copy_((unit * (share * level).sqrt())[None])
