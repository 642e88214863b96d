# SPDX-License-Identifier: GPL-3.0-or-later
"""The fit: energy, stages and the optimisation loop."""
