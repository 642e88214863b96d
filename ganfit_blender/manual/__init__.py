# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual that ships with the add-on: its pages as text, and where an error code stands; needs no Blender."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TROUBLESHOOTING = "troubleshooting"


def page_text(page: str) -> str:
    """The text of a page, by its name without `.md`."""
    return (FOLDER / f"{page}.md").read_text("utf-8")


def line_of(page: str, code: str) -> int:
    """The line, counted from 0, of an error code's entry; the page's first where there is none."""
    wanted = f"### `{code}`"
    return next((n for n, line in enumerate(page_text(page).splitlines()) if line == wanted), 0)
