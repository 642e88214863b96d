# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual says what the code does: codes, weights, presets, options, files, labels, links, pictures."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

from backend import cli, errors
from backend.fit.config import PRESETS, LossWeights
from backend.options import CHOICES, Options
from ganfit_blender import errors as addon_errors
from ganfit_blender import manual, ui_strings

PICTURE_BYTES, ALL_PICTURES_BYTES = 120_000, 1_000_000
PAGES = sorted(path.stem for path in manual.FOLDER.glob("*.md"))


def table(page: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with `first`, by their first cell without its backquotes."""
    lines = manual.page_text(page).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_every_error_code_has_one_entry_and_none_is_stale() -> None:
    entries = re.findall(r"^### `(\w+)`$", manual.page_text(manual.TROUBLESHOOTING), re.M)
    assert sorted(entries) == sorted({*errors.CODES, *addon_errors.CODES})


def test_every_entry_says_something_and_is_found() -> None:
    lines = manual.page_text(manual.TROUBLESHOOTING).splitlines()
    for code in {*errors.CODES, *addon_errors.CODES}:
        line = manual.line_of(manual.TROUBLESHOOTING, code)
        assert lines[line] == f"### `{code}`" and len(lines[line + 1]) > 40, code
    assert manual.line_of(manual.TROUBLESHOOTING, "no_such_code") == 0


def test_the_weights_are_the_default_ones() -> None:
    said = {name: float(cells[0]) for name, cells in table("how_it_works", "weight").items()}
    assert said == dataclasses.asdict(LossWeights())


def test_the_presets_are_as_said() -> None:
    said = {}
    for name, (align, stages, maps) in table("how_it_works", "preset").items():
        numbers = [tuple(map(int, re.findall(r"\d+", stage))) for stage in stages.split(";")]
        said[name] = (int(align), numbers, int(maps))
    assert said == {
        name: (c.align_steps, [(s.iterations, s.crop_size, s.texture_size) for s in c.stages], c.albedo_size)
        for name, c in PRESETS.items()
    }


def test_the_command_line_s_options_are_all_there() -> None:
    said = table("command_line", "option")
    switches = {"refine", "hair", "glasses"}
    names = {field.name.replace("_", "-") for field in dataclasses.fields(Options)} - switches - {"out"}
    assert set(said) == {f"--{name}" for name in names} | {f"--no-{name}" for name in switches} | {"--json"}
    for name, values in CHOICES.items():
        assert re.findall(r"`(\w+)`", said[f"--{name}"][0]) == list(values)


def test_the_commands_that_are_shown_are_understood() -> None:
    """Every `python -m backend ...` names a command that exists; reconstruct, batch and refit parse whole."""
    parser, seen = cli._parser(), 0
    for page in PAGES:
        for line in re.findall(r"python -m backend ([a-z].*)", manual.page_text(page)):
            words = line.split("#")[0].split("`")[0].strip().rstrip(".,;:").split()
            if words[0] in ("reconstruct", "batch", "refit") and "--out" in words and "${" not in line:
                parser.parse_args(words)
                seen += 1
            else:
                commands = {name[0] for name in cli.DELEGATES} | set(parser._subparsers._group_actions[0].choices)
                assert words[0] in commands, line
    assert seen > 5


def test_the_labels_that_are_named_exist() -> None:
    """What blender.md prints in italics is a label of the panel or of Blender."""
    blender = {"Edit > Preferences > Get Extensions", "Install from Disk", "Material Preview", "Online Access"}
    messages = {text for text in ui_strings.MESSAGES.values() if len(text) < 20}
    known = {text.label.rstrip(".") for text in ui_strings.TEXTS.values()} | blender | messages
    text = re.sub(r"```.*?```", "", manual.page_text("blender"), flags=re.S)
    named = {" ".join(label.split()) for label in re.findall(r"(?<![*\w])\*([^*]+)\*(?![*\w])", text)}
    of_material = named - known
    material = (manual.FOLDER.parent / "importer" / "material.py").read_text()
    assert not {label for label in of_material if f'"{label}"' not in material}


@pytest.mark.parametrize("page", ["README.md", *(f"ganfit_blender/manual/{page}.md" for page in PAGES)])
def test_links_and_files_are_there(page: str, repo_root: Path) -> None:
    path = repo_root / page
    text = path.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (path.parent / link.split("#")[0]).exists()]
    files = re.findall(r"`((?:backend|ganfit_blender|tests)/[\w/.]+)`", text)
    assert not [file for file in files if not (repo_root / file).exists()]
    pages = re.findall(r"`(\w+\.md)`", text)
    assert not [name for name in pages if name.removesuffix(".md") not in PAGES]


def test_pictures_are_small_and_used(repo_root: Path) -> None:
    pictures = sorted((manual.FOLDER / "pictures").iterdir())
    assert pictures
    pages = "".join(path.read_text("utf-8") for path in [repo_root / "README.md", *manual.FOLDER.glob("*.md")])
    for picture in pictures:
        assert picture.stat().st_size < PICTURE_BYTES and f"pictures/{picture.name}" in pages, picture.name
        assert min(Image.open(picture).size) > 100
    assert sum(picture.stat().st_size for picture in pictures) < ALL_PICTURES_BYTES
