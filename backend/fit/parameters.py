# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter vector of a fit: shape, texture and palette of the person; expression, camera and light per photo."""
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from backend.render.camera import Camera
from backend.render.lights import Lights

DISTANCE_PRIOR = (-0.1, 0.4)
"""Mean and standard deviation of log(distance / 1 m) between camera and head: 0.4 to 2 m within two sigma."""


@dataclass
class FitParameters:
    """All that the fit optimises (GANFIT's p_s, p_e, p_t, p_c, p_l); V is the number of photos.

    identity    (K,)     p_s, standard deviations of the calibrated prior
    expression  (V, 52)  p_e, ARKit coefficients in [0, 1]
    latent      (512,)   p_t, the texture generator's latent
    palette     (P, 3)   colours of eyes, teeth, tongue and lashes, sRGB in [0, 1]
    rotation    (V, 3)   p_c, axis-angle, world to camera
    centre      (V, 2)   p_c, where the head's origin falls in the photo: ((x, y) - anchor) / unit, see `ViewFrame`
    log_scale   (V, 1)   p_c, log of pixels per metre at the origin over the frame's unit
    log_distance(V, 1)   p_c, log of the camera's distance from the origin in metres
    sh          (V, 9, 3) p_l, radiance in spherical harmonics
    sun_direction (V, 3)  p_l, towards the light (normalised when used)
    sun_rgb     (V, 3)   p_l, irradiance of the sun (softplus is not used: clamped at 0 after each step)
    offsets     (V0, 3)  a sculptor's displacement of the neutral cage in the model's metres: kept, never optimised
    """

    identity: Tensor
    expression: Tensor
    latent: Tensor
    palette: Tensor
    rotation: Tensor
    centre: Tensor
    log_scale: Tensor
    log_distance: Tensor
    sh: Tensor
    sun_direction: Tensor
    sun_rgb: Tensor
    offsets: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, in a fixed order; without offsets where there are none."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def require_grad(self) -> "FitParameters":
        """The same values as fresh leaves that collect gradients, but for the offsets."""
        return FitParameters(**{k: v.detach().clone().requires_grad_(k != "offsets")
                                for k, v in self.tensors().items()})

    def detach(self) -> "FitParameters":
        """The same values without history."""
        return FitParameters(**{k: v.detach().clone() for k, v in self.tensors().items()})

    def clamp_(self) -> None:
        """Back into the allowed ranges, in place (projected gradient descent)."""
        with torch.no_grad():
            self.expression.clamp_(0, 1)
            self.palette.clamp_(0.01, 0.99)
            self.sun_rgb.clamp_(min=0)

    def lights(self) -> Lights:
        """The lights of every view."""
        return Lights(self.sh, torch.nn.functional.normalize(self.sun_direction, dim=-1), self.sun_rgb)


@dataclass(frozen=True)
class ViewFrame:
    """Fixed facts of one photo that make the camera parameters dimensionless.

    size    (H, W) of the photo in pixels
    anchor  (x, y) pixel between the eyes
    unit    interocular distance in pixels
    focal   focal length in pixels when it is known (EXIF), else None
    """

    size: tuple[int, int]
    anchor: tuple[float, float]
    unit: float
    focal: float | None = None


def camera_of(params: FitParameters, frames: list[ViewFrame], view: int) -> Camera:
    """The perspective camera of one view over its whole photo (batch of 1).

    With s pixels per metre at the head's origin and distance d, the focal length is s * d pixels; where the focal
    length is known, d follows from s instead.
    """
    frame = frames[view]
    height, width = frame.size
    scale = torch.exp(params.log_scale[view, 0]) * frame.unit
    if frame.focal is None:
        distance = torch.exp(params.log_distance[view, 0])
        focal = scale * distance
    else:
        focal = torch.full_like(scale, frame.focal)
        distance = focal / scale
    principal = torch.tensor([[width / 2, height / 2]], dtype=scale.dtype, device=scale.device)
    x = params.centre[view, 0] * frame.unit + frame.anchor[0] - width / 2
    y = params.centre[view, 1] * frame.unit + frame.anchor[1] - height / 2
    translation = torch.stack([x * distance / focal, -y * distance / focal, -distance])[None]
    return Camera(rotation=params.rotation[view][None], translation=translation,
                  fov_y=2 * torch.atan(height / 2 / focal)[None], principal=principal, size=(height, width))
