# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery: a head with known parameters, rendered by Cycles, is found again from its picture alone."""
from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

pytest.importorskip("backend.head.model")

from backend.assemble import assemble  # noqa: E402
from backend.bundle import write_bundle  # noqa: E402
from backend.fit.config import PRESETS  # noqa: E402
from backend.fit.fit import FitJob, fit  # noqa: E402
from backend.fit.parameters import camera_of  # noqa: E402
from backend.fit.views import prepare_view  # noqa: E402
from backend.glb import vertex_normals  # noqa: E402
from backend.head.stat import COMPONENTS
from backend.options import Options  # noqa: E402
from backend.photo import load_photo  # noqa: E402
from backend.pipeline import Models, align_views, bundle_contents, choose_device, json_bytes  # noqa: E402
from backend.render.camera import Camera  # noqa: E402
from backend.render.lights import random_lights  # noqa: E402

SIZE = 400
SCRIPT = Path(__file__).parent / "blender_scripts" / "render_bundle.py"
OPTIONS = Options(preset="standard", iterations=120)


@dataclass
class Truth:
    """The head that was rendered: its parameters as `result.json`, its surface, its picture's path."""

    result: dict
    verts1: torch.Tensor
    picture: Path


@pytest.fixture(scope="module")
def models() -> Models:
    """Networks and head, loaded once."""
    return Models()


def truth_result(models: Models) -> dict:
    """Parameters of a person of ICT-FaceKit's statistics, 8 sigma from the mean, half smiling, seen from 15 degrees."""
    person = models.person(OPTIONS, choose_device("cpu"))
    head, rng = person.head, torch.Generator().manual_seed(7)
    identity = torch.randn(COMPONENTS, generator=rng)
    identity *= 8 / identity.norm()
    expression = dict.fromkeys(head.expression_names, 0.0)
    expression |= {"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4, "browInnerUp": 0.3}
    camera = Camera.look_at(torch.tensor([[0.23, 0.02, 0.87]]), torch.tensor([[0.0, -0.03, 0.0]]), 0.42, (SIZE, SIZE))
    lights = random_lights(1, rng).nonnegative()
    view = {"photo": {"file": "photo_00.png", "name": "truth.png", "sha256": "0" * 64, "size": [SIZE, SIZE]},
            "camera": camera.to_result(), "lights": lights.to_result(), "expression": expression,
            "files": {"photo": "photo_00.png", "render": "render_00.png", "overlay": "overlay_00.jpg"}}
    latent = person.generator.sample_latent(1, seed=3)[0] * 0.7
    return {"version": 1, "layout_id": head.layout_id, "views": [view],
            "shape": {"basis": "makehuman", "coefficients": identity.tolist(), "scale": 1.0, "ruler": "iris"},
            "texture": {"latent": latent.tolist(), "generator_sha256": person.generator.sha256, "size": 512},
            "palette": dict(zip(head.palette_names, person.default_palette().tolist(), strict=True)),
            "losses": {}, "timings": {}, "device": "cpu", "packages": {}, "assets": {}, "seed": 0,
            "options": OPTIONS.to_dict(), "warnings": []}


@pytest.fixture(scope="module")
def truth(models: Models, bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """The known head, imported into Blender by the add-on's importer and rendered by Cycles."""
    folder = tmp_path_factory.mktemp("truth")
    result = truth_result(models)
    scene = assemble(result, models.person(OPTIONS, choose_device("cpu")), torch.device("cpu"))
    grey = np.full((SIZE, SIZE, 3), 120, np.uint8)
    contents = bundle_contents(scene, result, [grey]) | {"result.json": json_bytes(result)}
    write_bundle(folder / "bundle", contents)
    picture = folder / "truth.png"
    run = subprocess.run([str(bpy_python), str(SCRIPT), json.dumps({"bundle": str(folder / "bundle"),
                                                                    "out": str(picture), "samples": 48})],
                         capture_output=True, text=True, timeout=300)
    assert picture.exists(), run.stderr[-3000:]
    rendered = Image.open(picture).convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", rendered.size, (90, 100, 110, 255)), rendered).convert("RGB").save(picture)
    return Truth(result, scene.verts1, picture)


def recover(models: Models, truth: Truth, picture: Path | None = None) -> dict[str, float]:
    """Fits the picture and measures the result against the truth.

    surface_mm: mean distance from the true face to the fitted one after the best similarity; sigma: how far the start
    was; yaw: degrees of difference of the head's yaw; pixel: robust mean difference of the fitted picture to the
    Cycles picture, 0..1; albedo: mean absolute difference of the face's encoded albedo, 0..1.
    """
    device = choose_device("cpu")
    person = models.person(OPTIONS, device)
    mesh, identity = models.landmarks(OPTIONS, device), models.identity(OPTIONS, device)
    view, _ = prepare_view(load_photo(picture or truth.picture), models.detector(), mesh, None)
    config = PRESETS["standard"].with_iterations(OPTIONS.iterations)
    params, trace = fit(person, FitJob([view], align_views(person, [view], config)), identity, mesh, config)
    _, verts1 = person.geometry(params)
    camera = camera_of(params, [view.frame], 0)
    true_camera = Camera.from_result(truth.result["views"][0]["camera"])
    return {"surface_mm": surface_distance(person, truth.verts1[0].numpy(), verts1[0].numpy()),
            "sigma": float(np.linalg.norm(truth.result["shape"]["coefficients"])),
            "yaw": abs(yaw(camera) - yaw(true_camera)), "pixel": trace.losses["pixel"][-1],
            "albedo": albedo_error(person, truth.result, params.latent)}


def yaw(camera: Camera) -> float:
    """Degrees between the direction from head to camera and the head's front, positive to the subject's left."""
    x, _, z = camera.position()[0].tolist()
    return float(np.degrees(np.arctan2(x, z)))


def surface_distance(person: object, target: np.ndarray, fitted: np.ndarray) -> float:
    """Mean point-to-plane distance (mm) of the target's face to the fitted surface after the best similarity."""
    face = person.head.subdivide(person.head.regions["face"][None, :, None].float().expand(-1, -1, 3))[0, :, 0] > 0.5
    chosen = face.numpy()
    a, b = fitted[chosen], target[chosen]
    ca, cb = a.mean(0), b.mean(0)
    u, s, vt = np.linalg.svd((b - cb).T @ (a - ca))
    d = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation, scale = u @ d @ vt, (s * d.diagonal()).sum() / ((a - ca) ** 2).sum()
    moved = scale * (a - ca) @ rotation.T + cb
    normals = vertex_normals(fitted, person.head.tri1.numpy())[chosen] @ rotation.T
    nearest = cKDTree(moved).query(b)[1]
    return float(np.abs(((b - moved[nearest]) * normals[nearest]).sum(1)).mean() * 1000)


def albedo_error(person: object, result: dict, latent: torch.Tensor) -> float:
    """Mean absolute difference of the face's encoded albedo to the true one, 0..1, texels weighted alike."""
    with torch.no_grad():
        true = person.generator(torch.tensor([result["texture"]["latent"]]), 256)[0]
        found = person.generator(latent[None], 256)[0]
    return float((true - found)[:, 80:210, 60:196].abs().mean())


def accepted(measured: dict[str, float]) -> bool:
    """The test's own verdict, also used to show that deliberate mistakes fail it."""
    return (measured["surface_mm"] < 1.0 and measured["yaw"] < 3.0 and measured["pixel"] < 0.012
            and measured["albedo"] < 0.04)


def test_head_is_recovered_from_its_cycles_picture(models: Models, truth: Truth) -> None:
    """Started 8 sigma away (the mean head), within 1 mm of the true surface, and in the right pose and colours."""
    measured = recover(models, truth)
    print(measured)
    assert measured["sigma"] > 3
    assert accepted(measured), measured


@pytest.mark.parametrize("mistake", ["mirrored x", "flipped v", "linear colours"])
def test_a_deliberate_mistake_is_noticed(models: Models, truth: Truth, mistake: str, tmp_path: Path) -> None:
    """The same fit with an axis, v or the gamma wrong does not pass."""
    picture = np.asarray(Image.open(truth.picture))
    person = models.person(OPTIONS, choose_device("cpu"))
    uv1 = person.head.uv1
    if mistake == "mirrored x":
        picture = picture[:, ::-1]
    elif mistake == "linear colours":
        picture = (((picture / 255.0) ** 2.2) * 255).round().astype(np.uint8)
    else:
        object.__setattr__(person.head, "uv1", torch.stack([uv1[:, 0], 1 - uv1[:, 1]], -1))
    path = tmp_path / "mistake.png"
    Image.fromarray(np.ascontiguousarray(picture)).save(path)
    try:
        measured = recover(models, truth, path)
    finally:
        object.__setattr__(person.head, "uv1", uv1)
    print(mistake, measured)
    assert not accepted(measured), measured
