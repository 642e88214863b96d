# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruct Folder in real Blender with a stand-in worker; the table's and the grid's own functions without one."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from test_blender_import import SCRIPTS, run_blender

from ganfit_blender.batch_table import grid_place, output_folder, read_table


def stand_in(folder: Path) -> Path:
    """A Python whose `-m backend` is the stand-in worker."""
    python = folder / "python"
    fake = shlex.quote(str(SCRIPTS / "fake_backend"))
    python.write_text(f"#!/bin/sh\nPYTHONPATH={fake} exec {shlex.quote(sys.executable)} \"$@\"\n")
    python.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def report(bpy_python, extension_zip, tmp_path_factory) -> dict:
    if os.name == "nt":
        pytest.skip("the stand-in's Python is a shell script")
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("folder")
    people = folder / "people"
    people.mkdir()
    for name in ("anna.jpg", "bad.jpg", "carol.png"):
        (people / name).write_bytes(name.encode())
    job = {"zip": str(extension_zip), "python": str(stand_in(folder)), "people": str(people),
           "bundle": str(make_bundle(folder / "source")), "out": str(folder)}
    run_blender(bpy_python, "folder.py", job, folder / "profile")
    return json.loads((folder / "report.json").read_text("utf-8")) | {"folder": str(folder)}


def test_everyone_stands_on_a_grid_in_a_collection_of_their_own(report):
    people = report["grid"]["collections"]["people"]
    assert report["result"] == "FINISHED"
    assert [head[0] for head in people["heads"]] == ["anna", "carol"]
    anna, carol = (head[1] for head in people["heads"])
    assert anna == [-0.2, 0, 0.25] and carol == [-0.2, 0, -0.25]  # places 0 and 2 of a grid of two columns
    down = [b - a for a, b in zip(people["cameras"]["anna"], people["cameras"]["carol"])]
    assert down == pytest.approx([0, 0, -0.5], abs=2e-3)


def test_the_table_says_how_it_went_and_why(report):
    assert [row[:2] for row in report["grid"]["rows"]] == [["anna", "done"], ["bad", "failed"], ["carol", "done"]]
    assert report["grid"]["rows"][1][2] == "No face was found. Use a photo with a face."
    assert report["grid"]["message"].startswith("2 heads are done, 1 failed.")


def test_run_again_goes_on_and_adds_nobody_twice(report):
    assert [row[1] for row in report["again"]["rows"]] == ["skipped", "failed", "skipped"]
    assert report["again"]["collections"] == report["grid"]["collections"]


def test_undo_takes_the_people_back(report):
    assert report["undone"] == {}


def test_an_undo_while_someone_is_placed_ends_that_and_new_steps_place_everyone(report):
    """And nothing of what was built until then stays in the file."""
    assert report["undone between steps"] == 2 * [["ReferenceError", 2, 2, [], []]]


def test_linked_people_have_a_file_each_and_leave_nothing_local(report):
    links = report["linked"]["collections"]["people"]["links"]
    assert report["linked result"] == "FINISHED" and [link[0] for link in links] == ["anna", "carol"]
    assert report["blends"] == ["linked/people/anna/anna.blend", "linked/people/carol/carol.blend"]
    assert report["local meshes"] == 0 and all(link[2].endswith(f"{link[0]}.blend") for link in links)


def test_a_cancelled_batch_shows_what_is_done(report):
    assert "cancelled" in report["stopped result"].lower()
    assert [row[1] for row in report["stopped"]["rows"]] == ["done", "cancelled", "cancelled"]
    assert [head[0] for head in report["stopped"]["collections"]["people"]["heads"]] == ["anna"]


def test_heads_come_one_by_one_while_the_folder_runs(report):
    during = [heads for heads, states in report["seen"] if "waiting" in states or "running" in states]
    assert 1 in during, report["seen"]


def test_a_batch_that_cannot_run_imports_nobody_again(report):
    """The table of the earlier run, which says that Anna is done, is not this run's."""
    assert "ended while it started" in report["dead result"]
    assert report["dead"]["collections"] == report["stopped"]["collections"]


def test_going_on_after_a_cancel_keeps_who_is_there_and_the_grid_grows_with_the_folder(report):
    """Four people in two columns now: Anna, who was at place 0 of 3, stands at place 1, with the artist's 5 cm."""
    assert report["on result"] == "FINISHED"
    assert [row[:2] for row in report["on"]["rows"]] == [["abe", "done"], ["anna", "skipped"], ["bad", "failed"],
                                                         ["carol", "done"]]
    heads = report["on"]["collections"]["people"]["heads"]
    assert [head[:2] for head in heads] == [["abe", [-0.2, 0, 0.25]], ["anna", [0.25, 0, 0.25]],
                                            ["carol", [0.2, 0, -0.25]]]
    assert not any(head[2] for head in heads)


def test_without_a_folder_it_says_so(report):
    assert "No folder is chosen. Choose a folder with photos." in report["none"]
    assert "/no/such/folder" in report["missing"]


def test_the_grid_is_upright_centred_and_without_overlap():
    for count in (1, 2, 5, 12, 100):
        places = [grid_place(number, count) for number in range(count)]
        assert len(set(places)) == count
        xs, zs = zip(*places)
        assert abs(max(xs) + min(xs)) < 1e-9 and abs(max(zs) + min(zs)) < 1e-9
        assert zs == tuple(sorted(zs, reverse=True)), "row by row from the top"
        assert max(xs) - min(xs) <= 0.4 * (count**0.5 + 1)


def test_a_broken_or_missing_table_is_empty(tmp_path):
    assert read_table(tmp_path) == []
    for text in ("", "{", "[]", '{"people": 5}', '{"people": [5]}', '{"people": [{"name": "x"}]}'):
        (tmp_path / "batch.json").write_text(text)
        assert read_table(tmp_path) == []


def test_the_output_of_an_earlier_run_over_the_folder_is_used_again_and_no_other(tmp_path):
    first, second = tmp_path / "a" / "people", tmp_path / "b" / "people"
    parent = tmp_path / "results"
    assert output_folder(parent, first) == parent / "people"
    (parent / "people").mkdir(parents=True)
    table = {"people": [{"name": "x", "state": "done", "photos": [str(first / "sub" / "x.jpg")]}]}
    (parent / "people" / "batch.json").write_text(json.dumps(table))
    assert output_folder(parent, first) == parent / "people"
    assert output_folder(parent, second) == parent / "people-2"
