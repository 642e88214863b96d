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

from ganfit_blender.importer.axes import srgb_to_linear

WITH_GLASSES = sorted([*ALL, "Glasses"])


@pytest.fixture(scope="module")
def worn(bpy_python, extension_zip, tmp_path_factory, head_files) -> dict:
    """What the script has written down, the folder, and what is known of the real head."""
    import real_bundle
    from synthetic_bundle import EGG_GLASSES, EGG_SHELL, add_glasses, add_shell, make_bundle

    folder = tmp_path_factory.mktemp("glasses")
    truth = real_bundle.make(folder / "gail", wears="glasses")
    shutil.copytree(folder / "gail", folder / "both")
    add_shell(folder / "both", EGG_SHELL)
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
           "both": str(folder / "both"), "out": str(out), "samples": 24,
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
    """Measured: mean CIEDE2000 0.4 inside the frame's outline, which the two renderers smooth differently; 0.8 on skin.
    """
    folder, truth = worn["folder"], worn["truth"]
    pictures = folder / "gail" / "render_00.png", folder / "out" / "match.png"
    iou, _, bare = compared(*pictures, truth)
    _, frame, _ = compared(*pictures, truth | {"shell_mask": minimum_filter(truth["shell_mask"], 3)})
    assert iou > 0.99 and len(frame) > 300 and len(bare) > 5000
    assert frame.mean() < 1.0 and bare.mean() < 1.5


def test_match_photo_takes_shadow_and_shine_off_and_gives_them_back(worn):
    before, during, after = worn["match"]
    assert before == after == [True, True, 0.5, True] and during == [False, False, 0.0, True]


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
    picture = np.asarray(Image.open(worn["folder"] / "egg" / "glasses.png"))[..., 3] / 255
    assert found["cover"] == pytest.approx(picture.mean(), abs=0.005)


def test_exports_have_none_while_they_are_hidden(worn):
    assert worn["files"]["GLB 0 False"]["names"] == ALL


def test_the_glb_cuts_them(worn):
    data = (worn["folder"] / "out" / "glasses_4.glb").read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    material = next(entry for entry in document["materials"] if entry["name"] == "egg glasses")
    assert material["alphaMode"] == "MASK" and material["doubleSided"]
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == pytest.approx(0.3)


def test_what_is_deleted_is_missed_by_nothing(worn):
    errors, button, names = worn["deleted"]["glasses"]
    assert not any(errors) and not button and names == ALL
    errors, button, names = worn["deleted"]["hair"]
    assert not any(errors) and button and names == sorted([*PARTS, "Glasses"])
    assert worn["deleted in match"] == ""
    assert worn["alone"] == [False, ""]


def test_every_version_has_its_own(worn):
    assert worn["again"] == [["Glasses", "Head.001"], ["Glasses.001", "Head.002"]]
