# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one iteration of the fit's last stage goes: network passes (forward and backward, alone on inputs of the same
shape) and the rest (geometry, rendering, losses, Adam; with stand-ins that return what the networks once returned).
`python -m tests.benchmarks.bench_iteration PHOTO`."""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import backend  # noqa: F401 before torch, whose threads it tells how to wait

# isort: split
import torch
from torch import Tensor

from backend.fit.appearance import initial_appearance
from backend.fit.config import PRESETS
from backend.fit.descent import Descent
from backend.fit.energy import Energy
from backend.fit.parameters import FitParameters
from backend.fit.views import prepare_view
from backend.options import Options
from backend.photo import load_photo
from backend.pipeline import Models, align_views, choose_device


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of one call after a warm-up."""
    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    work()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def there_and_back(network: Callable[[Tensor], Tensor], shape: tuple[int, ...],
                   device: torch.device) -> Callable[[], None]:
    """A call that runs a network forward and back to its input."""
    inputs = torch.rand(shape, device=device, requires_grad=True)

    def work() -> None:
        network(inputs).sum().backward()

    return work


class StandIn:
    """A network that has seen one input of each shape: its outputs then and a gradient, for nothing."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.seen: dict[tuple[int, ...], tuple[Any, list[Tensor], Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, inputs: Tensor, *args: object) -> Any:
        shape = tuple(inputs.shape)
        if shape not in self.seen:
            leaf = inputs.detach().requires_grad_()
            output = self.network(leaf, *args)
            flat = _tensors(output)
            slope, = torch.autograd.grad(sum(t.sum() for t in flat if t.requires_grad), leaf)
            self.seen[shape] = output, [t.detach() for t in flat], 1e-4 * slope
        output, flat, slope = self.seen[shape]
        fresh = _Remembered.apply(inputs, slope, *flat)
        if isinstance(output, Tensor):
            return fresh[0]
        return fresh[0], list(fresh[1:]) if isinstance(output[1], list) else fresh[1]


def _tensors(output: Any) -> list[Tensor]:
    """What a network returns as a flat list."""
    if isinstance(output, Tensor):
        return [output]
    first, others = output
    return [first, *(others if isinstance(others, list) else [others])]


class _Remembered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, slope: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.slope, ctx.count = slope, len(outputs)
        return tuple(t.view_as(t) for t in outputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.slope, None, *ctx.count * [None]


def iteration(energy: Energy, params: FitParameters, repeats: int) -> float:
    """Seconds of one."""
    descent = Descent(energy, params, [torch.Generator().manual_seed(0)], [1.0] * (repeats + 5))
    for _ in range(4):  # on a GPU the fourth is recorded
        descent.advance()
    return seconds(descent.advance, repeats)


def main() -> int:
    """Prints milliseconds per iteration by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="standard")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    options, models = Options(preset=args.preset), Models()
    device = choose_device(args.device)
    person, identity, mesh = (models.person(options, device), models.identity(options, device),
                              models.landmarks(options, device))
    view, _ = prepare_view(load_photo(args.photo), models.detector(), mesh, None)
    config = PRESETS[args.preset]
    stage = config.stages[-1]
    energy = Energy.of_person(person, [view], identity, mesh, stage, device)
    params = initial_appearance(energy, FitParameters.together([align_views(person, [view], config)]))
    whole = iteration(energy, params, args.repeats)
    size = stage.texture_size
    parts = {
        f"generator at {size} texels": there_and_back(lambda z: person.generator(z, size), (1, 512), device),
        "identity network, two pictures": there_and_back(
            lambda x: identity(x)[0], (2, 3, identity.chip_size, identity.chip_size), device),
        "landmark network": there_and_back(lambda x: mesh(x)[0], (1, 3, mesh.crop_size, mesh.crop_size), device),
    }
    spent = {name: seconds(work, args.repeats) for name, work in parts.items()}
    stood_in = replace(person, generator=StandIn(person.generator))
    stood_in = replace(energy, person=stood_in, identity=StandIn(identity), mesh=StandIn(mesh))
    spent["the rest, networks stood in for"] = iteration(stood_in, params, args.repeats)
    for name, value in {**spent, "iteration": whole}.items():
        print(f"{name:34s}{1000 * value:8.1f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
