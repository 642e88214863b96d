# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends, full disks, little memory, jumping clocks and rivals: no result lost or half written, the next job works."""
from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_bundle import contents
from test_worker import Client

from backend import bundle as bundle_module
from backend import protocol
from backend.bundle import check_output, is_whole, read_bundle, write_bundle
from backend.errors import GanfitError

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("photos", "models", "face", "align", "fit", "bundle")
ENDS = ("kill", "kill", "stdin", "term", "parent", "kill")
SHORT = {"preset": "draft", "iterations": 1, "device": "cpu"}
ENDLESS = {"preset": "draft", "iterations": 100_000, "device": "cpu"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes and /proc are Linux's")


def until_stage(client: Client, job: str, stage: str) -> None:
    """Waits until a job says that it has come to a stage (to the first iteration of the fit)."""

    def there(message: Any) -> bool:
        if message.get("method") == protocol.JOB_FINISHED and message["params"]["job_id"] == job:
            raise AssertionError(f"finished before {stage}: {message}")
        params = message.get("params", {})
        here = message.get("method") == protocol.JOB_PROGRESS and params["job_id"] == job and params["stage"] == stage
        return here and (stage != "fit" or params["step"] > 0)

    client.wait_for(there)


def start(client: Client, photo: Path, out: Path, options: dict[str, Any]) -> str:
    """Asks for a reconstruction; the job's id."""
    return client.call(protocol.RECONSTRUCT, photos=[str(photo)], out=str(out), options=options)["result"]["job_id"]


def children_of(scratch: Path) -> list[int]:
    """Processes that have this temporary folder in their environment: a worker and whatever it has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={scratch}".encode() + b"\0" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def gone(scratch: Path, seconds: float = 40.0) -> bool:
    """Whether all processes of a worker end within some seconds."""
    end = time.monotonic() + seconds
    while children_of(scratch) and time.monotonic() < end:
        time.sleep(0.1)
    return not children_of(scratch)


def seed_of(out: Path) -> int:
    return read_bundle(out).result["seed"]


PARENT = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from test_worker import Client
from test_robust_faults import ENDLESS, start, until_stage
client = Client(Path({scratch!r}))
until_stage(client, start(client, Path({photo!r}), Path({out!r}), ENDLESS), "fit")
print("fitting", flush=True)
time.sleep(600)
"""


@linux
@pytest.mark.parametrize(("stage", "end"), list(zip(STAGES, ENDS)))
def test_an_end_at_any_stage_loses_nothing(stage: str, end: str, astronaut: Path, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM, the client that closes the pipe or is killed itself (Blender closed in mid-fit): the older
    result stays whole or the new one is there, no process stays, and the folder takes the next result."""
    scratch, out = tmp_path / "scratch", tmp_path / "out" / "me"
    write_bundle(out, contents(seed=7))
    if end == "parent":
        code = PARENT.format(tests=str(ROOT / "tests"), root=str(ROOT), scratch=str(scratch), photo=str(astronaut),
                             out=str(out))  # fmt: skip
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        assert parent.stdout is not None and parent.stdout.readline() == b"fitting\n"
        assert children_of(scratch)
        parent.kill()
        parent.wait(10)
        parent.stdout.close()
    else:
        client = Client(scratch)
        until_stage(client, start(client, astronaut, out, SHORT), stage)
        if end == "stdin":
            client.process.stdin.close()
        else:
            client.process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
        client.process.wait(60)
        client.close()
    assert gone(scratch), "a process was left behind"
    if end != "kill":
        assert not list(scratch.glob("ganfit-*")), "temporary folders are removed"
    assert is_whole(out) and (seed_of(out) == 7 or stage in ("bundle", "face"))
    write_bundle(out, contents(seed=9))
    assert seed_of(out) == 9


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One worker whose limits the tests change and put back."""
    worker = Client(tmp_path_factory.mktemp("faults"))
    yield worker
    assert worker.close() == 0


def works(client: Client, photo: Path, out: Path) -> None:
    """The next job of a worker succeeds."""
    done = client.finished(start(client, photo, out, SHORT))
    assert done.get("bundle") == str(out), (done, client.text()[-3000:])
    assert is_whole(out)


def test_cancel_at_any_stage(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """The job ends as cancelled without a trace, or it was done already; the older result stays."""
    for stage in STAGES:
        out = tmp_path / stage / "me"
        write_bundle(out, contents(seed=7))
        job = start(warm, astronaut, out, SHORT if stage == "bundle" else ENDLESS)
        until_stage(warm, job, stage)
        warm.call(protocol.CANCEL, job_id=job)
        told = [m for m in warm.messages if m.get("method") == protocol.JOB_FINISHED and m["params"]["job_id"] == job]
        done = told[0]["params"] if told else warm.finished(job, 120)
        if stage == "bundle" and "bundle" in done:
            assert seed_of(out) == 0
        else:
            assert done["error"]["code"] == "cancelled" and seed_of(out) == 7, (stage, done)
        assert [path.name for path in out.parent.iterdir()] == ["me"]
    assert not list(warm.scratch.glob("ganfit-*"))
    works(warm, astronaut, tmp_path / "next")


@linux
def test_a_full_disk_in_the_worker(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 200 kB while the result is written: the older one stays, and then it works again."""
    out = tmp_path / "out" / "me"
    write_bundle(out, contents(seed=7))
    before = resource.prlimit(warm.process.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        done = warm.finished(start(warm, astronaut, out, SHORT))
    finally:
        resource.prlimit(warm.process.pid, resource.RLIMIT_FSIZE, before)
    assert done["error"]["code"] == "disk_full" and done["error"]["hint"], done
    assert seed_of(out) == 7 and [path.name for path in out.parent.iterdir()] == ["me"]
    works(warm, astronaut, out)
    assert seed_of(out) == 0


@linux
def test_little_memory_in_the_worker(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """The address space may hardly grow: the job ends with a sentence about memory, and then it works again."""
    works(warm, astronaut, tmp_path / "first")
    out = tmp_path / "out" / "me"
    write_bundle(out, contents(seed=7))
    used = int(Path(f"/proc/{warm.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    huge = tmp_path / "huge.png"
    Image.new("RGB", (9000, 9000), (120, 90, 80)).save(huge)  # 243 MB decoded
    before = resource.prlimit(warm.process.pid, resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
    try:
        done = warm.finished(start(warm, huge, out, SHORT))
    finally:
        resource.prlimit(warm.process.pid, resource.RLIMIT_AS, before)
    assert done["error"]["code"] == "out_of_memory" and done["error"]["hint"], (done, warm.text()[-3000:])
    assert seed_of(out) == 7 and [path.name for path in out.parent.iterdir()] == ["me"]
    works(warm, astronaut, out)


@linux
@pytest.mark.parametrize("out", ["/proc/me", "/proc/self/fd/me", "/sys/me", "/dev/null/me"])
def test_folders_in_which_nobody_writes(warm: Client, astronaut: Path, out: str) -> None:
    done = warm.finished(start(warm, astronaut, Path(out), SHORT), 60)
    assert done["error"]["code"] == "output_not_writable", done


# --- the bundle alone -------------------------------------------------------------------------------------------------

WRITER = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from test_bundle import contents
from backend.bundle import write_bundle
from backend.errors import GanfitError
files = contents(seed={seed})
for number in range({count}):
    try:
        write_bundle({out!r}, files)
    except GanfitError as error:
        print(error, flush=True)
"""


def test_rivals_at_one_folder(tmp_path: Path) -> None:
    """Three processes write one folder as fast as they can: every write succeeds, a reader sees a whole result or, for
    a moment, none; at the end one is there, whole, and nothing beside it."""
    out = tmp_path / "out" / "me"
    write_bundle(out, contents(seed=1))
    codes = [WRITER.format(tests=str(ROOT / "tests"), root=str(ROOT), seed=seed, count=60, out=str(out))
             for seed in (1, 2, 3)]  # fmt: skip
    writers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) for code in codes]
    seen: set[int] = set()
    while any(writer.poll() is None for writer in writers):
        try:
            seen.add(seed_of(out))
        except GanfitError as error:
            assert error.code == "bundle_missing", error
    said = [writer.communicate()[0] for writer in writers]
    assert said == [b"", b"", b""] and [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1 and is_whole(out)
    assert [path.name for path in out.parent.iterdir()] == ["me"]


@pytest.mark.parametrize("jump", [-3650 * 86400.0, 3650 * 86400.0])
def test_the_clock_jumps_in_mid_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Another process starts a job at the same folder when the clock has moved by ten years: what is being written
    becomes the result, or fails with a sentence; the older result is never lost."""
    out = tmp_path / "me"
    write_bundle(out, contents(seed=1))
    swap, real = bundle_module._swap_in, time.time

    def swap_after_jump(partial: Path, folder: Path) -> None:
        monkeypatch.setattr(bundle_module.time, "time", lambda: real() + jump)
        check_output(out)
        swap(partial, folder)

    monkeypatch.setattr(bundle_module, "_swap_in", swap_after_jump)
    try:
        write_bundle(out, contents(seed=2))
    except GanfitError as error:
        assert error.code == "output_not_writable" and seed_of(out) == 1
    else:
        assert seed_of(out) == 2
    monkeypatch.undo()
    write_bundle(out, contents(seed=3))
    assert seed_of(out) == 3 and [path.name for path in tmp_path.iterdir()] == ["me"]


def run_limited(code: str, limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    """Python code in a process with a limit of its own."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT,
                          preexec_fn=limit, timeout=120)  # fmt: skip


@linux
@pytest.mark.parametrize("mebibytes", [200, 500, 1000])
@pytest.mark.parametrize("command", ["reconstruct", "batch", "serve"])
def test_a_start_with_too_little_memory(command: str, mebibytes: int, astronaut: Path, tmp_path: Path) -> None:
    """Under limits that cannot hold the networks (at 500 MiB a C++ library would abort): one sentence, nothing else."""
    words = [command] if command == "serve" else [command, str(astronaut), "--out", str(tmp_path / "me")]
    code = f"import sys; from backend import cli; sys.exit(cli.main({words!r}))"
    limit = mebibytes << 20
    done = run_limited(code, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    said = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == "" and len(said) == 2, done
    assert said[0].startswith("out_of_memory: ") and f"{mebibytes} MiB" in said[0] and "limit" in said[1]
    assert not (tmp_path / "me").exists()


JUMPING_CLOCK = """
import itertools, time
real, calls = time.time, itertools.count()
time.time = lambda: real() + (-1) ** next(calls) * 10 * 365 * 86400.0
"""


def test_the_clock_jumps_during_a_job(astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day goes ten years ahead and back at every look: what a job reports as durations, the time left and
    the pace of its messages are as ever."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    client, out = Client(tmp_path / "scratch"), tmp_path / "out" / "me"
    started = time.monotonic()
    done = client.finished(start(client, astronaut, out, {**SHORT, "iterations": 12}))
    elapsed = time.monotonic() - started
    assert client.close() == 0 and done.get("bundle") == str(out), (done, client.text()[-3000:])
    progress = [m["params"] for m in client.messages if m.get("method") == protocol.JOB_PROGRESS]
    left = [params["eta_s"] for params in progress if params["eta_s"] is not None]
    assert left and all(0 <= seconds <= 20 * elapsed for seconds in left), left
    assert len({params["step"] for params in progress if params["stage"] == "fit"}) > 3, "messages stopped"
    timings = read_bundle(out).result["timings"]
    stages = [seconds for name, seconds in timings.items() if not name.startswith("fit: ")]
    assert all(0 <= seconds <= elapsed for seconds in timings.values()), timings
    assert 0.2 * elapsed <= sum(stages) <= elapsed, (timings, elapsed)
