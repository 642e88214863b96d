# SPDX-License-Identifier: GPL-3.0-or-later
"""The batch around the fit: who is in a folder, what is skipped, and that one bad photo never stops the rest."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from test_bundle import contents

from backend.batch import Row, find_people, run_batch
from backend.bundle import Bundle, write_bundle
from backend.errors import GanfitError
from backend.options import Options


class Fit:
    """Stands in for `backend.reconstruct`: writes a small whole bundle, or fails as the photo's name says."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stop_after = 99

    def __call__(self, photos, options, progress=None, cancel=None) -> Bundle:
        name = Path(photos[0]).stem
        self.done.append(name)
        if name == "blank":
            raise GanfitError("no_face", "No face was found.")
        if name == "crash":
            raise ZeroDivisionError("division by zero")
        if cancel and cancel():
            raise GanfitError("cancelled", "Stopped.")
        if progress:
            progress("fit", 1, 2, {"total": 1.0}, 3.0, None)
        files = contents()
        result = json.loads(files["result.json"])
        view = result["views"][0]
        shas = [hashlib.sha256(Path(photo).read_bytes()).hexdigest() for photo in photos]
        result["views"] = [{**view, "photo": {**view["photo"], "sha256": sha}} for sha in shas]
        result |= {"options": options.to_dict(), "warnings": [f"{name} is fine."]}
        return write_bundle(options.out, files | {"result.json": json.dumps(result).encode()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four people: one of them in two photos, one without a face, one whose fit crashes; and what is to be ignored."""
    root = tmp_path / "people"
    (root / "carol").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in ("anna.JPG", "blank.png", "crash.webp", "carol/1.jpg", "carol/2.jpg", ".hidden.jpg", "notes.txt"):
        (root / name).write_bytes(name.encode())
    return root


def states(rows: list[Row]) -> dict[str, str]:
    return {row.name: row.state for row in rows}


class FitTogether:
    """Stands in for `reconstruct_together`: `Fit` for each of several people."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.one = Fit()

    def __call__(self, people, progress=None, cancel=None) -> list[Bundle | Exception]:
        self.groups.append([Path(options.out).name for _, options in people])
        found: list[Bundle | Exception] = []
        for photos, options in people:
            try:
                found.append(self.one(photos, options, progress, cancel))
            except Exception as error:
                found.append(error)
        return found


def test_people_are_fitted_together_in_groups(folder: Path, tmp_path: Path) -> None:
    """Three at once: the same rows as one by one; who is there already is left out of the groups; a crash of all of a
    group is said in each of its rows."""
    out, several = tmp_path / "out", FitTogether()
    rows = run_batch([folder], Options(out=str(out)), Fit(), several=several, together=3)
    assert several.groups == [["anna", "blank", "carol"], ["crash"]]
    assert states(rows) == states(run_batch([folder], Options(out=str(tmp_path / "single")), Fit()))
    assert all(row.bundle for row in rows if row.state == "done")
    shutil.rmtree(out / "carol")
    again = FitTogether()
    assert states(run_batch([folder], Options(out=str(out)), Fit(), several=again, together=4))["anna"] == "skipped"
    assert again.groups == [["blank", "carol", "crash"]]

    def broken(people, progress=None, cancel=None):
        raise MemoryError("out of memory")

    rows = run_batch([folder], Options(out=str(tmp_path / "broken")), Fit(), several=broken, together=4)
    assert {row.state for row in rows} == {"failed"}
    with pytest.raises(GanfitError) as caught:
        run_batch([folder], Options(out=str(out)), Fit(), several=FitTogether(), together=0)
    assert caught.value.code == "bad_option"


def test_who_is_in_a_folder(folder: Path) -> None:
    rows = find_people([folder])
    assert {row.name: [Path(photo).name for photo in row.photos] for row in rows} == {
        "anna": ["anna.JPG"],
        "blank": ["blank.png"],
        "carol": ["1.jpg", "2.jpg"],
        "crash": ["crash.webp"],
    }


def test_equal_names_get_numbers(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "A.webp"):
        (tmp_path / name).touch()
    assert sorted(row.name for row in find_people([tmp_path])) == ["A", "a_2", "a_3"]


def test_nobody_is_an_error(tmp_path: Path) -> None:
    for given, code in (([tmp_path], "no_photo"), ([], "no_photo"), ([tmp_path / "no"], "photo_missing")):
        with pytest.raises(GanfitError) as caught:
            find_people(given)
        assert caught.value.code == code


def test_one_bad_photo_never_stops_the_rest(folder: Path, tmp_path: Path) -> None:
    out, stages = tmp_path / "out", []
    rows = run_batch([folder], Options(out=out), Fit(), progress=lambda *report: stages.append(report[0]))
    assert states(rows) == {"anna": "done", "blank": "failed", "carol": "done", "crash": "failed"}
    assert stages == ["anna (1/4): fit", "carol (3/4): fit"]
    table = json.loads((out / "batch.json").read_text())
    assert table["version"] == 1 and [person["state"] for person in table["people"]] == list(states(rows).values())
    assert table["people"][1]["error"]["code"] == "no_face" and table["people"][3]["error"]["code"] == "internal"
    assert table["people"][0]["warnings"] == ["anna is fine."]
    with open(out / "batch.csv", newline="", encoding="utf-8-sig") as sheet:
        lines = list(csv.DictReader(sheet))
    assert [line["code"] for line in lines] == ["", "no_face", "", "internal"]
    assert sorted(item.name for item in out.iterdir()) == ["anna", "batch.csv", "batch.json", "carol"]


def test_what_is_there_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    options, fit = Options(out=tmp_path / "out"), Fit()
    run_batch([folder], options, fit)
    fit.done.clear()
    rows = run_batch([folder], options, fit)
    assert states(rows) == {"anna": "skipped", "blank": "failed", "carol": "skipped", "crash": "failed"}
    assert fit.done == ["blank", "crash"] and rows[0].bundle == str(tmp_path / "out" / "anna")

    (folder / "anna.JPG").write_bytes(b"another photo")
    (tmp_path / "out" / "carol" / "albedo.png").write_bytes(b"damaged")
    assert states(run_batch([folder], options, fit)) | {"blank": "", "crash": ""} == {
        "anna": "done",
        "carol": "done",
        "blank": "",
        "crash": "",
    }
    assert states(run_batch([folder], options.replace(seed=1), fit))["anna"] == "done"
    assert states(run_batch([folder], options.replace(seed=1), fit))["anna"] == "skipped"


def test_the_table_says_who_is_running_and_what_came_out(folder: Path, tmp_path: Path) -> None:
    """Read by another process in the middle of the batch, and its figures at the end."""
    seen, out = [], tmp_path / "out"

    def look(*report: object) -> None:
        people = json.loads((out / "batch.json").read_text())["people"]
        seen.append({person["name"]: person["state"] for person in people})

    run_batch([folder], Options(out=out), Fit(), progress=look)
    assert seen == [{"anna": "running", "blank": "waiting", "carol": "waiting", "crash": "waiting"},
                    {"anna": "done", "blank": "failed", "carol": "running", "crash": "waiting"}]
    with open(out / "batch.csv", newline="", encoding="utf-8-sig") as sheet:
        first, second = list(csv.DictReader(sheet))[:2]
    result = json.loads(contents()["result.json"])
    assert float(first["scale"]) == pytest.approx(result["shape"]["scale"]) and second["scale"] == ""
    assert json.loads((out / "batch.json").read_text())["people"][0]["figures"]["scale"] == result["shape"]["scale"]


def test_results_beside_the_photos_are_no_people(folder: Path) -> None:
    """The output may lie in the very folder of the photos, and a second run finds the same people."""
    first = run_batch([folder], Options(out=folder), Fit())
    again = run_batch([folder], Options(out=folder), Fit())
    assert [row.name for row in again] == [row.name for row in first]


def test_cancel_keeps_what_is_done(folder: Path, tmp_path: Path) -> None:
    fit = Fit()
    rows = run_batch([folder], Options(out=tmp_path / "out"), fit, cancel=lambda: len(fit.done) >= 2)
    assert states(rows) == {"anna": "done", "blank": "failed", "carol": "cancelled", "crash": "cancelled"}
    assert [p["state"] for p in json.loads((tmp_path / "out" / "batch.json").read_text())["people"]][2:] == [
        "cancelled",
        "cancelled",
    ]


def test_a_folder_that_cannot_be_written_is_said_first(folder: Path, tmp_path: Path) -> None:
    fit = Fit()
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(GanfitError) as caught:
            run_batch([folder], Options(out=out), fit)
        assert caught.value.code == "output_not_writable"
    with pytest.raises(GanfitError):
        run_batch([folder], Options(), fit)
    assert fit.done == []


def test_a_foreign_folder_in_the_way_fails_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "anna").mkdir(parents=True)
    (tmp_path / "out" / "anna" / "thesis.txt").touch()
    rows = run_batch([folder], Options(out=tmp_path / "out"), Fit())
    assert rows[0].error and rows[0].error["code"] == "output_not_a_bundle" and states(rows)["carol"] == "done"
