# SPDX-License-Identifier: GPL-3.0-or-later
"""The head's geometry: topology, subdivision, eyes, teeth, expressions, occlusion, cache."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import CODES
from backend.head import build, model
from backend.head.cage import Cage, build_cage, sphere_fit
from backend.head.model import HeadModel, load_head
from backend.head.occlusion import ambient_occlusion, groove_depth
from backend.head.parts import PARTS
from backend.head.subdivision import subdivide

ARKIT = """
browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft cheekSquintRight
eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight eyeLookOutLeft eyeLookOutRight
eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft jawOpen jawRight
mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft
mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower
mouthShrugUpper mouthSmileLeft mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight
noseSneerLeft noseSneerRight tongueOut
""".split()


@pytest.fixture(scope="module")
def cage() -> Cage:
    return build_cage()


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def pose(head: HeadModel, **weights: float) -> np.ndarray:
    """Level-1 vertices (V1, 3) of the mean head with an expression."""
    expression = torch.zeros(1, 52)
    for name, weight in weights.items():
        expression[0, head.expression_names.index(name)] = weight
    return head.subdivide(head.cage(torch.zeros(1, 1), expression))[0].numpy()


def part_vertices(head: HeadModel, name: str) -> np.ndarray:
    return np.unique(head.tri1[head.tri1_part == PARTS.index(name)].numpy())


def weight1(head: HeadModel, colour: str) -> np.ndarray:
    return head.palette_weights1[:, head.palette_names.index(colour)].numpy()


# ------------------------------------------------------------------------------------------------------- topology
def boundary_loops(quads: np.ndarray) -> list[int]:
    """Lengths of the boundary's closed loops; every edge must have one or two faces."""
    edges = Counter(
        tuple(sorted(edge)) for q in quads.tolist() for edge in zip(q, q[1:] + q[:1], strict=True) if edge[0] != edge[1]
    )
    assert max(edges.values()) <= 2
    beside: dict[int, list[int]] = {}
    for (a, b), count in edges.items():
        if count == 1:
            beside.setdefault(a, []).append(b)
            beside.setdefault(b, []).append(a)
    assert all(len(n) == 2 for n in beside.values())
    loops, left = [], set(beside)
    while left:
        length, todo = 0, [left.pop()]
        while todo:
            length += 1
            todo += [n for n in beside[todo.pop()] if n in left and not left.discard(n)]
        loops.append(length)
    return loops


def test_skin_is_a_disc_bounded_by_the_neck(cage: Cage) -> None:
    quads = cage.quads[cage.part == 0]
    edges = {tuple(sorted(e)) for q in quads.tolist() for e in zip(q, q[1:] + q[:1], strict=True)}
    assert len(np.unique(quads)) - len(edges) + len(quads) == 1  # Euler characteristic of a disc
    assert boundary_loops(quads) == [42]
    rim = [v for v, n in Counter(quads.ravel().tolist()).items() if n == 2]
    assert cage.verts[rim, 1].max() < -0.1  # lower than the chin's underside


def test_eyes_are_closed_spheres_that_face_outwards(head: HeadModel, cage: Cage) -> None:
    verts = pose(head)
    for part in (1, 2):
        assert boundary_loops(cage.quads[cage.part == part]) == []
        tri = head.tri1[head.tri1_part == part].numpy()
        centre, radius = sphere_fit(verts[np.unique(tri)])
        volume = np.linalg.det(verts[tri].astype(np.float64) - centre).sum() / 6
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.06)
        distance = np.linalg.norm(verts[np.unique(tri)] - centre, axis=1) - radius
        assert distance.min() > -0.0009 and distance.max() < 0.0009  # the cornea stands out, the facets go in


def test_skin_faces_outwards(head: HeadModel) -> None:
    verts, tri = pose(head), head.tri1[head.tri1_part == 0].numpy()
    normal = np.cross(verts[tri[:, 1]] - verts[tri[:, 0]], verts[tri[:, 2]] - verts[tri[:, 0]])
    centre = verts[tri].mean(1)
    assert normal[centre[:, 2].argmax(), 2] > 0  # tip of the nose
    assert normal[centre[:, 1].argmax(), 1] > 0  # crown
    assert normal[centre[:, 2].argmin(), 2] < 0  # back of the head


def test_mirror_maps_the_cage_onto_itself(cage: Cage) -> None:
    assert np.array_equal(cage.mirror[cage.mirror], np.arange(len(cage.verts)))
    assert np.abs(cage.verts[cage.mirror] * [-1, 1, 1] - cage.verts).max() < 1e-6
    faces = {tuple(sorted(set(q))) for q in cage.quads.tolist()}
    assert {tuple(sorted(set(q))) for q in cage.mirror[cage.quads].tolist()} == faces


def test_makehuman_indices_are_kept_on_skin_and_tongue(cage: Cage) -> None:
    for name in PARTS:
        own = cage.makehuman_index[cage.part_vertices(name)]
        if name in ("skin", "tongue"):
            assert len(np.unique(own)) == len(own) and own.min() >= 0
        else:
            assert (own == -1).all()


# ---------------------------------------------------------------------------------------------------- subdivision
def test_subdivided_cube_has_catmull_and_clarks_points() -> None:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    fine = subdivide(quads, 8)
    points = fine.smooth @ corners
    assert len(points) == 8 + 12 + 6
    assert np.allclose(points[:8], corners * 5 / 9)  # (F + 2R) / 3 with F = 1/3, R = 2/3
    assert np.allclose(np.sort(np.abs(points[8:20]), axis=1), [0, 0.75, 0.75])  # (1 + 1 + 1/2 + 1/2) / 4
    assert np.allclose(np.sort(np.abs(points[20:]), axis=1), [0, 0, 1])
    assert np.allclose(np.asarray(fine.smooth.sum(1)), 1)


def test_open_border_is_a_cubic_b_spline() -> None:
    quads = np.array([[i, i + 1, i + 5, i + 4] for i in range(3)])
    fine = subdivide(quads, 8)
    row = fine.smooth[1].toarray()[0]
    assert np.allclose(row, [1 / 8, 6 / 8, 1 / 8, 0, 0, 0, 0, 0])


def test_level_1_equals_blenders_subdivision_surface(head: HeadModel, bpy_python: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "cage.npz", verts=head.verts0.numpy(), quads=head.quads.numpy())
    script = f"""
import bpy, numpy as np
data = np.load(r"{tmp_path / 'cage.npz'}")
mesh = bpy.data.meshes.new("cage")
mesh.from_pydata(data["verts"].tolist(), [], [list(dict.fromkeys(q)) for q in data["quads"].tolist()])
item = bpy.data.objects.new("cage", mesh)
bpy.context.collection.objects.link(item)
modifier = item.modifiers.new("fine", "SUBSURF")
modifier.levels, modifier.use_limit_surface = 1, False
fine = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
points = np.zeros(len(fine.vertices) * 3, np.float32)
fine.vertices.foreach_get("co", points)
np.save(r"{tmp_path / 'fine.npy'}", points.reshape(-1, 3))
"""
    done = subprocess.run([bpy_python, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    from scipy.spatial import cKDTree

    theirs, ours = np.load(tmp_path / "fine.npy"), pose(head)
    assert len(theirs) == len(ours)
    assert cKDTree(theirs).query(ours)[0].max() < 1e-5
    assert cKDTree(ours).query(theirs)[0].max() < 1e-5


def test_gradients_through_model_match_finite_differences(head: HeadModel) -> None:
    generator = torch.Generator().manual_seed(0)
    identity = 0.3 * torch.randn(1, 5, generator=generator)
    expression = torch.rand(1, 52, generator=generator)
    direction = torch.randn(len(head.ao1), 3, generator=generator).double()

    def value(identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        return (head.subdivide(head.cage(identity, expression))[0].double() * direction).sum()

    identity.requires_grad_(True)
    expression.requires_grad_(True)
    value(identity, expression).backward()
    with torch.no_grad():
        for tensor, gradient, at in ((identity, identity.grad, 2), (expression, expression.grad, 24)):
            step = torch.zeros_like(tensor)
            step[0, at] = 0.5  # the model is linear: no truncation error
            pair = [(identity + s * step, expression) if tensor is identity else (identity, expression + s * step)
                    for s in (1, -1)]
            assert float(value(*pair[0]) - value(*pair[1])) == pytest.approx(float(gradient[0, at]), rel=1e-3, abs=1e-3)


# ------------------------------------------------------------------------------------------------ identity, expression
def test_expressions_are_the_52_of_arkit(head: HeadModel) -> None:
    assert head.expression_names == ARKIT
    moved = head.expression.norm(dim=2).amax(1)
    assert moved.min() > 5e-4
    assert moved.max() < 0.06


def test_identity_is_metric_and_keeps_the_origin_between_the_eyes(head: HeadModel) -> None:
    def centres(cages: torch.Tensor) -> np.ndarray:
        eyes = [part_vertices(head, name) for name in ("eye_left", "eye_right")]
        fine = head.subdivide(cages).numpy()
        return np.array([[sphere_fit(v[eye])[0] for eye in eyes] for v in fine])

    coefficients = torch.randn(4, len(head.identity), generator=torch.Generator().manual_seed(1))
    mean = centres(head.verts0[None])[0]
    assert np.linalg.norm(mean[0] - mean[1]) == pytest.approx(0.063, abs=0.0015)
    people = centres(head.cage(coefficients, torch.zeros(4, 52)))
    assert np.abs(people.mean(1)).max() < 1.5e-3
    assert np.abs(np.linalg.norm(people[:, 0] - people[:, 1], axis=1) - 0.063).max() < 0.012


def test_landmark_rows_give_the_landmarks_from_the_cage(head: HeadModel) -> None:
    cages = head.cage(torch.zeros(1, 1), torch.rand(1, 52, generator=torch.Generator().manual_seed(2)))
    for which in ("68", "468"):
        points = head.landmarks(head.subdivide(cages), which)[0]
        assert torch.allclose(head.landmark_rows(which) @ cages[0], points, atol=1e-6)
    assert float(head.landmark_weights468().mean()) == pytest.approx(1, abs=1e-5)


def test_regions_lie_where_their_names_say(head: HeadModel) -> None:
    verts = head.verts0.numpy()
    middle = {n: (m.numpy() @ verts) / m.sum().item() for n, m in head.regions.items()}
    assert middle["forehead"][1] > middle["brow"][1] > middle["eyes"][1]
    assert middle["eyes"][1] > middle["nose"][1] > middle["lips"][1] > middle["chin"][1] > middle["neck"][1]
    assert middle["ear_left"][0] > 0.06 and middle["ear_right"][0] < -0.06
    assert middle["mouth_bag"][2] < middle["lips"][2]
    for name, mask in head.regions.items():
        assert 0 <= mask.min() and mask.max() <= 1, name
        assert mask[head.vertex_part != 0].max() == 0, name


# ---------------------------------------------------------------------------------------------------- eyes and mouth
LID_RINGS = (13352, 13353, 13358, 13357, 13372, 13370, 13368, 6785, 6784, 6790, 6793, 6820, 6825, 6828)
"""MakeHuman vertices on the margins of the left lids, middle two thirds."""


def front_of(verts: np.ndarray, tri: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) whether a triangle lies between each point and a far viewer in front."""
    corners = verts[tri]
    flat, low, high = corners[..., :2], points[:, :2].min(0), points[:, :2].max(0)
    near = (flat.max(1) > low).all(1) & (flat.min(1) < high).all(1)
    a, b, c = (corners[near, k][None] for k in range(3))
    p = points[:, None]

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    weights = np.stack([cross(b - p, c - p), cross(c - p, a - p), cross(a - p, b - p)], -1) / (area[..., None] + 1e-30)
    depth = weights[..., 0] * a[..., 2] + weights[..., 1] * b[..., 2] + weights[..., 2] * c[..., 2]
    return ((weights > 0).all(-1) & (depth > p[..., 2] + 2e-4)).any(1)


@pytest.mark.parametrize("blink", [0.0, 1.0])
def test_lids_lie_on_the_eyeball_not_in_it(head: HeadModel, blink: float) -> None:
    verts = pose(head, eyeBlinkLeft=blink)
    eye = part_vertices(head, "eye_left")
    centre, radius = sphere_fit(verts[eye])
    index = head.makehuman_index.numpy()
    margin = np.array([np.flatnonzero(index == v)[0] for v in LID_RINGS])
    gap = np.linalg.norm(verts[margin] - centre, axis=1) - radius
    assert gap.min() > -0.0003
    assert gap.max() < 0.005


def test_open_eyes_show_the_iris_and_blinks_hide_it(head: HeadModel) -> None:
    skin = head.tri1[head.tri1_part == 0].numpy()
    iris = np.flatnonzero(weight1(head, "iris") + weight1(head, "pupil") > 0.9)
    opened, closed = pose(head), pose(head, eyeBlinkLeft=1, eyeBlinkRight=1)
    hidden = front_of(opened, skin, opened[iris])
    assert hidden.mean() < 0.35  # the upper lid covers some of it
    assert front_of(closed, skin, closed[iris]).mean() > 0.97


def test_iris_has_the_mean_adults_diameter(head: HeadModel) -> None:
    """The outermost ring that is mostly limbus is 11.7 mm wide (Hashemi et al. 2015: 11.8 +- 0.5, WTW)."""
    verts = pose(head)
    for name in ("eye_left", "eye_right"):
        eye = part_vertices(head, name)
        coloured = eye[weight1(head, "sclera")[eye] < 0.5]
        width = np.ptp(verts[coloured], axis=0)
        assert width[0] == pytest.approx(0.0117, abs=0.0005)
        assert width[1] == pytest.approx(0.0117, abs=0.0005)


@pytest.mark.parametrize(
    ("unit", "axis", "sign"),
    [("eyeLookUpLeft", 1, 1), ("eyeLookDownRight", 1, -1), ("eyeLookOutLeft", 0, 1), ("eyeLookInLeft", 0, -1),
     ("eyeLookOutRight", 0, -1), ("eyeLookInRight", 0, 1)],
)
def test_eyes_turn_the_way_the_unit_says(head: HeadModel, unit: str, axis: int, sign: int) -> None:
    eye = part_vertices(head, "eye_left" if unit.endswith("Left") else "eye_right")
    pupil = eye[weight1(head, "pupil")[eye] > 0.9]
    before, after = pose(head), pose(head, **{unit: 1.0})
    move = (after[pupil] - before[pupil]).mean(0)
    assert sign * move[axis] > 0.003
    assert abs(move[1 - axis]) < 0.0005
    other = part_vertices(head, "eye_right" if unit.endswith("Left") else "eye_left")
    assert np.abs(after[other] - before[other]).max() < 1e-6
    _, radius = sphere_fit(before[eye])
    assert sphere_fit(after[eye])[1] == pytest.approx(radius, rel=1e-3)  # a rotation


def test_jaw_carries_the_lower_teeth_only(head: HeadModel) -> None:
    before, after = pose(head), pose(head, jawOpen=1.0)
    teeth = part_vertices(head, "teeth")
    lower = teeth[head.uv1[teeth, 1].numpy() < 0.5]
    upper = np.setdiff1d(teeth, lower)
    assert (after[lower, 1] - before[lower, 1]).max() < -0.005
    assert (after[lower, 1] - before[lower, 1]).min() < -0.02
    assert np.abs(after[upper] - before[upper]).max() < 1e-4
    assert before[lower, 1].mean() < before[upper, 1].mean()


def test_front_teeth_stand_behind_the_lips_as_in_people(head: HeadModel) -> None:
    """Upper incisors end 1 to 4 mm below the resting upper lip, 10 to 16 mm behind its front; they overbite."""
    verts = pose(head)
    teeth = part_vertices(head, "teeth")
    front = teeth[(np.abs(verts[teeth, 0]) < 0.006) & (weight1(head, "gums")[teeth] < 0.1)]
    lower, upper = (verts[front[(head.uv1[front, 1].numpy() < 0.5) == below]] for below in (True, False))
    points = head.landmarks(torch.from_numpy(verts)[None], "468")[0].numpy()
    assert 0.001 < points[13, 1] - upper[:, 1].min() < 0.004
    assert 0.010 < points[0, 2] - upper[:, 2].max() < 0.016
    assert 0.001 < lower[:, 1].max() - upper[:, 1].min() < 0.003
    assert 0.001 < upper[:, 2].max() - lower[:, 2].max() < 0.004


def test_mean_head_closes_its_mouth(head: HeadModel) -> None:
    """From the front nothing of teeth and tongue is seen between the lips."""
    verts, skin = pose(head), head.tri1[head.tri1_part == 0].numpy()
    inner = np.concatenate([part_vertices(head, "teeth"), part_vertices(head, "tongue")])
    inner = inner[np.abs(verts[inner, 0]) < 0.018]
    assert front_of(verts, skin, verts[inner]).mean() > 0.995
    smile = pose(head, mouthUpperUpLeft=1, mouthUpperUpRight=1, jawOpen=0.2)
    shown = ~front_of(smile, skin, smile[inner])
    assert shown.sum() > 30


def test_lashes_stay_on_the_lids(head: HeadModel) -> None:
    skin = head.tri1[head.tri1_part == 0].numpy()
    from scipy.spatial import cKDTree

    for weights in ({}, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}):
        verts = pose(head, **weights)
        lashes = part_vertices(head, "lashes")
        distance, _ = cKDTree(verts[np.unique(skin)]).query(verts[lashes])
        assert np.percentile(distance, 40) < 0.0012  # roots
        assert distance.max() < 0.011  # tips


# --------------------------------------------------------------------------------------------------------- occlusion
def test_occlusion_of_a_floor_beside_a_wall() -> None:
    """Beside a long wall whose top is seen under the angle a, (1 + cos a) / 2 of a white sky's irradiance is left."""
    n = 41
    x, z = np.meshgrid(np.linspace(0, 0.2, n), np.linspace(-0.4, 0.4, n))
    floor = np.stack([x.ravel(), 0 * x.ravel(), z.ravel()], axis=1)
    wall = np.array([[0, 0, -0.4], [0, 0, 0.4], [0, 0.1, 0.4], [0, 0.1, -0.4]])
    cell = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    tri = np.concatenate([np.stack([cell, cell + n, cell + 1], 1), np.stack([cell + 1, cell + n, cell + n + 1], 1)])
    tri = np.concatenate([tri, len(floor) + np.array([[0, 2, 1], [0, 3, 2]])])
    whole = np.concatenate([floor, wall])
    value = ambient_occlusion(whole, tri, np.ones(len(tri), bool), axes=80, pixel=0.003, bias=0.004)
    for distance in (0.05, 0.1, 0.15):
        at = np.argmin(np.linalg.norm(floor - [distance, 0, 0], axis=1))
        angle = np.arctan2(0.1, floor[at, 0])
        assert value[at] == pytest.approx((1 + np.cos(angle)) / 2, abs=0.05)


def test_groove_is_as_deep_as_it_was_made() -> None:
    """A flat grid with one vertex pushed in by 2, another pulled out by 1; the rest of the vertices is elsewhere."""
    x, y = np.meshgrid(np.arange(7.0), np.arange(7.0), indexing="ij")
    verts = np.stack([x.ravel(), y.ravel(), np.zeros(49)], 1)
    verts[2 * 7 + 2, 2], verts[4 * 7 + 5, 2] = -2, 1
    corner = (np.arange(6)[:, None] * 7 + np.arange(6)).ravel()
    tri = np.concatenate([np.stack([corner, corner + 7, corner + 8], 1), np.stack([corner, corner + 8, corner + 1], 1)])
    depth = groove_depth(np.concatenate([verts, [[9.0, 9, 9]]]), tri)
    assert depth[2 * 7 + 2] == pytest.approx(2) and depth.max() == depth[2 * 7 + 2]
    assert depth[4 * 7 + 5] == 0 and depth[-1] == 0


def test_stored_occlusion_is_dark_in_the_mouth_and_light_on_the_face(head: HeadModel) -> None:
    bag = head.subdivide(head.regions["mouth_bag"][None, :, None])[0, :, 0] > 0.9
    face = head.subdivide((head.regions["cheek"] + head.regions["chin"])[None, :, None])[0, :, 0] > 0.5
    assert head.ao1[bag].mean() < 0.15
    assert head.ao1[face].mean() > 0.85
    assert 0 <= head.ao1.min() and head.ao1.max() <= 1


# ------------------------------------------------------------------------------------------------------------- cache
def test_build_takes_seconds_and_the_cache_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processor's time; a cached file that is cut short is built anew."""
    monkeypatch.setattr(model, "cache_dir", lambda: tmp_path)
    start = time.process_time()
    built = load_head()
    assert time.process_time() - start < 20

    (cached,) = tmp_path.glob("head-*.npz")
    monkeypatch.setattr(model, "_inputs_hash", lambda basis: cached.stem.split("-")[-1])
    start = time.process_time()
    again = load_head()
    assert time.process_time() - start < 3
    assert torch.equal(again.identity, built.identity) and torch.equal(again.verts0, built.verts0)

    whole = cached.read_bytes()
    with np.load(cached) as data:
        arrays = {name: data[name] for name in data.files}
    monkeypatch.setattr(build, "build_arrays", lambda basis: arrays)
    cached.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(load_head().verts0, built.verts0)
    assert cached.stat().st_size == len(whole)
    assert [path.name for path in tmp_path.iterdir()] == [cached.name]


def test_error_codes_of_the_head_are_listed() -> None:
    assert {"layout_mismatch", "asset_missing"} <= set(CODES)
