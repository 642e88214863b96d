# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the head's parts and of the colours of what is not skin."""

PARTS = ("skin", "eye_left", "eye_right", "teeth", "tongue", "lashes")
PALETTE_NAMES = ("sclera", "limbus", "iris", "pupil", "teeth", "gums", "tongue", "lashes")
