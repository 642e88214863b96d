# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: `python -m backend reconstruct PHOTO --out DIR`, and everything else that runs without Blender."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import GanfitError, as_ganfit_error
from .limits import check_memory
from .options import CHOICES, Options

if TYPE_CHECKING:
    from .bundle import Bundle

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
PLAIN_INTERVAL_S = 5.0
"""Without a terminal a running stage writes a line that often."""

# Commands with an argument parser of their own: name -> (module, help).
DELEGATES = {
    ("doctor",): ("backend.doctor", "say what would run here: device, versions, assets, licences"),
    ("ablation",): ("backend.fit.ablation", "fit with one term of the energy off at a time and print the table"),
    ("train", "texture-gan"): ("backend.texture.train", "train the texture generator"),
    ("train", "textures"): ("backend.texture.dataset", "build the training textures"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _stop)
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in words
    try:
        for name, (module, _) in DELEGATES.items():
            if tuple(words[: len(name)]) == name:
                return importlib.import_module(module).main(words[len(name) :]) or OK
        args = _parser().parse_args(words)
        return args.run(args)
    except KeyboardInterrupt as error:
        _print_error(as_ganfit_error(error), as_json)
        return INTERRUPTED
    except Exception as error:  # the edge of the program: everything becomes a sentence
        known = as_ganfit_error(error)
        if known.code == "internal":
            traceback.print_exc()
        _print_error(known, as_json)
        return FAILED


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _print_error(error: GanfitError, as_json: bool) -> None:
    """`code: sentence` and the hint on stderr; with --json also as the one object on stdout."""
    print(f"{error.code}: {error.message}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": error.to_dict()}))


# --- commands -------------------------------------------------------------------------------------------------------


def _reconstruct(args: argparse.Namespace) -> int:
    from .bundle import check_output

    options = _options(args)
    check_memory()
    check_output(args.out)
    started = time.perf_counter()
    with show_progress() as progress:
        from .pipeline import reconstruct

        bundle = reconstruct(args.photos, options, progress=progress)
    return _say_done(args, bundle, time.perf_counter() - started)


def _refit(args: argparse.Namespace) -> int:
    options = {name: value for name, value in _given_options(args).items() if name not in ("out", "focal_mm")}
    Options.from_dict(options)
    pins = _read_pins(args.pins) if args.pins else []
    pins += [_pin(text) for text in args.pin or []]
    focal = getattr(args, "focal_mm", None)
    check_memory()
    started = time.perf_counter()
    with show_progress() as progress:
        from .refitting import refit

        bundle = refit(args.bundle, options, args.out, args.sculpt, pins, args.photos, focal, progress=progress)
    return _say_done(args, bundle, time.perf_counter() - started)


def _pin(text: str) -> dict[str, Any]:
    """VIEW,INDEX,X,Y of the command line as in the protocol."""
    try:
        view, index, x, y = text.split(",")
        return {"view": int(view), "index": index if ":" in index else int(index), "x": float(x), "y": float(y)}
    except ValueError:
        raise GanfitError("bad_pin", f"The pin {text!r:.100} is not VIEW,INDEX,X,Y.") from None


def _read_pins(path: Path) -> list[Any]:
    try:
        pins = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GanfitError("bad_pin", f"The pins in {path} cannot be read ({error}).") from None
    if not isinstance(pins, list):
        raise GanfitError("bad_pin", f"{path} holds no list of pins.")
    return pins


def _say_done(args: argparse.Namespace, bundle: Bundle, seconds: float) -> int:
    """Prints where the bundle is and what was odd."""
    warnings = bundle.result.get("warnings", [])
    if args.json:
        timings = bundle.result.get("timings", {})
        summary = {"bundle": str(bundle.path), "seconds": round(seconds, 3), "timings": timings, "warnings": warnings}
        print(json.dumps({**summary, "losses": _last_losses(bundle.result)}))
        return OK
    for warning in warnings:
        print(f"Note: {warning}")
    print(f"{bundle.path}  ({seconds:.0f} s; look at sheet.jpg first)")
    return OK


def _last_losses(result: dict[str, Any]) -> dict[str, float]:
    return {name: values[-1] for name, values in result.get("losses", {}).items() if values}


def _batch(args: argparse.Namespace) -> int:
    from . import batch

    options = _options(args)
    batch.find_people(args.photos)
    check_memory()
    with show_progress() as progress:
        if args.cluster:
            from .cluster import run_cluster

            rows = run_cluster(args.photos, options, args.cluster, progress)
        else:
            from .pipeline import Models, people_at_once, reconstruct, reconstruct_together

            models, together = Models(), args.together or people_at_once(options)
            one, several = partial(reconstruct, models=models), partial(reconstruct_together, models=models)
            rows = batch.run_batch(args.photos, options, one, progress, several=several, together=together)
    counts = batch.count_states(rows)
    if args.json:
        people = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"table": str(args.out / batch.TABLE_JSON), "counts": counts, "people": people}))
    else:
        for row in rows:
            print(f"{row.name:24s} {row.state:9s} {row.error['message'] if row.error else row.bundle}")
        print(f"{', '.join(f'{n} {state}' for state, n in counts.items())}; table: {args.out / batch.TABLE_CSV}")
    return FAILED if counts.get(batch.FAILED) or counts.get(batch.CANCELLED) else OK


def _serve(args: argparse.Namespace) -> int:
    from .worker import serve

    check_memory()
    return serve()


def _assets_list(args: argparse.Namespace) -> int:
    from . import assets

    entries = assets.status()
    if args.json:
        print(json.dumps({"assets": entries}))
        return OK
    for entry in entries:
        state = "installed" if entry["installed"] else f"{entry['download_size'] / 1e6:.0f} MB to download"
        sold = "results may be sold" if entry["sellable"] else "results may NOT be sold"
        print(f"{entry['name']:12s} {entry['version']:12s} {state:20s} {entry['licence']}; {sold}")
        print(f"{'':12s} {entry['purpose']}; {entry['note']}")
    return OK


def _assets_install(args: argparse.Namespace) -> int:
    from . import assets

    with show_progress() as progress:
        folders = assets.install(
            args.names or None,
            args.source,
            lambda name, done, total: progress(f"install {name}", done, total, {}, None, None),
            force=args.force,
        )
    if args.json:
        print(json.dumps({"installed": {name: str(folder) for name, folder in folders.items()}}))
    else:
        for name, folder in folders.items():
            print(f"{name}: {folder}")
    return OK


def _assets_verify(args: argparse.Namespace) -> int:
    from . import assets

    problems = assets.verify(args.names or None)
    if args.json:
        print(json.dumps({"problems": problems}))
    else:
        for name, found in problems.items():
            print(f"{name}: {'; '.join(found) or 'as installed'}")
        if not problems:
            print("No asset is installed.")
    return FAILED if any(problems.values()) else OK


def _render(args: argparse.Namespace) -> int:
    import hashlib

    from .bundle import read_bundle

    source = read_bundle(args.bundle)
    from .pipeline import rerender

    rebuilt = rerender(args.bundle, args.out, args.device)
    recorded = source.result["files"]
    equal = {
        name: hashlib.sha256(data).hexdigest() == recorded[name]["sha256"]
        for name, data in sorted(rebuilt.items())
        if name in recorded
    }
    if args.json:
        print(json.dumps({"bundle": str(args.out or args.bundle), "equal": equal}))
        return OK
    for name, same in equal.items():
        print(f"{name:20s} {'equal to the bundle' if same else 'differs from the bundle'}")
    if args.out:
        print(args.out)
    return OK


# --- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backend", description="Reconstructs 3D heads from photos.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("reconstruct", help="one person from one or several photos")
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="all photos show the same person")
    _add_options(command, "folder of the result; an older result in it is replaced")
    command.set_defaults(run=_reconstruct)

    command = commands.add_parser("batch", help="everyone in a folder")
    meaning = "each photo is a person, each subfolder is one with several"
    command.add_argument("photos", nargs="+", metavar="FOLDER_OR_PHOTO", help=meaning)
    _add_options(command, "folder that gets a result per person and the table (batch.json, batch.csv)")
    text = "people whose fits run as one batch; by itself 1 on a CPU, 16 on a GPU"
    command.add_argument("--together", type=int, metavar="N", help=text)
    command.add_argument("--cluster", metavar="ADDRESS", help="of a Ray cluster that does the work: HOST:PORT or auto")
    command.set_defaults(run=_batch)

    command = commands.add_parser("refit", help="fit a result again: to a sculpt, to pinned landmarks")
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    _add_options(command, "folder of the new result, may be the old one's", given_only=True)
    text = "keep this shape: .npz with the displacements `offsets` (vertices, 3) of the neutral head, metres"
    command.add_argument("--sculpt", type=Path, metavar="FILE", help=text)
    text = "a landmark in photo pixels that the head has to meet: 0,4,251.5,180 or 0,68:30,251.5,180; repeatable"
    command.add_argument("--pin", action="append", metavar="VIEW,INDEX,X,Y", help=text)
    command.add_argument("--pins", type=Path, metavar="FILE", help="JSON list of pins: {view, index, x, y}")
    command.add_argument("--photos", type=int, nargs="+", metavar="VIEW", help="photos to use, from 0; default: all")
    command.set_defaults(run=_refit)

    command = commands.add_parser("serve", help="the worker that Blender talks to, on stdin and stdout")
    command.set_defaults(run=_serve)

    command = commands.add_parser("render", help="rebuild a result from its parameters alone and compare")
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument("--out", type=Path, help="write what was rebuilt as a result of its own")
    command.add_argument("--device", choices=CHOICES["device"], default="auto")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_render)

    _add_assets(commands.add_parser("assets", help="networks and head data: licences, installation"))
    for name, (_, text) in DELEGATES.items():
        if len(name) == 1:
            commands.add_parser(name[0], help=text)
    topics = commands.add_parser("train", help="train what the fit uses").add_subparsers(dest="topic", required=True)
    for name, (_, text) in DELEGATES.items():
        if name[0] == "train":
            topics.add_parser(name[1], help=text)
    return parser


def _add_options(command: argparse.ArgumentParser, out: str, given_only: bool = False) -> None:
    """The options of `Options`, with its defaults; with `given_only` one that is not given is not there."""

    def default(name: str) -> Any:
        return argparse.SUPPRESS if given_only else getattr(Options(), name)

    add = command.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help=out)
    for name, allowed in CHOICES.items():
        add(f"--{name}", choices=allowed, default=default(name), help=f"default: {getattr(Options(), name)}")
    add("--seed", type=int, default=default("seed"), help="the same seed gives the same result")
    add("--face", type=int, metavar="N", default=default("face"), help="which face of the photo, 0 is the largest")
    text = "a texture generator of your own (.safetensors)"
    add("--generator", metavar="FILE", default=default("generator"), help=text)
    text = "instead of the preset's own number"
    add("--iterations", type=int, metavar="N", default=default("iterations"), help=text)
    text = "focal length of each photo, 35 mm equivalent; 0: unknown (default: EXIF's)"
    add("--focal-mm", type=float, nargs="+", metavar="MM", default=default("focal_mm"), help=text)
    text = "leave the albedo the generator's: nothing of the photo in it"
    add("--no-refine", dest="refine", action="store_false", default=default("refine"), help=text)
    add("--no-hair", dest="hair", action="store_false", default=default("hair"),
        help="leave out the hair on the head")
    add("--no-glasses", dest="glasses", action="store_false", default=default("glasses"), help="leave out glasses")
    add("--json", action="store_true", help="print one JSON object at the end")


def _options(args: argparse.Namespace) -> Options:
    return Options(**_given_options(args))


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options among parsed arguments."""
    names = {field.name for field in dataclasses.fields(Options)}
    return {name: value for name, value in vars(args).items() if name in names}


def _add_assets(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True)
    action = actions.add_parser("list", help="licences, sizes, and whether results may be sold")
    action.set_defaults(run=_assets_list)
    verify = actions.add_parser("verify", help="compare every installed file with its hash")
    verify.set_defaults(run=_assets_verify)
    install = actions.add_parser("install", help="download and check; by default what runs offline afterwards")
    install.add_argument("--from", dest="source", type=Path, metavar="PATH", help="a local archive, or folder of them")
    install.add_argument("--force", action="store_true", help="install anew what is there")
    install.set_defaults(run=_assets_install)
    for which in (install, verify):
        which.add_argument("names", nargs="*", metavar="NAME")
    for which in (action, install, verify):
        which.add_argument("--json", action="store_true", help="print one JSON object")


# --- progress -------------------------------------------------------------------------------------------------------

Report = Callable[[str, int, int, dict[str, float], float | None, Path | None], None]


def show_progress() -> AbstractContextManager[Report]:
    """A live bar where stderr is a terminal, plain lines where it is not; stdout stays free for the result."""
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Bar:
    """rich's progress bar with stage, step, losses and time left."""

    def __enter__(self) -> Report:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._bar.start()
        self._stage, self._task = "", self._bar.add_task("start", total=None, note="")
        return self._report

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._bar.update(self._task, total=1, completed=1, note="")
        self._bar.stop()

    def _report(
        self, stage: str, step: int, steps: int, losses: dict[str, float], eta_s: float | None, preview: Path | None
    ) -> None:
        if stage != self._stage:
            self._bar.update(self._task, total=1, completed=1, note="")
            self._stage, self._task = stage, self._bar.add_task(stage, total=steps, note="")
        left = "" if eta_s is None else f"{eta_s:.0f} s left"
        total = losses.get("total")
        note = left if total is None else f"{left}  loss {total:.3f}"
        self._bar.update(self._task, total=steps, completed=step, note=note)


class _Lines:
    """One line when a stage begins, and one every few seconds while it runs."""

    def __enter__(self) -> Report:
        self._stage, self._written = "", 0.0
        return self._report

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def _report(
        self, stage: str, step: int, steps: int, losses: dict[str, float], eta_s: float | None, preview: Path | None
    ) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._written < PLAIN_INTERVAL_S:
            return
        self._stage, self._written = stage, now
        terms = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
        left = "" if eta_s is None else f", {eta_s:.0f} s left"
        count = f" {step}/{steps}" if steps > 1 else ""
        print(f"{stage}{count}{left} {terms}".rstrip(), file=sys.stderr, flush=True)
