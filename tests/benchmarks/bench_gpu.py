# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CUDA card makes of the fit: `python -m tests.benchmarks.bench_gpu PHOTO... [--json FILE] [--only PART ...]`.

`step`: milliseconds of an iteration of the last stage, step by step and as a recorded graph, with torch's usual
precision (TF32 in convolutions), in float32, with TF32 everywhere, with convolutions that cuDNN tried out. `warm`:
seconds of a whole reconstruction by stage, cold and warm. `batch`: photos per second and peak memory against the number
of people fitted together; the photos are used in turn. `raster`: warp beside nvdiffrast, where that is installed, on
equal triangles, forward and backward, started one by one as outside of a graph.
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backend.errors import GanfitError
from backend.fit.appearance import initial_appearance
from backend.fit.config import PRESETS
from backend.fit.descent import Descent
from backend.fit.energy import Energy
from backend.fit.fit import FitJob, fit_together
from backend.fit.parameters import FitParameters
from backend.fit.views import prepare_view
from backend.options import Options
from backend.photo import load_photo
from backend.pipeline import Models, align_views, reconstruct
from backend.render.raster import get_rasterizer
from tests.benchmarks.bench_raster import make_scene, picture_tasks

DEVICE = torch.device("cuda")


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of one call, the card's work included, after two for warming up."""
    times = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


def prepared(photos: list[str], models: Models, options: Options) -> list[FitJob]:
    """The photos aligned, one person each; those without a face are left out."""
    person, mesh = models.person(options, DEVICE), models.landmarks(options, DEVICE)
    jobs = []
    for photo in photos:
        try:
            view, _ = prepare_view(load_photo(photo), models.detector(), mesh, None)
        except GanfitError as error:
            print(f"{photo}: {error}")
            continue
        jobs.append(FitJob([view], align_views(person, [view], PRESETS[options.preset])))
    return jobs


def bench_step(jobs: list[FitJob], models: Models, options: Options) -> dict[str, float]:
    """Milliseconds of an iteration of the last stage, for one photo."""
    person, identity, mesh = (models.person(options, DEVICE), models.identity(options, DEVICE),
                              models.landmarks(options, DEVICE))
    stage = PRESETS[options.preset].stages[-1]
    energy = Energy.of_person(person, jobs[0].views, identity, mesh, stage, DEVICE)
    params = initial_appearance(energy, FitParameters.together([jobs[0].params]))
    found = {}
    usual = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    for name, graph, tf32, tried in (("step by step", False, usual[:2], False), ("graph", True, usual[:2], False),
                                     ("graph, float32", True, (False, False), False),
                                     ("graph, all TF32", True, (True, True), False),
                                     ("graph, tried out", True, usual[:2], True)):
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = tried
        descent = Descent(energy, params, [torch.Generator().manual_seed(0)], [1.0] * 60)
        descent.recordable = graph
        found[name] = 1e3 * seconds(descent.advance, 30)
        terms = descent.history(30, 31)[0]
        print(f"{name:18s}{found[name]:8.2f} ms   " + " ".join(f"{k} {terms[k][0]:.4f}" for k in
                                                               ("identity", "content", "pixel", "landmark_mesh")))
    (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark) = usual
    return found


def bench_warm(photo: str, preset: str) -> dict[str, dict[str, float]]:
    """Seconds of a reconstruction by stage, first and third time."""
    models, found = Models(), {}
    for turn in ("cold", "second", "warm"):
        start = time.perf_counter()
        bundle = reconstruct([photo], Options(preset=preset, device="cuda"), models=models)
        whole = time.perf_counter() - start
        timings = {k: v for k, v in bundle.result["timings"].items() if ":" not in k}
        found[turn] = {"whole": whole, **timings}
        print(f"{preset} {turn}: {whole:.2f} s  " + " ".join(f"{k} {v:.2f}" for k, v in timings.items()), flush=True)
    return found


def bench_batch(jobs: list[FitJob], models: Models, options: Options, sizes: list[int]) -> dict[str, dict[str, float]]:
    """Photos per second of the fit and peak memory, by people together."""
    person, identity, mesh = (models.person(options, DEVICE), models.identity(options, DEVICE),
                              models.landmarks(options, DEVICE))
    found = {}
    for size in sizes:
        torch.cuda.reset_peak_memory_stats()
        people = [replace(jobs[i % len(jobs)], trace=type(jobs[0].trace)()) for i in range(size)]
        start = time.perf_counter()
        try:
            fit_together(person, people, identity, mesh, PRESETS[options.preset])
        except torch.cuda.OutOfMemoryError:
            print(f"{size}: out of memory")
            break
        torch.cuda.synchronize()
        spent = time.perf_counter() - start
        failed = sum(job.error is not None for job in people)
        memory = torch.cuda.max_memory_allocated() / 2**30
        likeness = sum(job.trace.losses["identity"][-1] for job in people if job.error is None) / max(1, size - failed)
        found[str(size)] = {"seconds": spent, "photos_per_second": size / spent, "memory_gib": memory,
                            "failed": failed, "identity": likeness}
        print(f"{size:4d} together: {spent:7.2f} s {size / spent:7.2f} photos/s {memory:6.2f} GiB, {failed} failed, "
              f"identity {likeness:.4f}", flush=True)
    return found


def bench_raster() -> dict[str, float]:
    """Milliseconds forward and backward of both rasterisers at 256 to 1024 pixels and 5k to 100k triangles."""
    rasters = {}
    for name in ("warp", "nvdiffrast"):
        try:
            rasters[name] = get_rasterizer(DEVICE, name)
        except GanfitError as error:
            print(f"{name}: {error}")
    found = {}
    for size in (256, 512, 1024):
        for rings in (50, 100, 158, 224):
            row = ""
            for name, raster in rasters.items():
                forward, backward = picture_tasks(raster, make_scene(raster, size, rings, 1, "cuda"), 1, "").values()

                def both(there: Callable[[], object] = forward, back: Callable[[], object] = backward) -> None:
                    there()
                    back()

                found[f"{name} {size} {2 * rings * rings}"] = 1e3 * seconds(both, 30)
                row += f"  {name} {found[f'{name} {size} {2 * rings * rings}']:.2f}"
            print(f"{size} px, {2 * rings * rings} triangles:{row}", flush=True)
    return found


def main() -> int:
    """Prints the figures and, with --json, writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="standard")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--only", nargs="+", default=["warm", "step", "batch", "raster"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    options, models, found = Options(preset=args.preset, device="cuda"), Models(), dict[str, Any]()
    found["device"] = torch.cuda.get_device_name()
    print(found["device"], "torch", torch.__version__)
    if "warm" in args.only:
        found["warm"] = bench_warm(args.photos[0], args.preset)
    if {"step", "batch"} & set(args.only):
        jobs = prepared(args.photos, models, options)
    if "step" in args.only:
        found["step"] = bench_step(jobs, models, options)
    if "batch" in args.only:
        found["batch"] = bench_batch(jobs, models, options, args.sizes)
    if "raster" in args.only:
        found["raster"] = bench_raster()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
