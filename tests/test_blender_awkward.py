# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads that were renamed, hidden, excluded or emptied, in real Blender: nothing is lost, nothing is silently wrong."""

from __future__ import annotations

import json

import pytest
from test_blender_import import run_blender


@pytest.fixture(scope="module")
def report(bpy_python, extension_zip, tmp_path_factory) -> dict:
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("awkward")
    job = {"zip": str(extension_zip), "bundle": str(make_bundle(folder / "dora")), "out": str(folder)}
    run_blender(bpy_python, "awkward.py", job, folder / "profile")
    return json.loads((folder / "awkward.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["match", "studio"])
def test_what_was_changed_is_put_back_whatever_it_is_called(report, name):
    before, during, after = report[name]
    assert before != during and before["camera"] and before["world"]
    assert after == before


def test_a_deleted_camera_stays_deleted(report):
    assert report["deleted camera"]


def test_hiding_hair_leaves_the_rest_of_its_collection_alone(report):
    """Blender rebuilds a collection's list of objects at that moment: going through it meanwhile crashed."""
    assert report["hair"] == [True, False, False]


@pytest.mark.parametrize("state", ["disable", "exclude"])
def test_a_hidden_head_is_exported_as_it_is(report, state):
    """At the level that was asked for; Blender evaluates no modifiers of what is disabled in viewports."""
    assert report["nothing"]["error"] == report[state]["error"] == ""
    assert report[state]["vertices"] == report["nothing"]["vertices"] > 1000
    assert report[state]["keys"] == report["nothing"]["keys"]
    assert report["nothing"]["sculpt_prepare"] and report["nothing"]["paint_skin"]
    assert not report[state]["sculpt_prepare"] and not report[state]["paint_skin"]


def test_heads_without_our_material_or_faces_are_exported(report):
    for state in ("no_material", "own_material", "no_faces"):
        assert report[state]["error"] == "" and report[state]["keys"] == report["nothing"]["keys"]
    assert report["no_faces"]["vertices"] == report["nothing"]["vertices"]
    assert report["own_material"]["color"] == [pytest.approx([0.1, 0.2, 0.3], abs=1e-6)]
    assert not report["no_material"]["paint_skin"]


def test_painting_without_pictures_begins(report):
    assert report["no pictures"] == ["", "PAINT_TEXTURE"]


def test_sculpting_without_faces_ends_with_a_sentence(report):
    message, added = report["no faces"]
    assert "no faces" in message and added == 0


def test_a_linked_head_is_exported_but_not_added_to(report):
    found = report["linked"]
    assert found.pop("export") and found.pop("error") == ""
    assert not any(found.values())


def test_good_news_are_not_told_in_another_file(report):
    assert report["news"] == ""
