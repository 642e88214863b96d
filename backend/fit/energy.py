# SPDX-License-Identifier: GPL-3.0-or-later
"""GANFIT's energy of one person, or of several people at once (Gecer et al., CVPR 2019, Sec. 3.3)."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from backend.fit import losses
from backend.fit.conditions import Conditions
from backend.fit.config import StageConfig
from backend.fit.losses import as_grey
from backend.fit.parameters import DISTANCE_PRIOR, CropFrames, FitParameters
from backend.fit.person import SHADED, Person, Subject
from backend.fit.pins import PinTargets
from backend.fit.skin import USUAL_TONE, log_luma, usual_ratios
from backend.fit.views import View, expression_stiffness
from backend.networks.crop import Cropper, Sampling, differentiable_crop
from backend.networks.facemesh import FaceMesh, points5
from backend.networks.fan import FanLandmarks
from backend.render.camera import Camera
from backend.render.lights import Lights
from backend.render.render import RenderOutput


@dataclass
class Target:
    """What the photos of P people say, fixed during a stage; V is the number of their photos.

    Fields in crop pixels: points (V, 470, 2) the mesh's landmarks and iris centres, unit (V,) interocular distance;
    trust (V, 470), see `View.trust`;
    mesh_transform and chip_transform (V, 2, 3) the networks' crops out of the picture, photo_points (V, N, 2 or 3) and
    photo_embedding, photo_layers what the networks see in the photo, net_unit (V,) interocular distance in the landmark
    network's own pixels. photo (V, S, S, 3), inside, skin (V, S, S, 1): the crops, where they lie in the photo, where
    they show skin. grey (V,) bool. stiffness (V, 52), see `expression_stiffness`. usual_palette (P, N, 3); usual_hue
    (P, 2), see `losses.tone_prior`; usual_tint (P, T, T, 2), which counts where has_tint (P,) is 1.
    landmark_mean (P, 470, 3): the neutral mean head's.
    """

    frames: CropFrames
    photo: Tensor
    inside: Tensor
    skin: Tensor
    grey: Tensor
    points: Tensor
    trust: Tensor
    unit: Tensor
    stiffness: Tensor
    mesh_transform: Tensor
    chip_transform: Tensor
    photo_points: Tensor
    net_unit: Tensor
    photo_embedding: Tensor
    photo_layers: list[Tensor]
    usual_palette: Tensor
    usual_hue: Tensor
    usual_tint: Tensor
    has_tint: Tensor
    landmark_mean: Tensor

    @staticmethod
    def together(targets: Sequence[Target]) -> Target:
        """Those of several people in the order of `FitParameters.together`."""
        joined: dict[str, object] = {}
        for f in fields(Target):
            values = [getattr(t, f.name) for t in targets]
            if f.name == "frames":
                joined[f.name] = CropFrames.cat(values)
            elif f.name == "photo_layers":
                joined[f.name] = [torch.cat(layer) for layer in zip(*values, strict=True)]
            else:
                joined[f.name] = torch.cat(values)
        return Target(**joined)  # type: ignore[arg-type]


class Clock:
    """Adds up seconds by name; nested use counts for the inner name as well."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def __call__(self, name: str) -> Clock:
        self._name, self._start = name, time.perf_counter()
        return self

    def __enter__(self) -> None:
        self._entered = (self._name, self._start)

    def __exit__(self, *_: object) -> None:
        name, start = self._entered
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Energy:
    """E(p) of GANFIT for fixed photos at one crop size; every term can be switched off by its weight.

    `views` are the photos of each person. People do not meet: the gradient of the sum over them is each one's own.
    """

    person: Person
    views: list[list[View]]
    identity: torch.nn.Module
    mesh: FaceMesh | FanLandmarks
    stage: StageConfig
    target: Target
    pins: dict[int, PinTargets] = field(default_factory=dict)

    def __post_init__(self) -> None:
        target, device = self.target, self.target.photo.device
        self.device = device
        counts = torch.tensor([len(v) for v in self.views])
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self.owner, self.view_counts = owner.to(device), counts.to(device)
        self.first_grey = target.grey[(counts.cumsum(0) - counts).to(device)]
        self.any_grey, self.any_tint = bool(target.grey.any()), bool(target.has_tint.any())
        self.shaded = torch.tensor([name in SHADED for name in self.person.head.palette_names], device=device)
        self.landmark_model = self.person.landmark_model()
        crop = (self.stage.crop_size, self.stage.crop_size)
        self.mesh_crop = Cropper.fixed(target.mesh_transform, self.mesh.crop_size, crop)
        self.chip_crop = Cropper.fixed(target.chip_transform, self.identity.chip_size, crop)

    @staticmethod
    def of_person(person: Person, views: list[View], identity: torch.nn.Module, mesh: FaceMesh | FanLandmarks,
                  stage: StageConfig, device: torch.device, offsets: Tensor | None = None,
                  pins: dict[int, PinTargets] | None = None) -> Energy:
        """The energy of one person before anything is known of skin and palette; offsets (V0, 3)."""
        size = stage.crop_size
        crops = [v.crop(size) for v in views]
        photo = torch.cat([c[0] for c in crops]).to(device)
        points = torch.stack([v.points() for v in views])

        def to_crop(transforms: Tensor) -> Tensor:
            return torch.stack([v.to_crop(t, size) for v, t in zip(views, transforms, strict=True)]).to(device)

        mesh_to_photo = mesh.crop_params(points[:, :468])
        mesh_transform = to_crop(mesh_to_photo)
        chip_transform = to_crop(identity.chip_transform(points5(points[:, :468])))
        units = torch.tensor([v.frame.unit for v in views])
        corner, scale = torch.tensor([v.box[:2] for v in views]), torch.tensor([size / v.box[2] for v in views])
        with torch.no_grad():
            pictures = photo.permute(0, 3, 1, 2)
            photo_points, _ = mesh(differentiable_crop(pictures, mesh_transform, mesh.crop_size))
            embedding, layers = identity(differentiable_crop(pictures, chip_transform, identity.chip_size))
        inside = torch.cat([c[1] for c in crops]).to(device)
        target = Target(
            frames=CropFrames.of([v.frame for v in views], [v.box for v in views], size, device),
            photo=photo, inside=inside, skin=torch.ones_like(inside),
            grey=torch.tensor([v.grey for v in views], device=device),
            points=((points - corner[:, None]) * scale[:, None, None]).to(device),
            trust=torch.stack([v.trust() for v in views]).to(device), unit=(units * scale).to(device),
            stiffness=expression_stiffness(views, person.head.expression_names).to(device),
            mesh_transform=mesh_transform, chip_transform=chip_transform, photo_points=photo_points,
            net_unit=(units / torch.linalg.norm(mesh_to_photo[:, :, 0], dim=1)).to(device),
            photo_embedding=embedding, photo_layers=layers,
            usual_palette=person.default_palette()[None].to(device),
            usual_hue=usual_ratios(torch.full((1,), USUAL_TONE, device=device)),
            usual_tint=torch.zeros(1, losses.TINT_SIZE, losses.TINT_SIZE, 2, device=device),
            has_tint=torch.zeros(1, device=device), landmark_mean=person.landmark_model(offsets).mean[None].to(device))
        return Energy(person, [views], identity, mesh, stage, target, pins or {})

    @staticmethod
    def together(energies: Sequence[Energy]) -> Energy:
        """One energy of several people with the same models and stage; pins are one person's alone."""
        first = energies[0]
        return Energy(first.person, [v for e in energies for v in e.views], first.identity, first.mesh, first.stage,
                      Target.together([e.target for e in energies]), first.pins if len(energies) == 1 else {})

    def of_views(self, personal: Tensor) -> Tensor:
        """What belongs to people (P, ...) as it belongs to their views (V, ...), or (1, ...) where one has all."""
        people, views = len(self.views), len(self.owner)
        return personal if people in (1, views) else personal[self.owner]

    def over_views(self, values: Tensor) -> Tensor:
        """(P,) means over each person's views of values (V,)."""
        return losses.sum_by_person(values, self.owner, len(self.views)) / self.view_counts

    def draw(self, rng: torch.Generator, count: int) -> Conditions:
        """Random second views of one person for `count` iterations, on the CPU."""
        return Conditions.draw(count, rng, len(self.person.head.expression))

    def look(self, params: FitParameters, cameras: Camera) -> tuple[RenderOutput, Subject]:
        """The crops rendered, and whom they show; `cameras` of the crops."""
        person, head = self.person, self.person.head
        subject = Subject(head.neutral(params.identity, params.offsets),
                          person.generator(params.latent, self.stage.texture_size),
                          person.vertex_colours(params.palette))
        verts1 = head.subdivide(head.expressed(self.of_views(subject.neutral), params.expression))
        out = person.picture(verts1, self.of_views(subject.texture), self.of_views(subject.colours),
                             cameras, params.lights())
        return out, subject

    def __call__(self, params: FitParameters, conditions: Conditions, clock: Clock | None = None
                 ) -> tuple[dict[str, Tensor], Tensor]:
        """All active terms (P,), unweighted, and the render (V, S, S, 3) of the crops.

        params: of P people together. conditions: (P, ...) of the second views.
        """
        weights, person, target, clock = self.stage.weights, self.person, self.target, clock or Clock()
        cameras = target.frames.cameras(params)
        with clock("render"):
            out, subject = self.look(params, cameras)
            rgb = as_grey(out.rgb, target.grey) if self.any_grey else out.rgb
            weight, bare, _ = person.masks(out)
            # Behind the head and where hair lies over it the networks see the photo itself: only the head's visible
            # pixels carry gradients.
            visible = 1 - bare * (1 - target.skin)
            mask = weight * visible * target.inside
            composed = target.photo.addcmul(visible, rgb.addcmul(out.alpha, target.photo, value=-1))
        terms: dict[str, Tensor] = {}
        pictures = composed.permute(0, 3, 1, 2)
        if weights.pixel:
            terms["pixel"] = losses.pixel_distance(target.photo, rgb, mask, owner=self.owner,
                                                      people=len(self.views))
        if weights.landmark:
            with clock("landmark network"):
                points, _ = self.mesh(self.mesh_crop(pictures))
                distance = losses.landmark_distance(points[..., :2], target.photo_points[..., :2], target.net_unit)
                terms["landmark"] = self.over_views(distance)
        if weights.landmark_mesh:
            terms["landmark_mesh"] = self.over_views(self.mesh_landmarks(params, cameras))
        if weights.tint and self.any_tint:
            terms["tint"] = target.has_tint * losses.gaussian_prior(losses.tint(subject.texture) - target.usual_tint)
        if self.pins:
            terms["pins"] = self.pin_distance(params, cameras)
        if weights.tone:
            terms["tone"] = losses.tone_prior(losses.mean_colour(subject.texture, person.cheek_map), target.usual_hue)
        self.identity_terms(params, pictures, subject, conditions, terms, clock)
        terms.update(self.priors(params))
        return terms, rgb

    def identity_terms(self, params: FitParameters, pictures: Tensor, subject: Subject, conditions: Conditions,
                       terms: dict[str, Tensor], clock: Clock) -> None:
        """`L_id`, `L_con` on the render and `L_id^` on a second render under random conditions, in one network pass."""
        weights, target, chips = self.stage.weights, self.target, []
        if weights.identity or weights.content:
            chips.append(self.chip_crop(pictures))
        if weights.identity_random:
            with clock("render"):
                chips.append(self.random_chips(params, subject, conditions))
        if not chips:
            return
        with clock("identity network"):
            embedding, layers = self.identity(torch.cat(chips))
        views = len(target.photo)
        if weights.identity or weights.content:
            likeness = self.identity.similarity(embedding[:views], target.photo_embedding)
            terms["identity"] = 1 - self.over_views(likeness)
            terms["content"] = self.over_views(losses.content_distance(target.photo_layers,
                                                                      [a[:views] for a in layers]))
        if weights.identity_random:
            likeness = self.identity.similarity(self.of_views(embedding[-len(self.views):]), target.photo_embedding)
            terms["identity_random"] = 1 - self.over_views(likeness)

    def random_chips(self, params: FitParameters, subject: Subject, conditions: Conditions) -> Tensor:
        """The same people under an expression, camera and light drawn at random (Eq. 4): chips (P, 3, size, size)."""
        person, camera = self.person, conditions.camera
        verts1 = person.head.subdivide(person.head.expressed(subject.neutral, conditions.expression))
        lights = self.tinted(conditions.lights, params)
        out = person.picture(verts1, subject.texture, subject.colours, camera, lights)
        picture = out.rgb + (1 - out.alpha) * conditions.backdrop
        if self.any_grey:
            picture = as_grey(picture, self.first_grey)
        with torch.no_grad():
            points = camera.project(person.head.landmarks(verts1, "468"))
            transform = self.identity.chip_transform(points5(points))
        # One sample a pixel: a chip's pixel is 0.56 to 0.75 of this picture's (400 draws on random heads).
        return differentiable_crop(picture.permute(0, 3, 1, 2), transform, self.identity.chip_size, Sampling())

    @torch.no_grad()
    def tinted(self, lights: Lights, params: FitParameters) -> Lights:
        """Lights (P,) of second views in the mean hue of each person's photos, which the network knows them in."""
        log = losses.mean_irradiance(params.sh, params.sun_rgb).log()
        hue = log - log_luma(log)[:, None]
        tint = torch.stack([self.over_views(channel) for channel in hue.unbind(1)], 1).exp()
        return replace(lights, sh=lights.sh * tint[:, None], sun_rgb=lights.sun_rgb * tint)

    def mesh_landmarks(self, params: FitParameters, cameras: Camera) -> Tensor:
        """(V,) distance of the projected mesh landmarks to the photo's, see `losses.landmark_distance`; what some count
        more comes on top, so that the others count as ever."""
        model, target = self.landmark_model, self.target
        shaped = target.landmark_mean + torch.tensordot(params.identity, model.identity, 1)
        points = self.of_views(shaped) + torch.tensordot(params.expression, model.expression, 1)
        projected = cameras.project(points)
        weights = model.weights * target.trust
        distance = losses.landmark_distance(projected, target.points, target.unit, weights)
        return distance * (weights.sum(1) / model.weights.sum())

    def pin_distance(self, params: FitParameters, cameras: Camera) -> Tensor:
        """(1,) sum over all pins of their distance to the projected head, see `losses.landmark_distance`."""
        total, frames = [], self.target.frames
        for i, pins in self.pins.items():
            points = pins.model.points(params.identity[0], params.expression[i])[None]
            projected = cameras.select(slice(i, i + 1)).project(points)
            wanted = (pins.target - frames.corner[i]) * frames.scale[i]
            distance = losses.landmark_distance(projected, wanted[None], self.target.unit[i:i + 1])
            total.append(len(pins.target) * distance)
        return torch.stack(total).sum(0)

    def priors(self, params: FitParameters) -> dict[str, Tensor]:
        """The regularisers of Eq. 9, (P,) each."""
        over_views, target = self.over_views, self.target
        return {"shape": losses.gaussian_prior(params.identity),
                "expression": over_views(losses.gaussian_prior(params.expression * target.stiffness.sqrt())),
                "expression_sum": over_views(params.expression.flatten(1).mean(1)),
                "latent": losses.gaussian_prior(params.latent),
                "light": over_views(losses.light_prior(params.sh, params.sun_rgb)),
                "palette": losses.palette_prior(params.palette - target.usual_palette, self.shaded),
                "radiance": over_views(params.lights().nonnegative_radiance_penalty()),
                "camera": over_views(losses.distance_prior(params.log_distance, *DISTANCE_PRIOR))}


