# SPDX-License-Identifier: GPL-3.0-or-later
"""The random expression, camera and light under which the fit looks at the same person again (GANFIT, Eq. 4)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.render.camera import Camera
from backend.render.lights import Lights, random_lights

RANDOM_VIEW_SIZE = 176
"""Side of the second render in pixels: the identity network sees 150 of them."""


@dataclass(frozen=True)
class Conditions:
    """N draws, or N x P for P people: expression (..., 52), `Camera`, `Lights`, backdrop (..., 1, 1, 3) encoded."""

    expression: Tensor
    camera: Camera
    lights: Lights
    backdrop: Tensor

    @staticmethod
    def draw(count: int, rng: torch.Generator, units: int = 52) -> Conditions:
        """`count` draws on the CPU: about one ARKit unit in eight at work, the camera of `random_cameras`."""
        strength = torch.rand(count, units, generator=rng)
        chosen = torch.rand(count, units, generator=rng) < 0.12
        return Conditions(0.6 * strength * chosen, random_cameras(count, rng, RANDOM_VIEW_SIZE),
                          random_lights(count, rng), torch.rand(count, 1, 1, 3, generator=rng))

    @staticmethod
    def of_people(draws: Sequence[Conditions], device: torch.device) -> Conditions:
        """N draws for each of P people, (N, P, ...), on a device."""
        first = draws[0]
        parts = zip(*(d._tensors() for d in draws), strict=True)
        return first._with([torch.stack(part, 1).to(device) for part in parts])

    def at(self, index: Tensor) -> Conditions:
        """The draw (P, ...) of an iteration, its number a tensor (1,)."""
        return self._with([t.index_select(0, index)[0] for t in self._tensors()])

    def _tensors(self) -> list[Tensor]:
        camera, lights = self.camera, self.lights
        return [self.expression, camera.rotation, camera.translation, camera.fov_y, camera.principal, lights.sh,
                lights.sun_direction, lights.sun_rgb, self.backdrop]

    def _with(self, tensors: Sequence[Tensor]) -> Conditions:
        expression, rotation, translation, fov_y, principal, sh, direction, rgb, backdrop = tensors
        camera = replace(self.camera, rotation=rotation, translation=translation, fov_y=fov_y, principal=principal)
        return Conditions(expression, camera, Lights(sh, direction, rgb), backdrop)


def random_cameras(count: int, rng: torch.Generator, size: int) -> Camera:
    """Cameras 0.7 to 1.5 m in front of the face, within 40 degrees of yaw and 15 of pitch, the face filling them."""
    yaw, pitch, far = (torch.rand(count, 3, generator=rng) * 2 - 1).unbind(1)
    yaw, pitch, distance = 0.7 * yaw, 0.26 * pitch, 1.1 + 0.4 * far
    target = torch.tensor([[0.0, -0.035, 0.02]])
    direction = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], 1)
    fov = 2 * torch.atan(0.15 / distance)
    camera = Camera.look_at(target + distance[:, None] * direction, target, fov, (size, size))
    return replace(camera, principal=camera.principal.clone())
