# SPDX-License-Identifier: GPL-3.0-or-later
"""The refinement after the fit: the bundle's skin maps from the generator's map and the photos' detail."""
