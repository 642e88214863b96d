# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder with Debian's windowed Blender and what drives it, made once, and commands run inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = ("blender", "python3-numpy", "python3-requests", "xvfb", "xdotool", "openbox", "imagemagick",
            "libgl1-mesa-dri", "libegl1")
EXTRA = {"sid": ("python3-cattr",)}  # missing from the dependencies of its Blender
DONE = "root.ready"  # beside the root, with what it was made of
TRIES, PAUSE_S, MAKE_S = 3, 20.0, 900.0  # a registry may be busy or away for a moment
APT = ["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\"",
       "--aptopt=Acquire::http::Timeout \"60\""]
OWN = ("unshare", "--mount", "--pid", "--fork", "--kill-child")  # mounts and processes end with the command
ENTER = r"""
set -e
root=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$root/tmp"
mkdir -m 1777 "$root/tmp/.X11-unix"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$1"; else touch "$root$1"; fi
    mount --rbind "$1" "$root$1"; shift
done
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/env -i "$@"
"""


class NotHere(Exception):
    """This machine cannot make or enter a root: a sentence without its full stop."""


def check() -> None:
    """Raises NotHere where no root can be made or entered, whatever the network gives."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NotHere("it needs to be root on Linux")
    if not shutil.which("mmdebstrap") and not shutil.which("apt-get"):
        raise NotHere("it needs mmdebstrap, and there is no apt-get to install it")
    probe = [*OWN, "bash", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && chroot / true"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotHere(f"it needs {error.filename}") from error
    if done.returncode:
        raise NotHere(f"this machine allows no mounts of one's own ({_last_line(done.stderr)})")


def make(root: Path, suite: str) -> None:
    """Makes the root of a Debian suite, unless it is there (about a minute, 1.4 GB).

    Raises NotHere: no registry gave its packages, or they could not be unpacked, after some tries. Nothing of this
    project takes part in it.
    """
    packages = [*PACKAGES, *EXTRA.get(suite, ())]
    stamp, made_of = root.parent / f"{root.name}.{DONE}", " ".join([suite, *packages])
    if stamp.is_file() and stamp.read_text() == made_of:
        return
    print(f"Making a root with Debian {suite}'s Blender in {root}: about 400 MB to download, 1.4 GB.", flush=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    if not shutil.which("mmdebstrap"):
        _again_and_again(["apt-get", "update", "-qq"], "apt-get update")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap"]
        _again_and_again(install, "apt-get install mmdebstrap")
    options = ["--mode=root", "--variant=apt", *APT]
    if suite == "sid":
        options.append("--aptopt=Acquire::Check-Valid-Until \"false\"")
    began = time.monotonic()
    command = [*OWN, "--mount-proc", "mmdebstrap", *options, f"--include={','.join(packages)}", suite, str(root)]
    _again_and_again(command, "mmdebstrap", lambda: shutil.rmtree(root, ignore_errors=True))
    stamp.write_text(made_of)
    print(f"The root was made in {time.monotonic() - began:.0f} s.", flush=True)


def _again_and_again(command: Sequence[str], name: str, before: Callable[[], None] = lambda: None) -> None:
    """Runs a command that needs a registry until it succeeds; NotHere with its last words after some tries."""
    for attempt in range(1, TRIES + 1):
        before()
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  errors="replace", timeout=MAKE_S, check=False,
                                  env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        except subprocess.TimeoutExpired:
            problem = f"nothing after {MAKE_S:.0f} s"
        else:
            if not done.returncode:
                return
            problem = _last_line("\n".join(line for line in done.stderr.splitlines() if line.startswith("E:"))
                                 or done.stderr)
        print(f"{name}, attempt {attempt} of {TRIES}: {problem}", flush=True)
        if attempt < TRIES:
            time.sleep(PAUSE_S * attempt)
    raise NotHere(f"{name} did not get its packages from Debian's registry ({problem})")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def run(root: Path, folders: Sequence[Path], command: Sequence[str], variables: Mapping[str, str],
        timeout_s: float) -> int:
    """Runs a command inside the root, these folders at their own places; returns its exit status.

    It has its own mounts and processes: when it ends, nothing is left of either.
    """
    binds = [str(folder.resolve()) for folder in folders]
    given = [f"{name}={value}" for name, value in variables.items()]
    enter = [*OWN, "bash", "-c", ENTER, "_", str(root), *binds, "--"]
    process = subprocess.Popen([*enter, *given, *command])
    try:
        return process.wait(timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
