# SPDX-License-Identifier: GPL-3.0-or-later
"""What the add-on keeps while Blender runs: the warm worker, the running job, what the panel says; no Blender data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import AddonError
from .job import JobStatus, WorkerJob
from .setup_env import SetupJob
from .worker_client import WorkerClient


class Session:
    """One per registration of the add-on. At most one job runs at a time."""

    def __init__(self) -> None:
        self.job: WorkerJob | SetupJob | None = None
        self.error: AddonError | None = None
        self.message = ""
        self.assets: list[dict[str, Any]] = []
        self.log_path: Path | None = None
        self._worker: WorkerClient | None = None

    @property
    def status(self) -> JobStatus | None:
        """The running job's status, None when nothing runs."""
        return self.job.status if self.job is not None and not self.job.status.ended else None

    def worker(self, command: list[str], environment: dict[str, str], log_path: Path) -> WorkerClient:
        """The warm worker where it still fits the configuration, else a new one that is not started yet."""
        worker = self._worker
        if worker and worker.alive and worker.command == command and worker.environment == environment:
            return worker
        if worker:
            worker.close()
        self._worker = WorkerClient(command, environment, log_path)
        return self._worker

    def begin(self, job: WorkerJob | SetupJob, log_path: Path) -> None:
        """Takes over a new job and forgets the last one's message. Raises AddonError: `busy`."""
        if self.status is not None:
            job.cancel()
            raise AddonError("busy", "Another job is running.")
        self.job, self.log_path = job, log_path
        self.dismiss()

    def dismiss(self) -> None:
        """Forgets error and message."""
        self.error, self.message = None, ""

    def abandon(self) -> None:
        """Lets go of a job that nobody polls any more; the worker goes with it, the next job starts another."""
        if self._worker:
            self._worker.close()
        self.job = self._worker = None

    def close(self) -> None:
        """Ends the job and the worker."""
        if isinstance(self.job, SetupJob):
            self.job.cancel()
        if self._worker:
            self._worker.kill()
        self.job = self._worker = None


_session: Session | None = None


def current() -> Session:
    """The session of this registration."""
    global _session
    if _session is None:
        _session = Session()
    return _session


def end() -> None:
    """Ends the session with everything that it has started."""
    global _session
    if _session is not None:
        _session.close()
    _session = None
