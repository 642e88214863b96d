# SPDX-License-Identifier: GPL-3.0-or-later
"""Several photos against each other: shape and cameras move until each point of the skin looks alike in all of them.

Photometric bundle adjustment (Delaunoy and Pollefeys, CVPR 2014) of the head model's coefficients. Landmarks err alike
in all photos of a person, so more photos do not make the shape of their landmarks much better; a mole, a wrinkle or the
edge of a brow that is seen from two sides is where both lines of sight meet.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.fit.align import LandmarkModel, projection_jacobian
from backend.fit.parameters import FitParameters, ViewFrame, camera_of
from backend.fit.person import Person
from backend.fit.views import View
from backend.render.color import LUMA

CROP = 448
"""Side of the photos' crops that are compared, pixels: an interocular distance is 110 of them."""
SCALES = ((0.03, 3), (0.015, 3), (0.01, 4))
"""Standard deviation of the blur, interocular distances, and Gauss-Newton steps, coarse to fine. Coarser than this,
light and shadow are what is seen, and they stay with the room when the head turns."""
NEIGHBOURHOOD = 3.0
"""Width in which contrast is normalised, times that of the blur."""
FLAT = 0.02
"""Contrast, sRGB in [0, 1], below which a surface counts as flat."""
UNLIKE = 0.4
"""Difference of two normalised contrasts at which a point begins to be left out as shadow, shine or hair in one photo:
scale of Geman and McClure's weights (1985)."""
TRUST = 1.5
"""What a point counts in two photos. Of V photos every two are compared, though only V - 1 are new: 2 / V of it."""
SPREADS = {"identity": 0.1, "expression": 0.01, "rotation": 0.02, "centre": 0.06, "log_scale": 0.03,
           "log_distance": 0.05}
"""How far the fit is expected to be off, in the units of `FitParameters`: standard deviations of a Gaussian prior
around it."""
FACING = 0.35
"""Least cosine between a normal and the line of sight of a point that is compared."""
HIDDEN = 0.006
"""Metres behind what is seen at its pixel at which a point is hidden."""


def face_points(person: Person, params: FitParameters) -> tuple[LandmarkModel, Tensor]:
    """The model's vertices that lie on the face's skin as a linear model, float64, and their numbers (N,)."""
    head = person.head
    face = head.subdivide(head.regions["face"].to(head.verts0)[None, :, None])[0, :, 0] > 0.5
    skin = torch.zeros_like(face).index_fill_(0, head.tri1[person.is_skin].unique().long(), True)
    chosen = torch.nonzero(face & skin)[:, 0]
    neutral = head.verts0 if params.offsets is None else head.verts0 + params.offsets
    mean, identity, expression = (head.subdivide(part)[:, chosen].cpu().double()
                                  for part in (neutral[None], head.identity, head.expression))
    return LandmarkModel(mean[0], identity, expression, torch.ones_like(mean[0, :, 0])), chosen


@torch.no_grad()
def agree(person: Person, views: Sequence[View], params: FitParameters) -> FitParameters:
    """The parameters of a fit of several photos with identity, expressions and cameras refined; texture and light stay.

    Unchanged where no photos see the same skin, or where the photos do not get more alike.
    """
    host = FitParameters(**{name: value.cpu().double() for name, value in params.tensors().items()})
    model, chosen = face_points(person, params)
    seen = visibility(person, views, params, chosen)
    crops = [view.crop(CROP) for view in views]
    luma = torch.cat([(picture @ picture.new_tensor(LUMA))[None] for picture, _ in crops], 1)[0]
    problem = Problem(model, [view.frame for view in views], [view.box for view in views], host, seen)
    if not any(float((a * b).sum()) > 0 for a, b in problem.pairs_of(seen)):
        return params
    moved, contrasts = host, luma
    for width, steps in SCALES:
        contrasts = torch.stack([normalised(picture, width * view.frame.unit * CROP / view.box[2])
                                 for picture, view in zip(luma, views, strict=True)])
        for _ in range(steps):
            moved = problem.step(moved, contrasts)
    if not problem.cost(moved, contrasts) < problem.cost(host, contrasts):
        return params
    names = list(SPREADS)
    return replace(params, **{name: getattr(moved, name).to(getattr(params, name)) for name in names})


def visibility(person: Person, views: Sequence[View], params: FitParameters, chosen: Tensor) -> Tensor:
    """(V, N) float64: the cosine at which each photo sees each point, 0 where it does not or too obliquely."""
    head, raster = person.head, person.raster
    _, verts = person.geometry(params)
    normals = torch.nn.functional.normalize(raster.vertex_normals(verts, head.tri1)[:, chosen], dim=-1)
    found = []
    for i, view in enumerate(views):
        camera = camera_of(params, [v.frame for v in views], i)
        x0, y0, side = view.box
        camera = camera.crop(x0, y0, CROP / side, (CROP, CROP))
        clip = camera.clip(verts[i:i + 1], y_down=True)
        rast = raster.rasterize(clip, head.tri1, camera.size)
        depth = raster.interpolate(clip[..., 3:], rast, head.tri1, clip)[0, ..., 0]
        pixel = camera.project(verts[i:i + 1, chosen])[0]
        column, row = pixel.long().clamp(0, CROP - 1).unbind(1)
        inside = view.crop(CROP)[1][0, ..., 0].to(pixel)[row, column] > 0
        inside &= ((pixel > 0) & (pixel < CROP)).all(1)
        shown = (depth[row, column] > 0) & (clip[0, chosen, 3] - depth[row, column] < HIDDEN)
        sight = torch.nn.functional.normalize(camera.position() - verts[i, chosen], dim=-1)
        cosine = (normals[i] * sight).sum(-1)
        found.append(torch.where(inside & shown & (cosine > FACING), cosine, 0.0))
    return torch.stack(found).cpu().double()


def normalised(picture: Tensor, width: float) -> Tensor:
    """A picture (S, S) blurred, less its local mean and over its local standard deviation; width in pixels."""
    smooth = blurred(picture, max(width, 0.6))
    offset = smooth - blurred(smooth, NEIGHBOURHOOD * max(width, 0.6))
    return offset / (blurred(offset**2, NEIGHBOURHOOD * max(width, 0.6)) + FLAT**2).sqrt()


def blurred(picture: Tensor, width: float) -> Tensor:
    """A picture (S, S) under a Gaussian of this standard deviation in pixels, edges repeated."""
    reach = int(4 * width + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=picture.dtype) / width) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    for turned in (kernel, kernel.transpose(2, 3)):
        pad = (reach, reach, 0, 0) if turned is kernel else (0, 0, reach, reach)
        picture = torch.nn.functional.conv2d(
            torch.nn.functional.pad(picture[None, None], pad, mode="replicate"), turned)[0, 0]
    return picture


@dataclass
class Problem:
    """The least squares around a fit. Unknowns: identity, then a view's expression, rotation, centre, log of scale and
    of distance (as `projection_jacobian` has them), view after view."""

    model: LandmarkModel
    frames: list[ViewFrame]
    boxes: list[tuple[float, float, float]]
    start: FitParameters
    seen: Tensor

    @staticmethod
    def pairs_of(values: Sequence[Tensor] | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every two different of the values."""
        return [(values[i], values[j]) for i in range(len(values)) for j in range(i + 1, len(values))]

    def vector(self, params: FitParameters) -> Tensor:
        """All unknowns (K + V * 59,)."""
        own = [params.expression, params.rotation, params.centre, params.log_scale, params.log_distance]
        return torch.cat([params.identity, torch.cat(own, 1).flatten()])

    def parameters(self, x: Tensor) -> FitParameters:
        """The inverse of `vector`, expressions in [0, 1]."""
        k, e = len(self.start.identity), self.start.expression.shape[1]
        rows = x[k:].reshape(len(self.frames), -1)
        return replace(self.start, identity=x[:k], expression=rows[:, :e].clamp(0, 1), rotation=rows[:, e:e + 3],
                       centre=rows[:, e + 3:e + 5], log_scale=rows[:, e + 5:e + 6], log_distance=rows[:, e + 6:])

    def trust(self) -> float:
        """What a point counts in each pair of photos."""
        return 2 * TRUST / len(self.frames)

    def precision(self) -> Tensor:
        """(K + V * 59,) what a square of each unknown's way from the start counts."""
        spread = replace(self.start, **{name: torch.full_like(getattr(self.start, name), value)
                                        for name, value in SPREADS.items()})
        return self.vector(spread) ** -2

    def look(self, params: FitParameters, contrasts: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """What a view's photo shows at the points (N,), and its derivatives (N, K + 59) by identity and the view."""
        frame = self.frames[view]
        own = replace(params, **{name: getattr(params, name)[view:view + 1] for name in SPREADS if name != "identity"})
        points = self.model.points(params.identity, params.expression[view])
        by_point, by_camera = projection_jacobian(own, frame, points)
        x0, y0, side = self.boxes[view]
        pixel = camera_of(own, [frame], 0).project(points[None])[0]
        place = (pixel - pixel.new_tensor([x0, y0])) / side * 2 - 1
        values = torch.nn.functional.grid_sample(with_slopes(contrasts[view])[None], place.to(contrasts)[None, None],
                                                 padding_mode="border", align_corners=False)[0, :, 0].double()
        slope = values[1:].T * (CROP / side)
        by_point = torch.einsum("na,nac->nc", slope, by_point)
        derivatives = [torch.einsum("nc,knc->nk", by_point, self.model.identity),
                       torch.einsum("nc,knc->nk", by_point, self.model.expression),
                       torch.einsum("na,nab->nb", slope, by_camera)]
        return values[0], torch.cat(derivatives, 1)

    def step(self, params: FitParameters, contrasts: Tensor) -> FitParameters:
        """One step of Gauss and Newton with weights that leave out what is unlike."""
        k, views = len(params.identity), len(self.frames)
        x, precision = self.vector(params), self.precision()
        normal, right = torch.diag(precision), precision * (self.vector(self.start) - x)
        looks = [self.look(params, contrasts, view) for view in range(views)]
        unknowns = torch.arange(len(x))
        own = [torch.cat([unknowns[:k], part]) for part in unknowns[k:].reshape(views, -1)]
        for i in range(views):
            for j in range(i + 1, views):
                both = self.seen[i] * self.seen[j]
                where = both > 0
                difference = (looks[i][0] - looks[j][0])[where]
                weight = both[where] * self.trust() / UNLIKE**2 / (1 + (difference / UNLIKE) ** 2) ** 2
                first, second = looks[i][1][where], looks[j][1][where]
                rows = torch.cat([first[:, :k] - second[:, :k], first[:, k:], -second[:, k:]], 1)
                columns = torch.cat([own[i], own[j][k:]])
                normal[columns[:, None], columns] += rows.T @ (rows * weight[:, None])
                right[columns] -= rows.T @ (weight * difference)
        return self.parameters(x + torch.linalg.solve(normal, right))

    def cost(self, params: FitParameters, contrasts: Tensor) -> float:
        """What `step` makes smaller: half the priors' squares and Geman and McClure's measure of what is unlike."""
        away = self.vector(params) - self.vector(self.start)
        total = 0.5 * float((self.precision() * away**2).sum())
        values = [self.look(params, contrasts, view)[0] for view in range(len(self.frames))]
        for (a, b), (see_a, see_b) in zip(self.pairs_of(values), self.pairs_of(self.seen), strict=True):
            square = ((a - b) / UNLIKE) ** 2
            total += 0.5 * self.trust() * float((see_a * see_b * square / (1 + square)).sum())
        return total


def with_slopes(picture: Tensor) -> Tensor:
    """(3, S, S): a picture (S, S) and its derivatives by column and row, central differences, 0 at the edges."""
    slopes = torch.zeros(2, *picture.shape, dtype=picture.dtype)
    slopes[0, :, 1:-1] = (picture[:, 2:] - picture[:, :-2]) / 2
    slopes[1, 1:-1] = (picture[2:] - picture[:-2]) / 2
    return torch.cat([picture[None], slopes])
