# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair in real Blender: rooted on the scalp, never inside the head, moving with it, in the photo's colour."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_blender_import import run_blender
from test_glb import validate

from ganfit_blender.importer.axes import srgb_to_linear

CUTS = ("buzz", "short", "back", "side", "bob")
SKIN, HAIR = (196, 148, 122), (96, 66, 48)
"""sRGB: the mean of the test's albedo, which one unit of light shows as it is, and a brown."""
LAYER = (120, 70, 30)
"""sRGB: the hair of a result that has it as a layer."""


class Haired(NamedTuple):
    """What the script wrote down."""

    report: dict
    out: Path


def paint(folder: Path, pixels: np.ndarray, scalp: np.ndarray, hair: tuple[int, int, int]) -> None:
    """A photo whose skin has the skin's own colour, with discs of the hair's over the scalp's vertices."""
    with Image.open(folder / "photo_00.png") as old:
        photo = Image.new("RGB", old.size, SKIN)
    draw = ImageDraw.Draw(photo)
    for x, y in pixels[scalp]:
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=hair)
    photo.save(folder / "photo_00.png")


@pytest.fixture(scope="module")
def haired(bpy_python, extension_zip, tmp_path_factory, head_files) -> Haired:
    import real_bundle
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("hair")
    made = real_bundle.make(folder / "hank")
    shutil.copytree(folder / "hank", folder / "baldwin")
    with np.load(folder / "hank" / "head.npz") as head:
        masks, names = head["region_masks"], [str(name) for name in head["region_names"]]
        scalp = (masks[names.index("scalp")] > 0.5) & (head["verts"][:, 1] > 0.05) & (head["verts"][:, 2] > -0.08)
    pixels = made["pixels"][: len(scalp)]  # level 1 begins with the cage's vertices
    paint(folder / "hank", pixels, scalp, HAIR)
    paint(folder / "baldwin", pixels, scalp, SKIN)
    shutil.copytree(folder / "baldwin", folder / "lars")
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[:16] = (*LAYER, 255)
    layer[16:20] = (*SKIN, 120)
    Image.fromarray(layer).save(folder / "lars" / "hair.png")
    job = {"zip": str(extension_zip), "bundle": str(folder / "hank"), "bald": str(folder / "baldwin"),
           "layered": str(folder / "lars"), "plain": str(make_bundle(folder / "plain")), "out": str(folder)}
    run_blender(bpy_python, "hair.py", job, folder / "profile")
    return Haired(json.loads((folder / "hair.json").read_text("utf-8")), folder)


@pytest.mark.parametrize("cut", CUTS)
def test_roots_lie_on_the_scalp(haired, cut):
    """On the smooth surface that is shown, at most 3 cm from the scalp's vertices (sideburns), on both sides."""
    found = haired.report["cuts"][cut]
    assert 0.6 * 3000 < found["count"] <= 3000
    assert found["roots"] < 0.0003 and found["from scalp"] < 0.03
    assert found["on ears"] < 0.01 and 0.45 < found["left"] < 0.55


@pytest.mark.parametrize("cut", CUTS)
def test_no_strand_enters_the_head_or_stands_off_it(haired, cut):
    found = haired.report["cuts"][cut]
    assert found["deepest"] < (0.002 if cut == "bob" else 0.001)  # a bob lies over the ears, finer than its grid
    assert found["highest"] < {"buzz": 0.008, "bob": 0.06}.get(cut, 0.035)


def test_cuts_have_their_lengths(haired):
    lengths = [haired.report["cuts"][cut]["length"] for cut in CUTS]
    assert lengths[0] < 0.006 < lengths[1] < lengths[2] and lengths[1] < lengths[3] < lengths[4]
    assert -0.16 < haired.report["cuts"]["bob"]["lowest"] < -0.07, "cut at the chin, 11 cm under the eyes"


def test_hair_moves_with_keys_shape_object_and_sculpt(haired):
    assert haired.report["key"] < 1e-5 and haired.report["object"] < 1e-5
    moved, off = haired.report["shape"]
    assert moved > 0.001 and off < 0.0003
    assert haired.report["sculpting"] is True
    hidden, roots, deepest = haired.report["sculpted"]
    assert not hidden and roots < 0.0006 and deepest < 0.002


def test_length_is_a_slider(haired):
    assert haired.report["half"] == pytest.approx(0.5, abs=0.06)


def test_colour_is_the_photo_s_over_the_forehead(haired):
    wanted = srgb_to_linear(np.array(HAIR) / 255)
    np.testing.assert_allclose(haired.report["photo"]["color"], wanted, rtol=0.25)
    assert 0.3 < haired.report["photo"]["melanin"] < 0.9


def test_strands_look_as_bright_as_the_photo_s_hair(haired):
    """A render with Cycles of the default cut; melanin gives no hue exactly, so red and green are compared."""
    wanted = srgb_to_linear(np.array(HAIR) / 255)
    np.testing.assert_allclose(haired.report["radiance"][:2], wanted[:2], rtol=0.3)


def test_strands_take_the_layer_s_colour_and_its_place(haired):
    """The photo's own hair, which lies flat on the skin, gives way to strands of its colour and comes back."""
    found = haired.report["layer"]
    np.testing.assert_allclose(found["color"], srgb_to_linear(np.array(LAYER) / 255), rtol=0.02)
    assert found["strengths"] == pytest.approx([0.75, 0, 0, 0.75, 0, 0.75, 0.75, 0.75])
    assert found["kept"] == {"hidden": [0.75, 0, 0.75, 0, False], "copied": [0.75, 0, 0.75, 0, False],
                             "deleted": [0.75] * 4 + [False], "left": [0, 0, 0.75, 0, False]}
    assert found["rooted"] == [False, *[True] * 5, False, False], "skin is shaded between strands, and only there"


def test_a_bald_photo_leaves_the_brows_colour(haired):
    found = haired.report["bald"]
    np.testing.assert_allclose(found["color"], 3 * np.array(found["shade"]), rtol=0.01)


def test_match_photo_hides_hair_and_shows_it_again(haired):
    assert haired.report["match"] == [[False, False], [True, True], [False, False]]


def test_other_cut_keeps_the_material_and_leaves_nothing(haired):
    assert haired.report["kept material"] == ["Mine", 1]


def test_remove_and_undo(haired):
    assert haired.report["removed"] == [True, 0, False] and haired.report["remove again"] is False
    there, count = haired.report["undone"]
    assert there and count > 1000


def test_export_of_a_haired_head_is_valid_and_without_hair(haired, gltf_validator, tmp_path):
    data = (haired.out / "with_hair.glb").read_bytes()
    report = validate(gltf_validator, data, tmp_path)
    assert report["issues"]["numErrors"] == 0, report["issues"]["messages"][:3]
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert sorted(node["name"] for node in document["nodes"] if "mesh" in node) == [
        "EyeLeft", "EyeRight", "Head", "Lashes", "Teeth", "Tongue"]


def test_a_head_without_scalp_is_told(haired):
    message, untouched = haired.report["no scalp"]
    assert "no scalp" in message and untouched
