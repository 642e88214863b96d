# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses to start where the process may not have the memory that the networks take, before a C++ library aborts."""

from __future__ import annotations

import sys

from .errors import GanfitError

NEEDED_MIB = 1600
"""Address space of a draft of one photo on a CPU, as measured with `ulimit -v`."""


def check_memory() -> None:
    """Raises GanfitError (out_of_memory) under a limit of the address space that is too small for any fit."""
    if sys.platform == "win32":  # has no such limit
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < NEEDED_MIB << 20:
        raise GanfitError(
            "out_of_memory",
            f"This process may take {limit >> 20} MiB of address space; a fit needs at least {NEEDED_MIB} MiB.",
            "Raise the limit (`ulimit -v`, or that of your container or queue) and start again.",
        )
