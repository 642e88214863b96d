# SPDX-License-Identifier: GPL-3.0-or-later
"""A photo laid into the UV layout by a fitted head: colour, visibility and light of every texel."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from backend.fit.parameters import FitParameters, camera_of
from backend.fit.person import Person
from backend.fit.views import View
from backend.head.model import HeadModel
from backend.render.camera import Camera
from backend.render.color import srgb_to_linear
from backend.render.lights import Lights
from backend.render.raster import Rasterizer
from backend.render.render import vertex_normals

FACING = (0.2, 0.55)
"""Cosine between normal and view: nothing is read below the first, everything above the second."""
RIM = 0.015
"""Width in head sizes (side of the head's box in the photo) of the strip along silhouettes in which trust grows."""
PART_RIMS = {("eye_left", "eye_right", "lashes"): 0.004, ("teeth", "tongue"): 0.01}
"""The same along other parts: lids are found better than the lips of a smile."""
DEPTH_SLACK_M = 0.0015
"""A texel this far behind the nearest surface (metres) is still the nearest surface."""
DEPTH_PIXELS = 768
"""Longest side of the depth map that decides what hides what."""
MIN_SHADING = 0.02
"""Shading below which a photo says nothing of the albedo."""


@dataclass(frozen=True)
class Unwrapped:
    """One photo in the UV layout; all (R, R, C) float32 on the rasteriser's device, row 0 at v = 1.

    photo (3): sRGB-encoded colour of the photo. weight (1): trust in [0, 1], 0 where the texel is not seen.
    shading (3): linear irradiance / pi by the estimated light. albedo (3): linear, photo over shading; not clipped.
    density (1): photo pixels per texel, along one side. pixel (2): where the texel falls in the photo, x right, y down.
    """

    photo: Tensor
    weight: Tensor
    shading: Tensor
    albedo: Tensor
    density: Tensor
    pixel: Tensor


def unwrap_view(person: Person, params: FitParameters, view: View, resolution: int, index: int = 0) -> Unwrapped:
    """The photo of one fitted view; `index` is its row in the parameters."""
    with torch.no_grad():
        _, verts1 = person.geometry(params)
        camera = camera_of(params, [view.frame] * (index + 1), index)
        lights = params.lights().select(slice(index, index + 1))
        return unwrap(person.raster, person.head, verts1[index:index + 1], camera, lights, view.photo.image, resolution)


@torch.no_grad()
def unwrap(raster: Rasterizer, head: HeadModel, verts1: Tensor, camera: Camera, lights: Lights, photo: np.ndarray,
           resolution: int, facing: tuple[float, float] = FACING, rim: float = RIM) -> Unwrapped:
    """Lays a photo into the UV layout.

    Args:
        verts1: (1, V1, 3) posed level-1 vertices, metres, in the camera's world.
        camera, lights: of the whole photo, batches of one.
        photo: (H, W, 3) uint8 sRGB.
        resolution: side R of the maps, texels.
        facing, rim: see `FACING` and `RIM`.
    """
    rast, tri = uv_raster(raster, head, resolution)
    normals = vertex_normals(raster, verts1, head.tri1)
    surface = raster.interpolate(torch.cat([verts1, normals, head.ao1[None, :, None]], -1), rast, tri)
    points, normal, ao = surface.split((3, 3, 1), -1)
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1e-12)
    covered = (rast[0, ..., 3:] > 0).float()
    flat = points.reshape(1, -1, 3)
    pixel = camera.project(flat).view(resolution, resolution, 2)
    depth = -camera.view(flat)[..., 2].view(resolution, resolution, 1)
    cosine = (normal * torch.nn.functional.normalize(camera.position() - points, dim=-1)).sum(-1, keepdim=True)[0]
    density = _density(head, verts1, camera, rast, tri, resolution)
    colour = sample_photo(photo, pixel, float(density[covered > 0].median()))
    weight = covered * _smoothstep(cosine, *facing) * _inside(pixel, photo.shape[:2])
    weight = weight * _nearest(raster, head, verts1, camera, pixel, depth, cosine, rim)
    shading = lights.irradiance(normal, ao, None if lights.point_position is None else points)[0] / math.pi
    weight = weight * (shading.amin(-1, keepdim=True) > MIN_SHADING)
    return Unwrapped(colour * covered, weight, shading * covered,
                     srgb_to_linear(colour) / shading.clamp_min(MIN_SHADING) * covered, density * covered, pixel)


def uv_raster(raster: Rasterizer, head: HeadModel, resolution: int) -> tuple[Tensor, Tensor]:
    """The skin's chart as a raster (1, R, R, 4), row 0 at v = 1, and its triangles (Ts, 3) for `interpolate`."""
    tri = head.tri1[head.tri1_part == head.PARTS.index("skin")].contiguous()
    u, v = head.uv1.unbind(-1)
    clip = torch.stack([2 * u - 1, 1 - 2 * v, torch.zeros_like(u), torch.ones_like(u)], -1)
    return raster.rasterize(clip[None], tri, (resolution, resolution)), tri


def _density(head: HeadModel, verts1: Tensor, camera: Camera, rast: Tensor, tri: Tensor, resolution: int) -> Tensor:
    """(R, R, 1) photo pixels per texel: root of each triangle's area in the photo over its area in the map."""
    def area(points: Tensor) -> Tensor:
        a, b = (points[:, 1:] - points[:, :1]).unbind(1)
        return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs()
    corners = tri.long()
    ratio = area(camera.project(verts1)[0][corners]) / (area(head.uv1[corners]) * resolution**2).clamp_min(1e-12)
    chosen = torch.nn.functional.pad(ratio.sqrt(), (1, 0))
    return chosen[rast[0, ..., 3].long()][..., None]


def sample_photo(photo: np.ndarray, pixel: Tensor, density: float) -> Tensor:
    """Colours (R, R, 3) at photo pixels (R, R, 2), bilinear, averaged first where a texel is larger than a pixel."""
    block = max(1, int(density + 0.25))
    picture = Image.fromarray(photo).reduce(block) if block > 1 else photo
    image = torch.from_numpy(np.array(picture)).to(pixel.device).permute(2, 0, 1)[None].float() / 255
    span = pixel.new_tensor([image.shape[3] * block, image.shape[2] * block])
    grid = (pixel / span * 2 - 1)[None]
    return torch.nn.functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)[0].permute(1, 2, 0)


def _inside(pixel: Tensor, size: tuple[int, int], margin: float = 3.0) -> Tensor:
    """(R, R, 1): 0 outside a photo of `size` (H, W), 1 from `margin` pixels inside."""
    limits = pixel.new_tensor([size[1], size[0]])
    return (torch.minimum(pixel, limits - pixel).amin(-1, keepdim=True) / margin).clamp(0, 1)


def _nearest(raster: Rasterizer, head: HeadModel, verts1: Tensor, camera: Camera, pixel: Tensor, depth: Tensor,
             cosine: Tensor, rim_width: float) -> Tensor:
    """(R, R, 1): 0 where another surface hides the texel, growing to 1 away from the rims of what is nearer."""
    low, high = (f(camera.project(verts1)[0], 0).values for f in (torch.min, torch.max))
    side = float((high - low).max())
    scale = DEPTH_PIXELS / side
    size = tuple(max(8, math.ceil(float(d) * scale)) for d in (high - low).flip(0))
    window = camera.crop(low[0], low[1], scale, size)
    clip = window.clip(verts1, y_down=True)
    rast = raster.rasterize(clip, head.tri1, size)
    surface = raster.interpolate(clip[..., 3:], rast, head.tri1)[0, ..., 0]
    surface = torch.where(rast[0, ..., 3] > 0, surface, torch.full_like(surface, torch.inf))
    at = ((pixel - low) * scale).long()
    x, y = at[..., 0].clamp(0, size[1] - 1), at[..., 1].clamp(0, size[0] - 1)
    metres = depth / window.focal
    slope = (1 - cosine**2).clamp_min(0).sqrt() / cosine.clamp_min(0.1)
    front = -torch.nn.functional.max_pool2d(-surface[None, None], 3, 1, 1)[0, 0]
    seen = depth < front[y, x][..., None] + DEPTH_SLACK_M + 3 * metres * slope
    trust = seen.float()
    part = torch.nn.functional.pad(head.tri1_part, (1, 0))[rast[0, ..., 3].long()].cpu().numpy()
    rims = [(_silhouettes(surface), rim_width)]
    rims += [(np.isin(part, [head.PARTS.index(n) for n in names]), width) for names, width in PART_RIMS.items()]
    for rim, width in rims:
        if not rim.any():
            continue
        distance = torch.from_numpy(ndimage.distance_transform_edt(~rim).astype(np.float32)).to(trust.device)
        trust = trust * _smoothstep(distance[y, x][..., None] / DEPTH_PIXELS, 0.1 * width, width)
    return trust


def _silhouettes(surface: Tensor) -> np.ndarray:
    """(h, w) bool: background of a depth map, and where it steps by more than 1 cm."""
    depth = surface.cpu().numpy()
    empty = ~np.isfinite(depth)
    filled = np.where(empty, depth[~empty].max() + 1 if (~empty).any() else 1, depth)
    return empty | (ndimage.maximum_filter(filled, 3) - ndimage.minimum_filter(filled, 3) > 0.01)


def _smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
