# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line as a real process: exit status, what goes to stdout and stderr, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_bundle import contents

from backend.bundle import read_bundle, write_bundle

ROOT = Path(__file__).resolve().parent.parent
DRAFT = ("--preset", "draft", "--iterations", "2", "--device", "cpu")


def run(*arguments: str | Path, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, **kwargs)


def fails(done: subprocess.CompletedProcess[str], code: str) -> None:
    """Exit status 1, `code: sentence` and a hint on stderr, no traceback."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert lines[-2].startswith(f"{code}: ") and lines[-2].endswith(".") and lines[-1], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("reconstruct",),
        ("reconstruct", "me.jpg"),
        ("reconstruct", "--out", "x"),
        ("reconstruct", "me.jpg", "--out", "x", "--preset", "fast"),
        ("reconstruct", "me.jpg", "--out", "x", "--seed", "many"),
        ("assets", "sell"),
        ("train",),
        ("render",),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("usage:") and not done.stdout


def test_help_names_every_command_without_torch() -> None:
    done = run("--help")
    commands = ("reconstruct", "refit", "batch", "serve", "doctor", "assets", "render", "ablation", "train")
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")}
    assert done.returncode == 0 and listed >= set(commands)
    quick = subprocess.run(
        [sys.executable, "-c", "import sys, backend.cli, backend.worker, backend.batch; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert quick.stdout == "False\n", quick.stderr


def test_a_value_that_is_not_allowed_is_a_clear_error(tmp_path: Path) -> None:
    fails(run("reconstruct", "me.jpg", "--out", tmp_path / "x", "--seed", "-3"), "bad_option")


def test_photo_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    fails(run("reconstruct", tmp_path / "no.jpg", "--out", tmp_path / "out"), "photo_missing")
    fails(run("reconstruct", tmp_path, "--out", tmp_path / "out"), "photo_is_folder")
    done = run("reconstruct", tmp_path / "empty.jpg", "--out", tmp_path / "out", "--json")
    fails(done, "photo_empty")
    assert json.loads(done.stdout)["error"]["code"] == "photo_empty"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["empty.jpg"]


def test_output_errors_come_before_the_fit(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    fails(run("reconstruct", "me.jpg", "--out", tmp_path), "output_not_a_bundle")
    fails(run("reconstruct", "me.jpg", "--out", tmp_path / "thesis.txt"), "output_not_writable")
    fails(run("batch", tmp_path, "--out", tmp_path / "out"), "no_photo")


def test_assets_json() -> None:
    done = run("assets", "list", "--json")
    assert done.returncode == 0 and {"makehuman", "facenet"} <= {a["name"] for a in json.loads(done.stdout)["assets"]}
    done = run("assets", "verify", "makehuman", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == {"problems": {"makehuman": []}}
    fails(run("assets", "install", "gold"), "asset_unknown")


def test_render_refuses_a_bad_bundle(tmp_path: Path) -> None:
    fails(run("render", tmp_path), "bundle_missing")
    write_bundle(tmp_path / "me", contents())
    (tmp_path / "me" / "head.glb").unlink()
    fails(run("render", tmp_path / "me"), "bundle_damaged")


# --- with the real pipeline ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A reconstruction through a pipe, with --json."""
    out = tmp_path_factory.mktemp("cli") / "me"
    return out, run("reconstruct", astronaut, "--out", out, *DRAFT, "--json")


def test_reconstruct_through_a_pipe(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, process = done
    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout)
    assert summary["bundle"] == str(out) and summary["seconds"] > 0 and summary["losses"]
    assert "\x1b" not in process.stderr, "a pipe gets no terminal codes"
    assert any(line.startswith("fit") for line in process.stderr.splitlines())
    assert read_bundle(out).result["options"]["preset"] == "draft"


def test_render_rebuilds_the_same_files(done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    out, _ = done
    again = run("render", out, "--out", tmp_path / "again", "--device", "cpu", "--json")
    assert again.returncode == 0, again.stderr
    equal = json.loads(again.stdout)["equal"]
    assert {"head.npz", "head.glb", "albedo.png", "landmarks68.json", "render_00.png"} <= set(equal)
    assert all(equal.values()), equal
    assert read_bundle(tmp_path / "again").result["shape"] == read_bundle(out).result["shape"]


def test_refit(done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Two ways to give pins, and only the options that are given change."""
    out, _ = done
    x, y = read_bundle(out).result["views"][0]["landmarks"][4]
    pin = {"view": 0, "index": 1, "x": x, "y": y}
    (tmp_path / "pins.json").write_text(json.dumps([pin]))
    again = run("refit", out, "--out", tmp_path / "again", "--pin", f"0,68:30,{x},{y}", "--pins",
                tmp_path / "pins.json", "--seed", "5", "--json")
    assert again.returncode == 0, again.stderr
    result = read_bundle(tmp_path / "again").result
    assert result["pins"] == [pin, {**pin, "index": "68:30"}] and result["seed"] == 5
    assert result["options"]["preset"] == "draft" and result["options"]["iterations"] == 2
    fails(run("refit", out, "--out", tmp_path / "x", "--pin", "0,1,2"), "bad_pin")
    fails(run("refit", out, "--out", tmp_path / "x", "--pins", tmp_path / "none.json"), "bad_pin")
    fails(run("refit", tmp_path, "--out", tmp_path / "x"), "bundle_missing")


def test_no_face(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(tmp_path / "noise.png")
    fails(run("reconstruct", tmp_path / "noise.png", "--out", tmp_path / "out", *DRAFT), "no_face")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_terminal(astronaut: Path, tmp_path: Path, number: int) -> None:
    """A terminal gets a live bar; Ctrl-C ends with status 130 (SIGTERM: 143) and leaves nothing behind."""
    main, side = pty.openpty()
    out, scratch = tmp_path / "out" / "me", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "backend", "reconstruct", str(astronaut), "--out", str(out)]
    command += ["--preset", "draft", "--iterations", "100000", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(scratch), "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    seen, end, sent = b"", time.monotonic() + 240, False
    while process.poll() is None and time.monotonic() < end:
        try:
            seen += os.read(main, 65536)
        except OSError:
            break
        if b"left" in seen and not sent:
            sent = True
            process.send_signal(number)
    try:
        assert process.wait(60) == 128 + number, seen[-2000:]
    finally:
        process.kill()
        os.close(main)
    assert sent and b"\x1b[" in seen
    assert number == signal.SIGTERM or b"cancelled: " in seen
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert not list(scratch.glob("ganfit-*"))


def test_batch(astronaut: Path, tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.mkdir()
    (people / "a.png").write_bytes(astronaut.read_bytes())
    (people / "b.jpg").write_bytes(b"no photo")
    process = run("batch", people, "--out", tmp_path / "out", *DRAFT, "--json")
    assert process.returncode == 1, "one of them failed"
    assert json.loads(process.stdout)["counts"] == {"done": 1, "failed": 1}, process.stderr
    read_bundle(tmp_path / "out" / "a")
    assert (tmp_path / "out" / "batch.csv").is_file()
