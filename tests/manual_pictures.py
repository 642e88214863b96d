# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the manual's pictures from the sample photo: `.env/backend/bin/python tests/manual_pictures.py [--fresh]`.

Fits and renders are kept in out/manual and made once; `--fresh` makes them anew. What ships is written to
ganfit_blender/manual/pictures. It needs what `python3 build.py run` sets up; the panel's pictures come from
`python3 build.py gui-test` (out/gui) where that was run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build  # noqa: E402
from backend import Options, reconstruct  # noqa: E402
from backend.pipeline import Models  # noqa: E402

WORK = ROOT / "out" / "manual"
PICTURES = ROOT / "ganfit_blender" / "manual" / "pictures"
SAMPLES = 48
BYTES = 115_000
"""Every picture is saved in the best quality that fits."""
GAP = 6
HEAD, TURNED = (0.10, 0.06, 0.88, 0.89), (0.0, 0.06, 0.78, 0.89)
"""Left, top, right, bottom of the part of a studio picture that the head fills, seen from the front and turned."""
WITH_HAIR = (0.08, 0.06, 0.86, 0.89)
"""The same for pictures of hair, which takes more room."""
SCREENSHOTS = {"ready": (873, 105, 1127, 665), "fit": (873, 418, 1127, 800), "head": (873, 418, 1127, 905)}
"""The panel in the gui-test's screenshots (1400 x 1050 pixels), without the row that shows a path."""
LANDMARKS = (500, 140, 860, 470)
"""The face in the picture of the landmarks."""
PANEL_GREY = (48, 48, 48)


def sample() -> Path:
    """NASA's portrait, where `build.py run` keeps it."""
    settings = build.Settings()
    return build.sample_photo(build.backend_environment(settings), settings)


def spoiled(photo: Image.Image) -> dict[str, Image.Image]:
    """The sample as people's photos are: small, overexposed, half covered, black and white."""
    light = (np.asarray(photo) / 255.0) ** 2.2
    bright = Image.fromarray(((np.clip(3.0 * light, 0, 1)) ** (1 / 2.2) * 255).round().astype(np.uint8))
    covered = photo.copy()
    scarf = Image.new("RGB", (170, 90), (40, 60, 110)).rotate(4, expand=True, fillcolor=(40, 60, 110))
    covered.paste(scarf.filter(ImageFilter.GaussianBlur(1)), (140, 150))
    small = photo.resize((photo.width * 60 // 110, photo.height * 60 // 110), Image.Resampling.LANCZOS)
    return {"whole": photo, "small": small, "bright": bright, "covered": covered, "grey": photo.convert("L")}


def fits(photo: Path) -> None:
    """The sample's fit, and drafts of the spoiled ones."""
    models = Models()
    jobs = {"astronaut": (photo, "standard")}
    for name, picture in spoiled(Image.open(photo).convert("RGB")).items():
        picture.save(WORK / f"{name}.png")
        jobs[name] = (WORK / f"{name}.png", "draft")
    for name, (path, preset) in jobs.items():
        if not (WORK / name / "result.json").is_file():
            print(f"Fitting {name} ({preset}) ...", flush=True)
            reconstruct([path], Options(preset=preset, out=str(WORK / name)), models=models)


def renders() -> Path:
    """The folder with Blender's pictures of the fit, made once for one fit."""
    folder, bundle = WORK / "renders", WORK / "astronaut"
    if not (folder / "wires.png").is_file():
        folder.mkdir(exist_ok=True)
        job = {"bundle": str(bundle), "out": str(folder), "samples": SAMPLES}
        python = build.Environment(build.ENV / "blender", Path(sys.executable)).python
        script = ROOT / "tests" / "blender_scripts" / "manual_renders.py"
        subprocess.run([python, script, json.dumps(job)], check=True)
    return folder


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture cut about its middle and scaled to a size, transparency over white."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    factor = max(size[0] / picture.width, size[1] / picture.height)
    large = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)
    x, y = (large.width - size[0]) // 2, (large.height - size[1]) // 2
    return large.crop((x, y, x + size[0], y + size[1]))


def sheet(pictures: list[Image.Image], size: tuple[int, int], columns: int) -> Image.Image:
    """Pictures of one size in rows, with white gaps."""
    rows = -(-len(pictures) // columns)
    width, height = size[0] + GAP, size[1] + GAP
    out = Image.new("RGB", (columns * width - GAP, rows * height - GAP), "white")
    for number, picture in enumerate(pictures):
        out.paste(fitted(picture, size), (number % columns * width, number // columns * height))
    return out


def screenshot(folder: Path, name: str) -> Image.Image:
    """One of gui-test's pictures; it numbers them."""
    (path,) = folder.glob(f"*_{name}.png")
    return Image.open(path).convert("RGB")


def panels(folder: Path) -> Image.Image:
    """The panel before, during and after a fit, side by side."""
    parts = [screenshot(folder, name).crop(box) for name, box in SCREENSHOTS.items()]
    size = parts[0].size
    for number, part in enumerate(parts):
        parts[number] = Image.new("RGB", size, PANEL_GREY)
        parts[number].paste(part, (0, 0))
    return sheet(parts, size, len(parts))


def save(picture: Image.Image, name: str) -> None:
    """Writes a JPEG for the manual, of at most `BYTES`."""
    path = PICTURES / f"{name}.jpg"
    for quality in range(90, 40, -3):
        picture.convert("RGB").save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= BYTES:
            break
    print(f"{path.relative_to(ROOT)}  {picture.size}  {path.stat().st_size / 1000:.0f} kB")


def cells(name: str) -> list[Image.Image]:
    """Photo, fit and albedo out of a fit's contact sheet."""
    picture = Image.open(WORK / name / "sheet.jpg")
    side = picture.width // 8
    return [picture.crop((i * side, picture.height - side, (i + 1) * side, picture.height)) for i in (0, 1, 5)]


def matched(photo: Path, folder: Path) -> list[Image.Image]:
    """The photo around the face, and the same with the render of *Match Photo* over it."""
    box, render = json.loads((folder / "match.json").read_text("utf-8")), Image.open(folder / "match.png")
    around = Image.open(photo).convert("RGB").resize(render.size, Image.Resampling.LANCZOS, box=box)
    return [around, Image.alpha_composite(around.convert("RGBA"), render.convert("RGBA"))]


def main() -> None:
    """Fits, renders, pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="make fits and renders anew")
    if parser.parse_args().fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    photo = sample()
    fits(photo)
    folder = renders()

    def studio(name: str, part: tuple[float, ...] = HEAD) -> Image.Image:
        picture = Image.open(folder / f"{name}.png")
        return picture.crop(tuple(round(a * b) for a, b in zip(part, picture.size * 2, strict=True)))

    face = Image.open(photo).convert("RGB").crop((112, 8, 336, 288))
    sides = [studio(name, TURNED) for name in ("three_quarter", "wires")]
    save(sheet([face, studio("front"), *sides], (320, 400), 4), "photo_to_head")
    save(sheet(matched(photo, folder), (400, 400), 2), "match_photo")
    expressions = sorted(path.stem for path in folder.glob("expression_*.png"))
    save(sheet(list(map(studio, expressions)), (220, 275), 4), "expressions")
    cuts = sorted(path.stem for path in folder.glob("hair_*.png"))
    save(sheet([studio(cut, WITH_HAIR) for cut in cuts], (240, 320), 4), "hair")
    contact = Image.open(WORK / "astronaut" / "sheet.jpg")
    save(contact.resize((1600, round(1600 * contact.height / contact.width)), Image.Resampling.LANCZOS), "sheet")
    rows = zip(*(cells(name) for name in spoiled(face)), strict=True)
    save(sheet([cell for row in rows for cell in row], (200, 200), 5), "quality")
    for shots in (ROOT / "out" / "gui").glob("*"):
        if list(shots.glob("*_next_job.png")):  # the last one: the session went to its end
            save(panels(shots), "panel")
            save(screenshot(shots, "landmarks").crop(LANDMARKS), "landmarks")


if __name__ == "__main__":
    main()
