# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the texture generator: `python -m backend train texture-gan`.

The generator is trained as an auto-decoder over a linear model (`linear.py`), growing from 128 to 512 texels: every
map's latent is its whitened linear code, the loss is L1 on the map and on its Laplacian bands, and later stages add an
adversarial term that judges fine structure. Stored maps are mirrored and their pigments changed as they are drawn, so
that no map is seen twice. Above 128 texels hairs and pores cannot be told from a latent: there the energy of the bands
counts more than their place. The deeper features of the face-recognition network that the fit uses judge the face
(perceptual loss, Johnson et al. 2016). Everything a restart needs lies in one snapshot.
"""
from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from backend.errors import GanfitError
from backend.fit.losses import content_distance
from backend.networks.identity import load_identity
from backend.texture.adversary import Discriminator, discriminator_loss, fine_structure, random_crops
from backend.texture.augment import BLOOD, MELANIN
from backend.texture.dataset import training_people
from backend.texture.generator import Generator, GeneratorSpec, save_generator, squash, unsquash
from backend.texture.linear import LinearCode, as_maps, fit_code, initialise, set_grain, shrink


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
    stages: tuple[Stage, ...] = (Stage(128, 300, 4), Stage(256, 500, 2), Stage(256, 900, 2, 0.005),
                                 Stage(512, 900, 1, 0.005))
    reconstruction: float = 1.0
    """Weight of the reconstruction loss; 0 trains a GAN without an auto-decoder, for comparison."""
    pigment: float = 0.08
    """Standard deviation of the change of melanin and blood in every map drawn, log-linear."""
    rate: float = 2e-3
    """Adam's step for layers with equalised learning rate."""
    linear_rate: float = 1e-4
    """Adam's step for the linear base, bands and place maps, which start right."""
    fade: float = 0.25
    """Share of a stage in which its resolution is blended in."""
    band_weight: float = 1.5
    """Weight of the Laplacian bands' L1 beside the map's L1."""
    fine_share: float = 0.25
    """How much of `band_weight` is left for bands above 128 texels, whose details cannot be told from a latent."""
    energy: float = 3.0
    """Weight of the difference in local strength of the bands from 128 texels on."""
    perceptual: float = 0.2
    """Weight of the distance of inner layers of the face-recognition network, on the face; 0 needs no network."""
    noise: float = 0.05
    """Standard deviation of the noise on latents: neighbours of a code look like it."""
    r1: float = 0.2
    """Weight of the penalty on the discriminator's slope at real maps."""
    average: float = 0.995
    """Decay of the generator's running average, which is what is kept."""
    snapshot_every: int = 100
    maps_256: int = 1600
    """How many variations of 256 and of 512 texels are drawn first where `textures` holds plain pictures."""
    maps_512: int = 240
    minutes: float = 0.0
    """Stop (with a snapshot) after this time; 0 trains to the end."""
    spec: GeneratorSpec = field(default_factory=GeneratorSpec)


class MapSet:
    """The training maps of one resolution."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.parts = [np.load(p, mmap_mode="r", allow_pickle=False) for p in paths]
        self.starts = np.cumsum([0] + [len(p) for p in self.parts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def images(self, ids: Sequence[int]) -> Tensor:
        """uint8 (B, R, R, 3)."""
        part = np.searchsorted(self.starts, ids, side="right") - 1
        return torch.from_numpy(np.stack([self.parts[p][i - self.starts[p]] for p, i in zip(part, ids, strict=True)]))


def varied(maps: Tensor, pigment: float, rng: torch.Generator) -> Tensor:
    """Maps (B, 3, R, R), mirrored by chance, with more or less melanin and blood (log-linear deviation `pigment`)."""
    count = len(maps)
    flip = torch.rand(count, generator=rng) < 0.5
    maps = torch.where(flip[:, None, None, None], maps.flip(-1), maps)
    amount = pigment * torch.randn(2, count, 1, generator=rng)
    density = amount[0] * torch.from_numpy(MELANIN) + 0.6 * amount[1] * torch.from_numpy(BLOOD)
    return squash(unsquash(maps) - density[:, :, None, None] / 2.2)


def evenly(target: Tensor) -> Tensor:
    """Factor (B, 1, 1, 1) by which errors on maps (B, 3, R, R) count, so that a dark map's count like a light one's."""
    return 0.5 / (0.15 + target.mean((1, 2, 3), keepdim=True))


def bands(maps: Tensor, count: int = 3) -> list[Tensor]:
    """The `count` finest Laplacian bands of maps (B, 3, R, R), finest first."""
    out = []
    for _ in range(count):
        coarse = F.avg_pool2d(maps, 2)
        out.append(maps - F.interpolate(coarse, scale_factor=2, mode="bilinear"))
        maps = coarse
    return out


def reconstruction_loss(maps: Tensor, target: Tensor, weight: Tensor, band_weight: float,
                        fine_share: float = 1.0) -> Tensor:
    """Weighted L1 of maps (B, 3, R, R) and of their Laplacian bands; those above 128 texels count `fine_share`."""
    scale = evenly(target)
    loss = (scale * weight * (maps - target).abs()).mean()
    for band, wanted in zip(bands(maps), bands(target), strict=True):
        share = band_weight * (fine_share if band.shape[-1] > KNOWABLE else 1.0)
        loss = loss + share * (scale * shrink(weight, band.shape[-1]) * (band - wanted).abs()).mean()
    return loss


KNOWABLE = 128
"""Finest resolution whose details a latent can tell."""


def energy_loss(maps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 between the local root mean squares of the bands from `KNOWABLE` texels on, in luma."""
    loss, scale = maps.new_zeros(()), evenly(target)
    for band, wanted in zip(bands(maps), bands(target), strict=True):
        side = band.shape[-1]
        if side >= KNOWABLE:
            strength = [F.avg_pool2d(b.mean(1, keepdim=True).square(), side // 32).add(1e-6).sqrt()
                        for b in (band, wanted)]
            loss = loss + (scale * shrink(weight, 32) * (strength[0] - strength[1]).abs()).mean()
    return loss


class FaceFeatures:
    """Inner layers of the fit's face-recognition network on the part of a map that looks like a face."""

    ROWS, COLUMNS = (0.22, 0.88), (0.17, 0.83)

    def __init__(self) -> None:
        self.network = load_identity()

    def layers(self, maps: Tensor) -> list[Tensor]:
        """Activations of maps (B, 3, R, R)."""
        side = maps.shape[-1]
        rows, columns = (slice(int(a * side), int(b * side)) for a, b in (self.ROWS, self.COLUMNS))
        size = self.network.chip_size
        return self.network(F.interpolate(maps[:, :, rows, columns], (size, size), mode="area"
                                          if side >= 256 else "bilinear"))[1]

    def distance(self, maps: Tensor, target: Tensor) -> Tensor:
        """Content distance of two sets of maps."""
        with torch.no_grad():
            wanted = self.layers(target)
        return content_distance(wanted, self.layers(maps)).mean()


class Training:
    """Generator, its running average, discriminator, optimisers and the step: what a snapshot holds."""

    def __init__(self, options: TrainOptions, layout_id: str) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.generator = Generator(options.spec, layout_id)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.judge = Discriminator()
        for name, parameter in self.generator.named_parameters():
            if name.endswith("grain"):  # a loss would only wash it out: it is fitted (`fit_grain`)
                parameter.requires_grad_(False)
        trained = [(n, p) for n, p in self.generator.named_parameters() if p.requires_grad]
        linear = [p for n, p in trained if _starts_right(n)]
        layers = [p for n, p in trained if not _starts_right(n)]
        self.optimiser = torch.optim.Adam([{"params": layers, "lr": options.rate},
                                           {"params": linear, "lr": options.linear_rate}], betas=(0.0, 0.99))
        self.judge_optimiser = torch.optim.Adam(self.judge.parameters(), lr=options.rate, betas=(0.0, 0.99))
        self.features = FaceFeatures() if options.perceptual and options.reconstruction else None
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

    def run_step(self, data: MapSet, code: LinearCode, weight: Tensor, places: Tensor) -> dict[str, float]:
        """One step of the current stage; `data` has its maps, at least of its resolution."""
        stage, inside = self.stage()
        options = self.options
        rng = torch.Generator().manual_seed(options.seed * 1_000_003 + self.step)
        ids = torch.randint(len(data), (stage.batch,), generator=rng).tolist()
        whole = varied(as_maps(data.images(ids)), options.pigment, rng)
        target = shrink(whole, stage.resolution)
        prior = torch.randn(stage.batch, options.spec.latent, generator=rng)
        z = code.encode(whole) + options.noise * prior if options.reconstruction else prior
        first = not any(s.resolution == stage.resolution for s in options.stages[:options.stages.index(stage)])
        fade = min(1.0, (inside + 1) / max(1, options.fade * stage.steps)) if first else 1.0
        warm = min(1.0, (self.step + 1) / 50)
        for group, rate in zip(self.optimiser.param_groups, (options.rate, options.linear_rate), strict=True):
            group["lr"] = rate * warm * self._rate_share()
        drawn = self.generator(z, stage.resolution, fade)
        loss = torch.zeros(())
        terms = {}
        if options.reconstruction:
            known = shrink(weight, stage.resolution)
            loss = options.reconstruction * reconstruction_loss(drawn, target, known, options.band_weight,
                                                                options.fine_share)
            terms["reconstruction"] = loss.item()
            if options.energy and stage.resolution >= KNOWABLE:
                strength = energy_loss(drawn, target, known)
                loss = loss + options.energy * strength
                terms["energy"] = strength.item()
            if self.features is not None:
                look = self.features.distance(drawn, target)
                loss = loss + options.perceptual * look
                terms["perceptual"] = look.item()
        if stage.adversarial > 0:
            limits = (places * stage.resolution).long()
            if options.reconstruction and self.step % 2:
                drawn = self.generator(prior, stage.resolution)
            view = fine_structure if options.reconstruction else (lambda maps: 2 * maps - 1)
            fake = torch.cat([random_crops(view(drawn), limits, rng) for _ in range(2)])
            real = torch.cat([random_crops(view(target), limits, rng) for _ in range(2)])
            fooled = F.softplus(-self.judge(fake)).mean()
            loss = loss + stage.adversarial * fooled
            terms |= {"fooled": fooled.item(), "judge": self._train_judge(real, fake.detach())}
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


def _starts_right(name: str) -> bool:
    return name.startswith("base") or ".band." in name or name.endswith("places")


def sample_grid(generator: Generator, seed: int, path: Path, columns: int = 8, rows: int = 4, side: int = 256) -> None:
    """A fixed grid of samples as one picture."""
    with torch.no_grad():
        z = generator.sample_latent(columns * rows, seed)
        maps = torch.cat([generator(part, max(side, generator.spec.base_resolution)) for part in z.split(4)])
    picture = maps.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    Image.fromarray((picture.numpy() * 255 + 0.5).astype(np.uint8)).save(path)


def plot_losses(log: Path, path: Path, size: tuple[int, int] = (960, 480)) -> None:
    """Draw every term of a training's log over its steps, each from 0 to its largest value; lines mark stages."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    last = max(line["step"] for line in lines)
    for before, after in zip(lines, lines[1:], strict=False):
        if before["resolution"] != after["resolution"]:
            x = before["step"] / last * size[0]
            draw.line(((x, 0), (x, size[1])), fill="lightgrey")
            draw.text((x + 3, size[1] - 14), str(after["resolution"]), fill="grey")
    for row, (name, colour) in enumerate((
            ("reconstruction", "black"), ("perceptual", "green"), ("energy", "orange"), ("fooled", "red"),
            ("judge", "blue"))):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            most = max(y for _, y in points) or 1.0
            draw.line([(x / last * size[0], size[1] * (1 - 0.95 * y / most)) for x, y in points], fill=colour, width=2)
            draw.text((8, 8 + 14 * row), f"{name}: last {points[-1][1]:.4f}, top {most:.4f}", fill=colour)
    picture.save(path)


def train(options: TrainOptions, report: Callable[[str], None] = print) -> Path:
    """Train to the end or for `options.minutes`; returns the folder with generator, snapshot, log and samples."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "options.json").write_text(json.dumps(asdict(options), default=str, indent=1))
    report(json.dumps(asdict(options), default=str, indent=1))
    options = with_prepared_maps(options, report)
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
    _loop(training, sets, code, weight, snapshot, report)
    return options.out


def with_prepared_maps(options: TrainOptions, report: Callable[[str], None]) -> TrainOptions:
    """Options whose `textures` is a prepared set: a folder of plain pictures is turned into one beside the training."""
    if (options.textures / "weight.npy").exists() or not options.textures.is_dir():
        return options
    from backend.texture.dataset import build

    prepared = options.out / "set"
    report(json.dumps(build(prepared, options.maps_256, options.maps_512, options.seed, options.threads,
                            pictures=options.textures)))
    return replace(options, textures=prepared)


@torch.no_grad()
def start_from_linear(training: Training, sets: dict[int, MapSet], weight: Tensor, code_path: Path,
                      report: Callable[[str], None]) -> LinearCode:
    """Fit the linear code on all small maps and give it to the generator."""
    spec, folder = training.options.spec, training.options.textures
    small, large = sets[256], sets[512]
    images = small.images(range(len(small)))
    code, latents = fit_code(images, weight.clamp_min(0.05), spec.latent, spec.base_resolution)
    code.save(code_path)
    sizes = (spec.base_resolution, *spec.detail_resolutions)
    most = dict(zip(sizes, (spec.latent, spec.latent, spec.latent, 160, 40), strict=True))
    initialise(training.generator, latents, images, weight, {r: most[r] for r in sizes if r <= 256})
    some = large.images(range(min(len(large), 400)))
    large_latents = torch.cat([code.encode(as_maps(part)) for part in some.split(32)])
    initialise(training.generator, large_latents, some, weight,
               {r: min(most[r], len(some) // 4) for r in sizes if r > 256})
    fit_grain(training.generator, code, folder)
    training.average.load_state_dict(training.generator.state_dict())
    report(f"linear code of {len(images)} maps; sigma {code.sigma[0]:.1f} to {code.sigma[-1]:.3f}")
    return code


@torch.no_grad()
def fit_grain(generator: Generator, code: LinearCode, folder: Path) -> None:
    """Make the grain as strong as on the real people of a set, given all else that the generator draws."""
    with np.load(folder / "grain.npz", allow_pickle=False) as grain:
        for r in (256, 512):
            people = training_people(folder, r)
            images = torch.from_numpy(np.stack([(p.albedo * 255 + 0.5).astype(np.uint8) for p in people]))
            valid = torch.from_numpy(np.stack([p.valid for p in people]))[:, None]
            latents = torch.cat([code.encode(as_maps(part)) for part in images.split(32)])
            set_grain(generator, latents, images, valid, r, torch.from_numpy(grain[f"grain_{r}"]))


def _loop(training: Training, sets: dict[int, MapSet], code: LinearCode, weight: Tensor, snapshot: Path,
          report: Callable[[str], None]) -> None:
    options = training.options
    total, terms = sum(s.steps for s in options.stages), []
    began = last = time.time()
    covered = (weight[0, 0] > 0.3).nonzero().float()
    places = torch.stack((covered.min(0).values, covered.max(0).values)) / weight.shape[-1]
    while training.step < total:
        stage, _ = training.stage()
        terms.append(training.run_step(sets[512 if stage.resolution > 256 else 256], code, weight, places))
        late = options.minutes and time.time() - began > 60 * options.minutes
        if training.step % options.snapshot_every == 0 or training.step == total or late:
            training.save(snapshot)
            if training.step == total:
                fit_grain(training.average, code, options.textures)
            save_generator(training.average, options.out / "generator.safetensors",
                           {"step": str(training.step), "options": json.dumps(asdict(options), default=str)})
            sample_grid(training.average, 7, options.out / f"samples_{training.step:06d}.png")
            mean = {k: round(float(np.mean([t[k] for t in terms if k in t])), 5) for k in terms[-1]}
            line = {"step": training.step, "of": total, "resolution": stage.resolution,
                    "seconds": round((time.time() - last) / len(terms), 3), **mean}
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            plot_losses(options.out / "log.jsonl", options.out / "losses.png")
            report(json.dumps(line))
            terms, last = [], time.time()
            if late:
                return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `TrainOptions` that are plain values, as command line arguments."""
    for item in fields(TrainOptions):
        if isinstance(item.default, (int, float, Path)):
            parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=None,
                                help=f"default {item.default}")
    parser.add_argument("--options", type=Path, help="a JSON file of options, as training writes it; flags win over it")
    parser.add_argument("--dry-run", action="store_true", help="print the options and what would be trained, then stop")


def read_options(path: Path | None, **flags: object) -> TrainOptions:
    """Options of a JSON file, where there is one, with `flags` that are not None over them. Raises GanfitError."""
    values: dict = {}
    if path is not None:
        try:
            values = json.loads(path.read_text())
            if "stages" in values:
                values["stages"] = tuple(Stage(**s) for s in values["stages"])
            if "spec" in values:
                values["spec"] = GeneratorSpec(**{k: tuple(v) if isinstance(v, list) else v
                                                  for k, v in values["spec"].items()})
            values |= {name: Path(values[name]) for name in ("textures", "out") if name in values}
            TrainOptions(**values)
        except (OSError, ValueError, TypeError) as error:
            raise GanfitError("bad_option", f"{path} holds no training options ({error}).") from error
    return TrainOptions(**values | {k: v for k, v in flags.items() if v is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m backend train texture-gan`."""
    parser = argparse.ArgumentParser(prog="python -m backend train texture-gan", description=__doc__)
    add_arguments(parser)
    arguments = vars(parser.parse_args(argv))
    dry, path = arguments.pop("dry_run"), arguments.pop("options")
    options = read_options(path, **arguments)
    if dry:
        print(json.dumps(asdict(options), default=str, indent=1))
        generator = Generator(options.spec)
        print(f"{sum(p.numel() for p in generator.parameters()) / 1e6:.2f} M parameters, "
              f"{generator.macs() / 1e9:.2f} GMAC a map of {options.spec.resolution} texels, "
              f"{sum(s.steps for s in options.stages)} steps")
        return 0
    train(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
