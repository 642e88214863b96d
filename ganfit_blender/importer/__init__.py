# SPDX-License-Identifier: GPL-3.0-or-later
"""From a result bundle to native Blender objects: one file per concept."""
