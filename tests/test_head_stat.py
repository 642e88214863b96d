# SPDX-License-Identifier: GPL-3.0-or-later
"""Identity statistics: geometry against trimesh, registration against known heads, the prior against real ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from backend.head import registration as reg
from backend.head import stat
from backend.head.cage import build_cage, sphere_fit


@pytest.fixture(scope="module")
def cage():
    return build_cage()


@pytest.fixture(scope="module")
def basis(cage):
    return stat.load_identity_basis("makehuman", cage)


@pytest.fixture(scope="module")
def skin(cage):
    return stat.skin_of(cage, stat.load_calibration().outer)


def test_similarity_recovers_a_known_motion():
    rng = np.random.default_rng(0)
    a, rotation, shift = (
        rng.normal(size=(50, 3)),
        Rotation.from_rotvec([0.3, -1.2, 0.5]).as_matrix(),
        np.array([1.0, -2, 3]),
    )
    s, r, t = reg.similarity(a, 1.7 * a @ rotation.T + shift)
    assert s == pytest.approx(1.7)
    np.testing.assert_allclose(r, rotation, atol=1e-12)
    np.testing.assert_allclose(t, shift, atol=1e-12)


def test_closest_points_agree_with_trimesh():
    """Against trimesh's point-to-triangle distance over all pairs."""
    mesh = trimesh.creation.torus(0.07, 0.03)
    points = np.random.default_rng(1).uniform(-0.12, 0.12, (200, 3))
    found, tri, bary, distance = reg.SurfaceIndex(mesh.vertices, mesh.faces).closest(points)
    pairs = np.repeat(points, len(mesh.faces), axis=0)
    on_all = trimesh.triangles.closest_point(np.tile(mesh.triangles, (len(points), 1, 1)), pairs)
    expected = np.linalg.norm(on_all - pairs, axis=1).reshape(len(points), -1).min(1)
    np.testing.assert_allclose(distance, expected, atol=2e-5)
    np.testing.assert_allclose(np.einsum("nk,nkd->nd", bary, mesh.vertices[mesh.faces[tri]]), found, atol=1e-12)


def test_boundary_vertices_of_a_grid():
    tris = reg.quads_to_triangles(
        np.array([[4 * r + c, 4 * r + c + 1, 4 * r + c + 5, 4 * r + c + 4] for r in range(3) for c in range(3)])
    )
    inner = [5, 6, 9, 10]
    assert np.flatnonzero(~reg.boundary_vertices(tris, 16)).tolist() == inner


def test_gauge_takes_out_exactly_a_rigid_motion_and_scale():
    rng = np.random.default_rng(2)
    verts = rng.normal(size=(100, 3))
    motion = np.cross([0.1, 0.2, -0.3], verts) + 0.05 * verts + [1, 2, 3]
    mask = np.arange(100) < 60
    np.testing.assert_allclose(stat.remove_motion(motion[None], verts, mask), 0, atol=1e-12)
    rest = stat.remove_motion(rng.normal(size=(1, 100, 3)), verts, mask)
    assert abs(np.einsum("vd,vd->", rest[0, mask], motion[mask])) < 1e-9


def test_registration_finds_a_known_head(cage, basis, skin):
    """A head drawn from the prior, moved, scaled and cut into other triangles, is found to a tenth of a millimetre."""
    mean, modes = (x[..., : len(skin.verts), :].astype(float) for x in basis)
    rng = np.random.default_rng(3)
    modes = modes[:30]
    truth = mean + np.tensordot(rng.standard_normal(30), modes, 1)
    template = stat.template_of(skin, mean, modes)
    scale, rotation, shift = (
        1.06,
        Rotation.from_rotvec([0.06, -0.09, 0.04]).as_matrix(),
        np.array([0.004, -0.003, 0.005]),
    )
    surface = template.evaluate @ truth
    coarse = stat.subdivide(skin.quads, len(skin.verts)).quads[:, [1, 2, 3, 1, 3, 0]].reshape(-1, 3)  # other diagonals
    target = scale * surface @ rotation.T + shift
    fitted = reg.register(template, target, coarse, iterations=25, ridge=(1e-7, 1e-11), samples=2500)
    error = np.linalg.norm(fitted.to_target(template.evaluate @ fitted.cage) - target, axis=1)[template.used]
    assert np.median(error) < 1e-4
    assert fitted.scale == pytest.approx(scale, abs=0.004)


def test_free_form_reaches_what_the_basis_cannot(skin):
    """Without any mode, a bump of 3 mm on the cheek is met; the hidden skin does not swing out."""
    template = stat.template_of(skin, skin.verts, np.zeros((0, *skin.verts.shape)))
    distance = np.linalg.norm(
        skin.verts - skin.verts[skin.face][np.argmax(skin.verts[skin.face] @ [1, -0.3, 0.3])], axis=1
    )
    bumped = skin.verts * (1 + 0.003 / 0.1 * np.exp(-0.5 * (distance / 0.02) ** 2))[:, None]
    level1 = stat.subdivide(skin.quads, len(skin.verts))
    fitted = reg.register(template, level1.smooth @ bumped, level1.triangles, iterations=0, free_form=(10, 3, 1))
    assert np.nanpercentile(fitted.distance, 95) < 1e-4
    hidden = ~skin.outer
    assert np.abs(fitted.cage - skin.verts)[hidden].max() < 0.004


def test_basis_has_the_documented_gauge(cage, basis, skin):
    mean, modes = basis
    assert mean.shape == cage.verts.shape and modes.shape[1:] == cage.verts.shape and mean.dtype == np.float32
    eyes = np.stack([mean[cage.part_vertices(n)] for n in ("eye_left", "eye_right")])
    centres = np.stack([sphere_fit(eye.astype(float))[0] for eye in eyes])
    assert np.linalg.norm(centres[0] - centres[1]) == pytest.approx(0.063, abs=3e-4)
    np.testing.assert_allclose(centres.mean(0), 0, atol=3e-4)
    balls = np.stack([modes[:, cage.part_vertices(n)] for n in ("eye_left", "eye_right")], 1)
    assert balls.std(2).max() < 1e-7, "an eyeball changes its shape"
    np.testing.assert_allclose(balls.mean((1, 2)), 0, atol=1e-6)
    face = modes[:, : len(skin.verts)][:, skin.face].astype(float)
    growth = np.einsum("kvd,vd->k", face - face.mean(1, keepdims=True), mean[: len(skin.verts)][skin.face])
    assert np.abs(growth).max() / len(face[0]) < 1e-8, "a mode scales the face"


def test_heads_drawn_from_the_prior_are_whole(basis, skin):
    """The lining of the mouth stays behind the skin, and no head is more than 2.5 cm from the mean anywhere on the
    face."""
    mean, modes = (x[..., : len(skin.verts), :].astype(float) for x in basis)
    lining = np.flatnonzero(skin.zone == stat.ZONES.index("mouth_bag"))
    outer_tris = skin.tris[skin.outer[skin.tris].all(1)]
    for seed in range(6):
        head = mean + np.tensordot(np.random.default_rng(seed).standard_normal(len(modes)), modes, 1)
        assert np.linalg.norm(head - mean, axis=1)[skin.face].max() < 0.025
        surface = reg.SurfaceIndex(head, outer_tris)
        found, tri, bary, _ = surface.closest(head[lining])
        outside = np.einsum("nd,nd->n", head[lining] - found, surface.normals_at(tri, bary)) > 2e-4
        assert (outside & ~surface.boundary[tri]).mean() < 0.01


def test_unknown_basis_is_refused(cage):
    from backend.errors import GanfitError

    with pytest.raises(GanfitError) as caught:
        stat.load_identity_basis("flame", cage)
    assert caught.value.code == "unknown_basis"


def test_prior_is_white_on_real_heads(cage, basis, skin, shared):
    """Coefficients of ICT-FaceKit heads on our basis: near zero mean and unit variance, and the fit is below a
    millimetre."""
    from backend.head.ict import carry_over, load_ict

    mean, modes = (x[..., : len(skin.verts), :].astype(float) for x in basis)
    carried = carry_over(load_ict(shared / "data" / "ict"), stat.template_of(skin, mean, modes))
    used = np.flatnonzero(skin.face)
    design = modes[:, used].reshape(len(modes), -1) * 1e3
    system = design @ design.T + 0.3**2 * 50 * np.eye(len(modes))
    coefficients, residuals = [], []
    for seed in range(30):
        head = carried.mean + np.tensordot(np.random.default_rng(1000 + seed).standard_normal(100), carried.modes, 1)
        scale, rotation, shift = reg.similarity(head[used], mean[used])
        gap = (scale * head[used] @ rotation.T + shift - mean[used]) * 1e3
        c = np.linalg.solve(system, design @ gap.ravel())
        coefficients.append(c)
        normals = reg.vertex_normals(head, skin.tris)[used] @ rotation.T
        residuals.append(np.abs(np.einsum("vd,vd->v", gap - (c @ design).reshape(-1, 3), normals)))
    coefficients = np.stack(coefficients)[:, :60]
    assert np.median(np.concatenate(residuals)) < 0.35
    assert np.abs(coefficients.mean(0)).mean() < 0.25
    assert 0.6 < coefficients.std(0).mean() < 1.15


def test_mean_head_is_as_near_to_people_as_the_best_mean_known(cage, basis, skin, shared):
    """Bench figures of the mean head alone (BENCH.md: mean ICT head 1.31 mm on scan + valid, mean MakeHuman head
    1.75)."""
    import importlib.util

    from backend.head.landmarks import load_landmarks

    spec = importlib.util.spec_from_file_location("shared_bench", shared / "bench/bench.py")  # not our tests' `bench`
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)

    level1 = stat.subdivide(cage.quads, len(cage.verts))
    verts1 = level1.smooth @ basis[0].astype(float)
    seen = np.asarray(level1.smooth @ stat.outer_skin(cage).astype(float)).ravel() > 0.99
    landmarks = load_landmarks(cage).positions(verts1, level1.triangles)
    tris = level1.triangles[seen[level1.triangles].all(1)]
    errors = []
    for name in ("james", "valid_white_m_3"):
        meta = json.loads((shared / "bench/dev/gt" / f"{name}_cooperative.json").read_text())
        mesh = trimesh.load(shared / "bench/dev/gt" / meta["mesh"], process=False)
        gt_landmarks = np.array(meta["landmarks68_mm"])
        gt = bench.Surface(mesh.vertices, mesh.faces, gt_landmarks[30])
        aligned, moved, _ = bench.align(verts1 * 1e3, tris, landmarks * 1e3, gt_landmarks)
        errors.append(bench.micc_error(gt, gt_landmarks, aligned, moved)["mean"])
    assert np.mean(errors) < 1.35
