# SPDX-License-Identifier: GPL-3.0-or-later
"""The head model: cage, UV layout, identity and expression bases, landmarks."""
