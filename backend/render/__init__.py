# SPDX-License-Identifier: GPL-3.0-or-later
"""Differentiable rendering: rasteriser, camera, lights, shading."""
