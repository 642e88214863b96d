# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest preview picture of a running job, as an icon for the panel."""

from __future__ import annotations

import itertools
from pathlib import Path

import bpy
import bpy.utils.previews

_keys = itertools.count()


class Preview:
    """Shows one picture file at a time; the worker writes them, so each is read at once."""

    def __init__(self) -> None:
        self._collection = bpy.utils.previews.new()
        self._shown: tuple[str, float] | None = None

    @property
    def icon(self) -> int:
        """Icon id for `layout.template_icon`, 0 when there is no picture."""
        for picture in self._collection.values():
            return picture.icon_id
        return 0

    def show(self, path: str) -> bool:
        """Reads a picture, unless it is the one that is shown; True when the panel has to be redrawn."""
        try:
            stamp = (path, Path(path).stat().st_mtime)
        except OSError:
            return False
        if stamp == self._shown:
            return False
        self._shown = stamp
        self._collection.clear()
        picture = self._collection.load(str(next(_keys)), path, "IMAGE")
        return picture.image_size[0] > 0  # asking for the size reads the file now, not when it is drawn

    def clear(self) -> None:
        """Forgets the picture."""
        self._collection.clear()
        self._shown = None

    def close(self) -> None:
        """Gives the pictures' memory back."""
        bpy.utils.previews.remove(self._collection)


_preview: Preview | None = None


def current() -> Preview:
    """The one preview of this registration."""
    global _preview
    if _preview is None:
        _preview = Preview()
    return _preview


def end() -> None:
    """Called at unregistration."""
    global _preview
    if _preview is not None:
        _preview.close()
    _preview = None
