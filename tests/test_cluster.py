# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch on a Ray cluster: two nodes on this machine, one of them killed in mid-run; and the claims by themselves."""
from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backend import cluster
from backend.bundle import is_whole
from backend.cluster import claimed, run_cluster
from backend.errors import GanfitError
from backend.options import Options

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = 6


def hold(file: str, log: str, seconds: float) -> None:
    """Notes when it has a claim and when it gives it back."""
    with claimed(Path(file)):
        with open(log, "a") as stream:
            stream.write("in\n")
            stream.flush()
            time.sleep(seconds)
            stream.write("out\n")


def test_a_claim_is_held_by_one(tmp_path: Path) -> None:
    """Four processes want it at once: they have it one after the other, and nothing is left."""
    file, log = tmp_path / "claims" / "ada", tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    rivals = [spawn.Process(target=hold, args=(str(file), str(log), 0.3)) for _ in range(4)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(120)
        assert rival.exitcode == 0
    assert log.read_text().split() == ["in", "out"] * 4
    assert not list(file.parent.iterdir())


def test_a_claim_of_the_dead_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After STALE_S without a sign of life, not before, and whatever the clock of this machine says."""
    monkeypatch.setattr(cluster, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(cluster, "STALE_S", 0.6)
    file = tmp_path / "ada"
    file.write_text("a machine that is gone")
    start = time.monotonic()
    with claimed(file):
        assert 0.4 < time.monotonic() - start < 20
        first = file.stat().st_mtime
        time.sleep(1.0)
        assert file.stat().st_mtime > first, "its own is kept alive"
    assert not list(tmp_path.iterdir())


def test_without_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GanfitError) as error:
        run_cluster([tmp_path / "a.png"], Options(out=str(tmp_path / "out")), "127.0.0.1:9")
    assert error.value.code == "cluster_unavailable" and "requirements-cluster" in error.value.hint


def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    (tmp_path / "a.png").touch()
    start = time.monotonic()
    with pytest.raises(GanfitError) as error:
        run_cluster([tmp_path / "a.png"], Options(out=str(tmp_path / "out")), "127.0.0.1:9")
    assert error.value.code == "cluster_unavailable" and "127.0.0.1:9" in error.value.message
    assert time.monotonic() - start < 60


class Watch(threading.Thread):
    """Sees every result that ever stood in a folder: name -> the files of `result.json` by their inode. What is still
    being written, in a folder whose name begins with a dot, is none."""

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self.out, self.seen, self.ended = out, {}, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for file in self.out.glob("[!.]*/result.json"):
                try:
                    self.seen.setdefault(file.parent.name, set()).add((file.stat().st_ino, file.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue


def test_one_of_two_nodes_is_killed_in_mid_run(astronaut: Path, tmp_path: Path, monkeypatch) -> None:
    """Everyone is done, nobody twice, with one table at the end, though half of the machines went away."""
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(PEOPLE):
        (photos / f"p{number}.png").write_bytes(astronaut.read_bytes())
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    second = nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    watch = Watch(out)
    command = [sys.executable, "-m", "backend", "batch", str(photos), "--out", str(out), "--cluster", nodes.address,
               "--preset", "draft", "--iterations", "2", "--device", "cpu", "--json"]  # fmt: skip
    try:
        watch.start()
        batch = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        end = time.monotonic() + 240
        while len(watch.seen) < 2 or not list((out / ".claims").glob("p*")):  # both at work, people left to do
            assert time.monotonic() < end and batch.poll() is None, batch.communicate()
            time.sleep(0.05)
        assert len(watch.seen) < PEOPLE - 1, "the run is over too soon to kill anything in it"
        nodes.remove_node(second, allow_graceful=False)
        said, log = batch.communicate(timeout=300)
    finally:
        watch.ended.set()
        nodes.shutdown()
    report = json.loads(said.splitlines()[-1])
    assert batch.returncode == 1 and report["counts"] == {"done": PEOPLE, "failed": 1}, (report, log[-3000:])
    table = json.loads((out / "batch.json").read_text())["people"]
    assert [row["name"] for row in table] == sorted(row["name"] for row in report["people"])
    assert {row["name"]: row["state"] for row in table} == {
        "broken": "failed", **{f"p{i}": "done" for i in range(PEOPLE)}}  # fmt: skip
    assert {name: len(files) for name, files in watch.seen.items()} == {f"p{i}": 1 for i in range(PEOPLE)}
    assert all(is_whole(out / f"p{i}") for i in range(PEOPLE))
    assert sorted(p.name for p in out.iterdir()) == ["batch.csv", "batch.json", *(f"p{i}" for i in range(PEOPLE))]
