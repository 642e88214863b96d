# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and checks a result bundle, version 1 (`result.json`, `head.npz`, pictures); needs no Blender."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AddonError

VERSION = 1
RESULT, HEAD = "result.json", "head.npz"
ALBEDO, NORMAL, ROUGHNESS, HAIR = "albedo.png", "normal.png", "roughness.png", "hair.png"
SHELLS = {"hair": "hair_shell.png", "glasses": "glasses.png"}  # what stands off the head: arrays' prefix, picture
MOST_SHELL = 100_000  # vertices, and quads; a fit's own hair has 5000 of each
SKIN = "skin"


@dataclass(frozen=True)
class View:
    """One photo of the person.

    Attributes:
        photo: the upright photo in the bundle's folder.
        size: (width, height) pixels.
        cam_to_world: (4, 4) GLB axes, metres; looks along -Z, up +Y.
        yfov: vertical field of view, radians.
        principal: (x, y) pixels from the top left corner.
        sh: (9, 3) radiance, real spherical harmonics of GLB's world axes.
        sun_direction: (3,) towards the light, GLB axes; sun_rgb: (3,) irradiance.
        expression: ARKit name -> 0 to 1.
    """

    photo: Path
    size: tuple[int, int]
    cam_to_world: np.ndarray
    yfov: float
    principal: tuple[float, float]
    sh: np.ndarray
    sun_direction: np.ndarray
    sun_rgb: np.ndarray
    expression: dict[str, float]


@dataclass(frozen=True)
class ResultBundle:
    """A bundle as Blender needs it; `head` holds the arrays of `head.npz` by name, in GLB axes and metres."""

    folder: Path
    result: dict[str, Any]
    head: dict[str, np.ndarray]
    views: list[View]

    @property
    def name(self) -> str:
        """The person's name: the folder's."""
        return self.folder.name

    @property
    def part_names(self) -> list[str]:
        """Names of the parts, in the order of their numbers in `head["part"]`."""
        return [str(name) for name in self.head["part_names"]]

    @property
    def palette(self) -> np.ndarray:
        """(P, 3) sRGB-encoded colours in the order of `head["palette_names"]`."""
        return np.array([self.result["palette"][str(name)] for name in self.head["palette_names"]], np.float32)


def read_bundle(folder: Path) -> ResultBundle:
    """Reads a bundle and checks that what Blender needs is there and fits together.

    Raises:
        AddonError: `bundle_missing`, `bundle_version`, `bundle_damaged`.
    """
    folder = Path(folder).resolve()
    for name in (RESULT, HEAD):
        if not (folder / name).is_file():
            raise AddonError("bundle_missing", f"{folder} is not a result: it has no {name}.")
    try:
        result = json.loads((folder / RESULT).read_text("utf-8"))
        if result.get("version") != VERSION:
            text = f"The result {folder.name} has version {result.get('version')}; this add-on reads version {VERSION}."
            raise AddonError("bundle_version", text)
        with np.load(folder / HEAD, allow_pickle=False) as arrays:
            head = {name: arrays[name] for name in arrays.files}
        bundle = ResultBundle(folder, result, head, [_view(folder, view) for view in result["views"]])
        _check(bundle)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise AddonError("bundle_damaged", f"The result in {folder} is damaged ({error}).") from error
    return bundle


def _view(folder: Path, view: dict[str, Any]) -> View:
    camera, lights = view["camera"], view["lights"]
    width, height = camera["size"]
    principal_x, principal_y = camera["principal_point"]
    return View(
        photo=folder / Path(view["photo"]["file"]).name,
        size=(int(width), int(height)),
        cam_to_world=np.array(camera["cam_to_world"], np.float64).reshape(4, 4),
        yfov=float(camera["yfov"]),
        principal=(float(principal_x), float(principal_y)),
        sh=np.array(lights["sh"], np.float64).reshape(9, 3),
        sun_direction=np.array(lights["sun"]["direction"], np.float64).reshape(3),
        sun_rgb=np.array(lights["sun"]["rgb"], np.float64).reshape(3),
        expression={str(name): float(value) for name, value in view["expression"].items()},
    )


def _check(bundle: ResultBundle) -> None:
    """Shapes, index ranges and finite numbers; ValueError where they are wrong."""
    head = bundle.head
    count, quads = len(head["verts"]), len(head["quads"])
    shapes = {
        "verts": (count, 3),
        "quads": (quads, 4),
        "corner_uvs": (quads, 4, 2),
        "part": (quads,),
        "expression_deltas": (len(head["expression_names"]), count, 3),
        "offsets": (count, 3),
        "palette_weights": (count, len(head["palette_names"])),
    }
    if "identity_deltas" in head:
        shapes["identity_deltas"] = (len(head["identity_deltas"]), count, 3)
    for prefix in SHELLS:
        shapes |= _shell_shapes(head, prefix)
    for name, shape in shapes.items():
        if head[name].shape != shape:
            raise ValueError(f"{name} has the shape {head[name].shape}, not {shape}")
        if not np.isfinite(head[name]).all():
            raise ValueError(f"{name} has values that are not numbers")
    if not bundle.views:
        raise ValueError("it has no photo")
    if head["quads"].min() < 0 or head["quads"].max() >= count:
        raise ValueError("quads point to vertices that are not there")
    if SKIN not in bundle.part_names or head["part"].max() >= len(bundle.part_names):
        raise ValueError("the parts have no names")
    bundle.palette  # noqa: B018 - KeyError for a colour that is not there


def _shell_shapes(head: dict[str, np.ndarray], prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes that a shell's arrays should have, none without it; ValueError where its quads are wrong."""
    verts, quads, uvs = (f"{prefix}_{kind}" for kind in ("verts", "quads", "uvs"))
    if not head.keys() & {verts, quads, uvs}:
        return {}
    points, faces = len(head[verts]), len(head[quads])
    if max(points, faces) > MOST_SHELL:
        raise ValueError(f"{prefix} of more than {MOST_SHELL} vertices or quads")
    if not np.issubdtype(head[quads].dtype, np.integer):
        raise ValueError(f"{quads} are not whole numbers")
    if not faces or head[quads].min() < 0 or head[quads].max() >= points:
        raise ValueError(f"{quads} point to vertices that are not there")
    return {verts: (points, 3), quads: (faces, 4), uvs: (faces, 4, 2)}
