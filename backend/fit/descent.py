# SPDX-License-Identifier: GPL-3.0-or-later
"""Gradient descent on the energy: one step after the other, on a GPU as a recorded graph that needs no program."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields

import torch
from torch import Tensor

from backend.fit.adam import Adam
from backend.fit.conditions import Conditions
from backend.fit.config import LearningRates, LossWeights
from backend.fit.energy import Clock, Energy
from backend.fit.parameters import PERSONAL, FitParameters

STEPS_BEFORE_RECORDING = 3
"""Steps that a GPU takes one by one before one is recorded: kernels are loaded, memory has found its sizes."""
RATE_OF = {"identity": ("identity",), "expression": ("expression",), "latent": ("latent",), "rotation": ("rotation",),
           "position": ("centre", "log_scale", "log_distance"), "light": ("sh", "sun_direction", "sun_rgb"),
           "palette": ("palette",)}
"""Parameters by the field of `LearningRates` that gives their step size."""


def optimiser(params: FitParameters, rates: LearningRates, factors: Sequence[float]) -> Adam:
    """Adam with one step size per kind of parameter, times a factor per step."""
    return Adam([(getattr(params, n), getattr(rates, kind)) for kind, names in RATE_OF.items() for n in names],
                factors, betas=(0.9, 0.99))


class Descent:
    """Adam on the energy of P people, `len(factors)` steps at most, each with its share of the step sizes.

    A step reads nothing back to the program: draws, step sizes and losses are in tables on the device, at the row that
    a counter there names. So a GPU gets one step as a CUDA graph and repeats it.
    """

    def __init__(self, energy: Energy, params: FitParameters, rngs: Sequence[torch.Generator],
                 factors: Sequence[float]):
        self.energy, self.clock = energy, Clock()
        self.params = params.require_grad()
        device, people, steps = energy.device, len(energy.views), len(factors)
        self.conditions = Conditions.of_people([energy.draw(rng, steps) for rng in rngs], device)
        self.adam = optimiser(self.params, energy.stage.rates, factors)
        self.index = torch.zeros(1, dtype=torch.long, device=device)
        self.names: list[str] = []
        self._weights = torch.zeros(0)
        self._terms = torch.zeros(steps, len(fields(LossWeights)), people, device=device)
        self._slopes = torch.zeros(steps, people, device=device)
        self.picture: Tensor | None = None
        self._taken, self._graph = 0, None
        self.recordable = device.type == "cuda"
        """Whether a step will be recorded."""
        self._stream = torch.cuda.Stream(device) if self.recordable else None

    def advance(self) -> None:
        """One step."""
        start = time.perf_counter()
        if self._stream is None:
            self._step()
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self.energy.device))
            with torch.cuda.stream(self._stream):
                if self.recordable and self._taken == STEPS_BEFORE_RECORDING:
                    self._record()
                if self._graph is None:
                    self._step()
                else:
                    self._graph.replay()
            torch.cuda.current_stream(self.energy.device).wait_stream(self._stream)
        self._taken += 1
        self.clock.seconds["iteration"] = self.clock.seconds.get("iteration", 0.0) + time.perf_counter() - start

    def _record(self) -> None:
        """Records a step without taking it; a device that cannot goes on step by step."""
        self.recordable = False
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize(self.energy.device)
            with torch.cuda.graph(graph, stream=self._stream):
                self._step()
        except RuntimeError as error:
            print(f"The fit's step could not be recorded as a CUDA graph: {error}", file=sys.stderr)
            return
        self._graph = graph

    def _step(self) -> None:
        self.adam.zero_grad()
        terms, self.picture = self.energy(self.params, self.conditions.at(self.index), self.clock)
        if not self.names:
            self.names = list(terms)
            weights = self.energy.stage.weights
            self._weights = torch.tensor([getattr(weights, n) for n in terms], device=self.energy.device)[:, None]
        values = torch.stack([terms[name] for name in self.names])
        with self.clock("backward") if self._stream is None else nullcontext():
            (self._weights * values).sum().backward()
        with torch.no_grad():
            self.picture = self.picture.detach()
            self._terms[:, :len(values)].index_copy_(0, self.index, values[None])
            self._slopes.index_copy_(0, self.index, self._slope()[None])
        self.adam.step(self.index)
        self.params.clamp_()
        self.index += 1

    def _slope(self) -> Tensor:
        """(P,) sum over everything of the gradient of each person: not a number if any part of it is none."""
        total = torch.zeros_like(self._slopes[0])
        for name, value in self.params.tensors().items():
            if value.grad is not None:
                by_row = value.grad.flatten(1).sum(1)
                total += by_row if name in PERSONAL else self.energy.over_views(by_row)
        return total

    def history(self, first: int, last: int) -> list[dict[str, list[float]]]:
        """The unweighted terms of the steps from `first` up to `last`, by person and name."""
        rows = self._terms[first:last].cpu()
        return [{name: rows[:, i, p].tolist() for i, name in enumerate(self.names)} for p in range(rows.shape[2])]

    def gradients_finite(self, person: int, first: int, last: int) -> list[bool]:
        """Whether a person's gradient was made of numbers in those steps."""
        return torch.isfinite(self._slopes[first:last, person]).tolist()
