# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m backend ablation PHOTO`: the fit with one term of the energy off at a time, as a table."""
import argparse
import json
from dataclasses import fields, replace
from pathlib import Path

import torch

from backend.fit.conditions import Conditions
from backend.fit.config import PRESETS, FitConfig, LossWeights
from backend.fit.energy import Energy
from backend.fit.fit import FitJob, fit
from backend.fit.parameters import FitParameters
from backend.fit.person import Person
from backend.fit.views import View, prepare_view
from backend.networks.facemesh import FaceMesh
from backend.options import Options
from backend.photo import load_photo
from backend.pipeline import Models, align_views, choose_device

TERMS = ("identity", "identity_random", "content", "pixel", "landmark", "landmark_mesh", "shape", "expression",
         "expression_sum", "latent", "light", "tone", "palette", "camera")
MEASURED = ("identity", "identity_random", "content", "pixel", "landmark", "landmark_mesh")


def measure(person: Person, views: list[View], params: FitParameters, identity: torch.nn.Module, mesh: FaceMesh,
            config: FitConfig) -> dict[str, float]:
    """Every data term at the end of a fit, with all terms switched on and the same random second views."""
    everything = replace(config.stages[-1], weights=LossWeights(**{f.name: 1.0 for f in fields(LossWeights)}))
    rng = torch.Generator().manual_seed(12345)
    device = params.identity.device
    energy = Energy.of_person(person, views, identity, mesh, everything, device)
    totals = dict.fromkeys(MEASURED, 0.0)
    draws = 8
    conditions, together = Conditions.of_people([energy.draw(rng, draws)], device), FitParameters.together([params])
    with torch.no_grad():
        for i in range(draws):
            terms, _ = energy(together, conditions.at(torch.tensor([i], device=device)))
            for name in MEASURED:
                totals[name] += float(terms[name]) / draws
    totals["sigma"] = float((params.identity**2).mean().sqrt())
    return totals


def ablate(photos: list[str], options: Options) -> list[dict]:
    """One row per variant: name of the term that was off (or "none") and the measures of `measure`."""
    models, device = Models(), choose_device(options.device)
    person = models.person(options, device)
    identity, mesh = models.identity(options, device), models.landmarks(options, device)
    views = [prepare_view(load_photo(p), models.detector(), mesh, options.face)[0] for p in photos]
    config = PRESETS[options.preset]
    if options.iterations is not None:
        config = config.with_iterations(options.iterations)
    start, rows = align_views(person, views, config), []
    for term in (None, *TERMS):
        variant = config if term is None else config.with_weights(**{term: 0.0})
        params, _ = fit(person, FitJob(views, start, options.seed), identity, mesh, variant)
        rows.append({"off": term or "none", **measure(person, views, params, identity, mesh, config)})
        print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict) -> str:
    """One line of the table."""
    return f"{row['off']:16s}" + "".join(f"{row[name]:17.4f}" for name in (*MEASURED, "sigma"))


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints the table and writes it as JSON with --out."""
    parser = argparse.ArgumentParser(prog="python -m backend ablation", description=__doc__)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="draft")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    args = parser.parse_args(arguments)
    print(f"{'off':16s}" + "".join(f"{name:>17s}" for name in (*MEASURED, "sigma")))
    rows = ablate(args.photos, Options(preset=args.preset, iterations=args.iterations, device=args.device,
                                       seed=args.seed))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    return 0
