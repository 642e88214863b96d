# SPDX-License-Identifier: GPL-3.0-or-later
"""Several photos against each other: a known head, drawn from two sides under two lights."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip("backend.head.model")

from known_head import known_parameters, photograph, view_of  # noqa: E402

from backend.fit import fit as fit_module  # noqa: E402
from backend.fit.config import PRESETS  # noqa: E402
from backend.fit.fit import FitJob, fit_together  # noqa: E402
from backend.fit.parameters import FitParameters, ViewFrame, camera_of  # noqa: E402
from backend.fit.person import Person  # noqa: E402
from backend.fit.stereo import CROP, SPREADS, Problem, agree, face_points, normalised, visibility, with_slopes  # noqa: E402
from backend.fit.views import View  # noqa: E402
from backend.options import Options  # noqa: E402
from backend.pipeline import Models, choose_device  # noqa: E402

TURNS = (-0.3, 0.35)


@dataclasses.dataclass
class Sitter:
    """A head, two photos of it, and a fit that errs as much as fits are said to."""

    person: Person
    truth: FitParameters
    frames: list[ViewFrame]
    views: list[View]
    fitted: FitParameters

    def error(self, params: FitParameters) -> float:
        """Root mean square distance of the neutral face to the true one, millimetres, moved and turned onto it."""
        model, _ = face_points(self.person, self.truth)
        found, true = (model.points(p.identity.double(), torch.zeros(52).double()) for p in (params, self.truth))
        found, true = found - found.mean(0), true - true.mean(0)
        u, _, v = torch.linalg.svd(found.T @ true)
        return 1000 * float((found @ (u @ v) - true).square().sum(1).mean().sqrt())


def marked_skin(seed: int) -> torch.Tensor:
    """(1, 3, 1024, 1024): skin with marks of several sizes, as moles, lines and brows are."""
    rng = torch.Generator().manual_seed(seed)
    marks = [torch.nn.functional.interpolate(torch.randn(1, 1, side, side, generator=rng), 1024, mode="bicubic")
             for side in (64, 128, 256)]  # fmt: skip
    return (torch.tensor([0.75, 0.55, 0.45])[None, :, None, None] * (1 + 0.12 * sum(marks))).clamp(0, 1)


def joined(people: list[FitParameters]) -> FitParameters:
    """One person in the photos of all: the shape, skin and palette of the first."""
    values = [p.tensors() for p in people]
    shared = ("identity", "latent", "palette")
    return FitParameters(**{name: values[0][name] if name in shared else torch.cat([v[name] for v in values])
                            for name in values[0]})  # fmt: skip


@pytest.fixture(scope="module")
def sitter() -> Sitter:
    person = Models().person(Options(), choose_device("cpu"))
    alone, frames = zip(*[known_parameters(person, yaw) for yaw in TURNS], strict=True)
    other_light = {"sun_direction": torch.tensor([[-0.7, 0.3, 1.0]]), "sh": 0.7 * alone[1].sh}
    alone = [alone[0], dataclasses.replace(alone[1], **other_light)]
    skin = marked_skin(0)
    photos = [photograph(person, params, frame, skin) for params, frame in zip(alone, frames, strict=True)]
    truth = joined(alone)
    rng = torch.Generator().manual_seed(1)
    off = {name: getattr(truth, name) + size * SPREADS[name] * torch.randn(getattr(truth, name).shape, generator=rng)
           for name, size in (("identity", 1.5), ("rotation", 0.3), ("centre", 0.1))}  # fmt: skip
    views = [view_of(photo, frame) for photo, frame in zip(photos, frames, strict=True)]
    return Sitter(person, truth, list(frames), views, dataclasses.replace(truth, **off))


def test_two_photos_bring_the_shape_back(sitter: Sitter) -> None:
    """Marks that are seen from two sides say where the skin is; light that is not the same in both does not matter."""
    before = sitter.error(sitter.fitted)
    found = agree(sitter.person, sitter.views, sitter.fitted)
    assert before > 0.8 and sitter.error(found) < 0.5 * before
    for name in ("latent", "palette", "sh", "sun_direction", "sun_rgb"):
        assert torch.equal(getattr(found, name), getattr(sitter.fitted, name)), name


def test_a_true_fit_stays(sitter: Sitter) -> None:
    assert sitter.error(agree(sitter.person, sitter.views, sitter.truth)) < 0.15


def test_photos_of_two_skins_say_nothing(sitter: Sitter) -> None:
    """Unlike marks at all places: nothing to agree on, so the head hardly moves."""
    second = dataclasses.replace(sitter.truth, **{name: value[1:] for name, value in sitter.truth.tensors().items()
                                                  if name not in ("identity", "latent", "palette")})  # fmt: skip
    photo = photograph(sitter.person, second, sitter.frames[1], marked_skin(7))
    views = [sitter.views[0], view_of(photo, sitter.frames[1])]
    assert sitter.error(agree(sitter.person, views, sitter.truth)) < 0.3


def test_photos_that_see_nothing_in_common_change_nothing(sitter: Sitter) -> None:
    away = torch.tensor([[0.0, -1.5, 0.0], [0.0, 1.5, 0.0]])
    params = dataclasses.replace(sitter.truth, rotation=away)
    seen = visibility(sitter.person, sitter.views, params, face_points(sitter.person, params)[1])
    assert (seen.sum(1) > 0).all() and not (seen[0] * seen[1]).any()
    assert agree(sitter.person, sitter.views, params) is params


def crosses(origin: np.ndarray, way: np.ndarray, corners: np.ndarray) -> bool:
    """Whether a ray meets one of the triangles (T, 3, 3) (Moeller and Trumbore 1997)."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.cross(way, second)
    size = (first * across).sum(1)
    size = np.where(np.abs(size) < 1e-18, np.nan, size)
    off = origin - corners[:, 0]
    u = (off * across).sum(1) / size
    turned = np.cross(off, first)
    v, far = (turned @ way) / size, (second * turned).sum(1) / size
    return bool(((u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)).any())


def test_what_is_behind_the_nose_is_hidden(sitter: Sitter) -> None:
    """Against rays from points of the face to the camera of a head in half profile."""
    person, (_, chosen) = sitter.person, face_points(sitter.person, sitter.truth)
    turned = dataclasses.replace(sitter.truth, rotation=torch.tensor([[0.0, -0.8, 0.0], [0.0, 0.3, 0.0]]))
    seen = visibility(person, sitter.views, turned, chosen)[0].numpy() > 0
    verts = person.geometry(turned)[1]
    normals = torch.nn.functional.normalize(person.raster.vertex_normals(verts, person.head.tri1), dim=-1)[0, chosen]
    corners = verts[0][person.head.tri1.long()].double().numpy()
    eye = camera_of(turned, sitter.frames, 0).position()[0].numpy()
    at, normals = verts[0, chosen].double().numpy(), normals.numpy()
    cosine = (normals * (eye - at)).sum(1) / np.linalg.norm(eye - at, axis=1)
    some = np.flatnonzero(cosine > 0.45)[::23]
    hidden = np.array([crosses(at[i] + 0.0005 * normals[i], eye - at[i], corners) for i in some])
    assert hidden.sum() > 3 and np.mean(hidden == ~seen[some]) > 0.93


def test_normalised_contrast_is_that_of_another_library() -> None:
    picture = torch.rand(64, 64, generator=torch.Generator().manual_seed(2))
    smooth = ndimage.gaussian_filter(picture.double().numpy(), 2.0, mode="nearest")
    offset = smooth - ndimage.gaussian_filter(smooth, 6.0, mode="nearest")
    wanted = offset / np.sqrt(ndimage.gaussian_filter(offset**2, 6.0, mode="nearest") + 0.02**2)
    assert np.abs(normalised(picture, 2.0).numpy() - wanted).max() < 1e-3


def test_derivatives_are_those_of_finite_differences(sitter: Sitter) -> None:
    """Of a smooth pattern at the points, by every kind of unknown."""
    model, _ = face_points(sitter.person, sitter.truth)
    host = FitParameters(**{name: value.double() for name, value in sitter.truth.tensors().items()})
    host = dataclasses.replace(host, expression=host.expression + 0.2)
    boxes = [view.box for view in sitter.views]
    seen = torch.ones(2, len(model.mean), dtype=torch.float64)
    problem = Problem(model, sitter.frames, boxes, host, seen)
    y, x = torch.meshgrid(torch.arange(float(CROP)), torch.arange(float(CROP)), indexing="ij")
    wave = (torch.sin(x / 31) * torch.cos(y / 23))[None].expand(2, -1, -1).double()
    start = problem.vector(host)
    assert torch.equal(problem.vector(problem.parameters(start)), start)
    k, own = len(host.identity), 59
    _, derivatives = problem.look(host, wave, 1)
    for unknown in (0, 7, k - 1, k + own + 3, k + own + 25, *range(k + own + 52, k + 2 * own)):
        step = torch.zeros_like(start)
        step[unknown] = 1e-4
        high, low = (problem.look(problem.parameters(start + sign * step), wave, 1)[0] for sign in (1, -1))
        numeric = (high - low) / 2e-4
        column = unknown if unknown < k else unknown - own
        wanted = derivatives[:, column]
        assert (numeric - wanted).norm() < 0.05 * wanted.norm() + 1e-4, unknown


def test_slopes_of_a_plane() -> None:
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    picture, by_column, by_row = with_slopes(2 * x + 3 * y)
    assert torch.equal(picture, 2 * x + 3 * y)
    assert (by_column[:, 1:-1] == 2).all() and (by_row[1:-1] == 3).all()


@pytest.mark.parametrize("photos, pins, rate, wanted", [(2, None, 0.01, 1), (1, None, 0.01, 0), (2, {0: None}, 0.01, 0),
                                                         (2, None, 0.0, 0)])  # fmt: skip
def test_which_fits_it_belongs_to(sitter: Sitter, monkeypatch: pytest.MonkeyPatch, photos: int, pins: dict | None,
                                  rate: float, wanted: int) -> None:
    """Those of several photos whose shape is free: not of one photo, held by pins or sculpted."""
    asked = []
    monkeypatch.setattr(fit_module, "start_stage", lambda *_: None)
    monkeypatch.setattr(fit_module, "run_stage", lambda *_: None)
    monkeypatch.setattr(fit_module, "agree", lambda person, views, params: asked.append(views) or params)
    job = FitJob(sitter.views[:photos], sitter.truth, pins=pins)
    fit_together(sitter.person, [job], torch.nn.Identity(), None, PRESETS["draft"].with_rates(identity=rate))
    assert len(asked) == wanted and ("stereo" in job.trace.seconds) == bool(wanted)
