# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator that reconstructs everyone in a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from .. import gallery, preferences, protocol, session
from ..batch_table import FAILED, TABLE, output_folder, read_table
from ..errors import AddonError
from ..job import JobStatus, WorkerJob
from ..sculpt import object_mode
from ..ui_strings import MESSAGES, label, tip
from .base import JobOperator
from .reconstruct import worker_options


class GANFIT_OT_batch(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.batch"
    bl_label = label("batch")
    bl_description = tip("batch")
    bl_options = {"UNDO"}

    _out: Path
    _seen = _stale = _read = 0.0  # when the table was written that is shown; an earlier run's; whose heads have come
    _steps: Iterator[bool] | None = None
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
        self._seen = self._stale = self._read = self._stamp()
        self._steps = None
        context.window_manager.ganfit_batch.rows.clear()
        return WorkerJob(worker, protocol.BATCH, params), worker.log_path

    def follow(self, context: bpy.types.Context) -> bool:
        """Keeps the table in the panel up to date and adds heads that are done, unless the artist is in another mode.

        A head comes in steps, one at each call, so that Blender goes on drawing. What is selected stays so.
        """
        self._show_table(context)
        return context.mode == "OBJECT" and self._place(context)

    def _place(self, context: bpy.types.Context) -> bool:
        """Takes a step in placing whoever is done; whether someone is new in the scene.

        A result that cannot be read is left for the end.
        """
        if self._steps is None and self._seen != self._read:
            self._read = self._seen
            self._steps = gallery.place_people(context, self._out.name, read_table(self._out),
                                               context.scene.ganfit.arrange == "linked", self._placed)
        try:
            if self._steps is not None:
                return next(self._steps)
        except StopIteration:
            pass
        except AddonError as error:
            self._problem = self._problem or error
        except ReferenceError:  # the artist has undone something
            self._read = 0.0
        self._steps = None
        return False

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Puts everyone into the scene who has a head and is not there yet."""
        object_mode(context)
        self._show_table(context)
        while self._steps is not None:
            self._place(context)
        self._read = -1.0  # once more from the table as it is now, whatever its time says
        self._place(context)
        while self._steps is not None:
            self._place(context)
        people = read_table(self._out)
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
