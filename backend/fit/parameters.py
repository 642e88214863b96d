# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter vector of a fit: shape, texture and palette of the person; expression, camera and light per photo."""
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from backend.render.camera import Camera
from backend.render.lights import Lights

PERSONAL = ("identity", "latent", "palette", "offsets")
"""Parameters that a person's photos share."""
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

    Of P people that are fitted together (`together`) those four that belong to a person have a first dimension P, the
    others V views of all people, one person's after the other's.
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

    @staticmethod
    def together(people: Sequence["FitParameters"]) -> "FitParameters":
        """The parameters of several people as one; either all or none have offsets."""
        values = [p.tensors() for p in people]
        return FitParameters(**{name: (torch.stack if name in PERSONAL else torch.cat)([v[name] for v in values])
                                for name in values[0]})

    def apart(self, views: Sequence[int]) -> list["FitParameters"]:
        """The inverse of `together` for people with so many views each."""
        found, first = [], 0
        for person, count in enumerate(views):
            found.append(FitParameters(**{name: t[person] if name in PERSONAL else t[first:first + count]
                                          for name, t in self.tensors().items()}))
            first += count
        return found

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


@dataclass(frozen=True)
class CropFrames:
    """`ViewFrame`s and the square crops of V photos as tensors: the cameras of all crops without a loop."""

    middle: Tensor
    """(V, 2) the photo's middle, pixels"""
    anchor: Tensor
    """(V, 2) pixels"""
    unit: Tensor
    """(V,) pixels"""
    focal: Tensor
    """(V,) pixels, 0 where it is not known"""
    corner: Tensor
    """(V, 2) the crop's top left corner, pixels of the photo"""
    scale: Tensor
    """(V,) crop pixels per photo pixel"""
    size: int
    """side of the crops, pixels"""

    @staticmethod
    def of(frames: Sequence[ViewFrame], boxes: Sequence[tuple[float, float, float]], size: int,
           device: torch.device) -> "CropFrames":
        """boxes: (x0, y0, side) of each crop in photo pixels."""
        rows = [[f.size[1] / 2, f.size[0] / 2, *f.anchor, f.unit, f.focal or 0.0, *box[:2],
                 size / box[2]] for f, box in zip(frames, boxes, strict=True)]
        t = torch.tensor(rows, dtype=torch.float32, device=device)
        return CropFrames(t[:, 0:2], t[:, 2:4], t[:, 4], t[:, 5], t[:, 6:8], t[:, 8], size)

    @staticmethod
    def cat(parts: Sequence["CropFrames"]) -> "CropFrames":
        """The crops of several people, all of one size."""
        names = [f.name for f in fields(CropFrames) if f.name != "size"]
        return CropFrames(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names}, size=parts[0].size)

    def cameras(self, params: FitParameters) -> Camera:
        """(V,) the crops of the cameras of `camera_of`."""
        pixels = torch.exp(params.log_scale[:, 0]) * self.unit  # per metre at the head's origin
        known = self.focal > 0
        focal = torch.where(known, self.focal, pixels * torch.exp(params.log_distance[:, 0]))
        distance = focal / pixels
        origin = params.centre * self.unit[:, None] + self.anchor - self.middle
        x, y = (origin / pixels[:, None]).unbind(1)
        return Camera(rotation=params.rotation, translation=torch.stack([x, -y, -distance], 1),
                      fov_y=2 * torch.atan(0.5 * self.size / (focal * self.scale)),
                      principal=(self.middle - self.corner) * self.scale[:, None], size=(self.size, self.size))
