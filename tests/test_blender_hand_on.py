# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports, eye target, asset and licences in real Blender; the files are read by other programs as well."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_blender_import import run_blender
from test_glb import validate

from ganfit_blender import licence

PARTS = ["EyeLeft", "EyeRight", "Head", "Lashes", "Teeth", "Tongue"]


class HandedOn(NamedTuple):
    """What the script wrote down, and what went in."""

    report: dict
    head: dict[str, np.ndarray]
    out: Path


@pytest.fixture(scope="module")
def handed_on(bpy_python, extension_zip, tmp_path_factory) -> HandedOn:
    from synthetic_bundle import make_bundle, write_png

    folder = tmp_path_factory.mktemp("hand_on")
    bundle = make_bundle(folder / "dora")
    y, x = np.mgrid[:200, :300]
    inside = (x - 150) ** 2 + (y - 80) ** 2 < 60**2
    picture = np.stack([np.full_like(x, 200), np.full_like(x, 120), np.full_like(x, 90), inside * 255], -1)
    write_png(bundle / "render_00.png", picture.astype(np.uint8))
    result = json.loads((bundle / "result.json").read_text("utf-8"))
    result["licences"] = [{"name": "makehuman", "licence": "CC0-1.0", "sellable": True}]
    (bundle / "result.json").write_text(json.dumps(result), "utf-8")
    job = {"zip": str(extension_zip), "bundle": str(bundle), "out": str(folder)}
    run_blender(bpy_python, "hand_on.py", job, folder / "profile")
    report = json.loads((folder / "hand_on.json").read_text("utf-8"))
    return HandedOn(report, dict(np.load(bundle / "head.npz")), folder)


def read_glb(path: Path) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a GLB."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def accessor(document: dict, blob: bytes, number: int) -> np.ndarray:
    """(n, 3) float32 of an accessor, dense or sparse."""
    entry = document["accessors"][number]
    values = np.zeros((entry["count"], 3), np.float32)
    if "bufferView" in entry:
        start = document["bufferViews"][entry["bufferView"]].get("byteOffset", 0) + entry.get("byteOffset", 0)
        values = np.frombuffer(blob, np.float32, entry["count"] * 3, start).reshape(-1, 3).copy()
    if "sparse" in entry:
        sparse = entry["sparse"]
        kind = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32}[sparse["indices"]["componentType"]]
        at = document["bufferViews"][sparse["indices"]["bufferView"]].get("byteOffset", 0)
        indices = np.frombuffer(blob, kind, sparse["count"], at + sparse["indices"].get("byteOffset", 0))
        at = document["bufferViews"][sparse["values"]["bufferView"]].get("byteOffset", 0)
        found = np.frombuffer(blob, np.float32, sparse["count"] * 3, at + sparse["values"].get("byteOffset", 0))
        values[indices] = found.reshape(-1, 3)
    return values


def test_nothing_of_an_export_stays_in_the_file(handed_on):
    assert handed_on.report["left over"] == [True, True]


def test_glb_is_valid(handed_on, gltf_validator, tmp_path):
    for name in ("head_glb.glb", "smooth.glb"):
        report = validate(gltf_validator, (handed_on.out / name).read_bytes(), tmp_path)
        assert report["issues"]["numErrors"] == 0, report["issues"]["messages"][:3]


def test_glb_has_the_parts_the_52_targets_and_the_present_weights(handed_on):
    document, _ = read_glb(handed_on.out / "head_glb.glb")
    assert sorted(node["name"] for node in document["nodes"]) == PARTS
    node = next(node for node in document["nodes"] if node["name"] == "Head")
    mesh = document["meshes"][node["mesh"]]
    names = mesh["extras"]["targetNames"]
    assert names == [str(name) for name in handed_on.head["expression_names"]]
    weights = dict(zip(names, mesh["weights"], strict=True))
    assert weights.pop("jawOpen") == pytest.approx(0.5) and not any(weights.values())
    assert len(document["images"]) >= 4 and all("pbrMetallicRoughness" in m for m in document["materials"])


def test_glb_is_the_neutral_head_with_its_shape_baked_in(handed_on):
    """Points and the jaw's motion are head.npz's, in GLB axes."""
    document, blob = read_glb(handed_on.out / "head_glb.glb")
    node = next(node for node in document["nodes"] if node["name"] == "Head")
    primitive = document["meshes"][node["mesh"]]["primitives"][0]
    found = accessor(document, blob, primitive["attributes"]["POSITION"])
    skin = np.unique(handed_on.head["quads"][handed_on.head["part"] == 0])
    wanted = (handed_on.head["verts"] + handed_on.head["offsets"]
              + handed_on.head["identity_deltas"][0].astype(np.float32))[skin]
    distance = np.linalg.norm(found[:, None] - wanted[None], axis=2)
    assert distance.min(1).max() < 1e-6 and distance.min(0).max() < 1e-6
    names = [str(name) for name in handed_on.head["expression_names"]]
    moved = accessor(document, blob, primitive["targets"][names.index("jawOpen")]["POSITION"])
    delta = handed_on.head["expression_deltas"][names.index("jawOpen")][skin]
    np.testing.assert_allclose(moved, delta[distance.argmin(1)], atol=1e-6)


def test_another_reader_finds_texture_and_size(handed_on):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.load(handed_on.out / "smooth.glb")
    assert sorted(scene.geometry) == PARTS or len(scene.geometry) == 6
    skin = max(scene.geometry.values(), key=lambda mesh: len(mesh.vertices))
    assert skin.visual.material.baseColorTexture.size == (128, 128)
    loaded = trimesh.load(handed_on.out / "head_obj.obj")
    assert np.abs(scene.bounds - loaded.bounds).max() < 0.02


@pytest.mark.parametrize("kind", ["FBX", "USD"])
def test_blender_reads_it_back(handed_on, kind):
    found = handed_on.report[f"read {kind}"]
    names = [str(name) for name in handed_on.head["expression_names"]]
    assert [key for key in found["keys"] if key != "Basis"] == names
    jaw = np.linalg.norm(handed_on.head["expression_deltas"][names.index("jawOpen")], axis=1).max()
    lowest = {"FBX": 0.999, "USD": 0.3}[kind]  # USD was written smooth, which flattens a motion of few vertices
    assert lowest * jaw / np.sqrt(3) < found["jaw"] <= 1.001 * jaw
    assert found["height"] == pytest.approx(0.09, abs=0.006) and found["images"]


def test_textures_lie_beside_the_files(handed_on):
    files = handed_on.report["files"]
    assert "head_obj.mtl" in files and any(name.startswith("head_obj_textures/Head") for name in files)
    lines = (handed_on.out / "head_obj.mtl").read_text("utf-8").splitlines()
    maps = [line.split(maxsplit=1)[1] for line in lines if line.startswith("map_Kd")]
    assert len(maps) == 6 and all((handed_on.out / name).is_file() for name in maps), maps
    assert "no folder" in handed_on.report["no folder"]


def test_eyes_look_at_the_target_and_lids_follow(handed_on):
    found = handed_on.report["look"]
    assert handed_on.report["straight"] < 0.2
    for (off, x, y, z), side in zip(found["eyes"], ("Left", "Right"), strict=True):
        assert off < 1e-3
        pitch, yaw = np.degrees(np.arcsin(z)), np.degrees(np.arctan2(x, -y))
        outward = yaw if side == "Left" else -yaw
        lids = found["evaluated"]
        assert lids[f"look_at_eyeLookUp{side}"] == pytest.approx(np.clip(pitch / 14, 0, 1), abs=0.08)
        assert lids[f"look_at_eyeLookDown{side}"] == 0
        assert lids[f"look_at_eyeLookOut{side}"] == pytest.approx(np.clip(outward / 26, 0, 1), abs=0.08)
        assert lids[f"look_at_eyeLookIn{side}"] == pytest.approx(np.clip(-outward / 26, 0, 1), abs=0.08)


def test_eye_look_keys_stay_free_and_the_rig_goes_without_a_trace(handed_on):
    assert handed_on.report["free"][0] == pytest.approx(0.7)
    assert handed_on.report["off"] < 1e-4
    assert handed_on.report["removed"] == [True, [0, 0], 0, 0]


def test_asset_has_preview_tags_and_licence(handed_on):
    found = handed_on.report["asset"]
    assert found["tags"] == ["head", "face", "GANFIT"] and found["licence"] == "CC0-1.0"
    assert found["size"] == [256, 256] and 0.2 < found["mean"] < 0.6
    assert "person_0.jpg" in found["description"] and handed_on.report["unmarked"]


def test_may_i_sell_this(handed_on):
    """Yes only if every part of it says so; a result of an earlier version is answered by the backend's list."""
    assert handed_on.report["verdict"] == licence.YES
    mixed = {"licences": [{"name": "a", "licence": "CC0-1.0", "sellable": True},
                          {"name": "facenet", "licence": "research", "sellable": False}]}
    assert licence.answer(mixed).verdict == licence.NO
    old = {"assets": {"makehuman": "0.6.2"}}
    assert licence.answer(old).verdict == licence.UNKNOWN
    listed = [{"name": "makehuman", "licence": "CC0-1.0", "sellable": True}]
    assert licence.answer(old, listed).verdict == licence.YES
    assert licence.answer({}).verdict == licence.UNKNOWN


def farthest(a: np.ndarray, b: np.ndarray) -> float:
    """How far the farthest of either set (N, 3) lies from the other."""
    def one_way(points: np.ndarray, others: np.ndarray) -> float:
        return max(float(np.linalg.norm(part[:, None] - others[None], axis=2).min(1).max())
                   for part in np.array_split(points, max(1, len(points) // 200)))

    return max(one_way(a, b), one_way(b, a))


def head_mesh(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The head's points of a GLB in Blender's axes, and the motions of its targets."""
    document, blob = read_glb(path)
    node = next(node for node in document["nodes"] if node["name"] == "Head")
    mesh = document["meshes"][node["mesh"]]
    primitive = mesh["primitives"][0]

    def read(number: int) -> np.ndarray:
        x, y, z = accessor(document, blob, number).T
        return np.stack([x, -z, y], 1)

    names = mesh.get("extras", {}).get("targetNames", [])
    targets = {name: read(target["POSITION"]) for name, target in zip(names, primitive.get("targets", []))}
    return read(primitive["attributes"]["POSITION"]), targets


def test_sculpted_detail_is_in_the_file_with_the_expressions(handed_on):
    """What Blender shows of the multires: the sculpt under way, the head after the transfer, and with its jaw open."""
    with np.load(handed_on.out / "detail.npz") as shown:
        sculpt, transferred, jaw = (shown[name] for name in ("sculpt", "transferred", "jaw"))
    assert handed_on.report["left of a sculpt"]
    assert farthest(head_mesh(handed_on.out / "under_way.glb")[0], sculpt) < 1e-5
    points, targets = head_mesh(handed_on.out / "detail.glb")
    assert farthest(points, transferred) < 1e-5 and len(targets) > 40
    assert farthest(points + targets["jawOpen"], jaw) < 1e-5
    plain, _ = head_mesh(handed_on.out / "smooth.glb")
    assert farthest(plain, transferred) > 2e-3, "the sculpt moves the head by 8 mm"


def test_the_finest_levels_have_the_expression_itself(handed_on):
    with np.load(handed_on.out / "detail.npz") as shown:
        jaw = shown["jaw"]
    points, targets = head_mesh(handed_on.out / "finest.glb")
    assert not targets and len(points) > 10 * len(jaw)
    near = np.linalg.norm(jaw[::7, None] - points[None], axis=2).min(1)
    assert np.quantile(near, 0.95) < 2e-4  # metres: two more levels round off the last one's corners
