# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the texture generator: `python -m backend train texture-gan`.

The generator is trained as an auto-decoder over a linear model (`linear.py`), growing from 64 to 512 texels: every
map's latent is its whitened linear code, the loss is L1 on the map and on its Laplacian bands, and a last stage may add
an adversarial term that judges the fine structure of maps drawn from the prior. Everything a restart needs lies in one
snapshot.
"""
from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from backend.texture.adversary import Discriminator, discriminator_loss, random_crops
from backend.texture.generator import Generator, GeneratorSpec, save_generator
from backend.texture.linear import LinearCode, as_maps, fit_code, initialise, shrink


@dataclass(frozen=True)
class Stage:
    """One resolution of the progressive training."""

    resolution: int
    steps: int
    batch: int
    adversarial: float = 0.0
    """Weight of the adversarial term; 0 leaves the discriminator out."""


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides a training; printed at its start and kept in every snapshot."""

    textures: Path = Path("textures")
    """Folder of map sets: maps_256*.npy and maps_512*.npy, uint8 (N, R, R, 3), weight.npy, layout_id.txt."""
    out: Path = Path("training")
    seed: int = 1
    threads: int = 2
    stages: tuple[Stage, ...] = (Stage(64, 600, 16), Stage(128, 700, 8), Stage(256, 900, 6), Stage(512, 500, 2),
                                 Stage(512, 600, 2, 0.02))
    rate: float = 2e-3
    """Adam's step for layers with equalised learning rate."""
    linear_rate: float = 1e-4
    """Adam's step for the linear base, bands and place maps, which start right."""
    fade: float = 0.25
    """Share of a stage in which its resolution is blended in."""
    band_weight: float = 1.5
    """Weight of the Laplacian bands' L1 beside the map's L1."""
    noise: float = 0.05
    """Standard deviation of the noise on latents: neighbours of a code look like it."""
    r1: float = 5.0
    average: float = 0.995
    """Decay of the generator's running average, which is what is kept."""
    snapshot_every: int = 100
    minutes: float = 0.0
    """Stop (with a snapshot) after this time; 0 trains to the end."""
    spec: GeneratorSpec = field(default_factory=GeneratorSpec)


class MapSet:
    """The training maps of one resolution with their latents."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.parts = [np.load(p, mmap_mode="r", allow_pickle=False) for p in paths]
        self.starts = np.cumsum([0] + [len(p) for p in self.parts])
        self.latents = torch.empty(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def images(self, ids: Sequence[int]) -> Tensor:
        """uint8 (B, R, R, 3)."""
        part = np.searchsorted(self.starts, ids, side="right") - 1
        return torch.from_numpy(np.stack([self.parts[p][i - self.starts[p]] for p, i in zip(part, ids, strict=True)]))

    def encode(self, code: LinearCode) -> None:
        """Compute every map's latent."""
        self.latents = torch.cat([code.encode(as_maps(self.images(range(i, min(i + 32, len(self))))))
                                  for i in range(0, len(self), 32)])


def reconstruction_loss(maps: Tensor, target: Tensor, weight: Tensor, band_weight: float) -> Tensor:
    """Weighted L1 of maps (B, 3, R, R) and of their Laplacian bands; a dark map's error counts like a light one's."""
    scale = 0.5 / (0.15 + target.mean((1, 2, 3), keepdim=True))
    loss = (scale * weight * (maps - target).abs()).mean()
    fine, fine_target = maps, target
    for _ in range(3):
        coarse, coarse_target = F.avg_pool2d(fine, 2), F.avg_pool2d(fine_target, 2)
        band = fine - F.interpolate(coarse, scale_factor=2, mode="bilinear")
        band_target = fine_target - F.interpolate(coarse_target, scale_factor=2, mode="bilinear")
        loss = loss + band_weight * (scale * shrink(weight, fine.shape[-1]) * (band - band_target).abs()).mean()
        fine, fine_target = coarse, coarse_target
    return loss


class Training:
    """Generator, its running average, discriminator, optimisers and the step: what a snapshot holds."""

    def __init__(self, options: TrainOptions, layout_id: str) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.generator = Generator(options.spec, layout_id)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.judge = Discriminator()
        linear = [p for n, p in self.generator.named_parameters() if _starts_right(n)]
        layers = [p for n, p in self.generator.named_parameters() if not _starts_right(n)]
        self.optimiser = torch.optim.Adam([{"params": layers, "lr": options.rate},
                                           {"params": linear, "lr": options.linear_rate}], betas=(0.0, 0.99))
        self.judge_optimiser = torch.optim.Adam(self.judge.parameters(), lr=options.rate, betas=(0.0, 0.99))
        self.step = 0

    def stage(self) -> tuple[Stage, int]:
        """The stage of the current step and the step within it."""
        rest = self.step
        for stage in self.options.stages:
            if rest < stage.steps:
                return stage, rest
            rest -= stage.steps
        return self.options.stages[-1], self.options.stages[-1].steps

    def save(self, path: Path) -> None:
        """Write a snapshot (safetensors) in one move."""
        tensors = {}
        for name, module in (("generator", self.generator), ("average", self.average), ("judge", self.judge)):
            tensors |= {f"{name}/{k}": v.contiguous() for k, v in module.state_dict().items()}
        for name, optimiser in (("adam", self.optimiser), ("judge_adam", self.judge_optimiser)):
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}/{i}/{k}": torch.as_tensor(v).clone() for k, v in state.items()}
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary, metadata={"step": str(self.step), "layout_id": self.generator.layout_id,
                                                "options": json.dumps(asdict(self.options), default=str)})
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from a snapshot."""
        with safe_open(path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            names = list(file.keys())
            for prefix, module in (("generator/", self.generator), ("average/", self.average), ("judge/", self.judge)):
                module.load_state_dict({n.removeprefix(prefix): file.get_tensor(n) for n in names
                                        if n.startswith(prefix)})
            for prefix, optimiser in (("adam/", self.optimiser), ("judge_adam/", self.judge_optimiser)):
                state: dict[int, dict[str, Tensor]] = {}
                for n in (n for n in names if n.startswith(prefix)):
                    _, index, key = n.split("/")
                    state.setdefault(int(index), {})[key] = file.get_tensor(n)
                optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})

    def run_step(self, data: MapSet, weight: Tensor, places: Tensor) -> dict[str, float]:
        """One step of the current stage; `data` has its maps, at least of its resolution."""
        stage, inside = self.stage()
        options = self.options
        rng = torch.Generator().manual_seed(options.seed * 1_000_003 + self.step)
        ids = torch.randint(len(data), (stage.batch,), generator=rng).tolist()
        target = shrink(as_maps(data.images(ids)), stage.resolution)
        z = data.latents[ids] + options.noise * torch.randn(stage.batch, options.spec.latent, generator=rng)
        fade = min(1.0, (inside + 1) / max(1, options.fade * stage.steps)) if stage.adversarial == 0 else 1.0
        warm = min(1.0, (self.step + 1) / 50)
        for group, rate in zip(self.optimiser.param_groups, (options.rate, options.linear_rate), strict=True):
            group["lr"] = rate * warm * self._rate_share()
        loss = reconstruction_loss(self.generator(z, stage.resolution, fade), target,
                                   shrink(weight, stage.resolution), options.band_weight)
        terms = {"reconstruction": loss.item()}
        if stage.adversarial > 0:
            drawn = self.generator(torch.randn(stage.batch, options.spec.latent, generator=rng), stage.resolution)
            limits = (places * stage.resolution).long()
            fake = torch.cat([random_crops(drawn, limits, rng) for _ in range(2)])
            real = torch.cat([random_crops(target, limits, rng) for _ in range(2)])
            loss = loss + stage.adversarial * F.softplus(-self.judge(fake)).mean()
            terms["judge"] = self._train_judge(real, fake.detach())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            decay = min(options.average, (1 + self.step) / (10 + self.step))
            for kept, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        self.step += 1
        return terms

    def _train_judge(self, real: Tensor, fake: Tensor) -> float:
        self.judge_optimiser.zero_grad(set_to_none=True)
        every = 8
        loss = discriminator_loss(self.judge, real, fake, self.options.r1 * every if self.step % every == 0 else 0.0)
        loss.backward()
        self.judge_optimiser.step()
        return loss.item()

    def _rate_share(self) -> float:
        """Cosine from 1 to 0.05 over the whole training."""
        total = sum(s.steps for s in self.options.stages)
        return 0.05 + 0.475 * (1 + float(np.cos(np.pi * min(1.0, self.step / total))))


def with_grain(generator: Generator, path: Path) -> Generator:
    """A copy whose mean map has the skin grain of `dataset.save_grain`, which no average of people shows."""
    finished = copy.deepcopy(generator)
    with np.load(path, allow_pickle=False) as data, torch.no_grad():
        for name in data.files:
            band = finished.band(int(name.removeprefix("grain_")))
            band.maps[0] += torch.from_numpy(data[name]) / band.bias[0]
    return finished


def _starts_right(name: str) -> bool:
    return name.startswith("base") or ".band." in name or name.endswith("places")


def sample_grid(generator: Generator, seed: int, path: Path, columns: int = 8, rows: int = 4, side: int = 256) -> None:
    """A fixed grid of samples as one picture."""
    with torch.no_grad():
        z = generator.sample_latent(columns * rows, seed)
        maps = torch.cat([generator(part, max(side, generator.spec.base_resolution)) for part in z.split(4)])
    picture = maps.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    Image.fromarray((picture.numpy() * 255 + 0.5).astype(np.uint8)).save(path)


def train(options: TrainOptions, report: Callable[[str], None] = print) -> Path:
    """Train to the end or for `options.minutes`; returns the folder with generator, snapshot, log and samples."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    report(json.dumps(asdict(options), default=str, indent=1))
    layout_id = (options.textures / "layout_id.txt").read_text().strip()
    weight = torch.from_numpy(np.load(options.textures / "weight.npy", allow_pickle=False))[None, None].float()
    sets = {r: MapSet(sorted(options.textures.glob(f"maps_{r}*.npy"))) for r in (256, 512)}
    report(f"{len(sets[256])} maps of 256, {len(sets[512])} of 512 texels; layout {layout_id[:12]}")
    training = Training(options, layout_id)
    snapshot, code_path = options.out / "snapshot.safetensors", options.out / "code.safetensors"
    if snapshot.exists():
        code = LinearCode.load(code_path)
        training.load(snapshot)
        report(f"continues at step {training.step}")
    else:
        code = start_from_linear(training, sets, weight, code_path, report)
    for data in sets.values():
        if len(data.latents) == 0:
            data.encode(code)
    _loop(training, sets, weight, snapshot, report)
    return options.out


@torch.no_grad()
def start_from_linear(training: Training, sets: dict[int, MapSet], weight: Tensor, code_path: Path,
                      report: Callable[[str], None]) -> LinearCode:
    """Fit the linear code on all small maps and give it to the generator."""
    spec = training.options.spec
    small, large = sets[256], sets[512]
    images = small.images(range(len(small)))
    code, small.latents = fit_code(images, weight.clamp_min(0.05), spec.latent, spec.base_resolution)
    code.save(code_path)
    below = (spec.base_resolution, *spec.detail_resolutions[:-1])
    initialise(training.generator, small.latents, images, below, leading=96)
    some = large.images(range(min(len(large), 400)))
    initialise(training.generator, code.encode(as_maps(some)), some, spec.detail_resolutions[-1:], leading=8)
    training.average.load_state_dict(training.generator.state_dict())
    report(f"linear code of {len(images)} maps; sigma {code.sigma[0]:.1f} to {code.sigma[-1]:.3f}")
    return code


def _loop(training: Training, sets: dict[int, MapSet], weight: Tensor, snapshot: Path,
          report: Callable[[str], None]) -> None:
    options = training.options
    total, terms = sum(s.steps for s in options.stages), []
    began = last = time.time()
    covered = (weight[0, 0] > 0.3).nonzero().float()
    places = torch.stack((covered.min(0).values, covered.max(0).values)) / weight.shape[-1]
    while training.step < total:
        stage, _ = training.stage()
        terms.append(training.run_step(sets[512 if stage.resolution > 256 else 256], weight, places))
        late = options.minutes and time.time() - began > 60 * options.minutes
        if training.step % options.snapshot_every == 0 or training.step == total or late:
            training.save(snapshot)
            finished = with_grain(training.average, options.textures / "grain.npz")
            save_generator(finished, options.out / "generator.safetensors", {"step": str(training.step)})
            sample_grid(training.average, 7, options.out / f"samples_{training.step:06d}.png")
            mean = {k: round(float(np.mean([t[k] for t in terms if k in t])), 5) for k in terms[-1]}
            line = {"step": training.step, "of": total, "resolution": stage.resolution,
                    "seconds": round((time.time() - last) / len(terms), 3), **mean}
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(json.dumps(line))
            terms, last = [], time.time()
            if late:
                return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `TrainOptions` that are plain values, as command line arguments."""
    for item in fields(TrainOptions):
        if isinstance(item.default, (int, float, Path)):
            parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    parser.add_argument("--dry-run", action="store_true", help="print the options and what would be trained, then stop")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m backend train texture-gan`."""
    parser = argparse.ArgumentParser(prog="python -m backend train texture-gan", description=__doc__)
    add_arguments(parser)
    arguments = vars(parser.parse_args(argv))
    dry = arguments.pop("dry_run")
    options = TrainOptions(**arguments)
    if dry:
        print(json.dumps(asdict(options), default=str, indent=1))
        generator = Generator(options.spec)
        print(f"{sum(p.numel() for p in generator.parameters()) / 1e6:.2f} M parameters, "
              f"{generator.macs() / 1e9:.2f} GMAC a map of {options.spec.resolution} texels")
        return 0
    train(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
