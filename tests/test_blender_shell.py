# SPDX-License-Identifier: GPL-3.0-or-later
"""The photo's hair that stands off the head, in real Blender: its look, its place, what it gives way to, its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from test_blender_import import Imported, run_blender, to_glb
from test_glb import validate

from ganfit_blender.importer.axes import srgb_to_linear

PARTS = ["EyeLeft", "EyeRight", "Head", "Lashes", "Teeth", "Tongue"]
ALL = sorted([*PARTS, "Hair"])
STATES = ("nothing", "rename_everything", "no_pictures", "no_material", "no_shell", "no_vertices", "no_keys",
          "no_layer", "disabled")


@pytest.fixture(scope="module")
def shelled(bpy_python, extension_zip, tmp_path_factory, head_files) -> Imported:
    import real_bundle
    from synthetic_bundle import EGG_SHELL, add_shell, make_bundle

    folder = tmp_path_factory.mktemp("shell")
    truth = real_bundle.make(folder / "gwen", wears="hair")
    egg = make_bundle(folder / "egg")
    broken = {"points": {"hair_quads": EGG_SHELL["hair_quads"] + 10_000}, "numbers": {
        "hair_verts": EGG_SHELL["hair_verts"] * np.nan}, "uvs": {"hair_uvs": EGG_SHELL["hair_uvs"][:3]},
        "fractions": {"hair_quads": EGG_SHELL["hair_quads"].astype(np.float32)},
        "many": {"hair_verts": np.zeros((100_001, 3), np.float32)},
        "repeated": {name: np.repeat(EGG_SHELL[name], 200, 0) for name in ("hair_quads", "hair_uvs")}}
    for name, arrays in broken.items():
        add_shell(make_bundle(folder / name), EGG_SHELL | arrays)
    add_shell(make_bundle(folder / "half"), {"hair_verts": EGG_SHELL["hair_verts"]})
    add_shell(egg, EGG_SHELL)
    shutil.copytree(folder / "gwen", folder / "plain")
    (folder / "plain" / "hair_shell.png").unlink()
    add_shell(make_bundle(folder / "clear"), EGG_SHELL)
    Image.new("RGBA", (8, 8), (120, 84, 50, 0)).save(folder / "clear" / "hair_shell.png")
    for name, content in (("empty", b""), ("text", b"no picture")):
        add_shell(make_bundle(folder / name), EGG_SHELL)
        (folder / name / "hair_shell.png").write_bytes(content)
    out = folder / "out"
    out.mkdir()
    job = {"zip": str(extension_zip), "bundle": str(folder / "gwen"), "egg": str(egg),
           "without": [str(folder / name) for name in ("plain", "clear", "empty", "text")],
           "broken": [str(folder / name) for name in (*broken, "half")], "out": str(out), "samples": 24}
    run_blender(bpy_python, "shell.py", job, folder / "profile")
    report = json.loads((out / "shell.json").read_text("utf-8"))
    with np.load(out / "shell.npz") as arrays, np.load(folder / "gwen" / "head.npz") as head:
        return Imported(report, dict(arrays), truth, dict(head), folder / "gwen", out)


def test_it_is_an_object_of_quads_that_hangs_on_the_head(shelled):
    found = shelled.report["object"]
    assert (found["name"], found["material"]) == ("Hair", "gwen hair shell")
    assert found["parent"] and found["collection"] and not found["part"] and found["smooth"]
    assert found["sides"] == [4] and found["layers"] == ["GANFIT"] and found["modifiers"] == 0
    assert found["keys"] == ["Basis", *(f"shape_{number:02d}" for number in range(1, 11))]


def test_its_faces_are_those_of_the_bundle_that_have_cover(shelled):
    """The others would be whole in the solid view: they lie over the face."""
    quads, uvs = shelled.head["hair_quads"], shelled.head["hair_uvs"]
    cover = np.asarray(Image.open(shelled.bundle / "hair_shell.png"))[::-1, :, 3] / 255
    middle = (uvs.mean(1) * cover.shape[::-1]).astype(int)
    place = np.concatenate([shelled.head["hair_verts"][quads], uvs], -1).reshape(-1, 20)
    corners = to_glb(shelled.arrays["points"])[shelled.arrays["vertex"]]
    found = np.concatenate([corners, shelled.arrays["uv"].reshape(-1, 2)], 1)
    far, number = cKDTree(place).query(found.reshape(-1, 20))
    assert far.max() < 1e-5 and len(np.unique(number)) == len(number)
    left_out = np.setdiff1d(np.arange(len(quads)), number)
    assert len(left_out) > 50 and cover[middle[left_out, 1], middle[left_out, 0]].max() <= 0.02
    covered = np.flatnonzero(cover[middle[:, 1], middle[:, 0]] > 0.02)
    assert not np.intersect1d(covered, left_out).size
    assert len(np.unique(shelled.arrays["vertex"])) == len(shelled.arrays["points"])


def test_its_picture_gives_colour_and_cover(shelled):
    found = shelled.report["object"]
    assert found["image"] == [True, "CHANNEL_PACKED", "sRGB"] and found["alpha"]
    picture = np.asarray(Image.open(shelled.bundle / "hair_shell.png"))[::-1] / 255
    assert np.abs(shelled.arrays["image"] - picture).max() < 1e-3
    mean = srgb_to_linear(picture[picture[..., 3] > 0.5, :3]).mean(0)
    np.testing.assert_allclose(found["solid"], mean, rtol=0.05)


def test_a_result_without_it_is_imported_as_before(shelled):
    """And so is one whose picture is lost, covers nothing or is none."""
    assert shelled.report["without"] == [[False, 0]] * 4


@pytest.mark.parametrize("name", ["points", "numbers", "uvs", "fractions", "many", "repeated", "half"])
def test_a_damaged_one_is_told_and_nothing_is_left(shelled, name):
    assert "damaged" in shelled.report["broken"][name] and shelled.report["broken"][name].endswith(" 0")


def test_match_photo_shows_it_as_the_fit_does(shelled):
    """Measured: overlap 0.997, mean CIEDE2000 0.6 on hair, the inner side with it, and 0.9 on what is seen of the head.

    With its shadow on, the head's would be 2.4; with the inner side lit from within, the hair's 2.3.
    """
    iou, hair, bare = compared(shelled.bundle / "render_00.png", shelled.out / "match.png", shelled.truth)
    assert iou > 0.99 and len(hair) > 5000 and len(bare) > 5000
    assert hair.mean() < 1.0 and bare.mean() < 1.5


def compared(ours: Path, cycles: Path, truth: dict[str, np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    """Two pictures' overlap, and their CIEDE2000 at the pixels of the shell and of the skin beside it."""
    color = pytest.importorskip("skimage.color")
    one, other = (np.asarray(Image.open(path)) / 255 for path in (ours, cycles))
    iou = np.minimum(one, other)[..., 3].sum() / np.maximum(one, other)[..., 3].sum()
    delta = color.deltaE_ciede2000(color.rgb2lab(one[..., :3]), color.rgb2lab(other[..., :3]))
    opaque = (one[..., 3] > 0.99) & (other[..., 3] > 0.99)
    shell, bare = opaque & (truth["shell_mask"] > 0.99), opaque & (truth["shell_mask"] < 0.01)
    bare &= truth["skin_mask"] > 0.99
    print(f"IoU {iou:.4f}; CIEDE2000 shell {delta[shell].mean():.2f}, skin {delta[bare].mean():.2f}")
    return iou, delta[shell], delta[bare]


def test_match_photo_takes_shadow_and_shine_off_and_gives_them_back(shelled):
    before, during, after = shelled.report["match"]
    assert before == after == [True, True, 0.25] and during == [False, False, 0.0]


def test_strands_and_the_shell_are_not_seen_together(shelled):
    """[strands, shell] are seen: before, with strands, with others, in Match Photo, after it, without strands."""
    assert shelled.report["strands"] == [[None, True], [True, False], [True, False], [False, True], [True, False],
                                         [None, True]]
    assert shelled.report["names"] == ["Hair", "Strands"]


def test_strands_that_are_added_or_removed_in_match_photo(shelled):
    assert shelled.report["in match"] == [[None, True], [True, False], [True, False], [False, True], [None, True],
                                          [None, True]]


def test_what_an_artist_hides_or_shows_stays_so(shelled):
    assert shelled.report["by hand"] == [[None, False], [True, False], [False, False], [True, False], [None, False],
                                         [None, True]]
    assert shelled.report["both"] == [[True, False], [True, True], [False, True], [True, True], [True, False],
                                      [None, False], [None, True]]
    assert shelled.report["eye"] == [[None, None], [None, True]]
    assert shelled.report["other cut"] == [[True, False], [True, True], [True, True], [None, True]]


def test_strands_that_are_deleted_without_the_button_give_it_back_in_match_photo(shelled):
    assert shelled.report["deleted"] == [[True, False], [None, False], [None, True], [None, True]]
    assert shelled.report["deleted in match"] == [[True, False], [False, True], [None, True], [None, True]]


def test_undo_gives_it_back(shelled):
    assert shelled.report["undo"] == [[True, False], [None, True], [None, False],
                                      [None, True], [True, False], [None, True]]


def test_it_follows_the_shape_sliders(shelled):
    """At 2.5 deviations the shell moves by 8 to 23 mm, its height over the skin changes by less than 4 mm."""
    for name, (moved, off, nearer) in shelled.report["shape"].items():
        assert moved > 0.005 and off < 0.004 and nearer < 0.006, name
    assert shelled.report["jaw"] < 1e-6


def test_it_follows_the_head_and_its_parent(shelled):
    off, visible = shelled.report["placed"]
    assert off < 1e-5 and visible is True, "a body hides the head's own skin, not its hair"


def test_a_sculpt_hides_it_until_it_is_transferred(shelled):
    during, marked, after = shelled.report["sculpting"]
    assert during == [True, False, False] and not marked and after == [False, False, False]
    assert shelled.report["transferred"] < 0.009
    assert shelled.report["raised"] < 1e-4


def test_a_sculpt_gives_it_back_as_it_was(shelled):
    """[hidden in this view, in all views, in renders] while it is sculpted, after each act, and at the end."""
    eye, shown, off = [True, False, False], [False, False, False], [False, True, True]
    assert shelled.report["aside"] == {
        "nothing": [eye, shown], "eye": [eye, eye], "button": [eye, shown, shown], "twice": [eye, shown, off, off],
        "match": [eye, eye, eye, shown], "again": [eye, shown, eye, shown]}
    assert shelled.report["aside files"] == {"shown": [eye, ALL], "hidden": [eye, PARTS]}


def test_the_studio_frames_it_and_keeps_its_lamps(shelled):
    found = shelled.report["studio"]
    for name in ("own", "high", "wide"):
        left, right, bottom, top = found[name]["hair"]
        assert left > 0.03 and right < 0.97 and bottom > 0.03 and top < 0.97, name
        for lamp, values in found["bald"]["lamps"].items():
            np.testing.assert_allclose(found[name]["lamps"][lamp], values, rtol=1e-5, err_msg=name)
    assert len(found["bald"]["lamps"]) == 3 and 0.65 < found["bald"]["head"] < 0.75
    assert found["own"]["head"] > 0.55 and found["high"]["head"] < 0.55


def test_match_photo_exports_it_only_where_no_strands_stand_in_its_place(shelled):
    assert shelled.report["matched files"] == [[True, PARTS], [True, ALL]]


@pytest.mark.parametrize("kind", ["GLB", "FBX", "OBJ", "USD"])
def test_exports_have_it_while_it_is_shown(shelled, kind):
    found = shelled.report[f"{kind} read"]
    assert found["names"] == ALL and shelled.report[f"{kind} bald"]["names"] == PARTS
    assert found["off"] < 1e-4 and found["keys"] is False and found["kept"]
    assert found["material"].replace("_", " ") == "gwen hair shell"
    assert found["pictures"] == [[256, 128], [256, 128]]
    picture = np.asarray(Image.open(shelled.bundle / "hair_shell.png"))[..., 3] / 255
    assert found["cover"] == pytest.approx(picture.mean(), abs=0.005)
    assert found["above"] == (None if kind == "OBJ" else found["above"]) and (kind == "OBJ" or found["above"])


def test_the_glb_cuts_it_and_is_valid(shelled, gltf_validator, tmp_path):
    data = (shelled.out / "glb_hair.glb").read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    material = next(entry for entry in document["materials"] if entry["name"] == "gwen hair shell")
    assert material["alphaMode"] == "MASK" and material["doubleSided"]
    assert not any("alphaMode" in entry for entry in document["materials"] if entry is not material)
    node = next(entry for entry in document["nodes"] if entry["name"] == "Hair")
    assert "targets" not in document["meshes"][node["mesh"]]["primitives"][0]
    issues = validate(gltf_validator, data, tmp_path)["issues"]["messages"]
    issues = [issue for issue in issues if issue["severity"] < 2]
    assert {issue["code"] for issue in issues} <= {"MESH_PRIMITIVE_GENERATED_TANGENT_SPACE"}, issues[:3]


@pytest.mark.parametrize("state", STATES)
def test_states_that_people_get_into(shelled, state):
    found = shelled.report[f"state {state}"]
    assert not any(found["errors"]), found["errors"]
    assert found["names"] == (PARTS if state in ("no_shell", "no_vertices") else ALL)
    assert found["toggle"] is (state != "no_shell")


def test_hair_without_its_head_is_left_alone(shelled):
    found = shelled.report["state no_head"]
    assert not any(found["errors"]) and found["toggle"] is False


@pytest.mark.parametrize("way", ["linked", "appended"])
def test_assets_have_it(shelled, way):
    found = shelled.report[way]
    assert found["seen"] is True and not any(found["errors"]) and found["names"] == ALL
    if way == "appended":
        assert found["toggle"] == [True, "", False, ""]


def test_every_version_has_its_own(shelled):
    assert shelled.report["twice"] == [["Hair", "Head"], ["Hair.001", "Head.001"]]
