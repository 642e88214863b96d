# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators: each is a thin shell over a job or a function of the importer."""

import re
import traceback
from pathlib import Path
from typing import Any

import bpy
import gpu
from bpy.props import BoolProperty, CollectionProperty, IntProperty, StringProperty

from . import preferences, preview, protocol, session
from .errors import AddonError, as_addon_error
from .importer import scene as importer
from .job import CANCELLED, POLL_INTERVAL_S, JobStatus, WorkerJob
from .setup_env import SetupJob
from .ui_strings import MESSAGES, label, stage, tip

IMAGE_FILTER = "*.png;*.jpg;*.jpeg;*.jpe;*.webp;*.tif;*.tiff;*.bmp;*.heic;*.heif;*.avif"
TAB = label("panel")


class Reporting:
    """Turns any exception of `run` into an error in the panel and in Blender's report; the edge of the add-on."""

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


class JobOperator(Reporting):
    """Runs a job: modal with a timer where there is a window, blocking in background mode and from scripts.

    Subclasses give `begin` (the job, started) and `conclude` (what happens with its result).
    """

    _timer: Any = None
    _shown: tuple[Any, ...] = ()

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """One job at a time."""
        return session.current().status is None

    def run(self, context: bpy.types.Context) -> set[str]:
        """Blocks until the job has ended."""
        self._start(context)
        return self._end(context, session.current().job.wait(_print_status))

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
        names = ("preset", "device", "basis", "seed")
        params = {
            "photos": [str(photo) for photo in photos],
            "out": str(self._output_folder(settings, photos[0])),
            "options": {name: getattr(settings, name) for name in names},
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
        parent = Path(bpy.path.abspath(settings.output)) if settings.output else preferences.user_folder() / "results"
        return new_folder(parent.absolute(), photo.stem)


class GANFIT_OT_setup(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.setup"
    bl_label = label("setup")
    bl_description = tip("setup")

    def begin(self, context: bpy.types.Context) -> tuple[SetupJob, Path]:
        """Starts the installation."""
        plan = preferences.setup_plan()
        return SetupJob(plan, online=bpy.app.online_access), plan.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Nothing is left to do."""
        return MESSAGES["setup_done"]


class GANFIT_OT_check(JobOperator, bpy.types.Operator):
    bl_idname = "ganfit.check"
    bl_label = label("check")
    bl_description = tip("check")

    def begin(self, context: bpy.types.Context) -> tuple[WorkerJob, Path]:
        """Asks the worker for its assets."""
        worker = preferences.worker()
        return WorkerJob(worker, protocol.ASSETS_LIST, {}), worker.log_path

    def conclude(self, context: bpy.types.Context, result: dict[str, Any]) -> str:
        """Keeps the list for the preferences."""
        assets = result.get("assets")
        session.current().assets = assets if isinstance(assets, list) else []
        return ", ".join(str(asset.get("name")) for asset in session.current().assets if asset.get("installed"))


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


class GANFIT_OT_import_result(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.import_result"
    bl_label = label("import_result")
    bl_description = tip("import_result")
    bl_options = {"UNDO"}

    directory: StringProperty(name=label("import_result"), subtype="DIR_PATH", options={"SKIP_SAVE"})
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE", "HIDDEN"})
    match: BoolProperty(name=label("match_photo"), description=tip("match_photo"), default=True)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the folder."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Imports the chosen folder, or the folder of the chosen file."""
        folder = Path(bpy.path.abspath(self.filepath or self.directory))
        message = import_folder(context, folder.parent if folder.is_file() else folder, self.match)
        session.current().dismiss()
        self.report({"INFO"}, message)
        return {"FINISHED"}


class GANFIT_OT_match_photo(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.match_photo"
    bl_label = label("match_photo")
    bl_description = tip("match_photo")
    bl_options = {"REGISTER", "UNDO"}

    view: IntProperty(name=label("photo"), description=tip("photo"), min=0, default=0)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a person to match, or a match to leave."""
        return importer.is_matched(context.scene) or importer.active_person(context) is not None

    def run(self, context: bpy.types.Context) -> set[str]:
        """Turns the match on or off."""
        if importer.is_matched(context.scene):
            importer.release_photo(context)
            look_through_camera(context, False)
            return {"FINISHED"}
        importer.match_photo(context, importer.active_person(context), self.view)
        look_through_camera(context, True)
        self.report({"INFO"}, MESSAGES["matched_hidden"])
        return {"FINISHED"}


class GANFIT_OT_photos_add(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.photos_add"
    bl_label = label("photos_add")
    bl_description = tip("photos_add")
    bl_options = {"UNDO", "INTERNAL"}

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE"})
    filter_glob: StringProperty(default=IMAGE_FILTER, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks for the photos."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str]:
        """Appends the chosen photos to the scene's list."""
        photos = context.scene.ganfit.photos
        known = {photo.path for photo in photos}
        for file in self.files:
            path = str(Path(self.directory, file.name))
            if file.name and path not in known:
                photos.add().path = path
        session.current().dismiss()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_photo_remove(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.photo_remove"
    bl_label = label("photo_remove")
    bl_description = tip("photo_remove")
    bl_options = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    def run(self, context: bpy.types.Context) -> set[str]:
        """Removes one photo from the list."""
        context.scene.ganfit.photos.remove(self.index)
        return {"FINISHED"}


class GANFIT_OT_open_log(Reporting, bpy.types.Operator):
    bl_idname = "ganfit.open_log"
    bl_label = label("open_log")
    bl_description = tip("open_log")

    def run(self, context: bpy.types.Context) -> set[str]:
        """Puts the log into a text and shows it in a window of its own, where there is one."""
        path = session.current().log_path or preferences.log_path("worker")
        content = path.read_text("utf-8", "replace") if path.is_file() else ""
        text = bpy.data.texts.get(path.name) or bpy.data.texts.new(path.name)
        text.from_string(content[-200_000:])
        if not bpy.app.background:
            bpy.ops.wm.window_new()
            area = context.window_manager.windows[-1].screen.areas[0]
            area.type = "TEXT_EDITOR"
            area.spaces.active.text = text
        self.report({"INFO"}, str(path))
        return {"FINISHED"}


class GANFIT_OT_dismiss(bpy.types.Operator):
    bl_idname = "ganfit.dismiss"
    bl_label = label("dismiss")
    bl_description = tip("dismiss")
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Forgets the message."""
        session.current().dismiss()
        redraw(context)
        return {"FINISHED"}


class GANFIT_OT_preferences(bpy.types.Operator):
    bl_idname = "ganfit.preferences"
    bl_label = label("preferences")
    bl_description = tip("preferences")
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Opens Blender's preferences at this add-on."""
        bpy.ops.preferences.addon_show(module=__package__)
        return {"FINISHED"}


CLASSES = (
    GANFIT_OT_reconstruct,
    GANFIT_OT_setup,
    GANFIT_OT_check,
    GANFIT_OT_cancel,
    GANFIT_OT_import_result,
    GANFIT_OT_match_photo,
    GANFIT_OT_photos_add,
    GANFIT_OT_photo_remove,
    GANFIT_OT_open_log,
    GANFIT_OT_dismiss,
    GANFIT_OT_preferences,
)


def chosen_photos(settings: Any) -> list[Path]:
    """The photos of the scene's list as absolute paths. Raises AddonError: `no_photo`, `photo_missing`."""
    photos = [Path(bpy.path.abspath(photo.path)).absolute() for photo in settings.photos if photo.path]
    if not photos:
        raise AddonError("no_photo", "No photo is chosen.")
    for photo in photos:
        if not photo.is_file():
            raise AddonError("photo_missing", f"There is no photo {photo}.")
    return photos


def new_folder(parent: Path, name: str) -> Path:
    """A folder of this name that does not exist yet (it is not made): `name`, `name-2`, ..."""
    clean = re.sub(r"[^\w.-]+", "_", name).strip("._") or "person"
    candidate, number = parent / clean, 2
    while candidate.exists():
        candidate, number = parent / f"{clean}-{number}", number + 1
    return candidate


def import_folder(context: bpy.types.Context, folder: Path, match: bool) -> str:
    """Imports a bundle and looks at it; returns a sentence for the artist."""
    if context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    collection = importer.import_bundle(context, folder, match)
    if match:
        look_through_camera(context, True)
    redraw(context)
    return MESSAGES["finished"].format(name=collection.name)


def look_through_camera(context: bpy.types.Context, on: bool) -> None:
    """Turns the 3D view to the camera, with textures and the scene's own light; or back to a free view."""
    space = view_3d(context)
    if space is None:
        return
    space.region_3d.view_perspective = "CAMERA" if on else "PERSP"
    if not on or space.shading.type not in {"WIREFRAME", "SOLID"}:
        return
    if not bpy.app.background and gpu.platform.device_type_get() == "SOFTWARE":  # EEVEE's shaders would take minutes
        space.shading.type, space.shading.color_type = "SOLID", "TEXTURE"
    else:
        space.shading.type = "MATERIAL"
        space.shading.use_scene_lights = space.shading.use_scene_world = True


def view_3d(context: bpy.types.Context) -> bpy.types.SpaceView3D | None:
    """The 3D view that the artist works in, else the largest one of the window, else None."""
    if isinstance(context.space_data, bpy.types.SpaceView3D):
        return context.space_data
    areas = [area for area in context.screen.areas if area.type == "VIEW_3D"] if context.screen else []
    return max(areas, key=lambda area: area.width * area.height).spaces.active if areas else None


def redraw(context: bpy.types.Context) -> None:
    """Redraws the places that show the add-on: sidebars of 3D views, and the preferences."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            elif area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def _print_status(status: JobStatus) -> None:
    """A line for whoever runs Blender from a terminal."""
    count = f" {status.step}/{status.steps}" if status.steps > 1 else ""
    line = f": {status.log[-1]}" if status.log else ""
    print(f"GANFIT: {stage(status.stage)}{count}{line}", flush=True)
