# SPDX-License-Identifier: GPL-3.0-or-later
"""What operators share: errors become a sentence in the panel, and jobs run modal or blocking."""

import traceback
from typing import Any

import bpy

from .. import preview, session
from ..errors import AddonError, as_addon_error
from ..importer import scene as importer
from ..job import CANCELLED, POLL_INTERVAL_S, JobStatus
from ..ui_strings import MESSAGES, stage
from ..viewport import redraw


class Reporting:
    """Turns any exception of `run` into an error in the panel and in Blender's report; the edge of the add-on."""

    adds_to_person = False  # whether it puts objects into the active person's collection

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Runs the operator and waits for its end."""
        try:
            return self.run(context)
        except Exception as error:
            return self.fail(context, error)

    def fail(self, context: bpy.types.Context, error: Exception) -> set[str]:
        """Shows an error; returns the operator's result."""
        if not isinstance(error, AddonError):
            traceback.print_exc()
        shown = as_addon_error(error)
        if shown.code != "cancelled":
            session.current().error = shown
        self.report({"WARNING" if shown.code == "cancelled" else "ERROR"}, str(shown))
        redraw(context)
        return {"CANCELLED"}


class PersonOperator(Reporting):
    """An operator on the active person's head."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head of ours, whatever its objects are called; in this file, where something is added to it."""
        if importer.active_head(context) is None:
            cls.poll_message_set(MESSAGES["no_person"])
            return False
        if cls.adds_to_person and importer.active_person(context).library is not None:
            cls.poll_message_set(MESSAGES["linked"])
            return False
        return True


class JobOperator(Reporting):
    """Runs a job: modal with a timer where there is a window, blocking in background mode and from scripts.

    Subclasses give `begin` (the job, started) and `conclude` (what happens with its result), and may look at what the
    job has done so far in `follow`.
    """

    _timer: Any = None
    _shown: tuple[Any, ...] = ()

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """One job at a time."""
        if session.current().status is not None:
            cls.poll_message_set(MESSAGES["busy"])
            return False
        return True

    def run(self, context: bpy.types.Context) -> set[str]:
        """Blocks until the job has ended."""
        self._start(context)

        def show(status: JobStatus) -> None:
            _print_status(status)
            self.follow(context)

        return self._end(context, session.current().job.wait(show))

    def follow(self, context: bpy.types.Context) -> bool:
        """Called again and again while the job runs; whether something was added to the scene."""
        return False

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Starts the job and returns; `modal` follows it."""
        if bpy.app.background:
            return self.execute(context)
        try:
            self._start(context)
        except Exception as error:
            return self.fail(context, error)
        manager = context.window_manager
        self._timer = manager.event_timer_add(POLL_INTERVAL_S, window=context.window)
        manager.modal_handler_add(self)
        redraw(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Polls the job at the timer's events; everything else belongs to Blender."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        job = session.current().job
        if job is None:  # the add-on was disabled meanwhile
            self._stop_timer(context)
            return {"CANCELLED"}
        status = job.poll()
        if status.ended:
            self._stop_timer(context)
            try:
                return self._end(context, status)
            except Exception as error:
                return self.fail(context, error)
        if self.follow(context):
            bpy.ops.ed.undo_push(message=self.bl_label)  # so that undoing what the artist does meanwhile leaves it
            redraw(context)
        shown = (status.state, status.stage, status.step, round(status.eta_s or 0), len(status.log), status.log[-1:])
        picture = bool(status.preview) and preview.current().show(status.preview)
        if shown != self._shown or picture:
            self._shown = shown
            redraw(context)
        return {"PASS_THROUGH"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender calls this when the window closes or another file is opened."""
        self._stop_timer(context)
        job = session.current().job
        if job is not None:
            job.cancel()
            session.current().abandon()

    def _start(self, context: bpy.types.Context) -> None:
        preview.current().clear()
        state = session.current()
        job, log_path = self.begin(context)
        state.begin(job, log_path)

    def _end(self, context: bpy.types.Context, status: JobStatus) -> set[str]:
        redraw(context)
        preview.current().clear()
        if status.error is not None:
            raise status.error
        if status.state == CANCELLED:
            raise AddonError("cancelled", MESSAGES["cancelled"])
        message = self.conclude(context, status.result)
        session.current().message = message
        self.report({"INFO"}, message)
        return {"FINISHED"}

    def _stop_timer(self, context: bpy.types.Context) -> None:
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None


def _print_status(status: JobStatus) -> None:
    """A line for whoever runs Blender from a terminal."""
    count = f" {status.step}/{status.steps}" if status.steps > 1 else ""
    line = f": {status.log[-1]}" if status.log else ""
    print(f"GANFIT: {stage(status.stage)}{count}{line}", flush=True)
