# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the training set: `python -m backend train textures --shared DATA --out FOLDER`.

Bakes the people of the developer data folder into our UV layout (`data.py`), reads portrait photographs
(`portraits.py`), sets the held-out ones aside and draws varied maps from the others (`augment.py`). Pictures of one's
own in our layout take the place of all these with `--pictures`. The folder it leaves is what
`python -m backend train texture-gan` reads. A build that was stopped goes on where it was.
"""
from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from backend.errors import GanfitError
from backend.texture.augment import Augmenter
from backend.texture.data import SkinLayout, SourceMap, decode, encode, load_sources, name_hash
from backend.texture.linear import raw_band
from backend.texture.uvmap import area_down

if TYPE_CHECKING:
    from backend.texture.portraits import Workshop

SIZE = 512
GRAIN_PERSON = "White_F_1"
"""Photographed pores without stubble, of middling strength."""
HELD_OUT_PORTRAITS = Path(__file__).with_name("held_out_portraits.txt")
"""Hashes of the file names (without ending) of portraits that no training may see."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def save_maps(path: Path, people: Sequence[SourceMap], **more: np.ndarray) -> None:
    """Keep people's maps and masks as one npz, written in one move."""
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.savez(file, albedo=np.stack([(p.albedo * 255 + 0.5).astype(np.uint8) for p in people]),
                 valid=np.stack([(p.valid * 255).astype(np.uint8) for p in people]),
                 names=np.array([p.name for p in people]), origin=np.array([p.origin for p in people]), **more)
    os.replace(temporary, path)


def save_sources(layout: SkinLayout, people: Sequence[SourceMap], path: Path) -> None:
    """Keep people's maps, and the layout's masks with them."""
    texels = layout.texels(SIZE)
    regions = {f"region_{n}": (m * 255 + 0.5).astype(np.uint8) for n, m in layout.region_maps(texels).items()}
    save_maps(path, people, covered=texels.covered, layout_id=np.array(layout.layout_id), **regions)


def read_maps(path: Path, resolution: int) -> list[SourceMap]:
    """People of `save_maps` at a power-of-two share of their resolution."""
    with np.load(path, allow_pickle=False) as data:
        albedos, valids = data["albedo"], data["valid"]
        factor = max(1, albedos.shape[1] // resolution)
        linear = decode(np.arange(256) / 255)
        people = []
        for name, origin, albedo, valid in zip(data["names"], data["origin"], albedos, valids, strict=True):
            small = encode(area_down(linear[albedo], factor)) if factor > 1 else albedo.astype(np.float32) / 255
            people.append(SourceMap(str(name), str(origin), small, area_down(valid.astype(np.float32) / 255, factor)))
    return people


def read_layout(path: Path, resolution: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Region masks (R, R) and coverage (R, R) of `save_sources`."""
    with np.load(path, allow_pickle=False) as data:
        factor = SIZE // resolution
        regions = {n.removeprefix("region_"): area_down(data[n].astype(np.float32) / 255, factor)
                   for n in data.files if n.startswith("region_")}
        return regions, area_down(data["covered"].astype(np.float32), factor)


def texel_weight(regions: dict[str, np.ndarray], covered: np.ndarray) -> np.ndarray:
    """How much each texel (R, R) counts in a training: the face most, hidden parts and the margin little."""
    hidden = np.clip(regions["socket"] + regions["mouth_bag"], 0, 1)
    fine = np.clip(regions["brow"] + regions["eyes"] + regions["lips"] + regions["nose"], 0, 1)
    weight = 0.08 + covered * (0.32 + 0.6 * np.clip(regions["face"] + 0.5 * regions["forehead"], 0, 1) + 0.5 * fine)
    return (weight * (1 - 0.7 * hidden)).astype(np.float32)


def save_grain(folder: Path) -> None:
    """What sets one person's fine detail apart from the usual, with standard deviation 1 everywhere, (R, R).

    At 256 and 512 texels. Pores, fine lines, single hairs of brows and lashes: averages over people have none; a
    generator is given these, so that its skin is not plastic.
    """
    regions, _ = read_layout(folder / "sources.npz", SIZE)
    people = [p for p in read_maps(folder / "sources.npz", SIZE) if not p.held_out]
    person = next((p for p in people if p.name == GRAIN_PERSON), people[0])
    inside = sum(regions[n] for n in ("nostril", "socket", "mouth_bag"))
    outside = ndimage.gaussian_filter((ndimage.maximum_filter(inside, 5) < 0.05).astype(np.float32), 2)
    albedo = torch.from_numpy(np.stack([p.albedo for p in people])).permute(0, 3, 1, 2)
    own = people.index(person)
    grain = {}
    for side in (256, 512):
        bands = torch.cat([raw_band(part, side).mean(1) for part in albedo.split(4)])
        usual = bands.mean(0) if len(people) > MANY else torch.zeros_like(bands[0])
        band = (bands[own] - usual).numpy()
        band = band - ndimage.gaussian_filter(band, 4)
        local = np.sqrt(ndimage.gaussian_filter(band**2, side / 64)) + 1e-4
        grain[f"grain_{side}"] = (band / local).clip(-3, 3) * area_down(outside, SIZE // side)
    np.savez(folder / "grain.npz", **{k: v.astype(np.float32) for k, v in grain.items()})


MANY = 4
"""From so many people on, what they share is told from what one of them has."""


# ------------------------------------------------------------------------------------------------------------ portraits
def read_portraits(photos: Sequence[Path], sources: Path, folder: Path, worker: int, workers: int) -> None:
    """One worker's share of the portraits, see `portraits.read_portraits`."""
    from backend.texture import portraits

    torch.set_num_threads(1)
    portraits.read_portraits(_workshop(sources, networks=True), photos[worker::workers], folder)


def _workshop(sources: Path, networks: bool) -> Workshop:
    from backend.fit.person import Person
    from backend.head.model import load_head
    from backend.networks.detector import FaceDetector
    from backend.networks.landmarks import load_landmarks
    from backend.render.raster import get_rasterizer
    from backend.texture.generator import load_generator
    from backend.texture.portraits import SIZE as PORTRAIT_SIZE
    from backend.texture.portraits import Workshop

    person = Person(load_head(), load_generator(), get_rasterizer())
    better = [p for p in read_maps(sources, PORTRAIT_SIZE) if not p.held_out]
    if networks:
        return Workshop(person, better, FaceDetector(), load_landmarks("mediapipe"))
    return Workshop(person, better)


def finish_portraits(folder: Path, sources: Path, out: Path) -> Counter:
    """Mask and complete the portraits in `folder`: training maps of 512 texels, held-out ones of 256; counts."""
    from backend.texture.portraits import Portrait, Rejected, fine_bands, finish, with_detail

    shop = _workshop(sources, networks=False)
    secret = set(HELD_OUT_PORTRAITS.read_text().split())
    regions, _ = read_layout(sources, SIZE)
    donors = [p for p in read_maps(sources, SIZE) if not p.held_out and p.origin == "avatar"]
    bands = fine_bands(donors, regions)
    features = np.clip(sum(regions[n] for n in ("brow", "eyes", "lips", "nostril")), 0, 1)
    files = sorted(folder.glob("*.npz"))
    portraits = [Portrait.load(f) for f in files]
    usual = np.median([p.photo_tone for p in portraits], 0)
    counts = Counter(f"rejected: {f.read_text()}" for f in folder.glob("*.rejected"))
    train, held = [], []
    for file, portrait in zip(files, portraits, strict=True):
        try:
            person = finish(shop, portrait, file.stem, usual)
        except Rejected as reason:
            counts[f"rejected: {reason.rule}"] += 1
            continue
        if name_hash(file.stem) in secret:
            held.append(person)
        else:
            train.append(with_detail(person, bands[int(name_hash(file.stem), 16) % len(bands)], features))
    save_maps(out / "portraits.npz", train)
    save_maps(out / "held_out_portraits.npz", held)
    return counts + Counter({"used": len(train), "held out": len(held)})


# -------------------------------------------------------------------------------------------------------------- drawing
def draw_maps(folder: Path, resolution: int, count: int, seed: int, path: Path) -> None:
    """Write `count` varied maps of the training people, uint8 (N, R, R, 3)."""
    torch.set_num_threads(1)
    regions, _ = read_layout(folder / "sources.npz", resolution)
    augmenter = Augmenter(training_people(folder, resolution), regions)
    partial = path.with_suffix(".partial")
    maps = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, resolution, resolution, 3))
    for i in range(count):
        maps[i] = augmenter.draw(seed + i)
    maps.flush()
    partial.replace(path)


def training_people(folder: Path, resolution: int) -> list[SourceMap]:
    """Everybody in a set who is not held out; portraits show nothing of their own above 256 texels."""
    people = [p for p in read_maps(folder / "sources.npz", resolution) if not p.held_out]
    portraits = folder / "portraits.npz"
    return people + (read_maps(portraits, resolution) if portraits.exists() and resolution <= 256 else [])


def save_held_out(folder: Path) -> list[str]:
    """Keep the held-out people's maps, and what their figures need, for the benchmark."""
    people = read_maps(folder / "sources.npz", SIZE)
    regions, covered = read_layout(folder / "sources.npz", SIZE)
    held = [p for p in people if p.held_out]
    mean = encode(np.mean([decode(p.albedo) for p in people if not p.held_out], 0))
    if held:
        save_maps(folder / "held_out.npz", held, chart=texel_weight(regions, covered),
                  mean=(mean * 255 + 0.5).astype(np.uint8), cheek_64=area_down(regions["cheek"], SIZE // 64) > 0.4)
    return [p.name for p in held]


def pictures_as_people(folder: Path) -> list[SourceMap]:
    """A user's own maps: square pictures in our UV layout, at least 512 texels a side. Raises GanfitError."""
    people = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        with Image.open(path) as image:
            if image.width != image.height or image.width < SIZE:
                size = f"{image.width}x{image.height}"
                raise GanfitError("bad_texture", f"{path.name} is {size} pixels, not a square map of {SIZE} or more.",
                                  hint=f"Bake the albedo into the head's UV layout at {SIZE}x{SIZE} or more.")
            small = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
        people.append(SourceMap(path.stem, "picture", small, np.ones((SIZE, SIZE), np.float32)))
    if not people:
        raise GanfitError("bad_texture", f"There are neither prepared maps nor pictures in {folder}.",
                          hint="Give a folder of square PNG or JPEG albedo maps in the head's UV layout.")
    return people


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m backend train textures`."""
    parser = argparse.ArgumentParser(prog="python -m backend train textures", description=__doc__)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--shared", type=Path, help="folder with avatars/, skins/ and, where there is one, portraits/")
    origin.add_argument("--pictures", type=Path, help="folder of your own square albedo maps in the head's UV layout")
    parser.add_argument("--out", type=Path, default=Path("textures"))
    parser.add_argument("--maps-256", type=int, default=2400)
    parser.add_argument("--maps-512", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    print(json.dumps(build(**vars(options)), indent=1))
    return 0


def build(out: Path, maps_256: int, maps_512: int, seed: int = 0, workers: int = 2, shared: Path | None = None,
          pictures: Path | None = None) -> dict:
    """Build a set in the folder `out` from `shared` data or one's own `pictures`; returns its counts."""
    out.mkdir(parents=True, exist_ok=True)
    sources = out / "sources.npz"
    if not sources.exists():
        from backend.head.model import load_head

        layout = SkinLayout.of(load_head())
        people = list(load_sources(layout, shared, SIZE)) if shared else pictures_as_people(pictures)
        save_sources(layout, people, sources)
    people = read_maps(sources, 64)
    report: dict = {"people": dict(Counter(p.origin for p in people)), "held_out": save_held_out(out)}
    save_grain(out)
    regions, covered = read_layout(sources, SIZE)
    np.save(out / "weight.npy", texel_weight(regions, covered))
    with np.load(sources, allow_pickle=False) as data:
        (out / "layout_id.txt").write_text(str(data["layout_id"]))
    with ProcessPoolExecutor(workers) as pool:
        photos = sorted((shared / "portraits").glob("*.jpg")) if shared else []
        if photos and not (out / "portraits.npz").exists():
            for share in [pool.submit(read_portraits, photos, sources, out / "portraits", w, workers)
                          for w in range(workers)]:
                share.result()
            counts = pool.submit(finish_portraits, out / "portraits", sources, out).result()
            (out / "portraits.json").write_text(json.dumps(counts, indent=1))
        jobs = []
        for resolution, count in ((256, maps_256), (512, maps_512)):
            share_of = -(-count // workers)
            for w in range(workers):
                path = out / f"maps_{resolution}_{w}.npy"
                if share_of and not path.exists():
                    first = seed + resolution * 1_000_000 + w * 100_000
                    jobs.append(pool.submit(draw_maps, out, resolution, share_of, first, path))
        for job in jobs:
            job.result()
    if (out / "portraits.json").exists():
        report["portraits"] = json.loads((out / "portraits.json").read_text())
    report |= {"maps_256": maps_256, "maps_512": maps_512}
    (out / "split.json").write_text(json.dumps({"held_out": {n: name_hash(n) for n in report["held_out"]}}, indent=1))
    return report


if __name__ == "__main__":
    raise SystemExit(main())
