# SPDX-License-Identifier: GPL-3.0-or-later
"""What an artist does in one session, step by step; each ends with what has to be true, and a picture.

A step raises Failed with a sentence. Nothing waits for seconds to pass where a state can be waited for; the short
pauses are for what Blender draws.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from mouse import Blender, Failed, windows

TICK_LIMIT_S = 0.05
HEAD_TICK_LIMIT_S = 0.12  # where a head comes in; on a machine that does nothing else it is half of that
SETUP_S, FIT_S, SHADER_S = 900.0, 540.0, 300.0
GREY, SAME_COLOR = 0.08, 0.06  # of 1
HEAD = "bpy.context.view_layer.objects.active"
SCENE = "bpy.context.scene"
PEOPLE = ("[(c.name, c.hide_viewport) for c in bpy.context.scene.collection.children_recursive "
          "if 'ganfit_person' in c]")
ROWS = "[(row.name, row.state, row.text) for row in bpy.context.window_manager.ganfit_batch.rows]"
OVERLAY = "sys.modules[EXTENSION + '.overlay']"


def whole(job: dict, blender: Blender, process: subprocess.Popen, report: dict) -> None:
    """The session from the fresh Blender to its end; the report gets the seconds of every step."""
    steps = (install, set_up, choose_photo, reconstruct, undo_and_redo, match_and_studio, sliders, sculpt, hair, pin,
             fit_again, folder, kill_worker)
    report["seconds"] = {}
    for step in steps:
        began = time.monotonic()
        print(f"{step.__name__} ...", flush=True)
        step(job, blender, report)
        report["seconds"][step.__name__] = round(time.monotonic() - began, 1)
    close(blender, process)


def expect(blender: Blender, what: str, expression: str, timeout: float = 20.0) -> object:
    """Waits until an expression is true in Blender."""
    return blender.wait(what, lambda: blender.ask(expression), timeout)


def panels(blender: Blender, *names: str) -> None:
    """Leaves these panels open below the main one, and waits until Blender has drawn them."""
    blender.ask(f"show_panels(*{names!r})")
    expect(blender, f"the panels {names}", f"DRAWN >= {set(names)!r}", 60)
    time.sleep(0.5)  # they glide to their places


def job_ends(blender: Blender, name: str, timeout: float = FIT_S) -> dict:
    """Waits for the end of the job that a button has started; what it left. Raises Failed when it ended badly."""
    expect(blender, f"the end of {name}", "not job()['running']", timeout)
    done = blender.ask("job()")
    assert isinstance(done, dict)
    if done["error"]:
        blender.shot("error")
        raise Failed(f"{name}: {done['error']}")
    return done


def install(job: dict, blender: Blender, report: dict) -> None:
    """Preferences, Get Extensions, the arrow at the right, Install from Disk, the zip; then the sidebar has its tab."""
    before = set(windows())
    blender.key("ctrl+comma")
    (x, y, width, height), (left, top, wide, _) = expect(blender, "the preferences", "preferences_place()")
    time.sleep(2.0)
    window = next(w for w in windows() if w not in before)
    row = blender.ask("row_height()")
    for step in 2 * list(range(1, int(height / row))):  # a busy Blender may have been slower than the mouse
        blender.mouse(x + 0.4 * width, y + step * row, "sleep", "0.2", "click", "1", "sleep", "0.5", window=window)
        if [blender.ask("bpy.context.preferences.active_section") for _ in range(2)][1] == "EXTENSIONS":
            break
    time.sleep(1.0)
    arrow = left + wide - 0.85 * row, top + 0.9 * row
    blender.mouse(*arrow, "sleep", "0.5", "click", "1", "sleep", "1.5", window=window)
    blender.shot("extensions")
    subprocess.run(["xdotool", "key", "Up", "sleep", "0.5", "key", "Return"], check=True, timeout=20)  # the last entry
    choose_file(blender, Path(job["zip"]))
    expect(blender, "the extension", "EXTENSION in bpy.context.preferences.addons", 60)
    blender.shot("installed")
    blender.quit(window)
    blender.ask("watch_extension()")
    expect(blender, "the sidebar's tab", "sidebar()['tab'] == 'GANFIT'", 60)
    time.sleep(1.0)


def choose_file(blender: Blender, path: Path) -> None:
    """In the file browser that opens: the file is named and Enter pressed."""
    browser = ("[(w, a) for w in bpy.context.window_manager.windows for a in w.screen.areas "
               "if a.type == 'FILE_BROWSER' and a.spaces.active.params]")
    expect(blender, "the file browser", f"len({browser})", 30)
    params = f"{browser}[0][1].spaces.active.params"
    place = os.fsencode(f"{path.parent}/")
    time.sleep(1.0)
    blender.ask(f"(setattr({params}, 'directory', {place!r}), setattr({params}, 'filename', {path.name!r}))")
    time.sleep(1.0)
    blender.shot("browser")
    window = next((w for w in reversed(windows()) if w != blender.window), blender.window)
    blender.mouse(300, 300, "sleep", "0.5", "key", "Return", window=window)


def set_up(job: dict, blender: Blender, report: dict) -> None:
    """Set Up from nothing, with a folder of wheels: it asks for no network."""
    blender.shot("fresh")
    blender.ask("bpy.data.objects.remove(bpy.data.objects['Cube'])")  # a head would stand in it, out of sight
    preferences = "bpy.context.preferences.addons[EXTENSION].preferences"
    for name, value in (("wheel_folder", job["wheels"]), ("base_python", job["python"])):
        blender.ask(f"setattr({preferences}, {name!r}, {value!r})")
    blender.click("ganfit.setup")
    expect(blender, "Set Up runs", "job()['running']")
    blender.shot("setup")
    done = job_ends(blender, "Set Up", SETUP_S)
    blender.shot("ready")
    if "set up" not in done["message"]:
        raise Failed(f"Set Up: {done}")
    if not list(Path(job["profile"]).glob("extensions/.user/user_default/ganfit/env/lib/python*/site-packages/torch")):
        raise Failed("Set Up has left no environment with the packages of the wheels.")


def choose_photo(job: dict, blender: Blender, report: dict) -> None:
    """Add Photos opens a file browser; the file is named there and Enter pressed."""
    blender.click("ganfit.photos_add")
    choose_file(blender, Path(job["photo"]))
    expect(blender, "the photo in the list", f"[photo.path for photo in {SCENE}.ganfit.photos]", 30)
    time.sleep(2.0)  # the panels below glide to their new places
    blender.shot("photo")


def reconstruct(job: dict, blender: Blender, report: dict) -> None:
    """The big button, progress, preview, the head; the add-on's part of Blender's time meanwhile."""
    blender.ask(f"setattr({SCENE}.ganfit, 'preset', 'draft')")
    blender.click("ganfit.reconstruct")
    expect(blender, "the fit's preview", "job()['preview'] or job()['error']", FIT_S)
    time.sleep(0.5)
    blender.shot("fit")
    done = job_ends(blender, "Reconstruct")
    time.sleep(2.0)
    blender.shot("head")
    if len(done["heads"]) != 1 or done["active"] != done["heads"][0]:
        raise Failed(f"Reconstruct left another scene than one head, which is active: {done}")
    check_ticks(blender, report, "ticks", TICK_LIMIT_S)


def check_ticks(blender: Blender, report: dict, name: str, limit_s: float) -> None:
    """Writes down how long the add-on has kept Blender in a job's ticks. Raises Failed where that is felt."""
    ticks = blender.ask("TICKS")
    assert isinstance(ticks, list)
    report[name] = {"count": len(ticks), "longest_wall_ms": round(1000 * max(t[0] for t in ticks), 2),
                    "longest_processor_ms": sorted((round(1000 * t[1], 2) for t in ticks), reverse=True)[:5]}
    if max(tick[1] for tick in ticks) > limit_s:
        raise Failed(f"A tick of the add-on took longer than {1000 * limit_s:.0f} ms: {report[name]}")


def undo_and_redo(job: dict, blender: Blender, report: dict) -> None:
    """Ctrl Z takes the head and the message about it away; Ctrl Shift Z brings the head back."""
    blender.key("ctrl+z")
    expect(blender, "undo takes the head away", "not job()['heads'] and not job()['message']")
    blender.shot("undone")
    blender.key("ctrl+shift+z")
    expect(blender, "redo brings the head back", "len(job()['heads']) == 1")
    expect(blender, "redo matches the photo again", f"'ganfit_before' in {SCENE}")
    blender.shot("redone")


def match_and_studio(job: dict, blender: Blender, report: dict) -> None:
    """Match Photo off and on, the studio on and off: each leaves what it found."""
    panels(blender, "GANFIT_PT_result")
    camera = f"{SCENE}.camera.name"
    photo = blender.ask(camera)
    blender.click("ganfit.match_photo")
    expect(blender, "Match Photo goes off", f"'ganfit_before' not in {SCENE} and {camera} != {photo!r}")
    blender.shot("match_off")
    blender.click("ganfit.match_photo")
    expect(blender, "Match Photo goes on", f"'ganfit_before' in {SCENE} and {camera} == {photo!r}")
    blender.click("ganfit.studio")
    expect(blender, "the studio's camera", f"{camera} == 'Studio Camera'")
    time.sleep(1.0)
    blender.shot("studio")
    blender.click("ganfit.studio")
    expect(blender, "the studio goes", f"'Studio' not in bpy.data.collections and {camera} != 'Studio Camera'")
    blender.key("KP_Decimal")  # View Selected


def sliders(job: dict, blender: Blender, report: dict) -> None:
    """A slider of the shape and one of ARKit's, drawn by mouse; both move the head, and undo takes back the last."""
    keys = f"{HEAD}.data.shape_keys.key_blocks"
    report["sliders"] = {}
    for panel, name in (("GANFIT_PT_shape", "shape_01"), ("GANFIT_PT_expression", "browInnerUp")):
        panels(blender, panel)
        before, shape = blender.ask(f"{keys}[{name!r}].value"), blender.ask("head_points()")
        blender.drag(f'"{name}"', 90)
        expect(blender, f"{name} has moved", f"abs({keys}[{name!r}].value - {before}) > 0.05")
        value, moved = blender.ask(f"{keys}[{name!r}].value"), blender.ask("head_points()")
        report["sliders"][name] = [before, value]
        if max(abs(a - b) for a, b in zip(shape, moved)) < 1e-4:
            raise Failed(f"{name} went from {before} to {value}, but no vertex moved.")
        blender.shot(name)
    blender.key("ctrl+z")
    expect(blender, "undo of the slider", f"abs({keys}[{name!r}].value - {before}) < 1e-5")


def sculpt(job: dict, blender: Blender, report: dict) -> None:
    """Prepare for Sculpt and back: the mode, the copy with the skin's colours, and the head as it was.

    Material Preview, to which Prepare for Sculpt turns the view where a graphics card draws, is chosen here.
    """
    panels(blender, "GANFIT_PT_sculpt")
    name, keys = blender.ask(f"({HEAD}.name, len({HEAD}.data.shape_keys.key_blocks))")
    shading = "view_3d()[1].spaces.active.shading"
    before, points = blender.ask(f"({shading}.type, seen_points())")
    blender.click("ganfit.sculpt_prepare")
    expect(blender, "sculpt mode", "bpy.context.mode == 'SCULPT'")
    if blender.ask(f"{HEAD}.name") == name:
        raise Failed("Prepare for Sculpt works on the head itself, not on a copy.")
    blender.ask(f"setattr({shading}, 'type', 'MATERIAL')")
    blender.ask("1", timeout=SHADER_S)  # Blender makes its shaders
    (colored,) = blender.wait("the skin's colours in sculpt mode", lambda: skin_colors(blender, points), SHADER_S)
    blender.shot("sculpt")
    blender.ask("object_mode()", timeout=SHADER_S)
    expect(blender, "pictures of object mode", "len(VIEWS) > 2 or view_3d()[1].tag_redraw()", SHADER_S)
    blender.ask("1", timeout=SHADER_S)
    off = blender.wait("the same colours in object mode", lambda: near(blender.colors(points), colored), SHADER_S)
    report["sculpt"] = {"points": len(points), "median difference": off}
    blender.shot("sculpt_object_mode")
    blender.ask(f"setattr({shading}, 'type', {before!r})")
    blender.click("ganfit.sculpt_discard")
    back = f"bpy.context.mode == 'OBJECT' and {HEAD}.name == {name!r} and not {HEAD}.hide_get()"
    expect(blender, "the head is back", back)
    if blender.ask(f"len({HEAD}.data.shape_keys.key_blocks)") != keys:
        raise Failed("The head has lost shape keys to Prepare for Sculpt.")
    blender.shot("sculpt_discarded")


def skin_colors(blender: Blender, points: list) -> list[np.ndarray]:
    """What the window shows at these points, once most of it is no grey, as surfaces without textures are."""
    colors = blender.colors(points)
    return [colors] if np.median(np.ptp(colors, axis=1)) > GREY else []


def near(colors: np.ndarray, others: np.ndarray) -> float:
    """The median difference of two pictures at the same points, 0 where it is too large."""
    off = float(np.median(np.abs(colors - others)))
    return max(off, 1e-9) if off < SAME_COLOR else 0.0


def hair(job: dict, blender: Blender, report: dict) -> None:
    """Add Hair opens a menu of cuts, one is chosen, strands stand on the head; Remove Hair takes them away."""
    panels(blender, "GANFIT_PT_result", "GANFIT_PT_hair")
    strands = "[thing.name for thing in bpy.data.objects if 'ganfit_hair' in thing]"
    x, y = blender.find("ganfit.studio")
    y += 2.6 * blender.ask("row_height()")  # a menu's button has no operator that it could be found by
    for attempt in range(3):
        blender.mouse(x, y, "sleep", "0.5", "click", "1", "sleep", "2.0")
        blender.shot(f"cuts_{attempt}")
        subprocess.run(["xdotool", "key", "s"], check=True, timeout=20)  # Short, by its underlined letter
        time.sleep(5.0)
        if blender.ask(strands):
            break
    expect(blender, "the strands", strands)
    time.sleep(3.0)
    blender.shot("strands")
    blender.click("ganfit.remove_hair")
    expect(blender, "the strands are gone", f"not {strands}")


def pin(job: dict, blender: Blender, report: dict) -> None:
    """Edit Landmarks opens an image editor with the photo; one point is dragged there by mouse."""
    panels(blender, "GANFIT_PT_photos")
    before = set(windows())
    blender.click("ganfit.pins_edit")
    expect(blender, "the landmarks", f"{OVERLAY}.current() is not None", 30)
    time.sleep(3.0)
    place = blender.ask("landmark_place(61)")
    window = next((w for w in windows() if w not in before), blender.window)
    x, y = place["x"], place["height"] - place["y"]
    blender.shot("landmarks")
    subprocess.run(["xdotool", "mousemove", "--sync", "--window", window, str(round(x)), str(round(y)), "sleep", "0.6",
                    "mousedown", "1", "sleep", "0.3", "mousemove_relative", "--sync", "--", "-12", "8", "sleep", "0.3",
                    "mousemove_relative", "--sync", "--", "-12", "8", "sleep", "0.3", "mouseup", "1"], check=True,
                   timeout=30)
    pins = "[(p.index, p.x, p.y) for t in bpy.data.objects for v in t.ganfit_views for p in v.pins]"
    report["pins"] = expect(blender, "the pin", pins)
    time.sleep(1.0)
    blender.shot("pin")
    if len(report["pins"]) != 1 or report["pins"][0][0] != 61:
        raise Failed(f"The point that was dragged is not the pin: {report['pins']}")
    subprocess.run(["xdotool", "key", "Escape"], check=True, timeout=20)
    expect(blender, "the end of editing", f"{OVERLAY}.current() is None")
    if window != blender.window:
        blender.quit(window)
        expect(blender, "one window", "len(bpy.context.window_manager.windows) == 1")
    time.sleep(1.0)


def fit_again(job: dict, blender: Blender, report: dict) -> None:
    """Fit Again: a second version with the pin; the first one stays, hidden."""
    blender.click("ganfit.refit")
    expect(blender, "the job runs", "job()['running']")
    job_ends(blender, "Fit Again")
    people = blender.ask(PEOPLE)
    blender.shot("fitted_again")
    if [hidden for _, hidden in people] != [True, False]:
        raise Failed(f"After Fit Again there are not a hidden and a shown version: {people}")
    if blender.ask(f"sum(len(view.pins) for view in {HEAD}.ganfit_views)") != 1:
        raise Failed("The pin did not come along to the new version.")


def folder(job: dict, blender: Blender, report: dict) -> None:
    """A folder of two people and a file that is no photo: two heads, and the table says why the third has failed."""
    people = Path(job["profile"]) / "people"
    people.mkdir()
    photo = Path(job["photo"])
    for name in ("ann", "ben"):
        shutil.copyfile(photo, people / f"{name}{photo.suffix}")
    (people / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    before = len(blender.ask(PEOPLE))
    blender.ask(f"(TICKS.clear(), setattr({SCENE}.ganfit, 'folder', {str(people)!r}))")
    panels(blender, "GANFIT_PT_batch")
    blender.click("ganfit.batch")
    expect(blender, "the table", ROWS, 120)
    expect(blender, "someone runs", "'running' in [row.state for row in bpy.context.window_manager.ganfit_batch.rows]",
           FIT_S)
    blender.scroll(down=True)
    blender.shot("folder_runs")
    job_ends(blender, "Reconstruct Folder")
    time.sleep(2.0)
    blender.scroll(down=True)  # brings the table into the picture
    blender.shot("folder")
    found = {name: (state, text) for name, state, text in blender.ask(ROWS)}
    states = {name: state for name, (state, _) in found.items()}
    if states != {"ann": "done", "ben": "done", "broken": "failed"} or "damaged" not in found["broken"][1]:
        raise Failed(f"The table of the folder: {found}")
    added = len(blender.ask(PEOPLE)) - before
    if added != 2:
        raise Failed(f"The folder has brought {added} heads into the scene, not two.")
    check_ticks(blender, report, "folder ticks", HEAD_TICK_LIMIT_S)


def kill_worker(job: dict, blender: Blender, report: dict) -> None:
    """The worker is killed in the middle of a fit: a sentence in the panel, an unchanged scene; the next job works."""
    panels(blender, "GANFIT_PT_result")
    before = len(blender.ask(PEOPLE))
    blender.scroll(down=False)
    blender.click("ganfit.reconstruct")
    expect(blender, "the fit", "job()['stage'] == 'fit' and job()['step'] > 0", FIT_S)
    worker = blender.ask("session()._worker.pid")
    os.kill(int(worker), 9)
    expect(blender, "the job ends with its worker", "not job()['running']", 60)
    time.sleep(1.0)
    blender.shot("killed")
    done = blender.ask("job()")
    if "in the middle of the job" not in done["error"] or len(blender.ask(PEOPLE)) != before:
        raise Failed(f"After the worker was killed: {done}")
    blender.click("ganfit.reconstruct")
    expect(blender, "the job runs", "job()['running']")
    job_ends(blender, "The job after the killed one")
    if blender.ask("session()._worker.pid") == worker or len(blender.ask(PEOPLE)) != before + 1:
        raise Failed("The job after the killed one brought no head by a new worker.")
    time.sleep(1.0)
    blender.shot("next_job")


def close(blender: Blender, process: subprocess.Popen) -> None:
    """The window is closed while the worker is warm: Blender ends, and the worker with it."""
    worker = int(blender.ask("session()._worker.pid"))
    blender.ask("show_panels()")
    blender.quit(blender.window)
    try:
        status = process.wait(60)
    except subprocess.TimeoutExpired as error:
        blender.shot("open")
        raise Failed("Blender did not end within a minute after its window was closed.") from error
    if status:
        raise Failed(f"Blender ended with exit status {status}.")
    end = time.monotonic() + 15
    while Path(f"/proc/{worker}").exists():
        if time.monotonic() > end:
            raise Failed("The worker has outlived Blender.")
        time.sleep(0.2)
