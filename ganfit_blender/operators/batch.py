# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that reconstructs everyone in a folder."""

from pathlib import Path
from typing import Any

import bpy

from .. import gallery, preferences, protocol, session
from ..batch_table import FAILED, TABLE, output_folder, read_table
from ..errors import AddonError
from ..job import JobStatus, WorkerJob
from ..ui_strings import MESSAGES, label, tip
from .base import JobOperator
from .reconstruct import worker_options


class GANFIT_OT_batch(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.batch"
    bl_label = label("batch")
    bl_description = tip("batch")
    bl_options = {"UNDO"}

    _out: Path
    _seen: float = 0.0

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for everyone in the scene's folder."""
        settings = context.scene.ganfit
        folder = Path(bpy.path.abspath(settings.folder)).absolute() if settings.folder else None
        if folder is None or not folder.is_dir():
            raise AddonError("folder_missing", f"There is no folder {folder}." if folder else "No folder is chosen.")
        self._out = output_folder(preferences.results_folder(settings.output), folder)
        params = {"folder": str(folder), "out": str(self._out), "options": worker_options(settings)}
        worker = preferences.worker()
        context.window_manager.ganfit_batch.rows.clear()
        return WorkerJob(worker, protocol.BATCH, params), worker.log_path

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Also keeps the table in the panel up to date."""
        if event.type == "TIMER":
            self._show_table(context)
        return super().modal(context, event)

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Puts everyone who has a head into the scene."""
        people = read_table(self._out)
        linked = context.scene.ganfit.arrange == "linked"
        gallery.place_people(context, self._out.name, people, linked)
        failed = sum(person.state == FAILED for person in people)
        done = sum(bool(person.bundle) for person in people)
        return MESSAGES["batch_done"].format(done=done, failed=failed, place=self._out)

    def _end(self, context: bpy.types.Context, status: JobStatus) -> set[str]:
        """A batch that was cancelled has its finished heads in the scene all the same."""
        self._show_table(context)
        if status.error is not None and read_table(self._out):
            session.current().message = self.conclude(context, {})
        return super()._end(context, status)

    def _show_table(self, context: bpy.types.Context) -> None:
        """The rows of the window manager's list, when the table has changed since the last look."""
        try:
            stamp = (self._out / TABLE).stat().st_mtime
        except OSError:
            return
        if stamp == self._seen:
            return
        self._seen = stamp
        rows = context.window_manager.ganfit_batch.rows
        people = read_table(self._out)
        while len(rows) > len(people):
            rows.remove(len(rows) - 1)
        for number, person in enumerate(people):
            row = rows[number] if number < len(rows) else rows.add()
            row.name, row.state, row.text = person.name, person.state, person.text


CLASSES = (GANFIT_OT_batch,)
