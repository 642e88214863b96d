# SPDX-License-Identifier: GPL-3.0-or-later
"""The skin's normal and roughness maps: its relief in tangent space, and how glossy each part of a face is."""
from __future__ import annotations

import torch
from torch import Tensor

BASE_ROUGHNESS = 0.50
ROUGHNESS = {"scalp": 0.54, "neck": 0.55, "cheek": 0.49, "chin": 0.47, "forehead": 0.44, "eyes": 0.45, "nose": 0.40,
             "lips": 0.36, "ear_left": 0.47, "ear_right": 0.47, "socket": 0.30, "mouth_bag": 0.25}
"""Roughness (Blender's and glTF's, the square root of the microfacet width) by region, laid over each other in this
order: nose, lips and forehead are glossier than cheeks and neck (Weyrich et al. 2006, Fig. 11)."""
PORE_ROUGHNESS = 0.6
"""Roughness that a millimetre of relief takes away: ridges are polished, pores are not."""


def normal_map(relief_mm: Tensor, mm_per_texel: float) -> Tensor:
    """(1, 3, R, R) in [0, 1]: tangent-space normals of a relief (1, 1, R, R), x along +u, y along +v (OpenGL)."""
    padded = torch.nn.functional.pad(relief_mm, (1, 1, 1, 1), "replicate")
    along_u = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * mm_per_texel)
    along_v = (padded[..., :-2, 1:-1] - padded[..., 2:, 1:-1]) / (2 * mm_per_texel)  # row 0 is at v = 1
    normal = torch.nn.functional.normalize(torch.cat([-along_u, -along_v, torch.ones_like(along_u)], 1), dim=1)
    return normal * 0.5 + 0.5


def roughness_map(regions: dict[str, Tensor], relief_mm: Tensor) -> Tensor:
    """(1, 1, R, R) in [0, 1], from region masks (1, 1, R, R) and the relief."""
    value = torch.full_like(relief_mm, BASE_ROUGHNESS)
    for name, rough in ROUGHNESS.items():
        value = value + regions[name] * (rough - value)
    return (value - PORE_ROUGHNESS * relief_mm).clamp(0.05, 1)
