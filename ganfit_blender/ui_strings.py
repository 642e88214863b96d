# SPDX-License-Identifier: GPL-3.0-or-later
"""Every label, tooltip and sentence of the interface, keyed by id."""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """A label and its tooltip."""

    label: str
    tip: str


TEXTS: dict[str, Text] = {
    # operators
    "reconstruct": Text(
        "Reconstruct from Photo",
        "Make a head with texture, expressions, camera and lights from the photos. Blender can be used meanwhile",
    ),
    "batch": Text(
        "Reconstruct Folder",
        "Make a head of every photo in the folder, and one of each subfolder's photos together. "
        "Run it again to go on: what is there is not done twice",
    ),
    "cancel": Text("Cancel", "Stop the running job. What the scene holds stays as it is"),
    "import_result": Text("Import Result...", "Import the folder of an earlier result, with result.json and head.npz"),
    "setup": Text(
        "Set Up",
        "Install the backend into a folder of its own. Nothing of Blender's own Python is changed",
    ),
    "check": Text("Show Licences", "Start the backend and list its networks and data with their licences"),
    "open_log": Text("Open Log", "Show the backend's messages in Blender's text editor"),
    "photos_add": Text("Add Photos...", "Choose photos of one person. Several photos make one head from all of them"),
    "photo_move": Text("Move", "Change the order. The first photo's expression, camera and lights are shown first"),
    "pins_edit": Text(
        "Edit Landmarks",
        "Show the photo with the landmarks that were found in it. Drag one that is wrong to where it belongs: it "
        "becomes a pin, which the head has to meet when it is fitted again",
    ),
    "pins_clear": Text("Remove Pins", "Forget all landmarks of this head that were put right by hand"),
    "refit": Text(
        "Fit Again",
        "Fit this head again, beginning where it is: to the pins, to the photos that are switched on, with their focal "
        "lengths and the quality chosen above. The old version stays, hidden",
    ),
    "photo_remove": Text("Remove", "Take this photo off the list. The file stays where it is"),
    "match_photo": Text(
        "Match Photo",
        "Look through the photo's camera under the photo's lights, with everything else hidden. "
        "Press again to put back what was there",
    ),
    "studio": Text(
        "Studio",
        "Light the head with three area lamps before a grey backdrop and look through a portrait camera. "
        "Press again to put back what was there",
    ),
    "sculpt_prepare": Text(
        "Prepare for Sculpt",
        "Make a multires copy of the neutral head and sculpt on it. The head itself keeps its shape keys and is only "
        "hidden, so nothing is lost. Press again to lay the skin's colours over the shape as it is by then",
    ),
    "sculpt_levels": Text("Levels", "How often the quads are divided. Each level has four times as many"),
    "show_skin": Text(
        "Show Skin",
        "Show the skin's colours while sculpting, and turn a solid view to Material Preview. Off, the view stays as it "
        "is, for sculpting on a matcap",
    ),
    "sculpt_transfer": Text(
        "Transfer Sculpt",
        "Carry the sculpted shape to the neutral head and to all its expressions, and remove the copy",
    ),
    "keep_detail": Text("Keep Detail", "Keep what is finer than the head's own vertices as multires on the head"),
    "sculpt_discard": Text("Discard Sculpt", "Remove the sculpted copy and show the head as it was"),
    "sculpt_refit": Text(
        "Refit Texture to Sculpt",
        "Send the sculpted shape to the backend, which keeps it and fits texture, light and camera to the photo again. "
        "The result is imported as a new version; the old one stays, hidden",
    ),
    "neutral": Text("Neutral", "Set all expressions to zero"),
    "as_in_photo": Text("As in Photo", "Give the head the expression that it has in the photo"),
    "view": Text("Photo", "Number of the photo, beginning with 0"),
    "mirror_weights": Text("Mirror Weights", "Exchange the expression of the left and the right side"),
    "reset_shape": Text("Reset Shape", "Set all shape components to zero: the head as it was fitted"),
    "import_capture": Text(
        "Import Capture...",
        "Make an action from a CSV recording of Live Link Face, or of any file with ARKit's names in its first line",
    ),
    "capture_fps": Text("Frames a Second", "Rate of the recording, which its timecode counts in"),
    "capture_start": Text("Start Frame", "Frame at which the recording begins"),
    "move_head": Text("Head Rotation", "Turn the head object as the recorded head turned"),
    "invert_yaw": Text("Invert Yaw", "Turn to the other side. Recordings in landscape orientation need it"),
    "invert_pitch": Text("Invert Pitch", "Nod the other way. Recordings in landscape orientation need it"),
    "eye_target": Text(
        "Eye Target",
        "Add an empty that both eyes look at, with the lids following. The eyeLook expressions stay free on top of it. "
        "Press again to remove it",
    ),
    "paint_skin": Text(
        "Paint Skin", "Paint on the skin's texture. It is kept in the .blend, so the result's folder stays as it is"
    ),
    "add_body": Text(
        "Add Body",
        "Put the head on MakeHuman's whole body. It has MakeHuman's vertices in MakeHuman's order, so that rigs, "
        "clothes and hair of the add-on MPFB fit",
    ),
    "gender": Text("Body", "0 is the average female, 1 the average male body. The head stays as it is"),
    "body_units": Text("Units", "What one unit of the scene is"),
    "body_units.METERS": Text("Meters", "MPFB's usual choice"),
    "body_units.DECIMETERS": Text("Decimeters", "MakeHuman's own: ten times larger"),
    "feet_on_ground": Text(
        "Feet on Ground", "Raise the body until it stands at height 0. The photo's camera then no longer fits"
    ),
    "remove_body": Text("Remove Body", "Take the body away and show the head's own skin again"),
    "attach_to_rig": Text(
        "Attach to Rig", "Hang eyes, teeth, tongue and lashes on the head bone of the rig that MPFB has given the body"
    ),
    "add_hair": Text(
        "Add Hair",
        "Grow strands on the scalp, in the colour that the photo shows over the forehead, or else the brows'. They "
        "follow expressions, shape and pose, and hide the photo's hair while they are there. Strands are Blender's own "
        "curves: they are not part of what Export writes",
    ),
    "cut": Text("Cut", "The haircut. What is there is replaced"),
    "cut.buzz": Text("Buzz", "A few millimetres everywhere"),
    "cut.short": Text("Short", "Short sides, longer on top, the front to the side"),
    "cut.back": Text("Brushed Back", "Longer on top, combed back from the forehead"),
    "cut.side": Text("Side Parting", "Longer on top, parted on the left"),
    "cut.bob": Text("Bob", "Down to the chin, parted, over the ears"),
    "hair_length": Text("Length", "Share of the cut's own length"),
    "hair_count": Text("Strands", "How many strands; about a tenth fewer are made, since the hairline thins out"),
    "hair_seed": Text("Seed", "Start of the random draws: another seed is another head of hair of the same cut"),
    "remove_hair": Text(
        "Remove Hair", "Take the strands away and show the photo's hair again; the shade on the scalp stays"
    ),
    "photo_hair": Text(
        "Photo's Hair",
        "Show or hide the hair that stands off the head, the object Hair. Export writes it while it is shown",
    ),
    "photo_glasses": Text(
        "Photo's Glasses", "Show or hide the glasses, the object Glasses. Export writes them while they are shown"
    ),
    "export": Text(
        "Export",
        "Write head, eyes, teeth, tongue, lashes and the photo's hair and glasses with their textures, and ARKit's "
        "expressions as morph targets (OBJ: the expression as it is). Shape sliders are baked in",
    ),
    "export_kind": Text("Format", "The kind of file"),
    "export_kind.GLB": Text("GLB", "glTF 2.0 in one file: web, Unreal, Unity, Godot"),
    "export_kind.FBX": Text("FBX", "Unreal, Unity, Maya and others; textures inside"),
    "export_kind.OBJ": Text("OBJ", "Geometry and textures alone, in the present expression"),
    "export_kind.USD": Text("USD", "OpenUSD with blend shapes; textures in a folder beside"),
    "export_level": Text(
        "Smoothing",
        "How often the quads are divided: 0 for games, 1 as the fit sees it. Sculpted detail is in the mesh as far as "
        "the level holds it: take the sculpt's own level for all of it; at 0 only the large forms are. Above 3 there "
        "are no morph targets, only the expression as it is",
    ),
    "mark_asset": Text(
        "Mark as Asset",
        "Put this head into the asset browser with a preview, tags and its licences. Press again to take it out",
    ),
    "manual": Text("Manual", "Open a page of the manual in Blender's text editor"),
    "manual_page": Text("Page", "Which page of the manual"),
    "manual_page.blender": Text("In Blender", "Every button of the panel, task by task"),
    "manual_page.quality": Text("Good Photos", "What makes a good photo, and what goes wrong with others"),
    "manual_page.troubleshooting": Text("Troubleshooting", "Every error: what it means and what to do"),
    "manual_page.how_it_works": Text("How It Works", "Model, energy and refinement, with formulas and numbers"),
    "manual_page.command_line": Text("Command Line", "Without Blender: terminal, Python, batches, training"),
    "manual_code": Text("Code", "Code of an error, at whose entry the page is opened"),
    "dismiss": Text("Dismiss", "Remove this message"),
    "preferences": Text("Preferences", "Open the add-on's preferences"),
    # settings of the scene
    "photo": Text("Photo", "A photo of one face, sharp and well lit, from the front or half from the side"),
    "photos": Text("Photos", "Photos of one person"),
    "use_photo": Text("Use", "Whether this photo counts"),
    "focal": Text(
        "Focal Length (35 mm)",
        "Focal length in mm on 35 mm film, from the photo's EXIF where it has one. 0: not known, found by the fit",
    ),
    "pin": Text("Pin", "A landmark that was put right by hand"),
    "pins": Text("Pins", "Landmarks of this photo that were put right by hand, in pixels"),
    "preset": Text("Quality", "How much work is put into the head"),
    "preset.draft": Text("Draft", "A quick look"),
    "preset.standard": Text("Standard", "Good quality in about a minute"),
    "preset.best": Text("Best", "Takes several times as long as Standard"),
    "basis": Text("Shape Model", "The statistics of head shapes that the fit uses"),
    "basis.makehuman": Text("MakeHuman", "Principal components of MakeHuman heads, calibrated on real people (CC0)"),
    "basis.ict": Text("ICT-FaceKit", "Light-stage modes of ICT-FaceKit (MIT). Has to be installed first"),
    "device": Text("Device", "What the fit runs on"),
    "device.auto": Text("Automatic", "The graphics card where there is a fitting one, else the processor"),
    "device.cpu": Text("Processor", "Runs everywhere"),
    "device.cuda": Text("CUDA", "NVIDIA graphics card. Needs the CUDA variant of the backend"),
    "seed": Text("Seed", "Start of the random draws. The same seed and photo give the same head"),
    "output": Text("Output", "Folder for the results. Empty: the extension's own user folder"),
    "folder": Text("Folder", "Every photo in it is a person, every subfolder a person seen in several photos"),
    "arrange": Text("Arrange", "How the heads of a folder come into the scene"),
    "arrange.grid": Text("Grid", "Each head in a collection of its own, side by side"),
    "arrange.linked": Text("Linked", "Each head in a .blend file of its own beside its result, linked, side by side"),
    "people": Text("People", "Everyone in the folder and how far it is with them"),
    "state": Text("State", "Whether this person waits, runs, is done or has failed"),
    "state_text": Text("Reason", "Why this person has failed, or what was odd"),
    # preferences
    "python_path": Text("Python", "Python of an environment that has the backend. Empty: what Set Up has made"),
    "base_python": Text("Base Python", "Python 3.11 to 3.14 that Set Up starts. Empty: Blender's or the system's"),
    "compute": Text("Variant", "Which build of PyTorch is installed"),
    "compute.cpu": Text("CPU", "Works everywhere"),
    "compute.cuda": Text("CUDA", "For NVIDIA graphics cards, larger"),
    "index_url": Text("Package Index", "Address of a package index. Empty: pip's own and PyTorch's"),
    "wheel_folder": Text("Wheel Folder", "Folder with all packages as wheels, to set up without internet"),
    "cache": Text("Cache", "Folder for the networks and the head's data. Empty: the extension's own user folder"),
    # panels
    "panel": Text("GANFIT", ""),
    "panel.photos": Text("Photos of this Head", ""),
    "panel.batch": Text("Folder", ""),
    "panel.result": Text("Result", ""),
    "panel.expression": Text("Expression", ""),
    "panel.shape": Text("Shape", ""),
    "panel.sculpt": Text("Sculpt", ""),
    "panel.look": Text("Look", ""),
    "scatter": Text("Scatter (mm)", ""),
    "pores": Text("Pore Depth (mm)", ""),
    "specular": Text("Shine", ""),
    "hair": Text("Cropped Hair", ""),
    "hair_color": Text("Hair Color", ""),
    "panel.hair": Text("Hair and Glasses", ""),
    "hair_left": Text("Length", "How much of every strand is left: hair can be cut at any time, and grows again"),
    "hair_thickness": Text("Thickness", "Thickness of the strands, as a share of their own"),
    "melanin": Text("Melanin", ""),
    "redness": Text("Melanin Redness", ""),
    "panel.rig": Text("Eyes and Body", ""),
    "panel.export": Text("Export and Licences", ""),
    "brows": Text("Brows", ""),
    "eyes": Text("Eyes", ""),
    "cheeks": Text("Cheeks and Nose", ""),
    "jaw": Text("Jaw and Tongue", ""),
    "mouth": Text("Mouth", ""),
}

STAGES: dict[str, str] = {
    "start": "Starting the backend",
    "photos": "Reading the photos",
    "models": "Loading the networks",
    "face": "Finding the face",
    "align": "Aligning",
    "fit": "Fitting",
    "refine": "Refining the skin",
    "bundle": "Writing the result",
    "import": "Building the head",
    "python": "Looking for Python",
    "venv": "Making the environment",
    "pip": "Installing packages",
    "assets": "Installing networks and data",
}

MESSAGES: dict[str, str] = {
    "not_set_up": "The backend is not set up yet.",
    "setup_size": "{size}, in {place}",
    "setup_licences": "Networks and head data: CC0, Apache-2.0. Packages: BSD, MIT, Apache-2.0. Results may be sold.",
    "offline": "Blender's online access is off: allow it in Preferences > System, or choose a wheel folder.",
    "cancelling": "Cancelling",
    "finished": "{name} is in the scene.",
    "switch_on": "Switch at least one photo on.",
    "no_file": "no file",
    "pins_help": "Drag a blue point that lies wrong (a corner of the mouth, a lid, the nose) to where it belongs: "
    "it becomes an orange pin. X: remove it. Esc: done. Then press Fit Again",
    "batch_done": "{done} heads are done, {failed} failed. The table is in {place}.",
    "state.waiting": "waiting",
    "state.running": "running",
    "state.done": "done",
    "state.skipped": "done before",
    "state.failed": "failed",
    "state.cancelled": "cancelled",
    "setup_done": "The backend is set up.",
    "cancelled": "Cancelled.",
    "seconds_left": "{seconds} s left",
    "minutes_left": "{minutes} min {seconds:02d} s left",
    "ready": "The backend is set up in {place}.",
    "no_assets": "Press Show Licences to list the networks and data with their licences.",
    "sellable": "results may be sold",
    "not_sellable": "results may not be sold",
    "not_installed": "not installed",
    "matched_hidden": "Everything else in the scene is hidden while Match Photo is on.",
    "busy": "Another job is running.",
    "no_keys": "This head has no shape keys any more.",
    "no_sculpt": "Press Prepare for Sculpt first.",
    "no_shapes": "This result has no shape components: it was made by an earlier version.",
    "sculpting": "{name} is ready to be sculpted; the head is hidden.",
    "sculpt_transferred": "The sculpt is in all expressions; it moves the head by up to {millimetres:.1f} mm.",
    "captured": "The capture lies on frames {first} to {last}.",
    "head_hidden": "The head is hidden, or a sculpt or a body stands in its place.",
    "linked": "This head is linked from another file. Make it local first: Object > Relations > Make Local, All.",
    "no_material": "The head has no material to paint on.",
    "body_first": "Remove the body first: it is made from the head's shape.",
    "has_body": "This head has a body already.",
    "no_hair": "Press Add Hair first.",
    "no_photo_hair": "This head has no hair that stands off it.",
    "no_photo_glasses": "This head has no glasses.",
    "no_body": "Press Add Body first.",
    "body_added": "{name} is in the scene; the head's own skin is hidden and drives its expressions.",
    "attached": "Eyes and teeth hang on the bone {bone}.",
    "follow": "Follow",
    "exported": "Written: {path}",
    "may_sell": "May I sell this?",
    "sell.yes": "Yes, by the licences of all that it was made with:",
    "sell.no": "No: not all that it was made with allows it.",
    "sell.unknown": "Not known yet. Show Licences asks the backend.",
    "likeness": "The person in the photo and the photographer have rights of their own: ask them.",
    "no_person": "There is no head of ours in the scene.",
}


def label(key: str) -> str:
    """The label of an id."""
    return TEXTS[key].label


def tip(key: str) -> str:
    """The tooltip of an id."""
    return TEXTS[key].tip


def items(group: str) -> list[tuple[str, str, str]]:
    """The items of an enumeration, in the order of the table: the ids that begin with `group.`."""
    prefix = f"{group}."
    return [(key[len(prefix) :], *text) for key, text in TEXTS.items() if key.startswith(prefix)]


def stage(name: str) -> str:
    """The sentence for a stage of a job; an unknown stage is shown as it is."""
    person, colon, rest = name.rpartition(": ")  # a batch's stages have the person's name before them
    return person + colon + STAGES.get(rest, rest.replace("_", " ").capitalize())


def time_left(seconds: float | None) -> str:
    """`45 s left`, `2 min 05 s left`, or nothing."""
    if seconds is None:
        return ""
    whole = max(1, round(seconds))
    if whole < 60:
        return MESSAGES["seconds_left"].format(seconds=whole)
    return MESSAGES["minutes_left"].format(minutes=whole // 60, seconds=whole % 60)
