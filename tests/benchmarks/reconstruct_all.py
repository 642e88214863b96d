# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs every photo of a list with warm models, several processes side by side; prints seconds and memory.

    python tests/benchmarks/reconstruct_all.py OUT PHOTO [PHOTO...] [--preset standard] [--processes 2]

A result that is there already is kept, so an interrupted run goes on. OUT/<stem>/ holds the bundles.
"""
import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def work(job: tuple[list[str], str, dict, int]) -> list[dict]:
    """One process: fits its share of the photos one after the other."""
    photos, out, options, threads = job
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from backend.errors import as_ganfit_error
    from backend.options import Options
    from backend.pipeline import Models, reconstruct
    torch.set_num_threads(threads)
    models, rows = Models(), []
    for photo in photos:
        folder = Path(out) / Path(photo).stem
        if (folder / "result.json").exists():
            continue
        start, row = time.perf_counter(), {"photo": Path(photo).name}
        try:
            bundle = reconstruct([photo], Options(**options, out=str(folder)), models=models)
            row |= {"timings": bundle.result["timings"], "warnings": bundle.result["warnings"]}
        except Exception as error:  # noqa: BLE001 - a benchmark goes on and reports
            row["error"] = str(as_ganfit_error(error))
        row["seconds"] = time.perf_counter() - start
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(row)
        print(f"{row['photo']:40s} {row['seconds']:6.1f} s {row['peak_mb']:6.0f} MB {row.get('error', '')}", flush=True)
    return rows


def main() -> None:
    """Splits the photos over the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--basis", default="makehuman")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--generator")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    options = {"preset": args.preset, "basis": args.basis, "iterations": args.iterations, "generator": args.generator}
    threads = max(1, (os.cpu_count() or 1) // args.processes)
    jobs = [(args.photos[i::args.processes], args.out, options, threads) for i in range(args.processes)]
    if args.processes == 1:
        rows = work(jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
            rows = [r for share in pool.map(work, jobs) for r in share]
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / "timings.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
