# SPDX-License-Identifier: GPL-3.0-or-later
"""A head with known parameters, photographed by the renderer, for the tests of unwrapping and refinement."""
from __future__ import annotations

import numpy as np
import torch

from backend.fit.align import initial_parameters
from backend.fit.parameters import FitParameters, ViewFrame, camera_of
from backend.fit.person import Person
from backend.fit.views import View
from backend.head.stat import COMPONENTS
from backend.networks.facemesh import FaceLandmarks
from backend.photo import Photo

SIZE = 900
UNIT = 190.0
"""Interocular distance in the photo, pixels."""


def known_parameters(person: Person, yaw: float = 0.35) -> tuple[FitParameters, ViewFrame]:
    """A head drawn from ICT-FaceKit's statistics, turned, lit from its left by a warm sun over a blue-grey sky."""
    frame = ViewFrame((SIZE, SIZE), (SIZE / 2, 0.42 * SIZE), UNIT)
    model, rng = person.landmark_model(), torch.Generator().manual_seed(4)
    flat = model.mean[:, :2] * torch.tensor([1.0, -1.0]) * UNIT / 0.063 + torch.tensor(frame.anchor)
    start = initial_parameters(model, flat, frame, 512, person.default_palette())
    sh = torch.zeros(1, 9, 3)
    sh[:, 0] = torch.tensor([1.3, 1.4, 1.6])
    sh[:, 3] = 0.3
    identity = torch.zeros_like(start.identity)
    identity[:COMPONENTS] = 0.6 * torch.randn(COMPONENTS, generator=rng)
    return FitParameters(**{**start.tensors(), "identity": identity, "rotation": torch.tensor([[0.1, yaw, 0.05]]),
                            "sh": sh, "sun_direction": torch.tensor([[0.8, 0.4, 1.0]]),
                            "sun_rgb": torch.tensor([[0.9, 0.8, 0.6]])}), frame


def photograph(person: Person, params: FitParameters, frame: ViewFrame, texture: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8: the head with a texture (1, 3, R, R) before a green wall."""
    with torch.no_grad():
        _, verts1 = person.geometry(params)
        colours = person.vertex_colours(params.palette)
        out = person.picture(verts1, texture, colours, camera_of(params, [frame], 0), params.lights())
        green = torch.tensor([0.0, 1.0, 0.0])
        return ((out.rgb + (1 - out.alpha) * green)[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def view_of(image: np.ndarray, frame: ViewFrame) -> View:
    """The view of a photo, without landmarks."""
    marks = FaceLandmarks(np.zeros((468, 2)), np.zeros(468), 1.0, np.zeros((2, 3)), np.zeros((2, 5, 2)), np.zeros(4))
    return View(Photo(image, "drawn.png", "0" * 64), marks, frame, False, (0.0, 0.0, float(SIZE)))
