# SPDX-License-Identifier: GPL-3.0-or-later
"""The fit: gradient descent on shape, texture, expression, camera and light at once (GANFIT, CVPR 2019, Sec. 3.4)."""
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.errors import GanfitError
from backend.fit import losses
from backend.fit.adam import Adam
from backend.fit.appearance import Start, initial_appearance
from backend.fit.config import FitConfig, LearningRates, LossWeights, StageConfig
from backend.fit.losses import as_grey
from backend.fit.parameters import DISTANCE_PRIOR, FitParameters, ViewFrame, camera_of
from backend.fit.person import SHADED, Person
from backend.fit.pins import PinTargets
from backend.fit.views import View, expression_stiffness
from backend.networks.crop import differentiable_crop
from backend.networks.facemesh import FaceMesh, points5
from backend.networks.fan import FanLandmarks
from backend.render.camera import Camera
from backend.render.lights import random_lights

RANDOM_VIEW_SIZE = 176
"""Side of the second render in pixels: the identity network sees 150 of them."""


@dataclass
class FitTrace:
    """What happened: loss terms per iteration (unweighted) and seconds by part of an iteration."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Appends one iteration."""
        for name, value in terms.items():
            self.losses.setdefault(name, []).append(float(value.detach()))


Progress = Callable[[int, int, dict[str, float], Tensor | None], None]
"""step (from 1), steps, unweighted loss terms, and now and then the render of the crops (V, H, W, 3)."""
PREVIEW_EVERY = 10


class Energy:
    """E(p) of GANFIT for fixed photos at one crop size; every term can be switched off by its weight."""

    def __init__(self, person: Person, views: list[View], identity: torch.nn.Module, mesh: FaceMesh | FanLandmarks,
                 stage: StageConfig, rng: torch.Generator, device: torch.device, offsets: Tensor | None = None,
                 pins: dict[int, PinTargets] | None = None):
        self.person, self.views, self.identity, self.mesh = person, views, identity, mesh
        self.stage, self.rng, self.device = stage, rng, device
        self.frames: list[ViewFrame] = [v.frame for v in views]
        size = stage.crop_size
        crops = [v.crop(size) for v in views]
        self.photo = torch.cat([c[0] for c in crops]).to(device)
        self.inside = torch.cat([c[1] for c in crops]).to(device)
        self.grey = torch.tensor([v.grey for v in views], device=device)
        self.points = torch.stack([v.points() for v in views]).to(device)
        self.units = torch.tensor([v.frame.unit for v in views], device=device)
        self.landmark_model = person.landmark_model(offsets)
        self.pins = pins or {}
        self.usual_palette = person.default_palette().to(device)
        self.stiffness = expression_stiffness(views, person.head.expression_names).to(device)
        self.shaded = torch.tensor([name in SHADED for name in person.head.palette_names], device=device)
        mesh_to_photo = mesh.crop_params(self.points[:, :468].cpu())
        self.mesh_transform = self._to_crop(mesh_to_photo)
        chip_to_photo = identity.chip_transform(points5(self.points[:, :468].cpu()))
        self.chip_transform = self._to_crop(chip_to_photo)
        self.skin = torch.ones_like(self.inside)
        self.usual_tint: Tensor | None = None
        self.net_unit = self.units / torch.linalg.norm(mesh_to_photo[:, :, 0], dim=1).to(device)
        with torch.no_grad():
            pictures = self.photo.permute(0, 3, 1, 2)
            self.photo_points, _ = mesh(differentiable_crop(pictures, self.mesh_transform, mesh.crop_size))
            self.photo_embedding, self.photo_layers = identity(
                differentiable_crop(pictures, self.chip_transform, identity.chip_size))

    def _to_crop(self, transforms: Tensor) -> Tensor:
        size = self.stage.crop_size
        return torch.stack([v.to_crop(t, size) for v, t in zip(self.views, transforms, strict=True)]).to(self.device)

    def cameras(self, params: FitParameters) -> Camera:
        """The crop cameras of all views as one batch."""
        size = self.stage.crop_size
        return Camera.cat([camera_of(params, self.frames, i).crop(v.box[0], v.box[1], size / v.box[2], (size, size))
                              for i, v in enumerate(self.views)])

    def __call__(self, params: FitParameters, clock: "Clock") -> tuple[dict[str, Tensor], Tensor]:
        """All active terms, unweighted, and the render (V, size, size, 3) of the crops."""
        weights, person = self.stage.weights, self.person
        with clock("geometry"):
            _, verts1 = person.geometry(params)
        with clock("generator"):
            texture = person.texture(params, self.stage.texture_size)
        with clock("render"):
            out = person.picture(verts1, texture, params.palette, self.cameras(params), params.lights())
            rgb = as_grey(out.rgb, self.grey)
            weight, bare, _ = person.masks(out)
            # Behind the head and where hair lies over it the networks see the photo itself: only the head's visible
            # pixels carry gradients.
            visible = 1 - bare * (1 - self.skin)
            mask = weight * visible * self.inside
            composed = visible * rgb + (1 - visible * out.alpha) * self.photo
        terms: dict[str, Tensor] = {}
        pictures = composed.permute(0, 3, 1, 2)
        if weights.pixel:
            terms["pixel"] = losses.pixel_distance(self.photo, rgb, mask)
        if weights.landmark:
            with clock("landmark network"):
                points, _ = self.mesh(differentiable_crop(pictures, self.mesh_transform, self.mesh.crop_size))
                terms["landmark"] = losses.landmark_distance(points[..., :2], self.photo_points[..., :2], self.net_unit)
        if weights.landmark_mesh:
            terms["landmark_mesh"] = self.mesh_landmarks(params)
        if weights.tint and self.usual_tint is not None:
            terms["tint"] = losses.gaussian_prior(losses.tint(texture) - self.usual_tint)
        if self.pins:
            terms["pins"] = self.pin_distance(params)
        self.identity_terms(params, pictures, texture, terms, clock)
        terms.update(self.priors(params))
        return terms, rgb

    def identity_terms(self, params: FitParameters, pictures: Tensor, texture: Tensor, terms: dict[str, Tensor],
                       clock: "Clock") -> None:
        """`L_id`, `L_con` on the render and `L_id^` on a second render under random conditions, in one network pass."""
        weights, chips = self.stage.weights, []
        if weights.identity or weights.content:
            chips.append(differentiable_crop(pictures, self.chip_transform, self.identity.chip_size))
        if weights.identity_random:
            with clock("render"):
                chips.append(self.random_chip(params, texture))
        if not chips:
            return
        with clock("identity network"):
            embedding, layers = self.identity(torch.cat(chips))
        views = len(self.views)
        if weights.identity or weights.content:
            terms["identity"] = 1 - self.identity.similarity(embedding[:views], self.photo_embedding).mean()
            terms["content"] = losses.content_distance(self.photo_layers, [a[:views] for a in layers])
        if weights.identity_random:
            terms["identity_random"] = 1 - self.identity.similarity(embedding[-1:], self.photo_embedding).mean()

    def random_chip(self, params: FitParameters, texture: Tensor) -> Tensor:
        """The same person under an expression, camera and light drawn at random (Eq. 4): a chip (1, 3, size, size)."""
        person, rng = self.person, self.rng
        strength, chosen = torch.rand(1, 52, generator=rng), torch.rand(1, 52, generator=rng) < 0.12
        expression = (0.6 * strength * chosen).to(self.device)
        cage = person.head.cage(params.identity[None], expression, params.offsets)
        verts1 = person.head.subdivide(cage)
        camera = random_camera(rng, RANDOM_VIEW_SIZE, self.device)
        lights = random_lights(1, rng, self.device)
        out = person.picture(verts1, texture, params.palette, camera, lights)
        backdrop = torch.rand(1, 1, 1, 3, generator=rng).to(self.device)
        picture = as_grey(out.rgb + (1 - out.alpha) * backdrop, self.grey[:1]).permute(0, 3, 1, 2)
        with torch.no_grad():
            points = camera.project(person.head.landmarks(verts1, "468"))
            transform = self.identity.chip_transform(points5(points))
        return differentiable_crop(picture, transform, self.identity.chip_size)

    def mesh_landmarks(self, params: FitParameters) -> Tensor:
        """Distance of the projected mesh landmarks to the photo's, see `losses.landmark_distance`."""
        total = []
        for i in range(len(self.views)):
            points = self.landmark_model.points(params.identity, params.expression[i])[None]
            projected = camera_of(params, self.frames, i).project(points)
            total.append(losses.landmark_distance(projected, self.points[i:i + 1], self.units[i:i + 1],
                                                  self.landmark_model.weights))
        return torch.stack(total).mean()

    def pin_distance(self, params: FitParameters) -> Tensor:
        """Sum over all pins of their distance to the projected head, see `losses.landmark_distance`."""
        total = []
        for i, pins in self.pins.items():
            points = pins.model.points(params.identity, params.expression[i])[None]
            projected = camera_of(params, self.frames, i).project(points)
            total.append(len(pins.target) * losses.landmark_distance(projected, pins.target[None], self.units[i:i + 1]))
        return torch.stack(total).sum()

    def priors(self, params: FitParameters) -> dict[str, Tensor]:
        """The regularisers of Eq. 9."""
        return {"shape": losses.gaussian_prior(params.identity),
                "expression": losses.gaussian_prior(params.expression * self.stiffness.sqrt()),
                "latent": losses.gaussian_prior(params.latent), "light": losses.light_prior(params.sh, params.sun_rgb),
                "palette": losses.palette_prior(params.palette - self.usual_palette, self.shaded),
                "radiance": params.lights().nonnegative_radiance_penalty(),
                "camera": losses.distance_prior(params.log_distance, *DISTANCE_PRIOR)}


class Clock:
    """Adds up seconds by name; nested use counts for the inner name as well."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def __call__(self, name: str) -> "Clock":
        self._name, self._start = name, time.perf_counter()
        return self

    def __enter__(self) -> None:
        self._entered = (self._name, self._start)

    def __exit__(self, *_: object) -> None:
        name, start = self._entered
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def random_camera(rng: torch.Generator, size: int, device: torch.device) -> Camera:
    """A camera 0.7 to 1.5 m in front of the face, within 40 degrees of yaw and 15 of pitch, the face filling it."""
    yaw, pitch, far, _ = (torch.rand(4, generator=rng) * 2 - 1).tolist()
    yaw, pitch, distance = 0.7 * yaw, 0.26 * pitch, 1.1 + 0.4 * far
    target = torch.tensor([[0.0, -0.035, 0.02]])
    direction = torch.tensor([[math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]])
    fov = torch.tensor([2 * math.atan(0.15 / distance)])
    return Camera.look_at(target + distance * direction, target, fov, (size, size)).to(device)


def optimiser(params: FitParameters, rates: LearningRates) -> Adam:
    """Adam with one step size per kind of parameter."""
    groups = {"identity": ["identity"], "expression": ["expression"], "latent": ["latent"], "rotation": ["rotation"],
              "position": ["centre", "log_scale", "log_distance"], "light": ["sh", "sun_direction", "sun_rgb"],
              "palette": ["palette"]}
    return Adam([(getattr(params, n), getattr(rates, group)) for group, names in groups.items() for n in names],
                betas=(0.9, 0.99))


def rate_factor(stage: StageConfig, iteration: int) -> float:
    """The share of the step sizes that is left in an iteration of a stage: half a cosine down to `final_rate`."""
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * iteration / stage.iterations))


def run_stage(energy: Energy, params: FitParameters, trace: FitTrace, done: int, total: int,
              progress: Progress | None, cancelled: Callable[[], bool] | None) -> FitParameters:
    """One stage of Adam; `done` of `total` iterations lie behind it.

    Raises GanfitError: cancelled, fit_diverged (a term is not a number).
    """
    stage = energy.stage
    weights: LossWeights = stage.weights
    params = params.require_grad()
    adam = optimiser(params, stage.rates)
    clock = Clock()
    for i in range(stage.iterations):
        if cancelled is not None and cancelled():
            raise GanfitError("cancelled", "The reconstruction was cancelled.")
        start = time.perf_counter()
        adam.zero_grad()
        terms, rgb = energy(params, clock)
        total_loss = sum(getattr(weights, name) * value for name, value in terms.items())
        with clock("backward"):
            total_loss.backward()
        check_finite(terms, params, done + i)
        adam.step(rate_factor(stage, i))
        params.clamp_()
        trace.add(terms)
        clock.seconds["iteration"] = clock.seconds.get("iteration", 0.0) + time.perf_counter() - start
        if progress is not None:
            progress(done + i + 1, total, {k: float(v.detach()) for k, v in terms.items()},
                     rgb.detach() if i % PREVIEW_EVERY == 0 else None)
    for name, value in clock.seconds.items():
        trace.seconds[name] = trace.seconds.get(name, 0.0) + value
    return params.detach()


def check_finite(terms: dict[str, Tensor], params: FitParameters, iteration: int) -> None:
    """Raises GanfitError fit_diverged that names the first term or gradient that is not a finite number."""
    for name, value in terms.items():
        if not bool(torch.isfinite(value)):
            raise GanfitError("fit_diverged", f"The fit broke down in step {iteration}: {name} is not a number.")
    for name, value in params.tensors().items():
        if value.grad is not None and not bool(torch.isfinite(value.grad).all()):
            raise GanfitError("fit_diverged",
                              f"The fit broke down in step {iteration}: the gradient of {name} is not a number.")


def fit(person: Person, views: list[View], params: FitParameters, identity: torch.nn.Module,
        mesh: FaceMesh | FanLandmarks, config: FitConfig, seed: int, progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None, pins: dict[int, PinTargets] | None = None,
        lit: bool = False) -> tuple[FitParameters, FitTrace]:
    """All stages of the full energy from aligned parameters. Deterministic on the CPU for one seed and thread count.

    pins: targets by number of the view. lit: `params` have a texture and light, which are kept if they explain the
    photos better than those that `initial_appearance` finds.
    """
    device = params.identity.device
    rng = torch.Generator().manual_seed(seed)
    trace, done = FitTrace(), 0
    usual_palette, usual_tint = person.default_palette().to(device), None
    for number, stage in enumerate(config.stages):
        energy = Energy(person, views, identity, mesh, stage, rng, device, params.offsets, pins)
        if number == 0:
            solved = initial_appearance(energy, params)
            if not lit or Start(energy, solved).error() < Start(energy, params).error():
                params = solved
        else:
            energy.skin, energy.usual_palette = Start(energy, params).skin(), usual_palette
            energy.usual_tint = usual_tint
        usual_palette, usual_tint = energy.usual_palette, energy.usual_tint
        params = run_stage(energy, params, trace, done, config.iterations, progress, cancelled)
        done += stage.iterations
    return params, trace
