# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pixels of a photo show hair, which skin, and which neither: colour models learned from the photo itself, what
the fitted head lets expect, and the photo's edges decide together (Boykov and Jolly 2001, Rother et al. 2004)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor

from backend.assemble import Assembled, bare_picture, head_box
from backend.head.model import HeadModel
from backend.networks.crop import crop_photo
from backend.render.color import srgb_to_linear
from backend.render.render import RenderOutput

SIDE = 256
"""Side of the square window that is decided on, pixels."""
WINDOW = (0.18, 0.28, 1.36)
"""What the window adds to the head's box at the left and at the top, and its side, in sides of the box."""
HAIR, SKIN, OTHER = range(3)
"""The classes; background, clothes, hats and jewels are others."""
DARK = 0.02
"""Added to linear values before logarithms: the colours of what is nearly black say little."""
TEXTURE_PX = (0.008, 0.012)
"""Widths of the means that local contrast is measured against and over, in roots of the head's area."""
LONE_EDGE = 6
"""Width, in the second of them, of what is no texture but an edge."""
SKIN_SPREAD = (0.05, 0.07, 0.22, 0.35)
MIXED_SPREAD = (0.05, 0.05, 0.12, 0.25)
ANY_CENTRE, ANY_SPREAD = (-0.1, 0.1, -0.8, 0.6), (0.3, 0.35, 1.0, 0.8)
"""Of log(red / green), log(blue / green), log(green) and log contrast: least deviation of skin and of a component of
a mixture; centre, from the cheeks, and deviation of all that may lie on a head."""
SKIN_TAIL, ANY_SHARE = (0.05, 9.0), 0.1
"""Share and factor of variance of skin that is not like the cheeks; share of a mixture that may be anything."""
COMPONENTS = {HAIR: 4, SKIN: 3, OTHER: 6}
SAMPLES = 1500
"""Pixels that a mixture is learned from."""
WAY_PX, WAY_BLUR = 2, 1.0
"""Side of the squares that ways lead over and width of the mean before, pixels."""
WAY_STEP, WAY_OUT = (10.0, 0.003), 0.1
"""Length of a step from square to square for each square of the change of colour, and without a change; what is added
outside the photo."""
BORDER, REACHED = 0.5, 0.4
"""Distance from the outline from which all but little is no hair; the share of the way from the scalp to there, within
which what is nearer may be hair that hangs far out."""
NEARBY_APART, NEARBY_FROM = 0.75, 0.05
"""From which `apart`, and how far from the outline, the background's colours are learned for what is near them."""
NEARBY_PX, NEARBY_LEAST, NEARBY_SHARE = 8.0, 0.02, 0.5
"""Width of the mean over the background nearby; the least part of it that has to be known; the share of what is found
in the colours that the background can have there."""
SURE_SKIN, SKIN_SHARES = 0.85, (0.5, 0.25)
"""Share of skin from which a pixel of the face counts in the skin's colours; shares of these, over the fit's picture
and as they are, beside the cheeks'."""
FEWEST = 60
"""A class with fewer pixels is not learned."""
REACH = ((-0.03, -0.005, 0.0, 0.015, 0.04, 0.07), (1.5, 1.2, 0.5, -0.4, -1.6, -4.0))
"""Log odds of hair against skin by the distance from the scalp's edge on the mean head, metres, < 0 on it."""
EAR_ODDS, NECK_ODDS, FEATURE_ODDS = -1.0, -2.5, -5.0
"""The same on ears, on the neck, and on the face's features."""
FEATURES = ("brow", "eyes", "nose", "lips", "chin", "cheek")
RIM = ((0.0, 0.04, 0.08), (0.3, 0.06, 0.01))
"""Share of neither by the distance from the head's outline inwards, in roots of its area."""
AROUND = ((0.0, 0.08, 0.25, 0.5), (0.25, 0.4, 0.8, 0.97))
"""The same outwards."""
BELOW_CHIN, NECK_OTHER = 0.85, 0.35
"""The same beside the neck and, for collars, on it."""
EVEN = 0.45
"""The `apart` that says nothing."""
APART = ((0.3, EVEN, 0.6, 0.75, 1.0), (-0.5, 0.0, 1.0, 3.0, 6.0))
"""Log odds of neither that `apart` adds outside the outline."""
AROUND_SKIN = 0.1
"""Share of skin in what is no other outside the head's outline: cheeks and ears that stick out."""
FAR, FAR_BELOW = 0.32, (0.1, 0.15)
"""From which distance of the outline all is background and, so far below the chin, clothes."""
LEARNED_WITHIN, LEARNED_APART = 0.2, 0.6
"""Hair is learned no farther from the outline than this, and outside it up to this `apart`."""
SURE_HAIR = (0.45, 0.45)
"""Share of hair by itself and among its neighbours from which a pixel counts in the hair's colours."""
BLUEST, GREENEST, REDDEST = 0.3, 0.15, 1.5
"""Largest log(blue / red), log(green / red) and log(red / green) of hair: what exceeds them is a hat or a scarf."""
BLACK = -3.0
"""Log(green) below which every hue passes: it is the camera's."""
HATS = 0.4
"""Share of such colours in what hair is learned from, up to which they are reflections of the sky, where the background
is known."""
EDGE_PX = 2
"""Half the width of a strip of such pixels that is an outline of mixed colours and no hair."""
ROUNDS = 4
"""Times that all is decided; after each but the last the hair's colours are learned."""
POWER = 0.8
"""What colours say counts by this power: neighbouring pixels are no independent witnesses."""
UNSURE = 0.03
"""Weight of a pixel whose two likeliest classes are equally likely beside one that is certain."""
TIE, EDGE_CONTRAST, LEAK = 2.0, 1.5, 0.02
"""Weight between neighbouring pixels of one colour; how fast it falls with their difference; what is left of it."""
SWEEPS = (10, 40)
"""Steps of conjugate gradients in the first rounds and in the last."""
STRAY, ROOT_PX = 0.02, 3
"""Least part of a patch of hair that has to lie on the scalp, or so few pixels beside it."""
ISLAND, SURROUNDED = 0.005, 0.9
"""Largest patch of skin within hair that is hair, in the head's area; the share of hair around it."""
BAR = 5
"""Hair, pixels, that is narrower than this is a frame of glasses, a shadow or an outline; fringes are let off."""


@dataclass(frozen=True)
class Matte:
    """Shares of HAIR, SKIN and OTHER (SIDE, SIDE, 3) in a square window (left, top, side) of a photo, pixels."""

    shares: Tensor
    window: tuple[float, float, float]

    def at(self, pixel: Tensor) -> Tensor:
        """(R, R, 3) shares at photo pixels (R, R, 2)."""
        x0, y0, side = self.window
        grid = (pixel - pixel.new_tensor([x0, y0])) / side * 2 - 1
        shares = self.shares.to(pixel).permute(2, 0, 1)[None]
        found = torch.nn.functional.grid_sample(shares, grid[None], "bilinear", "border", align_corners=False)
        return found[0].permute(1, 2, 0)


@dataclass(frozen=True)
class _Scene:
    """The window: linear colours (S, S, 3) of the photo, where there is a photo, linear colours that the fit draws,
    its light's colour (3,), where the head is, and its regions (S, S) with `reach`, metres from the scalp's edge."""

    linear: np.ndarray
    valid: np.ndarray
    drawn: np.ndarray
    light: np.ndarray
    head: np.ndarray
    regions: dict[str, np.ndarray]

    @property
    def unit(self) -> float:
        """Root of the head's area, pixels."""
        return max(float(np.sqrt(self.head.sum())), 1.0)

    def feature(self) -> np.ndarray:
        """(S, S) where the face's features are."""
        return np.max([self.regions[name] for name in FEATURES], 0)

    def neck(self) -> np.ndarray:
        return self.regions["neck"] > 0.5

    def below(self) -> np.ndarray:
        """(S, S) bool: beside the neck, lower than the chin."""
        rows = np.flatnonzero((self.regions["chin"] > 0.3).any(1))
        lowest = rows[-1] if len(rows) else len(self.head)
        return (np.arange(len(self.head))[:, None] > lowest) & ~self.head


@torch.no_grad()
def hair_matte(scene: Assembled, view: int, photo: np.ndarray) -> Matte:
    """Decides what every pixel around the head of one view shows. photo: (H, W, 3) uint8. Deterministic.

    Hair, background and clothes get mixtures of Gaussians over colour and local contrast, the background near the head
    a Gaussian for each place as well; skin one Gaussian, from the cheeks, over what sets the photo apart from the
    fit's picture of it, which leaves shading out, and mixtures that the face teaches. With a prior from the head's
    geometry, and from where edges part the scalp from the background, they give the share of each class by itself;
    neighbours of one colour then pull each other, the less certain more (the quadratic form of Grady's random walker
    with priors, 2005). The colours of hair and of the face's skin follow from the shares, and the shares from them,
    ROUNDS times.
    """
    window = _window(scene, view)
    seen = _look(scene, view, photo, window)
    plain = _log_colours(seen.linear)
    contrast = _contrast(plain[..., 2], seen.unit)
    colours = np.concatenate([plain, contrast], -1)
    shaded = np.concatenate([plain - _log_colours(seen.drawn), contrast], -1)
    cheeks = (np.maximum(seen.regions["cheek"], seen.regions["nose"]) > 0.5) & seen.valid
    if int(cheeks.sum()) < FEWEST:
        return Matte(torch.from_numpy(np.broadcast_to(np.eye(3, dtype=np.float32)[OTHER], (SIDE, SIDE, 3)).copy()),
                     window)
    skin = np.where(seen.head, _skin(shaded, shaded[cheeks]), _skin(colours, colours[cheeks]))
    anything = _density(colours, np.median(colours[cheeks], 0) + ANY_CENTRE, np.diag(np.square(ANY_SPREAD)))
    shares = _decide(seen, colours, shaded, skin, anything)
    return Matte(torch.from_numpy(_connected(shares, seen)), window)


def _decide(seen: _Scene, colours: np.ndarray, shaded: np.ndarray, skin: np.ndarray, anything: np.ndarray
            ) -> np.ndarray:
    """(S, S, 3) shares, by turns of learning the colours of hair and skin and smoothing.

    colours (S, S, D), shaded: the same over the fit's picture; skin, anything: (S, S) densities.
    """
    random = np.random.default_rng(0)
    guide = _guide(seen)
    outside, below = ndimage.distance_transform_edt(~seen.head) / seen.unit, seen.below()
    deep = np.arange(SIDE)[:, None] > np.flatnonzero(below.any(1))[:1].sum() + FAR_BELOW[1] * seen.unit
    behind_head = seen.valid & ~below
    far, far_below = behind_head & (outside > FAR), seen.valid & below & (outside > FAR_BELOW[0]) & deep
    apart, reached = _apart(seen, far | far_below, outside)
    prior = _prior(seen, apart)
    background, clothes = (_learned(colours[seeds & reached], COMPONENTS[OTHER], random) for seeds in (far, far_below))
    nearby = far & reached | behind_head & (outside > NEARBY_FROM) & (apart > NEARBY_APART)
    behind = np.maximum(_mixture(colours, background, anything), NEARBY_SHARE * _nearby(colours, nearby))
    other = np.where(below | seen.neck(), _mixture(colours, clothes, anything), behind)
    cheeks = skin
    learnable = behind_head & (outside < LEARNED_WITHIN) & ~seen.neck() & (seen.head | (apart < LEARNED_APART))
    hair = anything
    for turn in range(ROUNDS):
        likely = np.stack([hair, skin, other], -1) + 1e-4 * anything.max()
        alone = prior * likely**POWER
        alone = np.where(seen.valid[..., None], alone / alone.sum(-1, keepdims=True), prior)
        last = turn == ROUNDS - 1
        shares = _smoothed(alone, seen.valid, guide, SWEEPS[last])
        flesh = seen.head & ~seen.neck() & (seen.feature() < 0.3) & (shares[..., SKIN] > SURE_SKIN) & seen.valid
        skin = cheeks
        if int(flesh.sum()) > FEWEST:
            for share, values in zip(SKIN_SHARES, (shaded, colours), strict=True):
                learned = _learned(values[flesh], COMPONENTS[SKIN], random, SKIN_SPREAD)
                skin = np.where(seen.head, np.maximum(skin, share * _mixture(values, learned, 0 * anything)), skin)
        sure = learnable & (alone[..., HAIR] > SURE_HAIR[0]) & (shares[..., HAIR] > SURE_HAIR[1])
        sure = ndimage.binary_opening(sure, iterations=EDGE_PX)
        if last or int(sure.sum()) < FEWEST:
            break
        found = _learned(colours[sure], COMPONENTS[HAIR], random)
        possible = [part for part in found if _can_be_hair(part[1], seen.light)]
        hats = [part for part in found if not _can_be_hair(part[1], seen.light)]
        hair = _mixture(colours, possible, anything)
        if hats and (not background or sum(weight for weight, _, _ in hats) > HATS):
            other = np.maximum(other, _mixture(colours, hats, anything))
    return shares


def _window(scene: Assembled, view: int) -> tuple[float, float, float]:
    x0, y0, side = head_box(scene, view, bare=True)
    left, top, grown = WINDOW
    return x0 - left * side, y0 - top * side, grown * side


def _look(scene: Assembled, view: int, photo: np.ndarray, window: tuple[float, float, float]) -> _Scene:
    x0, y0, side = window
    step = side / SIDE
    pixels = crop_photo(photo, torch.tensor([[step, 0, x0], [0, step, y0]]), SIDE)[0].permute(1, 2, 0)
    camera = scene.cameras[view].crop(x0, y0, 1 / step, (SIDE, SIDE))
    drawn = bare_picture(scene, view, camera)
    centres = (np.arange(SIDE) + 0.5) * step
    inside = [(axis > 1) & (axis < limit - 1) for axis, limit in zip((centres + y0, centres + x0), photo.shape[:2],
                                                                     strict=True)]
    head = drawn.alpha[0, ..., 0].cpu().numpy() > 0.99
    light = drawn.shading[0].cpu().numpy()[head].mean(0) if head.any() else np.ones(3)
    return _Scene(srgb_to_linear(pixels).numpy(), inside[0][:, None] & inside[1],
                  srgb_to_linear(drawn.rgb[0]).cpu().numpy(), light / light[1], head, _regions(scene, drawn, head))


def _regions(scene: Assembled, drawn: RenderOutput, on: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (S, S) region masks and `reach`, as the picture shows them."""
    head = scene.person.head
    masks = torch.stack([scalp_reach(head), *(m.to(head.verts0) for m in head.regions.values())])
    shown = scene.person.raster.interpolate(head.subdivide(masks.T[None].contiguous()), drawn.rast, head.tri1)
    values = shown[0].cpu().numpy() * on[..., None]
    return dict(zip(("reach", *head.regions), np.moveaxis(values, -1, 0), strict=True))


def scalp_reach(head: HeadModel) -> Tensor:
    """(V0,) distance from the scalp's edge on the mean head, metres, negative on the scalp."""
    verts = head.verts0.cpu().numpy()
    scalp = head.regions["scalp"].cpu().numpy() > 0.5
    bare = ~scalp & (head.vertex_part.cpu().numpy() == head.PARTS.index("skin"))
    reach = np.where(scalp, -cKDTree(verts[bare]).query(verts)[0], cKDTree(verts[scalp]).query(verts)[0])
    return torch.from_numpy(reach).to(head.verts0)


def _log_colours(linear: np.ndarray) -> np.ndarray:
    """(..., 3) log(red / green), log(blue / green), log(green)."""
    log = np.log(np.clip(linear, 0, None) + DARK)
    return np.stack([log[..., 0] - log[..., 1], log[..., 2] - log[..., 1], log[..., 1]], -1).astype(np.float32)


def _contrast(light: np.ndarray, unit: float) -> np.ndarray:
    """(S, S, 1) logarithm of the deviation of a log lightness (S, S) from its surroundings."""
    against, over = (max(0.8, share * unit) for share in TEXTURE_PX)
    square = (light - ndimage.gaussian_filter(light, against)) ** 2
    deviation = np.sqrt(ndimage.gaussian_filter(square, over))
    width = round(LONE_EDGE * over) | 1  # a lone edge is no texture
    return np.log(ndimage.grey_opening(deviation, width) + DARK)[..., None].astype(np.float32)


def _density(values: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(...) normal density of (..., D)."""
    root = np.linalg.cholesky(covariance)
    white = (values - mean.astype(np.float32)) @ np.linalg.inv(root).T.astype(np.float32)
    norm = (2 * np.pi) ** (-0.5 * len(mean)) / np.prod(np.diag(root))
    return np.exp(-0.5 * np.einsum("...i,...i->...", white, white)) * np.float32(norm)


def _skin(values: np.ndarray, cheeks: np.ndarray) -> np.ndarray:
    """(S, S) density of skin in (S, S, D), from samples (N, D) of which some may be shine or hair."""
    centre = np.median(cheeks, 0)
    spread = np.maximum(1.4826 * np.median(np.abs(cheeks - centre), 0), SKIN_SPREAD)
    kept = cheeks[(np.abs(cheeks - centre) < 3 * spread).all(1)]
    covariance = np.cov(kept.T, bias=True) + np.diag(np.square(SKIN_SPREAD))
    share, wider = SKIN_TAIL
    mean = kept.mean(0)
    return (1 - share) * _density(values, mean, covariance) + share * _density(values, mean, wider * covariance)


Part = tuple[float, np.ndarray, np.ndarray]
"""Weight, mean and covariance of a component."""


def _learned(samples: np.ndarray, count: int, random: np.random.Generator,
             spread: Sequence[float] = MIXED_SPREAD) -> list[Part]:
    """A mixture of Gaussians by k-means (seeded as k-means++) over (N, D) samples; none for too few. spread: (D,) the
    least deviation of a component."""
    if len(samples) < FEWEST:
        return []
    chosen = samples[random.choice(len(samples), min(len(samples), SAMPLES), replace=False)]
    scaled = chosen / np.array(spread, np.float32)

    def distances(centres: np.ndarray) -> np.ndarray:
        return np.square(scaled[:, None] - centres).sum(-1)

    centres = scaled[:1]
    for _ in range(count - 1):
        chance = distances(centres).min(1) + 1e-6
        centres = np.concatenate([centres, scaled[random.choice(len(scaled), 1, p=chance / chance.sum())]])
    for _ in range(8):
        nearest = distances(centres).argmin(1)
        centres = np.stack([scaled[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(count)])
    groups = [chosen[nearest == k] for k in range(count)]
    return [(len(g) / len(chosen), g.mean(0), np.cov(g.T, bias=True) + np.diag(np.square(spread)))
            for g in groups if len(g) > 2 * len(spread)]


def _nearby(colours: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(S, S) density of the colours (S, S, D) that the background (S, S) bool has around each pixel."""
    known = ndimage.gaussian_filter(background.astype(np.float32), NEARBY_PX)

    def averaged(values: np.ndarray) -> np.ndarray:
        total = ndimage.gaussian_filter(values * background[..., None], (NEARBY_PX, NEARBY_PX, 0))
        return total / np.maximum(known, 1e-4)[..., None]

    mean = averaged(colours)
    variance = np.maximum(averaged(np.square(colours)) - np.square(mean), 0) + np.square(np.float32(MIXED_SPREAD))
    likely = np.exp(-0.5 * (np.square(colours - mean) / variance).sum(-1))
    return np.where(known > NEARBY_LEAST, likely / np.sqrt((2 * np.pi * variance).prod(-1)), 0).astype(np.float32)


def _mixture(values: np.ndarray, parts: list[Part], anything: np.ndarray) -> np.ndarray:
    """(S, S) density; a part of it may be anything, and all of it where nothing was learned."""
    if not parts:
        return ANY_SHARE * anything
    total = sum(weight for weight, _, _ in parts)
    found = sum(weight / total * _density(values, mean, covariance) for weight, mean, covariance in parts)
    return (1 - ANY_SHARE) * found + ANY_SHARE * anything


def _can_be_hair(mean: np.ndarray, light: np.ndarray) -> bool:
    """Whether hair can have this log colour, under white light or under one of this colour (3,)."""
    tints = mean[:2], mean[:2] - np.log(light[[0, 2]])
    return mean[2] < BLACK or any(blue - red < BLUEST and -red < GREENEST and red < REDDEST for red, blue in tints)


def _apart(seen: _Scene, neither: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much farther the scalp is than the background: (S, S) the share of the shortest way to the scalp in both, and
    (S, S) bool what is no hair that hangs far out.

    neither: (S, S) bool background and clothes but for such hair; outside: (S, S) distance from the outline. Ways are
    geodesic distances (Bai and Sapiro 2009), long where colours change, more so where they change at once: blurred
    things in the background are near each other, and far from the head's sharp outline.
    """
    scalp, far = (_coarse(mask) > 0.9 for mask in (seen.head & (seen.regions["reach"] < 0) & seen.valid, neither))
    if not scalp.any() or not far.any():
        return np.full((SIDE, SIDE), EVEN, np.float32), np.ones((SIDE, SIDE), bool)
    colours = _coarse(ndimage.gaussian_filter(_opponent(seen.linear), (WAY_BLUR, WAY_BLUR, 0)))
    steps = _steps(colours, WAY_OUT * (_coarse(seen.valid) < 0.9))
    from_scalp = _way(steps, scalp)
    distance = np.where(far, _coarse(outside), 0)
    border = distance > min(BORDER, 0.8 * distance.max())
    reached = from_scalp > REACHED * np.median(from_scalp[border])
    share = from_scalp / (from_scalp + _way(steps, far & reached) + 1e-6)
    apart = ndimage.zoom(share, WAY_PX, order=1, mode="nearest", grid_mode=True)
    return apart.astype(np.float32), np.kron(reached, np.ones((WAY_PX, WAY_PX), bool))


def _coarse(values: np.ndarray) -> np.ndarray:
    """(S, S, ...) -> (S / WAY_PX, S / WAY_PX, ...) means over squares."""
    side = SIDE // WAY_PX
    return values.reshape(side, WAY_PX, side, WAY_PX, *values.shape[2:]).mean((1, 3))


def _steps(colours: np.ndarray, toll: np.ndarray) -> sparse.csr_matrix:
    """(N * N, N * N) lengths of the steps from each pixel of (N, N, D) to its eight neighbours, each pair once. toll:
    (N, N) is added to a step that touches the pixel."""
    side = len(colours)
    number = np.arange(side * side).reshape(side, side)
    first, second, length = [], [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = slice(0, side - down), slice(max(0, -right), side - max(0, right))
        there = slice(down, side), slice(max(0, right), side + min(0, right))
        change = np.square(colours[here] - colours[there]).sum(-1)
        first.append(number[here].ravel())
        second.append(number[there].ravel())
        paid = np.maximum(toll[here], toll[there])
        length.append((WAY_STEP[0] * change + WAY_STEP[1] * np.hypot(down, right) + paid).ravel())
    return sparse.csr_matrix((np.concatenate(length), (np.concatenate(first), np.concatenate(second))),
                             (side * side, side * side))


def _way(steps: sparse.csr_matrix, start: np.ndarray) -> np.ndarray:
    """(N, N) lengths of the shortest ways from the nearest pixel of start (N, N) bool."""
    return dijkstra(steps, directed=False, indices=np.flatnonzero(start), min_only=True).reshape(start.shape)


def _prior(seen: _Scene, apart: np.ndarray) -> np.ndarray:
    """(S, S, 3) what the head's geometry and `apart` (S, S) let expect."""
    regions, feature = seen.regions, seen.feature()
    odds = np.interp(regions["reach"], *REACH)
    odds = np.where(np.maximum(regions["ear_left"], regions["ear_right"]) > 0.5, EAR_ODDS, odds)
    odds = np.where(seen.neck(), NECK_ODDS, odds)
    odds = np.where(feature > 0.3, np.minimum(odds, FEATURE_ODDS), odds)
    hair = np.where(seen.head, 1 / (1 + np.exp(-odds)), 1 - AROUND_SKIN)
    inside, outside = (ndimage.distance_transform_edt(m) / seen.unit for m in (seen.head, ~seen.head))
    other = np.where(seen.head, np.interp(inside, *RIM), np.interp(outside, *AROUND))
    other = np.where(seen.neck(), np.maximum(other, NECK_OTHER), other)
    other = np.where(seen.below(), np.maximum(other, BELOW_CHIN), other)
    times = np.where(seen.head, 1, np.exp(np.interp(apart, *APART)))
    other = other * times / (other * times + 1 - other)
    return np.stack([hair * (1 - other), (1 - hair) * (1 - other), other], -1).astype(np.float32)


def _opponent(linear: np.ndarray) -> np.ndarray:
    """(..., 3) linear colours as red against green, blue against green, and green, in even steps for the eye."""
    root = np.cbrt(np.clip(linear, 0, 1))
    return np.stack([2 * (root[..., 0] - root[..., 1]), 2 * (root[..., 2] - root[..., 1]), root[..., 1]], -1)


def _guide(seen: _Scene) -> np.ndarray:
    """(S, S, 3) colours in which neighbours differ by the root of EDGE_CONTRAST on average."""
    guide = _opponent(seen.linear) * seen.valid[..., None]
    square = [np.square(np.diff(guide, axis=k)).sum(-1) for k in (0, 1)]
    mean = 0.5 * (square[0][seen.valid[1:]].mean() + square[1][seen.valid[:, 1:]].mean())
    return (guide * np.sqrt(EDGE_CONTRAST / max(float(mean), 1e-9))).astype(np.float32)


def _smoothed(shares: np.ndarray, valid: np.ndarray, guide: np.ndarray, steps: int) -> np.ndarray:
    """Shares (S, S, 3) pulled towards their neighbours: (C + L) x = C shares with certainty C and the Laplacian L of
    the grid, weighted by likeness in `guide`, by conjugate gradients with Jacobi's preconditioner."""
    ranked = np.sort(shares, -1)
    certain = np.where(valid, UNSURE + np.square(ranked[..., 2] - ranked[..., 1]), 1e-3).astype(np.float32)
    across, down = (TIE * (np.exp(-np.square(np.diff(guide, axis=k)).sum(-1)) + LEAK) for k in (1, 0))
    diagonal = certain.copy()
    diagonal[:, 1:] += across
    diagonal[:, :-1] += across
    diagonal[1:] += down
    diagonal[:-1] += down

    def product(x: np.ndarray) -> np.ndarray:
        out = diagonal * x
        out[:, 1:] -= across * x[:, :-1]
        out[:, :-1] -= across * x[:, 1:]
        out[1:] -= down * x[:-1]
        out[:-1] -= down * x[1:]
        return out

    def solved(start: np.ndarray) -> np.ndarray:
        x = start.copy()
        rest = certain * start - product(x)
        ahead = step = rest / diagonal
        power = np.vdot(rest, ahead)
        for _ in range(steps):
            image = product(step)
            length = power / max(np.vdot(step, image), 1e-20)
            x += length * step
            rest -= length * image
            ahead = rest / diagonal
            power, before = np.vdot(rest, ahead), power
            step = ahead + power / max(before, 1e-20) * step
        return x

    two = [solved(np.ascontiguousarray(shares[..., k], np.float32)).clip(0, 1) for k in (HAIR, SKIN)]
    return np.stack([*two, np.clip(1 - two[0] - two[1], 0, 1)], -1)


def _connected(shares: np.ndarray, seen: _Scene) -> np.ndarray:
    """Shares in which hair is what hangs together with the scalp; other dark things on the face are neither."""
    scalp = ndimage.binary_dilation((seen.regions["scalp"] > 0.5) & seen.head, iterations=ROOT_PX)
    hair = shares[..., HAIR]
    fringe = seen.regions["forehead"] > 0.5
    hair = np.where(fringe, hair, ndimage.grey_opening(hair, BAR))
    labels, count = ndimage.label(hair > 0.5)
    if count:
        index = np.arange(1, count + 1)
        rooted = ndimage.mean(scalp, labels, index) > STRAY
        hair = np.where(np.concatenate([[True], rooted])[labels], hair, 0)
    hair, skin = _without_islands(hair, shares[..., SKIN], seen.unit)
    return np.stack([hair, skin, 1 - hair - skin], -1).clip(0, 1).astype(np.float32)


def _without_islands(hair: np.ndarray, skin: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Hair and skin (S, S), small patches of skin that hair surrounds being hair: shine, or strands of the skin's
    colour. unit: root of the head's area, pixels."""
    labels, count = ndimage.label(skin > 0.5)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for number in range(1, count + 1):
        if sizes[number] > ISLAND * unit**2:
            continue
        island = ndimage.binary_dilation(labels == number, iterations=EDGE_PX)
        ring = ndimage.binary_dilation(island) & ~island
        if (hair[ring] > 0.5).mean() > SURROUNDED:
            hair, skin = np.where(island, hair + skin, hair), np.where(island, 0, skin)
    return hair, skin
