# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m backend serve` of the stand-in; the environment variable FAKE_WORKER says how it behaves.

ok: progress, a preview and FAKE_BUNDLE copied to the output. crash: dies in mid-job. exit: dies at once. garbage: ok
with noise on stdout. slow: answers `hello` after a second. mute: never answers. deaf: ignores cancel. no_face: fails
with an error of the project. old: speaks protocol version 0. chatty: ok after megabytes on stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time

MODE = os.environ.get("FAKE_WORKER", "ok")
STEPS = int(os.environ.get("FAKE_STEPS", "5"))
STEP_S = float(os.environ.get("FAKE_STEP_S", "0.02"))
cancelled = threading.Event()


def send(message: dict) -> None:
    """One message a line."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def notify(method: str, **params: object) -> None:
    """A notification."""
    send({"method": method, "params": params})


def noise() -> None:
    """What badly behaved libraries print."""
    sys.stdout.write('warning: {"this": is not json\n\n[1, 2]\n"text"\n\x00\xff\n')
    sys.stdout.flush()


def work(job_id: str, params: dict) -> None:
    """A job."""
    for step in range(1, STEPS + 1):
        if cancelled.is_set() and MODE != "deaf":
            error = {"code": "cancelled", "message": "Stopped.", "hint": "Nothing was written."}
            notify("job.finished", job_id=job_id, error=error)
            return
        if MODE == "crash" and step == 3:
            sys.stderr.write("Fatal: the fake worker dies as it was told\n")
            sys.stderr.flush()
            os._exit(3)
        if MODE == "garbage":
            noise()
        if MODE == "chatty":
            sys.stderr.write("chatter " * 40000 + "\n")
        notify("job.progress", job_id=job_id, stage="fit", step=step, steps=STEPS, losses={"pixel": 1.0 / step},
               eta_s=(STEPS - step) * STEP_S)
        if os.environ.get("FAKE_PREVIEW"):
            notify("job.preview", job_id=job_id, path=os.environ["FAKE_PREVIEW"])
        time.sleep(STEP_S)
    if MODE == "no_face":
        error = {"code": "no_face", "message": "No face was found.", "hint": "Use a photo with a face."}
        notify("job.finished", job_id=job_id, error=error)
        return
    if os.environ.get("FAKE_BUNDLE"):
        shutil.copytree(os.environ["FAKE_BUNDLE"], params["out"], dirs_exist_ok=True)
        with open(os.path.join(params["out"], "request.json"), "w") as stream:
            json.dump(params, stream)
        if params.get("sculpt"):
            shutil.copy(params["sculpt"], os.path.join(params["out"], "sculpt.npz"))
    notify("job.finished", job_id=job_id, bundle=params["out"])


def batch(job_id: str, params: dict) -> None:
    """A batch: everyone in the folder gets FAKE_BUNDLE, but one whose name begins with `bad`; the table as it goes."""
    out = params["out"]
    os.makedirs(out, exist_ok=True)
    people = [{"name": os.path.splitext(name)[0], "photos": [os.path.join(params["folder"], name)], "state": "waiting",
               "bundle": None, "error": None, "warnings": []} for name in sorted(os.listdir(params["folder"]))]

    def write() -> None:
        with open(os.path.join(out, "batch.json.part"), "w") as stream:
            json.dump({"version": 1, "people": people}, stream)
        os.replace(os.path.join(out, "batch.json.part"), os.path.join(out, "batch.json"))

    for number, person in enumerate(people, 1):
        folder = os.path.join(out, person["name"])
        if cancelled.is_set() or (MODE == "stop" and number > 1):
            person["state"] = "cancelled"
            continue
        person["state"] = "running"
        write()
        notify("job.progress", job_id=job_id, stage=f"{person['name']} ({number}/{len(people)}): fit", step=1, steps=2,
               losses={}, eta_s=1.0)
        time.sleep(STEP_S)
        if person["name"].startswith("bad"):
            person["error"] = {"code": "no_face", "message": "No face was found.", "hint": "Use a photo with a face."}
            person["state"] = "failed"
        else:
            person["state"] = "skipped" if os.path.exists(folder) else "done"
            shutil.copytree(os.environ["FAKE_BUNDLE"], folder, dirs_exist_ok=True)
            person["bundle"] = folder
    write()
    error = {"code": "cancelled", "message": "The batch was cancelled.", "hint": "What was done is kept."}
    stopped = any(person["state"] == "cancelled" for person in people)
    table = os.path.join(out, "batch.json")
    notify("job.finished", job_id=job_id, table=table, **({"error": error} if stopped else {}))


def serve() -> None:
    """Reads requests until stdin ends."""
    if MODE == "exit":
        sys.exit("the fake worker cannot start")
    for line in sys.stdin:
        message = json.loads(line)
        method, params, number = message["method"], message["params"], message["id"]
        if MODE == "mute":
            continue
        if method == "hello":
            if MODE == "slow":
                time.sleep(1.0)
            if MODE == "garbage":
                noise()
            version = 0 if MODE == "old" else 1
            send({"id": number, "result": {"version": version, "backend": "fake", "pid": os.getpid()}})
        elif method in ("reconstruct", "refit", "batch"):
            cancelled.clear()
            send({"id": number, "result": {"job_id": f"job-{number}"}})
            if os.environ.get("FAKE_RECORD"):
                with open(os.environ["FAKE_RECORD"], "a") as stream:
                    stream.write(json.dumps({"method": method, "params": params}) + "\n")
            run = batch if method == "batch" else work
            threading.Thread(target=run, args=(f"job-{number}", params), daemon=True).start()
        elif method == "cancel":
            cancelled.set()
            send({"id": number, "result": {"job_id": params["job_id"], "state": "cancelling"}})
        elif method == "assets.list":
            asset = {"name": "makehuman", "purpose": "head", "licence": "CC0-1.0", "sellable": True, "installed": "x"}
            send({"id": number, "result": {"assets": [asset]}})
        elif method == "body.export":
            shutil.copy(os.environ["FAKE_BODY"], params["out"])
            send({"id": number, "result": {"body": params["out"]}})
        elif method == "shutdown":
            send({"id": number, "result": {}})
            break
        else:
            send({"id": number, "error": {"code": -32601, "message": f"no method {method}"}})


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        print("Installing assets 50%", flush=True)
        print(" ".join(sys.argv[1:]), flush=True)
