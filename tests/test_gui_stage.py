# SPDX-License-Identifier: GPL-3.0-or-later
"""The windowed test as a stage of CI: a machine that cannot do it is told from a test that fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build

ROOT = Path(__file__).resolve().parent.parent
GUI = ROOT / "tests" / "gui"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, GUI / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def blender_root(monkeypatch):
    module = load("blender_root")
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    return module


@pytest.mark.skipif(not shutil.which("bash"), reason="CI's script is bash")
@pytest.mark.parametrize(("codes", "expected", "verbs"), [
    ({"test": 0, "gui-test": 0}, 0, ["test", "gui-test"]),
    ({"test": 0, "gui-test": 77}, 0, ["test", "gui-test"]),
    ({"test": 0, "gui-test": 1}, 1, ["test", "gui-test"]),
    ({"test": 0, "gui-test": 130}, 130, ["test", "gui-test"]),
    ({"test": 1, "gui-test": 0}, 1, ["test"]),
])
def test_ci_accepts_that_a_machine_cannot_and_nothing_else(tmp_path, codes, expected, verbs):
    fake = tmp_path / "python3"
    cases = "\n".join(f'    "{verb}") exit {code};;' for verb, code in codes.items())
    fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$2" >> {tmp_path}/verbs\ncase "$2" in\n{cases}\nesac\n')
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([str(ROOT / ".ci" / "run")], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == expected
    assert (tmp_path / "verbs").read_text().split() == verbs
    assert ("not run on this machine" in done.stdout) == (codes["gui-test"] == 77 and codes["test"] == 0)


def test_build_hands_on_that_a_machine_cannot(tmp_path, capsys):
    script = tmp_path / "script.py"
    for code, kind in ((77, build.NotHere), (1, build.BuildError)):
        script.write_text(f"raise SystemExit({code})")
        with pytest.raises(build.BuildError) as raised:
            build.attached("GUI test", [sys.executable, script], {})
        assert type(raised.value) is kind and raised.value.status == code


def test_an_ordinary_user_is_told_why(blender_root, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    with pytest.raises(blender_root.NotHere, match="root on Linux"):
        blender_root.check()


@pytest.mark.skipif(sys.platform != "linux", reason="the root is Linux's")
def test_a_machine_without_namespaces_is_told_why(blender_root, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(blender_root, "OWN", ("sh", "-c", "echo unshare: Operation not permitted >&2; exit 1"))
    with pytest.raises(blender_root.NotHere, match="Operation not permitted"):
        blender_root.check()


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
def test_a_registry_that_is_away_for_a_moment_is_asked_again(blender_root, tmp_path, capsys):
    tries = tmp_path / "tries"
    script = f'echo x >> {tries}; echo "E: no route" >&2; echo done >&2; [ $(wc -l < {tries}) = 3 ]'
    blender_root._again_and_again(["sh", "-c", script], "mmdebstrap")
    assert len(tries.read_text().split()) == 3
    assert "attempt 2 of 3: E: no route" in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
def test_a_registry_that_stays_away_ends_in_one_sentence(blender_root):
    with pytest.raises(blender_root.NotHere, match="mmdebstrap did not get its packages.*no such suite"):
        blender_root._again_and_again(["sh", "-c", "echo 'E: no such suite' >&2; exit 100"], "mmdebstrap")


def test_a_root_that_is_there_is_taken(blender_root, tmp_path, monkeypatch):
    monkeypatch.setattr(blender_root, "_again_and_again", lambda *_: pytest.fail("made anew"))
    (tmp_path / "trixie.root.ready").write_text(" ".join(["trixie", *blender_root.PACKAGES]))
    blender_root.make(tmp_path / "trixie", "trixie")
