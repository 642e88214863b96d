# SPDX-License-Identifier: GPL-3.0-or-later
"""What a batch leaves for its readers: its table, its output folder, the grid of its people; no Blender."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

TABLE = "batch.json"
DONE, SKIPPED, FAILED = "done", "skipped", "failed"
SPACING_M = (0.4, 0.5)  # between heads of a grid, across and down


@dataclass(frozen=True)
class Person:
    """One line of the table. `text` says why a person failed, or what was odd."""

    name: str
    state: str
    text: str
    bundle: str


def read_table(out: Path) -> list[Person]:
    """The people of a batch in their order; empty when there is no table (yet), or none that can be read."""
    try:
        people = json.loads((out / TABLE).read_text("utf-8"))["people"]
        return [_person(entry) for entry in people]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _person(entry: dict) -> Person:
    error = entry.get("error") or {}
    text = " ".join(part for part in (error.get("message"), error.get("hint")) if part)
    text = text or " ".join(map(str, entry.get("warnings") or []))
    return Person(str(entry["name"]), str(entry["state"]), text, str(entry.get("bundle") or ""))


def output_folder(parent: Path, photos: Path) -> Path:
    """The folder below `parent` for a batch over a folder of photos: the one of an earlier run over it, else a new one.

    It is named like the folder of photos; a number is added where that name belongs to another batch.
    """
    clean = re.sub(r"[^\w.-]+", "_", photos.name).strip("._") or "people"
    candidate, number = parent / clean, 2
    while candidate.exists() and not _made_of(candidate, photos):
        candidate, number = parent / f"{clean}-{number}", number + 1
    return candidate


def _made_of(out: Path, photos: Path) -> bool:
    try:
        people = json.loads((out / TABLE).read_text("utf-8"))["people"]
        return any(photos in Path(photo).parents for person in people for photo in person["photos"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def grid_place(number: int, count: int) -> tuple[float, float]:
    """(x, z) in metres of one of `count` heads on an upright grid around the origin, row by row from the top left."""
    columns = max(1, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    column, row = number % columns, number // columns
    return (column - (columns - 1) / 2) * SPACING_M[0], ((rows - 1) / 2 - row) * SPACING_M[1]
