# SPDX-License-Identifier: GPL-3.0-or-later
"""The photo's glasses in real Blender: their look, their place, their button, their files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import minimum_filter
from test_blender_import import run_blender
from test_blender_shell import ALL, PARTS, compared
from test_glb import mesh_of, parse, validate, values

from ganfit_blender.importer.axes import linear_to_srgb, srgb_to_linear

WITH_GLASSES = sorted([*ALL, "Glasses"])
COVERS = (0.15, 0.4, 0.6, 0.8)
COLOURS = {"dark lens": (39, 39, 39), "black": (18, 16, 15), "brown": (95, 60, 40), "gold": (240, 214, 150)}
PLAIN = [[0.2, 0.4, 0.9, 0.0], [0.2, 0.4, 0.9, 1.0]]
MIXED = [[*(c / 255 for c in colour), cover] for colour in COLOURS.values() for cover in COVERS]


@pytest.fixture(scope="module")
def worn(bpy_python, extension_zip, tmp_path_factory, head_files) -> dict:
    """What the script has written down, the folder, and what is known of the real head."""
    import real_bundle
    from synthetic_bundle import EGG_GLASSES, EGG_SHELL, add_glasses, add_shell, make_bundle

    folder = tmp_path_factory.mktemp("glasses")
    truth = real_bundle.make(folder / "gail", wears="glasses")
    shutil.copytree(folder / "gail", folder / "both")
    add_shell(folder / "both", EGG_SHELL)
    for name, shows in (("bare", (True, False)), ("old", ())):
        add_glasses(make_bundle(folder / name, views=2), EGG_GLASSES)
        result = json.loads((folder / name / "result.json").read_text("utf-8"))
        for view, answer in zip(result["views"], shows, strict=False):
            view["glasses"] = answer
        (folder / name / "result.json").write_text(json.dumps(result), "utf-8")
    names = {"none": {}, "hair": {}, "lost": EGG_GLASSES, "clear": EGG_GLASSES, "egg": EGG_GLASSES,
             "points": EGG_GLASSES | {"glasses_quads": EGG_GLASSES["glasses_quads"] + 10_000},
             "half": {"glasses_uvs": EGG_GLASSES["glasses_uvs"]}}
    for name, arrays in names.items():
        make_bundle(folder / name)
        if name in ("hair", "egg"):
            add_shell(folder / name, EGG_SHELL)
        if arrays:
            add_glasses(folder / name, arrays)
    (folder / "lost" / "glasses.png").unlink()
    Image.new("RGBA", (8, 8)).save(folder / "clear" / "glasses.png")
    out = folder / "out"
    out.mkdir()
    job = {"zip": str(extension_zip), "egg": str(folder / "egg"), "real": str(folder / "gail"),
           "both": str(folder / "both"), "out": str(out), "samples": 24, "mixed": [*MIXED, *PLAIN],
           "bare": str(folder / "bare"), "old": str(folder / "old"),
           "without": [str(folder / name) for name in ("none", "hair", "lost", "clear")],
           "broken": [str(folder / name) for name in ("points", "half")]}
    run_blender(bpy_python, "glasses.py", job, folder / "profile")
    return json.loads((out / "glasses.json").read_text("utf-8")) | {"folder": folder, "truth": truth}


def test_they_are_an_object_of_quads_that_hangs_on_the_head(worn):
    found = worn["object"]
    assert (found["name"], found["material"], found["image"]) == ("Glasses", "egg glasses", "egg glasses")
    assert found["parent"] and found["collection"] and found["hair"] == "egg hair shell"
    assert found["sides"] == [4] and found["layers"] == ["GANFIT"] and found["modifiers"] == 0
    assert found["keys"] == ["Basis", "shape_01", "shape_02", "shape_03"]
    assert 40 < found["faces"] < 160, "what is clear everywhere is left out"


def test_their_picture_gives_colour_and_cover_on_both_sides(worn):
    found = worn["object"]
    assert found["packed"] and found["alpha"] and not found["culled"] and found["roughness"] == 0.3
    np.testing.assert_allclose(found["solid"], srgb_to_linear(np.array([30, 25, 40]) / 255), rtol=0.02)


def test_results_without_them_are_imported_as_before(worn):
    """And so are those whose picture is lost or covers nothing."""
    assert worn["without"] == {"hair": [False, 0, False, ["operator ganfit.photo_hair"]]} | {
        name: [False, 0, False, []] for name in ("none", "lost", "clear")}


@pytest.mark.parametrize("name", ["points", "half"])
def test_damaged_ones_are_told_and_nothing_is_left(worn, name):
    error, left = worn["broken"][name]
    assert "damaged" in error and left == 0


def test_match_photo_shows_them_as_the_fit_does(worn):
    """Measured: mean CIEDE2000 0.4 inside the frame's outline, which the two renderers smooth differently; 0.8 on skin;
    1.7 behind the tint (2.9 with the picture as it is).
    """
    folder, truth = worn["folder"], worn["truth"]
    pictures = folder / "gail" / "render_00.png", folder / "out" / "match.png"
    iou, _, bare = compared(*pictures, truth)
    _, frame, _ = compared(*pictures, truth | {"shell_mask": minimum_filter(truth["shell_mask"], 3)})
    assert iou > 0.99 and len(frame) > 300 and len(bare) > 5000
    assert frame.mean() < 1.0 and bare.mean() < 1.5
    color = pytest.importorskip("skimage.color")
    one, other = (color.rgb2lab(np.asarray(Image.open(path))[..., :3] / 255) for path in pictures)
    lens = (np.abs(truth["shell_mask"] - 0.15) < 0.02) & (truth["skin_mask"] > 0.99)
    tint = color.deltaE_ciede2000(one, other)[lens]
    print(f"CIEDE2000 tint {tint.mean():.2f} of {len(tint)} pixels")
    assert len(tint) > 300 and tint.mean() < 2.0


def skins() -> np.ndarray:
    """(N, 3) linear albedo of skins from dark to pale (Rec.709 luminance 0.03 to 0.6), of usual and unusual tints."""
    light = np.geomspace(0.03, 0.6, 12)
    pale = np.linspace(0, 1, 12)[:, None]
    usual = light[:, None] * ((1 - pale) * [1.55, 0.88, 0.6] + pale * [1.25, 0.95, 0.8])
    return np.concatenate([usual, usual * [0.93, 1.02, 1.1], usual * [1.05, 0.98, 0.9]]).clip(0, 0.95)


@pytest.mark.parametrize(("name", "most"), [("dark lens", 1.1), ("black", 0.9), ("brown", 1.6), ("gold", 2.6)])
def test_tints_look_over_skin_as_the_fit_mixes_them(worn, name, most):
    """CIEDE2000 between the fit's mix of encoded colours and Blender's in linear light, means over skins.

    Measured at covers of 0.15, 0.4, 0.6, 0.8: dark lens 0.3, 0.8, 1.0, 0.9 (1.5, 3.8, 5.0, 4.4 with the picture as it
    is), black 0.2, 0.6, 0.8, 0.8 (2.1, 5.3, 6.9, 6.4), brown 0.6, 1.3, 1.5, 1.1, gold 1.7, 2.3, 1.7, 0.9.
    """
    color = pytest.importorskip("skimage.color")
    start = list(COLOURS).index(name) * len(COVERS)
    for number in range(start, start + len(COVERS)):
        pictured, asked = np.array(worn["mixed"][number]), np.array(MIXED[number])
        fits = (1 - asked[3]) * linear_to_srgb(skins()) + asked[3] * asked[:3]
        errors = []
        for rgba in (pictured, asked):
            linear = (1 - rgba[3]) * skins() + rgba[3] * srgb_to_linear(rgba[:3])
            errors.append(color.deltaE_ciede2000(color.rgb2lab(fits), color.rgb2lab(linear_to_srgb(linear))).mean())
        print(name, asked[3], errors)
        assert errors[0] < most and errors[0] < 0.8 * errors[1]


def test_what_is_clear_or_solid_stays_as_it_is(worn):
    np.testing.assert_allclose(worn["mixed"][len(MIXED):], PLAIN)
    picture = np.asarray(Image.open(worn["folder"] / "egg" / "glasses.png"))[::-1]
    pixels = np.load(worn["folder"] / "out" / "picture.npy")
    whole = (picture[..., 3] == 0) | (picture[..., 3] == 255)
    assert 0.3 < whole.mean() < 1
    np.testing.assert_allclose(pixels[whole], picture[whole] / 255, atol=0.5 / 255)
    assert (pixels[~whole][:, 3] > picture[~whole][:, 3] / 255 + 0.1).all()
    assert worn["kept"] == [0, 0], "reloaded, and in a file that was saved"


def test_match_photo_takes_shadow_and_shine_off_and_gives_them_back(worn):
    before, during, after = worn["match"]
    assert before == after == [True, True, 0.5, True] and during == [False, False, 0.0, True]


def test_a_photo_without_them_is_matched_without_them(worn):
    """They are seen after each step. The button has the last word; a file has what is hidden here alone."""
    assert worn["absent"] == {
        "other": [True, True, False, True], "first": [False, True, True, True], "shown there": [False, True, True],
        "twice": [False, True, False, False], "hidden": [False, False, False, True], "file": True,
        "old": [True, True]}


def test_the_button_shows_and_hides_them_alone(worn):
    """[strands, the photo's hair, glasses] are seen."""
    assert worn["object"]["buttons"] == ["operator ganfit.photo_hair", "operator ganfit.photo_glasses"]
    assert worn["buttons"] == [[None, True, False], [None, False, False], [None, False, True], [None, True, True]]
    assert worn["undo"] == [[None, True, False], [None, True, True]]


def test_strands_take_the_place_of_the_hair_alone(worn):
    assert worn["strands"] == [[True, False, True], [False, True, True], [True, False, True], [None, True, True]]
    assert worn["hidden"] == [[None, True, False], [True, False, False], [False, True, False], [True, False, False],
                              [None, True, False], [None, True, True]]


def test_they_follow_the_shape_sliders_and_stay_put_in_expressions(worn):
    low, high = worn["moved"]["shape_03"]
    np.testing.assert_allclose([low, high], [[0, -0.002, 0]] * 2, atol=1e-5)
    low, high = worn["moved"]["shape_01"]
    assert low[0] == pytest.approx(-high[0], abs=1e-4) and 0.003 < high[0] < 0.008
    np.testing.assert_allclose([low[1:], high[1:]], 0, atol=1e-6)
    np.testing.assert_allclose(worn["moved"]["jawOpen"], 0, atol=1e-6)


def test_the_sliders_hardly_stretch_them(worn):
    """Measured at 2.5 deviations: moved by up to 11 mm, lengths between 0.93 and 1.05."""
    for name, (moved, least, most) in worn["stretched"].items():
        assert moved > 0.003 and 0.9 < least and most < 1.1, name


def test_a_sculpt_sets_them_aside_and_moves_them(worn):
    aside, shown = [True, False, False], [False, False, False]
    assert worn["sculpting"] == [[aside, shown], [aside, shown, shown]]
    assert worn["raised"] < 1e-4


@pytest.mark.parametrize("file", ["GLB 0", "GLB 1", "GLB 4", "FBX 1", "OBJ 1", "USD 1"])
def test_exports_have_them_while_they_are_shown(worn, file):
    found = worn["files"][f"{file} True"]
    assert found["names"] == WITH_GLASSES and not found["divided"]
    assert found["off"] < 1e-4 and found["keys"] is False
    assert found["material"].replace("_", " ") == "egg glasses"
    assert found["pictures"] == [[320, 64], [320, 64]]
    assert found["cover"] == pytest.approx(np.load(worn["folder"] / "out" / "picture.npy")[..., 3].mean(), abs=0.005)


def test_exports_have_none_while_they_are_hidden(worn):
    assert worn["files"]["GLB 0 False"]["names"] == ALL


def test_the_glb_cuts_them_and_mixes_their_tints(worn, gltf_validator, tmp_path):
    data = (worn["folder"] / "out" / "glasses_4.glb").read_bytes()
    document, binary = parse(data)
    materials = {entry["name"]: entry for entry in document["materials"] if "egg glasses" in entry["name"]}
    assert {name: entry["alphaMode"] for name, entry in materials.items()} == {
        "egg glasses": "MASK", "egg glasses tinted": "BLEND"}
    for material in materials.values():
        assert material["doubleSided"] and material["pbrMetallicRoughness"]["roughnessFactor"] == pytest.approx(0.3)
    middles = {}
    for piece in mesh_of(document, "Glasses")["primitives"]:
        uv = values(document, binary, piece["attributes"]["TEXCOORD_0"])
        corners = uv[values(document, binary, piece["indices"]).reshape(-1, 3)]
        middles[document["materials"][piece["material"]]["name"]] = np.abs(2 * corners.mean(1)[:, 0] - 1)
    lens = slice(0.25 - 0.17, 0.25 + 0.17)  # of the picture's width, beside its middle
    assert len(middles["egg glasses"]) > 20 and len(middles["egg glasses tinted"]) > 20
    assert (middles["egg glasses tinted"] > lens.start - 0.05).all()
    assert (middles["egg glasses tinted"] < lens.stop + 0.05).all()
    assert (middles["egg glasses"] > lens.stop - 0.02).any() and (middles["egg glasses"] < lens.start + 0.02).any()
    assert not validate(gltf_validator, data, tmp_path)["issues"]["numErrors"]


def test_what_is_deleted_is_missed_by_nothing(worn):
    errors, button, names = worn["deleted"]["glasses"]
    assert not any(errors) and not button and names == ALL
    errors, button, names = worn["deleted"]["hair"]
    assert not any(errors) and button and names == sorted([*PARTS, "Glasses"])
    assert worn["deleted in match"] == ""
    assert worn["alone"] == [False, ""]


def test_every_version_has_its_own(worn):
    assert worn["again"] == [["Glasses", "Head.001"], ["Glasses.001", "Head.002"]]
