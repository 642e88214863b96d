# SPDX-License-Identifier: GPL-3.0-or-later
"""The sRGB transfer curve (IEC 61966-2-1) with gradients that stay finite."""

from __future__ import annotations

import torch

LUMA = (0.2126, 0.7152, 0.0722)
"""Rec.709 weights of linear red, green and blue."""


def srgb_to_linear(encoded: torch.Tensor) -> torch.Tensor:
    """Decode sRGB values to linear light; any shape, 0..1 (the curve goes on above 1; below 0 it is linear)."""
    curve = ((encoded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(encoded <= 0.04045, encoded / 12.92, curve)


def linear_to_srgb(linear: torch.Tensor) -> torch.Tensor:
    """Encode linear light by the sRGB curve, without tone mapping; not clipped: values above 1 stay above 1."""
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1.0 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def clip_keeping_gradient(values: torch.Tensor) -> torch.Tensor:
    """Values clipped to at most 1 whose gradient passes through as if they were not.

    A render that is brighter than a photo's pixel below white still learns to get darker, and one that is brighter
    than a photo's white pixel differs from it by nothing.
    """
    return _Clip.apply(values)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        return values.clamp_max(1.0)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient
