# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender reads out of exported files against the head model itself: shape, motions, UVs, normals, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from test_blender_import import run_blender
from test_glb import validate

NAMES = {"skin": "Head", "eye_left": "EyeLeft", "eye_right": "EyeRight", "teeth": "Teeth", "tongue": "Tongue",
         "lashes": "Lashes"}
VALUES = {"jawOpen": 0.5, "mouthSmileLeft": 0.25}
FILES = [f"{kind} {level}" for kind in ("GLB", "FBX", "OBJ", "USD") for level in (0, 1)]
STEP = 1.5 / 255  # of a picture's values


class Truth(NamedTuple):
    """A part as the head model has it, in Blender's world: points (V, 3), motions (52, V, 3), corners, UVs (C, 2),
    numbers of corners of its faces, sorted."""

    points: np.ndarray
    motions: np.ndarray
    corners: np.ndarray
    uvs: np.ndarray
    sizes: np.ndarray


class Back(NamedTuple):
    """What came back of every file, and what went in."""

    report: dict
    arrays: dict[str, np.ndarray]
    truth: dict[tuple[str, int], Truth]
    expressions: list[str]
    bundle: Path
    out: Path

    def mesh(self, file: str, part: str) -> str:
        """The name under which a part's arrays are kept: USD has a prim for the place and one for the mesh."""
        found = [name for name, entry in self.report[file].items() if entry["type"] == "MESH"
                 and name.split(".")[0] == NAMES[part]]
        assert len(found) == 1, (file, part, list(self.report[file]))
        return found[0]

    def array(self, file: str, part: str, what: str) -> np.ndarray:
        return self.arrays[f"{file} {self.mesh(file, part)} {what}"]


def to_world(vectors: np.ndarray, placed: np.ndarray, move: bool) -> np.ndarray:
    """(..., 3) GLB axes of the model -> Blender's world."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    turned = np.stack([x, -z, y], -1) @ placed[:3, :3].T
    return turned + placed[:3, 3] if move else turned


def model(bundle: Path, placed: np.ndarray) -> dict[tuple[str, int], Truth]:
    """Cage and level 1 of the head model; the latter by the fixed matrix that the fit renders with."""
    import torch

    from backend.head.model import load_head

    head = load_head()
    with np.load(bundle / "head.npz") as file:
        cage = torch.tensor(file["verts"] + file["offsets"])
        quads, uvs, part = file["quads"], file["corner_uvs"], file["part"]
        names = [str(name) for name in file["part_names"]]
        deltas = torch.tensor(file["expression_deltas"])
    fine, moved = head.subdivide(cage[None])[0], head.subdivide(deltas)
    tri, tri_part = head.tri1.long().numpy(), head.tri1_part.numpy()
    found = {}
    for number, name in enumerate(names):
        cage_sizes = np.sort(np.where(quads[part == number, 2] == quads[part == number, 3], 3, 4))
        for level, (points, motions, faces, face_uvs) in enumerate((
            (cage, deltas, quads[part == number], uvs[part == number]),
            (fine, moved, tri[tri_part == number], head.uv1.numpy()[tri[tri_part == number]]),
        )):
            used, corners = np.unique(faces, return_inverse=True)
            found[name, level] = Truth(
                to_world(points.numpy()[used], placed, True), to_world(motions.numpy()[:, used], placed, False),
                corners.reshape(-1), face_uvs.reshape(-1, 2), np.full(cage_sizes.sum(), 4) if level else cage_sizes)
    return found


@pytest.fixture(scope="module")
def back(bpy_python, extension_zip, tmp_path_factory, head_files) -> Back:
    import real_bundle

    folder = tmp_path_factory.mktemp("export")
    bundle, rng = folder / "astrid", np.random.default_rng(5)
    real_bundle.make(bundle)
    normal = (rng.normal(0, 20, (256, 256, 3)) + [128, 128, 230]).clip(0, 255).astype(np.uint8)
    roughness = rng.integers(60, 200, (128, 128)).astype(np.uint8)
    hair = rng.integers(0, 255, (512, 512, 4)).astype(np.uint8)
    hair[:256, :, 3] = 0
    for name, picture in (("normal", normal), ("roughness", roughness), ("hair", hair)):
        Image.fromarray(picture).save(bundle / f"{name}.png")
    out = folder / "out"
    out.mkdir()
    job = {"zip": str(extension_zip), "bundle": str(bundle), "out": str(out)}
    run_blender(bpy_python, "export_back.py", job, folder / "profile")
    report = json.loads((out / "back.json").read_text("utf-8"))
    with np.load(out / "back.npz") as file:
        arrays = dict(file)
    with np.load(bundle / "head.npz") as file:
        expressions = [str(name) for name in file["expression_names"]]
    return Back(report, arrays, model(bundle, np.array(report["placed"])), expressions, bundle, out)


def pairs(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """How far the farthest of either set (N, D) lies from the other, both ways."""
    return float(cKDTree(b).query(a)[0].max()), float(cKDTree(a).query(b)[0].max())


def picture(path: Path) -> np.ndarray:
    """(H, W, C) in [0, 1], row 0 at the bottom as in Blender."""
    return np.asarray(Image.open(path), np.float64)[::-1] / 255


def vertex_normals(points: np.ndarray, sizes: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(C, 3) at every corner the vertex's normal: its faces' normals weighted by the angles at the vertex."""
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.arange(len(corners)) - np.repeat(start, sizes)
    size, first = np.repeat(sizes, sizes), np.repeat(start, sizes)
    here = points[corners]
    after, before = (points[corners[first + (place + step) % size]] - here for step in (1, -1))
    middle = here[first]
    face = np.add.reduceat(np.cross(here - middle, after + here - middle), start)
    face /= np.linalg.norm(face, axis=1, keepdims=True)
    cosine = (after * before).sum(1) / (np.linalg.norm(after, axis=1) * np.linalg.norm(before, axis=1))
    total = np.zeros_like(points)
    np.add.at(total, corners, np.arccos(cosine.clip(-1, 1))[:, None] * np.repeat(face, sizes, 0))
    return (total / np.linalg.norm(total, axis=1, keepdims=True))[corners]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", NAMES)
def test_points_and_expressions_are_the_model_s_in_metres(back, file, part):
    """All points with all their 52 motions at once, both ways; OBJ has the present expression in its points."""
    truth, motions = back.truth[part, int(file[-1])], []
    points = back.array(file, part, "points")
    wanted = truth.points
    if file.startswith("OBJ"):
        wanted = wanted + sum(value * truth.motions[back.expressions.index(name)] for name, value in VALUES.items())
    else:
        kept = f"{file} {back.mesh(file, part)} key "
        moving = [name for name, motion in zip(back.expressions, truth.motions) if np.abs(motion).max() > 1e-6]
        found = [name.removeprefix(kept) for name in back.arrays if name.startswith(kept)]
        assert found == moving
        motions = [back.arrays[kept + name] for name in found]
        wanted = np.concatenate([wanted, *truth.motions[[back.expressions.index(name) for name in found]]], 1)
    assert max(pairs(np.concatenate([points, *motions], 1), wanted)) < 2e-5
    if not file.startswith("GLB"):
        assert len(points) == len(truth.points)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", NAMES)
def test_uvs_and_faces_are_the_model_s(back, file, part):
    truth = back.truth[part, int(file[-1])]
    uvs, corners = back.array(file, part, "uvs"), back.array(file, part, "corners")
    points = back.array(file, part, "points")
    wanted = truth.points
    if file.startswith("OBJ"):
        wanted = wanted + sum(value * truth.motions[back.expressions.index(name)] for name, value in VALUES.items())
    found, wanted = (np.concatenate([a, 0.1 * b], 1) for a, b in ((points[corners], uvs),
                                                                 (wanted[truth.corners], truth.uvs)))
    assert max(pairs(found, wanted)) < 4e-5
    sizes = back.array(file, part, "sizes")
    if file.startswith("GLB"):
        assert set(sizes) == {3}
    else:
        assert np.array_equal(np.sort(sizes), truth.sizes)
    assert back.report[file][back.mesh(file, part)]["layers"] == [1, 0]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", NAMES)
def test_normals_are_smooth_and_point_outwards(back, file, part):
    """Against normals computed here from the quads that FBX and OBJ have brought back."""
    source = file if file.startswith("OBJ") else f"FBX {file[-1]}"
    points, sizes, corners, uvs = (back.array(source, part, what) for what in ("points", "sizes", "corners", "uvs"))
    wanted = vertex_normals(points, sizes, corners)
    place = np.concatenate([points[corners], 0.1 * uvs], 1)
    found, at = back.array(file, part, "normals"), back.array(file, part, "corners")
    nearest = cKDTree(place).query(np.concatenate([back.array(file, part, "points")[at],
                                                   0.1 * back.array(file, part, "uvs")], 1))[1]
    cosine = (found * wanted[nearest]).sum(1)
    middle, worst = np.degrees(np.arccos(np.quantile(cosine, [0.5, 0.001]).clip(-1, 1)))
    assert middle < 0.3 and worst < 2.0
    if part in ("eye_left", "eye_right"):
        outwards = back.array(file, part, "points")[at] - back.array(file, part, "points").mean(0)
        assert ((found * outwards).sum(1) > 0).all()


@pytest.mark.parametrize("file", FILES)
def test_tree_names_places_and_weights(back, file):
    """Parts hang on the head, eyes turn about their centres, nothing is called .001, no other thing is in the file."""
    found = back.report[file]
    assert sum(entry["type"] == "MESH" for entry in found.values()) == 6
    assert {entry["type"] for entry in found.values()} <= {"MESH", "EMPTY", "ARMATURE"}
    for part in NAMES:
        entry = found[back.mesh(file, part)]
        slot = entry["material"]
        assert slot["slots"] == 1 and slot["name"].replace("_", " ") == f"astrid {part.replace('_', ' ')}"
        assert slot["Metallic"] == 0
        if file.startswith("OBJ"):
            continue
        node = found[entry["parent"]] if file.startswith("USD") else entry
        above = node["parent"]
        assert above is None if part == "skin" else above.split(".")[0] == "Head"
        if part in ("eye_left", "eye_right"):
            radii = np.linalg.norm(back.truth[part, 0].points - node["origin"], axis=1)
            assert np.ptp(radii) < 0.15 * radii.mean()  # a ball with its cornea
        moved = {name: value for name, value in entry["values"].items() if value}
        assert moved == pytest.approx({name: VALUES[name] for name in VALUES if name in entry["values"]})
    assert file.startswith("OBJ") or found[back.mesh(file, "skin")]["values"]["jawOpen"] == 0.5


@pytest.mark.parametrize("file", FILES)
def test_pictures_are_found_and_the_bundle_s(back, file):
    """The skin's is albedo under hair, mixed linearly; normal and roughness maps unchanged; eyes' as in the scene."""
    albedo, hair = picture(back.bundle / "albedo.png"), picture(back.bundle / "hair.png")

    def decoded(values: np.ndarray) -> np.ndarray:
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    mixed = decoded(albedo) + hair[..., 3:] * (decoded(hair[..., :3]) - decoded(albedo))
    wanted = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
    color = back.array(file, "skin", "Base Color")[..., :3]
    assert np.abs(color - wanted).max() < STEP
    assert np.array_equal(np.round(255 * color[256:]), np.round(255 * albedo[256:])), "there is no hair"
    normal, roughness = back.array(file, "skin", "Normal"), back.array(file, "skin", "Roughness")
    assert np.abs(normal[..., :3] - picture(back.bundle / "normal.png")).max() < STEP / 3
    assert np.abs(roughness[..., 1] - picture(back.bundle / "roughness.png")).max() < STEP / 3
    slot = back.report[file][back.mesh(file, "skin")]["material"]
    assert slot["Base Color space"] == "sRGB"
    if not file.startswith("OBJ"):  # Blender's reader of OBJ takes every picture for a colour
        assert slot["Normal space"] == slot["Roughness space"] == "Non-Color"
    for part in ("eye_left", "eye_right"):
        assert np.abs(back.array(file, part, "Base Color") - back.arrays["eye"]).max() < STEP / 3


@pytest.mark.parametrize("part", ["teeth", "tongue", "lashes"])
def test_colours_of_other_parts_lie_at_their_corners(back, part):
    """Every file's picture has at a corner's UV what the palette gives its vertex."""
    with np.load(back.bundle / "head.npz") as file:
        number = [str(name) for name in file["part_names"]].index(part)
        used = np.unique(file["quads"][file["part"] == number])
        weights, names = file["palette_weights"][used], [str(name) for name in file["palette_names"]]
    palette = json.loads((back.bundle / "result.json").read_text("utf-8"))["palette"]
    truth = back.truth[part, 0]
    wanted = (weights @ np.array([palette[name] for name in names]))[truth.corners]
    for file in FILES:
        image = back.array(file, part, "Base Color")
        at = (truth.uvs * image.shape[0]).astype(int).clip(0, image.shape[0] - 1)
        off = np.abs(image[at[:, 1], at[:, 0], :3] - wanted).max(1)
        assert np.median(off) < 0.02 and np.quantile(off, 0.9) < 0.12, file


def test_an_export_leaves_the_artist_s_work_alone(back):
    """Frames, names, selection, and the weight that was set over a keyframe but not keyed yet."""
    before, after = back.report["kept"]
    assert before == after and 0.25 in before[3]
    assert not back.report["left in the folder"], "files beside those that belong to a format"


def test_obj_has_the_y_axis_up(back):
    """Read as text: OBJ's x, y, z are Blender's x, z, -y, in metres."""
    lines = (back.out / "obj0_moved" / "obj0.obj").read_text("utf-8").splitlines()
    points = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float)
    every = np.concatenate([back.array("FBX 0", part, "points") for part in NAMES])
    jaw = np.abs(points[:, [0, 2, 1]] * [1, -1, 1] - every.mean(0)).max(0) - np.abs(every - every.mean(0)).max(0)
    assert np.abs(jaw).max() < 0.03  # the open jaw's own motion


def test_glb_passes_the_validator(back, gltf_validator, tmp_path):
    for level in (0, 1):
        data = (back.out / f"glb{level}_moved" / f"glb{level}.glb").read_bytes()
        report = validate(gltf_validator, data, tmp_path)
        issues = [issue for issue in report["issues"]["messages"] if issue["severity"] < 2]
        assert {issue["code"] for issue in issues} <= {"MESH_PRIMITIVE_GENERATED_TANGENT_SPACE"}, issues[:3]


def test_usd_passes_pixar_s_checker(back):
    if back.report["complaints 0"] is None:
        pytest.skip("this Blender brings no checker for USD")
    assert back.report["complaints 0"] == back.report["complaints 1"] == []
