# SPDX-License-Identifier: GPL-3.0-or-later
"""The Face Alignment Network: 68 landmarks as heatmaps; reads face-alignment's 2DFAN-4 weights.

Bulat and Tzimiropoulos 2017: four stacked hourglasses of hierarchical residual blocks. The names of the layers are
those of face-alignment's state dict; that package itself is not needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from backend import assets
from backend.networks.crop import apply_transform, crop_photo
from backend.networks.detector import Detection
from backend.networks.facemesh import FaceLandmarks, FaceMesh, crop_params

STACKS = 4
DEPTH = 4
_PEAK_RADIUS = 2


class FanLandmarks(nn.Module):
    """68 iBUG landmarks; the face mesh places the crop and finds the irises."""

    kind = "68"
    crop_size = 256

    def __init__(self, weights: dict[str, Tensor] | None = None, mesh: FaceMesh | None = None) -> None:
        super().__init__()
        weights = weights or load_file(assets.require("fan") / "fan.safetensors")
        self.network = Fan()
        self.network.load_state_dict(weights)
        self.mesh = mesh or FaceMesh()
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FanLandmarks:
        """Stays in evaluation mode: the batch statistics are part of the weights."""
        return super().train(False)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks of crops, with gradients.

        Args:
            crop: (B, 3, 256, 256) RGB in [0, 1], sRGB-encoded.

        Returns:
            points (B, 68, 3) crop pixels, z always 0; mean height of the heatmaps' peaks (B,), about 0 to 1.
        """
        heatmaps = self.network(crop)
        points, peaks = heatmap_points(heatmaps)
        return F.pad(points * (crop.shape[-1] / heatmaps.shape[-1]), (0, 1)), peaks.mean(1)

    def crop_params(self, points: Tensor) -> Tensor:
        """(B, 2, 3) crop pixels -> image pixels around 468 mesh points (B, 468, 2), framed as FAN was trained."""
        # FAN wants a side of 200/195 of its detector's width + height; that box is about the mesh's
        return crop_params(points, margin=1.9, size=self.crop_size)

    @torch.no_grad()
    def landmarks(self, image: np.ndarray, detection: Detection) -> FaceLandmarks:
        """As `FaceMesh.landmarks`, with 68 points; presence and irises are the mesh's."""
        mesh = self.mesh.landmarks(image, detection)
        transform = self.crop_params(torch.from_numpy(mesh.points)[None])[0]
        crop = crop_photo(image, transform, self.crop_size).to(next(self.parameters()).device)
        points = apply_transform(transform[None], self(crop)[0].cpu()[..., :2])[0].numpy()
        box = np.concatenate([points.min(0), points.max(0)])
        z = np.zeros(len(points), np.float32)
        return replace(mesh, points=points, z=z, transform=transform.numpy(), box=box)


def heatmap_points(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the heatmaps' peaks, with gradients: the centre of mass of 5 x 5 pixels around each maximum.

    Args:
        heatmaps: (B, N, H, W); negative values count as 0.

    Returns:
        points (B, N, 2) heatmap pixels, centres at +0.5; heights of the maxima (B, N).
    """
    batch, count, height, width = heatmaps.shape
    peaks, index = heatmaps.flatten(2).max(-1)
    x = (index % width)[..., None, None]
    y = (index // width)[..., None, None]
    columns = torch.arange(width, device=heatmaps.device)
    rows = torch.arange(height, device=heatmaps.device)[:, None]
    near = ((columns - x).abs() <= _PEAK_RADIUS) & ((rows - y).abs() <= _PEAK_RADIUS)
    weights = heatmaps.clamp_min(0) * near + 1e-8 * ((columns == x) & (rows == y))
    weights = weights / weights.sum((-1, -2), keepdim=True)
    points = torch.stack([(weights * (columns + 0.5)).sum((-1, -2)), (weights * (rows + 0.5)).sum((-1, -2))], -1)
    return points, peaks


class Fan(nn.Module):
    """The network: images (B, 3, 256, 256) in [0, 1] -> heatmaps (B, 68, 64, 64) of the last stack."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = _Block(64, 128)
        self.conv3 = _Block(128, 128)
        self.conv4 = _Block(128, 256)
        for stack in range(STACKS):
            self.add_module(f"m{stack}", _Hourglass(256))
            self.add_module(f"top_m_{stack}", _Block(256, 256))
            self.add_module(f"conv_last{stack}", nn.Conv2d(256, 256, 1))
            self.add_module(f"bn_end{stack}", nn.BatchNorm2d(256))
            self.add_module(f"l{stack}", nn.Conv2d(256, 68, 1))
            if stack < STACKS - 1:
                self.add_module(f"bl{stack}", nn.Conv2d(256, 256, 1))
                self.add_module(f"al{stack}", nn.Conv2d(68, 256, 1))

    def forward(self, image: Tensor) -> Tensor:
        value = F.relu(self.bn1(self.conv1(image)))
        value = self.conv4(self.conv3(F.avg_pool2d(self.conv2(value), 2)))
        for stack in range(STACKS):
            part = {name: self.get_submodule(f"{name}{stack}") for name in ("m", "top_m_", "conv_last", "bn_end", "l")}
            features = part["conv_last"](part["top_m_"](part["m"](value)))
            features = F.relu(part["bn_end"](features))
            heatmaps = part["l"](features)
            if stack < STACKS - 1:
                value = value + self.get_submodule(f"bl{stack}")(features) + self.get_submodule(f"al{stack}")(heatmaps)
        return heatmaps


class _Block(nn.Module):
    """Hierarchical residual block: three convolutions whose outputs are joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = (inputs, outputs // 2, outputs // 4, outputs // 4)
        for index in (1, 2, 3):
            self.add_module(f"bn{index}", nn.BatchNorm2d(widths[index - 1]))
            self.add_module(f"conv{index}", nn.Conv2d(widths[index - 1], widths[index], 3, 1, 1, bias=False))
        change = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False))
        self.downsample = change if inputs != outputs else None

    def forward(self, value: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(value)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat([first, second, third], 1) + (self.downsample(value) if self.downsample else value)


class _Hourglass(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for level in range(DEPTH, 0, -1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", _Block(channels, channels))
        self.add_module("b2_plus_1", _Block(channels, channels))

    def forward(self, value: Tensor) -> Tensor:
        return self._level(value, DEPTH)

    def _level(self, value: Tensor, level: int) -> Tensor:
        upper = self.get_submodule(f"b1_{level}")(value)
        lower = self.get_submodule(f"b2_{level}")(F.avg_pool2d(value, 2))
        lower = self._level(lower, level - 1) if level > 1 else self.get_submodule("b2_plus_1")(lower)
        lower = self.get_submodule(f"b3_{level}")(lower)
        return upper + F.interpolate(lower, scale_factor=2, mode="nearest")
