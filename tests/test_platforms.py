# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux, Windows and macOS: paths, set-up and the choice of the device, with the platform pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warp

from backend import doctor
from backend.errors import GanfitError
from backend.options import CHOICES, Options
from backend.paths import cache_dir
from backend.pipeline import choose_device
from backend.render.raster import get_rasterizer
from ganfit_blender import setup_env, worker_client


@pytest.fixture(params=["linux", "win32", "darwin"])
def system(request, monkeypatch) -> str:
    """One platform after the other."""
    monkeypatch.setattr(sys, "platform", request.param)
    return request.param


@pytest.fixture
def plan(tmp_path) -> setup_env.SetupPlan:
    root = Path(__file__).resolve().parent.parent
    return setup_env.SetupPlan(tmp_path / "env", "", root, tmp_path / "cache", "cpu", "", "", tmp_path / "log")


def test_the_cache_is_where_each_system_keeps_caches(system, monkeypatch):
    for name in ("GANFIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCALAPPDATA", "/Users/ada/AppData/Local")
    home = Path.home()
    places = {"linux": home / ".cache/ganfit", "darwin": home / "Library/Caches/ganfit",
              "win32": Path("/Users/ada/AppData/Local/ganfit/Cache")}
    assert cache_dir() == places[system]
    monkeypatch.delenv("LOCALAPPDATA")
    assert cache_dir().is_relative_to(home)


def test_the_environment_s_python(system, tmp_path):
    names = {"linux": "bin/python", "darwin": "bin/python", "win32": "Scripts/python.exe"}
    assert setup_env.environment_python(tmp_path) == tmp_path / names[system]


@pytest.mark.parametrize("compute", ["cpu", "cuda"])
def test_torch_comes_from_the_index_that_has_its_build(system, compute, plan):
    """PyPI has CUDA builds for Linux and CPU builds for Windows and macOS; the others are on PyTorch's own index."""
    from dataclasses import replace

    job = setup_env.SetupJob(replace(plan, compute=compute), online=False)  # starts nothing: offline without wheels
    job._plan = replace(plan, compute=compute)
    command = list(job._pip_command())
    extra = command[command.index("--extra-index-url") + 1] if "--extra-index-url" in command else None
    wanted = {("linux", "cpu"): "/cpu", ("win32", "cuda"): "/cu130"}.get((system, compute))
    assert (extra is None) == (wanted is None) and (not wanted or extra.endswith(wanted))
    assert "--only-binary" in command and command[0].endswith(("python", "python.exe"))


def test_no_requirement_is_for_one_platform_alone(plan):
    """CUDA's libraries come with torch where its build needs them."""
    pins = setup_env.requirements_file(plan.backend_root, "cpu").read_text()
    assert not [line for line in pins.splitlines() if line.startswith(("nvidia-", "triton", "nvdiffrast"))]


def test_a_child_process_has_a_group_of_its_own(system, monkeypatch):
    monkeypatch.setattr(worker_client.subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(worker_client.subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    wanted = {"creationflags": 0x08000200} if system == "win32" else {"start_new_session": True}
    assert worker_client.detached() == wanted


def pretend(monkeypatch, cuda: bool, hip: str | None = None, warp_cuda: bool = True, mps: bool = False) -> None:
    """What torch and warp say of the machine's cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(warp, "is_cuda_available", lambda: warp_cuda)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))


@pytest.mark.parametrize(
    ("machine", "chosen", "why"),
    [
        ({"cuda": True}, "cuda", ""),
        ({"cuda": False}, "cpu", "built without CUDA"),
        ({"cuda": True, "hip": "6.4"}, "cpu", "ROCm"),
        ({"cuda": True, "warp_cuda": False}, "cpu", "warp"),
        ({"cuda": False, "mps": True}, "cpu", "built without CUDA"),
    ],
)
def test_auto_takes_only_what_can_run(machine, chosen, why, monkeypatch):
    pretend(monkeypatch, **machine)
    assert choose_device("auto").type == chosen and choose_device("cpu").type == "cpu"
    if not why:
        assert choose_device("cuda").type == "cuda"
        return
    for ask in (choose_device, get_rasterizer):
        with pytest.raises(GanfitError, match=why) as caught:
            ask("cuda")
        assert caught.value.code == "device_unavailable"


def test_apple_s_card_is_refused_with_a_sentence(monkeypatch):
    pretend(monkeypatch, cuda=False, mps=True)
    assert "mps" not in CHOICES["device"]
    with pytest.raises(GanfitError, match="auto, cpu, cuda"):
        Options(device="mps")
    with pytest.raises(GanfitError, match="none for mps") as caught:
        get_rasterizer(torch.device("mps"))
    assert caught.value.code == "device_unavailable"
    device = doctor._device()
    assert device["used"] == "cpu" and "Apple" in device["unused"]


def test_the_doctor_says_why_a_card_is_not_used(monkeypatch):
    pretend(monkeypatch, cuda=True, warp_cuda=False)
    report = doctor.report()
    assert report["device"]["used"] == "cpu" and "warp" in doctor.format_report(report)
    monkeypatch.setitem(sys.modules, "backend.render.raster", None)  # as if warp-lang were missing
    assert "warp-lang" in doctor._device()["unused"]
    monkeypatch.undo()
    pretend(monkeypatch, cuda=True)
    assert doctor._device() | {"threads": 0} == {"used": "cuda", "name": "a card", "threads": 0, "cuda": True,
                                                 "unused": ""}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP comes with torch for Linux")
@pytest.mark.parametrize(("given", "expected"), [({}, "'20000'"), ({"GOMP_SPINCOUNT": "77"}, "'77'")])
def test_torch_s_threads_do_not_wait_at_full_speed(given, expected):
    """What the library says of itself, and that the user's own choice counts."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **given}
    command = [sys.executable, "-c", "import backend, torch"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert f"GOMP_SPINCOUNT = {expected}" in said
