# SPDX-License-Identifier: GPL-3.0-or-later
"""The result bundle, version 1: written as a whole or not at all, and checked when it is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import GanfitError

VERSION = 1
RESULT, HEAD, GLB, LANDMARKS = "result.json", "head.npz", "head.glb", "landmarks68.json"
ALBEDO, GENERATOR, SHEET = "albedo.png", "generator.png", "sheet.jpg"
NORMAL, ROUGHNESS = "normal.png", "roughness.png"
HAIR, HAIR_SHELL, GLASSES = "hair.png", "hair_shell.png", "glasses.png"
REQUIRED = (RESULT, HEAD, GLB, LANDMARKS, ALBEDO, GENERATOR)
_OUR_FILES = re.compile(
    r"result\.json|head\.npz|head\.glb|landmarks68\.json|sheet\.jpg"
    r"|(albedo|generator|normal|roughness|hair|hair_shell|glasses)\.png|(photo|render)_\d\d\.png|overlay_\d\d\.jpg"
)
_LEFTOVER_AGE_S = 3600.0
_RIVALS = 100
"""So often is a rename tried again when other processes write the same folder."""
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)

# head.npz: name -> (kind of dtype, shape); letters stand for sizes that have to agree: V vertices, Q quads, ...
HEAD_ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "verts": ("f", ("V", 3)),
    "quads": ("i", ("Q", 4)),
    "corner_uvs": ("f", ("Q", 4, 2)),
    "corner_uvs_makehuman": ("f", ("Q", 4, 2)),
    "part": ("u", ("Q",)),
    "part_names": ("U", ("parts",)),
    "expression_names": ("U", (52,)),
    "expression_deltas": ("f", (52, "V", 3)),
    "offsets": ("f", ("V", 3)),
    "makehuman_index": ("i", ("V",)),
    "palette_weights": ("f", ("V", "colours")),
    "palette_names": ("U", ("colours",)),
    "region_names": ("U", ("regions",)),
    "region_masks": ("f", ("regions", "V")),
}

# The same for arrays that a bundle may have: the leading directions of identity, metres per standard deviation; the
# hair that stands off the head and the glasses, metres, with the UVs of their pictures.
OPTIONAL_HEAD_ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "identity_deltas": ("f", ("K", "V", 3)),
    "identity_names": ("U", ("K",)),
    "hair_verts": ("f", ("H", 3)),
    "hair_quads": ("i", ("P", 4)),
    "hair_uvs": ("f", ("P", 4, 2)),
    "glasses_verts": ("f", ("G", 3)),
    "glasses_quads": ("i", ("R", 4)),
    "glasses_uvs": ("f", ("R", 4, 2)),
}
SHELLS = {"hair": "H", "glasses": "G"}
"""Surfaces of their own, and the letter of their vertices' number."""


class Bundle:
    """A result: its parameters at once, everything else when it is asked for.

    `path` is its folder, or None for a result that was never written; then `files` holds the content of every file.
    """

    def __init__(self, result: dict[str, Any], path: Path | None, files: Mapping[str, bytes] | None = None) -> None:
        self.result = result
        self.path = path
        self._files = files

    def read(self, name: str) -> bytes:
        """The content of one file of the bundle; GanfitError("bundle_damaged") when there is none of this name."""
        if self._files is not None:
            if name not in self._files:
                raise _damaged(self.path, f"{name} is missing")
            return self._files[name]
        assert self.path is not None
        try:
            return (self.path / name).read_bytes()
        except OSError:
            raise _damaged(self.path, f"{name} is missing or cannot be read") from None

    @cached_property
    def head(self) -> dict[str, np.ndarray]:
        """The arrays of `head.npz`, checked: see `HEAD_ARRAYS`."""
        return _read_head(self.read(HEAD), self.path)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(68, 3) float32, metres: iBUG points in the GLB's frame with the expression of view 0."""
        try:
            points = np.array(json.loads(self.read(LANDMARKS)), np.float32)
        except (ValueError, TypeError):
            points = np.empty(0)
        if points.shape != (68, 3) or not np.isfinite(points).all():
            raise _damaged(self.path, f"{LANDMARKS} is not 68 points")
        return points

    def image(self, name: str) -> np.ndarray:
        """One of its images, such as `albedo.png`: (H, W, 3 or 4) uint8."""
        try:
            with Image.open(io.BytesIO(self.read(name)), formats=("PNG", "JPEG")) as picture:
                return np.array(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(self.path, f"{name} cannot be decoded ({error})") from None

    def __repr__(self) -> str:
        return f"Bundle({str(self.path) if self.path else 'in memory'}, {len(self.result['views'])} view(s))"


def check_output(out: str | Path) -> Path:
    """The absolute folder to write a bundle to, after making sure that it can be: call it before a long fit.

    A new folder, an empty one or one that holds a bundle is fine. Puts an old bundle back in place that a killed
    process had moved aside, and removes what such a process left half-written.

    Raises GanfitError: output_not_writable, output_not_a_bundle, disk_full.
    """
    try:
        folder = Path(out).expanduser().resolve()
        _clear_leftovers(folder)
        try:
            held = {item.name for item in folder.iterdir()}
        except FileNotFoundError:  # not yet, or another process is replacing it
            held = set()
        except NotADirectoryError:
            raise GanfitError("output_not_writable", f"The output {folder} is a file, not a folder.") from None
        if held and RESULT not in held:
            raise GanfitError("output_not_a_bundle", f"The folder {folder} holds other files than a result.")
        parent = next(parent for parent in folder.parents if parent.exists())
        probe = parent / f".ganfit-{uuid.uuid4().hex[:8]}"
        probe.mkdir()
        try:
            (probe / "probe").write_bytes(b"probe")
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise output_error(error, Path(out)) from error
    return folder


def write_bundle(out: str | Path | None, contents: Mapping[str, bytes]) -> Bundle:
    """Writes all files of a bundle to a temporary sibling and renames it to `out`.

    Args:
        out: the folder; an older bundle in it is replaced when the new one is whole, other files in it are kept. None
            writes nothing and keeps the contents in the Bundle that is returned.
        contents: file name -> bytes; `result.json` among them gets a table `files` of sizes and sha256 added.

    Raises GanfitError: output_not_writable, output_not_a_bundle, disk_full; then nothing of the new bundle remains.
    """
    result = json.loads(contents[RESULT])
    others = {name: data for name, data in contents.items() if name != RESULT}
    result["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(others.items())
    }
    document = json.dumps(result, indent=1, allow_nan=False).encode()
    if out is None:
        return Bundle(result, None, {**others, RESULT: document})
    folder = check_output(out)
    partial = folder.with_name(f".{folder.name}.new-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        for name, data in (*others.items(), (RESULT, document)):
            (partial / name).write_bytes(data)
        _swap_in(partial, folder)
    except OSError as error:
        raise output_error(error, folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle(result, folder)


def read_bundle(path: str | Path) -> Bundle:
    """Reads and checks a bundle: version, files, their sha256, array shapes.

    Raises GanfitError: bundle_missing, bundle_version, bundle_damaged.
    """
    folder = Path(path)
    while True:
        try:
            which = (folder / RESULT).stat()
            document = (folder / RESULT).read_bytes()
        except (OSError, ValueError):
            raise GanfitError("bundle_missing", f"There is no result in {folder}.") from None
        try:
            return _check_bundle(folder, document)
        except GanfitError:
            if _is_still(folder / RESULT, which):  # otherwise the bundle was replaced while it was being read
                raise


def _is_still(path: Path, which: os.stat_result) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino, now.st_mtime_ns) == (which.st_dev, which.st_ino, which.st_mtime_ns)


def _check_bundle(folder: Path, document: bytes) -> Bundle:
    """The bundle of a `result.json` once every file is what it says."""
    try:
        result = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{RESULT} is not JSON ({error})") from None
    _check_result(result, folder)
    bundle = Bundle(result, folder)
    for name in REQUIRED[1:] + tuple(name for view in result["views"] for name in view["files"].values()):
        if name not in result["files"]:
            raise _damaged(folder, f"{name} is missing")
    for name, record in result["files"].items():
        if hashlib.sha256(bundle.read(name)).hexdigest() != record["sha256"]:
            raise _damaged(folder, f"{name} is not what was written")
    return bundle


def is_whole(path: str | Path) -> bool:
    """Whether a folder holds a bundle that can be read and whose arrays are right."""
    try:
        bundle = read_bundle(path)
        return len(bundle.head) > 0 and len(bundle.landmarks) == 68
    except GanfitError:
        return False


def output_error(error: BaseException, out: Path) -> GanfitError:
    """The GanfitError of a failed write under `out`."""
    if isinstance(error, GanfitError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return GanfitError("disk_full", f"The disk of {out} is full.")
    reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
    return GanfitError("output_not_writable", f"The folder {out} cannot be written: {reason}.")


def _swap_in(partial: Path, folder: Path) -> None:
    """Renames a whole new bundle to its place; an old one is moved aside first and put back if that fails."""
    for _ in range(_RIVALS):
        aside = _move_aside(folder)
        try:
            os.rename(partial, folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was there first: its bundle is older
                if aside:
                    shutil.rmtree(aside, ignore_errors=True)
                continue
            if aside:
                os.rename(aside, folder)
            raise
        if aside:
            _retire(aside, folder)
        return
    raise OSError(errno.EBUSY, "other programs keep writing it")


def _move_aside(folder: Path) -> Path | None:
    """Where the bundle at `folder` was moved to, None when there is none (any more)."""
    aside = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return None
    return aside


def _retire(aside: Path, folder: Path) -> None:
    """Moves files that are no part of a bundle from the old folder to the new one, then removes the old one."""
    for item in aside.iterdir():
        if not _OUR_FILES.fullmatch(item.name) and not (folder / item.name).exists():
            os.rename(item, folder / item.name)
    shutil.rmtree(aside, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Undoes what a killed process left beside the folder, where it is old enough to be no one's work in progress."""
    prefix = f".{folder.name}."
    if not folder.parent.is_dir():
        return
    for item in folder.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if not item.name.startswith(prefix) or time.time() - item.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
            if re.fullmatch(r"old-[0-9a-f]{8}", item.name[len(prefix) :]):
                _retire(item, folder) if folder.exists() else os.rename(item, folder)
            elif re.fullmatch(r"new-[0-9a-f]{8}", item.name[len(prefix) :]):
                shutil.rmtree(item, ignore_errors=True)


def _damaged(path: Path | None, what: str) -> GanfitError:
    return GanfitError("bundle_damaged", f"The result {path or 'in memory'} is damaged: {what}.")


def _check_result(result: Any, folder: Path) -> None:
    """Version and the entries that everything else relies on."""
    if not isinstance(result, dict) or "version" not in result:
        raise _damaged(folder, f"{RESULT} has no version")
    if result["version"] != VERSION:
        raise GanfitError("bundle_version", f"The result {folder} has version {result['version']}, known is {VERSION}.")
    kinds = {"layout_id": str, "views": list, "shape": dict, "texture": dict, "palette": dict, "files": dict}
    for name, kind in kinds.items():
        if not isinstance(result.get(name), kind):
            raise _damaged(folder, f"{RESULT} has no {name}")
    try:
        whole = bool(result["views"])
        for view in result["views"]:
            whole &= len(view["expression"]) == 52 and len(view["camera"]["cam_to_world"]) == 4
            whole &= len(view["lights"]["sh"]) == 9 and len(view["photo"]["sha256"]) == 64
            whole &= all(isinstance(name, str) for name in view["files"].values())
            whole &= isinstance(view.get("glasses", True), bool)
        whole &= all(len(record["sha256"]) == 64 for record in result["files"].values())
        whole &= all(name == Path(name).name for name in result["files"])
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _damaged(folder, f"{RESULT} is incomplete")


def _read_head(data: bytes, path: Path | None) -> dict[str, np.ndarray]:
    """`head.npz` without pickle, with the names, kinds, shapes and index ranges of `HEAD_ARRAYS`."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            known = {**HEAD_ARRAYS, **{k: v for k, v in OPTIONAL_HEAD_ARRAYS.items() if k in archive}}
            arrays = {name: archive[name] for name in known}
    except Exception as error:  # a broken archive or header raises a dozen types, MemoryError among them
        raise _damaged(path, f"{HEAD} cannot be read ({error})") from None
    sizes: dict[str, int] = {}
    for name, (kind, shape) in known.items():
        array = arrays[name]
        fits = array.dtype.kind == kind and array.ndim == len(shape)
        if fits:
            for letter, size in zip(shape, array.shape, strict=True):
                fits &= size == (letter if isinstance(letter, int) else sizes.setdefault(letter, size))
        if not fits or (kind == "f" and not np.isfinite(array).all()):
            raise _damaged(path, f"{name} of {HEAD} is {array.dtype} {array.shape}")
    if not len(arrays["quads"]) or arrays["quads"].min() < 0 or arrays["quads"].max() >= sizes["V"]:
        raise _damaged(path, f"quads of {HEAD} point at no vertex")
    for shell, letter in SHELLS.items():
        whole = {f"{shell}_verts", f"{shell}_quads", f"{shell}_uvs"}
        if len(whole & set(arrays)) not in (0, len(whole)):
            raise _damaged(path, f"{HEAD} has a part of the {shell}")
        shown = arrays.get(f"{shell}_quads")
        if shown is not None and (not len(shown) or shown.min() < 0 or shown.max() >= sizes[letter]):
            raise _damaged(path, f"{shell}_quads of {HEAD} point at no vertex")
    if arrays["part"].max() >= sizes["parts"]:
        raise _damaged(path, f"part of {HEAD} points at no name")
    return arrays
