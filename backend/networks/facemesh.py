# SPDX-License-Identifier: GPL-3.0-or-later
"""468 landmarks of a face and its irises: MediaPipe's face mesh and iris networks with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from backend import assets
from backend.constants import constant
from backend.networks.crop import apply_transform, crop_photo, square_transform
from backend.networks.detector import Detection
from backend.networks.tflite_graph import TfliteGraph

SIZE = 192
"""side of the face mesh network's crop in pixels"""
IRIS_SIZE = 64
MARGIN = 1.5
"""side of the crop over the longer side of the landmarks' box, as in MediaPipe"""

EYE_CORNERS = ((33, 133), (263, 362))
"""(outer, inner) corner of the subject's right and left eye"""
POINTS5 = ((249, 249), (382, 382), (7, 7), (155, 155), (2, 164))
"""dlib's five points as midpoints of two mesh points: subject's left eye outer, inner, right eye outer, inner, base of
the nose. The nearest to what dlib's own predictor finds: on 126 portraits the medians are 0.01 eye distances apart"""


@dataclass(frozen=True)
class FaceLandmarks:
    """Landmarks of one face in a photo; all positions in photo pixels.

    points: (468, 2). z: (468,) depth relative to the face, in the same scale, smaller is nearer. presence: [0, 1].
    transform: (2, 3) of the network's crop, crop pixels -> photo pixels. iris: (2, 5, 2) the subject's right and left
    eye: centre, then four points on the rim. box: (4,) of the points.
    """

    points: np.ndarray
    z: np.ndarray
    presence: float
    transform: np.ndarray
    iris: np.ndarray
    box: np.ndarray


class FaceMesh(nn.Module):
    """MediaPipe's 468-point network (Kartynnik et al. 2019) and its iris network (Ablavatski et al. 2020).

    `kind` is the landmarks' topology as in `HeadModel.landmarks(which=)`, `crop_size` the side of its crop in pixels.
    """

    kind = "468"
    crop_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        folder = assets.require("mediapipe")
        self.network = TfliteGraph(folder / "face_landmark.tflite")
        self.iris_network = TfliteGraph(folder / "iris_landmark.tflite")

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks of crops, with gradients.

        Args:
            crop: (B, 3, 192, 192) RGB in [0, 1], sRGB-encoded, the eyes level.

        Returns:
            points (B, 468, 3) crop pixels (z in the same scale, smaller is nearer), presence (B,) in [0, 1].
        """
        points, logit = self.network(crop)
        return points.reshape(len(crop), 468, 3), torch.sigmoid(logit.reshape(-1))

    def iris(self, crop: Tensor) -> Tensor:
        """Iris points (B, 5, 2), crop pixels, of crops (B, 3, 64, 64) of a subject's right eye, RGB in [0, 1]."""
        return self.iris_network(crop)[1].reshape(len(crop), 5, 3)[..., :2]

    def crop_params(self, points: Tensor) -> Tensor:
        """(B, 2, 3) crop pixels -> image pixels around points (B, 468, 2): see the function of this name."""
        return crop_params(points)

    @torch.no_grad()
    def landmarks(self, image: np.ndarray, detection: Detection) -> FaceLandmarks:
        """Landmarks in a photo (H, W, 3) uint8: a pass on the detector's box, then one on the points that it gave."""
        device = next(self.buffers()).device
        transform = detection.crop_transform(SIZE, MARGIN)
        for _ in range(2):
            crop = crop_photo(image, transform, SIZE).to(device)
            crop_points, presence = (value.cpu() for value in self(crop))
            points = apply_transform(transform[None], crop_points[..., :2])[0]
            used, transform = transform, crop_params(points[None])[0]
        scale = float(used[:, :2].square().sum().div(2).sqrt())
        return FaceLandmarks(
            points=points.numpy(),
            z=crop_points[0, :, 2].numpy() * scale,
            presence=float(presence),
            transform=used.numpy(),
            iris=np.stack([self._iris_in_photo(image, points, side) for side in (0, 1)]),
            box=np.concatenate([points.amin(0).numpy(), points.amax(0).numpy()]),
        )

    def _iris_in_photo(self, image: np.ndarray, points: Tensor, side: int) -> np.ndarray:
        """(5, 2) photo pixels. The network knows right eyes only: the left one is shown mirrored."""
        corners = points[list(EYE_CORNERS[side])]
        transform = _transform_of_eye(corners, mirrored=side == 1)
        crop = crop_photo(image, transform, IRIS_SIZE).to(next(self.buffers()).device)
        return apply_transform(transform[None], self.iris(crop).cpu())[0].numpy()


def crop_params(points: Tensor, margin: float = MARGIN, size: int = SIZE) -> Tensor:
    """The upright square crop around landmarks: eyes level, centred on their box.

    Args:
        points: (B, 468, 2) image pixels; detached, a crop is not something to optimise.
        margin: side of the square over the longer side of the points' box.
        size: side of the crop in pixels.

    Returns:
        (B, 2, 3) crop pixels -> image pixels.
    """
    points = points.detach()
    axis = points[:, EYE_CORNERS[1][0]] - points[:, EYE_CORNERS[0][0]]
    rotation = torch.atan2(axis[:, 1], axis[:, 0])
    c, s = torch.cos(rotation), torch.sin(rotation)
    turn = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    level = points @ turn
    low, high = level.amin(1), level.amax(1)
    centre = (turn @ ((low + high) / 2)[..., None])[..., 0]
    return square_transform(centre, (high - low).amax(-1) * margin, rotation, size)


def points5(points: Tensor) -> Tensor:
    """dlib's five alignment points (B, 5, 2) out of the 468 (B, 468, 2)."""
    return points[:, constant(POINTS5, points, torch.long)].mean(2)


def _transform_of_eye(corners: Tensor, mirrored: bool) -> Tensor:
    """(2, 3) of a square of 2.3 eye widths around the corners (outer, inner), as in MediaPipe."""
    axis = corners[0] - corners[1] if mirrored else corners[1] - corners[0]
    side = axis.norm()[None] * 2.3
    transform = square_transform(corners.mean(0)[None], side, torch.atan2(axis[1], axis[0])[None], IRIS_SIZE)[0]
    if mirrored:  # x -> size - x in the crop
        flip = torch.tensor([[-1.0, 0, IRIS_SIZE], [0, 1, 0], [0, 0, 1]])
        transform = transform @ flip
    return transform
