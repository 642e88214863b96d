# SPDX-License-Identifier: GPL-3.0-or-later
"""From the axes of the bundle (GLB: +Y up, face towards +Z) to Blender's (Z up, facing -Y), and colours to linear."""

from __future__ import annotations

import numpy as np

GLB_TO_BLENDER = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""(3, 3): (x, y, z) -> (x, -z, y)."""


def to_blender(vectors: np.ndarray) -> np.ndarray:
    """(..., 3) points or directions in GLB axes -> the same in Blender's, float32."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    return np.stack([x, -z, y], -1).astype(np.float32)


def srgb_to_linear(encoded: np.ndarray) -> np.ndarray:
    """sRGB-encoded values in [0, 1] -> linear (IEC 61966-2-1)."""
    encoded = np.asarray(encoded)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear values in [0, 1] -> sRGB-encoded (IEC 61966-2-1)."""
    linear = np.asarray(linear)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def from_blender(vectors: np.ndarray) -> np.ndarray:
    """(..., 3) points or directions in Blender's axes -> the same in GLB's, float32; the inverse of `to_blender`."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    return np.stack([x, z, -y], -1).astype(np.float32)
