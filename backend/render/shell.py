# SPDX-License-Identifier: GPL-3.0-or-later
"""A thin textured surface around an opaque mesh, such as hair around a head, and pictures of the two together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from backend.render.camera import Camera
from backend.render.lights import Lights
from backend.render.raster import Rasterizer
from backend.render.render import RenderOutput, render

LEAST_ALPHA = 1e-3
OPAQUE = 0.5
"""Cover from which a shell hides the shells behind it."""
CLEAR, SOLID, TINT_WIDTH = 0.02, 0.98, 7
"""Covers between which a place is see-through, and texels from which such a place is no soft edge but a tint."""


@dataclass(frozen=True)
class Shell:
    """Quads with a texture that has holes.

    Fields:
        verts: (V, 3) positions, metres.
        quads: (Q, 4) int64, counter-clockwise seen from outside.
        corner_uv: (Q, 4, 2) texture coordinates, v up.
        texture: (1, 4, H, W) sRGB-encoded colour and cover, both in [0, 1], row 0 at v = 1.
    """

    verts: torch.Tensor
    quads: torch.Tensor
    corner_uv: torch.Tensor
    texture: torch.Tensor

    @staticmethod
    def of(
        verts: np.ndarray, quads: np.ndarray, corner_uv: np.ndarray, texture: np.ndarray, like: torch.Tensor
    ) -> Shell:
        """From arrays, the texture (H, W, 4) in 8-bit steps, as its file has it; on the device of `like`."""
        pixels = np.round(texture.clip(0, 1) * 255).astype(np.float32) / 255
        arrays = verts.astype(np.float32), quads, corner_uv.astype(np.float32), pixels.transpose(2, 0, 1)[None]
        return Shell(*(torch.from_numpy(np.ascontiguousarray(values)).to(like.device) for values in arrays))

    @cached_property
    def covered(self) -> torch.Tensor:
        """(N, 3) the corners of quads that are at least half covered somewhere at their corners."""
        places = self.corner_uv.new_tensor([2.0, -2.0]) * self.corner_uv[None] - self.corner_uv.new_tensor([1.0, -1.0])
        cover = torch.nn.functional.grid_sample(self.texture[:, 3:], places, "bilinear", "border", align_corners=False)
        return self.verts[self.quads[(cover[0, 0] >= 0.5).any(1)].unique()]

    @cached_property
    def tinted(self) -> torch.Tensor:
        """(Q,) bool: quads that are see-through somewhere, not only at the soft edges of what is solid."""
        cover = self.texture[:, 3:]
        through = ((cover > CLEAR) & (cover < SOLID)).to(cover)
        inner = -torch.nn.functional.max_pool2d(-through, TINT_WIDTH, 1)
        tint = torch.nn.functional.pad(inner, [TINT_WIDTH - 1] * 4)
        tint = torch.nn.functional.max_pool2d(tint, TINT_WIDTH, 1)[0, 0] > 0.5
        before = torch.nn.functional.pad(tint.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
        size = self.corner_uv.new_tensor(tint.shape[::-1])
        places = torch.stack([self.corner_uv[..., 0], 1 - self.corner_uv[..., 1]], -1) * size
        left, top = places.amin(1).floor().long().clamp_min(0).unbind(1)
        right, bottom = torch.minimum(places.amax(1).ceil(), size).long().unbind(1)
        return before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left] > 0

    @cached_property
    def unwelded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vertex (N,) of each pair of a vertex and a place in the texture, these places (N, 2), triangles (T, 3) int32
        of such pairs, the first halves of all quads before the second ones: what a renderer or a file with one UV a
        vertex takes."""
        rows = torch.cat([self.quads.reshape(-1, 1).to(self.corner_uv), self.corner_uv.reshape(-1, 2)], 1)
        pairs, corner = torch.unique(rows, dim=0, return_inverse=True)
        quads = corner.view(-1, 4)
        triangles = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).to(torch.int32)
        return pairs[:, 0].long(), pairs[:, 1:].contiguous(), triangles


@dataclass(frozen=True)
class Picture:
    """Images (1, H, W, C) of a head and what surrounds it: colour over black, coverage, albedo, all sRGB-encoded as in
    `RenderOutput`; `head` is the picture of the head alone."""

    rgb: torch.Tensor
    alpha: torch.Tensor
    albedo: torch.Tensor
    head: RenderOutput

    @staticmethod
    def of(head: RenderOutput) -> Picture:
        """The head alone."""
        return Picture(head.rgb, head.alpha, head.albedo, head)


@torch.no_grad()
def with_shells(
    raster: Rasterizer, head: RenderOutput, shells: Sequence[Shell], camera: Camera, lights: Lights
) -> Picture:
    """The picture of a head and shells around it, each of which hides what is behind it.

    A shell's far side and its near side are drawn one after the other, mixed by cover as encoded. What it covers by
    half hides the shells that come after it, where they are farther away. Not differentiable.
    """
    picture = Picture.of(head)
    depth = torch.where(head.covered > 0, head.depth, torch.full_like(head.depth, torch.inf))
    for shell in shells:
        picture, depth = _add(raster, picture, depth, shell, camera, lights)
    return picture


def _add(
    raster: Rasterizer, picture: Picture, depth: torch.Tensor, shell: Shell, camera: Camera, lights: Lights
) -> tuple[Picture, torch.Tensor]:
    """The picture with one shell more, where it is nearer than `depth` (1, H, W, 1), and the depth with it."""
    vertex, uv, triangles = shell.unwelded
    verts = shell.verts[vertex][None]
    places = camera.project(verts)[0][triangles.long()]
    a, b = (places[:, 1:] - places[:, :1]).unbind(1)
    near = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0  # rows of a picture go down
    colours, cover = shell.texture.split((3, 1), 1)
    open_sky, pos = torch.ones_like(verts[..., 0]), camera.clip(verts, y_down=True)
    behind = depth
    for side in (~near, near):
        tri = triangles[side].contiguous()
        if len(tri) == 0:
            continue
        skin = torch.ones(len(tri), dtype=torch.bool, device=verts.device)
        out = render(raster, verts, tri, uv, colours, torch.zeros_like(verts), skin, open_sky, camera, lights)
        at = raster.interpolate(torch.stack([uv[:, 0], 1 - uv[:, 1]], -1)[None], out.rast, tri, pos)
        share = raster.texture(cover.permute(0, 2, 3, 1).contiguous(), at, None)
        alpha = raster.antialias(share * out.covered * (out.depth < behind), out.rast, pos, tri)
        plain = out.rgb / out.alpha.clamp_min(LEAST_ALPHA)
        depth = torch.where(alpha > OPAQUE, torch.minimum(depth, out.depth), depth)
        picture = Picture(
            torch.lerp(picture.rgb, plain, alpha),
            alpha + (1 - alpha) * picture.alpha,
            torch.lerp(picture.albedo, out.albedo, alpha),
            picture.head,
        )
    return picture, depth
