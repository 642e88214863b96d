# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs a textured, lit 3D head from photos of a face (the part that runs outside Blender)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Bundle", "GanfitError", "Options", "__version__", "reconstruct", "refit"]

if TYPE_CHECKING:
    from .bundle import Bundle
    from .errors import GanfitError
    from .options import Options
    from .pipeline import reconstruct
    from .refitting import refit

_HOME = {"Bundle": "bundle", "GanfitError": "errors", "Options": "options", "reconstruct": "pipeline",
         "refit": "refitting"}


if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
"""How long torch's threads (GNU OpenMP, read when torch is loaded) turn round waiting for work: a millisecond, not 13.
They took the second core from the kernels between two operations of torch (last stage of `best` without its
networks: 113 ms for 93), and from every other busy program (an iteration beside one, two cores: 2.8 s for 0.68)."""


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `import backend` stays free of torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
