# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person can choose for a reconstruction, checked once where it enters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import GanfitError

CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("draft", "standard", "best"),
    "device": ("auto", "cpu", "cuda"),
    "basis": ("makehuman", "ict"),
    "identity": ("dlib", "facenet"),
    "landmarks": ("mediapipe", "fan"),
}
MAX_SEED = 2**32 - 1
MAX_ITERATIONS = 100_000
FOCAL_MM = (8.0, 1200.0)
"""Shortest and longest focal length (35 mm equivalent) that a photo of a face is taken with."""


@dataclass(frozen=True)
class Options:
    """Options of one reconstruction; raises GanfitError("bad_option") on a value that is not allowed."""

    preset: str = "standard"
    """Quality against time: `draft` (a quick look), `standard`, `best`."""
    device: str = "auto"
    """Where the fit runs: `auto` takes CUDA where there is one."""
    basis: str = "makehuman"
    """Identity basis of the head model; `ict` has to be installed first."""
    identity: str = "dlib"
    """Face-recognition network that guides the fit."""
    landmarks: str = "mediapipe"
    """Landmark network."""
    seed: int = 0
    """Seed of every random draw; the same seed, photo and device give the same result."""
    face: int | None = None
    """Which face of the photo, 0 being the largest; None takes the largest and says so when there are more."""
    generator: str | None = None
    """Path of a texture generator (`.safetensors`); None is the one that ships with the project."""
    out: str | None = None
    """Folder of the result bundle; None keeps the result in memory only."""
    iterations: int | None = None
    """Iterations of the fit stage instead of the preset's own number."""
    focal_mm: tuple[float | None, ...] | None = None
    """Focal length of each photo, mm, 35 mm equivalent: None takes EXIF's, 0 leaves it to the fit."""
    refine: bool = True
    """Whether the photo's own detail and skin grain go into the final maps; False leaves the generator's map."""
    hair: bool = True
    """Whether the hair in the photo becomes a layer over the skin and a surface that stands off it."""
    glasses: bool = True
    """Whether glasses in the photo become an object of their own."""

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        _check_int("seed", self.seed, 0, MAX_SEED)
        if self.face is not None:
            _check_int("face", self.face, 0, 999)
        if self.iterations is not None:
            _check_int("iterations", self.iterations, 1, MAX_ITERATIONS)
        for name in ("refine", "hair", "glasses"):
            if not isinstance(getattr(self, name), bool):
                raise GanfitError("bad_option", f"The option {name} is {getattr(self, name)!r}; it is true or false.")
        for name in ("generator", "out"):
            object.__setattr__(self, name, _check_path(name, getattr(self, name)))
        object.__setattr__(self, "focal_mm", _check_focal(self.focal_mm))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """Options out of JSON: unknown names and wrong types raise GanfitError("bad_option")."""
        if not isinstance(values, Mapping):
            raise GanfitError("bad_option", "The options have to be an object of names and values.")
        unknown = sorted(str(key) for key in values if key not in {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise GanfitError("bad_option", f"There is no option named {', '.join(unknown)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All options by name, as JSON gives them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def replace(self, **changes: Any) -> Options:
        """A copy with some options changed."""
        return dataclasses.replace(self, **changes)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise GanfitError("bad_option", f"The option {name} is {value!r}; it can be {', '.join(allowed)}.")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise GanfitError("bad_option", f"The option {name} is {value!r}; it is a whole number from {low} to {high}.")


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_focal(value: object) -> tuple[float | None, ...] | None:
    if value is None:
        return None
    low, high = FOCAL_MM
    if isinstance(value, list | tuple) and all(
        one is None or is_number(one) and (one == 0 or low <= one <= high) for one in value
    ):
        return tuple(None if one is None else float(one) for one in value)
    raise GanfitError(
        "bad_option", f"The option focal_mm is {value!r}; it is a list with a number from {low:g} to {high:g} a photo."
    )


def _check_path(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise GanfitError("bad_option", f"The option {name} is {value!r}; it is a path.")
    return str(value)
