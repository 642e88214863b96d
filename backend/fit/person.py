# SPDX-License-Identifier: GPL-3.0-or-later
"""From parameters to geometry and pictures: the one place where head model, generator and renderer meet."""
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from backend.fit.align import LandmarkModel, landmark_errors
from backend.fit.losses import TINT_SIZE
from backend.fit.parameters import FitParameters
from backend.head.model import HeadModel
from backend.render.camera import Camera
from backend.render.color import srgb_to_linear
from backend.render.lights import Lights
from backend.render.raster import Rasterizer
from backend.render.render import RenderOutput, render
from backend.texture.generator import Generator

PIXEL_REGION_WEIGHTS = {"neck": 0.25, "ear_left": 0.4, "ear_right": 0.4, "scalp": 0.1, "mouth_bag": 0.3, "socket": 0.3}
"""How much of the pixel term a region gets: hair, collars and ears explain little of a face."""
BARE_REGIONS = ("face", "forehead", "scalp", "neck", "ear_left", "ear_right")
FEATURES = ("brow", "eyes", "nose", "lips", "chin", "jaw")
"""Where the head shows skin and nothing else, and what is left out of that: brows, lids, lips and beards belong to the
texture, while hair, hats and collars that cover bare skin do not."""

DEFAULT_PALETTE = {"sclera": (0.76, 0.73, 0.71), "iris": (0.30, 0.22, 0.16), "limbus": (0.16, 0.12, 0.10),
                   "pupil": (0.02, 0.02, 0.02), "teeth": (0.85, 0.82, 0.75), "gums": (0.62, 0.34, 0.33),
                   "tongue": (0.62, 0.33, 0.32), "lashes": (0.06, 0.05, 0.05)}
"""Colours where the optimisation starts, sRGB. The sclera is darker than it is: lids and lashes shade it."""
SHADED = ("sclera", "iris", "limbus", "teeth")
"""What lies in the shade of lids, lashes and lips."""


class Subject(NamedTuple):
    """What all pictures of P people show: neutral cages (P, V0, 3), maps (P, 3, R, R), `vertex_colours` (P, V1, 3)."""

    neutral: Tensor
    texture: Tensor
    colours: Tensor


@dataclass
class Person:
    """Head model, generator and rasteriser of one fit; holds no parameters."""

    head: HeadModel
    generator: Generator
    raster: Rasterizer
    _landmarks: LandmarkModel | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        head = self.head
        weight = torch.ones(len(head.verts0))
        for name, value in PIXEL_REGION_WEIGHTS.items():
            mask = head.regions[name].to(weight)
            weight = torch.minimum(weight, 1 - mask * (1 - value))
        bare = sum(head.regions[name] for name in BARE_REGIONS).clamp(max=1)
        for name in FEATURES:
            bare = bare * (1 - head.regions[name])
        cheeks = torch.maximum(head.regions["cheek"], head.regions["nose"])
        self.cheek_map = self._on_map(head.regions["cheek"].to(weight))
        self.masks1 = head.subdivide(torch.stack([weight.to(bare), bare, cheeks], -1)[None].to(head.verts0))[0]
        self.is_skin = head.tri1_part == 0

    def _on_map(self, mask: Tensor) -> Tensor:
        """(T, T), sum 1: how much of a mask (V0,) falls on every square of the map, counted in vertices of level 1."""
        head = self.head
        values = head.subdivide(mask[None, :, None].to(head.verts0))[0, :, 0]
        u, v = head.uv1.unbind(-1)
        column, row = ((TINT_SIZE * x).long().clamp(0, TINT_SIZE - 1) for x in (u, 1 - v))
        squares = values.new_zeros(TINT_SIZE**2).index_add(0, row * TINT_SIZE + column, values)
        return (squares / squares.sum()).view(TINT_SIZE, TINT_SIZE)

    def default_palette(self) -> Tensor:
        """(P, 3) sRGB."""
        return torch.tensor([DEFAULT_PALETTE[name] for name in self.head.palette_names])

    def landmark_model(self, offsets: Tensor | None = None) -> LandmarkModel:
        """The 468 mesh points and the two iris centres (subject's right, left) as a linear model, see `View.points`."""
        if offsets is None and self._landmarks is not None:
            return self._landmarks
        points, weights = self.head.landmark_rows("468"), self.head.landmark_weights468()
        weights = torch.cat([weights, torch.ones_like(weights[:2])])
        model = self.linear_points(torch.cat([points, self.iris_rows()]), weights, offsets)
        model.errors = landmark_errors().to(model.mean)
        if offsets is None:
            self._landmarks = model
        return model

    def linear_points(self, rows: Tensor, weights: Tensor, offsets: Tensor | None = None) -> LandmarkModel:
        """Points of the surface, given by rows (N, V0) of the cage's vertices, as a linear model; offsets (V0, 3)."""
        head = self.head
        neutral = head.verts0 if offsets is None else head.verts0 + offsets
        basis = torch.einsum("nv,mvc->mnc", rows, torch.cat([neutral[None], head.identity, head.expression]))
        basis = basis.contiguous()
        k = len(head.identity)
        return LandmarkModel(basis[0], basis[1:1 + k], basis[1 + k:], weights)

    def iris_rows(self) -> Tensor:
        """(2, V0) weights whose sum over the cage's vertices gives the iris centres (subject's right, left)."""
        head = self.head
        iris = head.palette_weights0[:, head.palette_names.index("iris")]
        right = (head.vertex_part == 2).float() * iris
        left = (head.vertex_part == 1).float() * iris
        return torch.stack([right / right.sum(), left / left.sum()])

    def geometry(self, params: FitParameters) -> tuple[Tensor, Tensor]:
        """Cage (V, V0, 3) and level-1 vertices (V, V1, 3) of every view of one person, metres, in the model's own
        scale."""
        views = len(params.expression)
        offsets = None if params.offsets is None else params.offsets[None]
        cage = self.head.cage(params.identity[None].expand(views, -1), params.expression, offsets)
        return cage, self.head.subdivide(cage)

    def vertex_colours(self, palette: Tensor) -> Tensor:
        """Linear colours (P, V1, 3) of the level-1 vertices outside the skin from palettes (P, N, 3)."""
        return srgb_to_linear(self.head.palette_weights1 @ palette)

    def picture(self, verts1: Tensor, texture: Tensor, colours: Tensor, camera: Camera, lights: Lights) -> RenderOutput:
        """Renders level-1 vertices (B, V1, 3) with textures (B or 1, 3, R, R) and `vertex_colours` (B or 1, V1, 3)."""
        head = self.head
        return render(self.raster, verts1, head.tri1, head.uv1, texture, colours, self.is_skin, head.ao1, camera,
                      lights)

    def masks(self, output: RenderOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Constant pictures (B, H, W, 1) in [0, 1]: the region's weight in the pixel term where the head covers the
        pixel, where the head shows bare skin, and where it shows cheeks and nose."""
        with torch.no_grad():
            pictures = self.raster.interpolate(self.masks1[None], output.rast, self.head.tri1)
            weight, bare, cheeks = pictures.split(1, -1)
            return weight * (output.alpha > 0.99), bare, cheeks
