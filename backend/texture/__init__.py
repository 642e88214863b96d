# SPDX-License-Identifier: GPL-3.0-or-later
"""The UV texture generator and its training."""
