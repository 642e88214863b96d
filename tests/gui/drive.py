# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the root, with its Python: a fresh Blender is used by mouse as an artist would; pictures of all.

The one argument is JSON: zip, photo, python (a Python for the backend's environment), wheels (a folder of its
packages), profile, out (folders). Writes `report.json` and pictures into out; the exit status is 0 when
everything went as an artist would expect.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import session
from mouse import SIZE, Blender, Failed, windows

HERE = Path(__file__).parent
DISPLAY = ":94"


def main(job: dict) -> int:
    """The whole session; what is wrong stands in the report and in the exit status."""
    out, report = Path(job["out"]), {"failed": ""}
    try:
        with ExitStack() as stack:
            blender, process = start(job, out, stack)
            session.whole(job, blender, process, report)
    except (Failed, subprocess.SubprocessError, OSError) as error:
        report["failed"] = str(error)
    log = (out / "blender.log").read_text(errors="replace") if (out / "blender.log").is_file() else ""
    if "Traceback" in log and not report["failed"]:
        report["failed"] = "Python errors in Blender's log: " + log[log.index("Traceback"):][:2000]
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(report["failed"] or "An artist's session went to its end.", flush=True)
    return 1 if report["failed"] else 0


def start(job: dict, out: Path, stack: ExitStack) -> tuple[Blender, subprocess.Popen]:
    """A display, a window manager, and Blender as it is the first time, with a profile of its own."""
    os.environ |= {"DISPLAY": DISPLAY, "BLENDER_USER_RESOURCES": job["profile"], "GANFIT_GUI_OUT": str(out)}
    log = stack.enter_context(open(out / "blender.log", "wb"))
    screen = f"{SIZE[0]}x{SIZE[1]}x24"
    display = ["Xvfb", DISPLAY, "-screen", "0", screen, "+extension", "GLX", "-nolisten", "tcp"]
    stack.callback(subprocess.Popen(display, stdout=log, stderr=log).kill)
    socket, end = Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}"), time.monotonic() + 30
    while not socket.exists() and time.monotonic() < end:
        time.sleep(0.1)
    stack.callback(subprocess.Popen(["openbox"], stdout=log, stderr=log).kill)
    command = ["blender", "--window-geometry", "0", "0", *map(str, SIZE), "--python", str(HERE / "probe.py")]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.kill)
    blender = Blender(out)
    blender.ask("1", timeout=120)
    blender.window = windows()[-1]
    return blender, process


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
