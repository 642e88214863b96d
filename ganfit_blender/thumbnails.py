# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of photos for lists and panels, read by Blender when they are drawn."""

from __future__ import annotations

import os
from typing import Any

import bpy
import bpy.utils.previews

_pictures: Any = None


def icon(path: str) -> int:
    """Icon id of a picture file, 0 where there is none."""
    global _pictures
    key = bpy.path.abspath(path)
    if not os.path.isfile(key):
        return 0
    if _pictures is None:
        _pictures = bpy.utils.previews.new()
    return (_pictures[key] if key in _pictures else _pictures.load(key, key, "IMAGE")).icon_id


def end() -> None:
    """Called at unregistration."""
    global _pictures
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
    _pictures = None
