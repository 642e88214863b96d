# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the start of a fit quick without changing it: the alignment's Jacobian, Adam, what is imported."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.fit.adam import Adam
from backend.fit.align import (
    EXPRESSION_LASSO,
    EXPRESSION_SIGMA,
    LANDMARK_SIGMA,
    LandmarkModel,
    align,
    initial_parameters,
    projection_jacobian,
)
from backend.fit.parameters import DISTANCE_PRIOR, FitParameters, ViewFrame, camera_of

ROOT = Path(__file__).resolve().parent.parent


def parameters(rotation: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor, far: torch.Tensor) -> FitParameters:
    zero = torch.zeros(1)
    return FitParameters(zero, zero[None], zero, zero[None], rotation[None], centre[None], scale[None], far[None],
                         torch.zeros(1, 9, 3), torch.ones(1, 3), torch.zeros(1, 3))  # fmt: skip


@pytest.mark.parametrize("focal", [None, 1234.5])
@pytest.mark.parametrize("turn", [(0.4, -0.9, 0.2), (0.0, 0.003, 0.0), (2.9, 0.3, -0.1)])
def test_jacobian_of_the_projection_is_that_of_automatic_differentiation(focal, turn) -> None:
    frame = ViewFrame((480, 640), (300.0, 200.0), 70.0, focal)
    points = 0.1 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    camera = torch.tensor([*turn, 0.3, -0.2, 2.7, -0.2])

    def project(points: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        params = parameters(camera[:3], camera[3:5], camera[5:6], camera[6:])
        return camera_of(params, [frame], 0).project(points[None])[0]

    by_point, by_camera = torch.autograd.functional.jacobian(project, (points, camera))
    ours = projection_jacobian(parameters(camera[:3], camera[3:5], camera[5:6], camera[6:]), frame, points)
    own_point = torch.stack([by_point[i, :, i] for i in range(len(points))])
    assert torch.allclose(ours[0], own_point, rtol=1e-3, atol=1e-2)
    assert torch.allclose(ours[1], by_camera, rtol=1e-3, atol=2e-2)
    assert by_camera.abs().max() > 100, "pixels move"


def landmark_model(seed: int, spread: float) -> LandmarkModel:
    """90 points of a head's size with 20 identity components, which fall off as a calibrated prior's do."""
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(90, 3, generator=rng) * torch.tensor([0.05, 0.06, 0.03])
    identity = spread * torch.randn(20, 90, 3, generator=rng) * 0.75 ** torch.arange(20)[:, None, None]
    return LandmarkModel(mean, identity, spread * torch.randn(52, 90, 3, generator=rng), torch.ones(90))


@pytest.mark.parametrize("focal", [None, 900.0])
@pytest.mark.parametrize("yaw", [0.0, 0.6, -1.1])
def test_alignment_recovers_a_pose_to_a_ten_thousandth(focal: float | None, yaw: float) -> None:
    """Exact pictures of the mean head at the distance that the prior expects: the answer is known, priors and all."""
    model, frame = landmark_model(3, 0.003), ViewFrame((800, 600), (310.0, 390.0), 70.0, focal)
    camera = [torch.tensor(v) for v in ([0.1, yaw, -0.15], [0.05, 0.1], [2.6], [DISTANCE_PRIOR[0]])]
    points = camera_of(parameters(*camera), [frame], 0).project(model.mean[None])[0]
    start = initial_parameters(model, points, frame, 4, torch.zeros(3, 3))
    found = align([model], start, [points], [frame], 25)
    for name, value in zip(("rotation", "centre", "log_scale"), camera[:3], strict=True):
        assert (getattr(found, name)[0] - value).abs().max() < 1e-4, name
    assert focal is not None or (found.log_distance[0] - camera[3]).abs() < 1e-4
    assert found.identity.abs().max() < 1e-3 and found.expression.max() < 1e-3


def test_alignment_tells_the_networks_errors_from_the_face() -> None:
    """Landmarks that err together by amounts of known modes: who knows the modes finds the face, who does not bends it;
    pins, which do not err, are beside them."""
    model, frame = landmark_model(6, 0.002), ViewFrame((800, 600), (310.0, 390.0), 70.0)
    rng = torch.Generator().manual_seed(7)
    errors = 0.002 * torch.randn(4, 90, 3, generator=rng)
    identity, amounts = torch.randn(20, generator=rng), torch.tensor([1.5, -1.0, 0.8, -1.2])
    camera = [torch.tensor(v) for v in ([0.1, 0.3, -0.15], [0.05, 0.1], [2.6], [DISTANCE_PRIOR[0]])]
    seen = model.points(identity, torch.zeros(52)) + torch.tensordot(amounts, errors, 1)
    points = camera_of(parameters(*camera), [frame], 0).project(seen[None])[0]
    found = []
    for known in (LandmarkModel(model.mean, model.identity, model.expression, model.weights, errors), model):
        start = initial_parameters(known, points, frame, 4, torch.zeros(3, 3))
        found.append(align([known], start, [points], [frame], 40))
    wrong = [float((f.identity - identity).norm()) for f in found]
    assert wrong[0] < 0.6 * wrong[1]
    assert found[0].expression.shape == (1, 52)


@pytest.mark.parametrize("stiff", [None, 30.0])
def test_alignment_ends_in_the_minimum(stiff: float | None) -> None:
    """Noisy landmarks of a head with an expression: where it ends, no direction lowers the energy, which is written
    down again here, in float64 with automatic differentiation."""
    model, frame = landmark_model(4, 0.002), ViewFrame((800, 600), (310.0, 390.0), 70.0)
    rng = torch.Generator().manual_seed(5)
    identity, expression = torch.randn(20, generator=rng), 0.3 * (torch.rand(52, generator=rng) - 0.5).clamp(min=0.0)
    camera = [torch.tensor(v) for v in ([0.1, 0.5, -0.15], [0.05, 0.1], [2.6], [0.1])]
    exact = camera_of(parameters(*camera), [frame], 0).project(model.points(identity, expression)[None])[0]
    points = exact + 1.5 * torch.randn(exact.shape, generator=rng)
    stiffness = torch.ones(1, 52)
    stiffness[0, ::5] = stiff or 1.0
    found = align([model], initial_parameters(model, points, frame, 4, torch.zeros(3, 3)), [points], [frame], 60,
                  None if stiff is None else stiffness)
    names = ("identity", "expression", "rotation", "centre", "log_scale", "log_distance")
    leaves = {name: getattr(found, name).double().requires_grad_() for name in names}
    place = replace(found, **leaves)
    landmarks = model.to(torch.float64).points(place.identity, place.expression[0])
    projected = camera_of(place, [frame], 0).project(landmarks[None])[0]
    off = (projected - points).norm(dim=1) / (LANDMARK_SIGMA * frame.unit)
    energy = torch.where(off < 2, off**2, 4 * off - 4).sum() + (place.identity**2).sum()
    energy = energy + (stiffness * (place.expression / EXPRESSION_SIGMA) ** 2).sum()
    energy = energy + 2 * EXPRESSION_LASSO * place.expression.sum()
    energy = energy + ((place.log_distance - DISTANCE_PRIOR[0]) ** 2).sum() / DISTANCE_PRIOR[1] ** 2
    slopes = dict(zip(names, torch.autograd.grad(energy, list(leaves.values())), strict=True))
    at_bound = (found.expression <= 0) & (slopes["expression"] > 0)
    assert 0 < at_bound.sum() < 52 - 5, "some coefficients end at their bound, some do not"
    slopes["expression"] = torch.where(at_bound, 0.0, slopes["expression"])
    stiff_as = LANDMARK_SIGMA**-2  # the answer is rounded to float32: the slope of that grows with the curvature
    for name, slope in slopes.items():
        limit = 5e-7 if name in ("identity", "expression") else 5e-5
        assert slope.abs().max() < limit * stiff_as, (name, slope)


def test_adam_is_torchs() -> None:
    """Twenty steps of a changing rate on two tensors with rates of their own: equal but for the last bits, since step
    sizes are in a table that a GPU can read."""
    rng = torch.Generator().manual_seed(0)
    starts = [torch.randn(5, generator=rng), torch.randn(2, 3, generator=rng)]
    ours, theirs = ([t.clone().requires_grad_() for t in starts] for _ in range(2))
    adam = Adam([(ours[0], 0.1), (ours[1], 0.02)], [0.9**step for step in range(20)], betas=(0.9, 0.99))
    known = torch.optim.Adam([{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:], "lr": 0.02}], betas=(0.9, 0.99))
    for step in range(20):
        for group, rate in zip(known.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = rate * 0.9**step
        for tensors, optimiser in ((ours, adam), (theirs, known)):
            optimiser.zero_grad()
            sum((t**4).sum() + t.sin().sum() for t in tensors).backward()
            optimiser.step(*([torch.tensor([step])] if optimiser is adam else []))
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-6, atol=1e-7)
    assert not torch.equal(ours[0], starts[0])


def test_nothing_slow_is_imported_before_the_first_iteration() -> None:
    """torch's compiler and scipy take seconds, and a fit on a cached head needs neither."""
    code = (
        "import sys, torch; from backend import pipeline; from backend.fit.adam import Adam\n"
        "x = torch.zeros(3, requires_grad=True); adam = Adam([(x, 0.1)], [1.0], (0.9, 0.99))\n"
        "x.sum().backward(); adam.step(torch.tensor([0]))\n"
        "print([name for name in ('torch._dynamo', 'scipy.sparse', 'scipy.interpolate', 'scipy.ndimage', 'rich')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
