# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the backend's environment: fits photos one after the other with warm models, and notes seconds and memory.

    python tests/benchmarks/fit_cases.py '{"options": {...}, "cases": [{"id", "photos", "out", "row", "bare"?}, ...]}'

`bare` is a folder for the same fit with the generator's own map and neither hair nor glasses. Ends when its stdin does,
so that a bench that is killed leaves no fit behind.
"""
from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """One row per case, written when the case is done; the bundle is written by the backend itself."""
    job = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from backend.options import Options
    from backend.pipeline import Models, rerender

    models = Models()
    for case in job["cases"]:
        row = fit(case, Options(**job["options"], out=case["out"]), models)
        if case.get("bare") and "error" not in row:
            rerender(case["out"], case["bare"], job["options"].get("device", "auto"), models,
                     refine=False, hair=False, glasses=False)  # the generator's own map
        partial = Path(case["row"]).with_suffix(".part")
        partial.write_text(json.dumps(row, indent=1), "utf-8")
        os.replace(partial, case["row"])
        what = row.get("error") or f"{row['seconds']:6.1f} s ({row['cpu_seconds']:.0f} CPU) {row['rss_mb']:5.0f} MB"
        print(f"{case['id']:36s} {what}", flush=True)


def fit(case: dict, options: object, models: object) -> dict:
    """One reconstruction: wall and CPU seconds, stages, losses, memory now and at its highest."""
    from backend.errors import as_ganfit_error
    from backend.pipeline import reconstruct

    row: dict = {"id": case["id"]}
    start, cpu = time.perf_counter(), time.process_time()
    try:
        result = reconstruct(case["photos"], options, models=models).result
        row |= {"timings": result["timings"], "warnings": result["warnings"], "losses": result["losses"]}
    except Exception as error:  # noqa: BLE001 - a bench goes on and reports
        row["error"] = str(as_ganfit_error(error))
    row |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    row |= {"ended": time.time(), "rss_mb": memory_mb()}
    row |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
    return row


def memory_mb() -> float:
    """Resident memory of this process now, MB (Linux; elsewhere its highest so far)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
