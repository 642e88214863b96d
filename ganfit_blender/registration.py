# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers the add-on's classes and properties, and takes everything back."""

from __future__ import annotations

import bpy

from . import operators, overlay, panels, preferences, preview, properties, session, thumbnails, views

CLASSES = (*preferences.CLASSES, *properties.CLASSES, *views.CLASSES, *operators.CLASSES, *panels.CLASSES)


@bpy.app.handlers.persistent
def forget_news(*_: object) -> None:
    """After an undo, and in another file, the last job's good news may not hold any more."""
    session.current().message = ""


HANDLERS = (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post, bpy.app.handlers.load_post)


def register() -> None:
    """Adds classes and `scene.ganfit`."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.register()
    views.register()
    for handlers in HANDLERS:
        handlers.append(forget_news)


def unregister() -> None:
    """Ends the worker, removes everything that `register` has added."""
    for handlers in HANDLERS:
        handlers.remove(forget_news)
    session.end()
    preview.end()
    thumbnails.end()
    overlay.end()
    views.unregister()
    properties.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
