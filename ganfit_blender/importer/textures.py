# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that are computed, not loaded: the eye's colours, the hair's mask, vertex values drawn into a UV map."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from .axes import linear_to_srgb, srgb_to_linear

EYE_SIZE = 1024
SCLERA_SATURATION = 0.35  # the fit's sclera has taken over the lids' shade and the iris' spill; a living eye is paler
SCLERA_SHADE = 0.85
FIBRES = ((60, 0.35), (140, 0.4), (330, 0.25))  # (fibres around the iris, share of the pattern)
IRIS_CONTRAST = 0.55
BATCH = 500_000  # pixels that are drawn at once


@dataclass(frozen=True)
class EyeRings:
    """Where the colours of an eye change: distance in the UV map from its middle, the pole."""

    pupil: float
    iris: float  # where the iris is still wholly iris
    limbus: float
    sclera: float  # where the sclera is wholly sclera


def eye_rings(uv: np.ndarray, weights: np.ndarray, names: list[str]) -> EyeRings | None:
    """The rings of an eye from its corners' UVs (C, 2) and colour shares (C, P); None if it has no such colours."""
    if not {"pupil", "iris", "limbus", "sclera"} <= set(names):
        return None
    radius = np.hypot(*(uv - 0.5).T)
    main = {name: radius[weights[:, names.index(name)] > 0.5] for name in ("pupil", "iris", "limbus", "sclera")}
    if not all(len(found) for found in main.values()):
        return None
    return EyeRings(
        pupil=float(main["pupil"].max() + main["iris"].min()) / 2,
        iris=float(main["iris"].max()),
        limbus=float(main["limbus"].mean()),
        sclera=float(main["sclera"].min()),
    )


def eye_picture(rings: EyeRings, palette: dict[str, np.ndarray], size: int = EYE_SIZE, seed: int = 1) -> np.ndarray:
    """(size, size, 3) sRGB-encoded colours of an eye, row 0 at the bottom: pupil, fibrous iris, limbus, sclera.

    Args:
        palette: sRGB-encoded colours (3,) by name: `pupil`, `iris`, `limbus`, `sclera`; the iris' mean is kept.
    """
    rng = np.random.default_rng(seed)
    linear = {name: srgb_to_linear(np.clip(np.asarray(color, np.float64), 0, 1)) for name, color in palette.items()}
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    coarse = axis.reshape(-1, 2).mean(1)  # the white has nothing as fine as the iris
    white = np.clip(_sclera(rng, np.hypot(*np.meshgrid(coarse, coarse)), linear["sclera"]), 0, 1)
    half = 2 * int(np.ceil(rings.sclera * 0.55 * size)) + 2
    middle = slice(size // 2 - half, size // 2 + half)
    around = white[middle.start // 2 : middle.stop // 2, middle.start // 2 : middle.stop // 2]
    x, y = np.meshgrid(axis[middle], axis[middle])
    inner = np.hypot(x, y)
    front = _iris(rng, rings, inner, np.arctan2(y, x) / (2 * np.pi) % 1.0, linear["iris"])
    front = _mix(front, linear["limbus"], 0.85 * _smooth(inner, rings.iris, rings.limbus))
    front = _mix(front, doubled(around), _smooth(inner, rings.limbus, rings.sclera * 1.06))
    front = _mix(front, linear["pupil"] * 0.3, 1 - _smooth(inner, rings.pupil * 0.93, rings.pupil * 1.05))
    picture = doubled(linear_to_srgb(white).astype(np.float32))
    picture[middle, middle] = linear_to_srgb(np.clip(front, 0, 1))
    return picture


def doubled(picture: np.ndarray) -> np.ndarray:
    """Each pixel as four."""
    height, width = picture.shape[:2]
    return np.broadcast_to(picture[:, None, :, None], (height, 2, width, 2, picture.shape[2])).reshape(
        2 * height, 2 * width, -1)


def _iris(rng: np.random.Generator, rings: EyeRings, radius: np.ndarray, turn: np.ndarray,
          color: np.ndarray) -> np.ndarray:
    """Linear colours of the iris, whose mean is `color`: fibres, a lighter collarette, a darker rim."""
    across = np.clip((radius - rings.pupil) / (rings.limbus - rings.pupil), 0, 1)  # 0 at the pupil, 1 at the limbus
    pattern = sum(share * _fibres(rng, turn, across, count) for count, share in FIBRES)
    collarette = np.exp(-(((across - 0.3) / 0.12) ** 2))
    shade = 1 + IRIS_CONTRAST * pattern + 0.25 * collarette - 0.35 * _smooth(across, 0.6, 1.0)
    ring = (radius > rings.pupil) & (radius < rings.iris)
    return color * (shade / shade[ring].mean())[..., None]


def _sclera(rng: np.random.Generator, radius: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Linear colours of the white: paler than the fit's, pink and veined towards the corners."""
    far = _smooth(radius, 0.09, 0.22)
    veins = _smooth(_cloud(rng, len(radius), 40), 0.55, 0.9) * far
    shade = SCLERA_SHADE * (1 + 0.04 * _cloud(rng, len(radius), 12))
    channels = zip(_pale(color).tolist(), (0.05, 0.16, 0.18), (0.05, 0.3, 0.28))
    return np.stack([white * shade * (1 - pink * far) * (1 - red * veins) for white, pink, red in channels], -1)


def draw_in_uv(uv: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws values at corners into the UV map, linear inside each triangle.

    Args:
        uv: (T, 3, 2) corners of triangles, v up.
        values: (T, 3, C) their values.

    Returns:
        (size, size, C) float32, row 0 at the bottom, and (size, size) bool: where a triangle lies.
    """
    picture, covered = np.zeros((size, size, values.shape[-1]), np.float32), np.zeros((size, size), bool)
    points = np.asarray(uv, np.float64) * size - 0.5
    a, b, c = np.moveaxis(points, 1, 0)
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    area = ux * vy - uy * vx
    low = np.clip(np.floor(points.min(1)).astype(int), 0, size - 1)
    wide, high = (np.clip(np.ceil(points.max(1)).astype(int), 0, size - 1) - low + 1).T
    first, along, up = values[:, 0], values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    for some in _batches(np.where(np.abs(area) < 1e-12, 0, wide * high)):
        count = (wide * high)[some]
        one = np.repeat(some, count)  # the triangle of each pixel in the triangles' boxes
        row, x = np.divmod(np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count), wide[one])
        x, y = x + low[one, 0], row + low[one, 1]
        right, above = x - a[one, 0], y - a[one, 1]
        v = (right * vy[one] - above * vx[one]) / area[one]
        w = (above * ux[one] - right * uy[one]) / area[one]
        inside = (v >= -1e-6) & (w >= -1e-6) & (v + w <= 1 + 1e-6)
        one, x, y, v, w = one[inside], x[inside], y[inside], v[inside, None], w[inside, None]
        picture[y, x] = first[one] + v * along[one] + w * up[one]
        covered[y, x] = True
    return picture, covered


def _batches(sizes: np.ndarray) -> list[np.ndarray]:
    """The indices of sizes above 0, in runs whose sum is about `BATCH`."""
    used = np.flatnonzero(sizes)
    total = np.cumsum(sizes[used])
    return [used[total // BATCH == number] for number in np.unique(total // BATCH)]


def spread(picture: np.ndarray, covered: np.ndarray, pixels: int) -> np.ndarray:
    """Carries the values at the border of the covered area outwards, so that filtering finds no seam."""
    picture, covered = picture.copy(), covered.copy()
    for _ in range(pixels):
        if covered.all():
            break
        total, count = np.zeros_like(picture), np.zeros(covered.shape)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            near = np.roll(covered, step, axis)
            total += np.roll(picture, step, axis) * near[..., None]
            count += near
        fresh = ~covered & (count > 0)
        picture[fresh] = total[fresh] / count[fresh][:, None]
        covered |= fresh
    return picture


def make_image(name: str, pixels: np.ndarray, color: bool = True, pack: bool = True) -> bpy.types.Image:
    """An 8-bit image of (H, W, 1, 3 or 4) values in [0, 1], row 0 at the bottom; encoded sRGB, or plain data.

    It has to be packed to be saved with the file.
    """
    height, width, channels = pixels.shape
    image = bpy.data.images.new(name, width, height, alpha=channels == 4, is_data=not color)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., : max(channels, 3)] = pixels
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    if pack:
        image.pack()
    return image


def read_image(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 4) values of an image as they are stored (a byte image: encoded), row 0 at the bottom."""
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(image.size[1], image.size[0], 4)


def cloud(size: int, cells: int, seed: int) -> np.ndarray:
    """(size, size) smooth random values, mean 0, within [-1, 1], `cells` features across."""
    return _cloud(np.random.default_rng(seed), size, cells)


def _fibres(rng: np.random.Generator, turn: np.ndarray, across: np.ndarray, count: int) -> np.ndarray:
    """Random values in [-1, 1] that change fast around the iris and slowly across it."""
    knots = rng.uniform(-1, 1, (4, count))
    place, depth = turn * count, across * 2.999
    left, near = np.floor(place).astype(int), np.floor(depth).astype(int)
    s, t = _ease(place - left), _ease(depth - near)
    a, b = left % count, (left + 1) % count
    lower = knots[near, a] * (1 - s) + knots[near, b] * s
    upper = knots[near + 1, a] * (1 - s) + knots[near + 1, b] * s
    return lower * (1 - t) + upper * t


def _cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Value noise of one octave."""
    knots = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    place = (np.arange(size) + 0.5) / size * cells
    first = np.minimum(place.astype(int), cells - 1)
    part = _ease(place - first).astype(np.float32)
    rows = knots[first] * (1 - part)[:, None] + knots[first + 1] * part[:, None]
    return rows[:, first] * (1 - part) + rows[:, first + 1] * part


def _ease(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)


def _smooth(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    return _ease(np.clip((value - low) / (high - low), 0, 1))


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _pale(color: np.ndarray) -> np.ndarray:
    """A linear colour drawn towards grey of the same luminance (Rec.709)."""
    grey = color @ np.array([0.2126, 0.7152, 0.0722])
    return grey + SCLERA_SATURATION * (color - grey)
