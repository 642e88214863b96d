# SPDX-License-Identifier: GPL-3.0-or-later
"""GANFIT for Blender: turns photos of a face into a textured, lit and sculptable head."""

# Nothing of Blender is imported here, so that the parts that need none (job, worker_client, ...) can be used without.


def register() -> None:
    """Called by Blender when the extension is enabled."""
    from . import registration

    registration.register()


def unregister() -> None:
    """Called by Blender when the extension is disabled."""
    from . import registration

    registration.unregister()
