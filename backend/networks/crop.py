# SPDX-License-Identifier: GPL-3.0-or-later
"""Crops out of images by similarity transforms, differentiable and without aliasing.

A transform is (2, 3) and maps crop pixels to image pixels; pixel centres are at +0.5 in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.constants import constant
from backend.sparse import SparseMap


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


@dataclass(frozen=True)
class Cropper:
    """Cuts the same crops out of one image after the other; see `differentiable_crop`.

    grid: (B, h * samples, w * samples, 2), places in the image averaged over blocks as `grid_sample` takes them.
    table: the pixels of the crops from those of that image, where it is worth to build it.
    """

    grid: Tensor
    sampling: Sampling
    table: SparseMap | None = None

    @staticmethod
    def of(transform: Tensor, size: int | tuple[int, int], image_size: tuple[int, int],
           sampling: Sampling | None = None) -> Cropper:
        """For images of (height, width) pixels; else as `differentiable_crop`."""
        height, width = (size, size) if isinstance(size, int) else size
        sampling = sampling or Sampling.of(transform, min(image_size))
        block = 2**sampling.level
        grid = _sample_positions(height, width, sampling.samples, transform)
        span = constant((block * math.ceil(image_size[1] / block), block * math.ceil(image_size[0] / block)), grid)
        return Cropper(grid / span * 2 - 1, sampling)

    @staticmethod
    def fixed(transform: Tensor, size: int, image_size: tuple[int, int]) -> Cropper:
        """For many images that get no gradient to the transform: on a CPU in a fifth of the time (384 to 192 pixels,
        forward and backward, two threads: 0.9 ms for 5.2)."""
        found = Cropper.of(transform.detach(), size, image_size)
        if transform.device.type != "cpu":
            return found
        block = 2**found.sampling.level
        blocks = (math.ceil(image_size[0] / block), math.ceil(image_size[1] / block))
        return replace(found, table=_bilinear_table(found.grid, found.sampling.samples, blocks))

    def __call__(self, images: Tensor) -> Tensor:
        """Crops (B, C, h, w) of images (B, C, H, W)."""
        block, samples = 2**self.sampling.level, self.sampling.samples
        if block > 1:
            images = F.avg_pool2d(images, block, ceil_mode=True, count_include_pad=False)
        if self.table is not None:
            crops = self.table(images.permute(0, 2, 3, 1).flatten(0, 2))
            batch, height, width = (len(images), self.grid.shape[1] // samples, self.grid.shape[2] // samples)
            return crops.view(batch, height, width, -1).permute(0, 3, 1, 2)
        crops = F.grid_sample(images, self.grid, "bilinear", "border", align_corners=False)
        return F.avg_pool2d(crops, samples) if samples > 1 else crops


def _bilinear_table(grid: Tensor, samples: int, image_size: tuple[int, int]) -> SparseMap:
    """What `Cropper` does on images of (height, width) as a matrix (B * h * w, B * height * width)."""
    batch, rows, columns = grid.shape[:3]
    height, width = image_size
    x = ((grid[..., 0] + 1) * width - 1).div(2).clamp(0, width - 1)
    y = ((grid[..., 1] + 1) * height - 1).div(2).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    image = torch.arange(batch)[:, None, None]
    row, column = torch.arange(rows)[:, None] // samples, torch.arange(columns) // samples
    pixel = (image * (rows // samples) + row) * (columns // samples) + column
    targets, places, shares = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - (y - top - down).abs()) * (1 - (x - left - right).abs()) / samples**2
            below, beside = (top.long() + down).clamp(max=height - 1), (left.long() + right).clamp(max=width - 1)
            targets.append(pixel.flatten())
            places.append(((image * height + below) * width + beside).flatten())
            shares.append(share.flatten())
    shape = (pixel.numel() // samples**2, batch * height * width)
    return SparseMap.of_entries(torch.cat(targets), torch.cat(places), torch.cat(shares), shape)


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
    return Cropper.of(transform, size, (images.shape[-2], images.shape[-1]), sampling)(images)


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
