# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the root, with its Python: a fresh Blender is used by mouse as an artist would; pictures of all.

The one argument is JSON: zip, photo, python (a Python for the backend's environment), packages (a folder of its
installed packages), profile, out (folders). Writes `report.json` and pictures into out; the exit status is 0 when
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
    """A display, a window manager, and Blender with the extension installed into a profile of its own."""
    os.environ |= {"DISPLAY": DISPLAY, "BLENDER_USER_RESOURCES": job["profile"], "GANFIT_GUI_OUT": str(out)}
    install = ["blender", "--command", "extension", "install-file", "-r", "user_default", "--enable", job["zip"]]
    subprocess.run(install, check=True, timeout=120)
    prepare_environment(job)
    log = stack.enter_context(open(out / "blender.log", "wb"))
    screen = f"{SIZE[0]}x{SIZE[1]}x24"
    display = ["Xvfb", DISPLAY, "-screen", "0", screen, "+extension", "GLX", "-nolisten", "tcp"]
    stack.callback(subprocess.Popen(display, stdout=log, stderr=log).kill)
    socket, end = Path("/tmp/.X11-unix/X94"), time.monotonic() + 30
    while not socket.exists() and time.monotonic() < end:
        time.sleep(0.1)
    stack.callback(subprocess.Popen(["openbox"], stdout=log, stderr=log).kill)
    command = ["blender", "--window-geometry", "0", "0", *map(str, SIZE), "--python", str(HERE / "probe.py")]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.kill)
    blender = Blender(out)
    blender.ask("1", timeout=120)
    blender.window = windows()[-1]
    blender.wait("the sidebar's tab", lambda: blender.ask("sidebar()")["tab"] == "GANFIT", 60)
    time.sleep(1.0)
    return blender, process


def prepare_environment(job: dict) -> None:
    """An environment in Set Up's place that sees the packages which are installed on this machine.

    Set Up goes on with an environment that it finds: pip then checks every pinned package, offline, instead of copying
    gigabytes.
    """
    folder = Path(job["profile"]) / "extensions" / ".user" / "user_default" / "ganfit" / "env"
    subprocess.run([job["python"], "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "installed.pth").write_text(job["packages"] + "\n")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
