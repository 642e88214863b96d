# SPDX-License-Identifier: GPL-3.0-or-later
"""The perspective camera: world to clip space, projection to pixels, crops, and the form in the result bundle.

World axes are the head's: +Y up, +Z out of the face, +X the subject's left, metres. The camera looks along its own -Z
with +Y up. Pixels start at the top left, centres at +0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from backend.constants import constant

NEAR, FAR = 0.05, 100.0  # metres
FULL_FRAME_DIAGONAL = math.hypot(36.0, 24.0)  # millimetres


def rotation_matrix(axis_angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (B, 3, 3) of axis-angle vectors (B, 3) in radians (Rodrigues), smooth at zero."""
    square = (axis_angle * axis_angle).sum(dim=-1)
    small = square < 1e-8
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1.0 - square / 6.0, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - square / 24.0, (1.0 - torch.cos(angle)) / (angle * angle))
    x, y, z = axis_angle.unbind(dim=-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*axis_angle.shape[:-1], 3, 3)
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + first[..., None, None] * k + second[..., None, None] * (k @ k)


def axis_angle(rotation: torch.Tensor) -> torch.Tensor:
    """Axis-angle vectors (B, 3) of rotation matrices (B, 3, 3); the angle is in [0, pi]. Not meant for gradients."""
    r = rotation.double()
    # The quaternion is the eigenvector of the largest eigenvalue of this matrix (Bar-Itzhack 2000): stable everywhere.
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    rows = [
        [xx - yy - zz, xy, xz, wx],
        [xy, yy - xx - zz, yz, wy],
        [xz, yz, zz - xx - yy, wz],
        [wx, wy, wz, xx + yy + zz],
    ]
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2) / 3.0
    quaternion = torch.linalg.eigh(matrix)[1][..., -1]
    quaternion = quaternion * torch.where(quaternion[..., 3:] < 0, -1.0, 1.0)
    sine = quaternion[..., :3].norm(dim=-1, keepdim=True)
    angle = 2.0 * torch.atan2(sine, quaternion[..., 3:])
    scale = torch.where(sine > 1e-12, angle / sine.clamp_min(1e-12), torch.full_like(sine, 2.0))
    return (quaternion[..., :3] * scale).to(rotation.dtype)


def fov_from_exif(focal_length_35mm: float, width: int, height: int) -> float:
    """Vertical field of view in radians from EXIF's FocalLengthIn35mmFilm.

    The 35 mm equivalent keeps the diagonal angle of view (CIPA DCG-001): 43.27 mm for the diagonal.

    Args:
        focal_length_35mm: in millimetres, > 0.
        width, height: of the uncropped, upright photo in pixels.
    """
    if focal_length_35mm <= 0 or width <= 0 or height <= 0:
        raise ValueError("focal length and size must be positive")
    focal_pixels = focal_length_35mm / FULL_FRAME_DIAGONAL * math.hypot(width, height)
    return 2.0 * math.atan(0.5 * height / focal_pixels)


@dataclass(frozen=True)
class Camera:
    """A batch of perspective cameras with square pixels that share one image size.

    Fields:
        rotation: (B, 3) axis-angle, radians; world to camera: x_c = R x + t.
        translation: (B, 3) metres.
        fov_y: (B,) vertical field of view of the whole image height, radians.
        principal: (B, 2) principal point in pixels.
        size: (height, width) in pixels.
    """

    rotation: torch.Tensor
    translation: torch.Tensor
    fov_y: torch.Tensor
    principal: torch.Tensor
    size: tuple[int, int]

    @staticmethod
    def look_at(
        position: torch.Tensor,
        target: torch.Tensor,
        fov_y: torch.Tensor | float,
        size: tuple[int, int],
        up: tuple[float, float, float] = (0.0, 1.0, 0.0),
    ) -> Camera:
        """Cameras at `position` (B, 3) that look at `target` (B or 1, 3), principal point in the middle.

        Example:
            >>> camera = Camera.look_at(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3), 0.5, (200, 100))
            >>> camera.project(torch.zeros(1, 1, 3))[0, 0].tolist()
            [50.0, 100.0]
        """
        back = torch.nn.functional.normalize(position - target, dim=-1)
        right = torch.linalg.cross(constant(up, position).expand_as(back), back)
        right = torch.nn.functional.normalize(right, dim=-1)
        rotation = torch.stack([right, torch.linalg.cross(back, right), back], dim=-2)
        height, width = size
        batch = position.shape[0]
        return Camera(
            rotation=axis_angle(rotation),
            translation=-(rotation @ position[..., None])[..., 0],
            fov_y=torch.as_tensor(fov_y, dtype=position.dtype, device=position.device).expand(batch),
            principal=constant((0.5 * width, 0.5 * height), position).expand(batch, 2),
            size=size,
        )

    @cached_property
    def matrix(self) -> torch.Tensor:
        """(B, 3, 3) `rotation` as matrices, made once: where gradients go to it, a camera serves one backward pass."""
        return rotation_matrix(self.rotation)

    @property
    def focal(self) -> torch.Tensor:
        """(B,) focal length in pixels."""
        return 0.5 * self.size[0] / torch.tan(0.5 * self.fov_y)

    def view(self, points: torch.Tensor) -> torch.Tensor:
        """World points (B or 1, N, 3) to camera space (B, N, 3): +X right, +Y up, -Z ahead, metres."""
        return points @ self.matrix.transpose(1, 2) + self.translation[:, None]

    def clip(self, verts: torch.Tensor, y_down: bool = False) -> torch.Tensor:
        """World points (B or 1, V, 3) to OpenGL clip space (B, V, 4), w = distance along the viewing axis.

        y points up, as OpenGL has it, or down: then what the rasteriser draws has row 0 at the top.
        """
        height, width = self.size
        x, y, z = self.view(verts).unbind(dim=-1)
        upright = -1.0 if y_down else 1.0
        focal = self.focal[:, None]
        shift_x = 1.0 - 2.0 * self.principal[:, 0:1] / width
        shift_y = upright * (2.0 * self.principal[:, 1:2] / height - 1.0)
        depth = -z
        return torch.stack(
            [
                2.0 * focal / width * x - shift_x * depth,
                upright * 2.0 * focal / height * y - shift_y * depth,
                (depth * (FAR + NEAR) - 2.0 * FAR * NEAR) / (FAR - NEAR),
                depth,
            ],
            dim=-1,
        )

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """World points (B or 1, N, 3) to pixels (B, N, 2), x right, y down; undefined behind the camera."""
        x, y, z = self.view(points).unbind(dim=-1)
        scale = self.focal[:, None] / (-z)
        return torch.stack([self.principal[:, 0:1] + scale * x, self.principal[:, 1:2] - scale * y], dim=-1)

    def cam_to_world(self) -> torch.Tensor:
        """(B, 4, 4) camera axes and position in the world, as Blender's and glTF's camera nodes want it."""
        rotation = self.matrix
        matrix = torch.zeros(rotation.shape[0], 4, 4, dtype=rotation.dtype, device=rotation.device)
        matrix[:, :3, :3] = rotation.transpose(1, 2)
        matrix[:, :3, 3] = -(rotation.transpose(1, 2) @ self.translation[..., None])[..., 0]
        matrix[:, 3, 3] = 1.0
        return matrix

    def position(self) -> torch.Tensor:
        """(B, 3) camera centre in the world."""
        return self.cam_to_world()[:, :3, 3]

    def crop(
        self,
        x0: float | torch.Tensor,
        y0: float | torch.Tensor,
        scale: float | torch.Tensor,
        size: tuple[int, int],
    ) -> Camera:
        """Camera of a part of the image: crop pixel p shows image pixel (x0, y0) + p / scale.

        Args:
            x0, y0: the crop's top left corner in pixels of this image; a number or (B,).
            scale: crop pixels per image pixel; a number or (B,).
            size: (height, width) of the crop in its own pixels.
        """
        corner = torch.stack([self._per_item(x0), self._per_item(y0)], dim=-1)
        scale = self._per_item(scale)
        return replace(
            self,
            fov_y=2.0 * torch.atan(0.5 * size[0] / (self.focal * scale)),
            principal=(self.principal - corner) * scale[:, None],
            size=size,
        )

    def _per_item(self, value: float | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(value, dtype=self.fov_y.dtype, device=self.fov_y.device).expand_as(self.fov_y)

    def to(self, device: str | torch.device) -> Camera:
        """The same cameras on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> Camera:
        """The same cameras without gradients."""
        return self._map(torch.Tensor.detach)

    def select(self, items: slice) -> Camera:
        """A slice of the batch."""
        return self._map(lambda tensor: tensor[items])

    def _map(self, change: Any) -> Camera:
        names = ("rotation", "translation", "fov_y", "principal")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    @staticmethod
    def cat(cameras: list[Camera]) -> Camera:
        """One batch of several; all must have the same image size."""
        if len({camera.size for camera in cameras}) != 1:
            raise ValueError("cameras of one batch must share the image size")
        names = ("rotation", "translation", "fov_y", "principal")
        joined = {name: torch.cat([getattr(camera, name) for camera in cameras]) for name in names}
        return Camera(**joined, size=cameras[0].size)

    def to_result(self, index: int = 0) -> dict[str, Any]:
        """The `camera` entry of result.json: cam_to_world (4x4 rows), yfov, principal_point [x, y], size [w, h]."""
        camera = self.select(slice(index, index + 1))._map(lambda tensor: tensor.detach().double().cpu())
        return {
            "cam_to_world": camera.cam_to_world()[0].tolist(),
            "yfov": float(camera.fov_y[0]),
            "principal_point": camera.principal[0].tolist(),
            "size": [self.size[1], self.size[0]],
        }

    @staticmethod
    def from_result(entry: dict[str, Any], device: str | torch.device = "cpu") -> Camera:
        """The camera of a `camera` entry of result.json, as a batch of one."""
        matrix = torch.tensor(entry["cam_to_world"], dtype=torch.float64)
        rotation = matrix[:3, :3].T
        width, height = entry["size"]
        fields = {
            "rotation": axis_angle(rotation[None]),
            "translation": -(rotation @ matrix[:3, 3])[None],
            "fov_y": torch.tensor([entry["yfov"]]),
            "principal": torch.tensor([entry["principal_point"]]),
        }
        return Camera(**{name: value.float().to(device) for name, value in fields.items()}, size=(height, width))
