# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a texture generator is: `python -m backend.texture.evaluate GENERATOR --held-out FILE`.

Held-out maps are reconstructed by descent on the latent and compared, on valid texels, with the mean map and with the
linear model alone; samples of the prior are compared with each other. Pictures go beside the figures.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.texture.data import decode
from backend.texture.generator import Generator, load_generator
from backend.texture.linear import LinearCode, shrink
from backend.texture.train import sample_grid


def invert(generator: Generator, target: Tensor, weight: Tensor, steps: int = 150, rate: float = 0.05,
           prior: float = 2e-5, resolutions: Sequence[int] = (128, 256, 512)) -> Tensor:
    """Latents (B, L) whose maps are nearest to `target` (B, 3, R, R) where `weight` (B, 1, R, R) is positive.

    Starts from the closed form of the linear base; L1 on map and fine structure, `prior` on the latent's square.
    """
    z = generator.solve_latent(target, weight).requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr=rate)
    for resolution in resolutions:
        small, known = shrink(target * weight, resolution), shrink(weight, resolution)
        small = small / known.clamp_min(1e-3)
        for i in range(steps // len(resolutions)):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - 0.7 * i * len(resolutions) / steps)
            maps = generator(z, resolution)
            error = known * (maps - small)
            fine = error - torch.nn.functional.avg_pool2d(error, 5, 1, 2)
            loss = error.abs().mean() + fine.abs().mean() + prior * z.square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return z.detach()


def masked_error(maps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 (B,) over texels weighted by `weight` (B, 1, R, R)."""
    return ((maps - target).abs() * weight).sum((1, 2, 3)) / (3 * weight.sum((1, 2, 3)))


def sharpness(maps: Tensor, weight: Tensor) -> Tensor:
    """Mean square (B,) of what a 5 x 5 mean takes away, on `weight`."""
    fine = maps - torch.nn.functional.avg_pool2d(maps, 5, 1, 2)
    return (fine.square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def skin_angle(maps: np.ndarray, cheek: np.ndarray) -> np.ndarray:
    """Individual typology angle (B,) in degrees of the cheeks' mean colour; maps (B, R, R, 3) sRGB, cheek (R, R) bool.

    ITA = atan2(L* - 50, b*) (Chardon et al. 1991): above 55 very light, below -30 dark.
    """
    linear = decode(maps[:, cheek]).mean(1)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.degrees(np.arctan2(116 * f[:, 1] - 16 - 50, 200 * (f[:, 1] - f[:, 2])))


@torch.no_grad()
def diversity(generator: Generator, count: int, seed: int, weight: Tensor, cheek: np.ndarray) -> dict[str, float]:
    """Nearest-neighbour L1 among samples, their spread of skin tone and their asymmetry, at 64 texels."""
    z = generator.sample_latent(count, seed)
    maps = torch.cat([generator(part, 64) for part in z.split(20)])
    known = shrink(weight, 64)[0]
    flat = (maps * known).flatten(1)
    distance = torch.cdist(flat, flat, p=1) / (3 * known.sum())
    distance.fill_diagonal_(np.inf)
    ita = skin_angle(maps.permute(0, 2, 3, 1).numpy(), cheek)
    asymmetry = ((maps - maps.flip(-1)).abs() * known).sum((1, 2, 3)) / (3 * known.sum())
    return {"nearest_l1": float(distance.min(1).values.mean()), "ita_p5": float(np.percentile(ita, 5)),
            "ita_p50": float(np.median(ita)), "ita_p95": float(np.percentile(ita, 95)),
            "asymmetry_l1": float(asymmetry.mean())}


def evaluate(generator: Generator, names: Sequence[str], target: Tensor, valid: Tensor, chart: Tensor,
             mean_map: Tensor, code: LinearCode | None, cheek: np.ndarray, out: Path) -> dict:
    """Figures and pictures of held-out maps (B, 3, R, R), valid in (B, 1, R, R); `chart` (1, 1, R, R) weighs texels."""
    weight = valid * (chart > 0.3)
    z = invert(generator, target, weight)
    with torch.no_grad():
        maps = torch.cat([generator(part) for part in z.split(1)])
        small, known = shrink(target, 128), shrink(weight, 128)
        rows = {"l1": masked_error(maps, target, weight), "l1_mean_map": masked_error(mean_map, target, weight),
                "l1_128": masked_error(shrink(maps, 128), small, known),
                "sharpness_ratio": sharpness(maps, weight) / sharpness(target, weight),
                "latent_rms": z.square().mean(1).sqrt()}
        if code is not None:
            rows["l1_128_pca512"] = masked_error(code.decode(code.encode(target)), small, known)
    figures = {"people": list(names), **{k: [round(float(x), 5) for x in v] for k, v in rows.items()}}
    figures["closer_than_mean"] = round(1 - float(rows["l1"].mean() / rows["l1_mean_map"].mean()), 4)
    figures["gmac_512"] = round(generator.macs() / 1e9, 3)
    figures["samples"] = diversity(generator, 100, 3, chart, cheek)
    picture = torch.cat([torch.cat(list(part), 2) for part in (target, maps)], 1)
    Image.fromarray((picture.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)).save(out / "reconstructions.png")
    sample_grid(generator, 7, out / "samples.png", side=256)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m backend.texture.evaluate", description=__doc__)
    parser.add_argument("generator", type=Path, nargs="?", help="a .safetensors file; default: the one that is shipped")
    parser.add_argument("--held-out", type=Path, required=True, help="held_out.npz of the training set")
    parser.add_argument("--code", type=Path, help="code.safetensors of the training, for the linear model's figures")
    parser.add_argument("--out", type=Path, default=Path("."))
    arguments = parser.parse_args(argv)
    generator = load_generator(arguments.generator)
    with np.load(arguments.held_out, allow_pickle=False) as data:
        target = torch.from_numpy(data["albedo"]).permute(0, 3, 1, 2).float() / 255
        valid = torch.from_numpy(data["valid"])[:, None].float() / 255
        chart = torch.from_numpy(data["chart"])[None, None].float()
        mean_map = torch.from_numpy(data["mean"]).permute(2, 0, 1)[None].float() / 255
        cheek, names = data["cheek_64"], [str(n) for n in data["names"]]
    code = LinearCode.load(arguments.code) if arguments.code else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(evaluate(generator, names, target, valid, chart, mean_map, code, cheek, arguments.out), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
