# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one iteration of the fit's last stage goes: network passes (forward and backward, alone on inputs of the same
shape) and the rest (geometry, rendering, losses, Adam). `python -m tests.benchmarks.bench_iteration PHOTO`."""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable

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
    descent = Descent(energy, params, [torch.Generator().manual_seed(0)], [1.0] * (args.repeats + 5))
    for _ in range(4):  # on a GPU the fourth is recorded
        descent.advance()
    whole = seconds(descent.advance, args.repeats)
    size = stage.texture_size
    parts = {
        f"generator at {size} texels": there_and_back(lambda z: person.generator(z, size), (1, 512), device),
        "identity network, two pictures": there_and_back(
            lambda x: identity(x)[0], (2, 3, identity.chip_size, identity.chip_size), device),
        "landmark network": there_and_back(lambda x: mesh(x)[0], (1, 3, mesh.crop_size, mesh.crop_size), device),
    }
    spent = {name: seconds(work, args.repeats) for name, work in parts.items()}
    rest = whole - sum(spent.values())
    for name, value in {**spent, "the rest": rest, "iteration": whole}.items():
        print(f"{name:34s}{1000 * value:8.1f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
