# SPDX-License-Identifier: GPL-3.0-or-later
"""The final skin maps: the generator's, with the person's own detail where photos show it and grain where not."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from backend.assemble import Assembled
from backend.fit.person import Person
from backend.fit.views import is_grey
from backend.refine.glasses import LOOKED_AT, facing, glasses, hidden_by
from backend.refine.grain import grain, octaves, resized
from backend.refine.hair import HAIR_FACING, HAIR_RIM, hair_layer, seen_hair, skin_colour
from backend.refine.matte import hair_matte, scalp_reach
from backend.refine.pyramid import Bands, filled, join, split, up
from backend.refine.skin import FEATURES, luma, residual, skin_trust
from backend.refine.surface import normal_map, roughness_map
from backend.refine.volume import hair_shell
from backend.render.color import linear_to_srgb, srgb_to_linear
from backend.render.shell import Shell
from backend.texture.unwrap import FACING, RIM, Unwrapped, unwrap, uv_raster

WORK_SIZE = 512
"""Side of the maps that the photos are analysed in, texels; doubled for photos that show more."""
PIXELS_PER_TEXEL = 0.75
"""A photo that has more pixels per texel than this is analysed in larger maps."""
OCTAVES = 6
"""Octaves taken from the photos at WORK_SIZE; the coarser ones (longer than a quarter of the map) hold light and shadow
and stay the generator's."""
LIGHT_GAIN = (1.0, 1.0, 1.0, 0.9, 0.6, 0.25)
TINT_GAIN = (1.0, 1.0, 1.0, 0.8, 0.5, 0.0)
"""How much of each octave of WORK_SIZE, from fine to coarse, is taken from the photos: of lightness, and of colour,
where light of two colours shows first."""
LIMIT, FEATURE_LIMIT, FINE_LIMIT, TINT_LIMIT = 0.22, 0.8, 1.0, 0.2
"""Largest change, in logarithms: of the lightness of skin, of brows, lips, lash lines and beards, of anything by the
FINE_OCTAVES (moles, hairs); of colour."""
FINE_OCTAVES = 3
FOLD = (0.04, 0.25)
"""Compression of the skin by the expression from which folds are damped, and at which they are gone by FOLD_SHARE."""
FOLD_SHARE = 0.8
FULL_TRUST = 0.7
"""Trust, averaged over a texel of a coarse octave, from which the octave is taken as a whole."""
SHARPEST_OCTAVES, SHARPNESS = 3, 4.0
"""Several photos: in the finest octaves the best one counts by this power of its trust, else by its trust."""
RESOLVED = (2.0, 5.0)
"""Photo pixels per wavelength below which nothing of it is seen, and from which all is."""
RELIEF_OCTAVES, RELIEF_OF_DETAIL = 2, 0.1
"""The photo's finest octaves that become relief, and the millimetres of depth for a line darker by one logarithm."""

UNEVEN = (2.0, 4.0)
"""Longest side of a texel, in the face's, from which what a map holds fades, and is gone: it is drawn out to
streaks."""


@torch.no_grad()
def refine(scene: Assembled, photos: list[np.ndarray], size: int, seed: int, with_hair: bool = True,
           with_glasses: bool = True) -> Assembled:
    """The scene with its final albedo, normal and roughness maps, `size` texels a side, with its hair and glasses.

    photos: one (H, W, 3) uint8 per view of the scene. Deterministic for a seed.
    """
    person = scene.person
    regions = region_maps(person, WORK_SIZE)
    mattes = [hair_matte(scene, i, photo) for i, photo in enumerate(photos)]
    hair = [seen_hair(_unwrap(scene, i, photo, WORK_SIZE, HAIR_FACING, HAIR_RIM), mattes[i], regions, is_grey(photo))
            for i, photo in enumerate(photos)]
    worn, wearing = glasses(scene, photos)
    found = [_detail_of_photo(scene, i, photo, size, hair[i].over, worn if wearing[i] else None)
             for i, photo in enumerate(photos)]
    bands = _merge([both for both, _ in found])
    work = bands.bands[0].shape[-1]
    seen = resized(bands.weights[0], work)
    change = _limited(bands, work, regions)
    density = torch.cat([resized(d * (d.shape[-1] / size), work) for _, d in found]).amax(0, keepdim=True)
    mm = texel_mm(person, size)
    missing = [1 - resized(seen, WORK_SIZE) * _smoothstep(resized(density, WORK_SIZE) * 3 * 2**k, *RESOLVED)
               for k in range(len(octaves(size, mm)))]
    colour, relief = grain(size, mm, regions, missing, seed)
    generated = _evened(srgb_to_linear(resized(scene.generated, size)), regions)
    albedo = generated * (up(change, size) + colour).exp()
    relief = relief + RELIEF_OF_DETAIL * up(luma(_weighted(bands, work, slice(RELIEF_OCTAVES))), size)
    large = {name: up(mask, size) for name, mask in regions.items()}
    layer = hair_layer(hair, regions) if with_hair else None
    shell = hair_shell(scene, mattes, photos, skin_colour(hair, regions)) if layer is not None else None
    return replace(scene, texture=_eight_bits(linear_to_srgb(albedo)), normal=_eight_bits(normal_map(relief, mm)),
                   roughness=_eight_bits(roughness_map(large, relief)), hair=layer, hair_shell=shell,
                   glasses=worn if with_glasses else None, wearing=wearing)


def region_maps(person: Person, size: int) -> dict[str, Tensor]:
    """Region masks as maps (1, 1, R, R); also `covered` by the chart, `even`, where the chart's texels are hardly
    longer than the face's, `beard`: chin, jaw, around the lips, and `reach`, metres from the scalp's edge."""
    head = person.head
    rast, tri = uv_raster(person.raster, head, size)
    masks = torch.stack([*head.regions.values(), scalp_reach(head)], -1)[None].to(head.verts0)
    values = person.raster.interpolate(head.subdivide(masks), rast, tri)[0]
    maps = {name: values[..., i][None, None].clamp(0, 1) for i, name in enumerate(head.regions)}
    maps["reach"] = values[..., -1][None, None]
    longest = _stretches(head.subdivide(head.verts0[None])[0], tri.long(), head.uv1)[1]
    longest = 1000 * torch.nn.functional.pad(longest, (1, 0))[rast[0, ..., 3].long()][None, None]
    even = 1 - _smoothstep(longest / texel_mm(person, 1), *UNEVEN)
    maps["even"] = _box(even, size // 64 * 2 + 1)  # the triangles' borders do not show
    around = _box((maps["lips"] > 0.1).float(), size // 12 * 2 + 1)
    maps["beard"] = torch.maximum(torch.maximum(maps["chin"], maps["jaw"]), (4 * around).clamp(0, 1))
    maps["covered"] = (rast[..., 3] > 0).float()[None]
    return maps


def _evened(albedo: Tensor, regions: dict[str, Tensor]) -> Tensor:
    """Linear albedo (1, 3, R, R) whose neck and back of the head, drawn out by the chart, have the colour of the skin
    next to them instead of streaks."""
    even, work = regions["even"], regions["even"].shape[-1]
    smooth = sum(regions[name] for name in ("neck", "scalp", "face", "forehead")).clamp(0, 1)
    skin = (2 * even - 1).clamp_min(0) * smooth
    near = filled(skin * resized(albedo, work), skin)
    uneven = (2 - 2 * even).clamp_max(1) * (regions["neck"] + regions["scalp"]).clamp(0, 1)
    return torch.lerp(albedo, up(near, albedo.shape[-1]), up(uneven, albedo.shape[-1]))


def texel_mm(person: Person, size: int) -> float:
    """Side of a texel on the face of the mean head, millimetres (the median over its triangles)."""
    head = person.head
    face = head.subdivide(head.regions["face"][None, :, None].to(head.verts0))[0, :, 0]
    tri = head.tri1[(head.tri1_part == 0) & (face[head.tri1.long()] > 0.5).all(1)].long()
    corners, chart = head.subdivide(head.verts0[None])[0][tri], head.uv1[tri]
    a, b = (corners[:, 1:] - corners[:, :1]).unbind(1)
    u, v = (chart[:, 1:] - chart[:, :1]).unbind(1)
    surface = torch.linalg.cross(a, b).norm(dim=-1)
    area = (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).abs()
    return 1000 * math.sqrt(float((surface / area.clamp_min(1e-12)).median())) / size


def _detail_of_photo(scene: Assembled, view: int, photo: np.ndarray, size: int, over: Tensor,
                     worn: Shell | None) -> tuple[Bands, Tensor]:
    """Bands of one photo against the generator's map, completed by symmetry, and its density (1, 1, R, R).

    over: (1, 1, S, S) where hair or a collar lies over the skin; worn: the glasses, where it shows them.
    """
    side = WORK_SIZE
    unwrapped = _unwrap(scene, view, photo, side)
    while side < size and float(unwrapped.density[unwrapped.weight > 0.5].median()) > PIXELS_PER_TEXEL:
        side *= 2
        unwrapped = _unwrap(scene, view, photo, side)
    regions = region_maps(scene.person, side)
    difference = residual(unwrapped, srgb_to_linear(resized(scene.generated, side)))
    count = OCTAVES + int(math.log2(side // WORK_SIZE))
    frames = None if worn is None else hidden_by(worn, scene, view, unwrapped.pixel)
    possible = frames is None and facing(scene, view) < LOOKED_AT
    trust = skin_trust(unwrapped, difference, regions, frames, possible) * (1 - resized(over, side))
    if is_grey(photo):
        difference = luma(difference).expand(-1, 3, -1, -1)
    gain = 1 - FOLD_SHARE * _folds(scene, view, side)
    own, mirrored = split(difference, trust, count), split(difference.flip(-1), trust.flip(-1), count)
    bands, weights = [], []
    for k in range(count):
        w, m = own.weights[k], mirrored.weights[k]
        m = m * (1 - w)
        both = (w * own.bands[k] + m * mirrored.bands[k]) / (w + m).clamp_min(1e-6)
        light = luma(both)
        octave = max(k - (count - OCTAVES), 0)
        damped = LIGHT_GAIN[octave] * torch.where(light < 0, light * resized(gain, light.shape[-1]), light)
        bands.append(damped + TINT_GAIN[octave] * (both - light))
        weights.append(w + m)
    return Bands(bands, weights, own.rest), unwrapped.density.permute(2, 0, 1)[None]


def _unwrap(scene: Assembled, view: int, photo: np.ndarray, side: int, facing: tuple[float, float] = FACING,
            rim: float = RIM) -> Unwrapped:
    person = scene.person
    return unwrap(person.raster, person.head, scene.verts1[view:view + 1], scene.cameras[view], scene.lights[view],
                  photo, side, facing, rim)


def _folds(scene: Assembled, view: int, side: int) -> Tensor:
    """(1, 1, R, R) in [0, 1]: where the expression presses the skin together, so that the photo shows folds."""
    head, raster = scene.person.head, scene.person.raster
    rast, tri = uv_raster(raster, head, side)
    ratio = _stretches(scene.verts1[view], tri.long(), head.uv1)[0] / _stretches(
        scene.neutral1, tri.long(), head.uv1)[0].clamp_min(1e-9)
    chosen = torch.nn.functional.pad(_smoothstep(1 - ratio, *FOLD), (1, 0))[rast[0, ..., 3].long()][None, None]
    width = side // 64 * 2 + 1
    return _box(torch.nn.functional.max_pool2d(chosen, width, 1, width // 2), width)


def _stretches(verts: Tensor, tri: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) smaller and larger singular value of each triangle's map from the chart to the surface (V, 3)."""
    chart = (uv[tri][:, 1:] - uv[tri][:, :1]).transpose(1, 2)
    edges = (verts[tri][:, 1:] - verts[tri][:, :1]).transpose(1, 2)
    determinant = chart[:, 0, 0] * chart[:, 1, 1] - chart[:, 0, 1] * chart[:, 1, 0]
    safe = torch.where(determinant.abs() < 1e-12, torch.full_like(determinant, 1e-12), determinant)
    adjugate = torch.stack([chart[:, 1, 1], -chart[:, 0, 1], -chart[:, 1, 0], chart[:, 0, 0]], -1).view(-1, 2, 2)
    jacobian = edges @ (adjugate / safe[:, None, None])
    metric = jacobian.transpose(1, 2) @ jacobian
    trace, det = metric[:, 0, 0] + metric[:, 1, 1], torch.linalg.det(metric)
    root = (trace**2 - 4 * det).clamp_min(0).sqrt()
    return (0.5 * (trace - root)).clamp_min(0).sqrt(), (0.5 * (trace + root)).sqrt()


def _merge(photos: list[Bands]) -> Bands:
    """Bands of several photos, weighted by trust, in the size of the largest."""
    if len(photos) == 1:
        return photos[0]
    count = max(len(p.bands) for p in photos)
    bands, weights = [], []
    for k in range(count):
        # A smaller map lacks the finest octaves: its level k - missing is the largest one's level k.
        level = [(p.bands[k - count + len(p.bands)], p.weights[k - count + len(p.weights)]) for p in photos
                 if k - count + len(p.bands) >= 0]
        power = SHARPNESS if k < count - OCTAVES + SHARPEST_OCTAVES else 1.0
        shares = torch.stack([w**power for _, w in level])
        bands.append((shares * torch.stack([b for b, _ in level])).sum(0) / shares.sum(0).clamp_min(1e-6))
        weights.append(torch.stack([w for _, w in level]).amax(0))
    return Bands(bands, weights, photos[0].rest)


def _weighted(bands: Bands, size: int, chosen: slice) -> Tensor:
    """Octaves `chosen`, each by its own weight: a soft seam in each (Burt and Adelson 1983). (1, 3, R, R), R = size."""
    full = [1.0] * FINE_OCTAVES + [FULL_TRUST] * len(bands.bands)
    weighted = [b * (w / f).clamp(max=1) for b, w, f in zip(bands.bands, bands.weights, full, strict=False)][chosen]
    return join(weighted, size)


def _limited(bands: Bands, size: int, regions: dict[str, Tensor]) -> Tensor:
    """Change (1, 3, R, R) of the logarithm of albedo, softly kept within what skin, brows and lips can have."""
    finest = len(bands.bands) - OCTAVES + FINE_OCTAVES
    fine, coarse = _weighted(bands, size, slice(finest)), _weighted(bands, size, slice(finest, None))
    feature = resized(torch.cat([regions[name] for name in FEATURES]).amax(0, keepdim=True), size)
    limit = LIMIT + (FEATURE_LIMIT - LIMIT) * feature
    light = limit * torch.tanh(luma(coarse) / limit) + FINE_LIMIT * torch.tanh(luma(fine) / FINE_LIMIT)
    tint = fine + coarse - luma(fine + coarse)
    return light + TINT_LIMIT * torch.tanh(tint / TINT_LIMIT)


def _box(values: Tensor, width: int) -> Tensor:
    """Mean of (1, 1, R, R) over squares of an odd width."""
    rows = torch.nn.functional.avg_pool2d(values, (1, width), 1, (0, width // 2))
    return torch.nn.functional.avg_pool2d(rows, (width, 1), 1, (width // 2, 0))


def _smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _eight_bits(values: Tensor) -> Tensor:
    """Quantised like the file, so that whoever reads the file renders the same picture."""
    return (values.clamp(0, 1) * 255).round() / 255
