# SPDX-License-Identifier: GPL-3.0-or-later
"""The GUI test, as `build.py gui-test` starts it: a real, windowed Blender in a root of its own, used by mouse.

The one argument is JSON: zip, photo, python (the backend environment's), suite, roots and out (folders).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import blender_root

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 1500.0


def main(job: dict) -> int:
    """Makes the root where it is missing, runs the session in it, says what came of it."""
    if reason := blender_root.why_not():
        print(f"Skipped: {reason}.")
        return 0
    root, out = Path(job["roots"]) / job["suite"], Path(job["out"])
    try:
        blender_root.make(root, job["suite"])
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Skipped: a root with Blender cannot be made here ({error}).")
        return 0
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="ganfit-gui-") as scratch:
        return session(job, root, out, Path(scratch))


def session(job: dict, root: Path, out: Path, scratch: Path) -> int:
    """The session inside the root; its exit status."""
    python = Path(job["python"])
    facts = "import sys, sysconfig as s; print(sys.base_prefix, sys._base_executable, s.get_path('purelib'), sep='\\n')"
    found = subprocess.run([str(python), "-c", facts], capture_output=True, text=True, check=True)
    prefix, base, packages = (str(Path(line).resolve()) for line in found.stdout.splitlines())
    cache = Path(os.environ.get("GANFIT_CACHE") or Path.home() / ".cache" / "ganfit")
    if Path(prefix) == Path("/usr"):
        print("Skipped: this Python lives in /usr, which the root has its own of.")
        return 0
    zip_file, photo = (Path(job[name]).resolve() for name in ("zip", "photo"))
    inner = {"zip": str(zip_file), "photo": str(photo), "python": base, "packages": packages, "out": str(out),
             "profile": str(scratch / "profile")}
    (scratch / "profile").mkdir()
    folders = [HERE, out, scratch, Path(prefix), Path(packages), zip_file.parent, photo.parent, cache]
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(scratch), "LIBGL_ALWAYS_SOFTWARE": "1",
                 "GANFIT_CACHE": str(cache), "OMP_NUM_THREADS": "2"}
    command = ["python3", str(HERE / "drive.py"), json.dumps(inner)]
    status = blender_root.run(root, [f for f in folders if f.exists()], command, variables, TIMEOUT_S)
    print(f"Pictures: {out}")
    return status


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
