# SPDX-License-Identifier: GPL-3.0-or-later
"""Progressive generator of skin albedo maps: from R^512 to a UV map, with linear bands under a convolutional trunk.

After Karras et al. 2018 (progressive growing, pixel norm, equalised learning rate, one RGB head per resolution with
fade-in). Two things differ, because few openly licensed people exist to learn from: the RGB heads add up over the
resolutions (the skip generator of StyleGAN2) and start from a linear model of the maps, so that the trunk only has to
learn what is not linear in the latent. All sums are made in a space that is logarithmic in dark and middle tones, where
skin colours lie on a line and pigments add; `squash` ends them within (0, 1).
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import GanfitError

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "texture_gan.safetensors"
CLIP = 0.008
"""Albedo is clipped to [c, 1 - c] before `unsquash`: sRGB 2/255, below any skin."""
KNEE = 3.0
"""How sharply `squash` turns from the exponential to 1."""
MELANIN_RGB = (1.0 / 1.32, 1.0, 1.62 / 1.32)
"""Direction of log-linear RGB along which the skin of many people darkens (eumelanin through sRGB primaries)."""


@dataclass(frozen=True)
class GeneratorSpec:
    """Sizes of a generator; every level doubles the resolution, from 4 x 4."""

    latent: int = 512
    channels: tuple[int, ...] = (32, 64, 96, 64, 48, 24, 16, 8)
    """Trunk channels at 4, 8, 16, ... texels."""
    base_resolution: int = 32
    """The linear base holds this many texels a side."""
    linear_bands: tuple[int, ...] = (44, 32, 8, 1)
    """Linear detail maps, all of one tint, at each resolution above the base."""
    band_grid: tuple[int, ...] = (4, 6, 8, 4)
    """Nodes a side of the grid on which the latent says how strong each detail map is, between them bilinear."""
    grain: tuple[bool, ...] = (False, False, True, True)
    """Whether a resolution above the base has a map of skin grain, which is not symmetric."""
    place_maps: tuple[int, ...] = (8, 8, 2, 0)
    """Learned feature maps that tell the trunk where it is, at each resolution above the base."""
    knee: float = KNEE
    """Sharpness of `squash`."""

    @property
    def resolution(self) -> int:
        """Texels a side of the full map."""
        return 4 << (len(self.channels) - 1)

    @property
    def detail_resolutions(self) -> tuple[int, ...]:
        """Resolutions above the base, ascending."""
        count = len(self.linear_bands)
        return tuple(self.base_resolution << (i + 1) for i in range(count))


MEAN_TINTS = 2
"""Maps that hold the mean of a band: two tints describe its colours."""


def pixel_norm(x: Tensor) -> Tensor:
    """Scale every texel's feature vector of `x` (B, C, H, W) to unit mean square (Karras et al. 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def upsample(x: Tensor) -> Tensor:
    """Double the side of `x` (B, C, H, W) bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def squash(x: Tensor, knee: float = KNEE) -> Tensor:
    """Map raw values to albedo in (0, 1): exp(x) while that is small, then bending to 1; sigmoid(3 x)^(1/3)."""
    return torch.exp(F.logsigmoid(knee * x) / knee)


def unsquash(albedo: Tensor, knee: float = KNEE) -> Tensor:
    """Inverse of `squash`, for albedo in [0, 1] of any shape."""
    return torch.logit(albedo.clamp(CLIP, 1 - CLIP) ** knee) / knee


def mirrored(half: Tensor) -> Tensor:
    """Complete the left halves (..., H, W/2) of symmetric maps to (..., H, W)."""
    return torch.cat((half, half.flip(-1)), -1)


class EqualConv(nn.Module):
    """Convolution with equalised learning rate: unit normal weights, scaled at run time by He's constant."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = 2**0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / (inputs * kernel * kernel) ** 0.5

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, stride, padding=self.weight.shape[-1] // 2)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / inputs**0.5

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return F.linear(x, self.weight * self.scale, self.bias)


def spread(nodes: Tensor, resolution: int) -> Tensor:
    """Values at the nodes of a grid, the outer ones on the border texels, (B, K, G, G) to (B, K, R, R), bilinear."""
    return F.interpolate(nodes, (resolution, resolution), mode="bilinear", align_corners=True)


class LinearBand(nn.Module):
    """RGB detail of one resolution, linear in the latent: a symmetric mean, detail maps, and skin grain.

    A detail map (R, R) counts as much as the latent says for the place: the amounts are linear in the latent at the
    nodes of a coarse grid. So a few maps do what takes hundreds where each counts the same all over the face. The grain
    is one fixed map (1, R, R) that counts as much as the local strength of the detail one resolution below: on skin
    the energy of one octave tells that of the next far better than the latent does. That has no gradient: texels that
    do not lie where the grain has them would only wash it out.
    """

    def __init__(self, latent: int, maps: int, grid: int, resolution: int, grain: bool) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(MEAN_TINTS, resolution, resolution // 2))
        self.mean_tint = nn.Parameter(torch.ones(MEAN_TINTS, 3))
        self.maps = nn.Parameter(torch.zeros(maps, resolution, resolution))
        self.tint = nn.Parameter(torch.ones(3))
        self.weight = nn.Parameter(torch.zeros(maps * grid * grid, latent))
        self.grid = grid
        self.grain = nn.Parameter(torch.zeros(1, resolution, resolution)) if grain else None

    def smooth(self, z: Tensor) -> Tensor:
        """Latent (B, L) to raw detail (B, 3, R, R) without grain; affine in z."""
        nodes = F.linear(z, self.weight).view(len(z), -1, self.grid, self.grid)
        grey = (spread(nodes, self.maps.shape[-1]) * self.maps).sum(1, keepdim=True)
        return mirrored(torch.einsum("mhw,mc->chw", self.mean, self.mean_tint)) + self.tint[:, None, None] * grey

    def forward(self, z: Tensor, below: Tensor | None) -> Tensor:
        """Latent (B, L) and detail one resolution below (B, 3, R/2, R/2) to raw detail (B, 3, R, R)."""
        if self.grain is None or below is None:
            return self.smooth(z)
        return self.smooth(z) + local_strength(below.detach(), self.grain.shape[-1]) * self.grain


def local_strength(detail: Tensor, resolution: int) -> Tensor:
    """Root mean square (B, 1, R, R) of detail (B, 3, S, S) in luma over squares of 1/32 of a side, from row to row
    smooth."""
    energy = F.avg_pool2d(detail.mean(1, keepdim=True).square(), max(1, detail.shape[-1] // 32))
    return F.interpolate(energy, (resolution, resolution), mode="bilinear").sqrt()


class Level(nn.Module):
    """One resolution of the trunk: narrow, upsample, mix in place maps and linear detail, modulate by the latent."""

    def __init__(self, spec: GeneratorSpec, inputs: int, outputs: int, resolution: int) -> None:
        super().__init__()
        detail = resolution > spec.base_resolution
        index = spec.detail_resolutions.index(resolution) if detail else -1
        places = spec.place_maps[index] if detail else 0
        self.narrow = EqualConv(inputs, outputs, 3)
        self.mix = EqualConv(outputs + places + (3 if detail else 0), outputs, 3)
        self.style = EqualLinear(spec.latent, outputs)
        nn.init.zeros_(self.style.weight)
        self.places = nn.Parameter(torch.randn(places, resolution, resolution // 2)) if places else None
        self.band = None
        if detail:
            self.band = LinearBand(spec.latent, spec.linear_bands[index], spec.band_grid[index], resolution,
                                   spec.grain[index])
        self.to_rgb = None
        if resolution >= spec.base_resolution:
            self.to_rgb = EqualConv(outputs, 3, 1, gain=1.0)
            nn.init.zeros_(self.to_rgb.weight)

    def forward(self, x: Tensor, z: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features (B, C, R/2, R/2) to features (B, C', R, R) and this resolution's raw RGB (B, 3, R, R) or None.

        below: what the resolution before gave as its RGB, if it was a detail.
        """
        x = upsample(F.leaky_relu(self.narrow(x), 0.2))
        linear = None if self.band is None else self.band(z, below)
        extra = [x]
        if self.places is not None:
            extra.append(mirrored(self.places)[None].expand(len(z), -1, -1, -1))
        if linear is not None:
            extra.append(linear)
        x = pixel_norm(F.leaky_relu(self.mix(torch.cat(extra, 1)), 0.2))
        x = x * (1 + self.style(z))[:, :, None, None]
        if self.to_rgb is None:
            return x, None
        rgb = self.to_rgb(x)
        return x, rgb if linear is None else rgb + linear


class Generator(nn.Module):
    """Albedo generator; `layout_id` names the UV layout that its maps belong to, `sha256` its weights' file."""

    def __init__(self, spec: GeneratorSpec | None = None, layout_id: str = "") -> None:
        super().__init__()
        self.spec = spec or GeneratorSpec()
        self.layout_id = layout_id
        self.sha256 = ""
        channels = self.spec.channels
        self.start = EqualLinear(self.spec.latent, channels[0] * 16, gain=1.0)
        self.levels = nn.ModuleList(
            Level(self.spec, channels[i - 1], channels[i], 4 << i) for i in range(1, len(channels)))
        size = self.spec.base_resolution
        self.base = nn.Parameter(torch.zeros(self.spec.latent, 3, size, size))
        self.base_mean = nn.Parameter(torch.zeros(3, size, size))

    def band(self, resolution: int) -> LinearBand:
        """The linear detail of one resolution above the base."""
        return next(level.band for level in self.levels
                    if level.band is not None and level.band.maps.shape[-2] == resolution)

    @property
    def latent_mean(self) -> Tensor:
        """Latent (L,) of the mean map: the prior is N(0, I), so all zeros."""
        return torch.zeros(self.spec.latent, device=self.base.device)

    def sample_latent(self, count: int, seed: int) -> Tensor:
        """Draw `count` latents (count, L) from the prior, the same for the same seed on every device."""
        noise = torch.randn(count, self.spec.latent, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.base.device)

    def forward(self, z: Tensor, resolution: int | None = None, fade: float = 1.0) -> Tensor:
        """Albedo (B, 3, R, R), sRGB in (0, 1), row 0 at the top, of latents z (B, L).

        `resolution` (a power of two from the base's to the full one) stops at that resolution's RGB head; `fade` in
        [0, 1] blends in its detail over the resolution below (progressive growing).
        """
        return squash(self.raw(z, resolution, fade), self.spec.knee)

    def raw(self, z: Tensor, resolution: int | None = None, fade: float = 1.0) -> Tensor:
        """The map before `squash`; arguments as in `forward`."""
        resolution = self._checked_resolution(resolution)
        x = pixel_norm(F.leaky_relu(self.start(z).view(len(z), -1, 4, 4), 0.2))
        rgb = torch.einsum("bl,lchw->bchw", z, self.base) + self.base_mean
        detail: Tensor | None = None
        for i, level in enumerate(self.levels):
            side = 8 << i
            x, detail = level(x, z, detail if side // 2 > self.spec.base_resolution else None)
            if side > self.spec.base_resolution:
                rgb = upsample(rgb)
            if detail is not None:
                rgb = rgb + (detail if side < resolution else fade * detail)
            if side == resolution:
                return rgb
        return rgb

    def linear(self, z: Tensor, resolution: int) -> Tensor:
        """What base and bands give to `raw`, without trunk and grain, (B, 3, R, R)."""
        raw = torch.einsum("bl,lchw->bchw", z, self.base) + self.base_mean
        for side in self.spec.detail_resolutions:
            if side <= resolution:
                raw = upsample(raw) + self.band(side).smooth(z)
        return raw

    def solve_latent(self, albedo: Tensor, weight: Tensor | None = None, prior: float = 1.0, noise: float = 0.05,
                     resolution: int | None = None) -> Tensor:
        """Latents (B, L) whose linear part is nearest to `albedo` (B, 3, H, W), in closed form: a start for a fit.

        Ridge regression on raw values at `resolution` (None: the base's): `weight` (B, 1, H, W) in [0, 1] says which
        texels are known (all if None), `noise` is the raw standard deviation of a texel of the base's size, `prior`
        weighs the pull towards z = 0.
        """
        size = resolution or self.spec.base_resolution
        known = torch.ones_like(albedo[:, :1]) if weight is None else weight
        share = F.interpolate(known, (size, size), mode="area")
        small = F.interpolate(albedo * known, (size, size), mode="area") / share.clamp_min(1e-6)
        with torch.no_grad():
            zero = self.linear(self.latent_mean[None], size)
            units = torch.eye(self.spec.latent, device=self.base.device)
            basis = torch.cat([self.linear(part, size) - zero for part in units.split(32)]).flatten(1)
        residual = (unsquash(small, self.spec.knee) - zero).flatten(1)
        eye = prior * torch.eye(len(basis), device=basis.device)
        precision = (self.spec.base_resolution / size / noise) ** 2
        solutions = []
        for r, w in zip(residual, share.expand(-1, 3, -1, -1).flatten(1), strict=True):
            scaled = basis * (w * precision)
            solutions.append(torch.linalg.solve(scaled @ basis.T + eye, scaled @ r))
        return torch.stack(solutions)

    def macs(self, resolution: int | None = None) -> int:
        """Multiply-accumulates of one map (convolutions, linear layers and linear bands)."""
        resolution = self._checked_resolution(resolution)
        total = self.start.weight.numel() + self.base.numel()
        for i, level in enumerate(self.levels):
            side = 8 << i
            if side > resolution:
                break
            total += level.narrow.weight.numel() * (side // 2) ** 2 + level.mix.weight.numel() * side**2
            total += level.style.weight.numel()
            total += level.to_rgb.weight.numel() * side**2 if level.to_rgb is not None else 0
            total += level.band.maps.numel() + level.band.weight.numel() if level.band is not None else 0
        return total

    def _checked_resolution(self, resolution: int | None) -> int:
        full = self.spec.resolution
        if resolution is None:
            return full
        allowed = [self.spec.base_resolution << i for i in range(full.bit_length()) if
                   self.spec.base_resolution << i <= full]
        if resolution not in allowed:
            raise ValueError(f"resolution must be one of {allowed}, not {resolution}")
        return resolution


def save_generator(generator: Generator, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write the weights in fp16 with the spec, the layout id and `notes` as metadata."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in generator.state_dict().items()}
    metadata = {"format": "ganfit-texture-5", "layout_id": generator.layout_id,
                "spec": json.dumps(asdict(generator.spec)), **(notes or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)


def load_generator(path: Path | str | None = None, device: str | torch.device = "cpu",
                   layout_id: str | None = None) -> Generator:
    """Load a generator in float32, ready to run; `path` None takes the one that ships with the project.

    Pass the head's `layout_id` to refuse a generator that was trained for another UV layout. Raises GanfitError
    `generator_missing`, `generator_invalid` or `layout_mismatch`.
    """
    path = Path(path or DEFAULT_WEIGHTS)
    if not path.is_file():
        raise GanfitError("generator_missing", f"There is no texture generator at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            spec = json.loads(metadata["spec"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        spec = GeneratorSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()})
        generator = Generator(spec, metadata["layout_id"])
        generator.load_state_dict(tensors)
    except Exception as error:
        message = f"{path.name} is not a texture generator of this project ({error})."
        raise GanfitError("generator_invalid", message) from error
    if layout_id is not None and generator.layout_id != layout_id:
        raise GanfitError("layout_mismatch", f"{path.name} was trained for another UV layout than this head's.",
                          hint="Use the generator that ships with this version, or train yours again.")
    generator.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return generator.to(device).eval().requires_grad_(False)
