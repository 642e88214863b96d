# SPDX-License-Identifier: GPL-3.0-or-later
"""The rasteriser's contract (nvdiffrast's) and the choice of the implementation."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from backend.errors import GanfitError
from backend.render.launch import Launcher

RASTERIZERS = ("auto", "warp", "nvdiffrast")


class Rasterizer(Protocol):
    """Differentiable primitives on images whose row 0 is the BOTTOM row, after Laine et al. 2020 (nvdiffrast).

    All tensors are float32 (triangles int32) on `device`. Gradients reach clip-space positions (through the
    barycentrics inside, through `antialias` at silhouettes), attributes, texels and texture coordinates. On a CPU the
    backward gives the same bits on every run.
    """

    name: str
    device: torch.device
    launcher: Launcher

    def rasterize(self, pos: torch.Tensor, tri: torch.Tensor, resolution: tuple[int, int]) -> torch.Tensor:
        """Visible triangle per pixel.

        Args:
            pos: (B, V, 4) clip-space positions (OpenGL: visible where -w <= x, y, z <= w).
            tri: (T, 3) int32 vertex indices; both windings are drawn.
            resolution: (height, width) in pixels.

        Returns:
            rast: (B, H, W, 4): barycentrics u, v of the triangle's first two vertices (perspective-correct), z/w in
            [-1, 1], and triangle index + 1 (0: nothing). Only u and v carry gradients.
        """
        ...

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor, pos: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vertex attributes (B or 1, V, C) at the pixels: (B, H, W, C), zero where nothing is.

        `pos`: the positions that `rast` was drawn from. The gradient may then go to them at once, past `rast`: the same
        in less time.
        """
        ...

    def texture(self, tex: torch.Tensor, uv: torch.Tensor, lod: torch.Tensor | None = None) -> torch.Tensor:
        """Bilinear texture lookup, clamped at the border.

        Args:
            tex: (B or 1, H, W, C); texel row 0 is at v = 0.
            uv: (B, h, w, 2) in [0, 1].
            lod: (B, h, w) mip level (0 = full size); None reads the full size only. Levels are box-filtered halves.

        Returns:
            (B, h, w, C).
        """
        ...

    def antialias(self, color: torch.Tensor, rast: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        """Blend (B, H, W, C) across silhouettes; the blend weight carries gradients to the edges' positions."""
        ...

    def texture_lod(
        self, pos: torch.Tensor, tri: torch.Tensor, uv: torch.Tensor, rast: torch.Tensor, texture_size: tuple[int, int]
    ) -> torch.Tensor:
        """Mip level per pixel (B, H, W) >= 0 for per-vertex `uv` (V, 2) and a texture (height, width); no gradients.

        Half the log2 of the triangle's area in texels over its area in pixels.
        """
        ...

    def vertex_normals(self, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        """Area-weighted sums of face normals (B, V, 3), not normalised."""
        ...


def get_rasterizer(device: str | torch.device = "cpu", name: str = "auto") -> Rasterizer:
    """The rasteriser for a device.

    Args:
        device: a torch device, "cpu" or "cuda".
        name: "warp" (everywhere), "nvdiffrast" (CUDA, only where the user has installed it: its licence allows
            non-commercial use only), or "auto": nvdiffrast if it can be imported and the device is CUDA, else warp.

    Raises:
        GanfitError: bad_option for an unknown name, device_unavailable where the implementation cannot run.
    """
    from backend.render import raster_nvdiffrast

    device = torch.device(device)
    if name not in RASTERIZERS:
        raise GanfitError("bad_option", f"There is no rasteriser '{name}'; there are {', '.join(RASTERIZERS)}.")
    if device.type not in ("cpu", "cuda"):
        raise GanfitError("device_unavailable", f"The rasteriser has kernels for cpu and cuda, none for {device.type}.")
    if device.type == "cuda" and (problem := cuda_problem()):
        raise GanfitError("device_unavailable", problem)
    if name == "auto":
        name = "nvdiffrast" if device.type == "cuda" and raster_nvdiffrast.is_importable() else "warp"
    if name == "nvdiffrast":
        if device.type != "cuda" or not raster_nvdiffrast.is_importable():
            raise GanfitError("device_unavailable", "nvdiffrast needs a CUDA device and to be installed.")
        return raster_nvdiffrast.NvdiffrastRasterizer(device)
    from backend.render.raster_warp import WarpRasterizer

    return WarpRasterizer(device)


def cuda_problem() -> str:
    """Why nothing can be rendered on CUDA here, as a sentence; empty where it can.

    A torch for AMD cards calls its device "cuda", too, and warp may lack a driver that torch does with.
    """
    if not torch.cuda.is_available():
        return "There is no CUDA device, or this torch was built without CUDA."
    if torch.version.hip:
        return "This torch was built for AMD cards (ROCm), for which the rasteriser has no kernels."
    import warp

    from backend.render.launch import start_warp

    start_warp()
    return "" if warp.is_cuda_available() else "The rasteriser's library, warp, finds no CUDA driver that it can use."


def mip_levels(texture_size: tuple[int, int], lod: torch.Tensor) -> int:
    """How many mip levels a lookup at `lod` can touch: at least 1, no level smaller than 4 texels or odd-sized.

    On a GPU all that there are: to look at `lod` would make it wait.
    """
    levels = 1
    height, width = texture_size
    deepest = math.inf if lod.is_cuda else float(lod.max()) if lod.numel() else 0.0
    while levels - 1 < deepest and height % 2 == 0 and width % 2 == 0 and min(height, width) > 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels
