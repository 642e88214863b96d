# SPDX-License-Identifier: GPL-3.0-or-later
"""Where landmarks sit on the head: 68 iBUG points, MediaPipe's 468, contours for the silhouette.

A landmark is a fixed point of the skin: a triangle of the subdivided head and barycentric weights. The 68 are those of
ICT-FaceKit's README (MIT), carried over by registration. The 468 are where MediaPipe's network puts them:
photographic heads of known geometry are rendered from several sides, the network's points are traced back to the
surface and averaged over people and views, so the network's own habits are part of the definition; `sigma` is how
much it scatters around it. Then they go towards where it puts them on people, see `backend.fit.people`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import GanfitError
from backend.head.eyes import IRIS_RADIUS, RINGS, SEGMENTS
from backend.head.parts import PARTS

if TYPE_CHECKING:
    from backend.head.cage import Cage
    from backend.head.subdivision import Subdivision

LANDMARK_MAP = Path(__file__).with_name("landmark_map.npz")

# fmt: off
IBUG_FROM_MEDIAPIPE = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178,
)
"""The face-mesh point next to each of the 68 iBUG points (jaw points correspond only roughly)."""
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
"""MediaPipe's points on the outline of the face, from the forehead over the subject's left; they slide."""
LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LIPS_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
EYE_RIGHT = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
EYE_LEFT = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
"""Rims of lips and lids (subject's right and left) in MediaPipe's numbering."""
# fmt: on
JAW68 = tuple(range(17))


@dataclass(frozen=True)
class LandmarkMap:
    """Landmarks on the skin's level-1 triangles.

    tri (N,) triangle numbers (the skin's faces come first, so they hold for the skin alone and for the whole head),
    weight (N, 3) barycentric, sigma (N,) metres: scatter of the detector's points around the definition, for each of
    "68", "468". mirror468 (468,) the point on the other side. contour_tri (17, C), contour_weight (17, C, 3): for
    each jaw point of the 68 candidates across the jaw line, from the cheek to the neck, among which the silhouette
    may choose.
    """

    tri: dict[str, np.ndarray]
    weight: dict[str, np.ndarray]
    sigma: dict[str, np.ndarray]
    mirror468: np.ndarray
    contour_tri: np.ndarray
    contour_weight: np.ndarray

    def level1(self, which: str, fine: Subdivision | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tri (N,) into the head's level-1 triangles, weight (N, 3), sigma (N,) metres) of "68" or "468"."""
        return self.tri[which], self.weight[which], self.sigma[which]

    def positions(self, verts1: np.ndarray, tri1: np.ndarray, which: str = "68") -> np.ndarray:
        """Landmarks (N, 3) on level-1 vertices (V1, 3) with triangles (T, 3)."""
        return np.einsum("nk,nkd->nd", self.weight[which], verts1[tri1[self.tri[which]]])


@lru_cache(maxsize=1)
def _read(path: Path) -> LandmarkMap:
    with np.load(path, allow_pickle=False) as data:
        names = ("68", "468")
        return LandmarkMap(
            {n: data[f"tri{n}"].astype(np.int64) for n in names},
            {n: data[f"weight{n}"].astype(np.float32) for n in names},
            {n: data[f"sigma{n}"].astype(np.float32) for n in names},
            data["mirror468"].astype(np.int64),
            data["contour_tri"].astype(np.int64),
            data["contour_weight"].astype(np.float32),
        )


def load_landmarks(cage: Cage | None = None, path: Path = LANDMARK_MAP) -> LandmarkMap:
    """The committed landmarks; `cage` is checked to be the one that they were made for (GanfitError
    landmark_mismatch)."""
    if cage is not None:
        with np.load(path, allow_pickle=False) as data:
            index = data["skin_index"]
        if not np.array_equal(cage.makehuman_index[: len(index)], index):
            raise GanfitError(
                "landmark_mismatch",
                "The landmark map belongs to another version of the head.",
                hint="Reinstall the backend; its files do not fit together.",
            )
    return _read(path)


def iris_vertices(part: np.ndarray) -> np.ndarray:
    """Cage vertices (2, 5) of the irises of the subject's right and left eye: centre, then the rim at the subject's
    left, above, at the right, below. part: (V0,) index into PARTS of every cage vertex."""
    ring = 1 + SEGMENTS * int(np.argmin([abs(radius - IRIS_RADIUS) for radius, _ in RINGS]))
    quarter = SEGMENTS // 4
    rows = []
    for name, order in (("eye_right", (2, 1, 0, 3)), ("eye_left", (0, 1, 2, 3))):  # the right eye is a mirror image
        first = int(np.flatnonzero(part == PARTS.index(name))[0])
        rows.append([first, *(first + ring + quarter * k for k in order)])
    return np.array(rows)
