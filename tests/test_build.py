# SPDX-License-Identifier: GPL-3.0-or-later
"""build.py: environments are made once and never from halves, errors say what to do, the zip holds what it must."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

import build

TORCH = "https://example.org/torch"


class FakeStep(build.Step):
    """Records the commands, and makes the one file that a venv must have; pip can be told to fail."""

    commands: list[list[str]] = []
    pip_fails = False

    def run(self, command, read=None, env=None):
        words = [str(word) for word in command]
        FakeStep.commands.append(words)
        if "venv" in words:
            for python in ("bin/python", "Scripts/python.exe"):
                Path(words[-1], python).parent.mkdir(parents=True, exist_ok=True)
                Path(words[-1], python).touch()
        elif FakeStep.pip_fails and build.PIP not in words:
            raise build.BuildError("pip failed")


@pytest.fixture
def environment(monkeypatch, tmp_path) -> build.Environment:
    monkeypatch.setattr(build, "Step", FakeStep)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(FakeStep, "commands", [])
    monkeypatch.setattr(FakeStep, "pip_fails", False)
    return build.Environment(tmp_path / ".env" / "backend", Path(sys.executable))


def test_an_environment_is_installed_once(environment):
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    assert [words[2] for words in FakeStep.commands] == ["venv", "pip", "pip"]
    FakeStep.commands.clear()
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    assert FakeStep.commands == []


def test_other_pins_or_another_torch_make_it_anew(environment):
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    stray = environment.folder / "left-over"
    stray.touch()
    environment.install("runtime", "numpy==2.4.5", build.Settings())
    assert not stray.exists()
    stray.touch()
    environment.install("runtime", "numpy==2.4.5", build.Settings(variant="cpu"))
    assert not stray.exists()


def test_an_interrupted_installation_is_never_built_upon(environment, monkeypatch):
    monkeypatch.setattr(FakeStep, "pip_fails", True)
    with pytest.raises(build.BuildError):
        environment.install("runtime", "numpy==2.4.6", build.Settings())
    half = environment.folder / "half-unpacked"
    half.touch()
    monkeypatch.setattr(FakeStep, "pip_fails", False)
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    assert not half.exists() and environment.python.exists()


def test_the_tests_packages_go_on_top_and_a_cut_there_is_noticed_too(environment, monkeypatch):
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    kept = environment.folder / "numpy"
    kept.touch()
    monkeypatch.setattr(FakeStep, "pip_fails", True)
    with pytest.raises(build.BuildError):
        environment.install("tests", "pytest==9.2.0", build.Settings(), on_top=True)
    assert kept.exists()
    monkeypatch.setattr(FakeStep, "pip_fails", False)
    environment.install("runtime", "numpy==2.4.6", build.Settings())
    assert not kept.exists()


def test_only_torch_comes_from_torchs_own_index():
    pins = "# comment\ntorch==2.13.0\nnumpy==2.4.6\n"
    assert list(build._pip_runs(pins, build.Settings())) == [["torch==2.13.0", "numpy==2.4.6"]]
    first, second = build._pip_runs(pins, build.Settings(torch_index_url=TORCH))
    assert first == ["--no-deps", "--index-url", TORCH, "torch==2.13.0"]
    assert second == ["torch==2.13.0", "numpy==2.4.6"]
    cpu = next(iter(build._pip_runs(pins, build.Settings(variant="cpu"))))
    assert cpu[2].endswith("/whl/cpu")


def test_settings_come_from_options_or_variables_and_go_on_to_programs(monkeypatch):
    monkeypatch.setenv("GANFIT_INDEX_URL", "https://example.org/simple")
    options = build._parser().parse_args(["package", "--wheels", "W"])
    settings = build.Settings.from_options(options)
    assert settings.index_url == "https://example.org/simple" and settings.wheels == "W"
    assert settings.environment()["GANFIT_WHEELS"] == "W"
    command = [str(word) for word in build._pip(Path("python"), settings)]
    assert command[-4:] == ["--index-url", "https://example.org/simple", "--find-links", "W"]


def test_pips_lines_become_sizes_and_progress():
    """The lines are those of pip 26.3 with `--progress-bar raw`."""
    step = build.Step("x")
    read = build.PipOutput(step)
    assert read("  Downloading bpy-4.5.15-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (2.4 kB)") is None
    line = "Downloading bpy-4.5.15-cp311-cp311-manylinux_2_28_x86_64.whl (372.8 MB)"
    assert read(line) == "downloading bpy (372.8 MB)"
    assert read("Progress 186400000 of 372800000") is None
    assert step.detail == "bpy 186/373 MB"
    assert read("Using cached numpy-2.4.6-cp311-cp311-manylinux.whl (16.6 MB)") == "using cached numpy (16.6 MB)"
    assert read("Installing collected packages: a, b, c") is None
    assert step.detail == "unpacking 3 packages"


def test_a_failing_program_is_quoted_and_its_log_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "ENV", tmp_path)
    code = "print('first line'); print('No space left on device'); raise SystemExit(3)"
    with pytest.raises(build.BuildError, match=r"(?s)exit 3.*No space left on device") as caught:
        with build.Step("Doing a thing") as step:
            step.run([sys.executable, "-c", code])
    log = Path(caught.value.hint.removeprefix("All of it: "))
    assert log.read_text().splitlines() == ["first line", "No space left on device"]


def test_a_pipe_gets_a_sign_of_life(monkeypatch, capsys):
    monkeypatch.setattr(build.Step, "QUIET_SECONDS", 0.02)
    with build.Step("Waiting") as step:
        step.detail = "12/34 MB"
        time.sleep(0.1)
    out = capsys.readouterr().out
    assert "12/34 MB" in out and re.search(r"Waiting: done in 0\.\d s", out)


def test_missing_libraries_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build, "SYSTEM_LIBRARIES", {"libganfit-not-there.so.1": "libganfit1"})
    with pytest.raises(build.BuildError) as caught:
        build.check_system_libraries()
    assert "sudo apt-get install -y libganfit1" in caught.value.hint.replace("sudo apt-get update && ", "")


def test_blender_needs_python_3_11_and_says_so(monkeypatch):
    monkeypatch.setattr(build, "_version", lambda interpreter: (3, 13))
    with pytest.raises(build.BuildError, match="needs exactly Python 3.11"):
        build._blender_interpreter()


def test_a_photo_that_is_not_there_ends_with_a_sentence(capsys):
    assert build.main(["run", "no/such/photo.jpg"]) == 1
    assert "There is no file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "test", "package", "bench"])
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        build.main([verb, "--help"])
    assert stop.value.code == 0 and "--index-url" in capsys.readouterr().out


def test_pytest_gets_its_arguments_in_their_order(monkeypatch):
    seen = []
    monkeypatch.setattr(build, "test", lambda options, settings: seen.append(options.pytest))
    assert build.main(["test", "-q", "-k", "uv", "tests/test_build.py"]) == 0
    assert seen == [["-q", "-k", "uv", "tests/test_build.py"]]


def test_the_summary_gives_files_seconds_and_figures(tmp_path):
    out = tmp_path / "ada"
    out.mkdir()
    result = {
        "timings": {"fit": 61.5, "fit: render": 20.25},
        "losses": {"identity": [0.5, 0.125]},
        "warnings": ["Two faces."],
    }
    (out / "result.json").write_text(json.dumps(result))
    (out / "ada.blend").touch()
    text = build.describe(out)
    for part in ("ada.blend", "Seconds: fit 61.5\n", "render 20.2", "0.5 -> 0.125", "Two faces."):
        assert part in text


def test_every_requirement_is_pinned_and_stands_in_one_file(repo_root):
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["backend/requirements.txt"]
    for name in ("RUNTIME", "TEST", "BENCH", "CLUSTER"):
        file = getattr(build, f"{name}_REQUIREMENTS")
        pins = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert pins and all(re.fullmatch(r"[a-z0-9_-]+==[\w.]+", pin) for pin in pins), file


def test_one_version(repo_root):
    manifest = tomllib.loads((repo_root / "blender_manifest.toml").read_text())
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    assert manifest["version"] == project["project"]["version"]


def test_the_zip_holds_the_add_on_the_backend_and_nothing_else(extension_zip):
    names = set(zipfile.ZipFile(extension_zip).namelist())
    assert {"blender_manifest.toml", "LICENSE", "__init__.py"} <= names
    assert {"backend/__main__.py", "backend/requirements.txt"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    junk = [n for n in names if "__pycache__" in n or n.endswith(".pyc") or n.startswith(("tests/", "ganfit_blender/"))]
    assert not junk


@pytest.fixture(scope="module")
def platform_zips(bpy_python, tmp_path_factory) -> dict[str, zipfile.ZipFile]:
    """The zips of `build.py package` by the platform that their own manifest names; Blender's validator took them."""
    zips = [zipfile.ZipFile(path) for path in build.build_zips(bpy_python, tmp_path_factory.mktemp("platforms"))]
    generated = [tomllib.loads(z.read("blender_manifest.toml").decode())["build"]["generated"] for z in zips]
    return {platform: z for z, g in zip(zips, generated, strict=True) for platform in g["platforms"]}


def test_a_zip_for_each_platform_that_the_manifest_names(platform_zips, repo_root):
    manifest = tomllib.loads((repo_root / "blender_manifest.toml").read_text())
    assert sorted(platform_zips) == sorted(manifest["platforms"]) == ["linux-x64", "macos-arm64", "windows-x64"]
    for platform, file in platform_zips.items():
        assert Path(file.filename).stem == f"ganfit-{manifest['version']}-{platform.replace('-', '_')}"


def test_the_platform_s_zips_hold_the_same_and_are_small(platform_zips):
    """Nothing in them is compiled; weights and tables are the most of it."""
    first, *others = ({i.filename: i.CRC for i in file.infolist()} for file in platform_zips.values())
    for names in others:
        assert {n for n in first.keys() | names.keys() if first.get(n) != names.get(n)} == {"blender_manifest.toml"}
    junk = re.compile(r"(^|/)(tests?|\.[^/]*|__pycache__|out|dist)/|\.(so|dll|pyd)$")
    for file in platform_zips.values():
        entries = {info.filename: info.file_size for info in file.infolist()}
        assert Path(file.filename).stat().st_size < 30e6
        assert not [name for name, size in entries.items() if size > 5e6 and not name.endswith(".safetensors")]
        assert not [name for name in entries if junk.search(name)]


def test_the_manifest_keeps_blender_s_rules(repo_root):
    """Blender's validator checks the form; this, what its extensions site asks of the words, and our own promises."""
    manifest = tomllib.loads((repo_root / "blender_manifest.toml").read_text())
    assert manifest["blender_version_min"] == "4.2.0" and "blender_version_max" not in manifest
    assert "blender" not in manifest["name"].lower() and len(manifest["tagline"]) <= 64
    assert set(manifest["permissions"]) == {"network", "files"}
    assert all(len(why) <= 64 and why[-1].isalnum() for why in (manifest["tagline"], *manifest["permissions"].values()))


def test_the_backend_in_the_zip_runs_by_itself(extension_zip, tmp_path):
    zipfile.ZipFile(extension_zip).extractall(tmp_path)
    command = [sys.executable, "-m", "backend", "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "reconstruct" in result.stdout


def test_the_sample_photo_is_the_pinned_one(astronaut):
    assert build.hashlib.sha256(astronaut.read_bytes()).hexdigest() == build.SAMPLE_SHA256


def test_a_termination_takes_the_started_program_along(tmp_path):
    """SIGTERM to build.py must not leave its children running."""
    if sys.platform == "win32":
        pytest.skip("signals are POSIX")
    child = f"import pathlib, time; pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(3); " + (
        f"pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    )
    code = (
        "import signal, sys, build; signal.signal(signal.SIGTERM, lambda n, f: sys.exit(128 + n));"
        f"build.attached('x', [sys.executable, '-c', {child!r}], {{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=build.ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(10) == 143
    time.sleep(4)
    assert not (tmp_path / "late").exists()
