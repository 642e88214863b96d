# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker as a real process: the protocol, bad input, jobs, cancel, crash and the end of it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import protocol
from backend.bundle import read_bundle

ROOT = Path(__file__).resolve().parent.parent


class Client:
    """A minimal client: one thread reads messages, requests wait for their answer."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch
        self.log = open(scratch / "log.txt", "wb")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        self.messages: list[Any] = []
        self._queue: queue.Queue[Any] = queue.Queue()
        self._ids = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def wait_for(self, wanted, timeout: float = 300.0) -> Any:
        """The first message from now on for which `wanted` is true; all are kept in `messages`."""
        end = time.monotonic() + timeout
        while True:
            message = self._queue.get(timeout=max(0.01, end - time.monotonic()))
            self.messages.append(message)
            if message is None:
                raise EOFError(self.text())
            if wanted(message):
                return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Answer to a request, with its result or error."""
        self._ids += 1
        self.send(protocol.encode(protocol.request(self._ids, method, params)))
        return self.wait_for(lambda message: message.get("id") == self._ids)

    def finished(self, job_id: str, timeout: float = 300.0) -> dict[str, Any]:
        """The parameters of a job's `job.finished`."""
        done = self.wait_for(
            lambda m: m.get("method") == protocol.JOB_FINISHED and m["params"]["job_id"] == job_id, timeout
        )
        return done["params"]

    def text(self) -> str:
        return (self.scratch / "log.txt").read_text(errors="replace")

    def close(self) -> int:
        """Closes stdin and returns the exit status."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    worker = Client(tmp_path / "scratch")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One worker for all tests that fit something: its networks are loaded once."""
    worker = Client(tmp_path_factory.mktemp("worker"))
    yield worker
    assert worker.close() == 0


def test_hello(client: Client) -> None:
    answer = client.call(protocol.HELLO, versions=[1, 2], client="test")
    assert answer["jsonrpc"] == "2.0" and answer["result"]["version"] == 1
    assert answer["result"]["versions"] == [1] and answer["result"]["pid"] == client.process.pid
    refused = client.call(protocol.HELLO, versions=[2], client="test")
    assert refused["error"]["data"]["code"] == "protocol_version"
    assert client.close() == 0


def test_shutdown(client: Client) -> None:
    assert client.call(protocol.SHUTDOWN)["result"] == {}
    assert client.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(client: Client, number: int) -> None:
    client.call(protocol.HELLO, versions=[1])
    client.process.send_signal(number)
    assert client.process.wait(10) in (128 + number, -number)


def test_nothing_that_a_client_sends_ends_it(client: Client) -> None:
    """Each bad line gets one error with the code of JSON-RPC 2.0, and the next good request its answer."""
    parse, invalid, params = protocol.PARSE_ERROR, protocol.INVALID_REQUEST, protocol.INVALID_PARAMS
    deep = b"[" * 200_000 + b"\n"
    lines: list[tuple[bytes, int, Any]] = [
        (b"nonsense\n", parse, None),
        (b"{\n", parse, None),
        (b"\xff\xfe\n", parse, None),
        (b"\0\0\0\n", parse, None),
        (deep, parse, None),
        (b'{"id": ' + b"9" * 10_000 + b"}\n", parse, None),
        (b"[]\n", invalid, None),
        (b'"text"\n', invalid, None),
        (b"null\n", invalid, None),
        (b'{"id": 1, "method": "hello"}\n', invalid, None),
        (b'{"jsonrpc": "2.0", "id": 1}\n', invalid, None),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "hello"}\n', invalid, None),
        (b'{"jsonrpc": "2.0", "id": NaN, "method": "hello"}\n', invalid, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": 5}\n', invalid, None),
        (b'{"jsonrpc": "2.0", "id": 8, "method": "no.such"}\n', protocol.METHOD_NOT_FOUND, 8),
        (b'{"jsonrpc": "2.0", "id": "a", "method": "__init__"}\n', protocol.METHOD_NOT_FOUND, "a"),
        (b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "\\ud801"}\n', protocol.METHOD_NOT_FOUND, "\ud800"),
        (b'{"jsonrpc": "2.0", "id": 9, "method": "hello", "params": [1]}\n', params, 9),
        (b'{"jsonrpc": "2.0", "id": 10, "method": "hello", "params": {"versions": "1"}}\n', params, 10),
        (b'{"jsonrpc": "2.0", "id": 11, "method": "hello", "params": {"versions": [true]}}\n', params, 11),
        (b'{"jsonrpc": "2.0", "id": 12, "method": "hello", "pad": "' + b"x" * (1 << 20) + b'"}\n', parse, None),
        (b"x" * (5 << 20) + b"\n", parse, None),
    ]
    for line, code, request_id in lines:
        client.send(line)
        answer = client.wait_for(lambda message: True, 20)
        assert answer["error"]["code"] == code and answer["id"] == request_id, (line[:80], answer)
    client.send(b"\n   \n")  # nothing to answer
    client.send(b'{"jsonrpc": "2.0", "method": "hello", "params": {}}\n')  # a notification gets no answer
    client.send(b'{"jsonrpc": "2.0", "method": "no.such"}\n')
    assert "result" in client.call(protocol.HELLO, versions=[1])
    assert client.messages[-2]["id"] is None


@pytest.mark.parametrize("method", [protocol.RECONSTRUCT, protocol.REFIT, protocol.BATCH, protocol.LANDMARKS_DETECT])
def test_wrong_parameters_are_refused_at_once(client: Client, method: str) -> None:
    good: dict[str, Any] = {"photos": ["/a.jpg"], "folder": "/a", "out": "/b", "bundle": "/b", "photo": "/a.jpg"}
    if method == protocol.REFIT:
        good["photos"] = [0]
    used = {
        protocol.RECONSTRUCT: ("photos", "out"),
        protocol.REFIT: ("bundle", "out"),
        protocol.BATCH: ("photos", "out"),
        protocol.LANDMARKS_DETECT: ("photo",),
    }[method]
    for name in used:
        for value in ("relative", "", 5, None, [], ["relative"], [5], {}, "nul\0byte", True):
            if method == protocol.BATCH and name == "photos" and value is None:
                continue  # then `folder` counts
            answer = client.call(method, **{**good, name: value})
            assert answer["error"]["code"] == protocol.INVALID_PARAMS, (name, value, answer)
    if method != protocol.LANDMARKS_DETECT:
        answer = client.call(method, **good, options={"preset": "fast"})
        assert answer["error"]["data"]["code"] == "bad_option" and answer["error"]["data"]["hint"]
        assert client.call(method, **good, options=5)["error"]["code"] == protocol.INVALID_PARAMS


def test_unknown_job(client: Client) -> None:
    assert client.call(protocol.CANCEL, job_id="job-9")["error"]["data"]["code"] == "unknown_job"
    assert client.call(protocol.CANCEL, job_id=9)["error"]["code"] == protocol.INVALID_PARAMS


def test_assets(client: Client) -> None:
    entries = client.call(protocol.ASSETS_LIST)["result"]["assets"]
    assert {"makehuman", "mediapipe", "dlib_resnet"} <= {entry["name"] for entry in entries}
    assert all({"licence", "sellable", "installed", "download_size"} <= set(entry) for entry in entries)
    job = client.call(protocol.ASSETS_INSTALL, names=["makehuman"])["result"]["job_id"]
    assert client.finished(job)["assets"][0]["installed"]
    job = client.call(protocol.ASSETS_INSTALL, names=["no such"])["result"]["job_id"]
    assert client.finished(job)["error"]["code"] == "asset_unknown"


def test_a_library_that_prints_does_not_break_the_protocol(tmp_path: Path) -> None:
    """Prints by Python and by C on descriptor 1 land on stderr, and nobody else reads the client's stdin."""
    code = (
        "import ctypes, os, sys\n"
        "from backend import worker\n"
        "source, target = worker._take_over_streams()\n"
        "print('from python'); os.write(1, b'from descriptor 1'); ctypes.CDLL(None).puts(b'from C')\n"
        "ctypes.CDLL(None).fflush(None)\n"
        "assert sys.stdin.read() == '' and source.readline() == b'a line\\n'\n"
        "target.write(b'answer\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"a line\n", capture_output=True, cwd=ROOT, timeout=30)
    assert done.stdout == b"answer\n"
    assert all(text in done.stderr for text in (b"from python", b"from descriptor 1", b"from C"))


# --- with the real pipeline ------------------------------------------------------------------------------------------

DRAFT = {"preset": "draft", "iterations": 2, "device": "cpu"}
ENDLESS = {"preset": "draft", "iterations": 100_000, "device": "cpu"}


def no_leftovers(folder: Path) -> bool:
    """Nothing in the folder, not even a temporary sibling of a bundle."""
    return not folder.exists() or not list(folder.iterdir())


def until_fitting(client: Client, job_id: str) -> dict[str, Any]:
    """Waits for the job's first iteration."""

    def fits(message: Any) -> bool:
        params = message.get("params", {})
        return message.get("method") == protocol.JOB_PROGRESS and params["job_id"] == job_id and params["step"] > 0

    return client.wait_for(fits)["params"]


def test_reconstruct(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    answer = warm.call(protocol.RECONSTRUCT, photos=[str(astronaut)], out=str(tmp_path / "me"), options=DRAFT)
    job = answer["result"]["job_id"]
    place = len(warm.messages)
    done = warm.finished(job)
    assert done == {"job_id": job, "bundle": str(tmp_path / "me")}, warm.text()
    bundle = read_bundle(tmp_path / "me")
    assert bundle.head["verts"].shape[1] == 3 and bundle.result["options"]["iterations"] == 2
    told = [m["params"] for m in warm.messages[place:] if m and m.get("method") == protocol.JOB_PROGRESS]
    assert [p["stage"] for p in told].index("face") < [p["stage"] for p in told].index("fit")
    steps = [p for p in told if p["stage"] == "fit" and p["step"]]
    assert steps[-1]["step"] == steps[-1]["steps"] and steps[-1]["losses"] and steps[-1]["eta_s"] is not None


def test_cancel_and_queue(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """One job runs, one waits; both are cancelled, more than once, and leave nothing behind."""
    out = tmp_path / "out"
    answers = [
        warm.call(protocol.RECONSTRUCT, photos=[str(astronaut)], out=str(out / name), options=ENDLESS) for name in "ab"
    ]
    first, second = (answer["result"]["job_id"] for answer in answers)
    assert until_fitting(warm, first)["steps"] >= 100_000
    assert warm.call(protocol.CANCEL, job_id=second)["result"]["state"] == protocol.CANCELLING
    began = time.monotonic()
    for _ in range(3):
        assert warm.call(protocol.CANCEL, job_id=first)["result"]["state"] in (protocol.CANCELLING, protocol.FINISHED)
    assert warm.finished(first)["error"]["code"] == "cancelled"
    assert time.monotonic() - began < 60
    assert warm.finished(second)["error"]["code"] == "cancelled"
    assert warm.call(protocol.CANCEL, job_id=first)["result"]["state"] == protocol.FINISHED
    assert no_leftovers(out)
    assert not list(warm.scratch.glob("ganfit-*"))


def test_bad_photos(warm: Client, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(noise)
    for photo, code in ((noise, "no_face"), (tmp_path / "none.jpg", "photo_missing"), (tmp_path, "photo_is_folder")):
        answer = warm.call(protocol.RECONSTRUCT, photos=[str(photo)], out=str(tmp_path / "me"), options=DRAFT)
        error = warm.finished(answer["result"]["job_id"])["error"]
        assert error["code"] == code and error["message"] and error["hint"]
    assert not (tmp_path / "me").exists()


def test_output_is_checked_before_the_fit(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = len(warm.messages)
    answer = warm.call(
        protocol.RECONSTRUCT, photos=[str(astronaut)], out=str(tmp_path / "file" / "me"), options=ENDLESS
    )
    assert warm.finished(answer["result"]["job_id"], 30)["error"]["code"] == "output_not_writable"
    assert not any("fit" in str(m.get("params", {}).get("stage")) for m in warm.messages[place:])


def test_landmarks_of_every_face(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """The portrait beside its smaller copy: two faces, the larger first, with points inside their boxes."""
    face = Image.open(astronaut).convert("RGB").crop((120, 0, 340, 260))
    canvas = Image.new("RGB", (560, 320), (90, 90, 90))
    canvas.paste(face, (20, 20))
    canvas.paste(face.resize((132, 156)), (380, 60))
    canvas.save(tmp_path / "two.png")
    found = warm.call(protocol.LANDMARKS_DETECT, photo=str(tmp_path / "two.png"))["result"]
    assert found["size"] == [560, 320] and len(found["faces"]) == 2
    large, small = (np.array(one["points"]) for one in found["faces"])
    assert large.shape == (468, 2) and np.ptp(large[:, 1]) > 1.4 * np.ptp(small[:, 1])
    assert large[:, 0].max() < 240 < 380 < small[:, 0].min()
    refused = warm.call(protocol.LANDMARKS_DETECT, photo=str(tmp_path / "none.png"))
    assert refused["error"]["data"]["code"] == "photo_missing"


def test_batch(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    people, out = tmp_path / "people", tmp_path / "out"
    people.mkdir()
    (people / "astronaut.png").write_bytes(astronaut.read_bytes())
    (people / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    states = []
    for _ in range(2):
        answer = warm.call(protocol.BATCH, folder=str(people), out=str(out), options=DRAFT)
        done = warm.finished(answer["result"]["job_id"])
        states.append([person["state"] for person in json.loads(Path(done["table"]).read_text())["people"]])
    assert states == [["done", "failed"], ["skipped", "failed"]], warm.text()
    assert done["counts"] == {"skipped": 1, "failed": 1}
    read_bundle(out / "astronaut")


def test_refit_in_place_is_cancelled_and_done(warm: Client, astronaut: Path, tmp_path: Path) -> None:
    """A pin on a result of this worker: cancelled it stays as it was, run to the end it is replaced as a whole."""
    me = tmp_path / "me"
    answer = warm.call(protocol.RECONSTRUCT, photos=[str(astronaut)], out=str(me), options=DRAFT)
    assert "bundle" in warm.finished(answer["result"]["job_id"])
    first = read_bundle(me).result
    x, y = first["views"][0]["landmarks"][4]
    pins = [{"view": 0, "index": 4, "x": x + 3, "y": y}]
    job = warm.call(protocol.REFIT, bundle=str(me), pins=pins, options=ENDLESS)["result"]["job_id"]
    until_fitting(warm, job)
    warm.call(protocol.CANCEL, job_id=job)
    assert warm.finished(job)["error"]["code"] == "cancelled" and read_bundle(me).result == first
    answer = warm.call(protocol.REFIT, bundle=str(me), pins=pins, photos=[0], focal_mm=[60], options=DRAFT)
    job = answer["result"]["job_id"]
    assert warm.finished(job) == {"job_id": job, "bundle": str(me)}
    again = read_bundle(me).result
    assert again["pins"] == pins and again["views"][0]["photo"] == {**first["views"][0]["photo"], "focal_35mm": 60}


def test_refit_says_what_is_wrong(warm: Client, tmp_path: Path) -> None:
    for name, value in (("pins", [5]), ("photos", ["0"]), ("focal_mm", ["50"]), ("sculpt", "relative.npz")):
        answer = warm.call(protocol.REFIT, bundle=str(tmp_path), **{name: value})
        assert answer["error"]["code"] == protocol.INVALID_PARAMS
    job = warm.call(protocol.REFIT, bundle=str(tmp_path / "none"))["result"]["job_id"]
    assert warm.finished(job)["error"]["code"] == "bundle_missing"


@pytest.mark.parametrize("end", ["stdin", "kill"])
def test_the_end_in_the_middle_of_a_job(tmp_path: Path, astronaut: Path, end: str) -> None:
    """When stdin closes the worker stops its job, cleans up and ends; killed, it leaves no half bundle."""
    client = Client(tmp_path / "scratch")
    try:
        out = tmp_path / "out" / "me"
        answer = client.call(protocol.RECONSTRUCT, photos=[str(astronaut)], out=str(out), options=ENDLESS)
        until_fitting(client, answer["result"]["job_id"])
        if end == "kill":
            client.process.kill()
            assert client.process.wait(10) == -signal.SIGKILL
        else:
            began = time.monotonic()
            assert client.close() == 0 and time.monotonic() - began < 30
            assert not list(client.scratch.glob("ganfit-*")), "temporary folders are removed"
        assert no_leftovers(tmp_path / "out")
    finally:
        client.close()


def test_temporary_folder_is_the_scratch_one(warm: Client) -> None:
    """So that the tests above look for leftovers in the right place."""
    assert Path(tempfile.gettempdir()) != warm.scratch and warm.scratch.is_dir()
