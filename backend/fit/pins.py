# SPDX-License-Identifier: GPL-3.0-or-later
"""Pins: landmarks that a person has put right by hand, as targets of alignment and fit."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.errors import GanfitError
from backend.fit.align import LANDMARK_SIGMA, LandmarkModel
from backend.fit.person import Person
from backend.fit.views import View
from backend.head.landmarks import IBUG_FROM_MEDIAPIPE, JAW68

PIN_SIGMA = 0.3
"""Expected error of a pin in pixels of the fit's crop."""
CROP_SIZE = 256
"""Side of the crop in pixels that `PIN_SIGMA` refers to."""
REACH = 0.15
"""Width in interocular distances of the bell in which the network's neighbouring points move with a pin: where it is
wrong about one point, it is wrong about those beside it."""


@dataclass(frozen=True)
class Pin:
    """One landmark of one photo where it belongs.

    view: number of the photo. index: point of MediaPipe's face mesh, 0 to 467, or "68:N" for the iBUG point N.
    x, y: photo pixels.
    """

    view: int
    index: int | str
    x: float
    y: float

    @property
    def ibug(self) -> int | None:
        """Number among the 68 points, None for a point of the mesh."""
        return int(self.index[3:]) if isinstance(self.index, str) else None

    @property
    def mesh(self) -> int | None:
        """The same point of the face mesh; None for the jaw's iBUG points, which have none."""
        if self.ibug is None:
            return int(self.index)
        return None if self.ibug in JAW68 else IBUG_FROM_MEDIAPIPE[self.ibug]

    def to_dict(self) -> dict[str, Any]:
        """As in the protocol and in `result.json`."""
        return {"view": self.view, "index": self.index, "x": self.x, "y": self.y}


@dataclass(frozen=True)
class PinTargets:
    """The pins of one view: the head's points as a linear model (N), and their targets (N, 2) in photo pixels."""

    model: LandmarkModel
    target: Tensor


def parse_pins(entries: Sequence[Any], views: int) -> list[Pin]:
    """Pins out of JSON; of two for the same point the later counts. Raises GanfitError bad_pin."""
    pins: dict[tuple[int, int | str], Pin] = {}
    for entry in entries:
        pin = _parse(entry)
        if not 0 <= pin.view < views:
            raise GanfitError("bad_pin", f"The pin {entry!r:.100} is in photo {pin.view}; there are {views}.")
        pins[pin.view, pin.index] = pin
    return list(pins.values())


def _parse(entry: Any) -> Pin:
    if not isinstance(entry, Mapping) or set(entry) != {"view", "index", "x", "y"}:
        raise GanfitError("bad_pin", f"The pin {entry!r:.100} is not of the form view, index, x, y.")
    view, index, x, y = entry["view"], entry["index"], entry["x"], entry["y"]
    known = type(index) is int and 0 <= index < 468
    if isinstance(index, str) and index.startswith("68:"):
        known = index[3:].isdecimal() and index[3:].isascii() and int(index[3:]) < 68
    placed = all(type(value) in (int, float) and math.isfinite(value) for value in (x, y))
    if type(view) is not int or not known or not placed:
        raise GanfitError("bad_pin", f"The pin {entry!r:.100} names no point or no place.")
    return Pin(view, index, float(x), float(y))


def pinned_view(view: View, pins: Sequence[Pin]) -> View:
    """The view with its mesh points where the pins are, and their neighbours moved along.

    The displacement between is interpolated by Gaussian radial basis functions, exact at the pins.
    """
    points = np.asarray(view.landmarks.points, np.float64)
    moved = {pin.mesh: (pin.x, pin.y) for pin in pins if pin.mesh is not None}
    if not moved:
        return view
    anchors = points[list(moved)]
    width = REACH * view.frame.unit

    def bell(to: np.ndarray) -> np.ndarray:
        return np.exp(-((to[:, None] - anchors[None]) ** 2).sum(-1) / (2 * width**2))

    # A little ridge: two pins on points that coincide in the photo would else cancel each other by huge weights.
    weights = np.linalg.solve(bell(anchors) + 1e-3 * np.eye(len(anchors)), np.array(list(moved.values())) - anchors)
    points = points + bell(points) @ weights
    points[list(moved)] = list(moved.values())
    return replace(view, landmarks=replace(view.landmarks, points=points.astype(np.float32)))


def pin_targets(person: Person, views: list[View], pins: Sequence[Pin],
                offsets: Tensor | None) -> dict[int, PinTargets]:
    """The pins of every view that has some, as `fit` takes them; offsets (V0, 3) in the model's metres."""
    targets = {}
    rows468, rows68 = person.head.landmark_rows("468"), person.head.landmark_rows("68")
    for number, view in enumerate(views):
        own = [pin for pin in pins if pin.view == number]
        if not own:
            continue
        rows = torch.stack([rows468[int(p.index)] if p.ibug is None else rows68[p.ibug] for p in own])
        if bool((rows.abs().sum(1) == 0).any()):
            raise GanfitError("bad_pin", "A pin is on a point that the head model does not have.")
        weight = (LANDMARK_SIGMA * view.frame.unit / (PIN_SIGMA * view.box[2] / CROP_SIZE)) ** 2
        model = person.linear_points(rows, torch.full((len(own),), weight, device=rows.device), offsets)
        targets[number] = PinTargets(model, torch.tensor([[p.x, p.y] for p in own], device=rows.device))
    return targets


def joined(model: LandmarkModel, pins: PinTargets | None) -> LandmarkModel:
    """The landmarks and behind them a view's pins, with their weights: what the alignment sees."""
    if pins is None:
        return model
    parts = (model, pins.model)
    return LandmarkModel(torch.cat([p.mean for p in parts]), torch.cat([p.identity for p in parts], 1),
                         torch.cat([p.expression for p in parts], 1), torch.cat([p.weights for p in parts]))
