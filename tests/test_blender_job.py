# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's job and worker client against a worker process that behaves well and badly; no Blender needed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

import backend.protocol
from ganfit_blender import job as job_module
from ganfit_blender import protocol, setup_env
from ganfit_blender.job import CANCELLED, FAILED, FINISHED, WorkerJob
from ganfit_blender.worker_client import WorkerClient

FAKE = Path(__file__).parent / "blender_scripts" / "fake_backend"
PARAMS = {"photos": ["/photo.png"], "out": "/nowhere", "options": {}}


@pytest.fixture
def worker(tmp_path):
    """Makes workers of a behaviour and sees to it that none is left."""
    made = []

    def make(mode: str = "ok", **variables: str) -> WorkerClient:
        environment = setup_env.backend_environment(FAKE, tmp_path) | {"FAKE_WORKER": mode, **variables}
        made.append(WorkerClient([sys.executable, "-m", "backend", "serve"], environment, tmp_path / "worker.log"))
        return made[-1]

    yield make
    for client in made:
        client.kill()


def run(client: WorkerClient, method: str = protocol.RECONSTRUCT, params: dict = PARAMS) -> job_module.JobStatus:
    return WorkerJob(client, method, params).wait()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):  # it may also end between the two, or while it is read
        return False
    return state != "Z"


def test_protocol_is_the_backend_s():
    assert Path(protocol.__file__).read_bytes() == Path(backend.protocol.__file__).read_bytes()


def test_job_reports_progress_and_result(worker):
    seen = []
    status = WorkerJob(worker(), protocol.RECONSTRUCT, PARAMS).wait(lambda s: seen.append((s.stage, s.step)))
    assert (status.state, status.result["bundle"], status.fraction) == (FINISHED, "/nowhere", 1.0)
    assert ("fit", 5) in seen and seen == sorted(seen, key=lambda pair: pair[1])
    assert status.losses == {"pixel": pytest.approx(0.2)} and status.steps == 5


def test_worker_stays_warm_between_jobs(worker):
    client = worker()
    assert run(client).state == FINISHED
    pid = client.pid
    assert run(client).state == FINISHED and client.pid == pid
    answer = run(client, protocol.ASSETS_LIST, {})
    assert answer.result["assets"][0]["licence"] == "CC0-1.0" and client.pid == pid


@pytest.mark.parametrize("mode", ["garbage", "chatty", "slow"])
def test_noise_on_stdout_megabytes_on_stderr_and_a_slow_start_do_no_harm(worker, mode, tmp_path):
    assert run(worker(mode)).state == FINISHED
    if mode == "garbage":
        assert b"[not a message] warning" in (tmp_path / "worker.log").read_bytes()


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("crash", "worker_crashed", "dies as it was told"),
        ("exit", "worker_start", "cannot start"),
        ("no_face", "no_face", "No face"),
        ("old", "protocol_version", "version 0"),
    ],
)
def test_failures_end_the_job_with_code_sentence_and_hint(worker, mode, code, words):
    status = run(worker(mode))
    assert (status.state, status.error.code) == (FAILED, code)
    assert words in status.error.message and status.error.hint


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal on this system")
def test_a_worker_that_is_killed_in_mid_job_is_told_of_in_words(worker):
    client = worker(FAKE_STEPS="500")
    job = WorkerJob(client, protocol.RECONSTRUCT, PARAMS)
    while job.poll().step < 2:
        time.sleep(0.01)
    os.kill(client.pid, signal.SIGKILL)
    error = job.wait().error
    assert error.code == "worker_crashed" and "memory" in error.message and error.hint
    assert "---" not in error.message and "-9" not in error.message  # neither the log's own lines nor a bare number


def test_a_program_that_cannot_be_run_is_an_error(tmp_path):
    status = run(WorkerClient([str(tmp_path / "nothing")], {}, tmp_path / "log"))
    assert (status.state, status.error.code) == (FAILED, "worker_start")


def test_an_unknown_method_is_an_error(worker):
    status = run(worker(), "nonsense", {})
    assert status.state == FAILED and "nonsense" in status.error.message


def test_cancel_ends_the_job_and_keeps_the_worker(worker):
    client = worker(FAKE_STEPS="500")
    job = WorkerJob(client, protocol.RECONSTRUCT, PARAMS)
    while job.poll().step < 2:
        time.sleep(0.01)
    job.cancel()
    job.cancel()
    assert job.wait().state == CANCELLED and client.alive


def test_cancel_before_the_worker_has_answered(worker):
    job = WorkerJob(worker("slow"), protocol.RECONSTRUCT, PARAMS)
    job.cancel()
    assert job.wait().state == CANCELLED


def test_a_worker_that_ignores_cancel_is_killed(worker, monkeypatch):
    monkeypatch.setattr(job_module, "CANCEL_TIMEOUT_S", 0.2)
    client = worker("deaf", FAKE_STEPS="500")
    job = WorkerJob(client, protocol.RECONSTRUCT, PARAMS)
    while job.poll().step < 2:
        time.sleep(0.01)
    job.cancel()
    assert job.wait().state == CANCELLED and not client.alive


def test_a_silent_worker_is_killed(worker, monkeypatch):
    monkeypatch.setattr(job_module, "HELLO_TIMEOUT_S", 0.3)
    client = worker("mute")
    status = run(client)
    assert status.error.code == "worker_silent"
    deadline = time.monotonic() + 5
    while client.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not client.alive


def test_close_leaves_no_process(worker):
    client = worker()
    assert run(client).state == FINISHED
    client.close()
    deadline = time.monotonic() + 5
    while is_running(client.pid) and time.monotonic() < deadline:
        client.alive  # noqa: B018 - reaps it
        time.sleep(0.02)
    assert not is_running(client.pid)


def test_poll_never_waits(worker):
    """A tick of the panel's timer has to stay far under a frame, whatever the worker does."""
    job = WorkerJob(worker("slow", FAKE_STEPS="200", FAKE_STEP_S="0.001"), protocol.RECONSTRUCT, PARAMS)
    longest = 0.0
    while not job.status.ended:
        start = time.perf_counter()
        job.poll()
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.005)
    assert job.status.state == FINISHED and longest < 0.05


def plan(tmp_path: Path, **changes: object) -> setup_env.SetupPlan:
    wheels = tmp_path / "wheels"
    wheels.mkdir(exist_ok=True)
    values = {
        "environment": tmp_path / "env", "base_python": sys.executable, "backend_root": tmp_path / "root",
        "cache": tmp_path / "cache", "compute": "cpu", "index_url": "", "wheel_folder": str(wheels),
        "log_path": tmp_path / "setup.log",
    }
    root = tmp_path / "root" / "backend"
    root.mkdir(parents=True, exist_ok=True)
    for file in (FAKE / "backend").glob("*.py"):
        (root / file.name).write_bytes(file.read_bytes())
    (root / "requirements.txt").write_text("# nothing\n")
    return setup_env.SetupPlan(**(values | changes))


def test_set_up_from_a_wheel_folder_without_network_and_again_with_other_requirements(tmp_path):
    chosen = plan(tmp_path)
    assert not setup_env.is_complete(chosen.environment, chosen.backend_root)
    status = setup_env.SetupJob(chosen, online=False).wait()
    assert status.state == FINISHED, status.error
    assert setup_env.is_complete(chosen.environment, chosen.backend_root)
    assert f"assets install --from {chosen.wheel_folder}" in (tmp_path / "setup.log").read_text()
    (chosen.backend_root / "backend" / "requirements.txt").write_text("nothing-of-this-name==1\n")
    assert not setup_env.is_complete(chosen.environment, chosen.backend_root)
    status = setup_env.SetupJob(chosen, online=False).wait()  # goes on with the environment that is there
    assert (status.state, status.error.code) == (FAILED, "setup_failed")
    assert "nothing-of-this-name" in status.error.message
    assert not setup_env.is_complete(chosen.environment, chosen.backend_root)


def test_set_up_shows_how_far_pip_is(tmp_path):
    """What pip 23 prints of an installation moves the bar, and never back."""
    job = setup_env.SetupJob(plan(tmp_path, wheel_folder=""), online=False)  # ends at once, so that nothing runs
    job.status = setup_env.JobStatus(state="running")
    lines = ["Collecting torch==2.13.0", "Downloading torch.whl (192 MB)", "Requirement already satisfied: numpy",
             *(f"Processing /wheels/{number}.whl" for number in range(40)), "Installing collected packages: a, b"]
    seen = []
    for kind, text in (("stage", "venv"), ("stage", "pip"), *(("line", line) for line in lines), ("stage", "assets")):
        job._take(kind, text)
        seen.append(job.status.fraction)
    assert seen == sorted(seen) and seen[1] == pytest.approx(1 / 3)
    assert seen[2] > seen[1] and 0.5 < seen[-3] < seen[-2] < 2 / 3 == seen[-1]


def test_set_up_without_network_needs_wheels(tmp_path):
    status = setup_env.SetupJob(plan(tmp_path, wheel_folder=""), online=False).wait()
    assert status.error.code == "online_access" and not (tmp_path / "env").exists()


def test_set_up_can_be_cancelled(tmp_path):
    job = setup_env.SetupJob(plan(tmp_path), online=False)
    job.cancel()
    assert job.wait().state == CANCELLED
    assert not setup_env.is_complete(tmp_path / "env", tmp_path / "root")


def test_a_python_that_does_not_fit_is_named(tmp_path):
    status = setup_env.SetupJob(plan(tmp_path, base_python="/bin/true"), online=False).wait()
    assert status.error.code == "python_missing" and "/bin/true" in status.error.message
