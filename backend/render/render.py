# SPDX-License-Identifier: GPL-3.0-or-later
"""The differentiable picture of a textured, lit mesh; written once above the rasteriser's contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from backend.render.camera import Camera
from backend.render.color import clip_keeping_gradient, linear_to_srgb, srgb_to_linear
from backend.render.lights import Lights
from backend.render.raster import Rasterizer
from backend.render.shade import shade

TILE_PIXELS = 512 * 1024  # pixels that `render_image` shades at once: about 200 MB


@dataclass(frozen=True)
class RenderOutput:
    """Images (B, H, W, C), row 0 at the top, float32. What a fit rarely looks at is computed when it is asked for.

    Fields:
        rgb: sRGB-encoded over black, clipped at 1 (the gradient goes on above), silhouettes antialiased.
        rgb_unclipped: the same, above 1 where overexposed.
        alpha: (B, H, W, 1) coverage, antialiased.
        skin: (B, H, W, 1) coverage of the skin part, antialiased.
        rast: (B, H, W, 4) the rasteriser's output, here with row 0 at the top like all others.
    """

    rgb: torch.Tensor
    rgb_unclipped: torch.Tensor
    alpha: torch.Tensor
    skin: torch.Tensor
    rast: torch.Tensor
    _scene: _Scene

    @cached_property
    def covered(self) -> torch.Tensor:
        """(B, H, W, 1) 1 where a triangle covers the pixel's centre, else 0."""
        return (self.rast[..., 3:] > 0).to(self.rast.dtype)

    @cached_property
    def skin_mask(self) -> torch.Tensor:
        """(B, H, W, 1) 1 where a skin triangle covers the pixel's centre, else 0."""
        chosen = torch.nn.functional.pad(self._scene.is_skin.to(self.rast.dtype), (1, 0))
        return chosen[self.rast.detach()[..., 3:].to(torch.int64)]

    @cached_property
    def albedo_linear(self) -> torch.Tensor:
        """(B, H, W, 3) linear albedo of the visible surface, 0 outside; not antialiased."""
        skin = srgb_to_linear(self._scene.texel)
        return torch.lerp(self._scene.surface[..., 3:6], skin, self.skin_mask) * self.covered

    @cached_property
    def albedo(self) -> torch.Tensor:
        """(B, H, W, 3) sRGB-encoded albedo of the visible surface, 0 outside; not antialiased."""
        return linear_to_srgb(self.albedo_linear)

    @cached_property
    def normal(self) -> torch.Tensor:
        """(B, H, W, 3) unit world normals, 0 outside."""
        return torch.nn.functional.normalize(self._scene.surface[..., :3], dim=-1, eps=1e-12)

    @cached_property
    def ao(self) -> torch.Tensor:
        """(B, H, W, 1) ambient occlusion, 0 outside."""
        return self._scene.surface[..., 6:7]

    @cached_property
    def position(self) -> torch.Tensor:
        """(B, H, W, 3) world position of the visible surface, metres, 0 outside."""
        scene = self._scene
        return scene.raster.interpolate(scene.verts, self.rast, scene.tri, scene.pos)

    @cached_property
    def depth(self) -> torch.Tensor:
        """(B, H, W, 1) metres along the viewing axis, 0 outside."""
        scene = self._scene
        return scene.raster.interpolate(scene.pos[..., 3:], self.rast, scene.tri, scene.pos)

    @cached_property
    def shading(self) -> torch.Tensor:
        """(B, H, W, 3) linear, irradiance / pi: rgb = sRGB(linear albedo * shading). 0 outside."""
        points = None if self._scene.lights.point_position is None else self.position
        return self._scene.lights.irradiance(self.normal, self.ao, points) / math.pi * self.covered


@dataclass(frozen=True)
class _Scene:
    """What the lazy images of a `RenderOutput` are made of."""

    raster: Rasterizer
    verts: torch.Tensor
    pos: torch.Tensor
    tri: torch.Tensor
    is_skin: torch.Tensor
    surface: torch.Tensor
    texel: torch.Tensor
    lights: Lights


def vertex_normals(raster: Rasterizer, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
    """Smooth unit normals (B, V, 3) of vertices (B, V, 3) and triangles (T, 3), weighted by face area."""
    return torch.nn.functional.normalize(raster.vertex_normals(verts, tri), dim=-1, eps=1e-12)


def render(
    raster: Rasterizer,
    verts: torch.Tensor,
    tri: torch.Tensor,
    uv: torch.Tensor,
    skin_texture: torch.Tensor,
    vertex_palette_linear: torch.Tensor,
    is_skin_tri: torch.Tensor,
    ao: torch.Tensor,
    camera: Camera,
    lights: Lights,
    mipmap: bool = True,
) -> RenderOutput:
    """Render a batch.

    out = sRGB(albedo / pi * (E_sky(n) * ao + E_sun(n))). Texels are filtered as they are encoded and decoded after, as
    Blender's Cycles does with 8-bit sRGB images; palette colours are decoded at the vertices, as Blender's and glTF's
    linear colour attributes are.

    Args:
        verts: (B, V, 3) world positions, metres.
        tri: (T, 3) int32.
        uv: (V, 2) texture coordinates, v up; used on skin triangles.
        skin_texture: (B or 1, 3, H, W) sRGB-encoded, row 0 at v = 1.
        vertex_palette_linear: (B or 1, V, 3) linear colours of the vertices outside the skin.
        is_skin_tri: (T,) bool.
        ao: (V,) or (B, V) ambient occlusion, 1 = open.
        camera: its size is the picture's.
        mipmap: filter the texture where it is seen smaller than it is.
    """
    batch = verts.shape[0]
    # The rasteriser's row 0 is its bottom row: with y flipped its images come out with row 0 at the top.
    pos = camera.clip(verts, y_down=True)
    rast = raster.rasterize(pos, tri, camera.size)
    attributes = [
        raster.vertex_normals(verts, tri),
        vertex_palette_linear.expand(batch, -1, -1),
        ao.expand(batch, -1)[..., None],
        *([] if lights.point_position is None else [lights.towards_point(verts)]),
    ]
    surface = raster.interpolate(torch.cat(attributes, dim=-1), rast, tri, pos)
    texels = skin_texture.permute(0, 2, 3, 1)
    lod = raster.texture_lod(pos, tri, uv, rast.detach(), texels.shape[1:3]) if mipmap else None
    texel = raster.texture(texels, raster.interpolate(_flip_v(uv)[None], rast, tri, pos), lod)

    is_skin = is_skin_tri.to(torch.uint8)
    hard = shade(raster.launcher, rast, surface, texel, is_skin, lights.sh, lights.sun_direction, lights.sun_rgb)
    unclipped, alpha, skin = raster.antialias(hard, rast, pos, tri).split((3, 1, 1), dim=-1)
    return RenderOutput(
        rgb=clip_keeping_gradient(unclipped),
        rgb_unclipped=unclipped,
        alpha=alpha,
        skin=skin,
        rast=rast,
        _scene=_Scene(raster, verts, pos, tri, is_skin, surface, texel, lights),
    )


@torch.no_grad()
def render_image(
    raster: Rasterizer,
    verts: torch.Tensor,
    tri: torch.Tensor,
    uv: torch.Tensor,
    skin_texture: torch.Tensor,
    vertex_palette_linear: torch.Tensor,
    is_skin_tri: torch.Tensor,
    ao: torch.Tensor,
    camera: Camera,
    lights: Lights,
    fields: tuple[str, ...] = ("rgb", "alpha"),
) -> dict[str, torch.Tensor]:
    """`render` without gradients in strips, for pictures of any size in little memory: the named fields, full size.

    Strips overlap by one row, so that silhouettes are antialiased as in one piece.
    """
    height, width = camera.size
    rows = max(1, TILE_PIXELS // (width * verts.shape[0]))
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in fields}
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        first, last = max(0, top - 1), min(height, bottom + 1)
        strip = camera.crop(0.0, float(first), 1.0, (last - first, width))
        output = render(raster, verts, tri, uv, skin_texture, vertex_palette_linear, is_skin_tri, ao, strip, lights)
        for name in fields:
            parts[name].append(getattr(output, name)[:, top - first : bottom - first].clone())
    return {name: torch.cat(strips, dim=1) for name, strips in parts.items()}


def _flip_v(uv: torch.Tensor) -> torch.Tensor:
    """(u, v) with v up to (u, 1 - v), whose v = 0 is the texture's row 0."""
    return torch.stack([uv[..., 0], 1.0 - uv[..., 1]], dim=-1)
