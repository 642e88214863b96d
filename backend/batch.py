# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs everyone in a folder: one bad photo never stops the rest, and what is there is not done again."""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .bundle import RESULT, Bundle, check_output, output_error, read_bundle
from .errors import GanfitError, as_ganfit_error
from .options import Options
from .photo import SUFFIXES

TABLE_JSON, TABLE_CSV = "batch.json", "batch.csv"
VERSION = 1
WAITING, RUNNING, DONE, SKIPPED = "waiting", "running", "done", "skipped"
FAILED, CANCELLED = "failed", "cancelled"
FIGURES = ("identity", "pixel", "landmark", "landmark_mesh", "scale")
"""Numbers of a result in the table: the last value of terms of the energy, and metres per unit of the head model."""
COLUMNS = ("name", "state", "seconds", *FIGURES, "bundle", "photos", "warnings", "code", "message", "hint")

Report = Callable[[str, int, int, dict[str, float], float | None, Path | None], None]


class Reconstruct(Protocol):
    """`backend.reconstruct`, or with its `models` argument bound."""

    def __call__(
        self,
        photos: list[str | Path | bytes],
        options: Options,
        progress: Report | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Bundle: ...


class ReconstructTogether(Protocol):
    """`backend.pipeline.reconstruct_together` with its `models` argument bound."""

    def __call__(
        self,
        people: Sequence[tuple[list[str | Path | bytes], Options]],
        progress: Report | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Sequence[Bundle | Exception]: ...


@dataclass
class Row:
    """One person of a batch, as in the table."""

    name: str
    photos: list[str]
    state: str = WAITING
    bundle: str | None = None
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


def find_people(inputs: Sequence[str | Path]) -> list[Row]:
    """Who is to be reconstructed, sorted as given and by name inside a folder.

    A photo is a person. A folder's photos are a person each, and each subfolder with photos is one person seen in
    several. Hidden files, those whose suffix is no photo's, and results are left out of folders. Equal names get a
    number.

    Raises GanfitError: photo_missing, no_photo.
    """
    found: list[tuple[str, list[Path]]] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found += _people_in(given)
        elif given.exists():
            found.append((given.stem, [given]))
        else:
            raise GanfitError("photo_missing", f"There is no file or folder {given}.")
    if not found:
        raise GanfitError("no_photo", f"There is no photo in {', '.join(map(str, inputs)) or 'what was given'}.")
    taken: set[str] = set()
    return [Row(_unique(name, taken), [str(photo.absolute()) for photo in photos]) for name, photos in found]


def run_batch(
    inputs: Sequence[str | Path],
    options: Options,
    reconstruct: Reconstruct,
    progress: Report | None = None,
    cancel: Callable[[], bool] | None = None,
    several: ReconstructTogether | None = None,
    together: int = 1,
) -> list[Row]:
    """Reconstructs every person of `find_people(inputs)` into a folder of its name under `options.out`.

    A person whose folder holds a whole bundle of the same photos and options is skipped. Before and after each person
    the table is written to `batch.json` and `batch.csv`, so that whoever reads it sees how far the batch is. `progress`
    gets the stages with "name (2/10): " before them. `several` fits `together` people at once, one by one without it.

    Raises GanfitError for what concerns the batch as a whole: no_photo, photo_missing, bad_option, output_not_writable.
    """
    rows = find_people(inputs)
    out = batch_folder(options)
    if several is not None and together < 1:
        raise GanfitError("bad_option", f"{together} people cannot be fitted together; at least 1 can.")
    size = together if several is not None else 1
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        if cancel and cancel():
            for row in group:
                row.state = CANCELLED
            continue
        for row in group:
            row.state = RUNNING
        write_table(out, rows)
        people = [options.replace(out=str(out / row.name)) for row in group]
        label = f"{group[0].name} ({first + 1}/{len(rows)})"
        if several is None or size == 1:
            run_one(group[0], people[0], reconstruct, _labelled(progress, label), cancel)
        else:
            run_together(group, people, several, _labelled(progress, label), cancel)
    write_table(out, rows)
    return rows


def count_states(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows are in each state."""
    return dict(collections.Counter(row.state for row in rows))


def write_table(out: Path, rows: list[Row]) -> None:
    """`batch.json` and `batch.csv` in the batch's folder, each replaced as a whole."""
    document = {"version": VERSION, "people": [dataclasses.asdict(row) for row in rows]}
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerow(COLUMNS)
    for row in rows:
        error = row.error or {"code": "", "message": "", "hint": ""}
        photos, warnings = " ".join(map(repr, row.photos)), " ".join(row.warnings)
        figures = [f"{row.figures[name]:.6g}" if name in row.figures else "" for name in FIGURES]
        head = [row.name, row.state, f"{row.seconds:.1f}", *figures, row.bundle or "", photos, warnings]
        writer.writerow([*head, error["code"], error["message"], error["hint"]])
    try:
        for name, data in (
            (TABLE_JSON, json.dumps(document, indent=1).encode()),
            (TABLE_CSV, sheet.getvalue().encode("utf-8-sig", "backslashreplace")),
        ):
            partial = out / f".{name}.part"
            partial.write_bytes(data)
            os.replace(partial, out / name)
    except OSError as error:
        raise output_error(error, out) from error


def run_one(
    row: Row, options: Options, reconstruct: Reconstruct, progress: Report | None, cancel: Callable[[], bool] | None
) -> None:
    """One person: fills the row, whatever happens."""
    start = time.perf_counter()
    try:
        if not _skip(row, options):
            _done(row, reconstruct(list(row.photos), options, progress=progress, cancel=cancel))
    except Exception as error:  # one bad photo never stops the rest
        _failed(row, error)
    row.seconds = round(time.perf_counter() - start, 3)


def run_together(
    rows: Sequence[Row],
    people: Sequence[Options],
    several: ReconstructTogether,
    progress: Report | None,
    cancel: Callable[[], bool] | None,
) -> None:
    """Several people in one batch: fills their rows, whatever happens; each gets its share of the seconds."""
    start, waiting = time.perf_counter(), []
    for row, options in zip(rows, people, strict=True):
        try:
            if not _skip(row, options):
                waiting.append((row, options))
        except Exception as error:
            _failed(row, error)
    try:
        asked = [(list[str | Path | bytes](row.photos), options) for row, options in waiting]
        found = several(asked, progress=progress, cancel=cancel) if asked else []
        for (row, _), outcome in zip(waiting, found, strict=True):
            if isinstance(outcome, Exception):
                _failed(row, outcome)
            else:
                _done(row, outcome)
    except Exception as error:
        for row, _ in waiting:
            if row.state == RUNNING:
                _failed(row, error)
    for row, _ in waiting:
        row.seconds = round((time.perf_counter() - start) / len(waiting), 3)


def _skip(row: Row, options: Options) -> bool:
    """Whether the row's result is there already; then the row says so. Raises GanfitError: output_not_writable."""
    assert options.out is not None
    check_output(options.out)
    bundle = _already_there(row.photos, options)
    if bundle is None:
        return False
    _done(row, bundle)
    row.state = SKIPPED
    return True


def _done(row: Row, bundle: Bundle) -> None:
    row.state, row.bundle, row.warnings = DONE, str(bundle.path), list(bundle.result.get("warnings", []))
    row.figures = _figures(bundle)


def _failed(row: Row, error: Exception) -> None:
    known = as_ganfit_error(error)
    if known.code == "internal":
        traceback.print_exception(error, file=sys.stderr)
    row.state, row.error = (CANCELLED if known.code == "cancelled" else FAILED), known.to_dict()


def _figures(bundle: Bundle) -> dict[str, float]:
    """`FIGURES` of a result, as far as it has them."""
    losses = bundle.result.get("losses", {})
    found = {name: float(losses[name][-1]) for name in FIGURES if losses.get(name)}
    return found | {"scale": float(bundle.result["shape"]["scale"])}


def _already_there(photos: list[str], options: Options) -> Bundle | None:
    """The bundle at `options.out` if it is whole and was made of these photos with these options."""
    assert options.out is not None
    try:
        bundle = read_bundle(options.out)
        made_of = [view["photo"]["sha256"] for view in bundle.result["views"]]
        made_with = {**bundle.result["options"], "out": options.out}
        same = made_of == [_sha256(photo) for photo in photos] and made_with == options.to_dict()
        return bundle if same and bundle.head and len(bundle.landmarks) else None
    except (GanfitError, OSError, KeyError, TypeError):
        return None


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def batch_folder(options: Options) -> Path:
    """The batch's own folder, made now, so that a folder that cannot be written is said before the first fit."""
    if options.out is None:
        raise GanfitError("bad_option", "A batch needs an output folder.")
    out = Path(options.out).expanduser().absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".{TABLE_JSON}.part"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:
        raise output_error(error, out) from error
    return out


def _people_in(folder: Path) -> list[tuple[str, list[Path]]]:
    people = []
    for item in _visible(folder):
        if item.is_dir():
            inside = _visible(item)
            if any(file.name in (RESULT, TABLE_JSON) for file in inside):
                continue  # the output of this batch or of another
            photos = [file for file in inside if file.is_file() and file.suffix.lower() in SUFFIXES]
            people += [(item.name, photos)] if photos else []
        elif item.suffix.lower() in SUFFIXES:
            people.append((item.stem, [item]))
    return people


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise GanfitError("photo_unreadable", f"The folder {folder} cannot be read: {error.strerror}.") from error


def _unique(name: str, taken: set[str]) -> str:
    """A folder name that no one has yet, also where upper and lower case are the same."""
    name = name.strip(" .") or "person"
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


def _labelled(progress: Report | None, label: str) -> Report | None:
    if progress is None:
        return None
    return lambda stage, step, steps, losses, eta, preview: progress(
        f"{label}: {stage}", step, steps, losses, eta, preview
    )
