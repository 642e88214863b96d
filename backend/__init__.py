# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstructs a textured, lit 3D head from photos of a face (the part that runs outside Blender)."""
