# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's one exception: a stable code, a sentence for a person and what to do next."""

from __future__ import annotations

from typing import Any

# Codes that the add-on itself raises, with the hint that is shown. Codes of the worker arrive with their own hints.
CODES: dict[str, str] = {
    "environment_missing": "Press Set Up: it installs the backend into a folder of its own.",
    "python_missing": "Install Python 3.11 to 3.14 and choose it in the add-on's preferences.",
    "online_access": "Allow Online Access in Preferences > System, or choose a folder with wheels.",
    "setup_failed": "Read the last lines of the log, put the cause right and press Set Up again.",
    "cancelled": "Nothing was changed in the scene.",
    "busy": "Wait until the running job has ended, or cancel it.",
    "no_photo": "Choose at least one photo of a face.",
    "no_landmarks": "Reconstruct the photo again to edit its landmarks.",
    "no_window": "Open the file in Blender's window, or give pins to the command line's `refit`.",
    "folder_missing": "Choose a folder with photos.",
    "photo_missing": "The photo was moved or deleted: choose it again.",
    "worker_start": "Press Set Up again, or choose another Python in the add-on's preferences.",
    "worker_crashed": "Read the last lines of the log and try again, perhaps with the preset Draft.",
    "worker_silent": "Open the log. If it shows nothing, restart Blender and try again.",
    "protocol_version": "Press Set Up again, so that the add-on and the backend are of the same version.",
    "bad_message": "This is an error of the software: please report it with the log.",
    "bundle_missing": "Choose a folder that holds result.json and head.npz.",
    "bundle_damaged": "Reconstruct the photo again.",
    "bundle_version": "Update the add-on, or reconstruct the photo again.",
    "no_sculpt": "Press Prepare for Sculpt first.",
    "topology": "Undo what added or removed vertices (remesh, dyntopo, edit mode), or discard the sculpt.",
    "no_keys": "Import the result again: this head's shape keys were removed.",
    "capture_bad": "Choose the CSV file that Live Link Face has recorded, with its first line.",
    "export_failed": "Read Blender's message above and choose another place or format.",
    "body_missing": "Set the backend up: the body comes from its MakeHuman files.",
    "no_rig": "Add a rig to the body with MPFB first, then press this again.",
    "no_scalp": "Import the result again: hair grows inside its region_scalp, over its first UV map.",
    "internal": "This is an error of the software: please report it with the log.",
}


class AddonError(Exception):
    """An error that an artist can act on.

    Args:
        code: stable name, one of `CODES` or one of the worker's.
        message: one sentence that says what is wrong.
        hint: what to do next; by default the code's own.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = CODES.get(code, "") if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    @classmethod
    def from_dict(cls, data: Any) -> AddonError:
        """The error of a `job.finished` notification or of a JSON-RPC error's data; tolerates missing fields."""
        fields = data if isinstance(data, dict) else {}
        message = str(fields.get("message") or "The worker reported an error without a message.")
        hint = fields.get("hint")
        return cls(str(fields.get("code") or "internal"), message, None if hint is None else str(hint))


def as_addon_error(error: BaseException) -> AddonError:
    """Turns any exception into an `AddonError`; called once, at the operators' edge."""
    if isinstance(error, AddonError):
        return error
    return AddonError("internal", f"Unexpected {type(error).__name__}: {error}")
