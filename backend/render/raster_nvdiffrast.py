# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapter to nvdiffrast, used only on CUDA and only where the user has installed it (non-commercial licence)."""

from __future__ import annotations

import importlib.util

import torch

from backend.constants import constant
from backend.render.launch import Launcher
from backend.render.raster import mip_levels


def is_importable() -> bool:
    """True where the package nvdiffrast is installed."""
    return importlib.util.find_spec("nvdiffrast") is not None


class NvdiffrastRasterizer:
    """`Rasterizer` on nvdiffrast's CUDA rasteriser."""

    name = "nvdiffrast"

    def __init__(self, device: str | torch.device = "cuda") -> None:
        import nvdiffrast.torch as dr

        self.device = torch.device(device)
        self.launcher = Launcher(self.device)
        self._dr = dr
        self._context = dr.RasterizeCudaContext(device=self.device)

    def rasterize(self, pos: torch.Tensor, tri: torch.Tensor, resolution: tuple[int, int]) -> torch.Tensor:
        return self._dr.rasterize(self._context, pos.contiguous(), tri, resolution=resolution, grad_db=False)[0]

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor, pos: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._dr.interpolate(attr.contiguous(), rast, tri)[0]

    def texture(self, tex: torch.Tensor, uv: torch.Tensor, lod: torch.Tensor | None = None) -> torch.Tensor:
        levels = 1 if lod is None else mip_levels((tex.shape[1], tex.shape[2]), lod)
        if levels == 1:
            return self._dr.texture(tex.contiguous(), uv.contiguous(), filter_mode="linear", boundary_mode="clamp")
        return self._dr.texture(
            tex.contiguous(),
            uv.contiguous(),
            mip_level_bias=lod,
            filter_mode="linear-mipmap-linear",
            boundary_mode="clamp",
            max_mip_level=levels - 1,
        )

    def antialias(self, color: torch.Tensor, rast: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        return self._dr.antialias(color.contiguous(), rast, pos.contiguous(), tri)

    @torch.no_grad()
    def texture_lod(
        self, pos: torch.Tensor, tri: torch.Tensor, uv: torch.Tensor, rast: torch.Tensor, texture_size: tuple[int, int]
    ) -> torch.Tensor:
        batch, height, width = rast.shape[:3]
        scale = constant((0.5 * width, 0.5 * height), pos)
        corners = (pos[..., :2] / pos[..., 3:].clamp_min(1e-6) * scale)[:, tri.long()]
        pixels = _double_area(corners)
        texels = _double_area(uv[tri.long()]) * texture_size[0] * texture_size[1]
        lod = (0.5 * torch.log2(texels.clamp_min(1e-8) / pixels.clamp_min(1e-8))).clamp(0.0, 16.0)
        padded = torch.nn.functional.pad(lod, (1, 0))
        index = rast[..., 3].long().reshape(batch, -1)
        return torch.gather(padded, 1, index).reshape(batch, height, width)

    def vertex_normals(self, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        index = tri.long()
        a, b, c = verts[:, index[:, 0]], verts[:, index[:, 1]], verts[:, index[:, 2]]
        faces = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(verts)
        for corner in range(3):
            total = total.index_add(1, index[:, corner], faces)
        return total


def _double_area(corners: torch.Tensor) -> torch.Tensor:
    """Twice the area of triangles (..., 3, 2)."""
    e = corners[..., 1, :] - corners[..., 0, :]
    f = corners[..., 2, :] - corners[..., 0, :]
    return (e[..., 0] * f[..., 1] - e[..., 1] * f[..., 0]).abs()
