# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators that make a head from photos, and the one that cancels any job."""

import re
from pathlib import Path
from typing import Any

import bpy
from bpy.props import StringProperty

from .. import preferences, protocol, session
from ..errors import AddonError
from ..exif import focal_35mm
from ..job import WorkerJob
from ..ui_strings import MESSAGES, label, tip
from ..viewport import redraw
from .base import JobOperator
from .result import import_folder


class GANFIT_OT_reconstruct(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.reconstruct"
    bl_label = label("reconstruct")
    bl_description = tip("reconstruct")
    bl_options = {"UNDO"}  # no REGISTER: its redo panel would run the whole fit again

    output: StringProperty(name=label("output"), description=tip("output"), subtype="DIR_PATH", options={"SKIP_SAVE"})

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for a reconstruction of the scene's photos."""
        settings = context.scene.ganfit
        photos = chosen_photos(settings)
        focal = chosen_focal(settings)
        params = {
            "photos": [str(photo) for photo in photos],
            "out": str(self._output_folder(settings, photos[0])),
            "options": worker_options(settings) | ({"focal_mm": focal} if any(f is not None for f in focal) else {}),
        }
        worker = preferences.worker()
        return WorkerJob(worker, protocol.RECONSTRUCT, params), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Imports the bundle."""
        return import_folder(context, Path(result["bundle"]), match=True)

    def _output_folder(self, settings: Any, photo: Path) -> Path:
        """The operator's own output is taken as it is; below the scene's, each result gets a new folder."""
        if self.output:
            return Path(bpy.path.abspath(self.output)).absolute()
        return new_folder(preferences.results_folder(settings.output), photo.stem)


class GANFIT_OT_cancel(bpy.types.Operator):
    bl_idname = "ganfit.cancel"
    bl_label = label("cancel")
    bl_description = tip("cancel")

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is something to cancel."""
        return session.current().status is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The job's own operator sees the end."""
        session.current().job.cancel()
        redraw(context)
        return {"FINISHED"}


def worker_options(settings: Any) -> dict[str, Any]:
    """The options of a fit out of the scene's settings."""
    return {name: getattr(settings, name) for name in ("preset", "device", "basis", "seed")}


def chosen_photos(settings: Any) -> list[Path]:
    """The photos that are switched on, as absolute paths. Raises AddonError: `no_photo`, `photo_missing`."""
    photos = [Path(bpy.path.abspath(photo.path)).absolute() for photo in settings.photos if photo.path and photo.use]
    if not photos and settings.photos:
        raise AddonError("no_photo", "Every photo of the list is switched off.", MESSAGES["switch_on"])
    if not photos:
        raise AddonError("no_photo", "No photo is chosen.")
    for photo in photos:
        if not photo.is_file():
            raise AddonError("photo_missing", f"There is no photo {photo}.")
    return photos


def chosen_focal(settings: Any) -> list[float | None]:
    """Focal lengths of the photos that are switched on, where a person has changed them; None leaves it to the file."""
    focal = []
    for photo in settings.photos:
        if photo.path and photo.use:
            own = focal_35mm(Path(bpy.path.abspath(photo.path))) or 0.0
            focal.append(None if abs(photo.focal_mm - own) < 0.01 else photo.focal_mm)
    return focal


def new_folder(parent: Path, name: str) -> Path:
    """A folder of this name that does not exist yet (it is not made): `name`, `name-2`, ..."""
    clean = re.sub(r"[^\w.-]+", "_", name).strip("._") or "person"
    candidate, number = parent / clean, 2
    while candidate.exists():
        candidate, number = parent / f"{clean}-{number}", number + 1
    return candidate


CLASSES = (GANFIT_OT_reconstruct, GANFIT_OT_cancel)
