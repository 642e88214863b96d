# SPDX-License-Identifier: GPL-3.0-or-later
"""Pretrained networks with gradients: face detection, landmarks, identity."""
