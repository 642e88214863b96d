# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's operators in real Blender, installed from the built zip, with a stand-in worker process."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from test_blender_import import SCRIPTS, run_blender

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in's Python is a shell script")


@pytest.fixture(scope="module")
def report(bpy_python, extension_zip, tmp_path_factory) -> dict:
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("operators")
    bundle = make_bundle(folder / "source")
    python = folder / "python"
    fake = shlex.quote(str(SCRIPTS / "fake_backend"))
    python.write_text(f"#!/bin/sh\nPYTHONPATH={fake} exec {shlex.quote(sys.executable)} \"$@\"\n")
    python.chmod(0o755)
    job = {"zip": str(extension_zip), "python": str(python), "photo": str(bundle / "photo_00.png"),
           "bundle": str(bundle), "out": str(folder)}
    run_blender(bpy_python, "operators.py", job, folder / "profile", FAKE_WORKER="ok")
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_reconstruct_blocks_in_background_mode_and_imports(report):
    wanted = {"result": ["FINISHED"], "error": "", "message": "anna is in the scene.", "heads": 1}
    assert report["reconstruct"] == wanted


def test_undo_takes_the_head_back_and_the_next_one_comes(report):
    assert report["undo"]["result"] == ["FINISHED"] and report["undo"]["heads"] == 0
    assert report["undo"]["message"] == ""  # it said that the head is in the scene
    assert report["again"]["heads"] == 1 and report["names"] == ["berta"]


def test_the_worker_stays_warm(report):
    assert report["warm"]


def test_without_an_output_the_result_goes_to_the_extension_s_own_folder(report):
    assert report["own folder"]["result"] == ["FINISHED"]
    (path,) = report["results"]
    assert Path(path).parts[-5:] == ("user_default", "ganfit", "results", "photo_00", "result.json")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("not set up", "environment_missing", "not set up yet. Press Set Up"),
        ("offline", "online_access", "Allow Online Access"),
        ("no_face", "no_face", "No face was found. Use a photo with a face."),
        ("crash", "worker_crashed", "dies as it was told"),
        ("no bundle", "bundle_missing", "result.json"),
        ("version", "bundle_version", "Update the add-on"),
        ("damaged", "bundle_damaged", "Reconstruct the photo again"),
        ("deleted photo", "photo_missing", "/no/such/photo.jpg"),
        ("no photo", "no_photo", "Choose at least one photo"),
    ],
)
def test_errors_say_what_is_wrong_and_what_to_do(report, name, code, words):
    assert report[name]["error"] == code
    assert words in report[name]["result"][0] and report[name]["result"][0].startswith("Error: ")


def test_a_crash_does_not_stop_the_next_job(report):
    assert report["garbage"]["result"] == ["FINISHED"] and report["garbage"]["error"] == ""


def test_a_failed_job_leaves_no_folder(report):
    assert not {"no_face", "crash"} & set(report["files"])


def test_panels_draw_what_belongs_there(report):
    fresh, error, ready = (report[f"draw {name}"] for name in ("fresh", "error", "ready"))
    assert "operator ganfit.setup" in fresh and "operator ganfit.reconstruct" in fresh
    assert any("about 0.5 GB" in line for line in fresh)
    assert any("Press Set Up" in line for line in error) and "operator ganfit.open_log" in error
    assert any("CC0-1.0" in line for line in ready) and "prop path" in ready


def test_photos_are_added_and_removed(report):
    assert [Path(path).name for path in report["photos"]] == ["photo_00.png"]


def test_a_reload_of_scripts_leaves_the_add_on_working(report):
    assert report["reloaded"] and report["after reload"]["result"] == ["FINISHED"]


def test_nothing_is_written_outside_the_extension_s_folders(report):
    assert report["written"] == []


def test_disabling_leaves_nothing_and_enabling_again_works(report):
    assert report["left"] == [{}, {}] and report["enabled"]
    with pytest.raises(ProcessLookupError):
        os.kill(report["pid"], 0)


def test_the_manual_ships_and_opens_at_the_error(report, repo_root):
    assert report["manual"]["result"] == ["FINISHED"] and report["manual at"] == "### `no_face`"
    assert sorted(report["manual pages"]) == sorted(path.stem for path in repo_root.glob("ganfit_blender/manual/*.md"))
    assert "operator ganfit.manual" in report["draw fresh"] and "operator ganfit.manual" in report["draw error"]
