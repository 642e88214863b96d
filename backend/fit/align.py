# SPDX-License-Identifier: GPL-3.0-or-later
"""Alignment: camera, coarse shape and expression from landmarks (the first stage of GANFIT's fit)."""
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.fit.parameters import DISTANCE_PRIOR, FitParameters, ViewFrame, camera_of
from backend.render.camera import axis_angle, rotation_matrix

LANDMARK_SIGMA = 0.02
"""Expected error of one landmark in interocular distances, beside what `LandmarkModel.errors` explains."""
ALONE_SIGMA = 0.07
"""The same where nothing is known of what the points do together."""
ERRORS_FILE = Path(__file__).with_name("landmark_errors.npz")
EXPRESSION_SIGMA = 0.25
"""Prior width of an ARKit coefficient in the alignment."""
EXPRESSION_LASSO = 2.0
"""Cost of a sum of coefficients, as `LossWeights.expression_sum` has it: half of the gradient of each."""


class LandmarkModel:
    """Landmarks of the head as a linear function of identity and expression.

    mean (N, 3), identity (K, N, 3), expression (52, N, 3): metres; weights (N,): 1 / expected error, relative. errors
    (R, N, 3), metres: what a network's landmarks do together though the face does not, see `landmark_errors`; each at
    an amount of expectation 0 and variance 1 a photo.
    """

    def __init__(self, mean: Tensor, identity: Tensor, expression: Tensor, weights: Tensor,
                 errors: Tensor | None = None):
        self.mean, self.identity, self.expression, self.weights = mean, identity, expression, weights
        self.errors = mean[None][:0] if errors is None else errors

    def points(self, identity: Tensor, expression: Tensor) -> Tensor:
        """identity (K,), expression (52,) -> (N, 3) metres."""
        return (self.mean + torch.tensordot(identity, self.identity, 1)
                + torch.tensordot(expression, self.expression, 1))

    def of_identity(self, identity: Tensor) -> "LandmarkModel":
        """The landmarks of one person (K,): a model without identity components."""
        mean = self.mean + torch.tensordot(identity, self.identity, 1)
        return LandmarkModel(mean, self.identity[:0], self.expression, self.weights, self.errors)

    def to(self, where: str | torch.device | torch.dtype) -> "LandmarkModel":
        """The same model on another device or in another precision."""
        parts = (self.mean, self.identity, self.expression, self.weights, self.errors)
        return LandmarkModel(*(t.to(where) for t in parts))

    def detected(self) -> "LandmarkModel":
        """The landmarks as the network finds them: its errors are further expressions."""
        return LandmarkModel(self.mean, self.identity, torch.cat([self.expression, self.errors]), self.weights)


    def alone(self) -> "LandmarkModel":
        """The landmarks where they are to be believed less and as if each erred by itself, `ALONE_SIGMA`."""
        weights = self.weights * (LANDMARK_SIGMA / ALONE_SIGMA) ** 2
        return LandmarkModel(self.mean, self.identity, self.expression, weights)


def landmark_errors() -> Tensor:
    """(30, 470, 3) metres in the head's frame: how the mesh network's points and irises err together.

    Principal components of the displacements that carry the points of the true head to where they were found, over 25
    VALID avatars (MIT, (c) 2022 Tiffany Do) in six renders each; without the mean, which other people do not share, and
    1.5 times as large. In interocular distances the points err by 0.031: 0.016 in common, 0.019 as is one person's in
    every picture, 0.019 by picture, and neighbours err together, which an independent error of no size models. Full
    fits of 17 bench photos (scan 5, other avatars 12): 1.02 to 0.98 mm, avatars 1.035 to 0.964, the scan 0.974 to
    1.029; 4 ICT heads 1.47 to 1.43.
    """
    with np.load(ERRORS_FILE, allow_pickle=False) as data:
        return torch.from_numpy(data["modes"].astype(np.float32))


def weak_perspective(points3: Tensor, points2: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
    """Scaled orthographic pose: rotation (3, 3), image of the origin (2,) px and scale in px per metre.

    points3 (N, 3) metres, points2 (N, 2) px with y down. Least-squares affine camera, then the nearest rotation.
    """
    w = weights.sqrt()[:, None]
    design = torch.cat([points3, torch.ones_like(points3[:, :1])], 1)
    target = points2 * points2.new_tensor([1.0, -1.0])
    solution = torch.linalg.lstsq((design * w).double(), (target * w).double()).solution
    rows = solution[:3].T
    u, s, vt = torch.linalg.svd(rows, full_matrices=False)
    r12 = u @ vt
    rotation = torch.stack([r12[0], r12[1], torch.linalg.cross(r12[0], r12[1])])
    return rotation.float(), (solution[3] * solution.new_tensor([1.0, -1.0])).float(), float(s.mean())


def initial_parameters(model: LandmarkModel, points: Tensor, frame: ViewFrame, latent_size: int,
                       palette: Tensor) -> FitParameters:
    """Mean head under the weak-perspective pose of the landmarks and a white ambient light.

    points: (N, 2) photo pixels.
    """
    rotation, origin, scale = weak_perspective(model.mean, points, model.weights)
    anchor = torch.tensor(frame.anchor)
    sh = torch.zeros(1, 9, 3)
    sh[:, 0] = 2.0
    return FitParameters(
        identity=torch.zeros(len(model.identity)), expression=torch.zeros(1, len(model.expression)),
        latent=torch.zeros(latent_size), palette=palette.clone(), rotation=axis_angle(rotation[None]).float(),
        centre=((origin - anchor) / frame.unit)[None], log_scale=torch.tensor([[scale / frame.unit]]).log(),
        log_distance=torch.tensor([[DISTANCE_PRIOR[0]]]), sh=sh,
        sun_direction=torch.tensor([[0.2, 0.6, 1.0]]), sun_rgb=torch.zeros(1, 3))


def projection_jacobian(params: FitParameters, frame: ViewFrame, points: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the pixels (N, 2) of world points (N, 3) under the first view's camera, see `camera_of`.

    Returns (N, 2, 3) by the point and (N, 2, 7) by rotation, centre, log_scale and log_distance, in this order. Left
    Jacobian of the rotation: Sola et al. 2018, A micro Lie theory for state estimation in robotics, Eq. 145.
    """
    camera = camera_of(params, [frame], 0)
    rotation, vector, focal = rotation_matrix(camera.rotation)[0], camera.rotation[0], camera.focal[0]
    turned = points @ rotation.T
    x, y, z = (turned + camera.translation[0]).unbind(1)
    zero = torch.zeros_like(x)
    by_view = torch.stack([torch.stack([-focal / z, zero, focal * x / z**2], 1),
                           torch.stack([zero, focal / z, -focal * y / z**2], 1)], 1)
    by_focal = torch.stack([-x / z, y / z], 1)
    angle = vector.norm().clamp(min=1e-4)
    k = cross_matrix(vector[None])[0]
    first, second = (1 - torch.cos(angle)) / angle**2, (angle - torch.sin(angle)) / angle**3
    left = torch.eye(3, dtype=k.dtype) + first * k + second * k @ k
    by_rotation = -by_view @ cross_matrix(turned) @ left
    # t = (x, -y, -s d) / s with x, y the origin in pixels from the middle, s pixels per metre; f = s d unless known.
    tx, ty, tz = camera.translation[0]
    shift = frame.unit / (focal / -tz)
    by_centre = by_view[..., :2] * torch.stack([shift, -shift])
    known = frame.focal is not None
    by_scale = -by_view[..., 0] * tx - by_view[..., 1] * ty + (-by_view[..., 2] * tz if known else by_focal * focal)
    by_distance = torch.zeros_like(by_scale) if known else by_view[..., 2] * tz + by_focal * focal
    return by_view @ rotation, torch.cat([by_rotation, by_centre, by_scale[..., None], by_distance[..., None]], 2)


def cross_matrix(v: Tensor) -> Tensor:
    """(N, 3) -> (N, 3, 3): the matrices whose product with x is v cross x."""
    x, y, z = v.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def align(models: list[LandmarkModel], params: FitParameters, points: list[Tensor], frames: list[ViewFrame],
          steps: int, stiffness: Tensor | None = None) -> FitParameters:
    """Levenberg-Marquardt on the landmarks with Gaussian priors and Huber weights; expression stays in [0, 1] and costs
    its sum besides, which keeps most coefficients at 0 (Tibshirani 1996).

    models, points (N, 2) photo pixels, frames: one of each per view; all views share the shape. stiffness (V, 52): how
    much more than usual each coefficient's square counts, all 1 if None. Returns new parameters;
    light and texture are untouched. A model of no identity components leaves the shape alone. It computes in float64:
    in float32 the last steps drown in rounding, up to 1e-3 from the minimum.
    """
    models, points = [model.to(torch.float64).detected() for model in models], [target.double() for target in points]
    views, k, e, named = len(models), len(models[0].identity), len(models[0].expression), params.expression.shape[1]
    own = e + 7  # unknowns of a view: expression, errors, rotation, centre, log of scale and of distance

    def unpack(x: Tensor, chosen: slice = slice(None)) -> FitParameters:
        rows = x[k:].reshape(views, own)[chosen]
        shape = {"identity": x[:k]} if k else {}
        return FitParameters(**{**params.tensors(), **shape, "expression": rows[:, :named],
                                "rotation": rows[:, e:e + 3], "centre": rows[:, e + 3:e + 5],
                                "log_scale": rows[:, e + 5:e + 6],
                                "log_distance": rows[:, e + 6:]})

    trusts = [m.weights.sqrt()[:, None] / (f.unit * LANDMARK_SIGMA) for m, f in zip(models, frames, strict=True)]
    of_view = torch.tensor([EXPRESSION_SIGMA] * named + [1.0] * (e - named) + [torch.inf] * 6 + [DISTANCE_PRIOR[1]],
                           dtype=torch.float64)
    sigma = torch.cat([of_view.new_ones(k), of_view.repeat(views)])
    if stiffness is not None:
        sigma[k:].view(views, own)[:, :named] /= stiffness.double().sqrt()
    mean = torch.zeros_like(sigma)
    mean[k:].view(views, own)[:, -1] = DISTANCE_PRIOR[0]
    bounded = torch.zeros(len(sigma), dtype=torch.bool)
    bounded[k:].view(views, own)[:, :named] = True
    lasso = EXPRESSION_LASSO * bounded.double()

    def moves(x: Tensor, view: int) -> Tensor:
        return x[k:].reshape(views, own)[view, :e]

    def residuals(x: Tensor) -> tuple[Tensor, Tensor]:
        data = []
        for i, (model, target, frame, trust) in enumerate(zip(models, points, frames, trusts, strict=True)):
            view = unpack(x, slice(i, i + 1))
            projected = camera_of(view, [frame], 0).project(model.points(x[:k], moves(x, i))[None])[0]
            data.append((projected - target) * trust)
        return torch.cat(data), (x - mean) / sigma

    def jacobian(x: Tensor) -> Tensor:
        rows = []
        for i, (model, frame, trust) in enumerate(zip(models, frames, trusts, strict=True)):
            view = unpack(x, slice(i, i + 1))
            by_point, by_camera = projection_jacobian(view, frame, model.points(x[:k], moves(x, i)))
            block = x.new_zeros(len(by_point), 2, len(x))
            block[..., :k] = by_point @ model.identity.permute(1, 2, 0)
            block[..., k + i * own:k + (i + 1) * own] = torch.cat([by_point @ model.expression.permute(1, 2, 0),
                                                                  by_camera], 2)
            rows.append((block * trust[..., None]).reshape(-1, len(x)))
        return torch.cat(rows)

    def robust(data: Tensor) -> Tensor:
        return (2.0 / data.norm(dim=1).clamp(min=2.0)).detach()

    def cost(x: Tensor) -> Tensor:
        data, prior = residuals(x)
        norm = data.norm(dim=1)
        return torch.where(norm < 2, norm**2, 4 * norm - 4).sum() + (prior**2).sum() + 2 * (lasso * x).sum()

    none = params.expression.new_zeros(views, e - named)
    unknown = torch.cat([params.expression, none, params.rotation, params.centre, params.log_scale,
                         params.log_distance], 1)
    x = torch.cat([params.identity[:k], unknown.reshape(-1)]).detach().double()
    damping, current = 1e-2, cost(x)
    for _ in range(steps):
        data, prior = residuals(x)
        rows, w = jacobian(x), robust(data)[:, None].expand_as(data).reshape(-1)
        hessian = rows.T @ (w[:, None] * rows) + torch.diag(sigma**-2)
        gradient = rows.T @ (w * data.reshape(-1)) + prior / sigma + lasso
        free = ~(bounded & ((x <= 0) & (gradient > 0) | (x >= 1) & (gradient < 0)))
        for _attempt in range(6):
            system = hessian + damping * torch.diag(hessian.diagonal())
            system = torch.where(free[:, None] & free[None], system, torch.eye(len(x), dtype=x.dtype))
            step = torch.linalg.solve(system, torch.where(free, -gradient, 0.0))
            trial = x + step
            trial = torch.where(bounded, trial.clamp(0, 1), trial)
            value = cost(trial)
            if value < current:
                x, current, damping = trial, value, max(damping / 5, 1e-6)
                break
            damping *= 5
        else:
            break
    return unpack(x.float()).detach()
