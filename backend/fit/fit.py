# SPDX-License-Identifier: GPL-3.0-or-later
"""The fit: gradient descent on shape, texture, expression, camera and light at once (GANFIT, CVPR 2019, Sec. 3.4)."""
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from backend.errors import GanfitError
from backend.fit.appearance import Start, initial_appearance, usual_hue
from backend.fit.config import FitConfig, StageConfig
from backend.fit.descent import Descent
from backend.fit.energy import Energy
from backend.fit.parameters import FitParameters
from backend.fit.person import Person
from backend.fit.pins import PinTargets
from backend.fit.stereo import agree
from backend.fit.views import View
from backend.networks.facemesh import FaceMesh
from backend.networks.fan import FanLandmarks


@dataclass
class FitTrace:
    """What happened: loss terms per iteration (unweighted) and seconds by part of an iteration."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class FitJob:
    """One person to be fitted: prepared photos and aligned parameters.

    pins: targets by number of the view. lit: `params` have a texture and light, which are kept if they explain the
    photos better than those that `initial_appearance` finds. After the fit `params` are its result and `trace` says
    how it went; or `error` why there is none.
    """

    views: list[View]
    params: FitParameters
    seed: int = 0
    pins: dict[int, PinTargets] | None = None
    lit: bool = False
    trace: FitTrace = field(default_factory=FitTrace)
    error: GanfitError | None = None


Progress = Callable[[int, int, dict[str, float], Tensor | None], None]
"""step (from 1), steps, unweighted loss terms of the first person, and now and then the render of the crops
(V, H, W, 3)."""
PREVIEW_EVERY = 10
"""Steps between two previews; on a GPU also between two looks at what it has done."""


def fit(person: Person, job: FitJob, identity: torch.nn.Module, mesh: FaceMesh | FanLandmarks, config: FitConfig,
        progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
        ) -> tuple[FitParameters, FitTrace]:
    """All stages of the full energy from aligned parameters. Deterministic on the CPU for one seed and thread count.

    Raises GanfitError: cancelled, fit_diverged.
    """
    fit_together(person, [job], identity, mesh, config, progress, cancelled)
    if job.error is not None:
        raise job.error
    return job.params, job.trace


def fit_together(person: Person, jobs: Sequence[FitJob], identity: torch.nn.Module, mesh: FaceMesh | FanLandmarks,
                 config: FitConfig, progress: Progress | None = None,
                 cancelled: Callable[[], bool] | None = None) -> None:
    """`fit` for several people in one batch, each as if alone; fills in the jobs. One with pins has to be alone.

    Raises GanfitError: cancelled. What goes wrong with one person is said in the job.
    """
    rngs = [torch.Generator().manual_seed(job.seed) for job in jobs]
    known: list[Energy | None] = [None for _ in jobs]
    done = 0
    for stage in config.stages:
        alive = [i for i, job in enumerate(jobs) if job.error is None]
        if not alive:
            return
        for i in alive:
            known[i] = start_stage(person, jobs[i], identity, mesh, stage, known[i])
        energies = [energy for i in alive if (energy := known[i]) is not None]
        run_stage(energies, [jobs[i] for i in alive], [rngs[i] for i in alive], done, config.iterations, progress,
                  cancelled)
        done += stage.iterations
    for job in jobs:
        # A shape that is kept, or held by pins, is not to be had better from the photos.
        if job.error is None and len(job.views) > 1 and not job.pins and config.stages[-1].rates.identity:
            start = time.perf_counter()
            job.params = agree(person, job.views, job.params)
            job.trace.seconds["stereo"] = time.perf_counter() - start


def start_stage(person: Person, job: FitJob, identity: torch.nn.Module, mesh: FaceMesh | FanLandmarks,
                stage: StageConfig, before: Energy | None) -> Energy:
    """A person's energy in a stage, with what the stage before, if there was one, knows of skin and palette.

    In the first stage the job's parameters get their appearance, in later ones the palette is measured anew under the
    light and in the mouth that have been found.
    """
    energy = Energy.of_person(person, job.views, identity, mesh, stage, job.params.identity.device,
                              job.params.offsets, job.pins)
    params = FitParameters.together([job.params])
    if before is None:
        solved = initial_appearance(energy, params)
        if not job.lit or Start(energy, solved).error() < (kept := Start(energy, params)).error():
            job.params = solved.apart([len(job.views)])[0]
        else:
            energy.target.usual_palette = kept.palette(person.default_palette()[None].to(energy.device))
        energy.target.usual_hue = usual_hue(energy, FitParameters.together([job.params]))
        return energy
    start = Start(energy, params)
    target = replace(energy.target, skin=start.skin(), usual_palette=start.palette(before.target.usual_palette),
                     usual_hue=usual_hue(energy, params), usual_tint=before.target.usual_tint,
                     has_tint=before.target.has_tint)
    return replace(energy, target=target)


def rate_factor(stage: StageConfig, iteration: int) -> float:
    """The share of the step sizes that is left in an iteration of a stage: half a cosine down to `final_rate`."""
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * iteration / stage.iterations))


def run_stage(energies: Sequence[Energy], jobs: Sequence[FitJob], rngs: Sequence[torch.Generator], done: int,
              total: int, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
    """One stage of Adam for people in one batch; `done` of `total` iterations lie behind it.

    Raises GanfitError: cancelled.
    """
    energy = Energy.together(energies)
    stage, views = energy.stage, [len(job.views) for job in jobs]
    factors = [rate_factor(stage, i) for i in range(stage.iterations)]
    descent = Descent(energy, FitParameters.together([job.params for job in jobs]), rngs, factors)
    every = 1 if energy.device.type == "cpu" else PREVIEW_EVERY
    seen = 0
    for i in range(stage.iterations):
        if cancelled is not None and cancelled():
            raise GanfitError("cancelled", "The reconstruction was cancelled.")
        descent.advance()
        if (i + 1) % every and i + 1 < stage.iterations:
            continue
        rows = descent.history(seen, i + 1)
        for number, (job, terms) in enumerate(zip(jobs, rows, strict=True)):
            note(job, terms, descent.gradients_finite(number, seen, i + 1), done + seen)
        if len(jobs) == 1 and jobs[0].error is not None:
            return
        seen = i + 1
        if progress is not None:
            picture = descent.picture if i % PREVIEW_EVERY == 0 or every > 1 else None
            progress(done + seen, total, {name: values[-1] for name, values in rows[0].items()}, picture)
    for job, params in zip(jobs, descent.params.apart(views), strict=True):
        job.params = params.detach()
        for name, value in descent.clock.seconds.items():
            job.trace.seconds[name] = job.trace.seconds.get(name, 0.0) + value


def note(job: FitJob, terms: dict[str, list[float]], gradients: list[bool], first: int) -> None:
    """Adds some iterations, from the `first` on, to a job's trace, or the error that a number in them is none."""
    if job.error is not None:
        return
    for name, values in terms.items():
        job.trace.losses.setdefault(name, []).extend(values)
    for i, good in enumerate(gradients):
        bad = next((name for name, values in terms.items() if not math.isfinite(values[i])), None)
        if bad is not None or not good:
            what = "a gradient" if bad is None else bad
            job.error = GanfitError("fit_diverged", f"The fit broke down in step {first + i}: {what} is not a number.")
            return
