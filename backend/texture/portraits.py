# SPDX-License-Identifier: GPL-3.0-or-later
"""Albedo maps of portrait photographs: aligned by landmarks, unwrapped, freed of light, masked and completed.

No gradient descent: on the geometry of the landmark alignment, the light (grey spherical harmonics) and the texture
(the generator's latent) follow from each other in closed form, each a ridge regression on the unwrapped photo. What
exposure and white balance hide, the absolute colour of the skin, is set by rule, see `skin_tone`.
"""
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from backend.errors import GanfitError
from backend.fit.align import align, initial_parameters
from backend.fit.parameters import camera_of
from backend.fit.person import Person
from backend.fit.views import prepare_view
from backend.networks.detector import FaceDetector
from backend.networks.facemesh import FaceMesh
from backend.photo import load_photo
from backend.render.camera import rotation_matrix
from backend.render.color import linear_to_srgb
from backend.render.lights import COSINE_LOBE, Lights, sh_basis
from backend.render.render import vertex_normals
from backend.texture.data import LUMA, SourceMap, decode, encode, hair_mask, skin_colour
from backend.texture.unwrap import Unwrapped, unwrap, uv_raster
from backend.texture.uvmap import area_down, push_pull

SIZE = 256
"""Texels a side: the photos show about half as many pixels across the same face."""
ALIGN_STEPS = 8
ROUNDS = 4
"""How often light and texture are solved for in turn."""
FLOOR = 0.004
"""Linear albedo below which the logarithm is cut."""
MAX_YAW = 32.0
"""Degrees; a face turned further shows too little of its far side."""
MAX_RESIDUAL = 0.085
"""Mean absolute difference (sRGB) between the photo and what model and light explain of it."""
MIN_SEEN = 0.45
"""Smallest share of the face that must be seen as skin."""
MAX_GLASSES = 3.2
"""Largest `glasses_score` that is taken for bare eyes."""
LIGHT_SKIN = -1.15
"""Log-linear green of the skin of most sitters, light skin of a middle age: about sRGB 0.60."""
TONE_GAIN = 1.1
"""Photographers expose dark skin longer: differences in log albedo are this much larger than in the photos."""
TINT_KEPT = 0.35
"""Share of a photo's deviation from the common line of skin colours that is kept; the rest is white balance."""


@dataclass(frozen=True)
class Rejected(Exception):
    """Why a photo gives no map: `no_face`, `grey`, `turned`, `glasses`, `hidden`, `residual`."""

    rule: str


class Workshop:
    """What stays the same for every portrait: head, texels, region masks, the mean of better sources."""

    def __init__(self, person: Person, sources: Sequence[SourceMap], detector: FaceDetector | None = None,
                 mesh: FaceMesh | None = None) -> None:
        self.person, self.detector, self.mesh = person, detector, mesh
        head = person.head
        self.landmarks = person.landmark_model()
        rast, tri = uv_raster(person.raster, head, SIZE)
        self.rast, self.tri = rast, tri
        self.covered = (rast[0, ..., 3] > 0).numpy()
        masks = torch.stack([head.regions[n] for n in head.regions], -1)[None]
        values = person.raster.interpolate(head.subdivide(masks.float()), rast, tri)[0].numpy()
        self.regions = dict(zip(head.regions, np.moveaxis(values, -1, 0), strict=True))
        self.hidden = ndimage.binary_dilation(self.regions["mouth_bag"] > 0.25, iterations=2) | (
            ndimage.binary_dilation(self.regions["socket"] > 0.25, iterations=2))
        details, tones = zip(*(log_detail(s.albedo, self.regions) for s in sources), strict=True)
        self.details, self.tones = np.stack(details), np.stack(tones)
        self.locus = [np.polyfit(self.tones[:, 1], self.tones[:, c], 1) for c in range(3)]

    def usual(self, tone: np.ndarray) -> np.ndarray:
        """Mean deviation (R, R, 3) from the skin colour among sources of a similar `tone` (3,), symmetric."""
        near = np.exp(-0.5 * ((self.tones[:, 1] - tone[1]) / 0.6) ** 2) + 0.02
        mean = np.tensordot(near / near.sum(), self.details, 1)
        return 0.5 * (mean + mean[:, ::-1])


def log_detail(albedo: np.ndarray, regions: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """sRGB albedo (R, R, 3) as deviation (R, R, 3) from its skin colour (3,), both in log-linear RGB."""
    linear = decode(albedo)
    tone = np.log(np.maximum(skin_colour(linear, regions), FLOOR))
    return np.log(np.maximum(linear, FLOOR)) - tone, tone


def skin_tone(photo_tone: np.ndarray, usual_photo_tone: np.ndarray, light_skin: float,
              locus: Sequence[np.ndarray]) -> np.ndarray:
    """Log-linear skin albedo (3,) that a portrait's skin colour stands for.

    photo_tone (3,): log-linear skin colour in the photo; usual_photo_tone (3,): its median over all portraits, taken to
    be skin of log-linear green `light_skin`. Brightness differences are widened by TONE_GAIN, the tint is drawn to
    `locus`, the line per channel on which skin colours lie.
    """
    step = photo_tone - usual_photo_tone
    green = light_skin + TONE_GAIN * step[1]
    typical = np.array([np.polyval(line, green) for line in locus])
    tint = step - step[1]
    expected = typical - np.array([np.polyval(line, light_skin) for line in locus])
    return typical + TINT_KEPT * (tint - (expected - expected[1]))


@dataclass(frozen=True)
class Portrait:
    """One portrait in the UV layout with its light divided out; maps (R, R, ...) in log-linear RGB."""

    detail: np.ndarray
    """(R, R, 3) deviation from the skin colour."""
    model: np.ndarray
    """(R, R, 3) deviation from the skin colour in the generator's reconstruction."""
    weight: np.ndarray
    """(R, R) in [0, 1]: how well the texel is seen, be it skin or hair."""
    tone: np.ndarray
    """(3,) skin colour as the generator would have it."""
    photo_tone: np.ndarray
    """(3,) skin colour of the photo, even light divided out."""
    report: dict[str, float]
    """`yaw` in degrees, `residual`: mean difference (sRGB) to what model and light explain."""

    def save(self, path: Path) -> None:
        """Write in one move."""
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.savez(file, detail=self.detail.astype(np.float16), model=self.model.astype(np.float16),
                     weight=(self.weight * 255).astype(np.uint8), tone=self.tone, photo_tone=self.photo_tone,
                     report=np.array(json.dumps(self.report)))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Portrait:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(data["detail"].astype(np.float32), data["model"].astype(np.float32),
                       data["weight"].astype(np.float32) / 255, data["tone"], data["photo_tone"],
                       json.loads(str(data["report"])))


def read_portrait(shop: Workshop, path: Path) -> Portrait:
    """Align and unwrap one portrait and divide its light out. Raises Rejected."""
    person = shop.person
    try:
        view, _ = prepare_view(load_photo(path), shop.detector, shop.mesh, None)
    except GanfitError as error:
        raise Rejected("no_face") from error
    if view.grey:
        raise Rejected("grey")
    start = initial_parameters(shop.landmarks, view.points(), view.frame, person.generator.spec.latent,
                               person.default_palette())
    params = align([shop.landmarks], start, [view.points()], [view.frame], ALIGN_STEPS)
    facing = rotation_matrix(params.rotation)[0, 2]
    yaw = math.degrees(math.atan2(float(facing[0]), float(facing[2])))
    if abs(yaw) > MAX_YAW:
        raise Rejected("turned")
    _, verts1 = person.geometry(params)
    laid = unwrap(person.raster, person.head, verts1, camera_of(params, [view.frame], 0), Lights.default(1),
                  np.asarray(view.photo.image), SIZE)
    return relight(shop, laid, verts1, yaw)


def finish(shop: Workshop, portrait: Portrait, name: str, usual_photo_tone: np.ndarray) -> SourceMap:
    """Mask and complete a portrait and set its skin colour. Raises Rejected when it breaks a rule."""
    if portrait.report["residual"] > MAX_RESIDUAL:
        raise Rejected("residual")
    if glasses_score(portrait.detail @ LUMA, shop.regions) > MAX_GLASSES:
        raise Rejected("glasses")
    seen = skin_seen(shop, portrait)
    if seen[shop.regions["face"] > 0.5].mean() < MIN_SEEN:
        raise Rejected("hidden")
    tone = skin_tone(portrait.photo_tone, usual_photo_tone, LIGHT_SKIN, shop.locus)
    detail = complete(shop, portrait.detail, seen, tone)
    albedo = encode(np.exp(np.minimum(detail + tone, 0)))
    return SourceMap(name, "portrait", albedo.astype(np.float32), seen.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------- light
@torch.no_grad()
def relight(shop: Workshop, laid: Unwrapped, verts1: Tensor, yaw: float) -> Portrait:
    """Solve light and latent in turn on an unwrapped photo, then divide the light out."""
    person = shop.person
    head, generator = person.head, person.generator
    surface = torch.cat([vertex_normals(person.raster, verts1, head.tri1), head.ao1[None, :, None]], -1)
    normal, ao = person.raster.interpolate(surface, shop.rast, shop.tri)[0].split((3, 1), -1)
    basis = sh_basis(F.normalize(normal, dim=-1)) * torch.tensor(COSINE_LOBE) * ao / math.pi
    linear = torch.from_numpy(decode(laid.photo.numpy()))
    luma = torch.from_numpy(LUMA)
    trust = laid.weight[..., 0] * torch.from_numpy(~shop.hidden) * torch.from_numpy(
        np.clip(0.02 + shop.regions["face"] + 0.6 * shop.regions["forehead"], 0, 1))
    robust = torch.ones_like(trust)
    latent = generator.latent_mean[None]
    for _ in range(ROUNDS):
        albedo = F.interpolate(generator(latent, 64), (SIZE, SIZE), mode="bilinear")[0].permute(1, 2, 0)
        albedo_linear = torch.from_numpy(decode(albedo.numpy()))
        weight = trust * robust
        shade = grey_shading(linear @ luma, albedo_linear @ luma, basis, weight)
        even = linear / shade[..., None]
        gain = torch.stack([weighted_median(even[..., c] / albedo_linear[..., c], weight) for c in range(3)])
        picture = linear_to_srgb(albedo_linear * gain * shade[..., None])
        step = (picture - laid.photo).abs().mean(-1)
        smooth = torch.from_numpy(blur(step.numpy(), trust.numpy(), SIZE / 100))
        robust = 1 / (1 + (smooth / 0.12) ** 2) ** 2
        target = linear_to_srgb((even / gain).clamp(FLOOR, 0.98)).permute(2, 0, 1)[None]
        latent = generator.solve_latent(target, (trust * robust)[None, None], noise=0.15)
    model, _ = log_detail(albedo.clamp(0, 1).numpy(), shop.regions)
    even = even.numpy()
    known = (weight > 0.2).numpy() & ((shop.regions["cheek"] > 0.3) | (shop.regions["nose"] > 0.5))
    photo_tone = np.log(np.maximum(np.median(even[known], 0), FLOOR)) if known.sum() > 50 else np.full(3, np.nan)
    if not np.isfinite(photo_tone).all():
        raise Rejected("hidden")
    detail = np.log(np.maximum(even, FLOOR)) - photo_tone
    residual = float((step * trust).sum() / trust.sum())
    report = {"yaw": round(yaw, 2), "residual": round(residual, 4)}
    return Portrait(detail, model, laid.weight[..., 0].numpy(), photo_tone - np.log(gain.numpy()), photo_tone, report)


def grey_shading(photo: Tensor, albedo: Tensor, basis: Tensor, weight: Tensor) -> Tensor:
    """Shading (R, R), mean 1 where `weight` is, of grey light whose harmonics `basis` (R, R, 9) explain the photo.

    photo, albedo, weight: (R, R) linear luma. Ridge regression towards an even light.
    """
    chosen = weight > 1e-3
    w = weight[chosen]
    scale = (w * photo[chosen]).sum() / (w * albedo[chosen]).sum()
    rows = basis[chosen] * (albedo[chosen] * scale)[:, None]
    white = torch.zeros(9)
    white[0] = 0.9 * math.sqrt(4 * math.pi)
    ridge = torch.diag(torch.tensor([0.02] + [0.02] * 8)) * float((w * (albedo[chosen] * scale) ** 2).sum())
    light = torch.linalg.solve((rows * w[:, None]).T @ rows + ridge, rows.T @ (w * photo[chosen]) + ridge @ white)
    shade = (basis @ light).clamp_min(0.02)
    mean = float((shade[chosen] * w).sum() / w.sum())
    return (shade / mean).clamp(0.3, 3)


def weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    """Median of the values with a weight over half of the largest."""
    return values[weight > 0.5 * weight.max()].median()


def blur(image: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of (R, R) or (R, R, C) over texels with `weight` (R, R)."""
    share = ndimage.gaussian_filter(weight, sigma) + 1e-4
    if image.ndim == 3:
        return np.stack([ndimage.gaussian_filter(image[..., c] * weight, sigma) / share
                         for c in range(image.shape[-1])], -1)
    return ndimage.gaussian_filter(image * weight, sigma) / share


# -------------------------------------------------------------------------------------------- what is skin, what is not
def skin_seen(shop: Workshop, portrait: Portrait) -> np.ndarray:
    """Where (R, R) in [0, 1] the photo shows skin, brows, lips or beard without gloss."""
    regions, detail = shop.regions, portrait.detail
    weight = portrait.weight * ~shop.hidden
    luma = detail @ LUMA
    step = blur(luma - portrait.model @ LUMA, weight + 1e-3, 2.0)
    hair = hair_mask(encode(np.exp(np.minimum(detail + portrait.tone, 0))), regions)
    outer = regions["forehead"] + regions["scalp"] + regions["neck"] + regions["ear_left"] + regions["ear_right"] > 0.3
    outer = ndimage.binary_dilation(outer, iterations=SIZE // 16) & ~(regions["brow"] > 0.3) & ~(regions["jaw"] > 0.5)
    odd = outer & ((step > 0.28) | (step < -0.4))
    tint = blur(detail - luma[..., None], weight + 1e-3, 1.5)
    odd |= outer & (np.abs(tint).max(-1) > 0.45)
    odd |= (step > 0.4) & ~(regions["lips"] > 0.2)
    odd = ndimage.binary_dilation(odd | hair, iterations=2)
    redness = detail[..., 0] - detail[..., 1]
    mouth = ndimage.binary_dilation(regions["lips"] > 0.3, iterations=1)
    odd |= ndimage.binary_dilation(mouth & ((redness < 0) & (luma > -0.05) | (luma < -1.2)), iterations=1)
    return weight * ~odd * ~(regions["scalp"] > 0.3)


def glasses_score(luma: np.ndarray, regions: dict[str, np.ndarray]) -> float:
    """How much (R, R) log luma looks like spectacles: a bar across the nose's root, rings below the eyes, temples.

    Each is the largest step of a mean profile against its smooth self, minus the median and over the spread among
    portraits; above 4 nearly everybody wears glasses, below 3 nearly nobody (669 portraits, looked at).
    """
    def bar(rows: slice, columns: slice) -> float:
        return _wobble(luma[rows, columns].mean(1), 4)

    distance = ndimage.distance_transform_edt(~(regions["socket"] > 0.4)) * 256 / SIZE
    below = np.arange(SIZE)[:, None] > 0.39 * SIZE
    rings = []
    for low, high in ((0.297, 0.453), (0.547, 0.703)):
        columns = np.arange(SIZE)[None] / SIZE
        side = below & (columns > low) & (columns < high)
        rings.append(_wobble(np.array([luma[side & (distance >= k) & (distance < k + 1.5)].mean()
                                       for k in range(2, 26)]), 3))
    def part(low: float, high: float) -> slice:
        return slice(round(low * SIZE), round(high * SIZE))
    rows = part(0.328, 0.453)
    bridge = bar(part(0.328, 0.55), part(0.477, 0.523))
    temples = [bar(rows, part(0.18, 0.258)), bar(rows, part(0.742, 0.82))]
    return float((bridge - 0.059) / 0.075 + (np.mean(rings) - 0.296) / 0.047 + 0.5 * (np.mean(temples) - 0.108) / 0.088)


def _wobble(profile: np.ndarray, sigma: float) -> float:
    """Largest step of a profile against its Gaussian mean, ends left out."""
    return float(np.abs(profile - ndimage.gaussian_filter1d(profile, sigma, mode="nearest"))[3:-3].max())


# -------------------------------------------------------------------------------------------------------------- filling
def complete(shop: Workshop, detail: np.ndarray, seen: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Deviation (R, R, 3) without leftover shading, unseen places from the other side and from the usual face."""
    usual = shop.usual(tone)
    usual = usual * (1 - 0.4 * np.clip(shop.regions["lips"], 0, 1))[..., None]  # the better sources wear lipstick
    step = detail - usual
    weight = ndimage.gaussian_filter(ndimage.binary_erosion(seen > 0.3, iterations=2).astype(np.float32), 1.5)
    weight = np.minimum(weight, seen)
    wide = blur(step, weight, SIZE / 14)
    both = 0.5 * (wide + wide[:, ::-1])
    step = step - 0.9 * (wide - both) - 0.5 * both
    other = weight[:, ::-1] * (1 - weight)
    known = weight + other
    mixed = (step * weight[..., None] + step[:, ::-1] * other[..., None]) / np.maximum(known, 1e-6)[..., None]
    far = 0.01 * (1 - known)
    filled = push_pull((mixed * (known / (known + far))[..., None]).astype(np.float32), known + far)
    return usual + filled


# --------------------------------------------------------------------------------------------------------- fine detail
def fine_bands(people: Sequence[SourceMap], regions: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What sharp sources show above half of a portrait's resolution: log-linear (R, R), cut at 4 deviations."""
    bands = []
    for person in people:
        luma = np.log(np.maximum(decode(person.albedo), FLOOR)) @ LUMA
        fine = luma - double(area_down(luma, 4)[..., None], 4)[..., 0]
        skin = fine[(regions["cheek"] > 0.3) & (person.valid > 0.5)]
        limit = 4 * skin.std()
        bands.append(fine.clip(-limit, limit).astype(np.float16))
    return bands


def with_detail(portrait: SourceMap, band: np.ndarray, features: np.ndarray) -> SourceMap:
    """A portrait at the resolution of `band` (R, R), R twice its own, with that skin's pores.

    Brows, lids and lips, `features` (R, R) in [0, 1], get their own edges sharpened instead of another person's hairs.
    """
    log = np.log(np.maximum(decode(portrait.albedo), FLOOR))
    own = log - double(area_down(log, 2))
    large = double(log + 0.8 * own * area_down(features, 2)[..., None])
    large = large + ((1 - 0.75 * features) * band.astype(np.float32))[..., None]
    valid = double(portrait.valid[..., None])[..., 0]
    return SourceMap(portrait.name, portrait.origin, encode(np.exp(np.minimum(large, 0))), valid)


def double(image: np.ndarray, factor: int = 2) -> np.ndarray:
    """(H, W, C) to (factor H, factor W, C), bilinear."""
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]
    return F.interpolate(planes, scale_factor=factor, mode="bilinear")[0].permute(1, 2, 0).numpy()


def read_portraits(shop: Workshop, photos: Sequence[Path], folder: Path, report: Callable[[str], None] = print) -> None:
    """One file per photo in `folder`, a map or the reason why there is none; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        done, failed = folder / f"{photo.stem}.npz", folder / f"{photo.stem}.rejected"
        if done.exists() or failed.exists():
            continue
        try:
            read_portrait(shop, photo).save(done)
        except Rejected as reason:
            failed.write_text(reason.rule)
        if number % 25 == 0:
            report(f"portrait {number} of {len(photos)}")
