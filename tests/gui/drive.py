# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the root, with its Python: a fresh Blender is used by mouse, from Set Up to the head; pictures of all.

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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
DISPLAY, SIZE = ":94", (1400, 1050)
STEP = 9  # pixels between two looks for a button; the flattest button is twice as high
TICK_LIMIT_S = 0.05
SETUP_S, FIT_S = 300.0, 540.0


class Failed(Exception):
    """What an artist would have seen go wrong."""


class Blender:
    """The running Blender, its mouse and its screen."""

    def __init__(self, out: Path) -> None:
        self.out, self._shots = out, 0
        self.window = ""

    def ask(self, source: str, timeout: float = 60.0) -> object:
        """The value of a Python expression in Blender."""
        answer = self.out / "answer.json"
        answer.unlink(missing_ok=True)
        (self.out / "command.part").write_text(source)
        os.replace(self.out / "command.part", self.out / "command.py")
        end = time.monotonic() + timeout
        while not answer.is_file():
            if time.monotonic() > end:
                raise Failed(f"Blender does not answer to: {source}")
            time.sleep(0.01)
        said = json.loads(answer.read_text())
        if "error" in said:
            raise Failed(said["error"])
        return said["value"]

    def wait(self, what: str, done: Callable[[], object], timeout: float) -> object:
        """Asks again and again until there is an answer that is true."""
        end = time.monotonic() + timeout
        while not (value := done()):
            if time.monotonic() > end:
                self.shot("stuck")
                raise Failed(f"Waited {timeout:.0f} s in vain: {what}; {self.ask('job()')}")
            time.sleep(0.2)
        return value

    def shot(self, name: str) -> None:
        """A picture of the whole screen."""
        self._shots += 1
        subprocess.run(["import", "-window", "root", str(self.out / f"{self._shots:02d}_{name}.png")], check=True)

    def mouse(self, x: float, y: float, *more: str) -> None:
        """Moves the mouse to pixels of Blender's window from its top left, then does more (xdotool's words)."""
        words = ["xdotool", "mousemove", "--sync", "--window", self.window, str(round(x)), str(round(y)), *more]
        subprocess.run(words, check=True, timeout=20)

    def find(self, operator: str) -> tuple[float, float]:
        """Where a button is: the mouse wanders down the sidebar until Blender says that it is over it.

        What is not in sight is looked for further down, then at the top.
        """
        place = self.ask("sidebar()")
        assert isinstance(place, dict)
        top = place["window"] - (place["y"] + place["height"])
        x = place["x"] + 0.42 * place["width"]
        for look in (lambda: None, lambda: self.scroll(down=True), lambda: self.scroll(down=False)):
            look()
            for y in range(round(top) + STEP, round(top + place["height"]), STEP):
                self.mouse(x, y)
                time.sleep(0.06)
                if operator in str(self.ask("hovered()")):
                    return x, y + 3.0
        self.shot("not_found")
        raise Failed(f"There is no button {operator} in the sidebar.")

    def scroll(self, down: bool) -> None:
        """Turns the wheel over the sidebar, as far as it goes."""
        place = self.ask("sidebar()")
        assert isinstance(place, dict)
        x, y = place["x"] + 0.42 * place["width"], place["window"] - place["y"] - 0.5 * place["height"]
        self.mouse(x, y, "click", "--repeat", "30", "5" if down else "4")
        time.sleep(1.0)

    def click(self, operator: str) -> None:
        """Finds a button and presses it."""
        x, y = self.find(operator)
        self.mouse(x, y, "sleep", "0.3", "click", "1")
        time.sleep(0.5)


def main(job: dict) -> int:
    """The whole session; what is wrong stands in the report and in the exit status."""
    out, report = Path(job["out"]), {"failed": ""}
    try:
        with ExitStack() as stack:
            blender = start(job, out, stack)
            use(job, blender, report)
    except (Failed, subprocess.SubprocessError, OSError) as error:
        report["failed"] = str(error)
    log = (out / "blender.log").read_text(errors="replace") if (out / "blender.log").is_file() else ""
    if "Traceback" in log and not report["failed"]:
        report["failed"] = "Python errors in Blender's log: " + log[log.index("Traceback"):][:2000]
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(report["failed"] or "The head came by mouse.", flush=True)
    return 1 if report["failed"] else 0


def start(job: dict, out: Path, stack: ExitStack) -> Blender:
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
    blender.window = _windows()[-1]
    blender.wait("the sidebar's tab", lambda: blender.ask("sidebar()")["tab"] == "GANFIT", 60)
    time.sleep(1.0)
    return blender


def prepare_environment(job: dict) -> None:
    """An environment in Set Up's place that sees the packages which are installed on this machine.

    Set Up goes on with an environment that it finds: pip then checks every pinned package, offline, instead of copying
    gigabytes.
    """
    folder = Path(job["profile"]) / "extensions" / ".user" / "user_default" / "ganfit" / "env"
    subprocess.run([job["python"], "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "installed.pth").write_text(job["packages"] + "\n")


def use(job: dict, blender: Blender, report: dict) -> None:
    """Set Up, a photo, Reconstruct, the head, a pin."""
    began = time.monotonic()
    blender.shot("fresh")
    wheels = Path(job["profile"]) / "wheels"
    wheels.mkdir()
    preferences = "bpy.context.preferences.addons[EXTENSION].preferences"
    blender.ask(f"setattr({preferences}, 'wheel_folder', {str(wheels)!r})")
    blender.click("ganfit.setup")
    blender.wait("Set Up runs", lambda: blender.ask("job()")["running"], 20)
    blender.shot("setup")
    blender.wait("the end of Set Up", lambda: not blender.ask("job()")["running"], SETUP_S)
    done = blender.ask("job()")
    blender.shot("ready")
    if done["error"] or "set up" not in done["message"]:
        raise Failed(f"Set Up: {done}")
    report["setup_s"] = round(time.monotonic() - began, 1)
    choose_photo(job, blender)
    folder(job, blender)
    reconstruct(blender, report)
    pin(blender, report)


def choose_photo(job: dict, blender: Blender) -> None:
    """Add Photos opens a file browser; the file is named there and Enter pressed."""
    blender.click("ganfit.photos_add")
    browser = ("[(w, a) for w in bpy.context.window_manager.windows for a in w.screen.areas "
               "if a.type == 'FILE_BROWSER' and a.spaces.active.params]")
    blender.wait("the file browser", lambda: blender.ask(f"len({browser})"), 30)
    photo = Path(job["photo"])
    params = f"{browser}[0][1].spaces.active.params"
    folder = os.fsencode(f"{photo.parent}/")
    time.sleep(1.0)
    blender.ask(f"(setattr({params}, 'directory', {folder!r}), setattr({params}, 'filename', {photo.name!r}))")
    time.sleep(1.0)
    blender.shot("browser")
    window = next((w for w in reversed(_windows()) if w != blender.window), blender.window)
    subprocess.run(["xdotool", "mousemove", "--window", window, "300", "300", "sleep", "0.5", "key", "Return"],
                   check=True, timeout=20)
    photos = "[photo.path for photo in bpy.context.scene.ganfit.photos]"
    blender.wait("the photo in the list", lambda: blender.ask(photos), 30)
    time.sleep(4.0)  # the panels below glide to their new places
    blender.shot("photo")


def folder(job: dict, blender: Blender) -> None:
    """A folder with a file that is no photo: the table says so, and nothing stops."""
    people = Path(job["profile"]) / "people"
    people.mkdir()
    (people / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    blender.ask(f"setattr(bpy.context.scene.ganfit, 'folder', {str(people)!r})")
    blender.click("ganfit.batch")
    rows = "[(row.name, row.state, row.text) for row in bpy.context.window_manager.ganfit_batch.rows]"
    blender.wait("the table", lambda: blender.ask(rows), 120)
    blender.wait("the end of the batch", lambda: not blender.ask("job()")["running"], 60)
    time.sleep(4.0)
    blender.scroll(down=True)  # brings the table into the picture
    time.sleep(2.0)
    blender.shot("folder")
    blender.scroll(down=False)
    found = blender.ask(rows)
    if len(found) != 1 or found[0][:2] != ["broken", "failed"] or "damaged" not in found[0][2]:
        raise Failed(f"The table of the folder: {found}")


def reconstruct(blender: Blender, report: dict) -> None:
    """The big button, progress, preview, the head."""
    blender.ask("setattr(bpy.context.scene.ganfit, 'preset', 'draft')")
    began = time.monotonic()
    blender.click("ganfit.reconstruct")
    blender.wait("the fit's preview", lambda: blender.ask("job()")["preview"] or blender.ask("job()")["error"], FIT_S)
    time.sleep(1.0)
    blender.shot("fit")
    blender.wait("the end of the fit", lambda: not blender.ask("job()")["running"], FIT_S)
    done = blender.ask("job()")
    report["fit_s"] = round(time.monotonic() - began, 1)
    time.sleep(3.0)
    blender.shot("head")
    if done["error"] or len(done["heads"]) != 1 or done["active"] != done["heads"][0]:
        raise Failed(f"Reconstruct: {done}")
    ticks = blender.ask("TICKS")
    report["ticks"] = {"count": len(ticks), "longest_wall_ms": round(1000 * max(t[0] for t in ticks), 2),
                       "longest_processor_ms": round(1000 * max(t[1] for t in ticks), 2)}
    if max(tick[1] for tick in ticks) > TICK_LIMIT_S:
        raise Failed(f"A tick of the add-on took longer than {1000 * TICK_LIMIT_S:.0f} ms: {report['ticks']}")


def pin(blender: Blender, report: dict) -> None:
    """Edit Landmarks opens an image editor with the photo; one point is dragged there by mouse."""
    before = set(_windows())
    blender.click("ganfit.pins_edit")
    overlay = "sys.modules[EXTENSION + '.overlay']"
    blender.wait("the landmarks", lambda: blender.ask(f"{overlay}.current() is not None"), 30)
    time.sleep(3.0)
    place = blender.ask("landmark_place(61)")
    window = next((w for w in _windows() if w not in before), blender.window)
    x, y = place["x"], place["height"] - place["y"]
    blender.shot("landmarks")
    subprocess.run(["xdotool", "mousemove", "--sync", "--window", window, str(round(x)), str(round(y)), "sleep", "0.6",
                    "mousedown", "1", "sleep", "0.3", "mousemove_relative", "--sync", "--", "-12", "8", "sleep", "0.3",
                    "mousemove_relative", "--sync", "--", "-12", "8", "sleep", "0.3", "mouseup", "1"], check=True,
                   timeout=30)
    pins = "[(p.index, p.x, p.y) for t in bpy.data.objects for v in t.ganfit_views for p in v.pins]"
    report["pins"] = blender.wait("the pin", lambda: blender.ask(pins), 20)
    time.sleep(1.0)
    blender.shot("pin")
    if len(report["pins"]) != 1 or report["pins"][0][0] != 61:
        raise Failed(f"The point that was dragged is not the pin: {report['pins']}")
    subprocess.run(["xdotool", "key", "Escape"], check=True, timeout=20)
    blender.wait("the end of editing", lambda: blender.ask(f"{overlay}.current() is None"), 20)


def _windows() -> list[str]:
    found = subprocess.run(["xdotool", "search", "--onlyvisible", "--class", "blender"], capture_output=True, text=True)
    return found.stdout.split()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
