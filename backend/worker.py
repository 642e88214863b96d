# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker: JSON-RPC 2.0 lines on stdin and stdout, one job after another with the models kept warm."""

from __future__ import annotations

import json
import math
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from . import __version__, protocol
from .bundle import check_output
from .errors import GanfitError, as_ganfit_error
from .options import CHOICES, Options

PROGRESS_INTERVAL_S = 0.05
"""Progress inside a stage is not reported more often."""
END_GRACE_S = 20.0
"""Time that a running job gets to stop by itself when the worker ends."""


class InvalidParams(Exception):
    """Parameters of a request are missing or of the wrong type."""


@dataclass
class Job:
    """A request that was answered with a `job_id`; `run` returns what `job.finished` carries."""

    job_id: str
    run: Callable[[Job], dict[str, Any]]
    state: str = protocol.QUEUED
    cancelled: threading.Event = field(default_factory=threading.Event)
    stage: str = ""
    reported: float = 0.0


def serve() -> int:
    """Runs the worker on this process's stdin and stdout until stdin closes; returns the exit status.

    SIGTERM has to raise SystemExit, as `cli.main` arranges it, for jobs to be stopped and cleaned up.
    """
    source, target = _take_over_streams()
    return Worker(source, target).run()


def _take_over_streams() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of descriptors 0 and 1; then 0 reads nothing and 1 writes to stderr, also for C libraries."""
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(source, os.O_BINARY)
        msvcrt.setmode(target, os.O_BINARY)
    return os.fdopen(source, "rb"), os.fdopen(target, "wb", buffering=0)


class Worker:
    """Reads requests in the calling thread and does the work in another, one job at a time."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._write_lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._models: Any = None
        self._ending = False
        self._methods: dict[str, Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]] = {
            protocol.HELLO: self._hello,
            protocol.RECONSTRUCT: self._reconstruct,
            protocol.REFIT: self._refit,
            protocol.BATCH: self._batch,
            protocol.CANCEL: self._cancel,
            protocol.LANDMARKS_DETECT: self._landmarks_detect,
            protocol.ASSETS_LIST: self._assets_list,
            protocol.ASSETS_INSTALL: self._assets_install,
            protocol.BODY_EXPORT: self._body_export,
            protocol.SHUTDOWN: self._shutdown,
        }

    def run(self) -> int:
        """Serves until stdin ends, `shutdown` is called or the process is asked to stop."""
        working = threading.Thread(target=self._work, name="jobs", daemon=True)
        working.start()
        status = 0
        try:
            while not self._ending and (line := self._read_line()):
                self._take_line(line)
        except KeyboardInterrupt:
            status = 130
        except SystemExit as stop:
            status = int(stop.code or 0)
        for job in list(self._jobs.values()):
            job.cancelled.set()
        self._queue.put(None)
        working.join(END_GRACE_S)
        if working.is_alive():  # a job that does not listen must not keep the process
            os._exit(status or 1)
        return status

    # --- messages ---------------------------------------------------------------------------------------------------

    def _read_line(self) -> bytes:
        """The next line; of one that is too long only its beginning, the rest is read and dropped. Empty at the end."""
        line = self._source.readline(protocol.MAX_LINE_BYTES + 1)
        rest = line
        while rest and not rest.endswith(b"\n") and len(rest) > protocol.MAX_LINE_BYTES:
            rest = self._source.readline(protocol.MAX_LINE_BYTES + 1)
        return line

    def _take_line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = protocol.decode(line)
        except ValueError as error:
            self._send(protocol.error(None, protocol.PARSE_ERROR, f"This line is no message: {error}"))
            return
        if not _is_request(message):
            self._send(protocol.error(None, protocol.INVALID_REQUEST, "This is no JSON-RPC 2.0 request."))
            return
        self._take_request(message)

    def _take_request(self, message: dict[str, Any]) -> None:
        """Calls the method; whatever goes wrong becomes the answer."""
        wants_answer, request_id = "id" in message, message.get("id")

        def answer(value: dict[str, Any]) -> None:
            if wants_answer:
                self._send(protocol.result(request_id, value))

        def refuse(code: int, text: str, data: Any = None) -> None:
            if wants_answer:
                self._send(protocol.error(request_id, code, text, data))

        method = self._methods.get(message["method"])
        if method is None:
            refuse(protocol.METHOD_NOT_FOUND, f"There is no method {message['method']!r:.100}.")
            return
        params = message.get("params", {})
        if not isinstance(params, dict):
            refuse(protocol.INVALID_PARAMS, "The parameters have to be an object.")
            return
        try:
            method(params, _Answer(answer, refuse))
        except Exception as error:
            _refuse_with(refuse, error)

    def _send(self, message: dict[str, Any]) -> None:
        """Writes one message; a client that is gone is noticed by the end of stdin."""
        try:
            data = protocol.encode(message)
        except UnicodeEncodeError:  # a file name that is no UTF-8
            data = json.dumps(message, allow_nan=False).encode() + b"\n"
        with self._write_lock:
            try:
                view = memoryview(data)
                while view:
                    view = view[self._target.write(view) :]
            except (OSError, ValueError):
                pass

    def _notify(self, method: str, **params: Any) -> None:
        self._send(protocol.notification(method, params))

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _start(self, answer: Callable[[dict[str, Any]], None], run: Callable[[Job], dict[str, Any]]) -> None:
        """Answers with a new job's id, then queues it, so that its notifications follow the answer."""
        job = Job(f"job-{len(self._jobs) + 1}", run)
        self._jobs[job.job_id] = job
        answer({"job_id": job.job_id})
        self._queue.put(job)

    def _work(self) -> None:
        """The working thread: one job or deferred request after another."""
        while (task := self._queue.get()) is not None:
            if isinstance(task, Job):
                self._run_job(task)
            else:
                task()

    def _run_job(self, job: Job) -> None:
        job.state = protocol.CANCELLING if job.cancelled.is_set() else protocol.RUNNING
        try:
            if job.cancelled.is_set():
                raise GanfitError("cancelled", "Cancelled before it began.")
            outcome = job.run(job)
        except BaseException as error:  # nothing that a job does may end the worker
            outcome = {"error": _described(error)}
        job.state = protocol.FINISHED
        self._notify(protocol.JOB_FINISHED, job_id=job.job_id, **outcome)

    def _progress(
        self,
        job: Job,
        stage: str,
        step: int,
        steps: int,
        losses: dict[str, float],
        eta_s: float | None,
        preview: Path | None,
    ) -> None:
        """Sends `job.progress` and `job.preview`, not more often than a person can see."""
        now = time.monotonic()
        if stage != job.stage or step >= steps or now - job.reported >= PROGRESS_INTERVAL_S:
            job.stage, job.reported = stage, now
            terms = {name: _finite(value) for name, value in losses.items()}
            left = None if eta_s is None else _finite(eta_s)
            self._notify(
                protocol.JOB_PROGRESS, job_id=job.job_id, stage=stage, step=step, steps=steps, losses=terms, eta_s=left
            )
        if preview is not None:
            self._notify(protocol.JOB_PREVIEW, job_id=job.job_id, path=str(preview))

    def _callbacks(self, job: Job) -> dict[str, Any]:
        """What the pipeline takes of a job: its progress, its cancellation, the warm models."""
        models = self._warm_models()
        return {"progress": partial(self._progress, job), "cancel": job.cancelled.is_set, "models": models}

    def _warm_models(self) -> Any:
        """The networks and head models that stay loaded; used by the working thread alone."""
        from . import pipeline

        if self._models is None:
            self._models = pipeline.Models()
        return self._models

    # --- methods ----------------------------------------------------------------------------------------------------

    def _hello(self, params: dict[str, Any], answer: _Answer) -> None:
        versions = _list_of(params, "versions", int)
        if protocol.VERSION not in versions:
            raise GanfitError(
                "protocol_version",
                f"The add-on speaks versions {versions} of the protocol, this backend {protocol.VERSION}.",
            )
        answer(
            {
                "version": protocol.VERSION,
                "versions": [protocol.VERSION],
                "backend": __version__,
                "python": platform.python_version(),
                "pid": os.getpid(),
            }
        )

    def _reconstruct(self, params: dict[str, Any], answer: _Answer) -> None:
        photos, out = _photos(params), _absolute(params, "out")
        options = _options(params, out=out)

        def run(job: Job) -> dict[str, Any]:
            check_output(out)
            from . import pipeline

            return {"bundle": str(pipeline.reconstruct(list(photos), options, **self._callbacks(job)).path)}

        self._start(answer, run)

    def _refit(self, params: dict[str, Any], answer: _Answer) -> None:
        bundle = _absolute(params, "bundle")
        out = _absolute(params, "out") if "out" in params else bundle
        sculpt = _absolute(params, "sculpt") if params.get("sculpt") is not None else None
        number = (int, float, type(None))
        kinds = {"pins": dict, "photos": int, "focal_mm": number, "focal_px": number}
        lists = {name: _list_of(params, name, kind) for name, kind in kinds.items() if params.get(name) is not None}
        _options(params, out=out)  # says what is wrong at once

        def run(job: Job) -> dict[str, Any]:
            from .refitting import refit

            done = refit(bundle, params.get("options"), out, sculpt, **lists, **self._callbacks(job))
            return {"bundle": str(done.path)}

        self._start(answer, run)

    def _batch(self, params: dict[str, Any], answer: _Answer) -> None:
        inputs = _photos(params) if params.get("photos") is not None else [_absolute(params, "folder")]
        options = _options(params, out=_absolute(params, "out"))

        def run(job: Job) -> dict[str, Any]:
            from . import pipeline
            from .batch import CANCELLED, TABLE_JSON, count_states, run_batch

            callbacks = self._callbacks(job)
            models = callbacks.pop("models")
            one = partial(pipeline.reconstruct, models=models)
            several = partial(pipeline.reconstruct_together, models=models)
            together = pipeline.people_at_once(options)
            rows = run_batch(inputs, options, one, **callbacks, several=several, together=together)
            counts = count_states(rows)
            outcome: dict[str, Any] = {"table": str(Path(options.out or "") / TABLE_JSON), "counts": counts}
            if counts.get(CANCELLED):
                cancelled = GanfitError("cancelled", "The batch was cancelled.", "What was done is kept.")
                outcome["error"] = cancelled.to_dict()
            return outcome

        self._start(answer, run)

    def _cancel(self, params: dict[str, Any], answer: _Answer) -> None:
        job = self._jobs.get(_text(params, "job_id"))
        if job is None:
            raise GanfitError("unknown_job", f"There is no job {params['job_id']!r:.100}.")
        job.cancelled.set()
        if job.state != protocol.FINISHED:
            job.state = protocol.CANCELLING
        answer({"job_id": job.job_id, "state": job.state})

    def _landmarks_detect(self, params: dict[str, Any], answer: _Answer) -> None:
        photo, network = _absolute(params, "photo"), params.get("landmarks", "mediapipe")
        if network not in CHOICES["landmarks"]:
            raise InvalidParams(f"landmarks is one of {', '.join(CHOICES['landmarks'])}")

        def run() -> None:
            try:
                answer(find_faces(photo, network, self._warm_models()))
            except BaseException as error:
                _refuse_with(answer.refuse, error)

        self._queue.put(run)

    def _assets_list(self, params: dict[str, Any], answer: _Answer) -> None:
        from . import assets

        answer({"assets": assets.status()})

    def _assets_install(self, params: dict[str, Any], answer: _Answer) -> None:
        names = _list_of(params, "names", str) if params.get("names") is not None else None
        source = _absolute(params, "from") if params.get("from") is not None else None

        def run(job: Job) -> dict[str, Any]:
            from . import assets

            def progress(name: str, done: int, total: int) -> None:
                if job.cancelled.is_set():
                    raise GanfitError("cancelled", "The installation was cancelled.", "What was installed is kept.")
                self._progress(job, f"install {name}", done, total, {}, None, None)

            assets.install(names, source, progress)
            return {"assets": assets.status()}

        self._start(answer, run)

    def _body_export(self, params: dict[str, Any], answer: _Answer) -> None:
        out = _absolute(params, "out")

        def run() -> None:
            try:
                answer({"body": str(write_body(Path(out)))})
            except BaseException as error:
                _refuse_with(answer.refuse, error)

        self._queue.put(run)

    def _shutdown(self, params: dict[str, Any], answer: _Answer) -> None:
        self._ending = True
        answer({})


def write_body(path: Path) -> Path:
    """Writes MakeHuman's base mesh, whole or not at all. Raises GanfitError: asset_missing, output_not_writable."""
    from .body import body_npz
    from .bundle import output_error

    data = body_npz()
    partial = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise output_error(error, path) from error
    return path


def find_faces(path: str, network: str, models: Any) -> dict[str, Any]:
    """Every face of a photo, the largest first: {size: [w, h], faces: [{score, box, points}]}, all in pixels."""
    from .photo import load_photo
    from .pipeline import choose_device

    photo = load_photo(path)
    mesh = models.landmarks(Options(landmarks=network), choose_device("cpu"))
    faces = []
    for found in models.detector().detect(photo.image):
        points = mesh.landmarks(photo.image, found).points
        faces.append(
            {
                "score": round(float(found.score), 4),
                "box": [round(float(value), 2) for value in found.box],
                "points": [[round(float(x), 2), round(float(y), 2)] for x, y in points],
            }
        )
    return {"size": list(photo.size), "faces": faces}


class _Answer:
    """The two ways to answer one request: `answer(value)` and `answer.refuse(code, text, data)`."""

    def __init__(self, accept: Callable[[dict[str, Any]], None], refuse: Callable[[int, str, Any], None]) -> None:
        self._accept = accept
        self.refuse = refuse

    def __call__(self, value: dict[str, Any]) -> None:
        self._accept(value)


def _refuse_with(refuse: Callable[[int, str, Any], None], error: BaseException) -> None:
    """Answers a request with an exception: wrong parameters, an error for a person, or an internal one."""
    if isinstance(error, InvalidParams):
        refuse(protocol.INVALID_PARAMS, str(error), None)
    else:
        described = _described(error)
        internal = described["code"] == "internal"
        code = protocol.INTERNAL_ERROR if internal else protocol.APPLICATION_ERROR
        refuse(code, described["message"], described)


def _described(error: BaseException) -> dict[str, str]:
    """Code, message and hint; the traceback of what nobody foresaw goes to stderr, which is the log."""
    known = as_ganfit_error(error)
    if known.code in ("internal", "out_of_memory"):
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
    return known.to_dict()


def _is_request(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and (message.get("id") is None or _is_plain(message["id"], (int, str)))
    )


def _is_plain(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """isinstance, but true and false are no numbers."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _list_of(params: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> list[Any]:
    values = params.get(name)
    if not isinstance(values, list) or not all(_is_plain(value, kind) for value in values):
        names = [one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,))]
        raise InvalidParams(f"{name} has to be a list of {' or '.join(names)}")
    return values


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidParams(f"{name} has to be a text")
    return value


def _absolute(params: dict[str, Any], name: str) -> str:
    return _absolute_path(_text(params, name), name)


def _absolute_path(value: str, name: str) -> str:
    if "\0" in value or not Path(value).is_absolute():
        raise InvalidParams(f"{name} has to be an absolute path")
    return value


def _photos(params: dict[str, Any]) -> list[str]:
    photos = _list_of(params, "photos", str)
    if not photos:
        raise InvalidParams("photos is empty")
    return [_absolute_path(photo, "photos") for photo in photos]


def _options(params: dict[str, Any], out: str) -> Options:
    values = params.get("options") or {}
    if not isinstance(values, dict):
        raise InvalidParams("options has to be an object")
    return Options.from_dict({**values, "out": out})


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
