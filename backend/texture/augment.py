# SPDX-License-Identifier: GPL-3.0-or-later
"""New people from few: face parts of different persons, skin pigments, hair of the face, marks, and shifted features.

All work is done in log-linear RGB, where a pigment adds (Beer-Lambert): a map is its person's skin colour (3 numbers)
plus what deviates from it. So a part can move between people of different skin, and skin colour is drawn on its own.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from backend.texture.data import LUMA, SourceMap, decode, encode, skin_colour
from backend.texture.generator import MELANIN_RGB

FLOOR = 0.004
"""Linear albedo below which the logarithm is cut."""
MELANIN = np.array(MELANIN_RGB, np.float32)
"""Direction of log-linear RGB along which skin of many people darkens (eumelanin through sRGB primaries)."""
BLOOD = np.array([0.15, 1.0, 0.75], np.float32)
"""Haemoglobin absorbs green most, then blue (Jimenez et al. 2010, figure 3), hardly any red."""
PARTS = ("brow", "eyes", "nose", "lips", "forehead", "cheek", "chin", "jaw", "ears", "mouth_and_jaw")


@dataclass(frozen=True)
class AugmentOptions:
    """Strengths of the variation; all standard deviations in log-linear units unless said."""

    tone_range: tuple[float, float] = (-2.9, -0.62)
    """Log-linear green of the skin, drawn uniformly: Monk 10 to Monk 1."""
    tone_own: float = 0.35
    """Share of maps that stay near their base person's own tone."""
    blood: float = 0.06
    whole: float = 0.4
    """Share of maps whose face parts all come from one person."""
    swap: float = 0.55
    """Probability that a face part comes from another person in the other maps."""
    portraits: float = 0.7
    """Share of base persons that are photographed portraits, where there are any."""
    shift: float = 0.012
    """Largest smooth displacement of features, in map widths."""
    low_frequency: float = 0.05
    brow: float = 0.45
    lips: float = 0.12
    stubble: float = 0.45
    """Probability of a beard shadow."""
    freckles: float = 0.2
    """Probability of freckles or moles."""
    scalp: float = 0.5
    """Probability of a short-hair shade on the scalp."""


class Augmenter:
    """Draws endless maps from the sources; equal seeds give equal maps."""

    def __init__(self, sources: list[SourceMap], regions: dict[str, np.ndarray],
                 options: AugmentOptions | None = None) -> None:
        self.options = options or AugmentOptions()
        self.size = sources[0].albedo.shape[0]
        self.regions = {name: mask.astype(np.float32) for name, mask in regions.items()}
        self.masks = _part_masks(self.regions)
        self.tones, self.details = [], []
        for source in sources:
            linear = np.log(np.maximum(decode(source.albedo), FLOOR))
            tone = np.log(np.maximum(skin_colour(decode(source.albedo), self.regions), FLOOR))
            self.tones.append(tone.astype(np.float32))
            self.details.append(_without_highlights(linear - tone).astype(np.float16))
        self.rest = self.regions["socket"] + self.regions["mouth_bag"]
        self.rims = [(mask > 0.15) & (mask < 0.6) for mask in self.masks.values()]
        self.soft = _soft_regions(self.regions, self.masks)
        self.pin = (1 - ndimage.gaussian_filter(ndimage.maximum_filter(self.rest, 5), self.size / 100)).clip(0, 1)
        self.boxes = {name: _box(mask) for name, mask in self.masks.items()}
        line = (2 * torch.arange(self.size) + 1) / self.size - 1
        self.grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
        self.locus = [np.polyfit([t[1] for t in self.tones], [t[c] for t in self.tones], 1) for c in range(3)]
        """Line per channel: the channel's log albedo for a person's green."""
        self.greens = np.array([tone[1] for tone in self.tones])
        self.weight = balance(self.greens, np.array([s.origin == "portrait" for s in sources]), self.options.portraits)
        """Chance of every source to be drawn as a base."""

    def draw(self, seed: int) -> np.ndarray:
        """One map (R, R, 3), uint8 sRGB."""
        rng = np.random.default_rng(seed)
        base = int(rng.choice(len(self.weight), p=self.weight))
        tone = self._tone(base, rng)
        detail = self._compose(base, tone, rng)
        detail = self._shift(detail, rng)
        detail = self._features(detail, rng)
        fixed = self.rest[..., None] * rng.normal(0, 0.15)
        smooth = self._field(rng, 5) * self.options.low_frequency
        blood = self._field(rng, 7) * self.options.low_frequency
        skin = tone + smooth[..., None] * MELANIN + blood[..., None] * BLOOD
        pull = (1 - 0.6 * self.rest)[..., None]
        linear = np.exp(np.minimum((skin - self._mid(base)) * pull + self._mid(base) + detail + fixed, 0))
        return (encode(linear) * 255 + 0.5).astype(np.uint8)

    def _mid(self, base: int) -> np.ndarray:
        return self.tones[base]

    def _tone(self, base: int, rng: np.random.Generator) -> np.ndarray:
        """Skin colour (3,) in log-linear RGB: the base person's, moved along the pigments."""
        own = self.tones[base]
        green = own[1] + rng.normal(0, 0.12)
        if rng.random() > self.options.tone_own:
            green = rng.uniform(*self.options.tone_range)
        typical = np.array([np.polyval(line, green) for line in self.locus])
        odd = own - np.array([np.polyval(line, own[1]) for line in self.locus])
        tone = typical + 0.6 * odd + rng.normal(0, self.options.blood) * BLOOD + rng.normal(0, 0.02, 3)
        return tone.astype(np.float32)

    def _compose(self, base: int, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Deviations from the skin colour, parts taken from people of similar tone, now and then mirrored."""
        near = self.weight * (np.exp(-0.5 * ((self.greens - tone[1]) / 0.7) ** 2) + 0.05)
        near /= near.sum()
        detail = self.details[base].astype(np.float32)
        swap = 0.0 if rng.random() < self.options.whole else self.options.swap
        for (name, mask), rim in zip(self.masks.items(), self.rims, strict=True):
            if rng.random() < swap:
                other = self.details[int(rng.choice(len(near), p=near))]
                other = other[:, ::-1] if rng.random() < 0.5 else other
                box = self.boxes[name]
                step = other[box] - detail[box]
                level = np.median(step[rim[box]], axis=0) if rim.any() else 0.0
                detail[box] += mask[box][..., None] * (step - level)
        if rng.random() < 0.5:
            detail = detail[:, ::-1]
        if rng.random() < 0.5 * swap:
            other = self.details[int(rng.choice(len(near), p=near))]
            detail = detail + (1 / (1 + np.exp(-6 * self._field(rng, 4))))[..., None] * (other - detail)
        lighter = max(0.0, float(tone[1] - self.tones[base][1]))
        return detail * np.exp(rng.normal(0, 0.1) - 0.3 * lighter)

    def _field(self, rng: np.random.Generator, cells: int) -> np.ndarray:
        """Smooth noise (R, R) of unit variance with about `cells` waves a side, half of it symmetric."""
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = torch.from_numpy((grid + 0.8 * grid[:, ::-1]) / 1.28)
        size = (self.size, self.size)
        return F.interpolate(grid[None, None], size, mode="bicubic", align_corners=False)[0, 0].numpy()

    def _shift(self, detail: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Move features smoothly (placement of brows, lips, lines); the hidden parts stay."""
        reach = self.options.shift * self.pin
        step = np.stack((self._field(rng, 7) * 0.7 * reach, self._field(rng, 7) * reach), -1)
        places = (self.grid + torch.from_numpy(step)).float()
        planes = torch.from_numpy(np.ascontiguousarray(detail.transpose(2, 0, 1), np.float32))
        moved = F.grid_sample(planes[None], places[None], padding_mode="border", align_corners=False)
        return moved[0].permute(1, 2, 0).numpy()

    def _features(self, detail: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brows, lips, cheeks, beard shadow, freckles, scalp."""
        o, soft = self.options, self.soft
        detail = detail + (soft["brow"] * (np.exp(rng.normal(-0.1, o.brow)) - 1))[..., None] * np.minimum(detail, 0)
        lips = rng.normal(0, o.lips) * BLOOD + rng.normal(0, o.lips) * MELANIN
        flush = abs(rng.normal(0, 0.08)) * BLOOD
        lids = rng.normal(0, 0.08) * MELANIN
        density = (soft["lips"][..., None] * lips + soft["flush"][..., None] * flush + soft["eyes"][..., None] * lids)
        if rng.random() < o.stubble:
            density += self._hair(soft["beard"], rng, 0.4)
        if rng.random() < o.scalp:
            density += self._hair(soft["scalp"], rng, 0.5)
        if rng.random() < o.freckles:
            density += self._marks(rng)[..., None] * MELANIN
        return detail - density.astype(np.float32)

    def _hair(self, where: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
        """Short hair as optical density (R, R, 3): grain over a soft shade."""
        amount = rng.uniform(0.1, most)
        noise = ndimage.gaussian_filter(rng.standard_normal(where.shape), 0.7)
        grain = np.clip(1 + 0.3 * noise / noise.std(), 0, 3)
        patches = np.clip(1 + 0.3 * self._field(rng, 9), 0, 2)
        return ((where * patches * grain * amount)[..., None] * np.array([1.1, 1.0, 0.85])).astype(np.float32)

    def _marks(self, rng: np.random.Generator) -> np.ndarray:
        """Freckles over nose and cheeks, or a few moles, as optical density (R, R)."""
        out = np.zeros((self.size, self.size), np.float32)
        if rng.random() < 0.7:
            count, spread, depth = int(rng.integers(80, 600)), 0.9, rng.uniform(0.08, 0.4)
            where = self.regions["cheek"] + self.regions["nose"] + 0.25 * self.regions["face"]
        else:
            count, spread, depth = int(rng.integers(1, 8)), 1.5, 1.0
            where = self.regions["face"] + 0.5 * self.regions["neck"]
        chance = np.cumsum(where.ravel() / where.sum())
        np.add.at(out.ravel(), np.searchsorted(chance, rng.random(count)).clip(0, out.size - 1),
                  rng.uniform(0.3, 1, count).astype(np.float32))
        impulse = np.zeros((9, 9), np.float32)
        impulse[4, 4] = 1
        sigma = spread * self.size / 512
        return ndimage.gaussian_filter(out, sigma) * (depth / ndimage.gaussian_filter(impulse, sigma).max())


def balance(greens: np.ndarray, portrait: np.ndarray, share: float) -> np.ndarray:
    """Chances (N,), summing to 1: `share` for all portraits, the rest for the others; rare skin tones count more.

    greens (N,): log-linear green of each skin; weights go with the inverse root of how many are alike.
    """
    alike = np.exp(-0.5 * ((greens[:, None] - greens[None]) / 0.2) ** 2)
    weight = np.zeros(len(greens))
    for group, part in ((portrait, share), (~portrait, 1 - share)):
        rare = 1 / np.sqrt(alike[np.ix_(group, group)].sum(1)) if group.any() else np.zeros(0)
        weight[group] = part * rare / max(rare.sum(), 1e-9)
    return weight / weight.sum()


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns in which a mask (R, R) is not zero."""
    rows, columns = (np.append(np.flatnonzero(mask.max(axis) > 1e-3), 0) for axis in (1, 0))
    return slice(int(rows[0]), int(rows.max()) + 1), slice(int(columns[0]), int(columns.max()) + 1)


def _without_highlights(detail: np.ndarray, most: float = 0.25) -> np.ndarray:
    """Compress what is lighter than the skin, a photograph's gloss, to at most `most` in log albedo (R, R, 3)."""
    light = np.maximum(detail @ LUMA, 1e-4)[..., None]
    return detail * np.where(detail @ LUMA > 0, np.tanh(light[..., 0] / most) * most / light[..., 0], 1)[..., None]


def _soft_regions(regions: dict[str, np.ndarray], parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blurred masks (R, R) of what is coloured on its own."""
    size = len(regions["face"])
    lips = ndimage.gaussian_filter(np.clip(1.4 * regions["lips"] - 0.35, 0, 1), size / 170)
    return {
        "brow": ndimage.gaussian_filter(regions["brow"], size / 100), "lips": lips,
        "flush": ndimage.gaussian_filter(regions["cheek"] + 0.7 * regions["nose"], size / 60),
        "eyes": ndimage.gaussian_filter(regions["eyes"], size / 80),
        "beard": parts["mouth_and_jaw"] * (1 - lips) * (1 - parts["nose"]),
        "scalp": ndimage.gaussian_filter(regions["scalp"], size / 40),
    }


def _part_masks(regions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Soft, disjoint-enough masks (R, R) of the parts that are exchanged between people."""
    size = len(regions["face"])

    def soft(mask: np.ndarray, radius: float) -> np.ndarray:
        wide = ndimage.maximum_filter(mask, int(radius * size) | 1)
        return ndimage.gaussian_filter(wide, radius * size / 2).clip(0, 1).astype(np.float32)

    lower = np.clip(regions["jaw"] + regions["chin"] + 0.8 * regions["lips"], 0, 1)
    masks = {name: soft(regions[name], 0.02) for name in ("brow", "eyes", "nose", "lips", "forehead", "cheek", "chin")}
    masks["jaw"] = soft(regions["jaw"], 0.03)
    masks["ears"] = soft(regions["ear_left"] + regions["ear_right"], 0.02)
    masks["mouth_and_jaw"] = soft(lower, 0.04)
    return {name: masks[name] for name in PARTS}
