# SPDX-License-Identifier: GPL-3.0-or-later
"""The face recognition network that guides the fit: dlib's ResNet with gradients, and the optional FaceNet."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from backend import assets
from backend.asset_formats import DLIB_BLOCKS
from backend.constants import constant
from backend.errors import GanfitError
from backend.networks.crop import similarity_transform

MEAN_FILE = Path(__file__).with_name("dlib_mean.json")

_DLIB_MEAN_SHAPE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
"""dlib's mean positions of the five points in a face chip without padding (image_transforms/interpolation.h)"""
_DLIB_PADDING = 0.25


class IdentityNetwork(nn.Module):
    """What the networks share: a face chip goes in, an embedding and inner activations come out.

    `chip_size` is the side of the chip in pixels, `chip_points` where the five points lie in it (pixels, centres at
    +0.5), `mean` (D,) the mean embedding that `similarity` takes off.
    """

    chip_size: int
    chip_points: tuple[tuple[float, float], ...]
    mean: Tensor

    def chip_transform(self, points5: Tensor) -> Tensor:
        """The chip's place in an image.

        Args:
            points5: (B, 5, 2) image pixels: the subject's left eye's outer and inner corner, the right eye's outer
                and inner corner, the base of the nose.

        Returns:
            (B, 2, 3) chip pixels -> image pixels, for `differentiable_crop(images, transform, chip_size)`.
        """
        chip = constant(self.chip_points, points5)
        return similarity_transform(chip.expand(len(points5), -1, -1), points5)

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Cosine (B,) of embeddings (B, D) centred by the mean embedding: 1 the same, about 0 for two people."""
        return F.cosine_similarity(first - self.mean, second - self.mean, dim=-1)


class DlibIdentity(IdentityNetwork):
    """dlib's face recognition ResNet v1 (King 2017), 128 dimensions; affine layers merged into the convolutions."""

    chip_size = 150
    # dlib's pixel centres are at whole numbers, ours at +0.5
    chip_points = tuple(
        tuple((value + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * 150 + 0.5 for value in point)
        for point in _DLIB_MEAN_SHAPE
    )
    content_blocks = (2, 6, 9, 12)
    """residual blocks whose output is handed out for the content loss: the last of each resolution but the smallest"""

    def __init__(self, weights: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        weights = weights or load_file(assets.require("dlib_resnet") / "dlib_resnet.safetensors")
        self.convs = nn.ModuleList([nn.Conv2d(3, 32, 7, stride=2)])
        channels = 32
        for width, halves in DLIB_BLOCKS:
            self.convs.append(nn.Conv2d(channels, width, 3, 2 if halves else 1, 0 if halves else 1))
            self.convs.append(nn.Conv2d(width, width, 3, padding=1))
            channels = width
        self.embedding = nn.Linear(channels, 128, bias=False)
        self.load_state_dict(weights)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(json.loads(MEAN_FILE.read_text())["mean"]))
        self.to(memory_format=torch.channels_last)

    def forward(self, chip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings and activations.

        Args:
            chip: (B, 3, 150, 150) RGB in [0, 1], sRGB-encoded, cut by `chip_transform`.

        Returns:
            embedding (B, 128), not normalised; activations after `content_blocks`, (B, C, H, W) each.
        """
        value = F.relu(self.convs[0](chip.contiguous(memory_format=torch.channels_last)), inplace=True)
        value = F.max_pool2d(value, 3, 2)
        activations = []
        for index, (_, halves) in enumerate(DLIB_BLOCKS):
            value = self._block(value, self.convs[2 * index + 1], self.convs[2 * index + 2], halves)
            if index in self.content_blocks:
                activations.append(value)
        return self.embedding(value.mean((2, 3))), activations

    @staticmethod
    def _block(value: Tensor, first: nn.Module, second: nn.Module, halves: bool) -> Tensor:
        out = second(F.relu(first(value), inplace=True))
        skip = F.avg_pool2d(value, 2, 2) if halves else value
        if skip.shape != out.shape:  # dlib adds tensors of unequal size: what is missing is zero
            shape = [max(sizes) for sizes in zip(skip.shape, out.shape, strict=True)]
            out, skip = _zero_extend(out, shape), _zero_extend(skip, shape)
        return F.relu(out + skip)


def _zero_extend(value: Tensor, shape: list[int]) -> Tensor:
    missing = [size - have for size, have in zip(shape, value.shape, strict=True)]
    return F.pad(value, (0, missing[3], 0, missing[2], 0, missing[1]))


def load_identity(name: str = "dlib") -> IdentityNetwork:
    """The identity network `dlib` (offline default) or `facenet` (when its weights are installed)."""
    if name == "dlib":
        return DlibIdentity()
    if name == "facenet":
        from backend.networks.facenet import FacenetIdentity

        return FacenetIdentity()
    raise GanfitError("bad_option", f"There is no identity network `{name}`; choose dlib or facenet.")
