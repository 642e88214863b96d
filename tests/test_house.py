# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house: who may import whom, licence headers, nothing that unpickles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HEADER = "# SPDX-License-Identifier: GPL-3.0-or-later"
FORBIDDEN = {
    "ganfit_blender": {"torch", "backend", "scipy", "PIL", "pip"},  # Blender's own Python has the stdlib and numpy
    "backend": {"bpy", "mathutils", "ganfit_blender", "pickle"},
    "backend/render": {"backend.fit", "backend.networks", "backend.texture"},  # render knows tensors, not faces
    "backend/head": {"backend.fit", "backend.render", "backend.texture"},  # models never know the fit
    "backend/networks": {"backend.fit", "backend.render", "backend.texture", "backend.head"},
}


def sources(root: Path, folder: str) -> Iterator[Path]:
    """The Python files of a folder."""
    return (path for path in sorted((root / folder).rglob("*.py")) if "__pycache__" not in path.parts)


def imports(path: Path, root: Path) -> set[str]:
    """Absolute names of what a file imports, wherever in the file, with all their parents."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
            base = base if node.level else node.module or ""
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_dependencies_point_one_way(folder, repo_root):
    found = {
        str(path.relative_to(repo_root)): imports(path, repo_root) & FORBIDDEN[folder]
        for path in sources(repo_root, folder)
    }
    assert found and not {path: names for path, names in found.items() if names}


def test_every_source_names_its_licence_and_what_it_does(repo_root):
    wrong = []
    for path in [
        repo_root / "build.py",
        *(p for f in ("backend", "ganfit_blender", "tests") for p in sources(repo_root, f)),
    ]:
        text = path.read_text(encoding="utf-8")
        if text.split("\n", 1)[0] != HEADER or not ast.get_docstring(ast.parse(text)):
            wrong.append(str(path.relative_to(repo_root)))
    assert not wrong


def test_nothing_unpickles(repo_root):
    """np.load unpickles only when told to; torch.load has to be told not to."""
    wrong = []
    for path in [p for folder in ("backend", "ganfit_blender") for p in sources(repo_root, folder)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                allows = "allow_pickle=True" in call and call.startswith("np.load")
                unsafe = call.startswith("torch.load") and "weights_only=True" not in call
                if allows or unsafe:
                    wrong.append(f"{path.relative_to(repo_root)}:{node.lineno}")
    assert not wrong
