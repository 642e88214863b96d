# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what would run here: device, versions, assets and their licences, and what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend import __version__, assets
from backend.options import CHOICES
from backend.paths import cache_dir

PACKAGES = ("torch", "numpy", "scipy", "pillow", "safetensors", "rich", "tflite", "warp-lang")
OPTIONAL_PACKAGES = ("nvdiffrast", "pillow-heif")
MIN_FREE_BYTES = 1 << 30

_NEEDS = {
    ("basis", "makehuman"): "makehuman",
    ("basis", "ict"): "ict",
    ("identity", "dlib"): "dlib_resnet",
    ("identity", "facenet"): "facenet",
    ("landmarks", "mediapipe"): "mediapipe",
    ("landmarks", "fan"): "fan",
}
"""the asset behind each choice of an option"""


def report() -> dict[str, Any]:
    """Everything as plain values, ready for JSON; `problems` lists sentences, empty when a photo can be done."""
    packages = {name: _package_version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    installed = assets.status()
    device = _device()
    free = _free_bytes(cache_dir())
    generator = _generator()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "device": device,
        "packages": packages,
        "index_url": os.environ.get("GANFIT_INDEX_URL"),
        "cache": {"path": str(cache_dir()), "free_bytes": free, "writable": _writable(cache_dir())},
        "assets": installed,
        "choices": _choices(),
        "generator": generator,
        "rasteriser": _rasteriser(device),
        "problems": _problems(packages, free, generator),
    }


def format_report(values: dict[str, Any]) -> str:
    """The report as text for a terminal."""
    device = values["device"]
    lines = [
        f"ganfit {values['version']}, Python {values['python']}, {values['platform']}",
        f"device      {device['name']} ({device['used']}), {device['threads']} threads",
        *([f"            {device['unused']}"] if device["unused"] else []),
        f"rasteriser  {values['rasteriser']}",
        f"generator   {values['generator'] or 'missing'}",
        f"cache       {values['cache']['path']}, {values['cache']['free_bytes'] / 1e9:.1f} GB free",
        f"index       {values['index_url'] or 'as pip is configured'}",
        "packages    " + ", ".join(f"{name} {version}" for name, version in values["packages"].items() if version),
        "",
    ]
    for option, states in values["choices"].items():
        marks = [name if ready else f"{name} (not installed)" for name, ready in states.items()]
        lines.append(f"{'--' + option:12s}{', '.join(marks)}")
    lines.append("")
    for asset in values["assets"]:
        state = "installed" if asset["installed"] else "-"
        sold = "results may be sold" if asset["sellable"] else "results may NOT be sold"
        lines.append(f"{asset['name']:12s}{state:10s} {asset['licence']}; {sold}: {asset['note']}")
    lines.append("")
    lines += values["problems"] or ["Everything that a reconstruction needs is here."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m backend doctor [--json]`; 1 if something that is needed is missing."""
    parser = argparse.ArgumentParser(prog="python -m backend doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    as_json = parser.parse_args(arguments).json
    values = report()
    print(json.dumps(values) if as_json else format_report(values))
    return 1 if values["problems"] else 0


def _device() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"used": None, "name": "no PyTorch", "threads": os.cpu_count(), "cuda": False, "unused": ""}
    try:
        from backend.render.raster import cuda_problem

        unused = cuda_problem()
    except ImportError:  # warp is missing, which `problems` says, too
        unused = "The rasteriser's package, warp-lang, is not installed."
    cuda = not unused
    name = torch.cuda.get_device_name() if cuda else (platform.processor() or platform.machine())
    if torch.backends.mps.is_available():
        unused = "Apple's graphics card is not used: the rasteriser has kernels for processor and CUDA alone."
    threads = torch.get_num_threads()
    return {"used": "cuda" if cuda else "cpu", "name": name, "threads": threads, "cuda": cuda, "unused": unused}


def _rasteriser(device: dict[str, Any]) -> str:
    nvdiffrast = device["cuda"] and _package_version("nvdiffrast") is not None
    return "nvdiffrast (its licence allows non-commercial use only)" if nvdiffrast else "warp"


def _choices() -> dict[str, dict[str, bool]]:
    """For each option with assets behind it: which choices could be taken now."""
    return {
        option: {choice: assets.is_installed(_NEEDS[option, choice]) for choice in CHOICES[option]}
        for option in ("basis", "identity", "landmarks")
    }


def _generator() -> str | None:
    path = Path(__file__).parent / "texture" / "weights" / "texture_gan.safetensors"
    return str(path) if path.is_file() else None


def _problems(packages: dict[str, str | None], free: int, generator: str | None) -> list[str]:
    missing = [name for name in PACKAGES if packages[name] is None]
    absent = [name for name in assets.DEFAULTS if not assets.is_installed(name)]
    problems = []
    if missing:
        problems.append(f"Packages are missing: {', '.join(missing)}. Run `python3 build.py run`, which installs them.")
    if absent:
        size = assets.download_size(absent) / 1e6
        problems.append(
            f"Assets are missing: {', '.join(absent)}. Run `python -m backend assets install` ({size:.0f} MB)."
        )
    if generator is None:
        problems.append("The texture generator's weights are missing from this copy of the project.")
    if not _writable(cache_dir()):
        problems.append(f"The cache folder {cache_dir()} cannot be written. Set GANFIT_CACHE to another folder.")
    if free < MIN_FREE_BYTES:
        problems.append(f"Only {free / 1e6:.0f} MB are free where the cache is.")
    return problems


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _writable(path: Path) -> bool:
    return os.access(_existing(path), os.W_OK)


if __name__ == "__main__":
    sys.exit(main())
