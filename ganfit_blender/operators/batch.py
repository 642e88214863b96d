# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that reconstructs everyone in a folder."""

from pathlib import Path
from typing import Any

import bpy

from .. import gallery, preferences, protocol, session
from ..batch_table import FAILED, TABLE, output_folder, read_table
from ..errors import AddonError
from ..job import JobStatus, WorkerJob
from ..sculpt import object_mode, select
from ..ui_strings import MESSAGES, label, tip
from .base import JobOperator
from .reconstruct import worker_options


class GANFIT_OT_batch(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.batch"
    bl_label = label("batch")
    bl_description = tip("batch")
    bl_options = {"UNDO"}

    _out: Path
    _seen = _stale = 0.0  # when the table was written that is shown; the one of an earlier run
    _problem: AddonError | None = None

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for everyone in the scene's folder."""
        settings = context.scene.ganfit
        folder = Path(bpy.path.abspath(settings.folder)).absolute() if settings.folder else None
        if folder is None or not folder.is_dir():
            raise AddonError("folder_missing", f"There is no folder {folder}." if folder else "No folder is chosen.")
        self._out = output_folder(preferences.results_folder(settings.output), folder)
        params = {"folder": str(folder), "out": str(self._out), "options": worker_options(settings)}
        worker = preferences.worker()
        self._placed: set[str] = set()
        self._seen = self._stale = self._stamp()
        context.window_manager.ganfit_batch.rows.clear()
        return WorkerJob(worker, protocol.BATCH, params), worker.log_path

    def follow(self, context: bpy.types.Context) -> bool:
        """Keeps the table in the panel up to date and adds a head that is done, unless the artist is in another mode.

        What is selected and active stays so. A result that cannot be read is left for the end.
        """
        self._show_table(context)
        if self._seen == self._stale or context.mode != "OBJECT":
            return False
        active, chosen = context.view_layer.objects.active, list(context.selected_objects)
        try:
            added = gallery.place_people(context, self._out.name, read_table(self._out),
                                         context.scene.ganfit.arrange == "linked", self._placed, limit=1)
        except AddonError as error:
            self._problem = self._problem or error
            return False
        if added and active is not None:
            select(context, *chosen, active)
            active.select_set(active in chosen)
        return bool(added)

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Puts everyone into the scene who has a head and is not there yet."""
        object_mode(context)
        people = read_table(self._out)
        linked = context.scene.ganfit.arrange == "linked"
        gallery.place_people(context, self._out.name, people, linked, self._placed)
        if self._problem is not None:
            raise self._problem
        failed = sum(person.state == FAILED for person in people)
        done = sum(bool(person.bundle) for person in people)
        return MESSAGES["batch_done"].format(done=done, failed=failed, place=self._out)

    def _end(self, context: bpy.types.Context, status: JobStatus) -> set[str]:
        """A batch that was cancelled has its finished heads in the scene all the same."""
        self._show_table(context)
        if status.error is not None and self._seen != self._stale:
            session.current().message = self.conclude(context, {})
        return super()._end(context, status)

    def _show_table(self, context: bpy.types.Context) -> None:
        """The rows of the window manager's list, when the table has changed since the last look."""
        stamp = self._stamp()
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

    def _stamp(self) -> float:
        try:
            return (self._out / TABLE).stat().st_mtime
        except OSError:
            return 0.0


CLASSES = (GANFIT_OT_batch,)
