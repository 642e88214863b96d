# SPDX-License-Identifier: GPL-3.0-or-later
"""Hundreds of bad messages to a real worker: each gets one answer, none ends it, none makes it write or reach out."""
from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_worker import Client

from backend import protocol
from backend.errors import CODES

ANSWERS = {protocol.PARSE_ERROR, protocol.INVALID_REQUEST, protocol.METHOD_NOT_FOUND, protocol.INVALID_PARAMS,
           protocol.APPLICATION_ERROR}  # fmt: skip
"""Every error but INTERNAL_ERROR, which no message may cause."""
QUIET_METHODS = [method for method in protocol.METHODS if method != protocol.SHUTDOWN]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, 2**70, "", " ", "relative/path", "../../etc", "nul\0byte", "\ud800", "x" * 70_000,
    "/no/such/place", "file:///etc/passwd", "https://example.com/a.png", [], [[]], [None], ["relative"], [1, "a"], {},
    {"a": {"b": []}}, [["/a"]], {"preset": "fast"}, {"seed": 1.5}, {"iterations": -1}, {"out": "/tmp/elsewhere"},
    {"unknown": 1}, {"generator": 5}, {"face": True}, {"device": ["cpu"]},
]  # fmt: skip
NAMES = ("photos", "photo", "folder", "out", "options", "bundle", "sculpt", "pins", "job_id", "names", "from",
         "versions", "landmarks")  # fmt: skip
EDITS = (b"", b"\0", b"\xff", b'"', b"{", b"]", b",", b"\\u")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One worker for everything; whatever it tried to download would fail at once."""
    nowhere = {"GANFIT_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1", "https_proxy": "http://127.0.0.1:9"}
    kept = {name: os.environ.get(name) for name in nowhere}
    os.environ.update(nowhere)
    client = Client(tmp_path_factory.mktemp("protocol"))
    yield client
    for name, value in kept.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    alive = client.process.poll() is None
    client.call(protocol.LANDMARKS_DETECT, photo="/no/such/photo.png")  # answered when all that was queued is done
    assert client.close() == 0 and alive
    assert "Traceback" not in client.text()


def ask(client: Client, data: bytes) -> list[dict[str, Any]]:
    """Sends raw bytes, then a good request; all messages up to its answer."""
    client._ids += 1
    mark = f"mark-{client._ids}"
    client.send(data + protocol.encode(protocol.request(mark, protocol.HELLO, {"versions": [protocol.VERSION]})))
    place = len(client.messages)
    assert "result" in client.wait_for(lambda message: message.get("id") == mark, 60)
    return client.messages[place:-1]


def answers_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the notifications of jobs."""
    return [message for message in messages if "method" not in message]


def check_errors(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        if message.get("method") == protocol.JOB_FINISHED and "error" in message["params"]:
            assert message["params"]["error"]["code"] in set(CODES) - {"internal"}, message
        if "error" in message:
            assert message["error"]["code"] in ANSWERS and message["error"]["message"], message


def is_message(line: bytes) -> bool:
    """Whether an edit has left a good message."""
    try:
        message = json.loads(line)
        return message["jsonrpc"] == "2.0" and message["method"] == protocol.RECONSTRUCT
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def broken_lines() -> list[bytes]:
    """Lines that are no message, made from a good one: the same ones each time."""
    good = protocol.encode(protocol.request(1, protocol.RECONSTRUCT, {"photos": ["/a.png"], "out": "/b"}))[:-1]
    draw, found = random.Random(0), []
    for _ in range(80):
        line = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(line))
            line[place : place + draw.randint(0, 5)] = draw.choice(EDITS)
        if not is_message(bytes(line)):
            found.append(bytes(line))
    found += [good[: len(good) * part // 20] for part in range(1, 20)]
    nested = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500, b'{"id":' + b"[" * 90_000)
    numbers = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x10", b"9" * 5000, b"1_000", b"\xef\xbb\xbf{}")
    return [*found, *nested, *numbers, b"\xc3\x28", b"\xed\xa0\x80", good + good, b"\x1b[2J", b"GET / HTTP/1.1"]


def test_each_broken_line_gets_one_error(worker: Client) -> None:
    for line in broken_lines():
        messages = ask(worker, line + b"\n")
        answers = answers_of(messages)
        assert len(answers) == (1 if line.strip() else 0), (line[:200], messages)
        assert "error" in answers[0] if answers else True, line[:200]
        check_errors(messages)


def test_lines_over_a_mebibyte(worker: Client) -> None:
    """One error each, whatever follows the limit; the memory that they took is free for the next."""
    limit = protocol.MAX_LINE_BYTES
    for size in (limit, limit + 1, limit + 2, 2 * limit, 2 * limit + 2, 9 * limit):
        body = b'{"jsonrpc":"2.0","id":5,"method":"hello","pad":"'
        (answer,) = ask(worker, body + b"x" * (size - len(body) - 1) + b"\n")
        assert answer["error"]["code"] in (protocol.PARSE_ERROR, protocol.INVALID_REQUEST), size
    (answer,) = ask(worker, b"\n".join([b"x" * (limit + 5)] * 1) + b"\n")
    assert answer["id"] is None


@pytest.mark.parametrize("method", [m for m in QUIET_METHODS if m != protocol.ASSETS_LIST])
def test_every_parameter_of_every_wrong_kind(worker: Client, method: str, tmp_path: Path) -> None:
    """Each value in place of each parameter: an error, or a job that ends with one; never an internal one."""
    none = str(tmp_path / "none.png")
    good: dict[str, Any] = {"photos": [none], "photo": none, "out": str(tmp_path / "out"), "folder": none,
                            "bundle": none, "job_id": "job-0", "names": ["no such asset"], "versions": [1],
                            "options": {"device": "cpu"}}  # fmt: skip
    requests, jobs = [], set()
    for name in NAMES:
        for value in VALUES:
            params = {**good, name: value}
            if method == protocol.ASSETS_INSTALL and not params["names"]:
                continue  # means all of the defaults
            requests.append(params)
    for number, params in enumerate(requests):
        text = json.dumps({"jsonrpc": "2.0", "id": f"{method} {number}", "method": method, "params": params})
        messages = ask(worker, text.encode() + b"\n")
        check_errors(messages)
        jobs |= {m["result"]["job_id"] for m in answers_of(messages) if "job_id" in m.get("result", {})}
    finished = {m["params"]["job_id"] for m in worker.messages if m and m.get("method") == protocol.JOB_FINISHED}
    for job in sorted(jobs - finished) if method != protocol.CANCEL else ():
        if job not in {m["params"]["job_id"] for m in worker.messages if m.get("method") == protocol.JOB_FINISHED}:
            check_errors([{"method": protocol.JOB_FINISHED, "params": worker.finished(job, 120)}])
    worker.call(protocol.LANDMARKS_DETECT, photo=none)  # answered when all that was queued is done
    answered = {m["id"] for m in worker.messages if str(m.get("id")).startswith(f"{method} ")}
    assert len(answered) == len(requests)
    check_errors(worker.messages)
    assert not Path("/tmp/elsewhere").exists()
    kept = [path for path in tmp_path.rglob("*") if path.name not in ("out", "batch.json", "batch.csv")]
    assert not kept, kept


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    message=st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), json_values, max_size=5),
    method=st.sampled_from([*QUIET_METHODS, "no.such", ""]),
    params=st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3),
    keep=st.sampled_from([(), ("jsonrpc",), ("jsonrpc", "method"), ("jsonrpc", "method", "params")]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_json_gets_an_answer(worker: Client, message: dict, method: str, params: dict, keep: tuple) -> None:
    """Random values in the form of a message, more and more of it right: no internal error, and it lives."""
    right = {"jsonrpc": "2.0", "method": method, "params": params}
    message = message | {name: right[name] for name in keep}
    if message.get("method") in (protocol.SHUTDOWN, protocol.ASSETS_INSTALL):
        return
    messages = ask(worker, json.dumps(message).encode() + b"\n")
    check_errors(messages)  # the answer to `landmarks.detect` may come later


def test_a_flood_of_cancels_and_of_requests(worker: Client) -> None:
    """Ten thousand messages at once: as many answers, in order, soon."""
    started = time.monotonic()
    lines = [protocol.encode(protocol.request(f"f{number}", protocol.CANCEL, {"job_id": f"job-{10**6 + number}"}))
             for number in range(5000)]  # fmt: skip
    lines += [protocol.encode(protocol.request(f"f{number}", protocol.HELLO, {"versions": [1]}))
              for number in range(5000, 10_000)]  # fmt: skip
    messages = ask(worker, b"".join(lines))
    ours = [message for message in answers_of(messages) if str(message["id"]).startswith("f")]
    assert [message["id"] for message in ours] == [f"f{number}" for number in range(10_000)]
    assert all(message["error"]["data"]["code"] == "unknown_job" for message in ours[:5000])
    assert time.monotonic() - started < 120


def test_a_flood_of_jobs_that_are_cancelled(worker: Client, tmp_path: Path) -> None:
    """Two hundred queued jobs, each cancelled three times: each ends once, and nothing is written."""
    count, place = 200, len(worker.messages)
    jobs = []
    for number in range(count):
        params = {"photos": [str(tmp_path / "none.png")], "out": str(tmp_path / "out" / str(number))}
        jobs.append(worker.call(protocol.RECONSTRUCT, **params)["result"]["job_id"])
    cancels = [protocol.encode(protocol.request(f"c{i}", protocol.CANCEL, {"job_id": job}))
               for i, job in enumerate(jobs * 3)]  # fmt: skip
    ask(worker, b"".join(cancels))
    last = [m for m in worker.messages[place:] if m.get("method") == protocol.JOB_FINISHED]
    while len({m["params"]["job_id"] for m in last}) < count:
        last.append(worker.wait_for(lambda m: m.get("method") == protocol.JOB_FINISHED, 60))
    ended = [m["params"]["job_id"] for m in last]
    assert sorted(ended) == sorted(jobs)
    assert {m["params"]["error"]["code"] for m in last} <= {"cancelled", "photo_missing"}
    assert not (tmp_path / "out").exists()


def test_bytes_that_arrive_one_by_one(worker: Client) -> None:
    """A slow client, and a message in the middle of which it pauses."""
    line = protocol.encode(protocol.request("slow", protocol.HELLO, {"versions": [1]}))
    for position in range(len(line)):
        worker.send(line[position : position + 1])
    assert worker.wait_for(lambda message: message.get("id") == "slow", 30)["result"]["version"] == 1
