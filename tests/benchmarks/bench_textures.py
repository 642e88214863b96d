# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a texture generator is on people that it has never seen, and how different its samples are.

    python tests/benchmarks/bench_textures.py reconstruct OUT --set SET --code RUN/code.safetensors [--generator FILE]
    python tests/benchmarks/bench_textures.py compare OUT [--network mobilefacenet.onnx]

`reconstruct` (the backend's environment) finds the nearest map of every held-out one by descent on the latent and
keeps it beside the mean map and the linear model of the same data with 512 coefficients (once with the code of the
whole map, once by the same descent on its valid texels); it draws 1,000 samples and writes pictures. `compare` (any
Python with numpy and scikit-image; onnxruntime for the perceptual column) prints the table: PSNR, SSIM, distance of
deep features, energy of fine structure over the real map's, all on valid texels. The network has no part in the fit;
its inner layers are compared as in LPIPS (Zhang et al. 2018) with equal weights.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

METHODS = ("generator", "pca512", "pca512_descent", "mean")
FACE_ROWS, FACE_COLUMNS = (0.22, 0.88), (0.17, 0.83)
"""The part of the map that looks like a face from the front, for the network."""


# ---------------------------------------------------------------------------------------------------------- reconstruct
def reconstruct(options: argparse.Namespace) -> None:
    """Nearest maps of the held-out people, samples and their figures."""
    import torch

    from backend.texture.dataset import read_layout, read_maps, training_people
    from backend.texture.evaluate import invert
    from backend.texture.generator import load_generator
    from backend.texture.linear import LinearCode

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    generator, code = load_generator(options.generator), LinearCode.load(options.code)
    weight = torch.from_numpy(np.load(options.set / "weight.npy"))[None, None]
    train = training_people(options.set, 128)
    mean = torch.from_numpy(np.mean([p.albedo for p in train], 0)).permute(2, 0, 1)[None]
    groups = {"people": (read_maps(options.set / "held_out.npz", 512), (128, 256, 512)),
              "portraits": (read_maps(options.set / "held_out_portraits.npz", 256)[:options.portraits], (128, 256))}
    for group, (held, resolutions) in groups.items():
        side = resolutions[-1]
        target = torch.from_numpy(np.stack([p.albedo for p in held])).permute(0, 3, 1, 2)
        valid = torch.from_numpy(np.stack([p.valid for p in held]))[:, None]
        chart = torch.nn.functional.interpolate(weight, (side, side), mode="area")
        known = valid * (chart > 0.3)
        z = torch.cat([invert(generator, generator.solve_latent(t, w, 0.1, resolution=128), t, w, options.steps,
                              resolutions=resolutions)
                       for t, w in zip(target.split(1), known.split(1), strict=True)])
        with torch.no_grad():
            encoded = code.encode(target)
        nearest = invert(lambda z, _: code.decode(z), encoded, target, known, options.steps, resolutions=(128,))
        with torch.no_grad():
            large = {"generator": torch.cat([generator(part, side) for part in z.split(1)]),
                     "pca512": code.decode(encoded), "pca512_descent": code.decode(nearest),
                     "mean": mean.expand(len(held), -1, -1, -1)}
        arrays = {k: as_bytes(torch.nn.functional.interpolate(v, (side, side), mode="bilinear"))
                  for k, v in large.items()}
        np.savez(options.out / f"{group}.npz", target=as_bytes(target), known=as_bytes(known)[..., 0],
                 names=np.array([p.name for p in held]), latent=z.numpy(), **arrays)
        print(f"{group}: {len(held)} maps of {side} texels", flush=True)
    regions, _ = read_layout(options.set / "sources.npz", 64)
    figures = samples(generator, weight, regions["cheek"] > 0.4, training_people(options.set, 64), options)
    (options.out / "samples.json").write_text(json.dumps(figures, indent=1))


def as_bytes(maps) -> np.ndarray:  # noqa: ANN001 - a tensor; torch is not there when this file compares
    """Maps (B, C, R, R) in [0, 1] as uint8 (B, R, R, C)."""
    return (maps.permute(0, 2, 3, 1).clamp(0, 1).numpy() * 255 + 0.5).astype(np.uint8)


def samples(generator, weight, cheek: np.ndarray, train: list, options: argparse.Namespace) -> dict:  # noqa: ANN001
    """Figures of draws from the prior: neighbours (L1), skin tone, asymmetry, at 64 texels; and a picture of some."""
    import torch

    from backend.texture.evaluate import skin_angle
    from backend.texture.linear import shrink
    from backend.texture.train import sample_grid

    with torch.no_grad():
        maps = torch.cat([generator(part, 64) for part in generator.sample_latent(options.samples, 3).split(20)])
    real = torch.from_numpy(np.stack([p.albedo for p in train])).permute(0, 3, 1, 2)
    known = shrink(weight, 64)[0]
    edges = [-90, -30, 10, 28, 41, 55, 90]

    def flat(x: torch.Tensor) -> torch.Tensor:
        return (x * known).flatten(1) / (3 * known.sum())

    def nearest(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        distance = torch.cdist(flat(a), flat(a if b is None else b), p=1)
        if b is None:
            distance.fill_diagonal_(torch.inf)
        return distance.min(1).values

    def describe(x: torch.Tensor) -> dict:
        ita = skin_angle(x.permute(0, 2, 3, 1).numpy(), cheek)
        asymmetry = ((x - x.flip(-1)).abs() * known).sum((1, 2, 3)) / (3 * known.sum())
        return {"count": len(x), "nearest_l1": float(nearest(x).mean()), "nearest_l1_least": float(nearest(x).min()),
                "ita_percent": (np.histogram(ita, edges)[0] / len(ita) * 100).round(1).tolist(),
                "asymmetry_l1": float(asymmetry.mean())}

    sample_grid(generator, 7, options.out / "samples.jpg", columns=6, rows=4, side=options.side)
    return {"ita_edges": edges, "samples": describe(maps), "training_people": describe(real),
            "sample_to_training_l1": float(nearest(maps, real).mean()), "gmac_512": round(generator.macs() / 1e9, 3)}


# -------------------------------------------------------------------------------------------------------------- compare
class DeepFeatures:
    """Inner layers of an ONNX network as distances between pictures (H, W, 3) uint8 of equal size."""

    def __init__(self, path: Path, layers: int = 4) -> None:
        import onnxruntime

        model = path.read_bytes()
        names = [name for name in convolution_outputs(model)]
        chosen = [names[round((i + 0.5) * len(names) / layers)] for i in range(layers)]
        # Protobuf messages merge when their bytes follow each other: more outputs without a protobuf library.
        extra = b"".join(field(12, field(1, name.encode())) for name in chosen)
        self.session = onnxruntime.InferenceSession(model + field(7, extra), providers=["CPUExecutionProvider"])
        self.chosen = chosen

    def layers(self, picture: np.ndarray) -> list[np.ndarray]:
        """Activations (C, H, W), every position's vector of unit length."""
        from PIL import Image

        wanted = self.session.get_inputs()[0]
        small = np.asarray(Image.fromarray(picture).resize((112, 112), Image.Resampling.BOX), np.float32)
        values = ((small - 127.5) / 127.5).transpose(2, 0, 1)[None]
        found = self.session.run(self.chosen, {wanted.name: values.astype(np.float32)})
        return [f[0] / (np.linalg.norm(f[0], axis=0, keepdims=True) + 1e-8) for f in found]

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Mean square distance of unit feature vectors, summed over layers."""
        return float(sum(((x - y) ** 2).sum(0).mean() for x, y in zip(self.layers(a), self.layers(b), strict=True)))


def convolution_outputs(model: bytes) -> list[str]:
    """Names of the outputs of all convolutions of an ONNX file, in order."""
    (graph,) = [value for number, value in fields(model) if number == 7]
    names = []
    for node in (value for number, value in fields(graph) if number == 1):
        parts = list(fields(node))
        if any(number == 4 and value == b"Conv" for number, value in parts):
            names += [value.decode() for number, value in parts if number == 2]
    return names


def fields(message: bytes):  # noqa: ANN201
    """Field numbers and payloads of a protobuf message; numbers come as int."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at:at + size]
        at += size


def field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field."""
    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def compare(options: argparse.Namespace) -> None:
    """Print the table and draw targets over reconstructions."""
    from PIL import Image
    from scipy import ndimage
    from skimage.metrics import structural_similarity

    network = DeepFeatures(options.network) if options.network else None
    table = {}
    for path in sorted(options.out.glob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files}
        target, known = arrays["target"], arrays["known"].astype(np.float32) / 255
        side = target.shape[1]
        box = tuple(slice(int(a * side), int(b * side)) for a, b in (FACE_ROWS, FACE_COLUMNS))
        for method in METHODS:
            rows = []
            for real, made, weight in zip(target, arrays[method], known, strict=True):
                inside = ndimage.binary_erosion(weight > 0.5, iterations=3)
                error = ((real.astype(float) - made) ** 2).mean(-1)[inside].mean()
                _, similar = structural_similarity(real, made, channel_axis=-1, full=True, data_range=255)
                fine = [x.astype(float) - ndimage.uniform_filter(x.astype(float), (5, 5, 0)) for x in (real, made)]
                energy = [(f**2).mean(-1)[inside].mean() for f in fine]
                # Where the truth is unknown both show the same, so that only valid texels count.
                shown = np.where(weight[..., None] > 0.5, real, made)
                deep = network.distance(shown[box], made[box]) if network else np.nan
                ratio = energy[1] / energy[0]
                rows.append((10 * np.log10(255**2 / max(error, 1e-6)), similar.mean(-1)[inside].mean(), deep, ratio))
            table[f"{path.stem} {method}"] = np.mean(rows, 0).round(4).tolist()
            if options.every:
                for name, row in zip(arrays["names"], rows, strict=True):
                    table[f"{path.stem} {method} {name}"] = np.round(row, 4).tolist()
        shown = min(len(target), 12)
        rows = [np.concatenate(list(arrays[k][:shown]), 1) for k in ("target", *METHODS)]
        picture = Image.fromarray(np.concatenate(rows, 0))
        picture.resize((180 * shown, 180 * len(rows)), Image.Resampling.LANCZOS).save(options.out / f"{path.stem}.jpg")
    print(f"{'':34s} {'PSNR':>8s} {'SSIM':>8s} {'deep':>8s} {'fine':>8s}")
    for name, row in table.items():
        print(f"{name:34s} " + " ".join(f"{x:8.3f}" for x in row))
    (options.out / "figures.json").write_text(json.dumps(table, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("reconstruct")
    first.add_argument("out", type=Path)
    first.add_argument("--set", type=Path, required=True)
    first.add_argument("--code", type=Path, required=True)
    first.add_argument("--generator", type=Path)
    first.add_argument("--portraits", type=int, default=100)
    first.add_argument("--steps", type=int, default=90)
    first.add_argument("--samples", type=int, default=1000)
    first.add_argument("--side", type=int, default=256, help="texels of the samples in the picture")
    first.add_argument("--threads", type=int, default=2)
    second = commands.add_parser("compare")
    second.add_argument("out", type=Path)
    second.add_argument("--network", type=Path)
    second.add_argument("--every", action="store_true", help="also print every single person")
    options = parser.parse_args()
    (reconstruct if options.command == "reconstruct" else compare)(options)


if __name__ == "__main__":
    main()
