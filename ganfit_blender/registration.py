# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers the add-on's classes and properties, and takes everything back."""

from __future__ import annotations

import bpy

from . import operators, panels, preferences, preview, properties, session

CLASSES = (*preferences.CLASSES, *properties.CLASSES, *operators.CLASSES, *panels.CLASSES)


def register() -> None:
    """Adds classes and `scene.ganfit`."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.register()


def unregister() -> None:
    """Ends the worker, removes everything that `register` has added."""
    session.end()
    preview.end()
    properties.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
