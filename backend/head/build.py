# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the head model from MakeHuman's files and this package's: the arrays that `backend.head.model` caches."""

from __future__ import annotations

import numpy as np

from backend.errors import GanfitError
from backend.head.cage import Cage, build_cage
from backend.head.landmarks import load_landmarks
from backend.head.lips import close_lips, lip_edges
from backend.head.occlusion import load_occlusion
from backend.head.parts import PALETTE_NAMES, PARTS
from backend.head.regions import region_masks
from backend.head.stat import load_identity_basis
from backend.head.subdivision import subdivide
from backend.head.uv_layout import layout_id, load_layout


def build_arrays(basis: str) -> dict[str, np.ndarray]:
    """All fields of the HeadModel as arrays without objects, as they are cached."""
    cage = build_cage()
    fine = subdivide(cage.quads, len(cage.verts))
    uv = skin_uv(cage)
    mean, modes = load_identity_basis(basis, cage)
    mean = _closed_mouth(cage, mean)
    masks = region_masks(cage)
    marks = load_landmarks(cage)
    matrix = fine.smooth
    matrix.sort_indices()
    arrays = {
        "verts0": mean, "identity": modes, "expression": cage.expression, "quads": cage.quads,
        "quad_part": cage.part, "vertex_part": cage.vertex_part, "makehuman_index": cage.makehuman_index,
        "mirror0": cage.mirror, "corner_uv": uv[cage.quads], "corner_uv_makehuman": cage.corner_uv_makehuman,
        "crow": matrix.indptr, "col": matrix.indices, "value": matrix.data, "tri1": fine.triangles,
        "tri1_part": np.repeat(cage.part[fine.parent], 2), "uv1": fine.linear @ uv,
        "palette_weights0": cage.palette_weights, "palette_weights1": fine.linear @ cage.palette_weights,
        "region_names": np.array(list(masks)), "region_masks": np.stack(list(masks.values())),
        "ao1": load_occlusion(len(matrix.indptr) - 1), "expression_names": np.array(cage.expression_names),
        "palette_names": np.array(PALETTE_NAMES), "layout_id": np.array(load_layout()[2]), "basis": np.array(basis),
    }
    for which in ("68", "468"):
        tri, weight, sigma = marks.level1(which, fine)
        arrays |= {f"tri{which}": tri, f"weight{which}": weight, f"sigma{which}": sigma}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}


def _closed_mouth(cage: Cage, mean: np.ndarray) -> np.ndarray:
    quads = cage.quads[cage.part == PARTS.index("skin")]
    count = int(quads.max()) + 1
    skin = mean[:count].astype(np.float64)
    jaw_open = cage.expression[cage.expression_names.index("jawOpen"), :count]
    edges = lip_edges(quads, cage.makehuman_index[:count], cage.verts)
    return np.concatenate([close_lips(skin, subdivide(quads, count).smooth, edges, jaw_open), mean[count:]])


def skin_uv(cage: Cage) -> np.ndarray:
    """UVs (V0, 2) of all cage vertices: the frozen layout on the skin, each part's own map elsewhere.

    Raises:
        GanfitError: layout_mismatch, when the frozen layout is not of this skin.
    """
    index, uv, name = load_layout()
    skin = cage.quads[cage.part == PARTS.index("skin")]
    count = len(index)
    if not np.array_equal(cage.makehuman_index[:count], index) or layout_id(skin, uv) != name:
        raise GanfitError("layout_mismatch", "The UV layout does not belong to the skin of the head that was built.")
    return np.concatenate([uv, cage.uv[count:]])
