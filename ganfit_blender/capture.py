# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a face capture: the CSV of Live Link Face (Apple's ARKit) or any CSV with ARKit's names; needs no Blender."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import AddonError

FPS = 60.0
TIME = "timecode"
_TIMECODE = re.compile(r"(\d+):(\d+):(\d+)[:;](\d+(?:\.\d+)?)")
HEAD = ("headYaw", "headPitch", "headRoll")
GAZE_DEGREES = {"Up": 14.0, "Down": 18.0, "In": 26.0, "Out": 26.0}
"""How far an eyeLook key of weight 1 turns the eye, as the head model has it (`GAZE` in backend/head/eyes.py)."""
DAY_S = 86400.0


@dataclass(frozen=True)
class Capture:
    """A recording.

    Attributes:
        seconds: (F,) time since the first frame.
        weights: ARKit name -> (F,) in [0, 1].
        head: (F, 3) yaw, pitch, roll in radians, None when it was not recorded.
    """

    seconds: np.ndarray
    weights: dict[str, np.ndarray]
    head: np.ndarray | None


def read_capture(path: Path, names: frozenset[str], fps: float = FPS) -> Capture:
    """Reads a CSV whose first line has ARKit's names, as `EyeBlinkLeft` or `eyeBlinkLeft`.

    Args:
        names: the names that the head has; other columns are left out.
        fps: frames a second of the timecode's last field, or of the rows when there is no timecode.

    Raises:
        AddonError: `capture_bad`.
    """
    columns = _columns(path)
    count = len(next(iter(columns.values())))
    numbers = {name: _numbers(path, name, column) for name, column in columns.items()
               if name in names or name in HEAD or re.fullmatch(r"(left|right)Eye(Yaw|Pitch|Roll)", name)}
    weights = {name: np.clip(numbers[name], 0, 1) for name in numbers if name in names}
    weights |= {name: values for name, values in gaze_from_angles(numbers).items()
                if name in names and not weights.get(name, np.zeros(1)).any()}
    if not weights:
        raise AddonError("capture_bad", f"{path.name} has no column that is named after an ARKit expression.")
    seconds = _seconds(path, columns[TIME], fps) if TIME in columns else np.arange(count) / fps
    head = np.stack([numbers[name] for name in HEAD], 1) if all(name in numbers for name in HEAD) else None
    return Capture(seconds, weights, None if head is None else _radians(head))


def gaze_from_angles(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """eyeLook weights from the eyes' recorded angles; yaw is positive to the subject's left, pitch downwards."""
    found = {}
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        yaw, pitch = (numbers.get(f"{side.lower()}Eye{axis}") for axis in ("Yaw", "Pitch"))
        if yaw is None or pitch is None:
            continue
        turn = {"Out": outward * _radians(yaw), "In": -outward * _radians(yaw), "Down": _radians(pitch),
                "Up": -_radians(pitch)}
        for way, angle in turn.items():
            found[f"eyeLook{way}{side}"] = np.clip(np.degrees(angle) / GAZE_DEGREES[way], 0, 1)
    return found


def _columns(path: Path) -> dict[str, list[str]]:
    """The file's columns by lower camel name, all of the same length."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AddonError("capture_bad", f"{path.name} cannot be read ({error}).") from None
    if len(rows) < 2:
        raise AddonError("capture_bad", f"{path.name} has no frames.")
    names = [cell.strip()[:1].lower() + cell.strip()[1:] for cell in rows[0]]
    if any(len(row) < len(names) for row in rows[1:]):
        number = next(i for i, row in enumerate(rows[1:], 2) if len(row) < len(names))
        raise AddonError("capture_bad", f"Line {number} of {path.name} is cut off.")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names) if name}


def _numbers(path: Path, name: str, cells: list[str]) -> np.ndarray:
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        raise AddonError("capture_bad", f"The column {name} of {path.name} is not numbers.") from None
    if not np.isfinite(values).all():
        raise AddonError("capture_bad", f"The column {name} of {path.name} is not numbers.")
    return values


def _seconds(path: Path, cells: list[str], fps: float) -> np.ndarray:
    """Seconds since the first frame of timecodes `HH:MM:SS:FF.fff`; frames that the phone dropped stay gaps."""
    times = []
    for cell in cells:
        found = _TIMECODE.fullmatch(cell.strip())
        if not found:
            raise AddonError("capture_bad", f"{path.name} has the timecode {cell!r}, which is not HH:MM:SS:FF.")
        hours, minutes, seconds, frames = map(float, found.groups())
        times.append(hours * 3600 + minutes * 60 + seconds + frames / fps)
    steps = np.diff(np.array(times))
    steps = np.where(steps < -DAY_S / 2, steps + DAY_S, steps)  # past midnight
    return np.concatenate([[0.0], np.cumsum(np.maximum(steps, 0.0))])


def _radians(values: np.ndarray) -> np.ndarray:
    """Live Link Face writes radians; values beyond half a turn can only be degrees."""
    return np.radians(values) if np.abs(values).max() > math.pi else values
