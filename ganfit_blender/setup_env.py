# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend's own Python environment: where it is, whether it is complete, and the job that makes it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import AddonError
from .job import CANCELLED, CANCELLING, FINISHED, POLL_INTERVAL_S, RUNNING, JobStatus
from .worker_client import detached, kill_tree

PYTHON_VERSIONS = ((3, 11), (3, 14))  # first and last that the backend's pinned packages exist for
TORCH_INDEX = {  # where torch is found whose build PyPI has not: PyPI's is CUDA on Linux, CPU elsewhere
    ("linux", "cpu"): "https://download.pytorch.org/whl/cpu",
    ("win32", "cuda"): "https://download.pytorch.org/whl/cu130",
}
SIZES = {"cpu": "about 0.5 GB to download, 1.5 GB on disk", "cuda": "about 3 GB to download, 7 GB on disk"}
DONE_FILE = "ganfit-setup.json"
LOG_LINES = 8
STAGES = 3  # venv, pip, assets
PACKAGES = 25  # about as many does pip go through, those included that the pinned ones need


@dataclass(frozen=True)
class SetupPlan:
    """Everything that a set-up needs to know.

    Attributes:
        environment: folder of the virtual environment, made if it does not exist.
        base_python: the Python that makes it; empty: the best that is found.
        backend_root: folder that holds the package `backend`.
        cache: the backend's cache folder.
        compute: `cpu` or `cuda`.
        index_url: package index for pip; empty: pip's own default and torch's index for `compute`.
        wheel_folder: folder with wheels, for machines without internet; empty: none.
        log_path: file that gets every line of the subprocesses.
    """

    environment: Path
    base_python: str
    backend_root: Path
    cache: Path
    compute: str
    index_url: str
    wheel_folder: str
    log_path: Path


def environment_python(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def requirements_file(backend_root: Path, compute: str) -> Path:
    """The pinned requirements that the package ships: those of the variant, else the common ones."""
    variant = backend_root / "backend" / f"requirements-{compute}.txt"
    return variant if variant.is_file() else backend_root / "backend" / "requirements.txt"


def is_complete(environment: Path, backend_root: Path) -> bool:
    """Whether the environment was set up to its end with the requirements of this version of the add-on."""
    try:
        done = json.loads((environment / DONE_FILE).read_text("utf-8"))
        known = done["requirements"] == _digest(requirements_file(backend_root, done["compute"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return known and environment_python(environment).exists()


def backend_environment(backend_root: Path, cache: Path | None) -> dict[str, str]:
    """Environment variables for the backend's processes: this process's, without its Python's settings."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {
        "PYTHONPATH": str(backend_root),
        "PYTHONSAFEPATH": "1",  # a folder named backend where Blender was started is not ours
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the extension's folder may be read-only
    }
    if cache is not None:
        variables["GANFIT_CACHE"] = str(cache)
    return variables


def find_python(chosen: str) -> str:
    """A Python of a fitting version that can make a virtual environment: the chosen one, Blender's, the system's.

    Raises:
        AddonError: `python_missing`.
    """
    candidates = [chosen] if chosen else [sys.executable, *_system_pythons()]
    for candidate in candidates:
        if candidate and _can_make_environment(candidate):
            return candidate
    (low, high), text = PYTHON_VERSIONS, "No Python was found that can make the backend's environment"
    text = f"{chosen} cannot make the backend's environment" if chosen else text
    hint = f"Install Python {low[0]}.{low[1]} to {high[0]}.{high[1]} with its venv module (Debian: python3-venv)"
    raise AddonError("python_missing", f"{text}.", f"{hint} and choose it in the add-on's preferences.")


def _system_pythons() -> list[str]:
    (_, low), (_, high) = PYTHON_VERSIONS
    names = [f"python3.{minor}" for minor in range(high, low - 1, -1)] + ["python3", "python"]
    return [path for path in map(shutil.which, names) if path]


def _can_make_environment(python: str) -> bool:
    check = "import sys, venv, ensurepip; print(sys.version_info[0], sys.version_info[1])"
    try:
        run = subprocess.run([python, "-I", "-c", check], capture_output=True, text=True, timeout=20, check=True)
        version = tuple(int(part) for part in run.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return PYTHON_VERSIONS[0] <= version <= PYTHON_VERSIONS[1]


class SetupJob:
    """Makes the environment by three subprocesses: venv, pip, `backend assets install`. Polled like `WorkerJob`.

    Args:
        plan: what to make and from where.
        online: whether the network may be used; without it, a wheel folder is required.
        clock: seconds, monotonic.
    """

    def __init__(self, plan: SetupPlan, online: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.status = JobStatus(state=RUNNING, stage="python")
        self._plan = plan
        self._clock = clock
        self._began = clock()
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._packages = 0
        self._process: subprocess.Popen[bytes] | None = None
        if not online and not plan.wheel_folder:
            self.status.fail(AddonError("online_access", "Set Up needs the network, which Blender may not use now."))
            return
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def poll(self) -> JobStatus:
        """Takes in the lines of the subprocesses and returns the status; never waits."""
        while not self.status.ended:
            try:
                kind, text = self._lines.get_nowait()
            except queue.Empty:
                break
            self._take(kind, text)
        return self.status

    def cancel(self) -> None:
        """Kills the running subprocess; a later set-up goes on with what is there."""
        if not self.status.ended:
            self.status.state = CANCELLING
            self._cancelled.set()
            if self._process is not None:
                kill_tree(self._process)

    def wait(self, on_change: Callable[[JobStatus], None] | None = None) -> JobStatus:
        """Blocks until the job has ended; `on_change` gets every new line."""
        shown = ""
        while not self.poll().ended:
            line = self.status.log[-1] if self.status.log else ""
            if on_change and line != shown:
                shown = line
                on_change(self.status)
            time.sleep(POLL_INTERVAL_S)
        return self.status

    def _take(self, kind: str, text: str) -> None:
        status = self.status
        if kind == "line":
            status.log = [*status.log[1 - LOG_LINES :], text]
            part = self._part_done(text)
            if part is not None and status.steps:
                status.fraction = max(status.fraction, (status.step - 1 + part) / status.steps)
        elif kind == "stage":
            status.stage, status.step, status.steps = text, status.step + 1, STAGES
            status.fraction = max(status.fraction, (status.step - 1) / status.steps)
        elif kind == "done":
            status.state, status.fraction = FINISHED, 1.0
        elif kind == "cancelled":
            status.state = CANCELLED
            status.error = AddonError("cancelled", "Set Up was cancelled.", "Press Set Up again to go on.")
        else:
            status.fail(AddonError("setup_failed" if kind == "failed" else kind, text))

    def _part_done(self, line: str) -> float | None:
        """How much of the running stage is done, 0 to 1, as far as a line of its output says so.

        pip names each package when it begins with it and all of them before it unpacks them; it counts nothing.
        """
        if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied: ")):
            self._packages += 1
            return min(0.6, 0.6 * self._packages / PACKAGES)
        if line.startswith("Installing collected packages:"):
            return 0.7
        percent = re.search(r"(\d{1,3})\s?%", line)
        return min(100, int(percent[1])) / 100 if percent else None

    def _run(self) -> None:
        """Thread: the stages one after the other, their output and the outcome into the queue."""
        try:
            self._plan.log_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._plan.log_path, "ab", buffering=0) as log:
                for stage, command in self._stages():
                    self._lines.put(("stage", stage))
                    if self._cancelled.is_set() or not self._stage(stage, command(), log):
                        return
            done = {"compute": self._plan.compute, "requirements": _digest(self._requirements())}
            (self._plan.environment / DONE_FILE).write_text(json.dumps(done), "utf-8")
            self._lines.put(("done", ""))
        except AddonError as error:
            self._lines.put((error.code, error.message))
        except OSError as error:
            self._lines.put(("failed", f"The environment could not be made: {error}."))
        finally:
            if self._cancelled.is_set():
                self._lines.put(("cancelled", ""))

    def _stages(self) -> list[tuple[str, Callable[[], Sequence[str]]]]:
        return [
            ("venv", self._venv_command),
            ("pip", self._pip_command),
            ("assets", self._assets_command),
        ]

    def _venv_command(self) -> Sequence[str]:
        if environment_python(self._plan.environment).exists():
            return []
        return [find_python(self._plan.base_python), "-I", "-m", "venv", str(self._plan.environment)]

    def _pip_command(self) -> Sequence[str]:
        plan = self._plan
        command = [str(environment_python(plan.environment)), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-input", "--progress-bar", "off", "--only-binary", ":all:", "-r", str(self._requirements())]
        if plan.wheel_folder:
            return [*command, "--no-index", "--find-links", plan.wheel_folder]
        if plan.index_url:
            return [*command, "--index-url", plan.index_url]
        extra = TORCH_INDEX.get((sys.platform, plan.compute))
        # Few retries: a network of its own, which has only the first index, should not wait long for the second.
        return [*command, "--retries", "2", "--extra-index-url", extra] if extra else command

    def _assets_command(self) -> Sequence[str]:
        command = [str(environment_python(self._plan.environment)), "-m", "backend", "assets", "install"]
        return [*command, "--from", self._plan.wheel_folder] if self._plan.wheel_folder else command

    def _variables(self) -> dict[str, str]:
        variables = backend_environment(self._plan.backend_root, self._plan.cache)
        if self._plan.index_url:
            variables["GANFIT_INDEX_URL"] = self._plan.index_url
        return variables

    def _requirements(self) -> Path:
        return requirements_file(self._plan.backend_root, self._plan.compute)

    def _stage(self, stage: str, command: Sequence[str], log: object) -> bool:
        """Runs one subprocess to its end; False when it failed or was cancelled, with the reason in the queue."""
        if not command:
            return True
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())  # type: ignore[attr-defined]
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._variables(),
            **detached(),
        )
        assert self._process.stdout is not None
        if self._cancelled.is_set():  # between the last look and the start
            kill_tree(self._process)
        last = ""
        for raw in self._process.stdout:
            log.write(raw)  # type: ignore[attr-defined]
            text = raw.decode("utf-8", "replace").strip()
            if text:
                last = text
                self._lines.put(("line", text))
        if self._process.wait() == 0 and not self._cancelled.is_set():
            return True
        if not self._cancelled.is_set():
            self._lines.put(("failed", f"Set Up stopped at '{stage}' (exit status {self._process.returncode}): {last}"))
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
