# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the worker process and exchanges JSON lines with it; no call here ever waits for the worker."""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from . import protocol

LOG_LIMIT_BYTES = 4 << 20  # a log that has grown beyond this is started anew with the next worker
STARTED = "--- "  # how the log marks the start of a process
DRAIN_GRACE_S = 2.0  # time for the last words of a dead worker to come out of its pipes
CLOSE_GRACE_S = 3.0  # time for a worker to end by itself after `shutdown` and the end of its stdin


class WorkerClient:
    """One worker process. Messages are sent and received by threads over queues, stderr goes into a log file.

    Args:
        command: the worker's argv, for instance `[python, "-m", "backend", "serve"]`.
        environment: its complete environment variables.
        log_path: file that gets its stderr and whatever else it writes that is no message.
        cwd: working directory, or None for the current one.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path, cwd: Path | None = None):
        self.command = list(command)
        self.environment = dict(environment)
        self.log_path = Path(log_path)
        self.cwd = cwd
        self.greeting: dict[str, Any] | None = None  # the answer to `hello`, once a job has exchanged it
        self._process: subprocess.Popen[bytes] | None = None
        self._incoming: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._drained = threading.Event()
        self._death_seen: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None before `start`."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether the process has ended and `poll` has all that it said (or a child of it keeps the pipe open)."""
        if self._process is None or self._process.poll() is None:
            return False
        if self._death_seen is None:
            self._death_seen = time.monotonic()
        return self._drained.is_set() or time.monotonic() - self._death_seen > DRAIN_GRACE_S

    @property
    def exit_code(self) -> int | None:
        """The process's exit status (negative: killed by that signal), None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts the process and its threads. Raises OSError when the program cannot be run."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_LIMIT_BYTES:
            self.log_path.unlink()
        log = open(self.log_path, "ab", buffering=0)  # noqa: SIM115 - closed by the stderr thread
        log.write(f"{STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command)}\n".encode())
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
                cwd=self.cwd,
                **detached(),
            )
        except OSError:
            log.close()
            raise
        drain = threading.Thread(target=_copy_stream, args=(self._process.stderr, log), daemon=True)
        for thread in (
            drain,
            threading.Thread(target=self._read, args=(self._process, drain), daemon=True),
            threading.Thread(target=self._write, args=(self._process,), daemon=True),
        ):
            thread.start()
        atexit.register(self.kill)

    def request(self, method: str, params: dict[str, Any]) -> int:
        """Queues a request and returns its id; the answer comes through `poll`."""
        request_id = next(self._ids)
        self._outgoing.put(protocol.encode(protocol.request(request_id, method, params)))
        return request_id

    def poll(self) -> list[dict[str, Any]]:
        """All messages that have arrived since the last call, oldest first; never waits."""
        messages = []
        while True:
            try:
                messages.append(self._incoming.get_nowait())
            except queue.Empty:
                return messages

    def log_tail(self, lines: int = 12) -> list[str]:
        """The last lines of the log file."""
        return tail(self.log_path, lines)

    def close(self) -> None:
        """Asks the worker to end, and kills it some seconds later if it has not; returns at once."""
        if not self.alive:
            return
        self.request(protocol.SHUTDOWN, {})
        self._outgoing.put(None)
        threading.Thread(target=self._kill_after, args=(CLOSE_GRACE_S,), daemon=True).start()

    def kill(self) -> None:
        """Ends the process and its children at once."""
        atexit.unregister(self.kill)
        if self._process is not None:
            kill_tree(self._process)
            self._outgoing.put(None)

    def _kill_after(self, seconds: float) -> None:
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def _read(self, process: subprocess.Popen[bytes], drain: threading.Thread) -> None:
        """Reader thread: messages into the queue, any other line into the log."""
        assert process.stdout is not None
        for line in iter(lambda: process.stdout.readline(protocol.MAX_LINE_BYTES + 1), b""):  # type: ignore[union-attr]
            try:
                message = protocol.decode(line)
            except ValueError:
                message = None
            if isinstance(message, dict) and message.get("jsonrpc") == "2.0":
                self._incoming.put(message)
            elif line.strip():
                _append(self.log_path, b"[not a message] " + line[:2000].rstrip() + b"\n")
        process.wait()
        drain.join(1.0)
        self._drained.set()

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """Writer thread: queued lines into the worker's stdin until None comes, which closes it."""
        assert process.stdin is not None
        try:
            for line in iter(self._outgoing.get, None):
                process.stdin.write(line)
                process.stdin.flush()
            process.stdin.close()
        except (OSError, ValueError):
            pass  # the worker is gone: its exit status says so


def detached() -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a child of its own process group, without a console window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kills a process started with `detached()` and what it has started, and reaps it; a dead one is no error."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        pass


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file, without reading the whole of it; empty when there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16384))
            return stream.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def _copy_stream(source: BinaryIO, log: BinaryIO) -> None:
    """Drains the worker's stderr into the log, so that a full pipe never stops it."""
    with log:
        for chunk in iter(lambda: source.read1(65536), b""):  # type: ignore[attr-defined]
            log.write(chunk)


def _append(path: Path, line: bytes) -> None:
    with open(path, "ab") as log:
        log.write(line)
