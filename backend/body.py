# SPDX-License-Identifier: GPL-3.0-or-later
"""MakeHuman's whole base mesh as arrays for Blender: both sexes' average adult, UVs, vertex groups."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np

from backend.assets import require
from backend.head import makehuman

VERSION = 1
"""Version of the file's contents."""


def body_arrays(folder: Path | None = None) -> dict[str, np.ndarray]:
    """The base mesh with all helpers, in MakeHuman's order, decimetres, +Y up, +Z ahead, +X the subject's left.

    Args:
        folder: holds `mpfb2/`; by default the installed asset `makehuman`.

    Returns:
        version (): VERSION. verts (N, 3) float32: base.obj. female, male (N, 3) float32: what leads from there to the
        average young adult of the sex. quads (F, 4) int32; corner_uvs (F, 4, 2) float32, v up. group_names (G,): the
        vertex groups that MPFB makes, and group_ranges (R, 3) int32: number of the group, first and last vertex.

    Raises:
        GanfitError: asset_missing.
    """
    folder = folder or require("makehuman")
    base = makehuman.read_base(folder)
    definitions = json.loads((folder / "mpfb2/mesh_metadata/basemesh_vertex_groups.json").read_text("utf-8"))
    names = list(definitions)
    ranges = [(names.index(name), first, last) for name, spans in definitions.items() for first, last in spans]
    adults = {sex: average_adult(folder, sex, len(base.verts)) for sex in makehuman.SEXES}
    return {
        "version": np.array(VERSION),
        "verts": base.verts.astype(np.float32),
        **{sex: delta.astype(np.float32) for sex, delta in adults.items()},
        "quads": base.quads.astype(np.int32),
        "corner_uvs": base.uv[base.uv_quads].astype(np.float32),
        "group_names": np.array(names),
        "group_ranges": np.array(ranges, np.int32),
    }


def average_adult(folder: Path, sex: str, count: int) -> np.ndarray:
    """Displacement (count, 3), decimetres, of the average young adult of a sex, over MakeHuman's ethnicities."""
    macros = folder / "mpfb2/targets/macrodetails"
    young = [makehuman.read_target(macros / f"{e}-{sex}-young.target.gz", count) for e in makehuman.ETHNICITIES]
    physique = makehuman.read_target(macros / f"universal-{sex}-young-averagemuscle-averageweight.target.gz", count)
    return np.mean(young, axis=0) + physique


@cache
def body_npz(folder: Path | None = None) -> bytes:
    """`body_arrays` as a compressed .npz without pickle (0.8 MB), made once: it takes a third of a second."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **body_arrays(folder))
    return buffer.getvalue()
