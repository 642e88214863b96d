# SPDX-License-Identifier: GPL-3.0-or-later
"""Lights: second-order spherical harmonics of radiance for the surroundings, and one sun or point light.

Real spherical harmonics in the order (0,0), (1,-1), (1,0), (1,1), (2,-2), (2,-1), (2,0), (2,1), (2,2) over world axes,
coefficients of RADIANCE. The irradiance at a normal is the convolution with the clamped cosine (Ramamoorthi and
Hanrahan 2001): pi, 2 pi / 3, pi / 4 per order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from backend.constants import constant

Y0 = 0.5 * math.sqrt(1.0 / math.pi)
Y1 = math.sqrt(3.0 / (4.0 * math.pi))
Y2 = 0.5 * math.sqrt(15.0 / math.pi)
Y20 = 0.25 * math.sqrt(5.0 / math.pi)
COSINE_LOBE = (math.pi, *(3 * (2.0 * math.pi / 3.0,)), *(5 * (math.pi / 4.0,)))  # per coefficient


def sh_basis(directions: torch.Tensor) -> torch.Tensor:
    """The nine real spherical harmonics (..., 9) at unit directions (..., 3)."""
    x, y, z = directions.unbind(dim=-1)
    return torch.stack(
        [
            torch.full_like(x, Y0),
            Y1 * y,
            Y1 * z,
            Y1 * x,
            Y2 * x * y,
            Y2 * y * z,
            Y20 * (3.0 * z * z - 1.0),
            Y2 * x * z,
            0.5 * Y2 * (x * x - y * y),
        ],
        dim=-1,
    )


def sphere_directions(count: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """`count` nearly even unit directions (count, 3) over the sphere (Fibonacci lattice), always the same."""
    index = torch.arange(count, dtype=torch.float64, device=device) + 0.5
    z = 1.0 - 2.0 * index / count
    azimuth = index * math.pi * (3.0 - math.sqrt(5.0))
    radius = torch.sqrt(1.0 - z * z)
    return torch.stack([radius * torch.cos(azimuth), radius * torch.sin(azimuth), z], dim=-1).float()


@lru_cache(maxsize=8)
def sphere_basis(count: int, device: torch.device) -> torch.Tensor:
    """`sh_basis` (count, 9) at `sphere_directions`; not to be changed."""
    return sh_basis(sphere_directions(count, device))


def irradiance_matrix(sh: torch.Tensor) -> torch.Tensor:
    """Quadratic forms M (B, 3, 4, 4) with irradiance = h^T M h for h = (x, y, z, 1), from radiance (B, 9, 3).

    Ramamoorthi and Hanrahan 2001, equation 12: the same irradiance as the basis gives, in fewer operations.
    """
    lobe = constant(COSINE_LOBE, sh)
    c = (sh * lobe[:, None]).unbind(dim=1)  # nine tensors (B, 3)
    xx, xy, yz, xz = 0.5 * Y2 * c[8], 0.5 * Y2 * c[4], 0.5 * Y2 * c[5], 0.5 * Y2 * c[7]
    x, y, z = 0.5 * Y1 * c[3], 0.5 * Y1 * c[1], 0.5 * Y1 * c[2]
    rows = [[xx, xy, xz, x], [xy, -xx, yz, y], [xz, yz, 3.0 * Y20 * c[6], z], [x, y, z, Y0 * c[0] - Y20 * c[6]]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@dataclass(frozen=True)
class Lights:
    """A batch of light set-ups.

    Fields:
        sh: (B, 9, 3) spherical harmonics of the surroundings' radiance, linear RGB.
        sun_direction: (B, 3) unit vectors towards the sun.
        sun_rgb: (B, 3) irradiance on a surface that faces the sun, linear RGB, >= 0; for a point light at the origin.
        point_position: (B, 3) metres: makes the sun a point light there (its direction is then not used); None: a sun.
    """

    sh: torch.Tensor
    sun_direction: torch.Tensor
    sun_rgb: torch.Tensor
    point_position: torch.Tensor | None = None

    @staticmethod
    def ambient_and_sun(ambient: torch.Tensor, sun_direction: torch.Tensor, sun_rgb: torch.Tensor) -> Lights:
        """The paper's set-up: even ambient light of irradiance (B, 3) and one directional light."""
        sh = torch.zeros(ambient.shape[0], 9, 3, dtype=ambient.dtype, device=ambient.device)
        sh[:, 0] = ambient / (math.pi * Y0)
        return Lights(sh, torch.nn.functional.normalize(sun_direction, dim=-1), sun_rgb)

    @staticmethod
    def default(batch: int, device: str | torch.device = "cpu") -> Lights:
        """Soft light from the front and above that shows an albedo about as bright as it is."""
        sh = torch.zeros(batch, 9, 3, device=device)
        sh[:, 0] = 0.8 / Y0
        sh[:, 1] = 0.15 / Y1
        sh[:, 2] = 0.25 / Y1
        direction = torch.tensor([[0.0, 0.0, 1.0]], device=device).expand(batch, 3)
        return Lights(sh, direction, torch.zeros(batch, 3, device=device))

    def radiance(self, directions: torch.Tensor) -> torch.Tensor:
        """Radiance (B, N, 3) of the surroundings from world directions (N, 3), without the sun."""
        return sh_basis(directions) @ self.sh

    def irradiance(
        self, normals: torch.Tensor, ao: torch.Tensor | None = None, points: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Irradiance on a surface.

        Args:
            normals: (B, ..., 3) unit world normals.
            ao: (B or 1, ..., 1) share of the surroundings that is seen, 0..1; None: all. The sun is not occluded.
            points: (B, ..., 3) world positions, needed for a point light only.

        Returns:
            (B, ..., 3) linear RGB, negative only where the spherical harmonics are.
        """
        batch, shape = normals.shape[0], normals.shape
        flat = normals.reshape(batch, -1, 3)
        matrix = irradiance_matrix(self.sh)
        # h^T M h = n^T Q n + 2 l n + c: one product gives Q n + 2 l for the three channels.
        linear = flat @ matrix[:, :, :3, :3].permute(0, 2, 1, 3).reshape(batch, 3, 9)
        linear = linear.view(batch, -1, 3, 3) + 2.0 * matrix[:, None, :, 3, :3]
        sky = (linear @ flat[..., None])[..., 0] + matrix[:, None, :, 3, 3]
        if ao is not None:
            sky = sky * ao.reshape(ao.shape[0], -1, 1)
        return (sky + self._sun(flat, points)).view(shape)

    def _sun(self, normals: torch.Tensor, points: torch.Tensor | None) -> torch.Tensor:
        """Irradiance (B, N, 3) of the sun or point light on normals (B, N, 3)."""
        if self.point_position is None:
            cosine = (normals @ self.sun_direction[:, :, None]).clamp_min(0.0)
            return cosine * self.sun_rgb[:, None]
        if points is None:
            raise ValueError("a point light needs the points that it lights")
        cosine = (normals * self.towards_point(points.reshape(normals.shape))).sum(dim=-1, keepdim=True)
        return cosine.clamp_min(0.0) * self.sun_rgb[:, None]

    def towards_point(self, points: torch.Tensor) -> torch.Tensor:
        """Vectors (B, N, 3) from points (B, N, 3) towards the point light, as long as its falloff: 1 at the origin."""
        if self.point_position is None:
            raise ValueError("these lights have no point light")
        towards = self.point_position[:, None] - points
        distance = towards.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        falloff = self.point_position.square().sum(dim=-1)[:, None, None] / (distance * distance)
        return towards / distance * falloff

    def nonnegative_radiance_penalty(self, samples: int = 256) -> torch.Tensor:
        """(B,) mean square of the negative part of the radiance over a fixed sampling of the sphere, 0 if none."""
        radiance = sphere_basis(samples, self.sh.device).to(self.sh.dtype) @ self.sh
        return radiance.clamp_max(0.0).square().mean((1, 2))

    def nonnegative(self, samples: int = 2048) -> Lights:
        """The nearest of these lights towards even light, per colour, whose radiance and sun are not negative.

        Orders 1 and 2 are scaled down by the largest factor in [0, 1] that leaves no negative radiance on the sampling;
        the mean radiance stays (raised to 0 if it is negative).
        """
        mean = self.sh[:, :1].clamp_min(0.0)
        rest = sphere_basis(samples, self.sh.device).to(self.sh.dtype)[:, 1:] @ self.sh[:, 1:]
        lowest = rest.amin(dim=1, keepdim=True)
        factor = (Y0 * mean / (-lowest).clamp_min(1e-12)).clamp(max=1.0)
        return replace(self, sh=torch.cat([mean, self.sh[:, 1:] * factor], dim=1), sun_rgb=self.sun_rgb.clamp_min(0.0))

    def to(self, device: str | torch.device) -> Lights:
        """The same lights on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> Lights:
        """The same lights without gradients."""
        return self._map(torch.Tensor.detach)

    def select(self, items: slice) -> Lights:
        """A slice of the batch."""
        return self._map(lambda tensor: tensor[items])

    def _map(self, change: Any) -> Lights:
        point = None if self.point_position is None else change(self.point_position)
        return Lights(change(self.sh), change(self.sun_direction), change(self.sun_rgb), point)

    @staticmethod
    def cat(lights: list[Lights]) -> Lights:
        """One batch of several suns (no point lights)."""
        if any(light.point_position is not None for light in lights):
            raise ValueError("point lights cannot be joined")
        return Lights(*(torch.cat([getattr(light, name) for light in lights]) for name in LIGHT_NAMES))

    def to_result(self, index: int = 0) -> dict[str, Any]:
        """The `lights` entry of result.json: sh [9][3], sun {direction, rgb}; of a point light, as at the origin."""
        direction = self.sun_direction if self.point_position is None else self.point_position
        direction = torch.nn.functional.normalize(direction[index].detach().double(), dim=-1)
        return {
            "sh": self.sh[index].detach().double().tolist(),
            "sun": {"direction": direction.tolist(), "rgb": self.sun_rgb[index].detach().double().tolist()},
        }

    @staticmethod
    def from_result(entry: dict[str, Any], device: str | torch.device = "cpu") -> Lights:
        """The lights of a `lights` entry of result.json, as a batch of one."""
        sun = entry["sun"]
        values = (entry["sh"], sun["direction"], sun["rgb"])
        return Lights(*(torch.tensor([value], dtype=torch.float32, device=device) for value in values))


LIGHT_NAMES = ("sh", "sun_direction", "sun_rgb")


def random_lights(batch: int, generator: torch.Generator | None = None, device: str | torch.device = "cpu") -> Lights:
    """Plausible random lights for the second render of the identity loss.

    Surroundings with a random gradient, never negative, a weak random tint, and a sun in the front half that gives up
    to half of the light; a surface that faces +Z gets an irradiance of 0.7 pi to 1.1 pi, so a face is well exposed.
    """

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    sh = torch.zeros(batch, 9, 3)
    sh[:, 0] = 1.0 / Y0
    grey = torch.randn(batch, 8, 1, generator=generator)
    sh[:, 1:] = grey + 0.15 * torch.randn(batch, 8, 3, generator=generator)
    sh[:, 1:4] *= 0.35 / Y1
    sh[:, 4:] *= 0.12 / Y2
    direction = torch.stack([uniform(-1.0, 1.0), uniform(-0.4, 1.0), uniform(0.3, 1.0)], dim=-1)
    share = uniform(0.0, 0.5, 1)
    lights = Lights(sh, torch.nn.functional.normalize(direction, dim=-1), torch.zeros(batch, 3)).nonnegative()
    front = torch.tensor([0.0, 0.0, 1.0]).expand(batch, 1, 3)
    target = math.pi * uniform(0.7, 1.1, 1) * uniform(0.92, 1.08, 3)
    sky = lights.irradiance(front)[:, 0].mean(dim=-1, keepdim=True).clamp_min(0.1)
    sun = share * target / lights.sun_direction[:, 2:]
    scaled = lights.sh * ((1.0 - share) * target / sky)[:, None]
    return Lights(scaled, lights.sun_direction, sun).to(device)
