# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits a result again from where it is: to a sculpted shape, to pinned landmarks, with other photos or options."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.assemble import assemble
from backend.bundle import Bundle, check_output, read_bundle
from backend.errors import GanfitError
from backend.fit.align import align
from backend.fit.fit import FitJob, fit
from backend.fit.parameters import FitParameters, ViewFrame
from backend.fit.person import Person
from backend.fit.pins import PinTargets, joined, parse_pins, pin_targets, pinned_view
from backend.fit.views import View, expression_stiffness, prepare_view
from backend.options import Options, is_number
from backend.photo import FULL_FRAME_DIAGONAL_MM, Photo, load_photo
from backend.pipeline import (
    Models,
    Report,
    Timeline,
    choose_device,
    describe,
    fit_config,
    with_focal,
    write_result,
)
from backend.render.camera import Camera
from backend.render.lights import Lights

SAME_MESH_M = 1e-5
"""A vertex of the bundle and of the head model built from its coefficients differ by less, metres."""


def refit(
    bundle: str | Path,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    sculpt: str | Path | np.ndarray | None = None,
    pins: Sequence[Mapping[str, Any]] | None = None,
    photos: Sequence[int] | None = None,
    focal_mm: Sequence[float | None] | None = None,
    focal_px: Sequence[float | None] | None = None,
    progress: Report | None = None,
    cancel: Callable[[], bool] | None = None,
    models: Models | None = None,
) -> Bundle:
    """Fits a bundle's photos again, starting from its parameters.

    Args:
        bundle: folder of the result.
        options: those of the bundle that change.
        out: folder of the new result, may be the bundle's own; None keeps the result in memory.
        sculpt: (V0, 3) float32 displacements of the bundle's neutral cage (`verts` of head.npz), metres, in place of
            its `offsets`; or an .npz file with them as `offsets`. The shape is then kept; texture, light, camera and
            expression are fitted.
        pins: {view, index, x, y}: landmarks in photo pixels that the head has to meet; index is a mesh point 0..467
            or "68:N". Shape, expression and camera are aligned again before the fit.
        photos: numbers of the views to use; all by default. Pins of others are left out.
        focal_mm: focal length per view of the bundle, 35 mm equivalent; None as it was, 0 unknown.
        focal_px: the same in pixels.
        progress, cancel, models: as for `reconstruct`.

    Raises GanfitError: those of `reconstruct` and bundle_missing, bundle_damaged, bundle_version, layout_mismatch,
    sculpt_unreadable, bad_pin.
    """
    source = read_bundle(bundle)
    count = len(source.result["views"])
    chosen, focal = _choose(photos, count), _focal(source, focal_mm, focal_px)
    kept = [replace(p, view=chosen.index(p.view)) for p in parse_pins(pins or [], count) if p.view in chosen]
    wanted = Options.from_dict({**source.result["options"], **(options or {}), "out": out,
                                "focal_mm": None if focal is None else [focal[i] for i in chosen]})
    if out is not None:
        check_output(out)
    models = models or Models()
    with tempfile.TemporaryDirectory(prefix="ganfit-") as folder:
        timeline = Timeline(progress, Path(folder))
        timeline.stage("photos")
        decoded = with_focal([_photo(source, i) for i in chosen], wanted.focal_mm)
        timeline.stage("models")
        device = choose_device(wanted.device)
        person = models.person(wanted, device)
        offsets = _offsets(source, sculpt, _check_model(source, person, device))
        identity, mesh = models.identity(wanted, device), models.landmarks(wanted, device)
        timeline.stage("face")
        prepared = [prepare_view(p, models.detector(), mesh, wanted.face) for p in decoded]
        views = [pinned_view(v, [p for p in kept if p.view == i]) for i, (v, _) in enumerate(prepared)]
        warnings = [w for p, (_, own) in zip(decoded, prepared, strict=True) for w in (*p.warnings, *own)]
        timeline.stage("align")
        config, scale = fit_config(wanted), source.result["shape"]["scale"]
        params = parameters_of(source.result, chosen, [v.frame for v in views], person, device)
        if offsets.any():
            params = replace(params, offsets=torch.as_tensor(offsets).to(device) / scale)
        targets = pin_targets(person, views, kept, params.offsets)
        if sculpt is not None:
            config = config.with_rates(identity=0.0)
        if sculpt is not None or kept or focal is not None:
            params = align_again(person, params, views, targets, config.align_steps, bool(kept) and sculpt is None)
        timeline.stage("fit")
        job = FitJob(views, params, wanted.seed, targets, lit=True)
        params, trace = fit(person, job, identity, mesh, config, timeline.fit_step, cancel)
        timeline.stage("bundle")
        size = None if sculpt is None else (scale, source.result["shape"]["ruler"])
        result = describe(person, params, views, trace, wanted, device, warnings, size)
        result["pins"] = [pin.to_dict() for pin in kept]
        scene = assemble(result, person, device, offsets * np.float32(result["shape"]["scale"] / scale))
        return write_result(wanted.out, scene, result, [v.photo.image for v in views], timeline, trace)


def parameters_of(result: dict, chosen: Sequence[int], frames: list[ViewFrame], person: Person,
                  device: torch.device) -> FitParameters:
    """The fit's parameters of the chosen views of a `result.json`: the inverse of `describe`, without offsets."""
    head, scale = person.head, result["shape"]["scale"]
    views = [result["views"][i] for i in chosen]
    rotation, centre, log_scale, log_distance = [], [], [], []
    for view, frame in zip(views, frames, strict=True):
        camera = Camera.from_result(view["camera"])
        x, y, z = (camera.translation[0] / scale).tolist()
        focal, (height, width) = float(camera.focal), frame.size
        rotation.append(camera.rotation[0])
        centre.append([(width / 2 - frame.anchor[0] - x / z * focal) / frame.unit,
                       (height / 2 - frame.anchor[1] + y / z * focal) / frame.unit])
        log_scale.append([math.log(focal / -z / frame.unit)])
        log_distance.append([math.log(-z)])
    lights = Lights.cat([Lights.from_result(view["lights"]) for view in views])
    shape = torch.tensor(result["shape"]["coefficients"])
    values = {
        "identity": torch.nn.functional.pad(shape, (0, len(head.identity) - len(shape))),  # the head may have got more
        "expression": torch.tensor([[view["expression"][name] for name in head.expression_names] for view in views]),
        "latent": torch.tensor(result["texture"]["latent"]),
        "palette": torch.tensor([result["palette"][name] for name in head.palette_names]),
        "rotation": torch.stack(rotation), "centre": torch.tensor(centre), "log_scale": torch.tensor(log_scale),
        "log_distance": torch.tensor(log_distance), "sh": lights.sh, "sun_direction": lights.sun_direction,
        "sun_rgb": lights.sun_rgb,
    }
    return FitParameters(**{name: value.float().to(device) for name, value in values.items()})


def align_again(person: Person, params: FitParameters, views: list[View], pins: dict[int, PinTargets], steps: int,
                shape: bool) -> FitParameters:
    """Camera, expression and, with `shape`, identity of all views aligned together to landmarks and pins."""
    host = FitParameters(**{name: value.cpu() for name, value in params.tensors().items()})
    model = person.landmark_model(params.offsets).to("cpu")
    if pins:  # beside pins, errors that points make together would explain away what a pin pulls along
        model = model.alone()
    if not shape:
        model = model.of_identity(host.identity)
        pins = {i: replace(p, model=p.model.of_identity(params.identity)) for i, p in pins.items()}
    models, points = [], []
    for number, view in enumerate(views):
        own = pins.get(number)
        models.append(joined(model, own and replace(own, model=own.model.to("cpu"))))
        points.append(torch.cat([view.points(), own.target.cpu()]) if own else view.points())
    stiffness = expression_stiffness(views, person.head.expression_names)
    done = align(models, host, points, [v.frame for v in views], steps, stiffness)
    return FitParameters(**{name: value.to(params.identity.device) for name, value in done.tensors().items()})


def _choose(photos: Sequence[int] | None, count: int) -> list[int]:
    """The views to use, in their order. Raises GanfitError: no_photo, bad_option."""
    if photos is None:
        return list(range(count))
    if not photos:
        raise GanfitError("no_photo", "Every photo of the result is switched off.")
    if not all(type(i) is int and 0 <= i < count for i in photos):
        raise GanfitError("bad_option", f"The photos are {list(photos)!r}; the result has those from 0 to {count - 1}.")
    return sorted(set(photos))


def _focal(source: Bundle, focal_mm: Sequence[float | None] | None,
           focal_px: Sequence[float | None] | None) -> list[float | None] | None:
    """Focal lengths given for the bundle's views in mm, None when there is none to change."""
    if focal_mm is not None and focal_px is not None:
        raise GanfitError("bad_option", "The focal length is given both in mm and in pixels.")
    given = focal_mm if focal_px is None else focal_px
    if given is None:
        return None
    sizes = [view["photo"]["size"] for view in source.result["views"]]
    if len(given) != len(sizes):
        raise GanfitError("bad_option", f"The result has {len(sizes)} photos; {len(given)} focal lengths were given.")
    if focal_px is None or not all(f is None or is_number(f) for f in given):
        return list(given)
    return [f and f * FULL_FRAME_DIAGONAL_MM / math.hypot(*size) for f, size in zip(given, sizes, strict=True)]


def _photo(source: Bundle, view: int) -> Photo:
    """A photo out of the bundle under its original's name and hash, with the focal length that was used."""
    entry = source.result["views"][view]
    record = entry["photo"]
    photo = load_photo(source.read(entry["files"]["photo"]), record.get("name"))
    return replace(photo, sha256=record["sha256"], focal_35mm=record.get("focal_35mm"))


def _check_model(source: Bundle, person: Person, device: torch.device) -> np.ndarray:
    """The bundle's neutral cage (V0, 3), when it is what the installed head model and generator make of its numbers.

    Raises GanfitError: layout_mismatch.
    """
    result, head = source.result, person.head
    verts = source.head["verts"]
    shape = result["shape"]
    if result["texture"]["generator_sha256"] != person.generator.sha256:
        raise GanfitError("layout_mismatch", "The result was made with another texture generator.",
                          hint="Give the same generator file as the option `generator`.")
    same = result["layout_id"] == head.layout_id and verts.shape == tuple(head.verts0.shape)
    same = same and len(shape["coefficients"]) <= len(head.identity)
    if same:
        identity = torch.tensor([shape["coefficients"]], dtype=torch.float32, device=device)
        cage = head.cage(identity, torch.zeros(1, len(head.expression), device=device))[0] * shape["scale"]
        same = float((cage.cpu() - torch.from_numpy(verts)).abs().max()) < SAME_MESH_M
    if not same:
        raise GanfitError("layout_mismatch", "The result was made with another version of the head model.",
                          hint="Reconstruct the photo again.")
    return verts


def _offsets(source: Bundle, sculpt: str | Path | np.ndarray | None, verts: np.ndarray) -> np.ndarray:
    """Free-form offsets (V0, 3) float32, metres: the sculpt's, else the bundle's.

    Raises GanfitError: sculpt_unreadable, layout_mismatch.
    """
    if sculpt is None:
        return source.head["offsets"]
    if not isinstance(sculpt, np.ndarray):
        try:
            with np.load(io.BytesIO(Path(sculpt).read_bytes()), allow_pickle=False) as arrays:
                sculpt = arrays["offsets"]
        except Exception as error:  # a broken archive or header raises a dozen types
            raise GanfitError("sculpt_unreadable", f"The sculpt {sculpt} cannot be read ({error}).") from None
    if sculpt.dtype.kind != "f" or not np.isfinite(sculpt).all():
        raise GanfitError("sculpt_unreadable", "The sculpt's offsets are not finite numbers.")
    if sculpt.shape != verts.shape:
        raise GanfitError("layout_mismatch", f"The sculpt has offsets of the shape {sculpt.shape}, not {verts.shape}.",
                          hint="Sculpt without changing the mesh's vertices: no remesh, no dyntopo, nothing deleted.")
    return sculpt.astype(np.float32)
