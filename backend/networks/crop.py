# SPDX-License-Identifier: GPL-3.0-or-later
"""Crops out of images by similarity transforms, differentiable and without aliasing.

A transform is (2, 3) and maps crop pixels to image pixels; pixel centres are at +0.5 in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.constants import constant


def square_transform(centre: Tensor, side: Tensor, rotation: Tensor, size: int) -> Tensor:
    """The transform of a rotated square region of an image to a crop.

    Args:
        centre: (B, 2) image pixels.
        side: (B,) image pixels.
        rotation: (B,) radians, of the region's x axis; positive turns x towards y (clockwise as seen).
        size: side of the crop in pixels.

    Returns:
        (B, 2, 3).
    """
    scale = side / size
    c, s = torch.cos(rotation) * scale, torch.sin(rotation) * scale
    linear = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    half = torch.full_like(centre, size / 2)
    offset = centre - (linear @ half[..., None])[..., 0]
    return torch.cat([linear, offset[..., None]], -1)


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity (no reflection) from source to target points, Umeyama 1991 in the plane.

    Args:
        source: (B, N, 2).
        target: (B, N, 2); the squared error is measured here.

    Returns:
        (B, 2, 3); differentiable in both.
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    p, q = source - source_mean, target - target_mean
    power = (p * p).sum((1, 2)).clamp_min(1e-12)
    a = (p * q).sum((1, 2)) / power
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / power
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    offset = target_mean[:, 0] - (linear @ source_mean[:, 0, :, None])[..., 0]
    return torch.cat([linear, offset[..., None]], -1)


def invert_transform(transform: Tensor) -> Tensor:
    """The inverse map, (B, 2, 3): image pixels to crop pixels."""
    linear = torch.linalg.inv(transform[..., :2])
    return torch.cat([linear, -linear @ transform[..., 2:]], -1)


def apply_transform(transform: Tensor, points: Tensor) -> Tensor:
    """Maps points (B, N, 2) by transforms (B, 2, 3)."""
    return points @ transform[..., :2].transpose(-1, -2) + transform[..., None, :, 2]


@dataclass(frozen=True)
class Sampling:
    """How `differentiable_crop` keeps detail from turning into noise.

    level: the image is first averaged over blocks of 2^level pixels a side. samples: a crop pixel is the mean of so
    many bilinear samples a side.
    """

    level: int = 0
    samples: int = 1

    @staticmethod
    def of(transform: Tensor, image_side: int) -> Sampling:
        """For transforms (B, 2, 3) out of images whose shorter side is `image_side` pixels."""
        scales = transform.detach()[..., :2].square().sum((-1, -2)).div(2).sqrt()
        level = max(int(math.log2(max(float(scales.min()), 1.0)) + 1e-6), 0)
        level = min(level, int(math.log2(image_side)))
        return Sampling(level, min(max(math.ceil(float(scales.max()) / 2**level - 0.25), 1), 8))


def differentiable_crop(images: Tensor, transform: Tensor, size: int | tuple[int, int],
                        sampling: Sampling | None = None) -> Tensor:
    """Samples crops; gradients reach the images and the transform.

    Where the crop shrinks the image, the image is averaged over blocks by a power of two first and the rest is done
    by averaging several bilinear samples per crop pixel, so fine detail does not turn into noise. Beyond the image's
    border its last pixels are repeated.

    Args:
        images: (B, C, H, W) float.
        transform: (B, 2, 3) crop pixels -> image pixels.
        size: the crop's side, or (height, width).
        sampling: where it is known before; to find it out makes a GPU wait.

    Returns:
        (B, C, h, w).
    """
    height, width = (size, size) if isinstance(size, int) else size
    sampling = sampling or Sampling.of(transform, min(images.shape[-2:]))
    block, samples = 2**sampling.level, sampling.samples
    if sampling.level:
        images = F.avg_pool2d(images, block, ceil_mode=True, count_include_pad=False)
    grid = _sample_positions(height, width, samples, transform)
    span = constant((images.shape[-1] * block, images.shape[-2] * block), grid)
    crops = F.grid_sample(images, grid / span * 2 - 1, "bilinear", "border", align_corners=False)
    return F.avg_pool2d(crops, samples) if samples > 1 else crops


def _sample_positions(height: int, width: int, samples: int, transform: Tensor) -> Tensor:
    """Image positions (B, h * samples, w * samples, 2) of a regular grid over the crop."""
    x = (torch.arange(width * samples, device=transform.device, dtype=transform.dtype) + 0.5) / samples
    y = (torch.arange(height * samples, device=transform.device, dtype=transform.dtype) + 0.5) / samples
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    points = apply_transform(transform, grid.expand(len(transform), -1, -1))
    return points.reshape(len(transform), height * samples, width * samples, 2)


def crop_photo(image: np.ndarray, transform: Tensor, size: int) -> Tensor:
    """One crop of a photo of any size, without turning the whole photo into floats.

    Args:
        image: (H, W, 3) uint8.
        transform: (2, 3) crop pixels -> photo pixels.
        size: side of the crop.

    Returns:
        (1, 3, size, size) float32 in [0, 1].
    """
    transform = transform.detach().to("cpu", torch.float64)
    corners = apply_transform(transform[None], torch.tensor([[[0, 0], [size, 0], [0, size], [size, size]]]).double())
    limits = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.amin((0, 1)).numpy()) - 2, 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.amax((0, 1)).numpy()) + 2, low + 1, limits).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    shrink = max(int(float(transform[:, :2].square().sum().div(2).sqrt()) / 2), 1)
    if shrink > 1:  # still at least two pixels for each of the crop's
        part = np.asarray(Image.fromarray(np.ascontiguousarray(part)).reduce(shrink))
    local = transform.clone()
    local[:, 2] -= torch.from_numpy(low)
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[None].float() / 255
    return differentiable_crop(pixels, (local / shrink)[None].float(), size).clamp(0, 1)
