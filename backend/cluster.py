# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs everyone in a folder on a Ray cluster: the jobs of `backend.batch`, results in a folder that all share.

Ray (an optional package) hands people to worker processes, one per GPU or pair of cores, and gives a person whose
machine was lost to another one. What travels is text, but Ray packs it with pickle: a cluster has to be one's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from . import batch
from .batch import Report, Row
from .errors import GanfitError, as_ganfit_error
from .options import Options

CORES_PER_WORKER = 2
"""The CPU rasteriser works in two bands; more cores give little."""
RETRIES = 3
"""So often is a person tried again whose machine or process was lost."""
IN_FLIGHT = 3
"""People handed to Ray per worker; the others wait here, so that a million of them are not a million tasks."""
TABLE_INTERVAL_S = 5.0
HEARTBEAT_S, STALE_S = 2.0, 20.0
"""A claim is touched this often while its holder lives, and is anyone's when it was not for so long."""
CLAIMS = ".claims"
CONNECT_S = 5.0

_kept: dict[str, Any] = {}


def run_cluster(
    inputs: Sequence[str | Path], options: Options, address: str, progress: Report | None = None
) -> list[Row]:
    """`backend.batch.run_batch` with the work done by a Ray cluster.

    Args:
        inputs, options: as of `run_batch`; photos and `options.out` have to be seen under the same paths everywhere.
        address: of the cluster's head, "HOST:PORT" (run on a machine of the cluster), "auto" or "ray://HOST:PORT".
        progress: gets the stage "batch" with the number of people that are finished.

    A person is claimed by a file in `options.out`, so that nobody is done twice: not when a machine comes back that was
    thought lost, nor when two batches run on one folder.

    Raises GanfitError: cluster_unavailable, and those of `run_batch` that concern the batch as a whole.
    """
    rows = batch.find_people(inputs)
    out = batch.batch_folder(options)
    (out / CLAIMS).mkdir(exist_ok=True)
    ray = connect(address)
    try:
        _run(ray, rows, out, options, progress)
    except BaseException:  # Ctrl-C too: the table says what was done
        for row in rows:
            row.state = row.state if row.state in (batch.DONE, batch.SKIPPED, batch.FAILED) else batch.CANCELLED
        raise
    finally:
        ray.shutdown()
        batch.write_table(out, rows)
        with contextlib.suppress(OSError):
            (out / CLAIMS).rmdir()
    return rows


def connect(address: str) -> ModuleType:
    """Ray, connected, with this package sent along, so that every machine runs the same code."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise GanfitError("cluster_unavailable", "Ray is not installed in this environment.") from None
    try:
        _check_port(address)
        ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=None,
                 runtime_env={"py_modules": [str(Path(__file__).parent)]})  # fmt: skip
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise GanfitError("cluster_unavailable", f"There is no Ray cluster at {address}: {reason}.") from error
    return ray


def _check_port(address: str) -> None:
    """OSError within seconds where nothing listens at "HOST:PORT"; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _run(ray: ModuleType, rows: list[Row], out: Path, options: Options, progress: Report | None) -> None:
    """Hands out the people a few at a time and takes their rows back; writes the table now and then."""
    needs, workers = resources(ray, options.device)
    task = ray.remote(**needs, max_retries=RETRIES)(work)
    waiting, running, written, started = deque(range(len(rows))), {}, 0.0, time.monotonic()
    while waiting or running:
        while waiting and len(running) < IN_FLIGHT * workers:
            number = waiting.popleft()
            person = options.replace(out=str(out / rows[number].name))
            job = {"row": dataclasses.asdict(rows[number]), "options": person.to_dict()}
            running[task.remote(json.dumps(job))] = number
            rows[number].state = batch.RUNNING
        for reference in ray.wait(list(running), num_returns=1, timeout=TABLE_INTERVAL_S)[0]:
            number = running.pop(reference)
            rows[number] = _result(ray, reference, rows[number])
        finished = len(rows) - len(waiting) - len(running)
        if time.monotonic() - written > TABLE_INTERVAL_S:
            batch.write_table(out, rows)
            written = time.monotonic()
        if progress:
            left = (time.monotonic() - started) / finished * (len(rows) - finished) if finished else None
            progress("batch", finished, len(rows), {}, left, None)


def resources(ray: ModuleType, device: str) -> tuple[dict[str, float], int]:
    """What one worker asks for, and how many of them the cluster can hold."""
    total = ray.cluster_resources()
    if device == "cuda" or device == "auto" and total.get("GPU", 0) >= 1:
        return {"num_gpus": 1, "num_cpus": 1}, max(1, int(total.get("GPU", 0)))
    cores = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=1)
    each = max(1, min(CORES_PER_WORKER, int(cores)))
    return {"num_cpus": each}, max(1, int(total.get("CPU", 1)) // each)


def _result(ray: ModuleType, reference: Any, row: Row) -> Row:
    """The row that a task sent back, or why there is none."""
    try:
        return Row(**json.loads(ray.get(reference)))
    except ray.exceptions.RayError as error:
        lost = GanfitError("worker_lost", f"What worked on {row.name} was lost {RETRIES + 1} times.")
        known = as_ganfit_error(error.cause) if isinstance(error, ray.exceptions.RayTaskError) else lost
        return dataclasses.replace(row, state=batch.FAILED, error=known.to_dict())


# --- on the workers ---------------------------------------------------------------------------------------------------


def work(job: str) -> str:
    """One person, in a process of Ray's whose networks stay loaded: JSON {row, options} -> JSON row."""
    from .pipeline import Models, reconstruct

    given = json.loads(job)
    row, options = Row(**given["row"]), Options.from_dict(given["options"])
    models = _kept.setdefault("models", Models())
    folder = Path(given["options"]["out"])
    with claimed(folder.parent / CLAIMS / folder.name):
        batch.run_one(row, options, partial(reconstruct, models=models), None, None)
    return json.dumps(dataclasses.asdict(row))


@contextlib.contextmanager
def claimed(file: Path) -> Iterator[None]:
    """Holds a claim, a file that no two processes have at once; waits while its holder shows signs of life."""
    owner = f"{os.uname().nodename if hasattr(os, 'uname') else 'node'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    file.parent.mkdir(parents=True, exist_ok=True)
    while not _take(file, owner):
        if _is_stale(file, owner):
            _steal(file, owner)
        else:
            time.sleep(HEARTBEAT_S / 2)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(file, ended.wait), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        file.unlink(missing_ok=True)


def _take(file: Path, owner: str) -> bool:
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as stream:
        stream.write(owner)
    return True


def _is_stale(file: Path, owner: str) -> bool:
    """Whether a claim was not touched for long, by the clock of the machine that keeps the folder."""
    probe = file.with_name(f".{owner}")
    try:
        probe.touch()
        age = probe.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return age > STALE_S


def _steal(file: Path, owner: str) -> None:
    """Removes a stale claim; of several that try, the rename lets one through."""
    aside = file.with_name(f".{owner}.stale")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, aside)
        aside.unlink()


def _beat(file: Path, wait: Callable[[float], bool]) -> None:
    while not wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(file)
