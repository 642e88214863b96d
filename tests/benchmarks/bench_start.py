# SPDX-License-Identifier: GPL-3.0-or-later
"""What an artist waits for around the fit: a new worker's first iteration, and a bundle's import into Blender.

    python -m tests.benchmarks.bench_start PHOTO [--turns 3]
    python -m tests.benchmarks.bench_start --import BUNDLE --blender PYTHON_WITH_BPY --zip EXTENSION [--turns 3]
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backend import protocol

ROOT = Path(__file__).resolve().parents[2]
IMPORT = ROOT / "tests" / "blender_scripts" / "time_import.py"


def first_iteration(photo: Path, preset: str) -> dict[str, float]:
    """Stage -> seconds after the worker's start at which it begins; `iteration` is the end of the fit's first."""
    start = time.perf_counter()
    worker = subprocess.Popen([sys.executable, "-m", "backend", "serve"], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)  # fmt: skip
    assert worker.stdin is not None and worker.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        job = {"photos": [str(photo.resolve())], "out": f"{folder}/head", "options": {"preset": preset}}
        worker.stdin.write(protocol.encode(protocol.request(1, protocol.RECONSTRUCT, job)))
        worker.stdin.flush()
        begun: dict[str, float] = {}
        try:
            for line in worker.stdout:
                message = json.loads(line)
                told = message.get("params", {})
                if message.get("method") == protocol.JOB_FINISHED:
                    raise SystemExit(f"error: {message}")
                if message.get("method") == protocol.JOB_PROGRESS:
                    begun.setdefault(told["stage"], time.perf_counter() - start)
                    if told["step"] > 0:
                        return begun | {"iteration": time.perf_counter() - start}
        finally:
            worker.kill()
            worker.wait()
    raise SystemExit("error: the worker ended by itself.")


def import_seconds(bundle: Path, blender: Path, extension: Path) -> dict[str, float]:
    """Wall and processor seconds of the Import operator, with a new profile and an empty scene."""
    with tempfile.TemporaryDirectory() as profile:
        job = {"bundle": str(bundle.resolve()), "zip": str(extension.resolve())}
        done = subprocess.run([blender, IMPORT, json.dumps(job)], env={**os.environ, "BLENDER_USER_RESOURCES": profile},
                              capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints a line per turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path)
    parser.add_argument("--preset", choices=("draft", "standard", "best"), default="standard")
    parser.add_argument("--import", dest="bundle", type=Path)
    parser.add_argument("--blender", type=Path)
    parser.add_argument("--zip", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    for _ in range(args.turns):
        found = first_iteration(args.photo, args.preset) if args.photo else {}
        if args.bundle:
            found |= import_seconds(args.bundle, args.blender, args.zip)
        print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
