# SPDX-License-Identifier: GPL-3.0-or-later
"""The fit from landmarks to bundle: known poses, several photos, photos without colour, numbers that break down."""
from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import GanfitError
from backend.fit.align import LandmarkModel, align, initial_parameters, weak_perspective
from backend.fit.appearance import Start, surface_colour
from backend.fit.conditions import Conditions
from backend.fit.config import PRESETS
from backend.fit.descent import Descent
from backend.fit.energy import Energy
from backend.fit.fit import FitJob, fit, fit_together, note, start_stage
from backend.fit.losses import as_grey
from backend.fit.parameters import CropFrames, FitParameters, ViewFrame, camera_of
from backend.fit.skin import log_colour
from backend.fit.views import prepare_view
from backend.options import Options
from backend.photo import load_photo
from backend.pipeline import Models, align_views, reconstruct, reconstruct_together
from backend.refine.refine import region_maps
from backend.render.camera import Camera
from backend.render.color import linear_to_srgb, srgb_to_linear

QUICK = Options(preset="draft", iterations=2, device="cpu")


@pytest.fixture(scope="module")
def models() -> Models:
    """Networks and head, loaded once."""
    return Models()


def face_like(rng: torch.Generator) -> LandmarkModel:
    """Eighty points in a head's box with three identity and one expression direction."""
    mean = (torch.rand(80, 3, generator=rng) - 0.5) * torch.tensor([0.14, 0.18, 0.09])
    identity = 0.002 * torch.randn(3, 80, 3, generator=rng)
    expression = torch.zeros(52, 80, 3)
    expression[0] = 0.004 * torch.randn(80, 3, generator=rng)
    return LandmarkModel(mean, identity, expression, torch.ones(80))


def test_weak_perspective_is_exact_for_an_orthographic_camera() -> None:
    """Points turned by a known rotation, scaled and shifted, give that rotation back."""
    model = face_like(torch.Generator().manual_seed(0))
    angle = 0.4
    rotation = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]).float()
    points = (model.mean @ rotation.T)[:, :2] * torch.tensor([900.0, -900.0]) + torch.tensor([200.0, 300.0])
    found, origin, scale = weak_perspective(model.mean, points, model.weights)
    assert torch.allclose(found, rotation, atol=1e-4)
    assert origin.tolist() == pytest.approx([200, 300], abs=1e-2)
    assert scale == pytest.approx(900, rel=1e-4)


def test_alignment_finds_camera_shape_and_expression() -> None:
    """Noise-free landmarks under a perspective camera with a known focal length: projection within a tenth of a pixel,
    rotation within half a degree, and the coefficients' signs and sizes."""
    model = face_like(torch.Generator().manual_seed(1))
    camera = Camera.look_at(torch.tensor([[0.3, 0.1, 0.8]]), torch.tensor([[0.0, 0.0, 0.0]]), 0.5, (480, 640))
    identity, expression = torch.tensor([1.5, -1.0, 0.5]), torch.zeros(52)
    expression[0] = 0.6
    points = camera.project(model.points(identity, expression)[None])[0]
    frame = ViewFrame((480, 640), (320.0, 240.0), 60.0, focal=float(camera.focal))
    start = initial_parameters(model, points, frame, 8, torch.zeros(1, 3))
    found = align([model], start, [points], [frame], 25)
    projected = camera_of(found, [frame], 0).project(model.points(found.identity, found.expression[0])[None])[0]
    assert float((projected - points).norm(dim=1).mean()) < 0.5
    position = camera_of(found, [frame], 0).position()[0]
    true = camera.position()[0]
    cosine = float(torch.nn.functional.cosine_similarity(position, true, dim=0))
    assert np.degrees(np.arccos(min(cosine, 1.0))) < 0.5
    assert found.identity.sign().tolist() == [1, -1, 1]
    assert 0 <= float(found.expression.min()) and float(found.expression.max()) <= 1


def test_grey_views_are_compared_as_luma() -> None:
    """Rec.709 luma, only where the view is grey."""
    rgb = torch.tensor([1.0, 0.0, 0.0]).expand(2, 1, 1, 3)
    out = as_grey(rgb, torch.tensor([True, False]))
    assert out[0, 0, 0].tolist() == pytest.approx([0.2126] * 3)
    assert out[1, 0, 0].tolist() == [1, 0, 0]


def test_a_term_that_is_not_a_number_is_named() -> None:
    """NaN stops the fit with a sentence."""
    model = face_like(torch.Generator().manual_seed(2))
    frame = ViewFrame((100, 100), (50.0, 50.0), 30.0)
    params = initial_parameters(model, model.mean[:, :2] * 500 + 50, frame, 8, torch.zeros(1, 3))
    job, other, third = (FitJob([], params) for _ in range(3))
    note(job, {"identity": [0.5, 0.4], "pixel": [0.1, float("nan")]}, [True, True], 3)
    assert job.error is not None and job.error.code == "fit_diverged"
    assert "pixel" in str(job.error) and "step 4" in str(job.error)
    note(other, {"pixel": [0.1]}, [False], 7)
    assert other.error is not None and "gradient" in str(other.error)
    note(third, {"pixel": [0.1]}, [True], 7)
    assert third.error is None and third.trace.losses == {"pixel": [0.1]}


def test_crop_cameras_are_the_photos_cameras_cropped() -> None:
    """Two photos, one with a known focal length: `CropFrames.cameras` sees points where `camera_of` and `crop` do."""
    frames = [ViewFrame((480, 640), (310.0, 220.0), 60.0), ViewFrame((900, 700), (330.0, 400.0), 80.0, focal=1500.0)]
    boxes = [(120.5, -30.0, 400.0), (40.0, 90.0, 610.0)]
    rng = torch.Generator().manual_seed(5)
    params = FitParameters(**{**blank_parameters(2).tensors(), "rotation": 0.3 * torch.randn(2, 3, generator=rng),
                              "centre": 0.2 * torch.randn(2, 2, generator=rng),
                              "log_scale": torch.tensor([[2.4], [2.5]]), "log_distance": torch.tensor([[-0.3], [0.9]])})
    points = 0.1 * torch.randn(1, 9, 3, generator=rng)
    found = CropFrames.of(frames, boxes, 192, torch.device("cpu")).cameras(params).project(points)
    for i, (x0, y0, side) in enumerate(boxes):
        wanted = camera_of(params, frames, i).crop(x0, y0, 192 / side, (192, 192)).project(points)[0]
        torch.testing.assert_close(found[i], wanted, rtol=1e-4, atol=1e-2)


def blank_parameters(views: int) -> FitParameters:
    """Zeros for so many photos of one person."""
    def zero(*shape: int) -> torch.Tensor:
        return torch.zeros(shape)

    return FitParameters(zero(4), zero(views, 52), zero(512), zero(8, 3), zero(views, 3), zero(views, 2),
                         zero(views, 1), zero(views, 1), zero(views, 9, 3), zero(views, 3), zero(views, 3))


def test_people_fitted_together_are_fitted_as_if_alone(models: Models, astronaut: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey photo and two photos of another person: in one batch every step's losses are those that the person alone
    has at the same parameters, and the parameters move as alone; of a third, whose numbers break down, the job says so
    and the others do not notice.

    Losses are not compared along the two ways: rounding moves an edge over a pixel's centre or a unit of a network over
    its kink, which changes a gradient by a twentieth, so that the ways part after two steps. The draws' seed is one
    whose ways stay together for three: two or three of eight do not.
    """
    picture, device = Image.open(astronaut).convert("RGB"), torch.device("cpu")
    person = models.person(QUICK, device)
    mesh, identity = models.landmarks(QUICK, device), models.identity(QUICK, device)
    photos = [[picture.convert("L")], [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]]
    states: list[list[FitParameters]] = []
    advance = Descent.advance

    def watched(descent: Descent) -> None:
        states.append([p.detach() for p in descent.params.apart([len(v) for v in descent.energy.views])])
        advance(descent)

    def job(images: list[Image.Image]) -> FitJob:
        views = []
        for image in images:
            stream = io.BytesIO()
            image.save(stream, "PNG")
            views.append(prepare_view(load_photo(stream.getvalue()), models.detector(), mesh, None)[0])
        return FitJob(views, align_views(person, views, config), seed=1)

    monkeypatch.setattr(Descent, "advance", watched)
    config = PRESETS["draft"].with_iterations(3)
    alone, together = [job(p) for p in photos], [job(p) for p in photos]
    ways = []
    for one in alone:
        fit(person, one, identity, mesh, config)
        ways.append([state[0] for state in states])
        states.clear()
    broken = job(photos[0])
    broken.params.expression[0, 3] = float("nan")
    fit_together(person, [together[0], broken, together[1]], identity, mesh, config)
    assert broken.error is not None and broken.error.code == "fit_diverged"
    for number, one, other, way, images in zip((0, 2), alone, together, ways, photos, strict=True):
        assert other.error is None
        energy = Energy.together([start_stage(person, job(images), identity, mesh, config.stages[0], None)])
        draws = Conditions.of_people([energy.draw(torch.Generator().manual_seed(other.seed), 3)], device)
        for step, (state, own) in enumerate(zip(states, way, strict=True)):
            terms, _ = energy(FitParameters.together([state[number]]), draws.at(torch.tensor([step])))
            assert set(one.trace.losses) == set(terms)
            for name, value in terms.items():
                assert other.trace.losses[name][step] == pytest.approx(float(value), rel=1e-4, abs=1e-6), (name, step)
            for name, tensor in own.tensors().items():
                off, gone = ((t - tensor).abs().mean() for t in (state[number].tensors()[name], way[0].tensors()[name]))
                assert off <= 0.05 * gone + 1e-5, (name, step)
        for name, values in one.trace.losses.items():
            assert other.trace.losses[name][0] == pytest.approx(values[0], rel=1e-4, abs=1e-6), name
        for name, tensor in one.params.tensors().items():
            torch.testing.assert_close(other.params.tensors()[name], tensor, rtol=0, atol=0.02, msg=name)
    assert "tint" in together[0].trace.losses and together[1].trace.losses["tint"] == [0, 0, 0]


def test_bundles_of_people_together_are_theirs_alone(models: Models, astronaut: Path, tmp_path: Path) -> None:
    """A photo, one that is none, three more, of which one's folder cannot be written any more when its fit is done:
    every outcome in its place, and the files are those of the person alone."""
    picture = Image.open(astronaut).convert("RGB")
    photos: list[bytes] = []
    for image in (picture, picture.convert("L"), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), picture):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        photos.append(stream.getvalue())
    photos.insert(1, b"no photo")
    people = [([photo], QUICK.replace(out=str(tmp_path / str(i)))) for i, photo in enumerate(photos)]

    def report(stage: str, step: int, *_: object) -> None:
        if stage == "fit" and step and not (tmp_path / "4").exists():
            (tmp_path / "4").write_bytes(b"in the way")

    found = reconstruct_together(people, report, models=models)
    for i in (1, 4):
        assert isinstance(found[i], GanfitError)
    assert found[1].code == "photo_format" and found[4].code == "output_not_writable"
    for i in (0, 2, 3):
        together, alone = found[i], reconstruct([photos[i]], QUICK, models=models)
        assert not isinstance(together, Exception)
        files = set(together.result["files"])
        assert {f.name for f in (tmp_path / str(i)).iterdir()} == files | {"result.json"}
        assert files == set(alone.result["files"])
        for name in ("albedo.png", "render_00.png", "sheet.jpg"):
            a, b = (np.asarray(Image.open(io.BytesIO(bundle.read(name))), float) for bundle in (together, alone))
            assert np.abs(a - b).mean() < 1, name
        assert set(together.result["timings"]) == set(alone.result["timings"])


def test_two_photos_share_shape_and_texture(models: Models, astronaut: Path) -> None:
    """A photo and its brighter mirror image: one head, two mirrored cameras, two lights, two renders."""
    mirrored = np.asarray(Image.open(astronaut).convert("RGB"))[:, ::-1]
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mirrored)).save(stream, "PNG")
    bundle = reconstruct([astronaut, stream.getvalue()], QUICK, models=models)
    views = bundle.result["views"]
    assert len(views) == 2 and len(bundle.result["texture"]["latent"]) == 512
    sideways = [view["camera"]["cam_to_world"][0][3] for view in views]
    assert sideways[0] == pytest.approx(-sideways[1], abs=0.1)  # metres, about a metre from the head
    for name in ("photo_01.png", "render_01.png", "overlay_01.jpg"):
        assert bundle.read(name)
    assert bundle.image("render_01.png").shape == (512, 512, 4)


def test_grey_photo_says_so_and_same_seed_gives_the_same_bits(models: Models, astronaut: Path) -> None:
    """A black-and-white photo is fitted with a warning; the same seed gives the same parameters."""
    stream = io.BytesIO()
    Image.open(astronaut).convert("L").save(stream, "PNG")
    first = reconstruct([stream.getvalue()], QUICK, models=models).result
    second = reconstruct([stream.getvalue()], QUICK, models=models).result
    assert any("no colour" in warning for warning in first["warnings"])
    assert first["shape"] == second["shape"] and first["texture"] == second["texture"]
    assert first["losses"] == second["losses"]
    ambient = np.array(first["views"][0]["lights"]["sh"])[0]
    assert ambient.max() / ambient.min() < 1.1, "grey photos say nothing of a light's colour"


def test_skin_without_colour_keeps_its_hue(models: Models, astronaut: Path) -> None:
    """The latent knows that brighter skin is often redder; where no photo has colour, it may not follow that."""
    stream = io.BytesIO()
    Image.open(astronaut).convert("L").point(lambda level: 0.45 * level).save(stream, "PNG")
    hues = []
    for iterations in (1, 25):
        options = replace(QUICK, iterations=iterations, refine=False)
        skin = reconstruct([stream.getvalue()], options, models=models).image("generator.png")
        small = Image.fromarray(skin).reduce(16).crop((6, 6, 26, 26))
        hues.append(log_colour(torch.from_numpy(np.array(small)).float() / 255)[..., :2])
    assert float((hues[1] - hues[0]).abs().mean()) < 0.035  # 0.053 where nothing holds it
    assert "tint" not in reconstruct([astronaut], QUICK, models=models).result["losses"]


def test_white_balance_of_a_photo_is_hardly_the_skins(models: Models, astronaut: Path) -> None:
    """The same photo as under a lamp: more red, less blue. Less than half of that gets into the albedo."""
    picture = torch.from_numpy(np.array(Image.open(astronaut).convert("RGB"))).float() / 255
    lamp = torch.tensor([1.1, 1.0, 0.85])
    hues = []
    for light in (torch.ones(3), lamp):
        stream = io.BytesIO()
        photo = (linear_to_srgb(srgb_to_linear(picture) * light).clamp(0, 1) * 255).round().byte().numpy()
        Image.fromarray(photo).save(stream, "PNG")
        options = replace(QUICK, iterations=25, refine=False)
        skin = reconstruct([stream.getvalue()], options, models=models).image("generator.png")
        small = Image.fromarray(skin).reduce(16).crop((6, 6, 26, 26))
        hues.append(log_colour(torch.from_numpy(np.array(small)).float() / 255)[..., :2].mean((0, 1)))
    assert ((hues[1] - hues[0]).abs() < 0.5 * lamp[[0, 2]].log().abs()).all(), hues


def test_two_faces_take_the_largest_and_say_so(models: Models, astronaut: Path) -> None:
    """Side by side, one smaller: the larger is fitted with a warning; `face` chooses the other; a third is refused."""
    face = Image.open(astronaut).convert("RGB").crop((100, 0, 350, 250))
    both = Image.new("RGB", (600, 300), (200, 200, 200))
    both.paste(face.resize((300, 300)), (0, 0))
    both.paste(face.resize((200, 200)), (380, 50))
    stream = io.BytesIO()
    both.save(stream, "PNG")
    result = reconstruct([stream.getvalue()], QUICK, models=models).result
    assert any("2 faces" in warning for warning in result["warnings"])
    assert np.array(result["views"][0]["landmarks"])[:, 0].mean() < 300
    other = reconstruct([stream.getvalue()], replace(QUICK, face=1), models=models).result
    assert np.array(other["views"][0]["landmarks"])[:, 0].mean() > 380
    with pytest.raises(GanfitError) as caught:
        reconstruct([stream.getvalue()], replace(QUICK, face=2), models=models)
    assert caught.value.code == "face_index"


def test_cheeks_lie_on_the_map_where_the_chart_has_them(models: Models) -> None:
    """The squares with the cheeks' vertices are those that the rasterised chart covers with cheeks."""
    person = models.person(QUICK, torch.device("cpu"))
    drawn = torch.nn.functional.interpolate(region_maps(person, 256)["cheek"], (32, 32), mode="area")[0, 0]
    assert float(person.cheek_map.sum()) == pytest.approx(1, abs=1e-5)
    assert float((person.cheek_map * (drawn > 0.02)).sum()) > 0.97
    assert float((person.cheek_map * (drawn > 0.02).flip(0)).sum()) < 0.7


def test_colours_of_eyes_are_found_under_each_photos_own_light(models: Models, astronaut: Path) -> None:
    """Two views of one face, the second under a lamp and with ten times as many pixels of the irises: both together
    give the colour that the first gives."""
    device, mesh = torch.device("cpu"), models.landmarks(QUICK, torch.device("cpu"))
    person, config = models.person(QUICK, device), PRESETS["draft"]
    lamp, iris = torch.tensor([1.3, 1.0, 0.6]), torch.tensor([0.10, 0.07, 0.05])
    views = [prepare_view(load_photo(astronaut), models.detector(), mesh, None)[0] for _ in range(2)]
    for view, shown in zip(views, (iris.expand(30, 3), (iris * lamp).expand(300, 3)), strict=True):
        view.iris_pixels = linear_to_srgb(shown).numpy  # type: ignore[method-assign]
    colours = []
    for chosen in (views[:1], views):
        energy = Energy.of_person(person, chosen, models.identity(QUICK, device), mesh, config.stages[0], device)
        params = FitParameters.together([align_views(person, chosen, config)])
        light = torch.stack([params.sh[0], params.sh[0] * lamp])[:len(chosen)]
        palette = Start(energy, replace(params, sh=light)).palette(person.default_palette()[None])
        colours.append(srgb_to_linear(palette[0, person.head.palette_names.index("iris")]))
    assert colours[0].tolist() == pytest.approx((iris * colours[0][1] / iris[1]).tolist(), rel=0.01)
    torch.testing.assert_close(colours[1], colours[0], atol=0, rtol=0.02)


def test_colour_of_an_iris_without_its_highlights() -> None:
    """A blue surface under a warm light, a fifth of its pixels highlight and a fifth lashes: its albedo comes back."""
    rng = torch.Generator().manual_seed(0)
    albedo, light = torch.tensor([0.10, 0.18, 0.30]), torch.tensor([1.1, 0.9, 0.7])
    shading = light * (0.5 + torch.rand(200, 1, generator=rng))
    linear = albedo * shading
    linear[:40], linear[40:80] = 1.0, 0.005
    found = surface_colour(linear_to_srgb(linear.clamp(0, 1)), shading, torch.zeros(3))
    assert srgb_to_linear(found).tolist() == pytest.approx(albedo.tolist(), rel=0.05)
    assert surface_colour(linear[:5], shading[:5], torch.ones(3)).tolist() == [1, 1, 1]
