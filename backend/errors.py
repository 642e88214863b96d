# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that reaches a person: a stable code, a sentence and a hint what to do."""

from __future__ import annotations

# Every code that the project raises, with the hint that is given when the place that raises it knows no better one.
CODES: dict[str, str] = {
    # input
    "bad_option": "Run `python -m backend reconstruct --help` for the options and their values.",
    "no_photo": "Give at least one photo of a face.",
    "photo_missing": "Check the path for typing errors.",
    "photo_is_folder": "Give a photo, or use `python -m backend batch FOLDER` for a folder of photos.",
    "photo_unreadable": "Check the permissions of the file.",
    "photo_empty": "Copy or download the photo again.",
    "photo_damaged": "Copy or download the photo again, or save it anew as PNG or JPEG.",
    "photo_format": "Save the photo as PNG or JPEG.",
    "photo_too_large": "Scale the photo down; about 2000 pixels on the longer side are plenty.",
    "photo_too_small": "Use a photo on which the face is at least 100 pixels wide.",
    # faces
    "no_face": "Use a photo on which one face is seen from the front or half side, not cropped or covered.",
    "face_index": "Choose one of the faces that were found, counted from 0 for the largest.",
    "face_too_small": "Use a photo on which the face is at least 100 pixels wide, or crop it closer.",
    # fitting
    "cancelled": "Nothing was written.",
    "fit_diverged": "Try another seed; if it happens again, report the photo as an issue.",
    "out_of_memory": "Close other programs, or use the preset `draft`.",
    "bad_pin": "Give each pin as view, index (0 to 467 or 68:N), x and y in photo pixels.",
    "sculpt_unreadable": "Give an .npz file with the array `offsets`: as many rows as the head has vertices, metres.",
    "device_unavailable": "Use `--device cpu`, or `auto` to take what is there.",
    # output
    "output_not_writable": "Choose an output folder in which you may write.",
    "output_not_a_bundle": "Choose a new folder: one that holds other files is not replaced.",
    "disk_full": "Free some space (a result takes up to 100 MB) or choose an output folder on another disk.",
    # clusters
    "cluster_unavailable": "Install backend/requirements-cluster.txt and start Ray: see the README, Many photos.",
    "worker_lost": "Look at that machine's memory and log, then run the batch again: what is done is kept.",
    # result bundles
    "bundle_missing": "Check the path, or reconstruct the photo again.",
    "bundle_damaged": "Reconstruct the photo again.",
    "bundle_version": "Use the version of the software that wrote it, or reconstruct the photo again.",
    "unknown_basis": "Use `makehuman`, or `ict` once it is installed.",
    "calibration_mismatch": "The installation is damaged: install the backend again.",
    "landmark_mismatch": "The installation is damaged: install the backend again.",
    "layout_mismatch": "Use a file that was made for this head model's topology and UV layout.",
    "bad_texture": "Give a folder of square PNG or JPEG albedo maps in the head's UV layout.",
    # assets
    "asset_unknown": "Run `python -m backend assets list` for the names.",
    "asset_missing": "Run `python -m backend assets install`.",
    "asset_damaged": "Run `python -m backend assets install` again.",
    "download_failed": "Check the network connection and the package index, then try again.",
    # texture generator
    "generator_missing": "Leave the generator option empty, or train one: python -m backend train texture-gan.",
    "generator_invalid": "Choose a .safetensors file made by: python -m backend train texture-gan.",
    # worker
    "not_supported": "Update the backend and the add-on to the same version.",
    "protocol_version": "Update the backend and the add-on to the same version.",
    "bad_request": "This is an error of the program that talks to the worker.",
    "unknown_job": "The job is not known to this worker.",
    "package_missing": "Press Set Up in Blender, or install backend/requirements.txt into this Python.",
    "internal": "This is an error of the software: please report it with the log.",
}


class GanfitError(Exception):
    """An error that a person can act on.

    Args:
        code: one of `CODES`; stable, for programs.
        message: one sentence for a person: what is wrong, with the name of the file or the value.
        hint: what to do next; by default the code's own from `CODES`.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = CODES.get(code, "") if hint is None else hint

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def to_dict(self) -> dict[str, str]:
        """`{"code", "message", "hint"}`: the form in which the error goes over the protocol and into JSON output."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def as_ganfit_error(error: BaseException) -> GanfitError:
    """Turns any exception into a `GanfitError`; called once, at the edges (command line, worker, batch)."""
    if isinstance(error, GanfitError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return GanfitError("cancelled", "Stopped.")
    if isinstance(error, ModuleNotFoundError):
        return GanfitError("package_missing", f"The Python package {error.name} is not installed.")
    if _is_out_of_memory(error):
        return GanfitError("out_of_memory", "There is not enough memory for this photo and preset.")
    return GanfitError("internal", f"Unexpected {type(error).__name__}: {error}")


def _is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, CUDA's OutOfMemoryError, torch's RuntimeError, a library with no room; without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    shortages = ("not enough memory", "out of memory", "allocate memory", "failed to map segment")
    return isinstance(error, RuntimeError | ImportError) and any(words in text for words in shortages)
