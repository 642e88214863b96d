# SPDX-License-Identifier: GPL-3.0-or-later
"""The fitted head on MakeHuman's body: order and groups that MPFB relies on, a neck without a step, rig, units."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import NamedTuple

import numpy as np
import pytest
from test_blender_import import SCRIPTS, run_blender

from backend import assets
from backend.head import makehuman
from ganfit_blender import protocol, setup_env
from ganfit_blender.job import FINISHED, WorkerJob
from ganfit_blender.worker_client import WorkerClient

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in's Python is a shell script")
BODY = 13380  # MakeHuman's vertices up to this one are skin


class Bodied(NamedTuple):
    """What the script wrote down, and what went in."""

    report: dict
    arrays: dict[str, np.ndarray]
    base: makehuman.BaseMesh
    data: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def data(tmp_path_factory, head_files) -> dict[str, np.ndarray]:
    """`body.npz` as the real worker writes it."""
    folder = tmp_path_factory.mktemp("worker")
    root = SCRIPTS.parent.parent
    environment = setup_env.backend_environment(root, None)
    client = WorkerClient([sys.executable, "-m", "backend", "serve"], environment, folder / "log")
    try:
        status = WorkerJob(client, protocol.BODY_EXPORT, {"out": str(folder / "deep" / "body.npz")}).wait()
    finally:
        client.kill()
    assert status.state == FINISHED, status.error
    assert [path.name for path in (folder / "deep").iterdir()] == ["body.npz"]
    with np.load(status.result["body"], allow_pickle=False) as arrays:
        return {"path": np.array(status.result["body"]), **{name: arrays[name] for name in arrays.files}}


@pytest.fixture(scope="module")
def bodied(bpy_python, extension_zip, data, tmp_path_factory) -> Bodied:
    import real_bundle

    folder = tmp_path_factory.mktemp("body")
    real_bundle.make(folder / "emil")
    python = folder / "python"
    fake = shlex.quote(str(SCRIPTS / "fake_backend"))
    python.write_text(f"#!/bin/sh\nPYTHONPATH={fake} exec {shlex.quote(sys.executable)} \"$@\"\n")
    python.chmod(0o755)
    job = {"zip": str(extension_zip), "python": str(python), "bundle": str(folder / "emil"), "body": str(data["path"]),
           "out": str(folder)}
    run_blender(bpy_python, "body.py", job, folder / "profile", FAKE_WORKER="ok")
    base = makehuman.read_base(assets.require("makehuman"))
    report = json.loads((folder / "body.json").read_text("utf-8"))
    return Bodied(report, dict(np.load(folder / "body_report.npz")), base, data)


def moved(bodied: Bodied, name: str = "body", sex: str = "female") -> np.ndarray:
    """(N, 3) how far each vertex lies from where the similarity of the far body puts it, metres."""
    found = bodied.arrays[name]
    x, y, z = (bodied.data["verts"] + bodied.data[sex]).T
    plain = 0.1 * np.stack([x, -z, y], 1)
    feet = np.flatnonzero(plain[:BODY, 2] < plain[:BODY, 2].min() + 0.3)
    a, b = plain[feet], found[feet]
    scale = np.sqrt(((b - b.mean(0)) ** 2).sum() / ((a - a.mean(0)) ** 2).sum())
    return found - (scale * (plain - a.mean(0)) + b.mean(0))


def test_exported_body_is_makehuman_s_mean_adult(data):
    """The two sexes' mean is what the head model starts from; base.obj's own numbers are untouched."""
    folder = assets.require("makehuman")
    base = makehuman.read_base(folder)
    np.testing.assert_allclose(data["verts"], base.verts, atol=1e-5)
    adult, _ = makehuman.read_identity(folder, len(base.verts))
    np.testing.assert_allclose((data["female"] + data["male"]) / 2, adult, atol=1e-5)
    heights = [np.ptp((data["verts"] + data[sex])[:BODY, 1]) for sex in ("female", "male")]
    assert 15.0 < heights[0] < heights[1] < 19.0


def test_order_faces_and_groups_are_makehuman_s(bodied):
    found = bodied.report["metres"]
    assert found["vertices"] == len(bodied.base.verts) == 19158
    np.testing.assert_array_equal(bodied.arrays["quads"], bodied.base.quads)
    assert found["groups"]["body"] == list(range(BODY))
    assert found["groups"]["joint-head"] == list(range(14070, 14078))
    helper = np.unique(bodied.base.quads[bodied.base.group == "helper-l-eye"])
    assert found["groups"]["helper-l-eye"] == helper.tolist()
    assert found["group count"] == len(bodied.data["group_names"])


def test_mpfb_recognises_it(bodied):
    """The properties that MPFB's services read, and its mask, which leaves the skin alone to be seen."""
    found = bodied.report["metres"]
    assert found["mpfb"]["MPFB_GEN_object_type"] == "Basemesh" and found["mpfb"]["MPFB_HUM_gender"] == 0.0
    assert found["modifiers"][0] == ["Hide helpers", "MASK"]
    x, y, z = bodied.base.verts.T
    height = np.ptp((bodied.data["verts"] + bodied.data["female"])[:BODY, 1])
    far = np.flatnonzero(np.linalg.norm(moved(bodied)[:BODY], axis=1) < 1e-5)
    lowest = bodied.arrays["body"][far, 2].min()
    top = bodied.arrays["body"][:BODY, 2].max()
    assert found["mpfb"]["MPFB_GEN_scale_factor"] == pytest.approx((top - lowest) / height, rel=0.05)


def test_the_face_is_the_fitted_one(bodied):
    np.testing.assert_allclose(bodied.arrays["body"][bodied.arrays["index"]], bodied.arrays["head"], atol=1e-6)


def test_the_body_below_the_shoulders_is_makehuman_s(bodied):
    off = np.linalg.norm(moved(bodied)[:BODY], axis=1)
    low = bodied.arrays["body"][:BODY, 2] < -0.45
    assert low.sum() > 5000 and off[low].max() < 1e-5


def test_the_neck_has_no_step(bodied):
    """Across the loop the motion changes from edge to edge as little as it does inside the head's own neck."""
    motion, index = moved(bodied), bodied.arrays["index"]
    faces = bodied.base.quads[(bodied.base.quads < BODY).all(1)]
    edges = np.unique(np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1), axis=0)
    inside = np.zeros(len(motion), bool)
    inside[index] = True
    length = np.linalg.norm(bodied.arrays["body"][edges[:, 0]] - bodied.arrays["body"][edges[:, 1]], axis=1)
    strain = np.linalg.norm(motion[edges[:, 0]] - motion[edges[:, 1]], axis=1) / length
    crossing = inside[edges].any(1) & ~inside[edges].all(1)
    neck = inside[edges].all(1) & (bodied.arrays["body"][edges, 2].mean(1) < -0.15)
    below = ~inside[edges].any(1) & (np.linalg.norm(motion[edges[:, 0]], axis=1) > 1e-6)
    print(f"strain: neck {np.percentile(strain[neck], 95):.3f}, across {strain[crossing].max():.3f}, "
          f"below {strain[below].max():.3f}")
    assert crossing.sum() > 20
    assert strain[crossing].max() < 1.5 * np.percentile(strain[neck], 95) + 0.05
    assert strain[below].max() < 0.45


def test_eyes_sit_in_makehuman_s_eye_helpers(bodied):
    helper = np.unique(bodied.base.quads[bodied.base.group == "helper-l-eye"])
    ours, theirs = bodied.arrays["eye"], bodied.arrays["body"][helper]
    assert np.linalg.norm((ours.min(0) + ours.max(0)) / 2 - (theirs.min(0) + theirs.max(0)) / 2) < 0.0015


def test_head_s_texture_lies_on_the_head_alone(bodied):
    index, quads = bodied.arrays["index"], bodied.base.quads
    inside = np.zeros(len(bodied.base.verts), bool)
    inside[index] = True
    on_head = inside[quads].all(1)
    assert np.abs(bodied.arrays["uv"][~on_head]).max() == 0
    assert (np.ptp(bodied.arrays["uv"][on_head].reshape(-1, 2), axis=0) > 0.9).all()
    shade = bodied.arrays["shade"]
    assert (shade[~inside] == 1).all() and shade[index].min() == 0 and (shade[index] == 0).mean() > 0.8


def test_expressions_follow_the_hidden_head(bodied):
    found = bodied.report["metres"]
    assert len(found["keys"]) == 53 and found["head hidden"] and found["head parent"]
    np.testing.assert_allclose(bodied.arrays["jaw body"], bodied.arrays["jaw head"], atol=1e-6)
    assert np.abs(bodied.arrays["jaw head"] - bodied.arrays["head"]).max() > 0.01


def test_eyes_and_teeth_go_with_the_rig_s_head(bodied):
    assert bodied.report["bone"] == ["Rig", "head"] and "no rig" in bodied.report["no rig"]
    np.testing.assert_allclose(bodied.arrays["rigged"], bodied.arrays["head"], atol=1e-5)
    np.testing.assert_allclose(bodied.arrays["posed"] - bodied.arrays["head"],
                               np.tile([0, 0, 0.1], (len(bodied.arrays["head"]), 1)), atol=1e-5)


def test_removing_the_body_leaves_the_head_as_it_was(bodied):
    assert bodied.report["removed"] == [True, False, True] and bodied.report["twice"] is False
    np.testing.assert_allclose(bodied.arrays["removed"], bodied.arrays["head"], atol=1e-6)
    assert "Add Body" in bodied.report["no body"]


def test_decimetres_are_ten_times_metres_and_feet_stand_on_the_ground(bodied):
    index = bodied.arrays["index"]
    np.testing.assert_allclose(bodied.arrays["body dm"][index], bodied.arrays["head dm"], atol=1e-5)
    size = np.ptp(bodied.arrays["head dm"], axis=0) / np.ptp(bodied.arrays["head"], axis=0)
    np.testing.assert_allclose(size, 10, rtol=1e-5)
    assert bodied.arrays["body dm"][:BODY, 2].min() == pytest.approx(0, abs=1e-4)
    metres, decimetres = (bodied.report[unit] for unit in ("metres", "decimetres"))
    ratio = decimetres["MPFB_GEN_scale_factor"] / metres["mpfb"]["MPFB_GEN_scale_factor"]
    assert 8.5 < ratio < 10  # MakeHuman's man has the larger head, so the same head gives him a smaller scale


def test_adding_and_removing_a_body_is_undone_in_one_step(bodied):
    assert bodied.report["undo"] == [[True, []], [True, []]]
