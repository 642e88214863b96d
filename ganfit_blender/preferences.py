# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's preferences, and the places and processes that follow from them."""

import os
from pathlib import Path

import bpy
from bpy.props import EnumProperty, StringProperty

from . import session, setup_env
from .errors import AddonError
from .ui_strings import MESSAGES, items, label, tip
from .worker_client import WorkerClient


class GANFIT_preferences(bpy.types.AddonPreferences):
    """Where the backend lies and how it is set up."""

    bl_idname = __package__

    python_path: StringProperty(name=label("python_path"), description=tip("python_path"), subtype="FILE_PATH")
    base_python: StringProperty(name=label("base_python"), description=tip("base_python"), subtype="FILE_PATH")
    compute: EnumProperty(name=label("compute"), description=tip("compute"), items=items("compute"), default="cpu")
    index_url: StringProperty(name=label("index_url"), description=tip("index_url"))
    wheel_folder: StringProperty(name=label("wheel_folder"), description=tip("wheel_folder"), subtype="DIR_PATH")
    cache: StringProperty(name=label("cache"), description=tip("cache"), subtype="DIR_PATH")

    def draw(self, context: bpy.types.Context) -> None:
        """Blender's preferences editor calls this."""
        from . import panels  # panels imports this module

        panels.draw_preferences(self, self.layout)


CLASSES = (GANFIT_preferences,)


def get() -> GANFIT_preferences:
    """The preferences of the enabled add-on."""
    return bpy.context.preferences.addons[__package__].preferences


def user_folder(create: bool = False) -> Path:
    """The only folder, besides the chosen output, that the add-on writes to."""
    return Path(bpy.utils.extension_path_user(__package__, create=create))


def results_folder(chosen: str) -> Path:
    """Where results go: a scene's chosen output, else the extension's own."""
    return Path(bpy.path.abspath(chosen)).absolute() if chosen else user_folder() / "results"


def environment_folder() -> Path:
    """The environment that Set Up makes."""
    return user_folder() / "env"


def backend_root() -> Path:
    """The folder with the package `backend`: the extension's own, in a checkout the one beside it."""
    here = Path(__file__).resolve().parent
    return here if (here / "backend" / "__main__.py").is_file() else here.parent


def cache_folder() -> Path | None:
    """The backend's cache. A Python of the user's own keeps its own cache (None) unless one is chosen."""
    prefs = get()
    if prefs.cache:
        return Path(bpy.path.abspath(prefs.cache))
    if prefs.python_path or os.environ.get("GANFIT_CACHE"):
        return None
    return user_folder() / "cache"


def is_set_up() -> bool:
    """Whether a backend is there to be started."""
    chosen = get().python_path
    if chosen:
        return Path(bpy.path.abspath(chosen)).is_file()
    return setup_env.is_complete(environment_folder(), backend_root())


def log_path(name: str) -> Path:
    """A log file in the user folder: `worker` or `setup`."""
    return user_folder(create=True) / f"{name}.log"


def worker() -> WorkerClient:
    """The session's worker for these preferences. Raises AddonError: `environment_missing`."""
    if not is_set_up():
        raise AddonError("environment_missing", MESSAGES["not_set_up"])
    chosen = get().python_path
    python = bpy.path.abspath(chosen) if chosen else str(setup_env.environment_python(environment_folder()))
    variables = setup_env.backend_environment(backend_root(), cache_folder())
    return session.current().worker([python, "-m", "backend", "serve"], variables, log_path("worker"))


def setup_plan() -> setup_env.SetupPlan:
    """What Set Up would do with these preferences."""
    prefs = get()
    return setup_env.SetupPlan(
        environment=environment_folder(),
        base_python=bpy.path.abspath(prefs.base_python) if prefs.base_python else "",
        backend_root=backend_root(),
        cache=cache_folder() or Path(os.environ.get("GANFIT_CACHE") or user_folder() / "cache"),
        compute=prefs.compute,
        index_url=prefs.index_url,
        wheel_folder=bpy.path.abspath(prefs.wheel_folder) if prefs.wheel_folder else "",
        log_path=log_path("setup"),
    )
