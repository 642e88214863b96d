# SPDX-License-Identifier: GPL-3.0-or-later
"""The GUI test, as `build.py gui-test` starts it: a real, windowed Blender in a root of its own, used by mouse.

The one argument is JSON: zip, photo, python (the backend environment's), wheels, suite, roots and out (folders). The
exit status is 77 where the machine cannot do it by its nature, as automake's tests say it.
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
TIMEOUT_S = 2400.0
NOT_HERE = 77


def main(job: dict) -> int:
    """Makes the root where it is missing, runs the session in it, says what came of it."""
    root, out = Path(job["roots"]) / job["suite"], Path(job["out"])
    try:
        blender_root.check()
        blender_root.make(root, job["suite"])
    except blender_root.NotHere as reason:
        print(f"The GUI test cannot run here: {reason}.", flush=True)
        return NOT_HERE
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="ganfit-gui-") as scratch:
        return session(job, root, out, Path(scratch))


def session(job: dict, root: Path, out: Path, scratch: Path) -> int:
    """The session inside the root; its exit status."""
    base, places = interpreter(Path(job["python"]), root)
    cache = Path(os.environ.get("GANFIT_CACHE") or Path.home() / ".cache" / "ganfit")
    zip_file, photo, wheels = (Path(job[name]).resolve() for name in ("zip", "photo", "wheels"))
    inner = {"zip": str(zip_file), "photo": str(photo), "python": base, "wheels": str(wheels), "out": str(out),
             "profile": str(scratch / "profile")}
    (scratch / "profile").mkdir()
    folders = [HERE, out, scratch, *places, zip_file.parent, photo.parent, wheels, cache]
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(scratch), "LIBGL_ALWAYS_SOFTWARE": "1",
                 "GANFIT_CACHE": str(cache), "OMP_NUM_THREADS": "2"}
    command = ["python3", str(HERE / "drive.py"), json.dumps(inner)]
    try:
        status = blender_root.run(root, [f for f in folders if f.exists()], command, variables, TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"The session did not end in {TIMEOUT_S:.0f} s.", flush=True)
        status = 1
    print(f"Pictures: {out}")
    return status


def interpreter(python: Path, root: Path) -> tuple[str, list[Path]]:
    """The Python that an environment was made with, and what the root has to see of it.

    A system's Python is its program, its library and its own wheel of pip, beside those of the root, unless the root
    has the same.
    """
    facts = ("import json, sys, sysconfig as s; "
             "print(json.dumps([sys.base_prefix, sys._base_executable, s.get_path('stdlib')]))")
    found = subprocess.run([str(python), "-c", facts], capture_output=True, text=True, check=True)
    prefix, base, library = (Path(path).resolve() for path in json.loads(found.stdout))
    if prefix != Path("/usr"):
        return str(base), [prefix]
    in_root = (root / library.relative_to("/") / "os.py").is_file()
    return str(base), [] if in_root else [base, library, Path("/usr/share/python-wheels")]


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
