# SPDX-License-Identifier: GPL-3.0-or-later
"""The glasses in the photos: a ribbon bent around the face that carries frames, bridge and arms as opaque strokes.

What the fit's bare face does not explain as thin lines is looked for before the eyes, on the plane where glasses sit:
two rims, a bridge between them and end pieces beside them, each the path of the strongest evidence (dynamic
programming, as in Amini, Weymouth and Jain 1990). Both sides are looked at together, for glasses are symmetric.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.assemble import Assembled, bare_picture, picture
from backend.refine.volume import log_albedo
from backend.render.color import LUMA, linear_to_srgb, srgb_to_linear
from backend.render.shell import Shell
from backend.texture.unwrap import sample_photo

TEXEL = 0.00025
"""Side of a texel of the plane before the eyes, metres."""
ACROSS, ABOVE, BELOW = 0.08, 0.03, 0.038
"""Half the plane's width, and how far it reaches over the eyes and under them, metres."""
TILT, WRAP = 0.12, 0.4
"""How much farther in front the plane is at its top, metres a metre; its radius around the face, metres."""
VERTEX, CLEARANCE = (0.010, 0.020), 0.001
"""Distance of the plane from the corneas, metres, at least and at most; its distance from the skin."""
FACING, LOOKED_AT = 0.7, 0.82
"""Cosine between the face's direction and the view from which glasses are looked for in the most frontal photo, and
from which they are found if there are any, in every photo."""
LINE, SMOOTH = 0.005, 0.012
"""Width of what counts as a line; differences wider than that are light, metres."""
BRIGHT = 0.7
"""How much lines that are brighter than the skin count beside dark ones: many are highlights of the skin."""
CLEAR = 0.5
"""Strength, in logarithms, from which a line counts as fully seen."""
BLUR, RIM = 0.0003, 0.001
"""Deviation of the blur before lines are looked for; how far from the skin's edge there are none, metres."""
WEAK = 0.02
"""Strength that every line counts with at least."""
DARK = 0.02
"""Added to linear values before logarithms."""
SHIFT, NEAR_EYES = 0.006, 0.045
"""How far glasses may sit beside the face's middle, and how far beside it they are looked at for that, metres."""
CENTRE = (0.001, -0.004)
"""Middle of a lens against the pupil, outwards and upwards, metres."""
NEAREST, FARTHEST = (0.018, 0.011, 0.009), (0.042, 0.026, 0.032)
"""Half axes of the ellipses between which a rim lies: to the sides, upwards, downwards, metres."""
TURNS, RADIAL = 144, 0.0005
"""Directions in which a rim is looked for; its steps outwards, metres."""
TURN, STIFF = 3, 0.02
"""Columns by which a path may move from row to row, and what each of them costs, in strength."""
OWN = 0.002
"""How far a rim may differ from the mean of both sides, metres."""
BRIDGE, BESIDE = (-0.012, 0.011), (-0.012, 0.018)
"""Between which heights over the eyes a bridge and end pieces lie, metres."""
SURE, LIKELY = (0.6, 0.15), (0.5, 0.13)
"""Least strength of bridge and rims together, and of all but a fifth of the bridge; of photos of somebody who wears
glasses in another one. 0.65 and 0.22 is the least of 17 photos with glasses, 0.43 and 0.11 the most of bare faces, 0.54
and 0.26 of one whose brows meet."""
PROFILE = 0.004
"""How far across a line its width is measured, metres."""
WIDTH, BRIGHT_WIDTH = (0.0006, 0.006), 0.002
"""Least and largest width of a line, metres; the largest of a bright one: what is wider is shine."""
FAINT = (0.11, 0.25)
"""Strength from which a part of a frame is drawn, and is opaque; rimless lenses show no rims."""
BLURRED, SHARPEST, BLACKEST = 2.2, 0.6, 0.008
"""Width that a photo's blur gives to the thinnest line, pixels; lines are drawn narrower by that, squares of widths
being additive, down to this share, and dark ones darker for it, down to this linear albedo."""
UNKNOWN = 1e-3
"""Weight of a line's mean where nothing is seen of it."""
SHORTEST = 0.008
"""Parts of a frame that are shorter are left out, metres: bits of brows."""
EVEN = 0.003
"""Length over which a frame's width and colour are averaged, metres."""
END, END_HEIGHT, SEEN_END = 0.005, 0.4, 0.6
"""Length of the shorter end piece, metres; how high it ends, over the rim's outermost point in parts of what is above;
what of it has to be seen, else it is straight."""
INNERMOST = 0.005
"""How near to the face's middle a lens may reach, metres."""
TINTED = -0.5
"""Log lightness of the lenses' lower halves beside what lies around them from which they are dark glasses."""
EAR_TOP = 0.012
"""Height of the upper part of an ear, over whose front an arm lies, metres."""
ARM, ARM_END, EAR_GAP = (0.0018, 0.004), 0.02, 0.004
"""Least and largest height of an arm; how far it reaches behind the ear's upper front, and over it, metres."""
LENS = 0.02
"""Linear albedo of dark lenses."""
HIDING_SIDE, HIDDEN_WIDTH = 640, 13
"""Side of the picture of the glasses that tells what of the skin they hide, pixels; width of what a point hides."""
TEXTURE = (272, 2048)
"""Rows and columns of the texture."""
COLUMNS, ARM_COLUMNS, ROWS = 48, 12, 12
"""Quads of the front, of an arm, and over their height."""
Map = np.ndarray


@dataclass(frozen=True)
class Plane:
    """Where glasses sit on a neutral head: `depth`, z of its middle at the height `eyes`; `pupils`, half the distance
    of the eyes. Metres."""

    depth: float
    eyes: float
    pupils: float

    def points(self, across: np.ndarray, up: np.ndarray) -> np.ndarray:
        """(..., 3) from metres to the subject's left and metres over the eyes."""
        across, up = np.broadcast_arrays(across, up)
        return np.stack([across, self.eyes + up, self.depth + TILT * up - across**2 / (2 * WRAP)], -1)

    def normals(self, across: np.ndarray, up: np.ndarray) -> np.ndarray:
        """(..., 3) unit normals there, to the front."""
        across, up = np.broadcast_arrays(across, up)
        normal = np.stack([across / WRAP, np.full_like(up, -TILT), np.ones_like(up)], -1)
        return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Sight:
    """What a photo shows on the plane, (H, W): log lightness over the fit's picture as it is, `raw`, and without light,
    `rest`; how strong a line is there, in [0, CLEAR]; whether skin is behind. colour (H, W, 3): log linear albedo.
    blur: the width of the thinnest line there is, metres."""

    raw: Map
    rest: Map
    strength: Map
    seen: Map
    colour: np.ndarray
    blur: float


@dataclass(frozen=True)
class Stroke:
    """A line on the plane or the ribbon: (N, 2) metres to the left and over the eyes, (N,) widths, metres, and
    opacity, (N, 3) log linear albedo."""

    places: np.ndarray
    width: np.ndarray
    opacity: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Frame:
    """Glasses: lines of rims and bridge, and of the right and the left end piece; the lenses' outlines, (N, 2), and
    what of the light they take, in [0, 1]; metres beside the middle where the arms begin; whether they are sure."""

    strokes: list[Stroke]
    ends: list[Stroke]
    lenses: list[np.ndarray]
    tint: float
    hinge: float
    sure: bool


@torch.no_grad()
def glasses(scene: Assembled, photos: Sequence[np.ndarray]) -> tuple[Shell | None, tuple[bool, ...]]:
    """The glasses of a head as a ribbon of quads from ear to ear, None for bare eyes, and which photos show them.

    They are those of the most frontal photo that surely shows some: other photos would blur them, for how far the plane
    is from the glasses nobody knows. A face that is turned too far to tell wears what the most frontal one wears.
    Deterministic.

    photos: (H, W, 3) uint8, one per view of the scene.
    """
    plane, ahead = plane_of(scene), [facing(scene, i) for i in range(len(photos))]
    order = sorted(range(len(photos)), key=lambda i: -ahead[i])
    frames: dict[int, Frame | None] = {}
    for i in order:
        least = FACING if i == order[0] else LOOKED_AT
        sight = sight_of(scene, i, photos[i], plane) if ahead[i] >= least else None
        if sight is not None:
            frames[i] = frame_of(sight, plane)
    clearest = next((frame for frame in frames.values() if frame is not None and frame.sure), None)
    if clearest is None:
        return None, (False,) * len(photos)
    frontal = frames.get(order[0]) is not None
    return ribbon(scene, plane, clearest), tuple(frames[i] is not None if i in frames else frontal
                                                 for i in range(len(photos)))


# --------------------------------------------------------------------------------------------------------- the evidence
@torch.no_grad()
def hidden_by(worn: Shell, scene: Assembled, view: int, pixel: torch.Tensor) -> torch.Tensor:
    """(1, 1, R, R) in [0, 1]: what glasses hide of the texels that fall on these pixels (R, R, 2) of a view's photo."""
    camera = scene.cameras[view]
    places = camera.project(worn.verts[None])[0]
    middle_of, side = 0.5 * (places.amax(0) + places.amin(0)), 1.1 * float((places.amax(0) - places.amin(0)).max())
    low = middle_of - side / 2
    window = camera.crop(float(low[0]), float(low[1]), HIDING_SIDE / side, (HIDING_SIDE, HIDING_SIDE))
    white = torch.cat([torch.ones_like(worn.texture[:, :3]), worn.texture[:, 3:]], 1)
    black = replace(scene, texture=torch.zeros_like(scene.texture), palette=torch.zeros_like(scene.palette), hair=None,
                    hair_shell=None, glasses=replace(worn, texture=white), wearing=None)
    cover = picture(black, view, window).albedo[..., :1].permute(0, 3, 1, 2)
    cover = torch.nn.functional.max_pool2d(cover, HIDDEN_WIDTH, 1, HIDDEN_WIDTH // 2)
    at = (pixel - low) * (2 / side) - 1
    return torch.nn.functional.grid_sample(cover, at[None], "bilinear", "zeros", align_corners=False).clamp(0, 1)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """(W,) metres to the subject's left and (H, 1) metres over the eyes, from the top down, of the plane's texels."""
    across, up = np.arange(-ACROSS, ACROSS, TEXEL), np.arange(ABOVE, -BELOW, -TEXEL)
    return across + TEXEL / 2, (up - TEXEL / 2)[:, None]


def plane_of(scene: Assembled) -> Plane:
    """The plane before the neutral head, as near as brows, nose and cheeks let it be."""
    head = scene.person.head
    marks, points = _host(head.landmarks(scene.neutral1[None], "68")[0]), _host(scene.neutral1)
    right, left = marks[36:42].mean(0), marks[42:48].mean(0)
    eyes, pupils = 0.5 * (right + left)[1], 0.5 * (left - right)[0]
    skin, balls = _part(scene, ("skin",)), _part(scene, ("eye_left", "eye_right"))
    cornea, side, up = points[balls, 2].max(), np.abs(points[skin, 0]), points[skin, 1] - eyes
    behind = skin[(side < 0.065) & (up < 0.018) & (up > -0.025) & ((side > 0.012) | (up > -0.004))]
    flat = Plane(0.0, eyes, pupils).points(points[behind, 0], points[behind, 1] - eyes)
    depth = (points[behind, 2] - flat[:, 2]).max() + CLEARANCE
    return Plane(float(np.clip(depth, cornea + VERTEX[0], cornea + VERTEX[1])), float(eyes), float(pupils))


def ear_of(scene: Assembled) -> np.ndarray:
    """(3,) where the upper front end of the left ear meets the head, metres."""
    head = scene.person.head
    points = _host(scene.neutral1)
    left = _host(head.subdivide(head.regions["ear_left"][None, :, None].to(head.verts0)))[0, :, 0] > 0.5
    upper = points[left]
    upper = upper[upper[:, 1] > upper[:, 1].max() - EAR_TOP]
    return upper[np.argmax(upper[:, 2])]


def facing(scene: Assembled, view: int) -> float:
    """Cosine between the direction to a view's camera and that in which the face looks."""
    away = _host(scene.cameras[view].position()).reshape(3)
    return float(away[2] / np.linalg.norm(away))


def sight_of(scene: Assembled, view: int, photo: np.ndarray, plane: Plane) -> Sight | None:
    """What a view's photo (H, W, 3) uint8 shows on the plane; None if it shows no skin there."""
    across, up = grid()
    places = plane.points(across, up)
    flat = _tensor(places.reshape(1, -1, 3), scene)
    pixel = _host(scene.cameras[view].project(flat)).reshape(*places.shape[:2], 2)
    drawn, skin = _fitted(scene, view, pixel)
    seen = skin & ((pixel > 1) & (pixel < np.array(photo.shape[1::-1]) - 1)).all(-1)
    if not seen.any():
        return None
    density = float(np.median(np.linalg.norm(np.diff(pixel, axis=1), axis=-1)))
    own = srgb_to_linear(sample_photo(photo, _tensor(pixel, scene), density)).cpu().numpy()
    raw = (_log_light(own) - _log_light(drawn)) * seen
    share = ndimage.gaussian_filter(seen.astype(float), SMOOTH / TEXEL) + 1e-6
    rest = (raw - ndimage.gaussian_filter(raw, SMOOTH / TEXEL) / share) * seen
    rest = ndimage.gaussian_filter(rest, BLUR / TEXEL)
    width = round(LINE / TEXEL) | 1
    dark = ndimage.grey_closing(rest, (width, width)) - rest
    bright = rest - ndimage.grey_opening(rest, (width, width))
    inner = ndimage.binary_erosion(seen, iterations=round(RIM / TEXEL))
    strength = np.minimum(np.maximum(dark, BRIGHT * bright), CLEAR) * inner
    colour = log_albedo(scene, view, photo, pixel, places, plane.normals(across, up), density)
    return Sight(raw, rest, strength, inner, colour, BLURRED * TEXEL / density)


def _fitted(scene: Assembled, view: int, pixel: np.ndarray) -> tuple[np.ndarray, Map]:
    """The fit's bare face at photo pixels (H, W, 2): linear colours (H, W, 3), and whether it is skin (H, W)."""
    low = pixel.min((0, 1))
    span = pixel.max((0, 1)) - low
    scale = pixel.shape[1] / 2 / span[0]
    size = (max(8, math.ceil(span[1] * scale)), math.ceil(span[0] * scale))
    drawn = bare_picture(scene, view, scene.cameras[view].crop(float(low[0]), float(low[1]), scale, size))
    at = np.moveaxis((pixel - low) * scale - 0.5, -1, 0)[::-1]
    part = torch.nn.functional.pad(scene.person.head.tri1_part, (1, 0), value=-1)[drawn.rast[0, ..., 3].long()]
    skin = (part == scene.person.head.PARTS.index("skin")).float().cpu().numpy()
    linear = srgb_to_linear(drawn.rgb[0]).cpu().numpy()
    colours = [ndimage.map_coordinates(linear[..., c], at, order=1, mode="nearest") for c in range(3)]
    return np.stack(colours, -1), ndimage.map_coordinates(skin, at, order=1, mode="nearest") > 0.99


# ------------------------------------------------------------------------------------------------------------ the frame
def frame_of(sight: Sight, plane: Plane) -> Frame | None:
    """Rims, bridge and end pieces, or None where nobody wears any."""
    shift = middle(sight.strength)
    mirrored = np.roll(sight.strength[:, ::-1], round(2 * shift / TEXEL), 1)
    both = 0.25 * (sight.strength + mirrored) + 0.5 * np.sqrt(sight.strength * mirrored)
    lenses = rims(sight.strength, both, shift, plane.pupils)
    right, left = lenses
    clear = sight.strength + 0.5 * both
    between = np.arange(right[:, 0].max(), left[:, 0].min(), TEXEL)
    if len(between) < 3:
        return None
    bridge = across_path(clear, between, BRIDGE)
    if not are_glasses(both, lenses, bridge, LIKELY):
        return None
    strokes = [measured(sight, rim, closed=True) for rim in lenses] + [measured(sight, bridge)]
    if strokes[-1].opacity.mean() < 0.5:  # noise
        return None
    hinge = END + max(left[:, 0].max(), -right[:, 0].min())
    ends = [end_piece(sight, clear, side, rim, hinge, strokes) for side, rim in zip((-1, 1), lenses, strict=True)]
    return Frame(strokes, ends, lenses, tint_of(sight, lenses), hinge, are_glasses(both, lenses, bridge, SURE))


def are_glasses(both: Map, lenses: Sequence[np.ndarray], bridge: np.ndarray, least: tuple[float, float]) -> bool:
    """Whether the line across the nose and those around the eyes are strong: a bare face has none across the nose,
    unless its brows meet, and these have no rims below them."""
    line, *around = (_at(both, places[:, 0], places[:, 1]) for places in (bridge, *lenses))
    return bool(line.mean() + np.mean(around) > least[0] and np.quantile(line, 0.2) > least[1])


def rims(strength: Map, both: Map, shift: float, pupils: float) -> list[np.ndarray]:
    """Outlines (TURNS, 2) of the right and of the left lens, metres, from their outer sides on and upwards: both alike,
    then each near that by itself."""
    radii, directions = np.arange(RADIAL, FARTHEST[0], RADIAL), np.arange(TURNS) / TURNS * 2 * np.pi
    flat, up = radii * np.cos(directions)[:, None], CENTRE[1] + radii * np.sin(directions)[:, None]
    allowed = _outside(flat, up - CENTRE[1], NEAREST) & ~_outside(flat, up - CENTRE[1], FARTHEST)
    across = pupils + CENTRE[0] + flat
    allowed &= across > INNERMOST
    shared = closed_path(np.where(allowed, _at(both, shift + across, up), -1.0))
    near = np.abs(np.arange(len(radii)) - shared[:, None]) * RADIAL < OWN
    found = []
    for side in (-1, 1):
        clear = _at(strength + 0.5 * both, shift + side * across, up)
        chosen = radii[closed_path(np.where(near, clear, -1.0))]
        radius = ndimage.gaussian_filter1d(chosen, 1.5, mode="wrap")
        found.append(np.stack([shift + side * (pupils + CENTRE[0] + radius * np.cos(directions)),
                               CENTRE[1] + radius * np.sin(directions)], 1))
    return found


def across_path(strength: Map, across: np.ndarray, heights: tuple[float, float]) -> np.ndarray:
    """(N, 2) places: the path of the strongest evidence over these metres to the left, between heights."""
    up = np.arange(*heights, TEXEL)
    return np.stack([across, up[path(_at(strength, across[:, None], up))]], 1)


def end_piece(sight: Sight, clear: Map, side: int, rim: np.ndarray, hinge: float, others: Sequence[Stroke]) -> Stroke:
    """The line from a rim to the arm's hinge: as it is seen, else straight and like the other lines."""
    outer = rim[np.argmax(side * rim[:, 0])]
    across = np.arange(side * outer[0] - TEXEL, hinge, TEXEL) * side
    found = measured(sight, across_path(clear, across, BESIDE))
    if (found.opacity > 0.5).mean() > SEEN_END:
        return replace(found, opacity=np.ones(len(across)))
    height = outer[1] + END_HEIGHT * (rim[:, 1].max() - outer[1])
    places = np.stack([across, np.linspace(outer[1], height, len(across))], 1)
    shares = np.concatenate([stroke.opacity for stroke in others]) > 0.5
    pick = shares if shares.any() else np.ones_like(shares)
    width = np.median(np.concatenate([stroke.width for stroke in others])[pick])
    colour = np.median(np.concatenate([stroke.colour for stroke in others])[pick], 0)
    return plain(places, float(width), colour)


def plain(places: np.ndarray, width: float, colour: np.ndarray) -> Stroke:
    """An opaque line (N, 2) of one width and one colour (3,)."""
    ones = np.ones(len(places))
    return Stroke(places, width * ones, ones, colour * ones[:, None])


def measured(sight: Sight, places: np.ndarray, closed: bool = False) -> Stroke:
    """Widths, opacity and colours along a path (N, 2), which is moved to the middle of the line that it follows."""
    step = float(np.median(np.linalg.norm(np.diff(places, axis=0), axis=1)))

    def even(values: np.ndarray, length: float = EVEN) -> np.ndarray:
        return ndimage.gaussian_filter1d(values, length / step, axis=0, mode="wrap" if closed else "nearest")

    smooth = even(places, 2 * TEXEL)
    ahead = np.roll(smooth, -1, 0) - np.roll(smooth, 1, 0) if closed else np.gradient(smooth, axis=0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.maximum(np.linalg.norm(ahead, axis=1), 1e-9)[:, None]
    offsets = np.arange(-PROFILE, PROFILE + TEXEL / 2, TEXEL)
    rest, seen = _profiles(sight, places[:, None] + normal[:, None] * offsets[:, None], np.abs(offsets) > 0.6 * PROFILE)
    rest = even(rest, 2 * TEXEL)
    near = np.abs(offsets) < 0.3 * PROFILE
    is_dark = even(-rest[:, near].min(1) - BRIGHT * rest[:, near].max(1)) > 0
    rest = np.where(is_dark[:, None], -rest, rest)
    top = np.where(near, rest, -np.inf).argmax(1)
    height, known = rest[np.arange(len(places)), top], seen[np.arange(len(places)), top].astype(float)
    centre = places + normal * even(offsets[top] * (height > FAINT[0]), 4 * TEXEL)[:, None]
    weight = known * height.clip(WEAK)

    def mean(values: np.ndarray, length: float) -> np.ndarray:
        shares = weight if values.ndim == 1 else weight[:, None]
        usual = (shares * values).sum(0) / max(weight.sum(), 1e-6)
        return (even(shares * values, length) + UNKNOWN * usual) / (even(shares, length) + UNKNOWN)

    width = mean(_widths(rest, top).clip(WIDTH[0], np.where(is_dark, WIDTH[1], BRIGHT_WIDTH)), EVEN)
    sharper = np.sqrt(np.maximum(1 - (sight.blur / np.maximum(width, WIDTH[0])) ** 2, SHARPEST**2))
    colour = np.stack([_at(sight.colour[..., c], centre[:, 0], centre[:, 1]) for c in range(3)], 1)
    sunk = np.where(is_dark, height, 0.0) * (1 / sharper - 1)
    colour = np.maximum(colour - sunk[:, None], np.log(BLACKEST))
    opacity = _smoothstep(even(known * height) / (even(known) + 1e-6), *FAINT)
    opacity = ndimage.grey_opening(opacity, round(SHORTEST / step) | 1, mode="wrap" if closed else "nearest")
    return Stroke(centre, sharper * width, opacity, mean(colour, EVEN / 2))


def _profiles(sight: Sight, spots: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows of places (N, K, 2) across a line: log lightness over the median of the row's `sides` (K,) bool, 0 where
    nothing is seen, and (N, K) bool, what is seen."""
    seen = _at(sight.seen.astype(float), spots[..., 0], spots[..., 1]) > 0.5
    values = _at(sight.rest, spots[..., 0], spots[..., 1])
    beside = np.where(seen, values, np.nan)[:, sides]
    level = np.nanmedian(np.where(np.isnan(beside).all(1, keepdims=True), 0.0, beside), 1)
    return np.where(seen, values - level[:, None], 0.0), seen


def _widths(rest: np.ndarray, top: np.ndarray) -> np.ndarray:
    """(N,) widths, metres, of the lines whose profiles (N, K) have their peaks at columns `top` (N,): what is under the
    peak over its height, between where it has fallen to a fifth."""
    height = rest[np.arange(len(rest)), top]
    column, run = np.arange(rest.shape[1]), np.abs(np.arange(rest.shape[1]) - top[:, None])
    fallen, before = rest <= 0.2 * height[:, None], column < top[:, None]
    ends = [np.where(fallen & half, run, rest.shape[1]).min(1, keepdims=True) for half in (before, ~before)]
    return np.where(run < np.where(before, *ends), rest, 0).clip(0).sum(1) * TEXEL / np.maximum(height, WEAK)


def tint_of(sight: Sight, lenses: Sequence[np.ndarray]) -> float:
    """The share of light that dark lenses take, 0 for clear ones: their lower halves beside the skin below them."""
    across, up = grid()
    found = []
    for rim in lenses:
        middle_of, low = rim.mean(0), rim[:, 1].min()
        half = 0.6 * np.ptp(rim[:, 0]) / 2
        columns = (np.abs(across - middle_of[0]) < half) & sight.seen
        within = columns & (up > low + 0.003) & (up < low + 0.008)
        under = columns & (up < low - 0.003) & (up > low - 0.008)
        if within.any() and under.any():
            found.append(np.median(sight.raw[within]) - np.median(sight.raw[under]))
    darker = float(np.mean(found)) if found else 0.0
    return 1 - math.exp(darker) if darker < TINTED else 0.0


def middle(strength: Map) -> float:
    """Metres to the subject's left of the line that what is before the eyes is most symmetric about."""
    eyes = slice(*(round((ACROSS + side * NEAR_EYES) / TEXEL) for side in (-1, 1)))
    shifts = np.arange(-SHIFT, SHIFT + TEXEL, 2 * TEXEL)
    alike = [np.sqrt(strength * np.roll(strength[:, ::-1], round(2 * s / TEXEL), 1))[:, eyes].mean() for s in shifts]
    return float(shifts[int(np.argmax(alike))])


def path(strength: Map) -> np.ndarray:
    """(N,) the column in each row of (N, M) on the path with the largest sum of strength, from row to row by TURN
    columns at most, for each of which it pays STIFF."""
    count, width = strength.shape
    best, back = strength[0].copy(), np.zeros((count, width), int)
    for row in range(1, count):
        padded = np.pad(best, TURN, constant_values=-np.inf)
        options = np.stack([padded[k:k + width] - STIFF * abs(k - TURN) for k in range(2 * TURN + 1)])
        choice = options.argmax(0)
        back[row] = np.arange(width) + choice - TURN
        best = options[choice, np.arange(width)] + strength[row]
    found = np.empty(count, int)
    found[-1] = best.argmax()
    for row in range(count - 1, 0, -1):
        found[row - 1] = back[row, found[row]]
    return found


def closed_path(strength: Map) -> np.ndarray:
    """`path` through rows that go around: the middle one of three rounds."""
    return path(np.concatenate([strength] * 3))[len(strength):2 * len(strength)]


# ----------------------------------------------------------------------------------------------------------- the ribbon
def ribbon(scene: Assembled, plane: Plane, frame: Frame) -> Shell:
    """The quads from ear to ear with the frame's picture."""
    ear = ear_of(scene)
    start = plane.points(np.array(frame.hinge), np.array(0.0))
    length = float(np.hypot(ear[0] - start[0], start[2] - ear[2] + ARM_END))
    along = np.concatenate([np.linspace(-frame.hinge - length, -frame.hinge, ARM_COLUMNS + 1)[:-1],
                            np.linspace(-frame.hinge, frame.hinge, COLUMNS + 1),
                            np.linspace(frame.hinge, frame.hinge + length, ARM_COLUMNS + 1)[1:]])
    up = np.linspace(ABOVE, -BELOW, ROWS + 1)[:, None]
    points = plane.points(along.clip(-frame.hinge, frame.hinge), up).copy()
    heights = [float(end.places[-1, 1]) for end in frame.ends]
    share = ((np.abs(along) - frame.hinge) / length).clip(0)
    beside = half_widths(scene, points[0, :, 2] + share * (ear[2] - ARM_END - points[0, :, 2]), ear)
    for side, height in zip((-1, 1), heights, strict=True):
        on = (side * along > 0) & (share > 0)
        flared = np.maximum(frame.hinge + share * (ear[0] - frame.hinge), beside)[on]
        points[:, on, 0] = side * flared
        points[:, on, 1] += share[on] * (ear[1] + EAR_GAP - plane.eyes - height)
        points[:, on, 2] += share[on] * (ear[2] - ARM_END - points[:, on, 2])
    return _mesh(points, along / (2 * (frame.hinge + length)) + 0.5, drawn_frame(frame, length), scene)


def half_widths(scene: Assembled, depths: np.ndarray, ear: np.ndarray) -> np.ndarray:
    """(N,) half the head's width, metres, at these z before the ear, at the height of arms; 0 behind it."""
    skin = _host(scene.neutral1)[_part(scene, ("skin",))]
    skin = skin[(np.abs(skin[:, 1] - ear[1]) < EAR_TOP) & (skin[:, 2] > ear[2])]
    near = np.abs(skin[:, 2] - depths[:, None]) < 2 * CLEARANCE + EAR_TOP / 2
    return np.where(near, np.abs(skin[:, 0]) + CLEARANCE, 0).max(1)


def drawn_frame(frame: Frame, length: float) -> np.ndarray:
    """(H, W, 4) sRGB colour and cover of frame, lenses and arms of this length, metres."""
    rows, columns = TEXTURE
    reach = frame.hinge + length
    across = ((np.arange(columns) + 0.5) / columns * 2 - 1) * reach
    up = ABOVE - (np.arange(rows) + 0.5) / rows * (ABOVE + BELOW)
    texel = (ABOVE + BELOW) / rows
    strokes = [*frame.strokes, *frame.ends]
    for side, end in zip((-1, 1), frame.ends, strict=True):
        line = np.arange(frame.hinge, reach, texel)
        places = np.stack([side * line, np.full_like(line, end.places[-1, 1])], 1)
        strokes.append(plain(places, float(np.clip(np.median(end.width), *ARM)), np.median(end.colour, 0)))
    picture = np.zeros((rows, columns, 4))
    if frame.tint:
        lenses = Image.new("L", (columns, rows))
        for lens in frame.lenses:
            x, y = (lens[:, 0] / reach + 1) / 2 * columns - 0.5, (ABOVE - lens[:, 1]) / texel - 0.5
            ImageDraw.Draw(lenses).polygon(np.stack([x, y], 1).ravel().tolist(), fill=1)
        picture[np.asarray(lenses) > 0] = (*[math.log(LENS)] * 3, frame.tint)
    for stroke in strokes:
        (left, low), (right, high) = stroke.places.min(0) - WIDTH[1], stroke.places.max(0) + WIDTH[1]
        x, y = np.flatnonzero((across > left) & (across < right)), np.flatnonzero((up > low) & (up < high))
        texels = np.stack(np.meshgrid(across[x], up[y]), -1).reshape(-1, 2)
        distance, nearest = cKDTree(stroke.places).query(texels, distance_upper_bound=WIDTH[1])
        hit = np.isfinite(distance)
        nearest = nearest[hit]
        cover = stroke.opacity[nearest] * ((stroke.width[nearest] / 2 - distance[hit]) / texel + 0.5).clip(0, 1)
        row, column = (axis.ravel()[hit] for axis in np.meshgrid(y, x, indexing="ij"))
        over = cover > picture[row, column, 3]
        picture[row[over], column[over]] = np.concatenate([stroke.colour[nearest], cover[:, None]], 1)[over]
    empty = picture[..., 3] == 0
    place = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    colour = linear_to_srgb(torch.from_numpy(np.exp(picture[place[0], place[1], :3])).clamp(0, 1)).numpy()
    return np.concatenate([colour, picture[..., 3:]], -1)


def _mesh(points: np.ndarray, u: np.ndarray, texture: np.ndarray, scene: Assembled) -> Shell:
    """Quads of points (R, C, 3), rows from the top, columns to the subject's left."""
    index = np.arange(points.shape[0] * points.shape[1]).reshape(points.shape[:2])
    uv = np.stack(np.broadcast_arrays(u, 1 - np.arange(len(points))[:, None] / (len(points) - 1)), -1)
    corners = [(slice(None, -1), slice(None, -1)), (slice(1, None), slice(None, -1)), (slice(1, None), slice(1, None)),
               (slice(None, -1), slice(1, None))]
    return Shell.of(points.reshape(-1, 3), np.stack([index[c] for c in corners], -1).reshape(-1, 4),
                    np.stack([uv[c] for c in corners], -2).reshape(-1, 4, 2), texture, scene.verts1)


# ---------------------------------------------------------------------------------------------------------------- tools
def _part(scene: Assembled, names: Sequence[str]) -> np.ndarray:
    """Vertices of level 1 of parts of the head."""
    head = scene.person.head
    chosen = np.isin(_host(head.tri1_part), [head.PARTS.index(name) for name in names])
    return np.unique(head.tri1.cpu().numpy().astype(np.int64)[chosen])


def _outside(across: np.ndarray, up: np.ndarray, axes: tuple[float, float, float]) -> np.ndarray:
    side, over, under = axes
    return (across / side) ** 2 + (up / np.where(up > 0, over, under)) ** 2 > 1


def _at(values: Map, across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Values on the plane at metres to the left and over the eyes; 0 outside."""
    across, up = np.broadcast_arrays(across, up)
    at = [(ABOVE - up) / TEXEL - 0.5, (across + ACROSS) / TEXEL - 0.5]
    return ndimage.map_coordinates(values, at, order=1, mode="constant")


def _log_light(linear: np.ndarray) -> Map:
    return np.log(linear @ np.array(LUMA) + DARK)


def _tensor(values: np.ndarray, scene: Assembled) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(scene.verts1)


def _host(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)


def _smoothstep(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
