# SPDX-License-Identifier: GPL-3.0-or-later
"""A result fitted again: a head of known parameters, drawn by the renderer, from wrong starts, to sculpts and pins."""
from __future__ import annotations

import copy
import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.assemble import assemble, full_render, png
from backend.bundle import Bundle, read_bundle, write_bundle
from backend.errors import GanfitError
from backend.fit.parameters import ViewFrame, camera_of
from backend.fit.person import Person
from backend.fit.pins import parse_pins
from backend.options import Options
from backend.pipeline import Models, bundle_contents, choose_device, json_bytes, rerender
from backend.refitting import parameters_of, refit
from backend.render.camera import Camera
from backend.render.lights import random_lights

SIZE = 360
DRAFT = {"preset": "draft", "device": "cpu"}
FEW = DRAFT | {"iterations": 2}


@dataclass
class Known:
    """A person of known parameters: `result.json` as it would be, the folder of the bundle, a sculptor's offsets."""

    person: Person
    result: dict
    folder: Path
    offsets: np.ndarray

    def changed(self, folder: Path, **changes: object) -> Path:
        """The same bundle with entries of `result.json` changed."""
        bundle = read_bundle(self.folder)
        files = {name: bundle.read(name) for name in bundle.result["files"]}
        write_bundle(folder, files | {"result.json": json_bytes({**bundle.result, **changes})})
        return folder


@pytest.fixture(scope="module")
def models() -> Models:
    """Networks and head, loaded once."""
    return Models()


@pytest.fixture(scope="module")
def known(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Two pictures of one head, from 12 degrees left and 20 right, with a sculpted chin and nose."""
    options = Options(**DRAFT)
    person = models.person(options, choose_device("cpu"))
    head, rng = person.head, torch.Generator().manual_seed(11)
    identity = torch.randn(len(head.identity), generator=rng) * 0.5
    latent = person.generator.sample_latent(1, seed=5)[0] * 0.7
    views = [described(head, number, position, rng) for number, position in enumerate([(0.2, 0.02, 0.9),
                                                                                       (-0.33, 0.0, 0.9)])]
    result = {"version": 1, "layout_id": head.layout_id, "views": views,
              "shape": {"basis": "makehuman", "coefficients": identity.tolist(), "scale": 1.03, "ruler": "iris"},
              "texture": {"latent": latent.tolist(), "generator_sha256": person.generator.sha256, "size": 512},
              "palette": dict(zip(head.palette_names, person.default_palette().tolist(), strict=True)),
              "losses": {}, "timings": {}, "device": "cpu", "packages": {}, "assets": {}, "seed": 0,
              "options": options.to_dict(), "warnings": []}
    folder = tmp_path_factory.mktemp("known") / "bundle"
    scene = assemble(result, person, torch.device("cpu"))
    photos = [np.full((SIZE, SIZE, 3), 110, np.uint8)] * 2
    contents = bundle_contents(scene, result, photos)
    drawn = assemble(result, person, torch.device("cpu"), sculpted(scene.cage.numpy()))
    for number in range(2):
        rendered = Image.fromarray(full_render(drawn, number))
        backdrop = Image.new("RGBA", rendered.size, (96, 100, 108, 255))
        contents[f"photo_{number:02d}.png"] = png(np.asarray(Image.alpha_composite(backdrop, rendered).convert("RGB")))
    write_bundle(folder, contents | {"result.json": json_bytes(result)})
    return Known(person, result, folder, sculpted(scene.cage.numpy()))


def described(head: object, number: int, position: tuple[float, float, float], rng: torch.Generator) -> dict:
    """A view of `result.json` from a position in metres."""
    camera = Camera.look_at(torch.tensor([position]), torch.tensor([[0.0, -0.03, 0.0]]), 0.38, (SIZE, SIZE))
    expression = dict.fromkeys(head.expression_names, 0.0) | {"jawOpen": 0.15, "browInnerUp": 0.3}
    names = {"photo": f"photo_{number:02d}.png", "render": f"render_{number:02d}.png",
             "overlay": f"overlay_{number:02d}.jpg"}
    return {"photo": {"file": names["photo"], "name": f"truth_{number}.png", "sha256": str(number) * 64,
                      "size": [SIZE, SIZE], "focal_35mm": None},
            "camera": camera.to_result(), "lights": random_lights(1, rng).nonnegative().to_result(),
            "expression": expression, "landmarks": [], "files": names}


def sculpted(cage: np.ndarray) -> np.ndarray:
    """(V0, 3) float32 metres: the nose 7 mm longer, the chin 8 mm lower."""
    nose = np.exp(-((cage - cage[np.argmax(cage[:, 2])]) ** 2).sum(1, keepdims=True) / (2 * 0.012**2))
    chin = np.exp(-((cage - [0, -0.115, 0.07]) ** 2).sum(1, keepdims=True) / (2 * 0.02**2))
    return (nose * [0, 0, 0.007] + chin * [0, -0.008, 0]).astype(np.float32)


def projected(bundle: Bundle, person: Person, view: int = 0, which: str = "468") -> np.ndarray:
    """(N, 2) photo pixels of the landmarks, from the bundle's files alone."""
    entry, head = bundle.result["views"][view], bundle.head
    weights = np.array([entry["expression"][str(name)] for name in head["expression_names"]], np.float32)
    cage = head["verts"] + head["offsets"] + np.einsum("e,evc->vc", weights, head["expression_deltas"])
    points = person.head.landmark_rows(which) @ torch.from_numpy(cage)
    return Camera.from_result(entry["camera"]).project(points[None])[0].numpy()


def glb_positions(data: bytes) -> np.ndarray:
    """All POSITION values (N, 3) of a GLB's first mesh, read by hand."""
    length = struct.unpack("<I", data[12:16])[0]
    document, binary = json.loads(data[20:20 + length]), data[28 + length:]
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    start = document["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
    return np.frombuffer(binary, np.float32, accessor["count"] * 3, start).reshape(-1, 3)


def refused(code: str, *arguments: object, **options: object) -> GanfitError:
    with pytest.raises(GanfitError) as caught:
        refit(*arguments, **options)
    assert caught.value.code == code and caught.value.hint, caught.value
    return caught.value


def test_parameters_of_a_result_give_its_cameras_back(known: Known) -> None:
    """Scale, distance and place of the head turn into the very camera, whatever the frame's anchor and unit."""
    frames = [ViewFrame((SIZE, SIZE), (170.0 + 9 * i, 150.0), 61.0 + i) for i in range(2)]
    params = parameters_of(known.result, [0, 1], frames, known.person, torch.device("cpu"))
    points = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)) * 0.08
    for number, view in enumerate(known.result["views"]):
        wanted = Camera.from_result(view["camera"]).project(points * known.result["shape"]["scale"])
        assert torch.allclose(camera_of(params, frames, number).project(points), wanted, atol=2e-2)
    assert params.identity.tolist() == pytest.approx(known.result["shape"]["coefficients"])


def test_a_result_from_before_the_head_got_more_components_has_zeros_there(known: Known) -> None:
    shape = {**known.result["shape"], "coefficients": known.result["shape"]["coefficients"][:-1]}
    frame = ViewFrame((SIZE, SIZE), (170.0, 150.0), 61.0)
    result = {**known.result, "shape": shape}
    identity = parameters_of(result, [0], [frame], known.person, torch.device("cpu")).identity
    assert len(identity) == len(known.person.head.identity) and identity[-1] == 0
    assert identity[:-1].tolist() == pytest.approx(shape["coefficients"])


def test_a_sculpt_is_kept_and_texture_light_and_camera_are_found_again(
    known: Known, models: Models, tmp_path: Path
) -> None:
    """From another skin, half the light and a camera 25 mm aside; the shape in the photo is the sculptor's."""
    wrong = copy.deepcopy(known.result)
    wrong["texture"]["latent"] = [0.0] * 512
    for view in wrong["views"]:
        view["lights"]["sh"] = (0.5 * np.array(view["lights"]["sh"])).tolist()
        view["camera"]["cam_to_world"][0][3] += 0.025
    start = known.changed(tmp_path / "wrong", **{name: wrong[name] for name in ("texture", "views")})
    np.savez(tmp_path / "sculpt.npz", offsets=known.offsets)
    done = refit(start, DRAFT | {"iterations": 25}, tmp_path / "done", tmp_path / "sculpt.npz", photos=[0],
                 models=models)
    before = read_bundle(known.folder)
    neutral = before.head["verts"] + known.offsets
    assert np.abs(done.head["verts"] + done.head["offsets"] - neutral).max() < 1e-6
    assert np.array_equal(done.head["verts"], before.head["verts"])
    assert done.result["shape"] == before.result["shape"]
    off = np.linalg.norm(projected(done, known.person) - truth(known), axis=1)
    shifted = np.linalg.norm(projected(read_bundle(start), known.person) - truth(known), axis=1)
    assert np.median(shifted) > 10 and np.median(off) < 2.5, (np.median(shifted), np.median(off))
    again = rerender(start)["render_00.png"]
    assert colour_error(known, again) > 50
    assert colour_error(known, done.read("render_00.png")) < 6
    positions = glb_positions(done.read("head.glb"))
    fine = known.person.head.subdivide(torch.from_numpy(neutral)[None])[0].numpy()
    nose = fine[np.argmax(fine[:, 2])]
    assert np.abs(positions - nose).sum(1).min() < 1e-5
    again = rerender(tmp_path / "done")
    for name in ("head.npz", "head.glb", "landmarks68.json", "render_00.png", "albedo.png"):
        assert again[name] == done.read(name), name
    bare = rerender(tmp_path / "done", models=models, refine=not done.result["options"]["refine"])
    assert json.loads(bare["result.json"])["options"] == {**done.result["options"],
                                                          "refine": not done.result["options"]["refine"]}
    assert bare["head.npz"] == done.read("head.npz") and bare["albedo.png"] != done.read("albedo.png")


def colour_error(known: Known, render: bytes) -> float:
    """Mean absolute difference of a render to photo 0 where it shows the head, 0..255."""
    photo = read_bundle(known.folder).image("photo_00.png").astype(np.float64)
    picture = np.asarray(Image.open(io.BytesIO(render))).astype(np.float64)
    return float(np.abs(picture[..., :3] - photo)[picture[..., 3] > 250].mean())


def truth(known: Known) -> np.ndarray:
    """(468, 2) photo pixels of the landmarks of the head that was drawn, view 0."""
    head, entry = known.person.head, known.result["views"][0]
    weights = torch.tensor([[entry["expression"][name] for name in head.expression_names]])
    identity, scale = torch.tensor([known.result["shape"]["coefficients"]]), known.result["shape"]["scale"]
    cage = head.cage(identity, weights)[0] * scale + torch.from_numpy(known.offsets)
    return Camera.from_result(entry["camera"]).project((head.landmark_rows("468") @ cage)[None])[0].numpy()


@pytest.mark.parametrize(("index", "aside"), [(61, (-7.0, 3.0)), ("68:30", (5.0, -2.0))])
def test_a_pin_pulls_the_head_to_its_place(
    known: Known, models: Models, tmp_path: Path, index: int | str, aside: tuple[float, float]
) -> None:
    """A mouth corner, and the tip of the nose: within a pixel of the fit's crop; what is beside it comes along."""
    before = projected(read_bundle(known.folder), known.person)
    which, number = ("468", index) if isinstance(index, int) else ("68", 30)
    place = projected(read_bundle(known.folder), known.person, which=which)[number] + aside
    pin = {"view": 0, "index": index, "x": float(place[0]), "y": float(place[1])}
    done = refit(known.folder, DRAFT | {"iterations": 8}, tmp_path / "done", pins=[pin], models=models)
    size = np.ptp(before, axis=0).max() * 1.7 / 192  # photo pixels of a pixel of the draft's crop
    assert np.linalg.norm(projected(done, known.person, which=which)[number] - place) < max(1.0, size)
    moved = projected(done, known.person) - before
    far = np.linalg.norm(before - (place - aside), axis=1)
    along = moved @ np.array(aside) / np.linalg.norm(aside)
    near = np.argsort(far)[1:8]
    assert (along[near] > 0.3 * np.linalg.norm(aside)).all(), along[near]
    assert np.median(np.abs(along[far > 80])) < 0.4 * np.linalg.norm(aside)
    assert done.result["pins"] == [pin] and np.isfinite(done.head["verts"]).all()


def test_one_of_two_photos_and_a_focal_length(known: Known, models: Models, tmp_path: Path) -> None:
    """Photo 1 alone becomes view 0 of the result under its own name; 85 mm is kept as the field of view."""
    done = refit(known.folder, FEW, tmp_path / "done", photos=[1], focal_mm=[None, 85.0], models=models)
    (view,) = done.result["views"]
    assert view["photo"]["name"] == "truth_1.png" and view["photo"]["sha256"] == "1" * 64
    focal = 85 / np.hypot(36, 24) * np.hypot(SIZE, SIZE)
    assert view["camera"]["yfov"] == pytest.approx(2 * np.arctan(SIZE / 2 / focal), rel=1e-5)
    assert view["photo"]["focal_35mm"] == 85
    again = refit(tmp_path / "done", FEW, None, focal_px=[focal], models=models)
    assert again.path is None and again.result["views"][0]["photo"]["focal_35mm"] == pytest.approx(85)
    assert np.array_equal(done.image("photo_00.png"), read_bundle(known.folder).image("photo_01.png"))


def test_offsets_of_the_bundle_stay_when_only_options_change(known: Known, models: Models, tmp_path: Path) -> None:
    """Free-form offsets outlive a refit without a sculpt, scaled with the head; the same seed gives the same bits."""
    refit(known.folder, FEW, tmp_path / "sculpt", known.offsets, photos=[0], models=models)
    one, two = (refit(tmp_path / "sculpt", FEW | {"iterations": 1}, None, models=models) for _ in range(2))
    ratio = one.result["shape"]["scale"] / known.result["shape"]["scale"]
    np.testing.assert_allclose(one.head["offsets"], known.offsets * ratio, atol=1e-7)
    assert one.result["losses"] == two.result["losses"] and one.read("albedo.png") == two.read("albedo.png")


def test_what_cannot_be_fitted_again_is_said(known: Known, models: Models, tmp_path: Path) -> None:
    refused("bundle_missing", tmp_path, models=models)
    good, out = known.folder, tmp_path / "out"
    refused("bad_option", good, {"preset": "fast"}, models=models)
    refused("bad_option", good, {"photo": "x"}, models=models)
    refused("no_photo", good, photos=[], models=models)
    for photos in ([2], [-1], [True], ["0"]):
        refused("bad_option", good, photos=photos, models=models)
    for focal in ([50], [50, 5000], [50, "x"], [50, float("nan")]):
        refused("bad_option", good, focal_mm=focal, models=models)
    refused("bad_option", good, focal_mm=[50, 50], focal_px=[500, 500], models=models)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    refused("output_not_a_bundle", good, FEW, tmp_path / "thesis", models=models)
    np.savez(tmp_path / "short.npz", offsets=known.offsets[:-1])
    np.savez(tmp_path / "other.npz", moved=known.offsets)
    np.savez(tmp_path / "objects.npz", offsets=np.array([{}]))
    (tmp_path / "text.npz").write_text("no archive")
    refused("layout_mismatch", good, FEW, out, tmp_path / "short.npz", models=models)
    for name in ("other.npz", "objects.npz", "text.npz", "none.npz"):
        refused("sculpt_unreadable", good, FEW, out, tmp_path / name, models=models)
    refused("sculpt_unreadable", good, FEW, out, known.offsets * np.nan, models=models)
    layout = known.changed(tmp_path / "layout", layout_id="another")
    refused("layout_mismatch", layout, FEW, out, models=models)
    shape = known.changed(tmp_path / "shape", shape={**known.result["shape"], "coefficients": [1.0] * 150})
    refused("layout_mismatch", shape, FEW, out, models=models)
    assert not out.exists()


@pytest.mark.parametrize(
    "pin",
    [
        {},
        5,
        {"view": 0, "index": 468, "x": 1, "y": 1},
        {"view": 0, "index": -1, "x": 1, "y": 1},
        {"view": 0, "index": "68:68", "x": 1, "y": 1},
        {"view": 0, "index": "nose", "x": 1, "y": 1},
        {"view": 2, "index": 1, "x": 1, "y": 1},
        {"view": True, "index": 1, "x": 1, "y": 1},
        {"view": 0, "index": 1, "x": float("inf"), "y": 1},
        {"view": 0, "index": 1, "x": "1", "y": 1},
        {"view": 0, "index": 1, "x": 1, "y": 1, "z": 1},
    ],
)
def test_pins_that_name_no_point_or_place_are_refused(pin: object) -> None:
    with pytest.raises(GanfitError) as caught:
        parse_pins([pin], 2)
    assert caught.value.code == "bad_pin"


def test_of_two_pins_on_a_point_the_later_counts() -> None:
    pins = parse_pins([{"view": 0, "index": 1, "x": 1, "y": 1}, {"view": 0, "index": 1, "x": 2.5, "y": 1}], 1)
    assert [pin.x for pin in pins] == [2.5]


def test_a_cancelled_refit_leaves_the_result_as_it_was(known: Known, models: Models, tmp_path: Path) -> None:
    folder = known.changed(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused("cancelled", folder, FEW, folder, cancel=lambda: True, models=models)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
