# SPDX-License-Identifier: GPL-3.0-or-later
"""Expression, capture, studio and sculpt in real Blender, from the built zip, on a head of known shape."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_blender_import import SCRIPTS, run_blender

from ganfit_blender.capture import read_capture
from ganfit_blender.errors import AddonError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in's Python is a shell script")

FPS = 60


def write_capture(path: Path, upper: bool = True) -> None:
    """Frames 0, 1, 2, 3 and 8 of a recording at 60 a second: the phone dropped four."""
    names = ["JawOpen", "EyeBlinkLeft", "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "Unknown"]
    lines = [",".join(["Timecode", "BlendshapeCount", *(n if upper else n[0].lower() + n[1:] for n in names)])]
    for frame in (0, 1, 2, 3, 8):
        seconds, rest = divmod(frame + 58, FPS)
        values = [0.1 * frame, 0.5, 0.02 * frame, -0.01 * frame, 0.0, 0.2, 0.0, 7]
        lines.append(",".join([f"10:47:{29 + seconds}:{rest}.250", "61", *map(str, values)]))
    path.write_text("\n".join(lines) + "\n")


class Character(NamedTuple):
    """What the script wrote down."""

    report: dict
    arrays: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    result: dict


@pytest.fixture(scope="module")
def character(bpy_python, extension_zip, tmp_path_factory) -> Character:
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("character")
    bundle = make_bundle(folder / "cora", views=2)
    python = folder / "python"
    fake = shlex.quote(str(SCRIPTS / "fake_backend"))
    python.write_text(f"#!/bin/sh\nPYTHONPATH={fake} exec {shlex.quote(sys.executable)} \"$@\"\n")
    python.chmod(0o755)
    write_capture(folder / "take.csv")
    job = {"zip": str(extension_zip), "python": str(python), "bundle": str(bundle), "out": str(folder),
           "capture": str(folder / "take.csv")}
    run_blender(bpy_python, "character.py", job, folder / "profile", FAKE_WORKER="ok")
    return Character(
        json.loads((folder / "character.json").read_text("utf-8")), dict(np.load(folder / "character.npz")),
        dict(np.load(bundle / "head.npz")), json.loads((bundle / "result.json").read_text("utf-8")),
    )


def test_operators_want_a_head(character):
    assert character.report["nobody"] is False


def test_neutral_clears_expressions_and_keeps_the_shape(character):
    found = character.report["neutral"]
    assert found.pop("shape_01") == pytest.approx(1.5)
    assert not any(found.values()) and len(found) == 54


def test_as_in_photo_is_the_result_s_expression(character):
    for number in (0, 1):
        wanted = character.result["views"][number]["expression"]
        found = character.report["undone" if number == 0 else "photo 1"]
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert "no photo number 7" in character.report["photo 7"]


def test_mirror_exchanges_the_sides_and_undo_takes_it_back(character):
    wanted, found = character.result["views"][0]["expression"], character.report["mirrored"]
    assert found["mouthSmileRight"] == pytest.approx(wanted["mouthSmileLeft"]) and found["mouthSmileLeft"] == 0
    assert found["eyeBlinkLeft"] == pytest.approx(wanted["eyeBlinkRight"])
    assert found["jawOpen"] == pytest.approx(wanted["jawOpen"]) and found["shape_01"] == pytest.approx(1.5)


def test_shape_components_move_every_part(character):
    assert character.report["eye follows"] == pytest.approx(1.5)
    assert character.report["reset"]["shape_01"] == 0


def test_capture_keeps_time_over_dropped_frames(character):
    """60 a second into 30: recording frame 2 is scene frame 11; between 3 and 8 the curve is a straight line."""
    found = {int(frame): values for frame, values in character.report["capture"].items()}
    for frame, recorded in ((10, 0), (11, 2), (12, 4), (14, 8)):
        assert found[frame]["jawOpen"] == pytest.approx(0.1 * recorded, abs=1e-5)
        assert found[frame]["eyeBlinkLeft"] == pytest.approx(0.5)
        pitch, roll, yaw = found[frame]["rotation"]
        assert (pitch, roll, yaw) == pytest.approx((-0.01 * recorded, 0, 0.02 * recorded), abs=1e-5)
    assert found[14]["eyeLookOutLeft"] == pytest.approx(np.degrees(0.2) / 26, abs=1e-5)
    assert found[14]["mouthPucker"] == 0 and character.report["capture end"] >= 14


def test_captured_head_turns_about_the_neck(character):
    """The pivot 75 mm behind and 110 mm below the eyes stays where it is."""
    found = character.report["capture"]["14"]
    pitch, roll, yaw = found["rotation"]
    pivot = np.array([0.0, 0.075, -0.11])
    cx, sx, cz, sz = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    np.testing.assert_allclose(turn @ pivot + found["place"], pivot, atol=1e-6)


def test_files_that_are_no_capture_are_told_apart(character, tmp_path):
    assert "jawOpen of bad.csv is not numbers" in character.report["bad capture"]
    assert "named after an ARKit expression" in character.report["other csv"]
    with pytest.raises(AddonError, match="cannot be read"):
        read_capture(tmp_path / "none.csv", frozenset({"jawOpen"}))


def test_lower_camel_names_and_midnight(tmp_path):
    write_capture(tmp_path / "lower.csv", upper=False)
    names = frozenset({"jawOpen", "eyeBlinkLeft"})
    taken = read_capture(tmp_path / "lower.csv", names)
    assert taken.seconds == pytest.approx(np.array([0, 1, 2, 3, 8]) / FPS)
    (tmp_path / "late.csv").write_text("Timecode,JawOpen\n23:59:59:59.0,0\n00:00:00:00.0,1\n")
    assert read_capture(tmp_path / "late.csv", names).seconds == pytest.approx([0, 1 / FPS])


def test_studio_lights_and_gives_everything_back(character):
    camera, world, width, _, lamps, collections, *_ = character.report["studio"]
    assert camera == "Studio Camera" and world == "Studio" and width == 1080
    assert lamps == ["Studio Fill", "Studio Key", "Studio Rim"] and "Studio" in collections
    assert character.report["studio"][-1] == "AgX - Medium High Contrast"
    before, after = character.report["studio back"]
    assert after == before


def test_sculpt_is_a_multires_copy_and_the_head_keeps_its_keys(character):
    found = character.report["prepared"]
    assert found["mode"] == "SCULPT" and found["levels"] == 2 and found["keys"] == 56
    assert found["hidden"] and not found["copy has keys"]
    assert len(character.arrays["sculpted"]) > 12 * len(character.arrays["basis"])
    assert "Prepare for Sculpt" in character.report["no sculpt"]


def test_transferred_head_has_the_sculpted_surface_to_a_micrometre(character):
    assert np.abs(character.arrays["after"] - character.arrays["sculpted"]).max() < 1e-6
    found = character.report["transferred"]
    assert found["modifiers"] == ["MULTIRES"] and not found["copy"] and not found["hidden"]
    assert found["jawOpen"] == pytest.approx(0.4)


def test_the_cage_alone_carries_the_sculpt(character):
    """Without the multires detail, an 8 mm bump is there to a small part; the 0.2 mm ripple is finer than the cage."""
    moved = np.linalg.norm(character.arrays["after basis"] - character.arrays["basis"], axis=1)
    assert 0.006 < moved.max() < 0.012
    off = np.linalg.norm(character.arrays["cage only"] - character.arrays["sculpted"], axis=1)
    print(f"cage alone: mean {1000 * off.mean():.3f} mm, largest {1000 * off.max():.3f} mm")
    assert off.max() < 0.0015 and off.mean() < 0.0001


def test_every_expression_keeps_its_motion(character):
    assert character.report["transferred"]["drift"] < 1e-6 and character.report["transferred"]["keys"] == 56


def test_refit_gets_the_sculpted_cage_in_the_result_s_frame(character):
    """What the worker is sent is the cage that the transfer made, in GLB axes, in the order of head.npz.

    It stands in place of the result's own offsets, which the synthetic head has."""
    assert np.abs(character.head["offsets"]).max() > 0.002
    offsets = character.arrays["refit offsets"] - character.head["offsets"]
    skin = np.unique(character.head["quads"][character.head["part"] == 0])
    x, y, z = (character.arrays["after basis"] - character.arrays["basis"]).T
    np.testing.assert_allclose(offsets[skin], np.stack([x, z, -y], 1), atol=1e-6)
    lashes = np.unique(character.head["quads"][character.head["part"] == 5])
    x, y, z = character.arrays["lashes moved"].T
    np.testing.assert_allclose(offsets[lashes], np.stack([x, z, -y], 1), atol=1e-6)
    others = np.setdiff1d(np.arange(len(offsets)), [*skin, *lashes])
    assert np.abs(offsets[others]).max() < 1e-6
    request = character.report["refit request"]
    assert Path(request["bundle"]).name == "cora" and Path(request["out"]).name == "refitted"


def test_lashes_go_with_the_skin_under_them(character):
    """The bump's own formula at the lashes' place, to a quarter of its height."""
    lashes = np.unique(character.head["quads"][character.head["part"] == 5])
    x, y, z = character.head["verts"][lashes].T
    at = np.stack([x, -z, y], 1)
    front = np.array([0.0, character.arrays["basis"][:, 1].min(), 0.0])
    height = 0.008 * np.exp(-((at - front) ** 2).sum(1) / 0.035**2)
    moved = np.linalg.norm(character.arrays["lashes moved"], axis=1)
    assert np.abs(moved - height).max() < 0.002 and moved.max() > 0.001


def test_refit_is_a_new_version_beside_the_hidden_old_one(character):
    assert character.report["versions"] == ["cora", "refitted"] and character.report["old hidden"]


def test_every_operator_is_undone_in_one_step(character):
    assert character.report["undo"] == {name: [True, []] for name in (
        "neutral", "mirror_weights", "studio", "match_photo", "eye_target", "mark_asset", "sculpt_prepare",
        "sculpt_transfer", "sculpt_discard", "import_capture", "paint_skin", "refit", "sculpt_refit", "import_result")}


def test_nothing_depends_on_names(character):
    wanted = character.result["views"][0]["expression"]["jawOpen"]
    assert character.report["renamed"] == pytest.approx(wanted)
    assert character.report["discarded"] == [True, False, pytest.approx(wanted)]
