# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses the installed extension's operators with a stand-in worker, in good and bad circumstances; writes what came.

The argument is JSON: zip, python (a Python whose `-m backend` is the stand-in), photo, bundle, out (folder).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from in_blender import EXTENSION, answer, empty_scene, install, leave, preferences  # noqa: E402

report: dict = {}


def attempt(name: str, operator, **arguments: object) -> None:
    """Runs an operator and writes down how it ended, and what the panel says then."""
    try:
        result = sorted(operator(**arguments))
    except RuntimeError as error:
        result = [str(error)]
    state = session().current()
    report[name] = {"result": result, "error": state.error.code if state.error else "", "message": state.message,
                    "heads": len([t for t in bpy.context.scene.objects if t.get("ganfit_part") == "skin"])}


def session():
    """The add-on's module of that name."""
    return importlib.import_module(f"{EXTENSION}.session")


def worker_pid() -> int:
    """The warm worker's process."""
    return session().current()._worker.pid


class Layout:
    """Takes what a panel draws; fails on properties and operators that do not exist."""

    def __init__(self, drawn: list[str]) -> None:
        self.drawn = drawn

    def prop(self, data, name: str, **options: object) -> None:
        """A property: it must be there and have a tooltip."""
        assert data.bl_rna.properties[name].description, name
        self.drawn.append(f"prop {name}")

    def operator(self, name: str, **options: object) -> Layout:
        """An operator: it must be registered."""
        module, _, function = name.partition(".")
        assert getattr(getattr(bpy.ops, module), function).get_rna_type().description, name
        self.drawn.append(f"operator {name}")
        return self

    def operator_menu_enum(self, name: str, prop: str, **options: object) -> Layout:
        """A menu of an operator's choices."""
        module, _, function = name.partition(".")
        assert getattr(getattr(bpy.ops, module), function).get_rna_type().properties[prop].enum_items, name
        return self.operator(name)

    def label(self, text: str = "", **options: object) -> None:
        """A text."""
        self.drawn.append(f"label {text}")

    def progress(self, factor: float, text: str) -> None:
        """The bar."""
        assert 0 <= factor <= 1
        self.drawn.append(f"progress {text}")

    def _nested(self, *arguments: object, **options: object) -> Layout:
        return self

    row = column = box = template_icon = split = template_list = separator = _nested


def draw(name: str) -> None:
    """Draws the panels and the preferences into the report."""
    panels = importlib.import_module(f"{EXTENSION}.panels")
    drawn: list[str] = []
    for panel in (cls for cls in panels.CLASSES if issubclass(cls, bpy.types.Panel)):
        if "poll" in vars(panel) and not panel.poll(bpy.context):
            continue
        stand_in = type("Panel", (), {"layout": Layout(drawn)})()
        panel.draw(stand_in, bpy.context)
        if "draw_header_preset" in vars(panel):
            panel.draw_header_preset(stand_in, bpy.context)
    panels.draw_preferences(preferences(), Layout(drawn))
    report[f"draw {name}"] = drawn


def traces() -> dict[str, list[str]]:
    """What an add-on could leave behind in Blender: types, properties of types that carry some, handlers, menus."""
    carriers = (bpy.types.Scene, bpy.types.Object, bpy.types.Collection, bpy.types.WindowManager, bpy.types.Image,
                bpy.types.Material, bpy.types.Mesh, bpy.types.Action)
    found = {"types": [name for name in dir(bpy.types)]}
    found |= {carrier.__name__: dir(carrier) for carrier in carriers}
    for name in dir(bpy.app.handlers):
        if isinstance(getattr(bpy.app.handlers, name), list):
            found[f"handlers.{name}"] = [repr(h) for h in getattr(bpy.app.handlers, name)]
    for menu in [name for name in dir(bpy.types) if "_MT_" in name or "_HT_" in name]:
        draw_functions = getattr(getattr(bpy.types, menu).draw, "_draw_funcs", None)
        if draw_functions:
            found[f"menu {menu}"] = [f.__module__ for f in draw_functions]
    keymaps = bpy.context.window_manager.keyconfigs.addon
    found["keymaps"] = [f"{m.name} {len(m.keymap_items)}" for m in keymaps.keymaps] if keymaps else []
    return found


def written(profile: Path) -> list[str]:
    """Files of the profile that lie neither in the extension's own folders nor are Blender's caches of modules."""
    own = ("extensions/.user/user_default/ganfit/", "extensions/user_default/ganfit/")
    names = [path.relative_to(profile).as_posix() for path in profile.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith(own) and "__pycache__" not in name)


def behave(mode: str, **variables: str) -> None:
    """Tells the next worker how to behave."""
    os.environ.update({"FAKE_WORKER": mode, **variables})


def main(job: dict) -> None:
    """All circumstances, one after the other."""
    out = Path(job["out"])
    os.environ["FAKE_BUNDLE"] = job["bundle"]
    profile = Path(os.environ["BLENDER_USER_RESOURCES"])
    clean = traces()
    install(job["zip"])
    files = written(profile)
    scene = empty_scene()
    draw("fresh")
    scene.ganfit.photos.add().path = job["photo"]
    attempt("not set up", bpy.ops.ganfit.reconstruct)
    draw("error")
    attempt("offline", bpy.ops.ganfit.setup)
    attempt("dismiss", bpy.ops.ganfit.dismiss)
    preferences().python_path = job["python"]
    bpy.ops.ed.undo_push(message="start")
    attempt("reconstruct", bpy.ops.ganfit.reconstruct, output=str(out / "anna"))
    pid = worker_pid()
    bpy.ops.ed.undo_push(message="anna")
    attempt("undo", bpy.ops.ed.undo)
    scene = bpy.context.scene
    attempt("again", bpy.ops.ganfit.reconstruct, output=str(out / "berta"))
    report["warm"] = worker_pid() == pid
    report["names"] = sorted(c.name for c in bpy.context.scene.collection.children)
    attempt("own folder", bpy.ops.ganfit.reconstruct)
    report["results"] = sorted(str(p.relative_to(out)) for p in out.glob("profile/**/result.json"))
    attempt("check", bpy.ops.ganfit.check)
    draw("ready")
    for mode in ("no_face", "crash", "garbage"):
        behave(mode)
        attempt(mode, bpy.ops.ganfit.reconstruct, output=str(out / mode))
    report["files"] = sorted(path.name for path in out.iterdir() if path.is_dir())
    attempt("no bundle", bpy.ops.ganfit.import_result, directory=str(out))
    damaged = out / "damaged"
    damaged.mkdir()
    (damaged / "result.json").write_text("{}")
    (damaged / "head.npz").write_bytes(b"nonsense")
    attempt("version", bpy.ops.ganfit.import_result, directory=str(damaged))
    (damaged / "result.json").write_text('{"version": 1}')
    attempt("damaged", bpy.ops.ganfit.import_result, directory=str(damaged))
    attempt("open log", bpy.ops.ganfit.open_log)
    attempt("manual", bpy.ops.ganfit.manual, page="troubleshooting", code="no_face")
    text = bpy.data.texts["troubleshooting.md"]
    report["manual at"] = text.lines[text.current_line_index].body
    pages = bpy.ops.ganfit.manual.get_rna_type().properties["page"].enum_items.keys()
    report["manual pages"] = [page for page in pages if bpy.ops.ganfit.manual(page=page) == {"FINISHED"}]
    scene.ganfit.photos[0].path = "/no/such/photo.jpg"
    attempt("deleted photo", bpy.ops.ganfit.reconstruct)
    attempt("remove", bpy.ops.ganfit.photo_remove, index=0)
    attempt("no photo", bpy.ops.ganfit.reconstruct)
    attempt("add", bpy.ops.ganfit.photos_add, directory=str(Path(job["photo"]).parent),
            files=[{"name": Path(job["photo"]).name}])
    report["photos"] = [photo.path for photo in scene.ganfit.photos]
    report["pid"] = worker_pid()
    for _ in range(2):  # twice: enabling again must find nothing of the first time
        bpy.ops.preferences.addon_disable(module=EXTENSION)
        now = traces()
        report.setdefault("left", []).append({kind: sorted(set(now[kind]) - set(clean.get(kind, ()))) for kind in now
                                              if set(now[kind]) - set(clean.get(kind, ()))})
        bpy.ops.preferences.addon_enable(module=EXTENSION)
        report["enabled"] = hasattr(bpy.context.scene, "ganfit")
    bpy.ops.preferences.addon_disable(module=EXTENSION)
    for name in [name for name in sys.modules if name.startswith(EXTENSION)]:  # what Reload Scripts does to an add-on
        del sys.modules[name]
    bpy.ops.preferences.addon_enable(module=EXTENSION)
    report["reloaded"] = hasattr(bpy.context.scene, "ganfit")
    behave("ok")
    preferences().python_path = job["python"]
    bpy.context.scene.ganfit.photos.clear()
    bpy.context.scene.ganfit.photos.add().path = job["photo"]
    attempt("after reload", bpy.ops.ganfit.reconstruct, output=str(out / "reloaded"))
    report["written"] = sorted(set(written(profile)) - set(files))
    answer(out / "report.json", **report)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    leave()
