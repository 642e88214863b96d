# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests share: where things are, one photo, one reconstruction of it; each skips with its reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell's background job; child processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developer data folder (env GANFIT_SHARED, default ../shared); the tests that need it skip without it."""
    folder = Path(os.environ.get("GANFIT_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip("the developer data folder is not here (set GANFIT_SHARED)")
    return folder


@pytest.fixture(scope="session")
def bpy_python() -> Path:
    """A Python that imports bpy (env GANFIT_BPY_PYTHON, default what build.py made)."""
    default = ROOT / ".env" / "blender" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = Path(os.environ.get("GANFIT_BPY_PYTHON") or default)
    if not python.exists():
        pytest.skip("no Python with bpy (run the tests through `python3 build.py test`, or set GANFIT_BPY_PYTHON)")
    return python


@pytest.fixture(scope="session")
def extension_zip(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension's zip, validated and built by Blender's own tool, as `build.py package` does it."""
    import build

    return build.build_zip(bpy_python, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def gltf_validator() -> Path:
    """The folder of the npm package gltf-validator (env GANFIT_GLTF_VALIDATOR, default what build.py made)."""
    default = ROOT / ".env" / "node" / "node_modules" / "gltf-validator"
    folder = Path(os.environ.get("GANFIT_GLTF_VALIDATOR") or default)
    if not (folder / "package.json").is_file():
        pytest.skip("gltf-validator is not installed (needs Node.js; `python3 build.py test` installs it)")
    return folder


@pytest.fixture(scope="session")
def head_files() -> Path:
    """The folder of the head model's files."""
    from backend import assets
    from backend.errors import GanfitError

    try:
        return assets.require("makehuman")
    except GanfitError as error:
        pytest.skip(f"the head model's files are not installed ({error.hint})")


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """The sample photo: NASA's portrait of Eileen Collins, public domain, 512x512, out of scikit-image."""
    skimage = pytest.importorskip("skimage")
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


def pytest_configure() -> None:
    """Two threads in this process and its children: what the project's speeds are stated for."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
