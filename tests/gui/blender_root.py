# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder with Debian's windowed Blender and what drives it, made once, and commands run inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = ("blender", "python3-numpy", "python3-requests", "xvfb", "xdotool", "openbox", "imagemagick",
            "libgl1-mesa-dri", "libegl1")
EXTRA = {"sid": ("python3-cattr",)}  # missing from the dependencies of its Blender
DONE = "root.ready"  # beside the root, with what it was made of
ENTER = r"""
set -e
root=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$root/tmp"
mkdir -m 1777 "$root/tmp/.X11-unix"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift
done
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/env -i "$@"
"""


def why_not() -> str:
    """Why no root can be made or entered on this machine; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs to be root on Linux"
    if not shutil.which("mmdebstrap") and not shutil.which("apt-get"):
        return "it needs mmdebstrap, and there is no apt-get to install it"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "this machine allows no namespaces of its own (unshare fails)"


def make(root: Path, suite: str) -> None:
    """Makes the root of a Debian suite, unless it is there (about a minute, 1.4 GB). Raises CalledProcessError."""
    packages = [*PACKAGES, *EXTRA.get(suite, ())]
    stamp, made_of = root.parent / f"{root.name}.{DONE}", " ".join([suite, *packages])
    if stamp.is_file() and stamp.read_text() == made_of:
        return
    if not shutil.which("mmdebstrap"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap"], check=True)
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    options = ["--mode=root", "--variant=apt", "--aptopt=APT::Install-Recommends \"false\""]
    if suite == "sid":
        options.append("--aptopt=Acquire::Check-Valid-Until \"false\"")
    subprocess.run(["mmdebstrap", *options, f"--include={','.join(packages)}", suite, str(root)], check=True)
    stamp.write_text(made_of)


def run(root: Path, folders: Sequence[Path], command: Sequence[str], variables: Mapping[str, str],
        timeout_s: float) -> int:
    """Runs a command inside the root, these folders at their own places; returns its exit status.

    It has its own mounts and processes: when it ends, nothing is left of either.
    """
    binds = [str(folder.resolve()) for folder in folders]
    given = [f"{name}={value}" for name, value in variables.items()]
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "_", str(root), *binds, "--"]
    process = subprocess.Popen([*enter, *given, *command])
    try:
        return process.wait(timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
