# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the training set: `python -m backend train textures --shared DATA --out FOLDER`.

Bakes the people of the developer data folder into our UV layout (`data.py`), sets the held-out ones aside and draws
varied maps from the others (`augment.py`). The folder it leaves is what `python -m backend train texture-gan` reads.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from backend.texture.augment import Augmenter
from backend.texture.data import SkinLayout, SourceMap, decode, encode, load_sources, name_hash
from backend.texture.linear import raw_band
from backend.texture.uvmap import area_down

SIZE = 512
GRAIN_PERSON = "White_F_1"
"""Photographed pores without stubble, of middling strength."""


def save_sources(layout: SkinLayout, shared: Path, path: Path) -> None:
    """Bake all people and keep maps, masks and regions as one npz."""
    texels = layout.texels(SIZE)
    regions = layout.region_maps(texels)
    people = list(load_sources(layout, shared, SIZE))
    np.savez(path, albedo=np.stack([(p.albedo * 255 + 0.5).astype(np.uint8) for p in people]),
             valid=np.stack([(p.valid * 255).astype(np.uint8) for p in people]),
             names=np.array([p.name for p in people]), origin=np.array([p.origin for p in people]),
             covered=texels.covered, layout_id=np.array(layout.layout_id),
             **{f"region_{n}": (m * 255 + 0.5).astype(np.uint8) for n, m in regions.items()})


def read_sources(path: Path, resolution: int = SIZE) -> tuple[list[SourceMap], dict[str, np.ndarray], np.ndarray]:
    """People, region masks (R, R) and coverage (R, R) of `save_sources`, at a power-of-two share of its resolution."""
    factor = SIZE // resolution
    with np.load(path, allow_pickle=False) as data:
        people = []
        columns = (data[key] for key in ("names", "origin", "albedo", "valid"))
        for name, origin, albedo, valid in zip(*columns, strict=True):
            small = encode(area_down(decode(albedo.astype(np.float32) / 255), factor))
            people.append(SourceMap(str(name), str(origin), small, area_down(valid.astype(np.float32) / 255, factor)))
        regions = {n.removeprefix("region_"): area_down(data[n].astype(np.float32) / 255, factor)
                   for n in data.files if n.startswith("region_")}
        return people, regions, area_down(data["covered"].astype(np.float32), factor)


def texel_weight(regions: dict[str, np.ndarray], covered: np.ndarray) -> np.ndarray:
    """How much each texel (R, R) counts in a training: the face most, hidden parts and the margin little."""
    hidden = np.clip(regions["socket"] + regions["mouth_bag"], 0, 1)
    fine = np.clip(regions["brow"] + regions["eyes"] + regions["lips"] + regions["nose"], 0, 1)
    weight = 0.08 + covered * (0.32 + 0.6 * np.clip(regions["face"] + 0.5 * regions["forehead"], 0, 1) + 0.5 * fine)
    return (weight * (1 - 0.7 * hidden)).astype(np.float32)


def save_grain(sources: Path, path: Path) -> None:
    """Pores and fine lines of one person's smooth skin, raw left halves (3, R, R/2) at 256 and 512 texels.

    Averages over people have none; a generator is given these once, so that its skin is not plastic.
    """
    people, regions, _ = read_sources(sources)
    person = next(p for p in people if p.name == GRAIN_PERSON)
    names = ("brow", "eyes", "lips", "nostril", "socket", "mouth_bag", "ear_left", "ear_right")
    features = sum(regions[n] for n in names)
    smooth = ndimage.gaussian_filter((ndimage.maximum_filter(features, 9) < 0.05).astype(np.float32), 3)
    maps = torch.from_numpy(person.albedo).permute(2, 0, 1)[None]
    grain = {}
    for side in (256, 512):
        band = raw_band(maps, side)[0].mean(0).numpy() * area_down(smooth, SIZE // side)
        limit = 3 * band[area_down(regions["cheek"], SIZE // side) > 0.3].std()
        grain[f"grain_{side}"] = np.repeat(band.clip(-limit, limit)[None, :, :side // 2], 3, 0).astype(np.float32)
    np.savez(path, **grain)


def draw_maps(sources: Path, resolution: int, count: int, seed: int, path: Path) -> None:
    """Write `count` varied maps of the training people, uint8 (N, R, R, 3)."""
    people, regions, _ = read_sources(sources, resolution)
    augmenter = Augmenter([p for p in people if not p.held_out], regions)
    partial = path.with_suffix(".partial")
    maps = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, resolution, resolution, 3))
    for i in range(count):
        maps[i] = augmenter.draw(seed + i)
    maps.flush()
    partial.replace(path)


def save_held_out(sources: Path, path: Path) -> list[str]:
    """Keep the held-out people's maps, and what their figures need, for `backend.texture.evaluate`."""
    people, regions, covered = read_sources(sources)
    held = [p for p in people if p.held_out]
    mean = encode(np.mean([decode(p.albedo) for p in people if not p.held_out], 0))
    np.savez(path, albedo=np.stack([(p.albedo * 255 + 0.5).astype(np.uint8) for p in held]),
             valid=np.stack([(p.valid * 255).astype(np.uint8) for p in held]), names=np.array([p.name for p in held]),
             chart=texel_weight(regions, covered), mean=(mean * 255 + 0.5).astype(np.uint8),
             cheek_64=area_down(regions["cheek"], SIZE // 64) > 0.4)
    return [p.name for p in held]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m backend train textures`."""
    parser = argparse.ArgumentParser(prog="python -m backend train textures", description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with avatars/ and skins/")
    parser.add_argument("--out", type=Path, default=Path("textures"))
    parser.add_argument("--maps-256", type=int, default=2400)
    parser.add_argument("--maps-512", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    sources = options.out / "sources.npz"
    if not sources.exists():
        from backend.head.model import load_head

        save_sources(SkinLayout.of(load_head()), options.shared, sources)
    held = save_held_out(sources, options.out / "held_out.npz")
    save_grain(sources, options.out / "grain.npz")
    people, regions, covered = read_sources(sources)
    np.save(options.out / "weight.npy", texel_weight(regions, covered))
    with np.load(sources, allow_pickle=False) as data:
        (options.out / "layout_id.txt").write_text(str(data["layout_id"]))
    jobs = []
    with ProcessPoolExecutor(options.workers) as pool:
        for resolution, count in ((256, options.maps_256), (512, options.maps_512)):
            share = -(-count // options.workers)
            for w in range(options.workers):
                path = options.out / f"maps_{resolution}_{w}.npy"
                if share and not path.exists():
                    seed = options.seed + resolution * 1_000_000 + w * 100_000
                    jobs.append(pool.submit(draw_maps, sources, resolution, share, seed, path))
        for job in jobs:
            job.result()
    counts = {o: sum(p.origin == o for p in people) for o in sorted({p.origin for p in people})}
    print(json.dumps({"people": counts, "held_out": held, "maps_256": options.maps_256, "maps_512": options.maps_512}))
    (options.out / "split.json").write_text(json.dumps({"held_out": {n: name_hash(n) for n in held}}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
