# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the backend that speaks the worker protocol and hands out a prepared bundle."""
