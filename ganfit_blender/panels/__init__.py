# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the sidebar's tab, and the page in the preferences; they only draw."""

from . import batch, character, hair, hand_on, look, main, photos, result
from .preferences_page import draw_preferences

MODULES = (main, photos, batch, result, look, hair, character, hand_on)
CLASSES = tuple(cls for module in MODULES for cls in module.CLASSES)

__all__ = ["CLASSES", "draw_preferences"]
