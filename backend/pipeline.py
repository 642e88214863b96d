# SPDX-License-Identifier: GPL-3.0-or-later
"""How a photo becomes a head: decode, find the face, align, fit, assemble, write."""
import importlib.metadata
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend import assets, glb
from backend.assemble import Assembled, assemble, full_render, jpeg, map_pixels, png
from backend.bundle import (
    ALBEDO,
    GENERATOR,
    GLASSES,
    HAIR,
    HAIR_SHELL,
    NORMAL,
    ROUGHNESS,
    Bundle,
    check_output,
    read_bundle,
    write_bundle,
)
from backend.errors import GanfitError
from backend.fit.align import align, initial_parameters
from backend.fit.config import PRESETS, FitConfig
from backend.fit.fit import FitJob, FitTrace, fit, fit_together
from backend.fit.metric import metric_scale
from backend.fit.parameters import FitParameters, camera_of
from backend.fit.person import Person
from backend.fit.views import View, expression_stiffness, prepare_view
from backend.head.model import load_head
from backend.networks.detector import FaceDetector
from backend.networks.identity import load_identity
from backend.networks.landmarks import load_landmarks
from backend.options import Options
from backend.photo import Photo, load_photo
from backend.render.raster import cuda_problem, get_rasterizer
from backend.render.shell import Shell
from backend.sheet import contact_sheet, overlay
from backend.texture.generator import load_generator

TEXTURE_SIZE = 512
PACKERS = 4
"""Threads that pack a bundle's pictures."""
SHAPE_SLIDERS = 10
"""Leading identity components that the bundle carries as directions, for sliders in Blender."""
PACKAGES = ("torch", "numpy", "scipy", "pillow", "safetensors")
Report = Callable[[str, int, int, dict[str, float], float | None, Path | None], None]


@dataclass
class Models:
    """Networks and head models that stay loaded between jobs; each is made on first use."""

    kept: dict[tuple, object] = field(default_factory=dict)

    def get(self, key: tuple, make: Callable[[], object]) -> object:
        """The object under this key, made once."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def person(self, options: Options, device: torch.device) -> Person:
        """Head model, texture generator and rasteriser."""
        def make() -> Person:
            head = load_head(options.basis, device)
            generator = load_generator(options.generator, device)
            return Person(head, generator, get_rasterizer(device))
        return self.get(("person", options.basis, options.generator, str(device)), make)

    def detector(self) -> FaceDetector:
        """The face detector."""
        return self.get(("detector",), FaceDetector)

    def landmarks(self, options: Options, device: torch.device) -> torch.nn.Module:
        """The landmark network."""
        return self.get(("landmarks", options.landmarks, str(device)),
                        lambda: load_landmarks(options.landmarks).to(device))

    def identity(self, options: Options, device: torch.device) -> torch.nn.Module:
        """The identity network."""
        return self.get(("identity", options.identity, str(device)),
                        lambda: load_identity(options.identity).to(device))


class Timeline:
    """Stages, their seconds, the report of progress and the preview picture."""

    def __init__(self, report: Report | None, folder: Path):
        self.report, self.folder, self.seconds = report, folder, {}
        self._stage, self._start, self._fit_start = "", time.perf_counter(), 0.0
        self._preview: Path | None = None

    def branch(self) -> "Timeline":
        """One for somebody who shared all stages so far, with the seconds that these took all together."""
        self.stage("")
        other = Timeline(self.report, self.folder)
        other.seconds = dict(self.seconds)
        return other

    def stage(self, name: str) -> None:
        """Ends the running stage and begins another."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._start
        self._stage, self._start = name, now
        if self.report and name:
            self.report(name, 0, 1, {}, None, None)

    def fit_step(self, step: int, steps: int, losses: dict[str, float], rendered: torch.Tensor | None) -> None:
        """One iteration of the fit."""
        if self.report is None:
            return
        preview = None
        if rendered is not None:
            # Two files in turn: whoever shows the last one never reads a half-written picture.
            preview = self.folder / f"preview_{step // 10 % 2}.jpg"
            picture = np.concatenate(list((rendered.clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()), 1)
            Image.fromarray(picture).save(preview, quality=85)
        left = (time.perf_counter() - self._start) / step * (steps - step)
        self.report("fit", step, steps, losses, left, preview)


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where networks and rasteriser can run on it. Raises GanfitError: device_unavailable."""
    problem = cuda_problem() if name != "cpu" else ""
    if name == "cuda" and problem:
        raise GanfitError("device_unavailable", problem)
    return torch.device("cpu" if name == "cpu" or problem else "cuda")


def reconstruct(photos: list[str | Path | bytes], options: Options | None = None, progress: Report | None = None,
                cancel: Callable[[], bool] | None = None, models: Models | None = None) -> Bundle:
    """Reconstructs one person's head from photos.

    photos: paths or file contents, all of one person. progress(stage, step, steps, losses, seconds left, preview
    path) is called from this thread; cancel() is asked between iterations. `models` keeps networks loaded between
    calls. With `options.out` the bundle is written there, as a whole or not at all.

    Raises GanfitError with the codes of `backend.errors`.
    """
    if not photos:
        raise GanfitError("no_photo", "No photo was given.")
    models, options = models or Models(), options or Options()
    with tempfile.TemporaryDirectory(prefix="ganfit-") as folder:
        timeline = Timeline(progress, Path(folder))
        ready = prepare(photos, options, models, timeline)
        timeline.stage("fit")
        fit(ready.person, ready.job, ready.identity, ready.mesh, fit_config(options), timeline.fit_step, cancel)
        with ThreadPoolExecutor(PACKERS) as pool:
            return finish(ready, timeline, pool)()


@dataclass
class Ready:
    """One person before the fit, or after it: what `finish` makes the bundle of."""

    options: Options
    device: torch.device
    person: Person
    identity: torch.nn.Module
    mesh: torch.nn.Module
    job: FitJob
    warnings: list[str]


def prepare(photos: list[str | Path | bytes], options: Options, models: Models, timeline: Timeline) -> Ready:
    """Everything before the fit: photos, networks, faces, alignment. Raises GanfitError as `reconstruct`."""
    if options.out is not None:
        check_output(options.out)
    timeline.stage("photos")
    decoded = with_focal([load_photo(p) for p in photos], options.focal_mm)
    timeline.stage("models")
    device = choose_device(options.device)
    person = models.person(options, device)
    identity, mesh = models.identity(options, device), models.landmarks(options, device)
    timeline.stage("face")
    prepared = [prepare_view(p, models.detector(), mesh, options.face) for p in decoded]
    views, warnings = [v for v, _ in prepared], [w for p, (_, ws) in zip(decoded, prepared, strict=True)
                                                  for w in (*p.warnings, *ws)]
    timeline.stage("align")
    job = FitJob(views, align_views(person, views, fit_config(options)), options.seed)
    return Ready(options, device, person, identity, mesh, job, warnings)


def finish(ready: Ready, timeline: Timeline, pool: Executor) -> Callable[[], Bundle]:
    """Everything after the fit, see `start_result`. Raises GanfitError: what the fit left in the job."""
    job = ready.job
    if job.error is not None:
        raise job.error
    timeline.stage("bundle")
    result = describe(ready.person, job.params, job.views, job.trace, ready.options, ready.device, ready.warnings)
    scene = assemble(result, ready.person, ready.device)
    photos = [v.photo.image for v in job.views]
    return start_result(ready.options.out, scene, result, photos, timeline, job.trace, pool)


def reconstruct_together(people: Sequence[tuple[list[str | Path | bytes], Options]], progress: Report | None = None,
                         cancel: Callable[[], bool] | None = None, models: Models | None = None
                         ) -> list[Bundle | Exception]:
    """`reconstruct` for several people whose fits run as one batch: what a GPU is made for.

    people: photos and options of each; the options may differ in `out`, `focal_mm` and `seed`. Returns for each the
    bundle, or what went wrong with it. progress: as in `reconstruct`, of all together.

    Raises GanfitError: cancelled, bad_option.
    """
    models, found = models or Models(), dict[int, Bundle | Exception]()
    common = {options.replace(out=None, focal_mm=None, seed=0) for _, options in people}
    if len(common) != 1:
        raise GanfitError("bad_option", "People that are fitted together need the same options.")
    with tempfile.TemporaryDirectory(prefix="ganfit-") as folder:
        timeline = Timeline(progress, Path(folder))
        ready: dict[int, Ready] = {}
        for number, (photos, options) in enumerate(people):
            if cancel is not None and cancel():
                raise GanfitError("cancelled", "The reconstruction was cancelled.")
            try:
                ready[number] = prepare(photos, options, models, timeline)
            except Exception as error:  # one bad photo never stops the rest
                found[number] = error
        timeline.stage("fit")
        if ready:
            first = next(iter(ready.values()))
            fit_together(first.person, [r.job for r in ready.values()], first.identity, first.mesh,
                         fit_config(first.options), timeline.fit_step, cancel)
        with ThreadPoolExecutor(PACKERS) as pool:  # it packs one person's files while the next one's are drawn
            packing = deque[tuple[int, Callable[[], Bundle]]]()
            for number, one in ready.items():
                try:
                    packing.append((number, finish(one, timeline.branch(), pool)))
                except Exception as error:
                    found[number] = error
                while len(packing) > PACKED_AHEAD:
                    found.update([written(*packing.popleft())])
            found.update(written(*one) for one in packing)
    return [found[number] for number in range(len(people))]


def written(number: int, wait: Callable[[], Bundle]) -> tuple[int, Bundle | Exception]:
    """A person's number with the bundle that is waited for, or what went wrong with it."""
    try:
        return number, wait()
    except Exception as error:
        return number, error


PACKED_AHEAD = 2
"""People whose files may wait to be packed while others are drawn: they are held in memory."""
TOGETHER_ON_GPU = 16
"""People of a folder that a GPU fits at once."""


def people_at_once(options: Options) -> int:
    """How many people a batch fits together by itself: 1 on a CPU, whose cores one fit keeps busy."""
    return 1 if choose_device(options.device).type == "cpu" else TOGETHER_ON_GPU


def fit_config(options: Options) -> FitConfig:
    """The preset, with the iterations that the options ask for."""
    config = PRESETS[options.preset]
    return config if options.iterations is None else config.with_iterations(options.iterations)


def with_focal(photos: list[Photo], focal_mm: Sequence[float | None] | None) -> list[Photo]:
    """The photos with focal lengths (35 mm equivalent) given by a person: None leaves EXIF's, 0 leaves it open.

    Raises GanfitError: bad_option, when their numbers differ.
    """
    if focal_mm is None:
        return photos
    if len(focal_mm) != len(photos):
        raise GanfitError("bad_option", f"There are {len(photos)} photos and {len(focal_mm)} focal lengths.")
    return [p if f is None else replace(p, focal_35mm=f or None) for p, f in zip(photos, focal_mm, strict=True)]


def align_views(person: Person, views: list[View], config: FitConfig) -> FitParameters:
    """Aligns each photo by its landmarks and joins them: shape is the mean over the photos (GANFIT, Sec. 3.5)."""
    device, model, aligned = person.head.device, person.landmark_model().to("cpu"), []
    for view in views:
        start = initial_parameters(model, view.points(), view.frame, 512, person.default_palette())
        stiffness = expression_stiffness([view], person.head.expression_names)
        aligned.append(align([model], start, [view.points()], [view.frame], config.align_steps, stiffness))
    shared = {"identity": torch.stack([p.identity for p in aligned]).mean(0), "latent": aligned[0].latent,
              "palette": aligned[0].palette}
    own = {name: torch.cat([getattr(p, name) for p in aligned]) for name in aligned[0].tensors() if name not in shared}
    return FitParameters(**{name: value.to(device) for name, value in {**shared, **own}.items()})


def describe(person: Person, params: FitParameters, views: list[View], trace: FitTrace, options: Options,
             device: torch.device, warnings: list[str], size: tuple[float, str] | None = None) -> dict:
    """The content of `result.json`, version 1: every parameter needed to rebuild the rest.

    size: factor to metres and what it rests on, where it is not to be measured anew.
    """
    head = person.head
    scale, ruler = size or metric_scale(person, params, views)
    if ruler != "iris":
        warnings = [*warnings, "The iris was too small to measure; absolute size comes from the mean eye distance."]
    lights = params.lights().nonnegative()
    frames = [v.frame for v in views]
    described = []
    for i, view in enumerate(views):
        camera = camera_of(params, frames, i)
        camera = replace(camera, translation=camera.translation * scale)
        described.append({
            "photo": {"file": f"photo_{i:02d}.png", "name": view.photo.name, "sha256": view.photo.sha256,
                      "size": [view.frame.size[1], view.frame.size[0]], "focal_35mm": view.photo.focal_35mm},
            "camera": camera.to_result(),
            "lights": lights.to_result(i),
            "expression": dict(zip(head.expression_names, params.expression[i].tolist(), strict=True)),
            "landmarks": view.landmarks.points.tolist(),
            "files": {"photo": f"photo_{i:02d}.png", "render": f"render_{i:02d}.png",
                      "overlay": f"overlay_{i:02d}.jpg"},
        })
    return {
        "version": 1, "layout_id": head.layout_id, "views": described,
        "shape": {"basis": options.basis, "coefficients": params.identity.tolist(), "scale": scale, "ruler": ruler},
        "texture": {"latent": params.latent.tolist(), "generator_sha256": person.generator.sha256,
                    "size": TEXTURE_SIZE},
        "palette": dict(zip(head.palette_names, params.palette.tolist(), strict=True)),
        "losses": trace.losses, "timings": {}, "device": str(device),
        "packages": {p: importlib.metadata.version(p) for p in PACKAGES},
        "assets": {a["name"]: a["version"] for a in assets.status() if a["installed"]}, "seed": options.seed,
        "licences": assets.used(options.basis, options.identity, options.landmarks, options.generator),
        "options": options.to_dict(), "warnings": warnings,
    }


def bundle_files(scene: Assembled, result: dict, photos: list[np.ndarray]
                 ) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Every file of the bundle but `result.json`, from parameters and photos: its name and what packs it.

    To go through them draws the pictures, in the caller's thread; to pack them any thread will do.
    """
    head, scale = scene.person.head, result["shape"]["scale"]
    shells = {HAIR_SHELL: scene.hair_shell, GLASSES: scene.glasses}
    maps = {GENERATOR: scene.generated, ALBEDO: scene.texture, NORMAL: scene.normal, ROUGHNESS: scene.roughness,
            HAIR: scene.hair, **{name: None if shell is None else shell.texture for name, shell in shells.items()}}
    textures = {name: map_pixels(values) for name, values in maps.items() if values is not None}
    for name, pixels in {**textures, **{f"photo_{i:02d}.png": photo for i, photo in enumerate(photos)}}.items():
        yield name, partial(png, pixels)
    yield "head.npz", partial(head_npz, scene, scale)
    get_rasterizer("cpu")  # with which the GLB's parts are baked: its kernels are not loaded by two threads at once
    carried = textures | {ALBEDO: map_pixels(scene.shown)}
    neutral = (scene.cage + scene.offsets).cpu().numpy()
    expression = [result["views"][0]["expression"][n] for n in head.expression_names]
    hair, glasses = (None if shell is None else glb_surface(shell, textures[name], name == GLASSES)
                     for name, shell in shells.items())
    yield "head.glb", lambda: glb.glb_bytes(head, neutral, scale, expression, palette=result["palette"], hair=hair,
                                            glasses=glasses, **glb_textures(carried))
    yield "landmarks68.json", partial(json_bytes, scene.landmarks.tolist())
    yield "sheet.jpg", partial(jpeg, contact_sheet(scene, photos))
    for i, photo in enumerate(photos):
        render = full_render(scene, i)
        yield f"render_{i:02d}.png", partial(png, render)
        yield f"overlay_{i:02d}.jpg", partial(jpeg, overlay(photo, render))


def bundle_contents(scene: Assembled, result: dict, photos: list[np.ndarray]) -> dict[str, bytes]:
    """`bundle_files`, packed."""
    with ThreadPoolExecutor(PACKERS) as pool:
        packed = {name: pool.submit(pack) for name, pack in bundle_files(scene, result, photos)}
        return {name: job.result() for name, job in packed.items()}


def start_result(out: str | None, scene: Assembled, result: dict, photos: list[np.ndarray], timeline: Timeline,
                 trace: FitTrace, pool: Executor) -> Callable[[], Bundle]:
    """Refines and draws a fit that is done; `pool` packs the files. What is returned waits for them and writes the
    bundle, with the seconds that everything took; it raises GanfitError: output_not_writable."""
    timeline.stage("refine")
    scene = refined(scene, result, photos)
    timeline.stage("bundle")
    packed = {name: pool.submit(pack) for name, pack in bundle_files(scene, result, photos)}
    timeline.stage("")

    def wait() -> Bundle:
        start = time.perf_counter()
        contents = {name: job.result() for name, job in packed.items()}
        timeline.seconds["bundle"] += time.perf_counter() - start  # not what others did since
        result["timings"] = {**timeline.seconds, **{f"fit: {k}": v for k, v in trace.seconds.items()}}
        return write_bundle(out, contents | {"result.json": json_bytes(result)})
    return wait


def write_result(out: str | None, scene: Assembled, result: dict, photos: list[np.ndarray], timeline: Timeline,
                 trace: FitTrace) -> Bundle:
    """`start_result` to its end."""
    with ThreadPoolExecutor(PACKERS) as pool:
        return start_result(out, scene, result, photos, timeline, trace, pool)()


def refined(scene: Assembled, result: dict, photos: list[np.ndarray]) -> Assembled:
    """The scene with its final skin maps, unless the options of the result say that the generator's map is final.

    Writes into the result's views whether their photos show `glasses`.
    """
    options = Options.from_dict(result["options"])
    if options.refine:
        from backend.refine.refine import refine  # with scipy's filters: not before the first iteration

        size = PRESETS[options.preset].albedo_size
        scene = refine(scene, photos, size, options.seed, options.hair, options.glasses)
    for number, view in enumerate(result["views"]):
        view["glasses"] = scene.wears_glasses(number)
    return scene


def glb_textures(textures: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The skin's maps (by file name, uint8) as the GLB carries them: JPEG, roughness in glTF's green channel."""
    carried = {"albedo": jpeg(textures[ALBEDO])}
    if NORMAL in textures:
        carried["normal"] = jpeg(textures[NORMAL])
    if ROUGHNESS in textures:
        rough = textures[ROUGHNESS][..., 0]
        carried["roughness"] = jpeg(np.stack([np.full_like(rough, 255), rough, np.zeros_like(rough)], -1))
    return carried


def glb_surface(shell: Shell, pixels: np.ndarray, mixed: bool) -> glb.Surface:
    """What stands off the head, as the GLB carries it; pixels (H, W, 4) uint8. mixed: its tints are not cut out."""
    vertex, uv, triangles = (values.cpu().numpy() for values in shell.unwelded)
    tinted = np.tile(shell.tinted.cpu().numpy() & mixed, 2)
    return glb.Surface(shell.verts.cpu().numpy(), vertex, uv, triangles, tinted, png(pixels))


def head_npz(scene: Assembled, scale: float) -> bytes:
    """`head.npz` of the bundle: the mesh for Blender, metric, neutral."""
    import io
    head = scene.person.head
    host = {"verts": scene.cage, "quads": head.quads.to(torch.int32), "corner_uvs": head.corner_uv,
            "corner_uvs_makehuman": head.corner_uv_makehuman, "part": head.quad_part.to(torch.uint8),
            "expression_deltas": head.expression * scale, "offsets": scene.offsets,
            "makehuman_index": head.makehuman_index.to(torch.int32), "palette_weights": head.palette_weights0,
            "region_masks": torch.stack([head.regions[n] for n in head.regions]).float(),
            "identity_deltas": (head.identity[:SHAPE_SLIDERS] * scale).half()}
    for name, shell in {"hair": scene.hair_shell, "glasses": scene.glasses}.items():
        if shell is not None:
            host |= {f"{name}_verts": shell.verts, f"{name}_quads": shell.quads.to(torch.int32),
                     f"{name}_uvs": shell.corner_uv}
    arrays = {k: v.cpu().numpy() for k, v in host.items()}
    names = {"part_names": head.PARTS, "expression_names": head.expression_names, "palette_names": head.palette_names,
             "region_names": list(head.regions),
             "identity_names": [f"shape_{i + 1:02d}" for i in range(len(arrays["identity_deltas"]))]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **{k: np.array(list(v)) for k, v in names.items()})
    return buffer.getvalue()


def json_bytes(value: object) -> bytes:
    """UTF-8 JSON; float32 values survive the round trip."""
    return json.dumps(value, indent=1, allow_nan=False).encode()


def rerender(bundle: str | Path, out: str | Path | None = None, device: str = "auto", models: Models | None = None,
             **changes: Any) -> dict[str, bytes]:
    """Rebuilds mesh, textures and pictures of a bundle from its parameters (the paper's "700 floats") and its photos.

    Returns the files' contents and, with `out`, writes them there as a bundle of their own. changes: options that are
    to be other than they were, `refine=False`, say.
    """
    source = read_bundle(bundle)
    result = {**source.result, "options": {**source.result["options"], **changes}}
    options = Options(**{**result["options"], "device": device, "out": None})
    where = choose_device(device)
    person = (models or Models()).person(options, where)
    if person.generator.sha256 != result["texture"]["generator_sha256"]:
        raise GanfitError("layout_mismatch", "The bundle was made with another texture generator.",
                          hint="Give the same generator file with --generator.")
    photos = [np.asarray(Image.open(Path(bundle) / v["files"]["photo"]).convert("RGB")) for v in result["views"]]
    scene = refined(assemble(result, person, where, source.head["offsets"]), result, photos)
    contents = bundle_contents(scene, result, photos)
    contents["result.json"] = json_bytes(result)
    if out is not None:
        write_bundle(out, contents)
    return contents
