# SPDX-License-Identifier: GPL-3.0-or-later
"""Alignment: camera, coarse shape and expression of one photo from its landmarks (the first stage of GANFIT's fit)."""
import torch
from torch import Tensor

from backend.fit.parameters import DISTANCE_PRIOR, FitParameters, ViewFrame, camera_of
from backend.render.camera import axis_angle

LANDMARK_SIGMA = 0.07
"""Expected error of one landmark in interocular distances. Wider than the network's noise (about 0.015), because
errors of neighbours agree: with 0.025 the fit trusts them too much (bench, 17 photos: 1.24 mm, with 0.08 1.18 mm)."""
EXPRESSION_SIGMA = 0.25
"""Prior width of an ARKit coefficient in the alignment."""


class LandmarkModel:
    """Landmarks of the head as a linear function of identity and expression.

    mean (N, 3), identity (K, N, 3), expression (52, N, 3): metres; weights (N,): 1 / expected error, relative.
    """

    def __init__(self, mean: Tensor, identity: Tensor, expression: Tensor, weights: Tensor):
        self.mean, self.identity, self.expression, self.weights = mean, identity, expression, weights

    def points(self, identity: Tensor, expression: Tensor) -> Tensor:
        """identity (K,), expression (52,) -> (N, 3) metres."""
        return (self.mean + torch.tensordot(identity, self.identity, 1)
                + torch.tensordot(expression, self.expression, 1))


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


def align(model: LandmarkModel, params: FitParameters, points: Tensor, frame: ViewFrame, steps: int) -> FitParameters:
    """Levenberg-Marquardt on the landmarks with Gaussian priors and Huber weights; expression stays in [0, 1].

    points: (N, 2) photo pixels. Returns new parameters of this one view; light and texture are untouched.
    """
    k, e = len(model.identity), len(model.expression)

    def unpack(x: Tensor) -> FitParameters:
        return FitParameters(**{**params.tensors(), "identity": x[:k], "expression": x[None, k:k + e],
                                "rotation": x[None, k + e:k + e + 3], "centre": x[None, k + e + 3:k + e + 5],
                                "log_scale": x[None, k + e + 5:k + e + 6], "log_distance": x[None, k + e + 6:]})

    def residuals(x: Tensor) -> tuple[Tensor, Tensor]:
        p = unpack(x)
        projected = camera_of(p, [frame], 0).project(model.points(x[:k], x[k:k + e])[None])[0]
        data = (projected - points) / (frame.unit * LANDMARK_SIGMA) * model.weights.sqrt()[:, None]
        prior = torch.cat([x[:k], x[k:k + e] / EXPRESSION_SIGMA,
                           (x[-1:] - DISTANCE_PRIOR[0]) / DISTANCE_PRIOR[1]])
        return data, prior

    def robust(data: Tensor) -> Tensor:
        return (2.0 / data.norm(dim=1).clamp(min=2.0)).detach()

    def cost(x: Tensor) -> Tensor:
        data, prior = residuals(x)
        norm = data.norm(dim=1)
        return torch.where(norm < 2, norm**2, 4 * norm - 4).sum() + (prior**2).sum()

    x = torch.cat([params.identity, params.expression[0], params.rotation[0], params.centre[0],
                   params.log_scale[0], params.log_distance[0]]).detach().float()
    damping, current = 1e-2, cost(x)
    for _ in range(steps):
        data, prior = residuals(x)
        jac_data, jac_prior = torch.func.jacfwd(residuals)(x)
        w = robust(data)[:, None].expand_as(data).reshape(-1)
        jac_data, jac_prior = jac_data.reshape(-1, len(x)).to(x), jac_prior.to(x)
        hessian = jac_data.T @ (w[:, None] * jac_data) + jac_prior.T @ jac_prior
        gradient = jac_data.T @ (w * data.reshape(-1)) + jac_prior.T @ prior
        free = ~((x <= 0) & (gradient > 0) | (x >= 1) & (gradient < 0))
        free[:k] = True
        free[k + e:] = True
        for _attempt in range(6):
            system = hessian + damping * torch.diag(hessian.diagonal())
            system = torch.where(free[:, None] & free[None], system, torch.eye(len(x)))
            step = torch.linalg.solve(system, torch.where(free, -gradient, torch.zeros(())))
            trial = x + step
            trial[k:k + e] = trial[k:k + e].clamp(0, 1)
            value = cost(trial)
            if value < current:
                x, current, damping = trial, value, max(damping / 5, 1e-6)
                break
            damping *= 5
        else:
            break
    return unpack(x).detach()
