# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses the landmark network."""

from __future__ import annotations

from backend.errors import GanfitError
from backend.networks.facemesh import FaceMesh
from backend.networks.fan import FanLandmarks


def load_landmarks(name: str = "mediapipe") -> FaceMesh | FanLandmarks:
    """The landmark network `mediapipe` (468 points, offline default) or `fan` (68, when its weights are installed).

    Raises:
        GanfitError: `asset_missing` with the command that installs the weights.
    """
    if name == "mediapipe":
        return FaceMesh()
    if name == "fan":
        return FanLandmarks()
    raise GanfitError("bad_option", f"There is no landmark network `{name}`; choose mediapipe or fan.")
