# SPDX-License-Identifier: GPL-3.0-or-later
"""The final skin maps: the person's detail goes in, light, glasses and shadows stay out."""
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip("backend.head.model")

from known_head import known_parameters, photograph  # noqa: E402

from backend.assemble import Assembled  # noqa: E402
from backend.fit.config import PRESETS  # noqa: E402
from backend.fit.parameters import FitParameters, ViewFrame, camera_of  # noqa: E402
from backend.fit.person import Person  # noqa: E402
from backend.options import Options  # noqa: E402
from backend.pipeline import Models, choose_device  # noqa: E402
from backend.refine.grain import CHANNELS, STRENGTH, grain, octaves  # noqa: E402
from backend.refine.pyramid import join, split  # noqa: E402
from backend.refine.refine import refine, region_maps, texel_mm  # noqa: E402
from backend.refine.surface import normal_map  # noqa: E402
from backend.render.color import linear_to_srgb, srgb_to_linear  # noqa: E402

SIZE = 512
SEED = 5


@dataclasses.dataclass
class Sitter:
    """A known head, the generator's map of it, and the scene that a perfect fit would have found."""

    person: Person
    params: FitParameters
    frame: ViewFrame
    scene: Assembled

    def photo(self, texture: torch.Tensor) -> np.ndarray:
        """The head with this skin (1, 3, R, R)."""
        return photograph(self.person, self.params, self.frame, texture)

    def change(self, photo: np.ndarray, size: int = SIZE) -> torch.Tensor:
        """(R, R, 3) logarithm of the refined linear albedo over the generator's."""
        found = refine(self.scene, [photo], size, SEED)
        old = torch.nn.functional.interpolate(self.scene.generated, (size, size), mode="bilinear", align_corners=False)
        return (srgb_to_linear(found.texture) / srgb_to_linear(old)).log()[0].permute(1, 2, 0)


@pytest.fixture(scope="module")
def sitter() -> Sitter:
    """Seen nearly from the front."""
    person = Models().person(Options(), choose_device("cpu"))
    params, frame = known_parameters(person, yaw=0.15)
    with torch.no_grad():
        _, verts1 = person.geometry(params)
        generated = (person.generator(torch.zeros(1, 512), 512).clamp(0, 1) * 255).round() / 255
    neutral = person.head.cage(params.identity[None], torch.zeros(1, 52))[0]
    scene = Assembled(person, neutral, torch.zeros_like(neutral), verts1, person.head.landmarks(verts1)[0], generated,
                      generated, params.palette, [camera_of(params, [frame], 0)], [params.lights()])
    return Sitter(person, params, frame, scene)


@pytest.fixture(scope="module")
def plain(sitter: Sitter) -> torch.Tensor:
    """The change by a photo that shows the generator's own map: grain alone."""
    return sitter.change(sitter.photo(sitter.scene.generated))


def spots(places: list[tuple[int, int]], radius: float) -> torch.Tensor:
    """(512, 512) 1 in discs at (row, column) of the map."""
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    inside = [(y - r).square() + (x - c).square() < radius**2 for r, c in places]
    return torch.stack(inside).any(0).float()


def lit_differently(photo: np.ndarray, factor: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """The photo with its linear light multiplied."""
    linear = srgb_to_linear(torch.from_numpy(photo).float() / 255) * torch.as_tensor(factor, dtype=torch.float32)
    return (linear_to_srgb(linear).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def test_moles_appear_at_their_texels(sitter: Sitter, plain: torch.Tensor) -> None:
    """Three moles of 3 mm, not symmetric, come back as dark as they are, in their places and nowhere else."""
    moles = spots([(330, 160), (345, 190), (300, 345)], 4.5)
    truth = sitter.scene.generated * (1 - 0.35 * moles)
    change = (sitter.change(sitter.photo(truth)) - plain).mean(-1)
    expected = (srgb_to_linear(truth) / srgb_to_linear(sitter.scene.generated)).log()[0].mean(0)
    inside = torch.from_numpy(ndimage.binary_erosion(moles.numpy(), iterations=2))
    assert float((change / expected)[inside].mean()) == pytest.approx(1, abs=0.35)
    near = torch.from_numpy(ndimage.binary_dilation(moles.numpy(), iterations=12))
    assert float(change[~near].abs().quantile(0.99)) < 0.06
    mirrored = inside.flip(1) & ~near
    assert float(change[mirrored].abs().mean()) < 0.1 * float(change[inside].abs().mean())


def test_exposure_and_colour_cast_stay_out(sitter: Sitter, plain: torch.Tensor) -> None:
    """The same face, darker and under a warm lamp that the fit has not explained, gets the same albedo."""
    photo = lit_differently(sitter.photo(sitter.scene.generated), (0.8, 0.7, 0.55))
    assert float((sitter.change(photo) - plain).abs().quantile(0.99)) < 0.04


def test_no_edge_where_the_photo_ends(sitter: Sitter, plain: torch.Tensor) -> None:
    """Nothing changes abruptly at rims of what the photo shows, nor at the chart's outline."""
    photo = lit_differently(sitter.photo(sitter.scene.generated), (0.6, 0.6, 0.6))
    # A seam is long, while the rounding of a photo's dark pixels flips single texels: means over 5 x 5 tell them apart.
    step = ndimage.uniform_filter((sitter.change(photo) - plain).mean(-1).numpy(), 5)
    steepest = max(np.abs(np.diff(step, axis=axis)).max() for axis in (0, 1))
    assert steepest < 0.05 / 5  # as a seam of log 0.95 makes; a cut-out of the photo would step by log 0.6


def test_glasses_stay_out(sitter: Sitter, plain: torch.Tensor) -> None:
    """A black frame around both eyes, over nose and temples, is not printed on the skin."""
    photo = sitter.photo(sitter.scene.generated).copy()
    eyes = sitter.person.iris_rows() @ sitter.scene.cage
    centres = sitter.scene.cameras[0].project(eyes[None])[0].numpy()
    y, x = np.mgrid[0:photo.shape[0], 0:photo.shape[1]]
    frame = np.zeros(photo.shape[:2], bool)
    for cx, cy in centres:
        ring = np.maximum(abs(x - cx) / 78, abs(y - cy) / 58)
        frame |= (ring < 1) & (ring > 0.86)
    between = (x > centres[:, 0].min()) & (x < centres[:, 0].max()) & (abs(y - centres[:, 1].mean()) < 9)
    frame |= between & (np.abs(x - centres[:, 0].mean()) < 40)
    photo[frame] = 12
    change = (sitter.change(photo) - plain).mean(-1)
    assert float(change.min()) > -0.3
    assert float((change < -0.12).float().mean()) < 0.004


def test_a_hard_shadow_stays_out(sitter: Sitter, plain: torch.Tensor) -> None:
    """A shadow's edge across the cheek leaves neither side darker and no line."""
    photo = sitter.photo(sitter.scene.generated)
    x = np.arange(photo.shape[1])[None, :, None]
    shadow = np.where(x < 0.42 * photo.shape[1], 0.3, 1.0) * np.ones((*photo.shape[:2], 3))
    change = (sitter.change(lit_differently(photo, shadow)) - plain).mean(-1)
    assert float(change.abs().quantile(0.99)) < 0.2
    assert float(change.abs().mean()) < 0.02


def test_a_photo_without_colour_gives_none(sitter: Sitter) -> None:
    """A black-and-white photo changes lightness alone: the ratios of the channels stay, but for the grain's."""
    moles = spots([(330, 160), (300, 345)], 4.5)
    photo = sitter.photo(sitter.scene.generated * (1 - 0.35 * moles))
    grey = np.repeat((photo @ np.array([0.2126, 0.7152, 0.0722]))[..., None].round().astype(np.uint8), 3, -1)
    change = sitter.change(grey)
    assert float(change.mean(-1)[moles > 0].mean()) < -0.2
    assert float((change - change.mean(-1, keepdim=True)).abs().quantile(0.99)) < 0.05


def test_the_same_seed_gives_the_same_maps(sitter: Sitter) -> None:
    """Bit for bit; another seed gives other grain."""
    photo = sitter.photo(sitter.scene.generated)
    one, same, other = (refine(sitter.scene, [photo], SIZE, seed) for seed in (3, 3, 4))
    assert torch.equal(one.texture, same.texture) and torch.equal(one.normal, same.normal)
    assert not torch.equal(one.texture, other.texture)


def test_two_photos_complete_each_other(sitter: Sitter) -> None:
    """A mole that one photo hides behind a black patch comes from the other."""
    moles = spots([(330, 160)], 4.5)
    photo = sitter.photo(sitter.scene.generated * (1 - 0.35 * moles))
    hidden = sitter.photo(sitter.scene.generated)
    views = dataclasses.replace(sitter.scene, verts1=sitter.scene.verts1.expand(2, -1, -1),
                                cameras=sitter.scene.cameras * 2, lights=sitter.scene.lights * 2)
    patched = hidden.copy()
    patched[:, :photo.shape[1] // 2] = 8
    found = refine(views, [photo, patched], SIZE, SEED)
    change = (srgb_to_linear(found.texture) / srgb_to_linear(sitter.scene.generated)).log()[0].mean(0)
    assert float(change[moles > 0].mean()) < -0.25


def test_sizes_per_preset(sitter: Sitter) -> None:
    """At least 1024 texels in standard and 2048 in best; maps have the size that was asked for."""
    assert PRESETS["standard"].albedo_size >= 1024 and PRESETS["best"].albedo_size >= 2048
    found = refine(sitter.scene, [sitter.photo(sitter.scene.generated)], 1024, SEED)
    assert found.texture.shape == found.normal.shape == (1, 3, 1024, 1024)
    assert found.roughness.shape == (1, 1, 1024, 1024)
    assert found.generated is sitter.scene.generated


def test_grain_is_as_strong_as_measured(sitter: Sitter) -> None:
    """One octave on the cheek has the table's deviation and colour; sockets and mouth have none."""
    regions = region_maps(sitter.person, 512)
    mm = texel_mm(sitter.person, 1024)
    assert 0.1 < mm < 0.4
    count = len(octaves(1024, mm))
    missing = [torch.full_like(regions["covered"], float(k == 1)) for k in range(count)]
    colour, relief = grain(1024, mm, regions, missing, SEED)
    large = torch.nn.functional.interpolate(regions["cheek"], (1024, 1024))[0, 0] > 0.95
    wavelength = octaves(1024, mm)[1]
    expected = np.interp(math.log(wavelength), np.log([0.25, 0.5, 1, 2, 4]), STRENGTH["cheek"])
    deviation = [float(colour[0, c][large].std()) for c in range(3)]
    assert deviation[1] == pytest.approx(expected * CHANNELS[1], rel=0.3)
    assert deviation[0] < deviation[1] < deviation[2]
    hidden = torch.nn.functional.interpolate(regions["socket"] + regions["mouth_bag"], (1024, 1024))[0, 0] > 0.99
    assert float(colour[0, :, hidden].abs().mean()) < 0.0005 and float(relief[0, 0][hidden].abs().mean()) < 0.0005


def test_normals_follow_opengl() -> None:
    """Ground that rises by 1 mm per texel of 2 mm to the right leans left; upwards (towards v = 1), it leans down."""
    rise = torch.arange(16.0).expand(1, 1, 16, 16)
    slope = 1 / math.sqrt(1.25)
    right = normal_map(rise, 2.0)[0, :, 8, 8] * 2 - 1
    assert right.tolist() == pytest.approx([-0.5 * slope, 0, slope], abs=1e-5)
    upwards = normal_map(rise.transpose(2, 3).flip(2), 2.0)[0, :, 8, 8] * 2 - 1
    assert upwards.tolist() == pytest.approx([0, -0.5 * slope, slope], abs=1e-5)


def test_bands_add_up_to_the_map() -> None:
    """With full weight, bands and rest give the map back; what has no weight leaves no trace in them."""
    rng = torch.Generator().manual_seed(1)
    values, weight = torch.randn(1, 3, 64, 64, generator=rng), torch.ones(1, 1, 64, 64)
    whole = split(values, weight, 3)
    torch.testing.assert_close(join([*whole.bands, whole.rest], 64), values, atol=1e-4, rtol=0)
    weight[..., :20] = 0
    spoiled = values.clone()
    spoiled[..., :20] = 50
    for a, b in zip(split(values, weight, 3).bands, split(spoiled, weight, 3).bands, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
