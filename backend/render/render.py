# SPDX-License-Identifier: GPL-3.0-or-later
"""The differentiable picture of a textured, lit mesh; written once above the rasteriser's contract."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from backend.render.camera import Camera
from backend.render.color import clip_keeping_gradient, linear_to_srgb, srgb_to_linear
from backend.render.lights import Lights
from backend.render.raster import Rasterizer

TILE_PIXELS = 512 * 1024  # pixels that `render_image` shades at once: about 200 MB


@dataclass(frozen=True)
class RenderOutput:
    """Images (B, H, W, C), row 0 at the top, float32.

    Fields:
        rgb: sRGB-encoded over black, clipped at 1 (the gradient goes on above), silhouettes antialiased.
        rgb_unclipped: the same, above 1 where overexposed.
        alpha: (B, H, W, 1) coverage, antialiased.
        skin: (B, H, W, 1) coverage of the skin part, antialiased.
        albedo: sRGB-encoded albedo of the visible surface, 0 outside; not antialiased.
        shading: linear, irradiance / pi: encoded rgb = sRGB(linear albedo * shading).
        normal: unit world normals, 0 outside.
        depth: (B, H, W, 1) metres along the viewing axis, 0 outside.
        rast: (B, H, W, 4) the rasteriser's output, here with row 0 at the top like all others.
    """

    rgb: torch.Tensor
    rgb_unclipped: torch.Tensor
    alpha: torch.Tensor
    skin: torch.Tensor
    albedo: torch.Tensor
    shading: torch.Tensor
    normal: torch.Tensor
    depth: torch.Tensor
    rast: torch.Tensor


def vertex_normals(raster: Rasterizer, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
    """Smooth unit normals (B, V, 3) of vertices (B, V, 3) and triangles (T, 3), weighted by face area."""
    return torch.nn.functional.normalize(raster.vertex_normals(verts, tri), dim=-1, eps=1e-12)


def render(
    raster: Rasterizer,
    verts: torch.Tensor,
    tri: torch.Tensor,
    uv: torch.Tensor,
    skin_texture: torch.Tensor,
    vertex_palette_rgb: torch.Tensor,
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
        vertex_palette_rgb: (B or 1, V, 3) sRGB-encoded colours of the vertices outside the skin.
        is_skin_tri: (T,) bool.
        ao: (V,) or (B, V) ambient occlusion, 1 = open.
        camera: its size is the picture's.
        mipmap: filter the texture where it is seen smaller than it is.
    """
    batch = verts.shape[0]
    # The rasteriser's row 0 is its bottom row: with y flipped its images come out with row 0 at the top.
    pos = camera.clip(verts) * verts.new_tensor([1.0, -1.0, 1.0, 1.0])
    rast = raster.rasterize(pos, tri, camera.size)
    normals = vertex_normals(raster, verts, tri)
    attributes = [
        normals,
        srgb_to_linear(vertex_palette_rgb).expand(batch, -1, -1),
        _flip_v(uv).expand(batch, -1, -1),
        ao.expand(batch, -1)[..., None],
        pos[..., 3:],
        *([] if lights.point_position is None else [verts]),
    ]
    pixels = raster.interpolate(torch.cat(attributes, dim=-1), rast, tri)
    normal, palette, texel_uv, ao_pixel, depth = pixels[..., :10].split((3, 3, 2, 1, 1), dim=-1)
    covered = (rast[..., 3:] > 0).to(rast.dtype)
    skin = _pixel_mask(is_skin_tri, rast)

    texels = _sample_skin(raster, skin_texture, texel_uv, pos, tri, uv, rast, mipmap)
    albedo = torch.lerp(palette, srgb_to_linear(texels), skin)
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1e-12)
    points = None if lights.point_position is None else pixels[..., 10:]
    shading = lights.irradiance(normal, ao_pixel, points) / math.pi
    encoded = linear_to_srgb(albedo * shading) * covered

    smooth = raster.antialias(torch.cat([encoded, covered, skin], dim=-1), rast, pos, tri)
    unclipped, alpha, skin_soft = smooth.split((3, 1, 1), dim=-1)
    return RenderOutput(
        rgb=clip_keeping_gradient(unclipped),
        rgb_unclipped=unclipped,
        alpha=alpha,
        skin=skin_soft,
        albedo=linear_to_srgb(albedo) * covered,
        shading=shading * covered,
        normal=normal,
        depth=depth,
        rast=rast,
    )


@torch.no_grad()
def render_image(
    raster: Rasterizer,
    verts: torch.Tensor,
    tri: torch.Tensor,
    uv: torch.Tensor,
    skin_texture: torch.Tensor,
    vertex_palette_rgb: torch.Tensor,
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
        output = render(
            raster, verts, tri, uv, skin_texture, vertex_palette_rgb, is_skin_tri, ao, strip, lights
        )
        for name in fields:
            parts[name].append(getattr(output, name)[:, top - first : bottom - first].clone())
    return {name: torch.cat(strips, dim=1) for name, strips in parts.items()}


def _flip_v(uv: torch.Tensor) -> torch.Tensor:
    """(u, v) with v up to (u, 1 - v), whose v = 0 is the texture's row 0."""
    return torch.stack([uv[..., 0], 1.0 - uv[..., 1]], dim=-1)


def _pixel_mask(chosen: torch.Tensor, rast: torch.Tensor) -> torch.Tensor:
    """1 at pixels (B, H, W, 1) whose triangle is chosen (T,) bool, else 0."""
    padded = torch.nn.functional.pad(chosen.to(rast.dtype), (1, 0))
    return padded[rast.detach()[..., 3:].to(torch.int64)]


def _sample_skin(
    raster: Rasterizer,
    skin_texture: torch.Tensor,
    texel_uv: torch.Tensor,
    pos: torch.Tensor,
    tri: torch.Tensor,
    uv: torch.Tensor,
    rast: torch.Tensor,
    mipmap: bool,
) -> torch.Tensor:
    """Encoded skin colour (B, H, W, 3) at the pixels' texture coordinates."""
    texels = skin_texture.permute(0, 2, 3, 1).contiguous()
    size = (texels.shape[1], texels.shape[2])
    lod = raster.texture_lod(pos, tri, uv, rast.detach(), size) if mipmap else None
    return raster.texture(texels, texel_uv.contiguous(), lod)
