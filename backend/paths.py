# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the backend keeps files between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Folder for installed assets and for what is computed from them; it may be deleted at any time.

    `GANFIT_CACHE` if it is set, else the platform's cache folder (`$XDG_CACHE_HOME/ganfit` or `~/.cache/ganfit`,
    `~/Library/Caches/ganfit`, `%LOCALAPPDATA%\\ganfit\\Cache`). It is not created here.
    """
    if chosen := os.environ.get("GANFIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ganfit" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ganfit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganfit"
