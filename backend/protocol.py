# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and message forms of the worker protocol (JSON-RPC 2.0, one message a line); the standard library only."""

from __future__ import annotations

import json
from typing import Any

VERSION = 1
MAX_LINE_BYTES = 1 << 20

# Requests of the client.
HELLO = "hello"  # {versions: [int], client: str} -> {version, versions, backend, python, pid}
RECONSTRUCT = "reconstruct"  # {photos: [absolute path], out: absolute folder, options: {}} -> {job_id}
# {bundle: path, out?: path (else in place), options?: {only what changes}, sculpt?: path of an .npz whose `offsets`
#  (V0, 3) float32 metres replace the bundle's, pins?: [{view, index: 0..467 | "68:N", x, y}], photos?: [view to use],
#  focal_mm?: [a number, 0 for unknown or null for as it was, per view], focal_px?: the same in pixels} -> {job_id}
REFIT = "refit"
BATCH = "batch"  # {photos: [path] | folder: path, out: path, options: {}} -> {job_id}
CANCEL = "cancel"  # {job_id} -> {job_id, state}; may be called any number of times
LANDMARKS_DETECT = "landmarks.detect"  # {photo: path, landmarks?: name} -> {size, faces: [{score, box, points}]}
ASSETS_LIST = "assets.list"  # {} -> {assets: [{}]}
ASSETS_INSTALL = "assets.install"  # {names: [str], from?: path} -> {job_id}
BODY_EXPORT = "body.export"  # {out: absolute npz path} -> {body: path}; MakeHuman's whole base mesh
SHUTDOWN = "shutdown"  # {} -> {}; then the worker ends
METHODS = (
    HELLO,
    RECONSTRUCT,
    REFIT,
    BATCH,
    CANCEL,
    LANDMARKS_DETECT,
    ASSETS_LIST,
    ASSETS_INSTALL,
    BODY_EXPORT,
    SHUTDOWN,
)

# Notifications of the worker.
JOB_PROGRESS = "job.progress"  # {job_id, stage, step, steps, losses, eta_s}
JOB_PREVIEW = "job.preview"  # {job_id, path}
JOB_FINISHED = "job.finished"  # {job_id, bundle | table | assets} or {job_id, error: {code, message, hint}}
NOTIFICATIONS = (JOB_PROGRESS, JOB_PREVIEW, JOB_FINISHED)

# States of a job, as `cancel` answers them.
QUEUED, RUNNING, CANCELLING, FINISHED = "queued", "running", "cancelling", "finished"

# Error codes: those of JSON-RPC 2.0, and one for errors of the project, which carry {code, message, hint} in `data`.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
APPLICATION_ERROR = -32000


def encode(message: dict[str, Any]) -> bytes:
    """One line of UTF-8 JSON with its newline. NaN and infinity, which JSON has not, raise ValueError."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Any:
    """The JSON value of a line; ValueError when it is too long, not UTF-8 or not JSON."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a message is longer than {MAX_LINE_BYTES} bytes")
    try:
        return json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("a message is nested too deeply") from None


def request(request_id: int | str, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request that expects an answer."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """A message that expects none."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result(request_id: int | str | None, value: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that succeeded."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def error(request_id: int | str | None, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """The answer to a request that failed."""
    body: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}
