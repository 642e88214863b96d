# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair painted on a known head is found where it is, in its colour, and nowhere else."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip("backend.head.model")

from test_refine import SEED, SIZE, Sitter, sitter  # noqa: E402, F401

from backend.assemble import picture  # noqa: E402
from backend.refine.hair import HAIR_FACING, HAIR_RIM, hair_layer, seen_hair  # noqa: E402
from backend.refine.matte import Matte, _without_islands, hair_matte  # noqa: E402
from backend.refine.refine import _unwrap, refine, region_maps  # noqa: E402
from backend.render.color import linear_to_srgb, srgb_to_linear  # noqa: E402

HAIR = {"black": (0.02, 0.018, 0.016), "brown": (0.10, 0.055, 0.03), "red": (0.30, 0.10, 0.03),
        "blond": (0.45, 0.30, 0.17), "white": (0.60, 0.58, 0.55)}
"""Linear albedo."""


def painted(sitter: Sitter, cover: torch.Tensor, colour: tuple[float, float, float]) -> torch.Tensor:  # noqa: F811
    """The generator's map (1, 3, R, R) under hair with this cover (1, 1, R, R)."""
    under = srgb_to_linear(sitter.scene.generated)
    return linear_to_srgb(torch.lerp(under, torch.tensor(colour)[:, None, None].expand_as(under), cover))


def scalp(sitter: Sitter) -> torch.Tensor:  # noqa: F811
    return (region_maps(sitter.person, SIZE)["scalp"] > 0.5).float()


@pytest.mark.parametrize("colour", list(HAIR))
def test_hair_is_found_in_its_place_and_colour(sitter: Sitter, colour: str) -> None:  # noqa: F811
    truth = scalp(sitter)
    layer = refine(sitter.scene, [sitter.photo(painted(sitter, truth, HAIR[colour]))], SIZE, SEED).hair
    assert layer is not None and layer.shape == (1, 4, SIZE, SIZE)
    cover = layer[:, 3:]
    core = -torch.nn.functional.max_pool2d(-truth, 17, 1, 8) > 0  # off the nape and the hairline, which are soft
    inside = cover[core].mean()
    outside = cover[truth == 0]
    assert inside > 0.9 and outside.mean() < 0.01
    found = srgb_to_linear(layer[:, :3])[0, :, (cover * truth)[0, 0] > 0.9].median(1).values
    truth_colour = torch.tensor(HAIR[colour])
    step = 0.004  # of linear light, what 8 bits in the photo and the layer can tell of dark hair
    assert ((found - truth_colour).abs() < 0.3 * truth_colour + step).all(), "the photo's light is in the colour"


def test_a_bare_head_has_no_hair_layer(sitter: Sitter) -> None:  # noqa: F811
    assert refine(sitter.scene, [sitter.photo(sitter.scene.generated)], SIZE, SEED).hair is None


def test_what_no_hair_can_be_is_none(sitter: Sitter) -> None:  # noqa: F811
    """Blue on the head is a hat or the background; a bar over the temples is glasses."""
    blue = painted(sitter, scalp(sitter), (0.05, 0.12, 0.40))
    assert refine(sitter.scene, [sitter.photo(blue)], SIZE, SEED).hair is None
    bar = torch.zeros(1, 1, SIZE, SIZE)
    bar[..., 200:206, 40:470] = 1
    with_hair = torch.maximum(scalp(sitter), bar)
    layer = refine(sitter.scene, [sitter.photo(painted(sitter, with_hair, HAIR["black"]))], SIZE, SEED).hair
    assert layer is not None
    face = region_maps(sitter.person, SIZE)["face"] > 0.9
    assert layer[:, 3:][face].mean() < 0.01


def test_a_fringe_hangs_over_the_forehead_and_not_in_the_albedo(sitter: Sitter) -> None:  # noqa: F811
    regions = region_maps(sitter.person, SIZE)
    forehead = regions["forehead"] > 0.5
    fringe = torch.maximum(scalp(sitter), forehead.float())
    photo = sitter.photo(painted(sitter, fringe, HAIR["brown"]))
    found = refine(sitter.scene, [photo], SIZE, SEED)
    assert found.hair is not None
    assert found.hair[:, 3:][forehead].mean() > 0.7
    darker = (srgb_to_linear(found.texture) / srgb_to_linear(sitter.scene.generated)).log().mean(1, keepdim=True)
    assert darker[forehead].mean() > -0.1, "the skin under the hair took its colour"


def test_hair_can_be_left_out_and_shows_in_pictures(sitter: Sitter) -> None:  # noqa: F811
    photo = sitter.photo(painted(sitter, scalp(sitter), HAIR["black"]))
    scene = refine(sitter.scene, [photo], SIZE, SEED)
    assert refine(sitter.scene, [photo], SIZE, SEED, with_hair=False).hair is None
    camera = scene.cameras[0]
    bare = dataclasses.replace(scene, hair=None, hair_shell=None)
    with_layer, without = (picture(s, 0, camera).rgb for s in (scene, bare))
    wanted = torch.from_numpy(np.asarray(photo, np.float32)) / 255
    darker = (without - with_layer).mean(-1)[0] > 0.1
    assert darker.float().mean() > 0.01
    assert (with_layer[0] - wanted)[darker].abs().mean() < 0.5 * (without[0] - wanted)[darker].abs().mean()


def mask_in_photo(sitter: Sitter, cover: torch.Tensor) -> torch.Tensor:  # noqa: F811
    """(H, W) bool: where the photo shows what is covered, from a picture without light of the mask alone."""
    shown = dataclasses.replace(sitter.scene, texture=cover.expand(-1, 3, -1, -1),
                                palette=torch.zeros_like(sitter.scene.palette))
    return picture(shown, 0, shown.cameras[0]).albedo[0, ..., 0] > 0.5


def on_backdrop(sitter: Sitter, colour: str,  # noqa: F811
                cover: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A photo before a grey-blue wall that gets darker upwards, with hair that has strands and stands out over the
    head's outline by a sixth of its width, and where that hair is, (H, W) bool."""
    on_head = mask_in_photo(sitter, cover).numpy()
    photo = sitter.photo(painted(sitter, cover, HAIR[colour]))
    alpha = picture(sitter.scene, 0, sitter.scene.cameras[0]).alpha[0].numpy()
    wall = np.linspace(0.6, 1.1, len(photo))[:, None, None] * np.array([90.0, 105.0, 120.0])
    columns = np.flatnonzero(on_head.any(0))
    volume = ndimage.binary_dilation(on_head, iterations=(columns[-1] - columns[0]) // 6) & (alpha[..., 0] < 0.5)
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=on_head.shape), (4, 0.7))
    strands = np.exp(0.25 * noise / noise.std())[..., None]
    lock = linear_to_srgb(torch.tensor(HAIR[colour]) * 0.6).numpy() * 255
    hair = volume | on_head
    out = np.where(volume[..., None], lock, alpha * photo + (1 - alpha) * wall)
    return np.where(hair[..., None], out * strands, out).clip(0, 255).round().astype(np.uint8), hair


def hair_in_photo(sitter: Sitter, photo: np.ndarray) -> np.ndarray:  # noqa: F811
    """(H, W) bool: where the matte of a photo (H, W, 3) says hair."""
    rows, columns = np.indices(photo.shape[:2])
    pixels = torch.from_numpy(np.stack([columns + 0.5, rows + 0.5], -1)).float()
    return hair_matte(sitter.scene, 0, photo).at(pixels)[..., 0].numpy() > 0.5


@pytest.mark.parametrize("colour", ["black", "red", "white", "blond"])
@pytest.mark.parametrize("grey", [False, True])
def test_the_matte_follows_the_hair_in_the_photo(sitter: Sitter, colour: str, grey: bool) -> None:  # noqa: F811
    """Also where it stands out over the head's outline, and in black-and-white photos."""
    photo, truth = on_backdrop(sitter, colour, scalp(sitter))
    if grey:
        photo = np.repeat((photo @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None], 3, -1)
    found = hair_in_photo(sitter, photo)
    assert (found & truth).sum() / (found | truth).sum() > (0.7 if grey else 0.85)


@pytest.mark.parametrize("colour", ["black", "brown"])
@pytest.mark.parametrize("sides", ["left and right", "right"])
def test_hair_is_found_where_the_photo_ends_beside_the_head(sitter: Sitter, colour: str,  # noqa: F811
                                                            sides: str) -> None:
    """So close that nothing, or one side alone, is surely background."""
    photo, truth = on_backdrop(sitter, colour, scalp(sitter))
    columns = np.flatnonzero((picture(sitter.scene, 0, sitter.scene.cameras[0]).alpha[0, ..., 0] > 0.5).any(0).numpy())
    first, last = (columns[0] if sides == "left and right" else 0), columns[-1] + 1
    height, width = photo.shape[0], int(last - first)
    camera = sitter.scene.cameras[0].crop(float(first), 0.0, 1.0, (height, width))
    near = dataclasses.replace(sitter, scene=dataclasses.replace(sitter.scene, cameras=[camera]))
    found = hair_in_photo(near, np.ascontiguousarray(photo[:, first:last]))
    truth = truth[:, first:last]
    assert (found & truth).sum() / (found | truth).sum() > 0.9


@pytest.mark.parametrize("colour", ["black", "brown"])
def test_patches_of_the_background_beside_the_head_are_no_hair(sitter: Sitter, colour: str) -> None:  # noqa: F811
    """Blurred ones, those beside ear and jaw of the hair's own colour, that go on behind the head."""
    photo = sitter.photo(painted(sitter, scalp(sitter), HAIR[colour]))
    alpha = picture(sitter.scene, 0, sitter.scene.cameras[0]).alpha[0].numpy()
    rows, columns = (np.flatnonzero(on) for on in ((alpha[..., 0] > 0.5).any(1), (alpha[..., 0] > 0.5).any(0)))
    top, height, width = rows[0], len(rows), len(columns)
    wall = np.broadcast_to(np.array([125.0, 110.0, 95.0]), photo.shape).copy()
    own = linear_to_srgb(torch.tensor(HAIR[colour]) * 0.8).numpy() * 255
    for right, low, tint in ((0, 0.55, own), (1, 0.45, own), (0, 0.15, (190, 160, 60)), (1, 0.1, (60, 130, 90))):
        across = slice(columns[-1] - width // 8, columns[-1] + width // 4) if right else slice(
            columns[0] - width // 4, columns[0] + width // 8)
        wall[int(top + low * height):int(top + (low + 0.25) * height), across] = tint
    wall = ndimage.gaussian_filter(wall, (width / 50, width / 50, 0))
    photo = (alpha * photo + (1 - alpha) * wall).round().astype(np.uint8)
    truth = mask_in_photo(sitter, scalp(sitter)).numpy()
    found = hair_in_photo(sitter, photo)
    assert (found & truth).sum() > 0.85 * truth.sum()
    assert (found & (alpha[..., 0] == 0)).sum() < 0.2 * truth.sum()


@pytest.mark.parametrize("wall", [(0.01, 0.01, 0.01), (0.8, 0.8, 0.85), (0.25, 0.14, 0.09)])
def test_a_bald_head_has_no_hair_before_any_wall(sitter: Sitter, wall: tuple[float, ...]) -> None:  # noqa: F811
    photo = sitter.photo(sitter.scene.generated)
    alpha = picture(sitter.scene, 0, sitter.scene.cameras[0]).alpha[0].numpy()
    behind = linear_to_srgb(torch.tensor(wall)).numpy() * 255
    photo = (alpha * photo + (1 - alpha) * behind).round().astype(np.uint8)
    assert refine(sitter.scene, [photo], SIZE, SEED).hair is None


def test_ears_are_bare_whether_hair_hides_them_or_not(sitter: Sitter) -> None:  # noqa: F811
    regions = region_maps(sitter.person, SIZE)
    ears = torch.maximum(regions["ear_left"], regions["ear_right"]) > 0.5
    over = torch.maximum(scalp(sitter), ears.float())
    hidden, seen = (refine(sitter.scene, [on_backdrop(sitter, "black", cover)[0]], SIZE, SEED)
                    for cover in (over, scalp(sitter)))
    for found in (hidden, seen):
        assert found.hair is not None and found.hair[:, 3:][ears].mean() < 0.05
    change = (srgb_to_linear(hidden.texture) / srgb_to_linear(seen.texture)).log().mean(1, keepdim=True)
    assert change[ears].mean() > -0.1, "the ear under the hair took its colour"


def test_hair_that_hangs_beside_the_face_ends_near_the_scalp(sitter: Sitter) -> None:  # noqa: F811
    """Locks over temple and cheek are neither painted down to the jaw nor in the albedo; nor does the neck get hair."""
    regions = region_maps(sitter.person, SIZE)
    beside = (regions["face"] > 0.5) & (torch.cat([regions[n] for n in ("brow", "eyes", "nose", "lips", "cheek", "chin",
                                                                        "jaw")]).amax(0, keepdim=True) < 0.05)
    locks = torch.maximum(scalp(sitter), beside.float())
    found = refine(sitter.scene, [on_backdrop(sitter, "black", locks)[0]], SIZE, SEED)
    assert found.hair is not None
    low, neck = beside & (regions["reach"] > 0.03), regions["neck"] > 0.99
    assert low.sum() > 500
    assert found.hair[:, 3:][low].mean() < 0.02 and found.hair[:, 3:][neck].mean() < 0.02
    change = (srgb_to_linear(found.texture) / srgb_to_linear(sitter.scene.generated)).log().mean(1, keepdim=True)
    assert change[low].median() > -0.05, "the skin beside the face took the colour of the locks"


def test_a_beard_is_skin_and_a_collar_is_neither(sitter: Sitter) -> None:  # noqa: F811
    """A dark beard stays in the albedo; a white collar over the neck leaves no patch there, nor a layer of hair."""
    regions = region_maps(sitter.person, SIZE)
    beard = (torch.maximum(regions["chin"], regions["jaw"]) > 0.5).float()
    with_beard = refine(sitter.scene, [sitter.photo(painted(sitter, beard, HAIR["black"]))], SIZE, SEED)
    old = srgb_to_linear(sitter.scene.generated)
    change = (srgb_to_linear(with_beard.texture) / old).log().mean(1, keepdim=True)
    assert with_beard.hair is None and change[regions["chin"] > 0.5].mean() < -0.15
    neck = regions["neck"] > 0.5
    collar = refine(sitter.scene, [sitter.photo(painted(sitter, neck.float(), (0.8, 0.8, 0.8)))], SIZE, SEED)
    plain = refine(sitter.scene, [sitter.photo(sitter.scene.generated)], SIZE, SEED)
    patch = (srgb_to_linear(collar.texture) / srgb_to_linear(plain.texture)).log().mean(1, keepdim=True)
    assert collar.hair is None and patch[neck].abs().mean() < 0.02


def test_grey_photos_give_grey_hair(sitter: Sitter) -> None:  # noqa: F811
    """Under a warm light as well, whose opposite would tint it blue."""
    photo = sitter.photo(painted(sitter, scalp(sitter), HAIR["black"])).astype(np.float32).mean(-1, keepdims=True)
    layer = refine(sitter.scene, [photo.round().astype(np.uint8).repeat(3, -1)], SIZE, SEED).hair
    assert layer is not None and float((layer[:, :1] - layer[:, 2:3]).abs()[layer[:, 3:] > 0.5].max()) < 0.01


def layer_of(sitter: Sitter, hair: torch.Tensor, said: torch.Tensor, grey: bool) -> torch.Tensor:  # noqa: F811
    """The layer of a photo with black hair (1, 1, R, R) whose matte says that it is in other places."""
    regions = region_maps(sitter.person, SIZE)
    photo = sitter.photo(painted(sitter, hair, HAIR["black"]))
    if grey:
        photo = photo.mean(-1, keepdims=True).round().astype(np.uint8).repeat(3, -1)
    where = mask_in_photo(sitter, said)
    alpha = picture(sitter.scene, 0, sitter.scene.cameras[0]).alpha[0, ..., 0] > 0.5
    side = max(where.shape)
    shares = torch.zeros(side, side, 3)
    shares[:where.shape[0], :where.shape[1]] = torch.stack([where, alpha & ~where, ~alpha], -1).float()
    unwrapped = _unwrap(sitter.scene, 0, photo, SIZE, HAIR_FACING, HAIR_RIM)
    layer = hair_layer([seen_hair(unwrapped, Matte(shares, (0.0, 0.0, float(side))), regions, grey)], regions)
    assert layer is not None
    return layer


@pytest.mark.parametrize("grey", [False, True])
def test_skin_that_the_matte_takes_for_hair(sitter: Sitter, grey: bool) -> None:  # noqa: F811
    """The matte says hair down to the brows, the photo shows black hair on the scalp alone: without colours, which
    would have taught the matte better, the forehead stays bare and lends the hair nothing; with them the matte is
    believed."""
    regions = region_maps(sitter.person, SIZE)
    said = torch.maximum(scalp(sitter), (regions["forehead"] > 0.5).float())
    layer = layer_of(sitter, scalp(sitter), said, grey)
    forehead, core = (regions["forehead"] > 0.9) & (regions["reach"] > 0.015), regions["scalp"] > 0.9
    assert layer[:, 3:][core].mean() > 0.8
    if not grey:
        assert layer[:, 3:][forehead].mean() > 0.8
        return
    assert layer[:, 3:][forehead].mean() < 0.1
    assert (srgb_to_linear(layer[:, :3]).mean(1, keepdim=True)[core] < 0.1).float().mean() > 0.98


def test_small_patches_of_skin_within_hair_are_hair() -> None:
    """A small one that hair surrounds; not one that reaches the face, nor a large one."""
    side = 120
    rows, columns = np.indices((side, side))
    hair = rows < 60
    skin = ~hair | ((rows - 30) ** 2 + (columns - 30) ** 2 < 16) | ((rows - 30) ** 2 + (columns - 80) ** 2 < 196)
    skin |= (rows > 55) & (abs(columns - 50) < 4)
    found, left = _without_islands((hair & ~skin).astype(float), skin.astype(float), 110.0)
    assert found[30, 30] == 1 and left[30, 30] == 0
    assert (left[30, 80], left[58, 50], left[100, 60]) == (1, 1, 1)
    assert np.abs(found + left - 1).max() == 0


def test_shine_within_a_fringe_is_no_skin(sitter: Sitter) -> None:  # noqa: F811
    """Without colours too: a spot as light as skin that hair surrounds belongs to the hair."""
    regions = region_maps(sitter.person, SIZE)
    fringe = torch.maximum(scalp(sitter), (regions["forehead"] > 0.5).float())
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    ys, xs = torch.nonzero((regions["forehead"][0, 0] > 0.9) & (regions["reach"][0, 0] > 0.015)).float().mean(0)
    spot = ((rows - ys) ** 2 + (columns - xs) ** 2 < 12**2)[None, None]
    layer = layer_of(sitter, fringe * ~spot, fringe, True)
    assert layer[:, 3:][spot].mean() > 0.8
