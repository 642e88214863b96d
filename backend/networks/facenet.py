# SPDX-License-Identifier: GPL-3.0-or-later
"""InceptionResnetV1 as in FaceNet's open reimplementations; reads facenet-pytorch's VGGFace2 weights.

Szegedy et al. 2016 (Inception-ResNet) with the channel counts of FaceNet's public TensorFlow port. The names of the
layers are those of facenet-pytorch's state dict; that package itself is not needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from backend import assets
from backend.networks.identity import IdentityNetwork


class FacenetIdentity(IdentityNetwork):
    """InceptionResnetV1 trained on VGGFace2, 512 dimensions, unit length: the optional identity network.

    Its embeddings are nearly centred already, so `mean` is zero.
    """

    chip_size = 160
    # where the points lie on average in the crops of MTCNN, on which the network was trained (60 portraits, mirrored)
    chip_points = ((129.0, 65.0), (101.4, 65.4), (31.0, 65.0), (58.6, 65.4), (80.0, 105.3))

    def __init__(self, weights: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        weights = weights or load_file(assets.require("facenet") / "facenet.safetensors")
        self.network = _InceptionResnet()
        self.network.load_state_dict(weights)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(512))
        self.train(False)

    def train(self, mode: bool = True) -> FacenetIdentity:
        """Stays in evaluation mode: the batch statistics are part of the weights."""
        return super().train(False)

    def forward(self, chip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings and activations.

        Args:
            chip: (B, 3, 160, 160) RGB in [0, 1], sRGB-encoded, cut by `chip_transform`.

        Returns:
            embedding (B, 512) of unit length; activations (B, C, H, W) after each of the three groups of blocks.
        """
        return self.network((chip * 255 - 127.5) / 128)


class _InceptionResnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, stride=2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _Reduction(
            [_Conv(256, 384, 3, stride=2)],
            [_Conv(256, 192, 1), _Conv(192, 192, 3, padding=1), _Conv(192, 256, 3, stride=2)],
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Reduction(
            [_Conv(896, 256, 1), _Conv(256, 384, 3, stride=2)],
            [_Conv(896, 256, 1), _Conv(256, 256, 3, stride=2)],
            [_Conv(896, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 256, 3, stride=2)],
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, final=True)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=0.001)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        value = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(image)))
        value = self.conv2d_3b(F.max_pool2d(value, 3, 2))
        first = self.repeat_1(self.conv2d_4b(self.conv2d_4a(value)))
        second = self.repeat_2(self.mixed_6a(first))
        third = self.repeat_3(self.mixed_7a(second))
        pooled = self.block8(third).mean((2, 3))
        return F.normalize(self.last_bn(self.last_linear(pooled))), [first, second, third]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, value: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(value)))


class _Residual(nn.Module):
    """Parallel branches, joined, brought back to the input's channels, scaled and added to the input."""

    def __init__(self, channels: int, scale: float, branches: list[list[_Conv]], final: bool = False) -> None:
        super().__init__()
        self.scale, self.final = scale, final
        self.branches = _add_branches(self, branches)
        width = sum(branch[-1].conv.out_channels for branch in branches)
        self.conv2d = nn.Conv2d(width, channels, 1)

    def forward(self, value: Tensor) -> Tensor:
        joined = torch.cat([getattr(self, name)(value) for name in self.branches], 1)
        out = self.conv2d(joined) * self.scale + value
        return out if self.final else F.relu(out)


class _Reduction(nn.Module):
    """Parallel branches of stride 2 joined with a max-pooling of the input."""

    def __init__(self, *branches: list[_Conv]) -> None:
        super().__init__()
        self.branches = _add_branches(self, list(branches))

    def forward(self, value: Tensor) -> Tensor:
        return torch.cat([*(getattr(self, name)(value) for name in self.branches), F.max_pool2d(value, 3, 2)], 1)


def _add_branches(module: nn.Module, branches: list[list[_Conv]]) -> list[str]:
    """Adds `branch0`, `branch1`, ... to a module: a single layer as it is, several in a row as a sequence."""
    names = [f"branch{index}" for index in range(len(branches))]
    for name, branch in zip(names, branches, strict=True):
        module.add_module(name, branch[0] if len(branch) == 1 else nn.Sequential(*branch))
    return names


def _block35() -> _Residual:
    return _Residual(
        256,
        0.17,
        [
            [_Conv(256, 32, 1)],
            [_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1)],
            [_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1), _Conv(32, 32, 3, padding=1)],
        ],
    )


def _block17() -> _Residual:
    wide = [_Conv(896, 128, 1), _Conv(128, 128, (1, 7), padding=(0, 3)), _Conv(128, 128, (7, 1), padding=(3, 0))]
    return _Residual(896, 0.10, [[_Conv(896, 128, 1)], wide])


def _block8(scale: float, final: bool = False) -> _Residual:
    wide = [_Conv(1792, 192, 1), _Conv(192, 192, (1, 3), padding=(0, 1)), _Conv(192, 192, (3, 1), padding=(1, 0))]
    return _Residual(1792, scale, [[_Conv(1792, 192, 1)], wide], final)
