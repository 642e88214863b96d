# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials in real Blender: scatter in millimetres, the photo's plain look and back, eyes, maps, paint, studio."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from test_blender_import import run_blender

from ganfit_blender.importer.axes import linear_to_srgb, srgb_to_linear

HAIR = (180, 40, 20)
"""sRGB colour of the hair of the bundle that has some."""


class Looks(NamedTuple):
    """What the script wrote down, and what went in."""

    report: dict
    arrays: dict[str, np.ndarray]
    palette: dict[str, list[float]]
    head: dict[str, np.ndarray]
    out: Path


@pytest.fixture(scope="module")
def looks(bpy_python, extension_zip, tmp_path_factory, head_files) -> Looks:
    import real_bundle

    folder = tmp_path_factory.mktemp("looks")
    real_bundle.make(folder / "fay")
    shutil.copytree(folder / "fay", folder / "gus")
    for name in ("normal", "roughness"):
        Image.new("RGB", (64, 64), (128, 128, 255)).save(folder / "gus" / f"{name}.png")
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[:] = (*HAIR, 0)
    layer[:, :32, 3] = 255  # the subject's right
    Image.fromarray(layer).save(folder / "gus" / "hair.png")
    job = {"zip": str(extension_zip), "bundle": str(folder / "fay"), "mapped": str(folder / "gus"), "out": str(folder)}
    run_blender(bpy_python, "looks.py", job, folder / "profile")
    palette = json.loads((folder / "fay" / "result.json").read_text("utf-8"))["palette"]
    report = json.loads((folder / "looks.json").read_text("utf-8"))
    arrays, head = dict(np.load(folder / "looks.npz")), dict(np.load(folder / "fay" / "head.npz"))
    return Looks(report, arrays, palette, head, folder)


def test_encoding_goes_both_ways():
    values = np.linspace(0, 1, 257)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)


def test_match_photo_takes_highlights_pores_and_hair_off_and_gives_them_back(looks):
    assert all(value > 0 for value in looks.report["own"].values())
    assert not any(looks.report["matched"].values())
    assert looks.report["back"] == {**looks.report["own"], "coat": pytest.approx(0.8)}


def test_lips_do_not_darken_teeth_in_match_photo(looks):
    """Photographed teeth are no darker than the face (see the fit's occlusion); lips would leave them half of it."""
    count, within, alone = looks.report["teeth"]
    assert count > 20 and 0.7 < within / alone < 1.1, looks.report["teeth"]


def test_scatter_is_millimetres_of_the_head_at_any_scale(looks):
    """Jensen et al. 2001: 3.67 mm for red; ten times as many units on a head of ten times the size."""
    assert looks.report["scatter"] == pytest.approx([0.00367, 0.0367])


def test_albedo_is_packed_and_takes_paint(looks):
    assert looks.report["skin"]["MIX.A"] == [512, 512, False, True]
    assert looks.report["paint"].endswith("albedo")
    mode, canvas = looks.report["canvas"]
    assert mode == "PAINT_TEXTURE" and canvas == looks.report["paint"]


def test_the_panel_has_a_slider_for_each_number(looks):
    assert looks.report["sliders"] == ["hair", "hair_color", "pores", "scatter", "specular"]


def test_hair_of_the_photo_covers_what_it_covers_and_can_be_taken_off(looks):
    assert looks.report["hair sockets"] == ["hair", "pores", "scatter", "specular"], "its colours are the photo's"
    on, off = looks.arrays["hair 1"], looks.arrays["hair 0"]
    head = off[..., :3].sum(-1) > 0.3  # over black
    whole, other = head & (np.arange(64) < 29), head & (np.arange(64) > 38)
    assert whole.sum() > 200 and other.sum() > 200
    np.testing.assert_allclose(np.median(on[whole][:, :3], 0), srgb_to_linear(np.array(HAIR) / 255), atol=0.01)
    np.testing.assert_allclose(on[other], off[other], atol=1e-4)
    assert np.abs(on[whole] - off[whole]).mean() > 0.1
    baked = looks.arrays["hair baked 1"]
    np.testing.assert_allclose(baked[:, :15].mean((0, 1)), np.array(HAIR) / 255, atol=0.01)
    np.testing.assert_allclose(baked[:, 17:], 0.5, atol=0.01)
    np.testing.assert_allclose(looks.arrays["hair baked 0"], 0.5, atol=0.01)


def test_a_sculpt_has_the_skin_s_colours_without_uv_maps_and_is_the_skin_with_them(looks):
    """Cycles draws all three under a white sky; the hair on one half of the head alone tells left from right."""
    assert looks.report["sculpt's own"] == [True, True]
    for side in ("front", "left", "right", "back"):
        skin, own, bare = (looks.arrays[f"sculpt {side} {name}"] for name in ("skin", "own", "no UV"))
        seen = skin[..., 3] > 0.99
        skin, own, bare = (linear_to_srgb(np.clip(picture[seen, :3], 0, 1)) for picture in (skin, own, bare))
        np.testing.assert_allclose(own, skin, atol=1e-3)
        off = np.abs(bare - skin).max(1)
        print(f"{side}: median, 90 %, 98 % {np.quantile(off, (0.5, 0.9, 0.98))}")
        assert (np.quantile(off, (0.5, 0.9, 0.98)) < (0.02, 0.04, 0.05)).all(), side
    assert looks.report["sculpt's last"] == [True, True]
    before, after = looks.report["left of the sculpt's skin"]
    assert after == before


def test_maps_of_a_refinement_are_used(looks):
    plain, mapped = looks.report["skin"], looks.report["mapped"]
    assert "NORMAL_MAP.Color" not in plain and "BSDF_PRINCIPLED.Roughness" not in plain
    assert mapped["NORMAL_MAP.Color"] == [64, 64, True, True]
    assert mapped["BSDF_PRINCIPLED.Roughness"] == [64, 64, True, True]


def test_lips_are_smoother_and_shinier_than_the_skin(looks):
    lips = looks.arrays["region_lips"] > 0.9
    rest = (looks.arrays["region_lips"] == 0) & (looks.head["region_masks"][0][np.unique(
        looks.head["quads"][looks.head["part"] == 0])] > 0.9)
    assert looks.arrays["ganfit_roughness"][lips].mean() < looks.arrays["ganfit_roughness"][rest].mean() - 0.05
    assert looks.arrays["ganfit_specular"][lips].mean() > looks.arrays["ganfit_specular"][rest].mean() + 0.05


def test_the_iris_has_the_photo_s_colour_on_the_mean_and_the_pupil_is_dark(looks):
    eye = srgb_to_linear(looks.arrays["eye"])
    size = len(eye)
    axis = (np.arange(size) + 0.5) / size - 0.5
    radius = np.hypot(*np.meshgrid(axis, axis))
    ring = (radius > 0.019) & (radius < 0.044)
    wanted = srgb_to_linear(np.array(looks.palette["iris"]))
    np.testing.assert_allclose(eye[ring].mean(0), wanted, rtol=0.06)
    assert eye[ring].std(0).min() > 0.05 * wanted.min()  # fibres, not a flat disc
    assert eye[radius < 0.014].max() < 0.02
    white = eye[(radius > 0.066) & (radius < 0.085)].mean(0)
    assert white.min() > 0.3 and np.ptp(white) / white.max() < 0.1
    assert looks.report["eye"]["BSDF_PRINCIPLED.Base Color"][3] and looks.report["shared"]


def lies(looks: Looks, part: str, turn: int) -> dict[str, np.ndarray]:
    """What the cornea's group gave where there is cornea: mm, in the eye's own axes (right, up, out)."""
    given = looks.report["cornea"][part]
    angle = np.radians(turn)
    axes = np.array([[np.cos(angle), np.sin(angle), 0.0], [0.0, 0.0, 1.0], [np.sin(angle), -np.cos(angle), 0.0]])
    place = looks.arrays[f"{part} {turn} Place"].astype(np.float64)
    q, seen = 1000 * (place[..., :3] @ axes.T)[..., :2], looks.arrays[f"{part} {turn} UV"][..., :2].astype(np.float64)
    seen = q + (seen - looks.arrays[f"{part} {turn} UV flat"][..., :2]) * given["UV Length (mm)"]
    inside = (place[..., 3] > 0.5) & (np.hypot(*np.moveaxis(q, -1, 0)) < 0.9 * given["Rim (mm)"])
    normals = {name: looks.arrays[f"{part} {turn} {name}"][..., :3][inside] @ axes.T
               for name in ("Cornea Normal", "Iris Normal")}
    return {"q": q[inside], "seen": seen[inside], "view": axes @ np.array([0.0, 1.0, 0.0]), **normals}


@pytest.mark.parametrize("part", ["eye_left", "eye_right"])
@pytest.mark.parametrize("turn", [0, 35])
def test_the_iris_is_seen_where_snell_s_law_puts_it(looks, part, turn):
    """The bent ray by sines and angles, on a sphere of Gullstrand's proportions, down to the plane of the rim."""
    found, given = lies(looks, part, turn), looks.report["cornea"][part]
    q, rim, curve = found["q"], given["Rim (mm)"], given["Rim (mm)"] * 7.8 / 5.85
    assert len(q) > 150 and 4.5 < rim < 6.5 and given["Depth (mm)"] == pytest.approx(rim * 2.7 / 5.85, rel=1e-4)
    normal = np.column_stack([q / curve, np.sqrt(1 - (q**2).sum(1) / curve**2)])
    assert np.degrees(np.arccos(np.clip((normal * found["Cornea Normal"]).sum(1), -1, 1))).max() < 5
    cosine = -(normal @ found["view"])
    first = np.arccos(cosine)
    second = np.arcsin(np.sin(first) / 1.376)
    along = found["view"] + cosine[:, None] * normal
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    ray = np.sin(second)[:, None] * along - np.cos(second)[:, None] * normal
    height = given["Depth (mm)"] * (1 - (q**2).sum(1) / rim**2)
    wanted = q + ray[:, :2] / -ray[:, 2:] * height[:, None]
    kept = np.hypot(*wanted.T) < 0.98 * rim
    shift = np.linalg.norm(wanted - q, axis=1)[kept]
    assert shift.max() > (0.2 if turn == 0 else 1.2), "the cornea bends something"
    off = np.linalg.norm(found["seen"] - wanted, axis=1)[kept]
    # mm; the mesh has narrow rings where colours change, along which its normals are a degree or two off
    assert off.mean() < 0.06 and np.quantile(off, 0.95) < 0.2


def test_the_iris_is_lit_as_a_bowl(looks):
    """Its outer parts face the axis, while the cornea's turn away from it."""
    found = lies(looks, "eye_left", 0)
    outer = np.hypot(*found["seen"].T) > 2
    for name, sign in (("Iris Normal", -1), ("Cornea Normal", 1)):
        outward = (found[name][:, :2] * found["seen"]).sum(1)
        assert (sign * outward[outer] > 0).all(), name


def test_studio_shows_a_lit_head_before_grey(looks):
    """The corner is neutral and darker than the face; the face is neither black nor burnt out."""
    picture = np.asarray(Image.open(looks.out / "studio.png").convert("RGB")) / 255
    corner, face = picture[5:25, 5:25].mean((0, 1)), picture[60:95, 45:75].mean((0, 1))
    assert np.ptp(corner) < 0.04 and 0.1 < corner.mean() < 0.6
    assert 0.3 < face.mean() < 0.85 and face[0] > face[2]
