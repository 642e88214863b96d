# SPDX-License-Identifier: GPL-3.0-or-later
"""One job of the worker as a plain object that is polled: from a timer in a window, from a loop without one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import protocol
from .errors import AddonError
from .worker_client import STARTED, WorkerClient

STARTING, RUNNING, CANCELLING, FINISHED, FAILED, CANCELLED = (
    "starting",
    "running",
    "cancelling",
    "finished",
    "failed",
    "cancelled",
)
ENDED = (FINISHED, FAILED, CANCELLED)

HELLO_TIMEOUT_S = 180.0  # a cold start imports torch from a slow disk; beyond this the worker is taken for dead
CANCEL_TIMEOUT_S = 15.0  # a worker that does not stop within this is killed
POLL_INTERVAL_S = 0.1


@dataclass
class JobStatus:
    """What the panel shows of a job.

    `fraction` is 0 to 1 over the whole job and never goes back; `eta_s` is the time left in seconds or None;
    `preview` the path of the newest small picture; `log` the last lines of a job that prints lines.
    """

    state: str = STARTING
    stage: str = ""
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    preview: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    error: AddonError | None = None
    log: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def fail(self, error: AddonError) -> None:
        """Ends the job with an error, or as cancelled where the error says so."""
        self.state = CANCELLED if error.code == "cancelled" else FAILED
        self.error = error
        self.eta_s = None


class WorkerJob:
    """Runs one request of the worker: starts the worker where needed, says hello, asks, follows the notifications.

    Args:
        client: a worker that runs or was not yet started. It outlives the job, unless the job has to kill it.
        method: `protocol.RECONSTRUCT`, another that answers with a `job_id`, or one that answers directly.
        params: the request's parameters.
        clock: seconds, monotonic; tests put their own in.
    """

    def __init__(
        self,
        client: WorkerClient,
        method: str,
        params: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = JobStatus(stage="start")
        self._client = client
        self._method = method
        self._params = params
        self._clock = clock
        self._began = clock()
        self._job_id: Any = None
        self._hello_id: int | None = None
        self._request_id: int | None = None
        self._cancel_began: float | None = None
        self._begin()

    def poll(self) -> JobStatus:
        """Takes in what the worker has sent and returns the status; never waits."""
        if not self.status.ended:
            for message in self._client.poll():
                self._take(message)
            self._watch()
        return self.status

    def cancel(self) -> None:
        """Asks for the end of the job; `poll` until it has ended. Calling it again does nothing."""
        if self.status.ended or self._cancel_began is not None:
            return
        self._cancel_began = self._clock()
        self.status.state = CANCELLING
        if self._job_id is not None:
            self._client.request(protocol.CANCEL, {"job_id": self._job_id})

    def wait(self, on_change: Callable[[JobStatus], None] | None = None) -> JobStatus:
        """Blocks until the job has ended, for scripts and background mode; `on_change` gets every new status."""
        shown: tuple[Any, ...] = ()
        while not self.poll().ended:
            state = (self.status.state, self.status.stage, self.status.step)
            if on_change and state != shown:
                shown = state
                on_change(self.status)
            time.sleep(POLL_INTERVAL_S / 4)
        return self.status

    def _begin(self) -> None:
        try:
            if self._client.pid is None:
                self._client.start()
            self._client.poll()  # what an earlier job has left behind
            if self._client.greeting is None:
                params = {"versions": [protocol.VERSION], "client": "ganfit_blender"}
                self._hello_id = self._client.request(protocol.HELLO, params)
            else:
                self._ask()
        except OSError as error:
            self.status.fail(AddonError("worker_start", f"The backend could not be started: {error}."))

    def _ask(self) -> None:
        self._request_id = self._client.request(self._method, self._params)
        if self._cancel_began is None:
            self.status.state = RUNNING

    def _take(self, message: dict[str, Any]) -> None:
        """One message: an answer to one of this job's requests, or a notification about this job."""
        if self.status.ended:
            return
        if "method" in message:
            params = message.get("params")
            if isinstance(params, dict) and self._job_id is not None and params.get("job_id") == self._job_id:
                self._notified(str(message["method"]), params)
        elif message.get("id") is not None and message.get("id") in (self._hello_id, self._request_id):
            self._answered(message)

    def _answered(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self.status.fail(_rpc_error(message["error"]))
            return
        result = message.get("result")
        if not isinstance(result, dict):
            self.status.fail(AddonError("bad_message", "The backend sent an answer that is not understood."))
        elif message["id"] == self._hello_id:
            self._greeted(result)
        elif "job_id" in result:
            self._job_id = result["job_id"]
            if self._cancel_began is not None:
                self._client.request(protocol.CANCEL, {"job_id": self._job_id})
        else:
            self._finish(result)

    def _greeted(self, result: dict[str, Any]) -> None:
        if result.get("version") != protocol.VERSION:
            theirs = result.get("version", "none")
            text = f"The backend speaks protocol version {theirs}, the add-on version {protocol.VERSION}."
            self.status.fail(AddonError("protocol_version", text))
            return
        self._client.greeting = result
        if self._cancel_began is not None:
            self.status.fail(AddonError("cancelled", "Cancelled."))
        else:
            self._ask()

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method == protocol.JOB_PROGRESS:
            self._progress(params)
        elif method == protocol.JOB_PREVIEW:
            self.status.preview = str(params.get("path") or "")
        elif method == protocol.JOB_FINISHED:
            if params.get("error"):
                self.status.fail(AddonError.from_dict(params["error"]))
            else:
                self._finish(params)

    def _progress(self, params: dict[str, Any]) -> None:
        status = self.status
        status.stage = str(params.get("stage") or status.stage)
        status.step = _number(params.get("step"), 0)
        status.steps = _number(params.get("steps"), 0)
        status.losses = {str(k): float(v) for k, v in (params.get("losses") or {}).items() if _is_number(v)}
        eta = params.get("eta_s")
        status.eta_s = max(0.0, float(eta)) if _is_number(eta) else None
        if status.eta_s is not None:
            elapsed = self._clock() - self._began
            status.fraction = max(status.fraction, elapsed / max(elapsed + status.eta_s, 1e-6))

    def _finish(self, result: dict[str, Any]) -> None:
        self.status.state = FINISHED
        self.status.result = result
        self.status.fraction = 1.0
        self.status.eta_s = None

    def _watch(self) -> None:
        """Ends the job when the worker has died, is silent at the start, or ignores a cancel."""
        if self.status.ended:
            return
        now = self._clock()
        if self._client.ended:
            for message in self._client.poll():  # what it said before it died
                self._take(message)
            if not self.status.ended:
                self.status.fail(self._death())
        elif self._cancel_began is not None and now - self._cancel_began > CANCEL_TIMEOUT_S:
            self._client.kill()
            self.status.fail(AddonError("cancelled", "Cancelled; the backend did not answer and was ended."))
        elif self._client.greeting is None and now - self._began > HELLO_TIMEOUT_S:
            self._client.kill()
            self.status.fail(AddonError("worker_silent", "The backend was started but does not answer."))

    def _death(self) -> AddonError:
        if self._cancel_began is not None:
            return AddonError("cancelled", "Cancelled.")
        self.status.log = self._client.log_tail()
        how = _how_it_ended(self._client.exit_code, self.status.log)
        if self._client.greeting is None:
            return AddonError("worker_start", f"The backend ended while it started ({how}).")
        return AddonError("worker_crashed", f"The backend ended in the middle of the job ({how}).")


def _how_it_ended(code: int | None, log: list[str]) -> str:
    """A process's end in words: its exit status or the signal that killed it, and what it said last."""
    if code == -9:  # SIGKILL, which nobody but the system or a person sends
        how = "killed from outside, as systems do when memory runs out"
    elif code is not None and code < 0:
        how = f"killed by signal {-code}"
    else:
        how = f"exit status {code}"
    last = next((line for line in reversed(log) if line.strip()), "")
    return how if not last or last.startswith(STARTED) else f"{how}: {last[:200]}"


def _rpc_error(error: Any) -> AddonError:
    """The error of a JSON-RPC answer: the project's own travel in `data`, others have only a message."""
    if isinstance(error, dict) and isinstance(error.get("data"), dict):
        return AddonError.from_dict(error["data"])
    text = error.get("message") if isinstance(error, dict) else error
    return AddonError("bad_message", f"The backend refused the request: {text}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _number(value: Any, default: int) -> int:
    return int(value) if _is_number(value) else default
