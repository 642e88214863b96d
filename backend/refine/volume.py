# SPDX-License-Identifier: GPL-3.0-or-later
"""The hair that stands off the head in the photos: a surface around the scalp with its colour and cover.

A chart around the head, a dome over a cylinder, gives every point a row (from the crown down) and a column (around the
head, from the back over the subject's right, the face, the left). Hair is a radius over each: where the photos show the
outline of the hair it is measured, elsewhere a smooth surface goes on (a thin plate under data of different weight).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from backend.assemble import Assembled
from backend.fit.views import is_grey
from backend.glb import inner_skin
from backend.refine.matte import HAIR, Matte
from backend.refine.pyramid import filled
from backend.render.color import LUMA, linear_to_srgb, srgb_to_linear
from backend.render.shell import Shell
from backend.texture.unwrap import sample_photo

COLUMNS, DOME, CURTAIN = 96, 28, 24
"""Quads around the head, from the crown to the ears' upper ends, and from there to the end of the neck."""
ROWS = DOME + CURTAIN + 1
TEXTURE = (512, 1024)
"""Rows and columns of the texture."""
BELOW = 0.012
"""Height of the shell's lower end over the head's, metres."""
STEP, FARTHEST = 0.0025, 0.1
"""Outward steps in which a photo is searched for the hair's outline, and how far, metres."""
CERTAIN = 0.7
"""Share of hair in a matte from which a pixel counts as hair."""
GAPS = (0.01, 0.04, 0.06)
"""How far from the skin hair may begin, metres: above the ears, beside the ears, below them."""
OUTLINE = (0.9, 0.985)
"""Sine between the outward direction and the view from which the outline is measured, and from which fully."""
WIDENS, BEYOND = 0.004, 0.035
"""Metres by which hair may stand off more than in the row above, from somewhat over the ears on, and more than the hair
over the scalp does."""
HANGING = 0.4
"""Share of a row's outline that has to show hair for the row to count as hanging hair."""
LONG = (5, 12)
"""Rows below the upper ends of the ears from which hair counts as long, and from which wholly."""
UNEVEN = 4
"""Rows by which it may hang lower at one side than at the other."""
SLOPE = 0.15
"""How fast long hair follows the head inwards on its way down."""
TEMPLE, BESIDE = (0.9, 1.2), (0.7, 1.0)
"""Angles from the face's middle, radians, from which long hair hangs where nothing is seen of it, and from which it may
hang at all below the ears: farther in front are beards."""
LEAST, EDGE, UNSEEN = 0.003, 0.004, 0.8
"""Metres that hair stands off at least; at its ends; what it does where nothing is known, in parts of the median."""
TRUST = {"outline": 3.0, "bare": 0.2, "edge": 0.5, "unseen": 0.01}
"""Weights of what the thickness follows."""
STIFFNESS = (0.3, 3.0)
"""Weights of the squared slope and of the squared curvature."""
CROWDED = 30.0
"""Largest factor of the slope between columns, near the crown."""
FACING, PURE_FACING = (0.02, 0.25), (0.15, 0.35)
"""Cosine between normal and view from which cover is read, and from which colour is."""
COVERED, PURE, ERODED = (0.3, 0.7), (0.7, 0.95), 5
"""Share of hair from which there is cover, and whole cover; the same for colour, over squares of so many pixels."""
UNDER = (0.15, 0.5)
"""Share of hair where the skin below would be seen from which the skin counts as covered."""
SHADES = (0.4, 2.5)
"""Limits of the light on hair, in parts of the mean."""
DARKEST = 2e-3
"""Linear albedo below which the logarithm is cut."""
MIDDLE = 0.85
"""Share of the median colour in what is not seen."""
STRANDS = ((60, 1.0), (90, 2.5), (120, 6.0))
"""Lengths and widths of strands, texels, that are drawn where nothing is seen."""
STRAND_CONTRAST, STRAND = 0.35, 8
"""Their largest contrast; width of what they are measured against, texels."""
RAGGED = 0.25
"""How uneven ends are that are not seen."""
SLIT, NARROW_SLIT = 81, (25, 25)
"""Width of slits that are closed before the ears, and of those on the scalp, texels."""
LOOSE, SOFT_EDGE = 0.25, 6
"""Cover from which texels hang together; width of the soft edge around them, texels."""
BALD, ALIKE, SMOOTH = 0.01, 0.8, 0.07
"""Least share of the texture that has to be seen as hair; difference of hair and skin in log colour, and contrast of
the hair, under which both there is none."""
Map = np.ndarray


@dataclass(frozen=True)
class Chart:
    """Rows and columns around a head: a dome over `centre` (3,), metres, and a cylinder from there down to `low`."""

    centre: np.ndarray
    low: float

    @property
    def step(self) -> float:
        """Height of a row of the cylinder, metres."""
        return (self.centre[1] - self.low) / CURTAIN

    def rays(self) -> tuple[Map, Map]:
        """Origins and unit directions (ROWS, COLUMNS, 3)."""
        theta = angles()
        polar = polar_angles()[:, None]
        flat, up = np.sin(polar), np.cos(polar)
        outward = np.stack([flat * np.sin(theta), up + 0 * theta, flat * np.cos(theta)], -1)
        origin = np.broadcast_to(self.centre, outward.shape).copy()
        origin[DOME:, :, 1] = np.linspace(self.centre[1], self.low, CURTAIN + 1)[:, None]
        return origin, outward

    def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest rows and columns, and radii, of points (N, 3); rows may lie outside."""
        x, y, z = (points - self.centre).T
        flat = np.hypot(x, z)
        row = np.where(y >= 0, np.arctan2(flat, np.maximum(y, 0)) / (np.pi / 2) * DOME, DOME - y / self.step)
        column = (np.arctan2(x, z) + np.pi) / (2 * np.pi) * COLUMNS
        return (np.round(row).astype(int), np.round(column).astype(int) % COLUMNS,
                np.where(y >= 0, np.hypot(flat, y), flat))


@dataclass(frozen=True)
class Skull:
    """A head in its chart, (ROWS, COLUMNS) each: radius of the skin without ears and with them, share of scalp; height
    of the ears' lower ends."""

    chart: Chart
    bare: Map
    eared: Map
    scalp: Map
    lobes: float


class Mean:
    """A weighted mean over photos: its `value`, and how well it is `known`, the largest of the weights."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total, self.weight, self.known = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def add(self, value: np.ndarray, weight: np.ndarray) -> None:
        """One photo's values and weights in [0, 1], both of a shape that fits."""
        self.total += weight * value
        self.weight += weight
        self.known = np.maximum(self.known, weight)

    @property
    def value(self) -> np.ndarray:
        """0 where nothing is known."""
        return self.total / np.maximum(self.weight, 1e-6)


@dataclass(frozen=True)
class Look:
    """One view: from points (..., 3), metres, to pixels (..., 2) of its photo and what is there."""

    project: Callable[[np.ndarray], np.ndarray]
    position: np.ndarray
    matte: Matte
    size: tuple[int, int]
    """Width and height of the photo."""

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(...) bool: whether the points fall into the photo."""
        pixel = self.project(points)
        return ((pixel > 1) & (pixel < np.array(self.size) - 1)).all(-1)

    def hair(self, points: np.ndarray) -> np.ndarray:
        """(...) share of hair where the points fall."""
        return self.shares(self.matte, points)[..., HAIR]

    def shares(self, matte: Matte, points: np.ndarray) -> np.ndarray:
        """(..., 3) of a matte where the points fall."""
        pixel = torch.from_numpy(np.ascontiguousarray(self.project(points).reshape(1, -1, 2), np.float32))
        return matte.at(pixel)[0].numpy().reshape(*points.shape[:-1], 3)

    def facing(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(...) cosine between unit normals and the view."""
        away = self.position - points
        return (normals * away).sum(-1) / np.linalg.norm(away, axis=-1)


@torch.no_grad()
def hair_shell(scene: Assembled, mattes: Sequence[Matte], photos: Sequence[np.ndarray],
               skin: np.ndarray | None) -> Shell | None:
    """The hair of a head as a shell around it, or None for a head without hair. Deterministic.

    mattes, photos ((H, W, 3) uint8): one per view of the scene. skin: (3,) log of the skin's linear albedo in them, see
    `hair.skin_colour`, None where it is not known.
    """
    skull = skull_of(scene)
    views = [_look(scene, number, matte, photo.shape[1::-1])
             for number, (matte, photo) in enumerate(zip(mattes, photos, strict=True))]
    measured, known = outline(skull, views)
    covered = (known > 0.5) & (measured > 0) & (skull.scalp > 0.5)
    if not covered.any():
        return None
    usual = float(np.median(measured[covered]))
    measured = _tamed(skull, measured, known, usual)
    hangs = hanging(measured, known)
    long, base = _base(skull, hangs)
    cover, prior, allowed = _cover(skull, views, hangs, long, base + 0.5 * usual * _smoothstep(skull.scalp, 0.2, 0.8))
    thickness = _thickness(skull, measured, known, usual, cover, long, base)
    radius = base + np.maximum(thickness, LEAST)
    radius = np.where((cover > 0.5) & (skull.eared > skull.bare), np.maximum(radius, skull.eared + LEAST), radius)
    radius = _soft(_poled(radius), 0.7)
    origin, outward = skull.chart.rays()
    points = origin + outward * _poled(radius)[..., None]
    texture = _texture(scene, skull, views, photos, points, prior, allowed, long, skin)
    return None if texture is None else _mesh(points, texture, scene)


# ------------------------------------------------------------------------------------------------------------- the head
def angles() -> np.ndarray:
    """(COLUMNS,) of the columns: 0 in front, positive at the subject's left, from -pi at the back."""
    return np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)


def polar_angles() -> np.ndarray:
    """(ROWS,) of the rows' directions: 0 up, pi / 2 flat on the cylinder."""
    return np.concatenate([np.linspace(0, np.pi / 2, DOME + 1), np.full(CURTAIN, np.pi / 2)])


def skull_of(scene: Assembled) -> Skull:
    """The neutral head in its chart."""
    head = scene.person.head
    verts = _host(scene.neutral1)
    masks = {n: _host(head.subdivide(m[None, :, None].to(head.verts0)))[0, :, 0] for n, m in head.regions.items()}
    ears = np.maximum(masks["ear_left"], masks["ear_right"])
    tri = head.tri1.cpu().numpy().astype(np.int64)
    tri = tri[(head.tri1_part.cpu().numpy() == head.PARTS.index("skin")) & ~inner_skin(head)]
    used = np.unique(tri)

    def with_centres(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[used], values[tri].mean(1)])

    scalp, forehead = verts[masks["scalp"] > 0.5], verts[masks["forehead"] > 0.5]
    middle = 0.5 * (scalp[:, 2].min() + forehead[:, 2].max())
    chart = Chart(np.array([0.0, verts[ears > 0.5, 1].max(), middle]), verts[used, 1].min() + BELOW)
    row, column, radius = chart.place(with_centres(verts))
    on_ear = with_centres(ears) > 0.3
    inside = (row >= 0) & (row < ROWS)

    def gridded(values: np.ndarray, chosen: np.ndarray) -> Map:
        chosen = chosen & inside
        grid = np.full((ROWS, COLUMNS), -np.inf)
        np.maximum.at(grid, (row[chosen], column[chosen]), values[chosen])
        return grid

    bare = _soft(_poled(_spread(gridded(radius, ~on_ear))), 1.0)
    ear = ndimage.maximum_filter(gridded(radius, on_ear), 2, mode=("nearest", "wrap"))
    return Skull(chart, bare, np.maximum(bare, ear), _soft(_spread(gridded(with_centres(masks["scalp"]), inside)), 0.7),
                 float(verts[ears > 0.5, 1].min()))


def _look(scene: Assembled, number: int, matte: Matte, size: tuple[int, int]) -> Look:
    camera = scene.cameras[number]

    def project(points: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(points.reshape(1, -1, 3).astype(np.float32)).to(scene.verts1)
        return _host(camera.project(flat))[0].reshape(*points.shape[:-1], 2)

    return Look(project, _host(camera.position()).reshape(3), Matte(matte.shares.cpu(), matte.window), size)


# ------------------------------------------------------------------------------------------------------------ the shape
def outline(skull: Skull, views: Sequence[Look]) -> tuple[Map, Map]:
    """How far hair stands off the skin, metres, where the photos show its outline, and how well that is known."""
    origin, outward = skull.chart.rays()
    base = origin + outward * skull.bare[..., None]
    steps = np.arange(0, FARTHEST, STEP)
    height = base[..., 1, None]
    above, beside, below = GAPS
    gap = np.where(height < skull.lobes, below, np.where(height < skull.chart.centre[1] + STEP, beside, above))
    mean = Mean(skull.bare.shape)
    for view in views:
        line = base[:, :, None] + outward[:, :, None] * steps[:, None]
        hair = view.hair(line) > CERTAIN
        begins = (hair & (steps < gap)).any(-1)
        ended = ~hair & (np.arange(len(steps)) > hair.argmax(-1)[..., None])
        ends = np.where(ended.any(-1), ended.argmax(-1), len(steps))
        sine = np.sqrt(np.clip(1 - view.facing(base, outward) ** 2, 0, 1))
        last = np.minimum(ends, len(steps) - 1)[..., None]
        whole = np.take_along_axis(view.inside(line), last, -1)[..., 0]  # the photo's edge cuts no hair
        mean.add(np.where(begins, ends * STEP, 0), whole * _smoothstep(sine, *OUTLINE))
    return mean.value, mean.known


def _tamed(skull: Skull, measured: Map, known: Map, usual: float) -> Map:
    """Without wings: what lies beside the head in the hair's colours. Where nothing is known nothing holds it."""
    measured, limit = measured.copy(), np.full(COLUMNS, np.inf)
    for row in range(DOME - 9, ROWS):
        inwards = np.maximum(skull.bare[row - 1] - skull.bare[row], 0) if row > DOME else 0
        level = usual + BEYOND + (skull.bare[DOME] - skull.bare[row]).clip(0) * (row > DOME)
        limit = np.minimum(limit + inwards + WIDENS, level)
        measured[row] = np.minimum(measured[row], limit)
        limit = np.where(known[row] > 0, measured[row], limit)
    return measured


def hanging(measured: Map, known: Map) -> np.ndarray:
    """Lowest row (2,) to which hair hangs beside the head, at the subject's right and left; a side that no photo shows
    is like the other."""
    theta = angles()
    rim = (known > 0.5) & (np.abs(theta) > 0.8) & (np.abs(theta) < 2.4)
    lowest = []
    for half in (theta < 0, theta > 0):
        found = None
        for row in range(DOME - 4, ROWS):
            chosen = (rim & half)[row]
            if not chosen.any():  # cut off by the frame or turned away, which says nothing
                continue
            if (measured[row, chosen] > 0).mean() < HANGING:
                found = row - 1 if found is None else found
                break
            found = row
        lowest.append(found)
    right, left = lowest
    if right is None and left is None:
        return np.array([DOME - 5, DOME - 5])
    return np.array([left if right is None else right, right if left is None else left])


def _base(skull: Skull, hangs: np.ndarray) -> tuple[Map, Map]:
    """How far (ROWS, 1) hair is long there, and the radius that hair stands off: the skin's, or for long hair that of a
    curtain from above."""
    long = _smoothstep(hangs.min(), DOME + LONG[0], DOME + LONG[1])
    curtain = skull.bare.copy()
    for row in range(DOME + 1, ROWS):
        curtain[row] = np.maximum(curtain[row], curtain[row - 1] - SLOPE * skull.chart.step)
    share = long * _smoothstep(np.arange(ROWS)[:, None], DOME - 2, DOME + 3)
    return share, skull.bare + share * (curtain - skull.bare)


def _cover(skull: Skull, views: Sequence[Look], hangs: np.ndarray, long: Map, radius: Map) -> tuple[Map, Map, Map]:
    """Cover (ROWS, COLUMNS): of all, of what is not seen, and the most that there may be."""
    origin, outward = skull.chart.rays()
    points = origin + outward * radius[..., None]
    normals = _normals(points)
    theta, row = angles(), np.arange(ROWS)[:, None]
    height = origin[..., 1] + outward[..., 1] * skull.bare
    curtain = (long.max() > 0.3) * _smoothstep(np.abs(theta), *TEMPLE) * _smoothstep(hangs.min() + 1 - row, 0, 2)
    prior = np.maximum(skull.scalp, curtain)
    lowest = np.where(theta < 0, *np.minimum(hangs, hangs.min() + UNEVEN))
    below = _smoothstep(skull.lobes + 0.015 - height, -0.01, 0.01)
    allowed = (1 - _smoothstep(row - lowest, 1, 3) * (row > DOME)) * (
        1 - below * (1 - _smoothstep(np.abs(theta), *BESIDE)))
    allowed = np.where(skull.scalp > 0.5, 1.0, allowed)
    mean = Mean(radius.shape)
    for view in views:
        mean.add(view.hair(points), _smoothstep(view.facing(points, normals), 0.1, 0.4))
    cover = prior + mean.known * (mean.value - prior)
    return cover * allowed, prior, allowed


def _thickness(skull: Skull, measured: Map, known: Map, usual: float, cover: Map, long: Map, base: Map) -> Map:
    """(ROWS, COLUMNS) metres over `base`: a thin plate near what is measured, thin at the ends of short hair."""
    ends = ndimage.minimum_filter((cover > 0.5).astype(int), (5, 3), mode=("nearest", "wrap")) == 0
    data = [
        (measured + skull.bare - base, known * np.where((measured > 0) | (skull.scalp > 0.5), TRUST["outline"],
                                                        TRUST["bare"])),
        (UNSEEN * usual, TRUST["unseen"] * (cover > 0.5)),
        (EDGE, TRUST["edge"] * ends * (1 - known) * (1 - long)),
    ]
    weight = sum(w for _, w in data) + 1e-6
    target = sum(w * v for v, w in data)
    index = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) - COLUMNS + 1
    index[0] = 0  # the crown is one place
    size = index.max() + 1
    # Near the crown columns lie close to each other: what is a cone there has an edge in all of them.
    near = np.minimum((COLUMNS / (4 * DOME * np.maximum(np.sin(polar_angles()), 1e-3))) ** 2, CROWDED)
    i = np.concatenate([index[:-1].ravel(), index[1:].ravel()])
    j = np.concatenate([index[1:].ravel(), np.roll(index[1:], -1, 1).ravel()])
    tie = np.concatenate([np.full((ROWS - 1) * COLUMNS, 1.0), np.repeat(near[1:], COLUMNS)])
    slope = sparse.coo_matrix((np.concatenate([-tie, -tie, tie, tie]), (np.concatenate([i, j, i, j]),
                               np.concatenate([j, i, i, j]))), (size, size)).tocsc()
    held = np.bincount(index.ravel(), weight.ravel())
    system = STIFFNESS[0] * slope + STIFFNESS[1] * STIFFNESS[0] ** 2 * (slope.T @ slope) + sparse.diags(held)
    return spsolve(system.tocsc(), np.bincount(index.ravel(), target.ravel()))[index]


# ---------------------------------------------------------------------------------------------------------- the texture
def _texture(scene: Assembled, skull: Skull, views: Sequence[Look], photos: Sequence[np.ndarray], points: Map,
             prior: Map, allowed: Map, long: Map, skin: np.ndarray | None) -> np.ndarray | None:
    """(H, W, 4) colour, sRGB, and cover; None where the photos show no hair.

    points (ROWS, COLUMNS, 3); skin (3,) log-linear.
    """
    places, normals = _upsampled(points), _upsampled(_normals(points))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    origin, outward = skull.chart.rays()
    under = origin + outward * skull.bare[..., None]
    under_normals = _normals(under)
    colour, cover = Mean((*TEXTURE, 3)), Mean(TEXTURE)
    for number, (view, photo) in enumerate(zip(views, photos, strict=True)):
        facing, pixel = view.facing(places, normals), view.project(places)
        inside = view.inside(places)
        hair = _smoothstep(view.hair(places), *COVERED)
        # Beside the face a point of the shell falls on hair that lies behind it, over skin that is seen. Only long hair
        # hangs before skin.
        visible = _smoothstep(view.facing(under, under_normals), 0.0, 0.2)
        likely = prior + visible * (_smoothstep(view.hair(under), *UNDER) - prior)
        likely = np.maximum(likely, long * prior)
        cover.add(hair * _upsampled(likely[..., None])[..., 0], inside * _smoothstep(facing, *FACING))
        kernel = ndimage.minimum_filter(view.matte.shares[..., HAIR].numpy(), ERODED)
        clean = view.shares(Matte(torch.from_numpy(kernel)[..., None].expand(-1, -1, 3), view.matte.window), places)
        pure = inside * _smoothstep(facing, *PURE_FACING) * _smoothstep(clean[..., 0], *PURE)
        colour.add(log_albedo(scene, number, photo, pixel, places, normals), pure[..., None])
    own = colour.known[..., 0] > 0.5
    if own.mean() < BALD:
        return None
    contrast = _contrast(colour.value.mean(-1), own)
    alike = skin is None or np.linalg.norm(np.median(colour.value[own], 0) - skin) < ALIKE
    if alike and contrast < SMOOTH:
        return None
    rgb = _completed(colour.value, colour.known[..., :1], contrast)
    seen, alpha = cover.known, cover.value
    other = seen[:, ::-1] * (1 - seen)
    rest = _ragged(_upsampled(prior[..., None])[..., 0])
    alpha = seen * alpha + other * alpha[:, ::-1] + (1 - seen - other) * rest
    on_scalp = _upsampled(skull.scalp[..., None])[..., 0]
    alpha = _closed(alpha, on_scalp) * _upsampled(allowed[..., None])[..., 0]
    alpha = _rooted(alpha, on_scalp > 0.5)
    return np.concatenate([rgb, alpha[..., None]], -1)


def log_albedo(scene: Assembled, number: int, photo: np.ndarray, pixel: np.ndarray, places: np.ndarray,
               normals: np.ndarray, density: float = 1.0) -> np.ndarray:
    """(H, W, 3) log of the photo's linear colours over the light of the fit; density: pixels a texel."""
    lights = scene.lights[number]
    device = scene.verts1.device

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)

    normal = tensor(normals.reshape(1, -1, 3))
    points = None if lights.point_position is None else tensor(places.reshape(1, -1, 3))
    shade = _host(lights.irradiance(normal, torch.ones_like(normal[..., :1]), points)[0] / math.pi)
    mean = shade.mean(0)
    shade = np.clip(shade, SHADES[0] * mean, SHADES[1] * mean).reshape(places.shape)
    linear = _host(srgb_to_linear(sample_photo(photo, tensor(pixel), density)))
    log = np.log(np.clip(linear / np.maximum(shade, 1e-3), DARKEST, 1))
    return np.repeat(log @ np.array(LUMA)[:, None], 3, -1) if is_grey(photo) else log


def _contrast(light: np.ndarray, own: np.ndarray) -> float:
    """Deviation of a log lightness (H, W) from its surroundings, where `own` (H, W) bool."""
    weight = ndimage.gaussian_filter(own.astype(float), STRAND)
    around = ndimage.gaussian_filter(np.where(own, light, 0.0), STRAND) / np.maximum(weight, 1e-6)
    inside = ndimage.binary_erosion(own, iterations=STRAND // 2)
    return float((light - around)[inside if inside.any() else own].std())


def _completed(colour: np.ndarray, own: np.ndarray, contrast: float) -> np.ndarray:
    """(H, W, 3) sRGB: log colours where `own` (H, W, 1), else those of the other side, else of the neighbourhood and
    the median, with strands of this contrast."""
    other = own[:, ::-1] * (1 - own)
    known = np.clip(own + other, 0, 1)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))[None]

    mixed = own * colour + other * colour[:, ::-1]
    whole = filled(tensor(mixed), tensor(own + other), tensor(known))[0].permute(1, 2, 0).numpy()
    middle = np.median(colour[own[..., 0] > 0.5], 0)
    whole = known * whole + (1 - known) * ((1 - MIDDLE) * whole + MIDDLE * middle)
    strands = _noise(STRANDS, 0) * min(contrast, STRAND_CONTRAST)
    whole = whole + (strands * (1 - known[..., 0]))[..., None]
    return _host(linear_to_srgb(torch.from_numpy(np.exp(whole)).clamp(0, 1)))


def _closed(cover: np.ndarray, scalp: np.ndarray) -> np.ndarray:
    """(H, W) without slits where what is seen and what is supposed meet: upright ones before the ears, narrow ones on
    the scalp (H, W), along the outline in the photo."""
    cover = cover + scalp * (ndimage.grey_closing(cover, NARROW_SLIT, mode=("nearest", "wrap")) - cover)
    row = (np.arange(TEXTURE[0])[:, None] + 0.5) / TEXTURE[0] * (ROWS - 1)
    angle = np.abs((np.arange(TEXTURE[1]) + 0.5) / TEXTURE[1] * 2 - 1) * np.pi
    before = _smoothstep(row, DOME - 8, DOME - 4) * (1 - _smoothstep(angle, 1.8, 2.1))
    return cover + before * (ndimage.grey_closing(cover, (1, SLIT)) - cover)


def _rooted(cover: np.ndarray, scalp: np.ndarray) -> np.ndarray:
    """(H, W) without what does not hang together with hair on the scalp (H, W) bool."""
    labels, count = ndimage.label(cover > LOOSE)
    kept = np.zeros(count + 1, bool)
    kept[np.unique(labels[scalp])] = True
    kept[0] = False
    near = ndimage.binary_dilation(kept[labels], iterations=SOFT_EDGE)
    return np.where(near, cover, 0.0)


def _ragged(cover: np.ndarray) -> np.ndarray:
    """(H, W) with an uneven border, as locks end."""
    border = (cover > 0.05) & (cover < 0.95)
    return _smoothstep(cover + RAGGED * border * _noise(((25, 2.0),), 1), 0.35, 0.65)


@lru_cache(maxsize=4)
def _noise(sizes: tuple[tuple[float, float], ...], seed: int) -> np.ndarray:
    """(H, W) with deviation 1, of spots of these lengths and widths, texels; not to be changed."""
    random, total = np.random.default_rng(seed), np.zeros(TEXTURE)
    for length, width in sizes:
        spots = ndimage.gaussian_filter(random.standard_normal(TEXTURE, np.float32), (length, width),
                                        mode=("nearest", "wrap"))
        total += spots / spots.std()
    total /= total.std()
    total.setflags(write=False)
    return total


# --------------------------------------------------------------------------------------------------------------- tools
def _mesh(points: Map, texture: np.ndarray, scene: Assembled) -> Shell:
    """Quads of the chart's points, welded at the back; at the crown two triangles make a quad."""
    verts = np.concatenate([points[:1, 0], points[1:].reshape(-1, 3)])
    ring = 1 + np.arange((ROWS - 1) * COLUMNS).reshape(ROWS - 1, COLUMNS)
    ring = np.concatenate([ring, ring[:, :1]], 1)
    u, v = np.linspace(0, 1, COLUMNS + 1), 1 - np.arange(ROWS) / (ROWS - 1)
    quads = [np.stack([ring[:-1, :-1], ring[1:, :-1], ring[1:, 1:], ring[:-1, 1:]], -1).reshape(-1, 4)]
    at = np.stack(np.broadcast_arrays(u, v[1:, None]), -1)
    uvs = [np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -2).reshape(-1, 4, 2)]
    first = np.arange(0, COLUMNS, 2)
    quads.append(np.stack([0 * first, ring[0, first], ring[0, first + 1], ring[0, first + 2]], -1))
    uvs.append(np.stack([np.stack([u[first + 1], 0 * first + 1.0], -1), at[0, first], at[0, first + 1],
                         at[0, first + 2]], 1))
    return Shell.of(verts, np.concatenate(quads), np.concatenate(uvs), texture, scene.verts1)


def _normals(points: Map) -> Map:
    """(ROWS, COLUMNS, 3) unit normals, outwards."""
    around = np.roll(points, -1, 1) - np.roll(points, 1, 1)
    normals = np.cross(np.gradient(points, axis=0), around)
    normals[0] = (0, 1, 0)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def _upsampled(values: Map) -> np.ndarray:
    """(ROWS, COLUMNS, K) at the texture's texels, (H, W, K), bilinear."""
    closed = np.concatenate([values, values[:, :1]], 1)
    row = (np.arange(TEXTURE[0]) + 0.5) / TEXTURE[0] * (ROWS - 1)
    column = (np.arange(TEXTURE[1]) + 0.5) / TEXTURE[1] * COLUMNS
    r, c = row.astype(int), column.astype(int)
    down, right = (row - r)[:, None, None], (column - c)[None, :, None]
    upper, lower = closed[r], closed[r + 1]
    rows = upper + down * (lower - upper)
    return rows[:, c] + right * (rows[:, c + 1] - rows[:, c])


def _spread(grid: Map) -> Map:
    """The grid with its infinite places filled by the nearest finite ones, around the head."""
    wide = np.concatenate([grid] * 3, 1)
    row, column = ndimage.distance_transform_edt(~np.isfinite(wide), return_distances=False, return_indices=True)
    return wide[row, column][:, COLUMNS:2 * COLUMNS]


def _poled(grid: Map) -> Map:
    """With one value at the crown, where all columns meet."""
    grid = grid.copy()
    grid[0] = grid[0].mean()
    return grid


def _soft(grid: Map, sigma: float) -> Map:
    return ndimage.gaussian_filter(grid, sigma, mode=("nearest", "wrap"))


def _host(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)


def _smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
