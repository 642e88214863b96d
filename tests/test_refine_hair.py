# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair painted on a known head is found where it is, in its colour, and nowhere else."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("backend.head.model")

from test_refine import SEED, SIZE, Sitter, sitter  # noqa: E402, F401

from backend.assemble import picture  # noqa: E402
from backend.refine.refine import refine, region_maps  # noqa: E402
from backend.render.color import linear_to_srgb, srgb_to_linear  # noqa: E402

HAIR = {"black": (0.02, 0.018, 0.016), "brown": (0.10, 0.055, 0.03), "red": (0.30, 0.10, 0.03)}
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
    with_layer, without = (picture(s, 0, camera).rgb for s in (scene, dataclasses.replace(scene, hair=None)))
    wanted = torch.from_numpy(np.asarray(photo, np.float32)) / 255
    darker = (without - with_layer).mean(-1)[0] > 0.1
    assert darker.float().mean() > 0.01
    assert (with_layer[0] - wanted)[darker].abs().mean() < 0.5 * (without[0] - wanted)[darker].abs().mean()
