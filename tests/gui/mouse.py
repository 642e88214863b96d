# SPDX-License-Identifier: GPL-3.0-or-later
"""The mouse, the keyboard and the eyes of the GUI test: finds buttons in the sidebar, presses, drags, waits, looks."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZE = (1400, 1050)
STEP = 13  # pixels between two looks for a button; the flattest is half as high again


class Failed(Exception):
    """What an artist would have seen go wrong."""


class Blender:
    """The running Blender, its mouse and its screen."""

    def __init__(self, out: Path) -> None:
        self.out, self._shots = out, 0
        self._places: dict[str, int] = {}  # of buttons that were found
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

    def colors(self, points: list) -> np.ndarray:
        """(N, 3) colours from 0 to 1 that Blender's window shows at pixels (x, y) from its top left."""
        command = ["import", "-window", self.window, "-depth", "8", "ppm:-"]
        picture = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
        _, size, _, rest = picture.split(b"\n", 3)
        width, height = map(int, size.split())
        x, y = np.array(points).T
        return np.frombuffer(rest, np.uint8).reshape(height, width, 3)[y, x] / 255

    def mouse(self, x: float, y: float, *more: str, window: str = "") -> None:
        """Moves the mouse to pixels of Blender's (other) window from its top left, then does more (xdotool's words)."""
        to = "--window", window or self.window, str(round(x))
        words = ["xdotool", "mousemove", *to, str(round(y) + 1)]  # a mouse that is there already would be waited for
        words += ["mousemove", "--sync", *to, str(round(y)), *more]
        subprocess.run(words, check=True, timeout=20)

    def find(self, button: str, again: bool = True) -> tuple[float, float]:
        """Where a button or slider is: the mouse wanders over the sidebar until Blender says that it is over it.

        It begins where a button of this name was last. What is not in sight is looked for further down, then at the
        top; a sidebar that was still moving is gone over once more.

        Args:
            button: a part of the operator's call or of the property's path, as Blender would copy it.
        """
        place = self.ask("sidebar()")
        assert isinstance(place, dict)
        top = place["window"] - (place["y"] + place["height"])
        x = place["x"] + 0.42 * place["width"]
        rows = list(range(round(top) + STEP, round(top + place["height"]), STEP))
        rows.sort(key=lambda y: abs(y - self._places.get(button, y)))
        for look in (lambda: None, lambda: self.scroll(down=True), lambda: self.scroll(down=False)):
            look()
            for y in rows:
                self.mouse(x, y)
                time.sleep(0.06)
                if button in str(self.ask("hovered()")):
                    self._places[button] = y
                    return x, y + 2.0
        if again:
            return self.find(button, again=False)
        self.shot("not_found")
        raise Failed(f"There is no button {button} in the sidebar.")

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

    def drag(self, slider: str, pixels: int) -> None:
        """Finds a slider and draws it to the right."""
        x, y = self.find(slider)
        step = ("mousemove_relative", "--sync", "--", str(pixels // 5), "0", "sleep", "0.1")
        self.mouse(x, y, "sleep", "0.3", "mousedown", "1", "sleep", "0.2", *(5 * step), "mouseup", "1")
        time.sleep(0.5)

    def key(self, keys: str, x: float = 0.25, y: float = 0.5) -> None:
        """Presses a key with the mouse over the 3D view, at shares of Blender's window."""
        self.mouse(x * SIZE[0], y * SIZE[1], "sleep", "0.3", "key", keys)
        time.sleep(0.5)

    def quit(self, window: str) -> None:
        """Closes one of Blender's windows, as its cross does."""
        subprocess.run(["xdotool", "windowactivate", "--sync", window, "sleep", "0.5", "key", "alt+F4"], check=True,
                       timeout=20)


def windows() -> list[str]:
    """The visible windows of Blender, the oldest first."""
    found = subprocess.run(["xdotool", "search", "--onlyvisible", "--class", "blender"], capture_output=True, text=True)
    return found.stdout.split()
