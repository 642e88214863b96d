# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the start of a fit quick without changing it: the alignment's Jacobian, Adam, what is imported."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.fit.adam import Adam
from backend.fit.align import projection_jacobian
from backend.fit.parameters import FitParameters, ViewFrame, camera_of

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


def test_adam_is_torchs() -> None:
    """Twenty steps of a changing rate on two tensors with rates of their own: equal to the last bit."""
    rng = torch.Generator().manual_seed(0)
    starts = [torch.randn(5, generator=rng), torch.randn(2, 3, generator=rng)]
    ours, theirs = ([t.clone().requires_grad_() for t in starts] for _ in range(2))
    adam = Adam([(ours[0], 0.1), (ours[1], 0.02)], betas=(0.9, 0.99))
    known = torch.optim.Adam([{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:], "lr": 0.02}], betas=(0.9, 0.99))
    for step in range(20):
        for group, rate in zip(known.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = rate * 0.9**step
        for tensors, optimiser in ((ours, adam), (theirs, known)):
            optimiser.zero_grad()
            sum((t**4).sum() + t.sin().sum() for t in tensors).backward()
            optimiser.step(*([0.9**step] if optimiser is adam else []))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], starts[0])


def test_nothing_slow_is_imported_before_the_first_iteration() -> None:
    """torch's compiler and scipy take seconds, and a fit on a cached head needs neither."""
    code = (
        "import sys, torch; from backend import pipeline; from backend.fit.adam import Adam\n"
        "x = torch.zeros(3, requires_grad=True); adam = Adam([(x, 0.1)], (0.9, 0.99))\n"
        "x.sum().backward(); adam.step()\n"
        "print([name for name in ('torch._dynamo', 'scipy.sparse', 'scipy.interpolate', 'scipy.ndimage', 'rich')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
