# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers the add-on's classes and properties, and takes everything back."""

from __future__ import annotations

import bpy

from . import operators, overlay, panels, preferences, preview, properties, session, thumbnails, views

CLASSES = (*preferences.CLASSES, *properties.CLASSES, *views.CLASSES, *operators.CLASSES, *panels.CLASSES)


def register() -> None:
    """Adds classes and `scene.ganfit`."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.register()
    views.register()


def unregister() -> None:
    """Ends the worker, removes everything that `register` has added."""
    session.end()
    preview.end()
    thumbnails.end()
    overlay.end()
    views.unregister()
    properties.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
