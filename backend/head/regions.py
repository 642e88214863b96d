# SPDX-License-Identifier: GPL-3.0-or-later
"""Named regions of the head as masks over the cage's vertices, placed on MakeHuman's mean adult."""

from __future__ import annotations

import numpy as np

from backend.head.cage import Cage
from backend.head.parts import PARTS

ZONES = ("face", "forehead", "ear_left", "ear_right", "scalp", "neck", "mouth_bag", "socket", "nostril")
"""Regions that share the skin out: every skin vertex is in exactly one."""
REGIONS = (*ZONES, "brow", "eyes", "nose", "lips", "cheek", "chin", "jaw")

BROW_TOP = 0.030
HAIRLINE = 0.078
EAR_FRONT = -0.066
NAPE = -0.048
"""Height of the hairline behind, where the neck begins (metres below the eyes)."""
JAW_LINE = ((-0.068, -0.045), (-0.058, -0.062), (-0.040, -0.094), (-0.010, -0.109), (0.015, -0.1155), (0.045, -0.121))
"""(z, y) of the lower border of the face, from below the ear lobe to the chin (metres)."""
NOSTRIL_FLOOR = (7106, 7142, 7152, 7155)
"""MakeHuman vertices of the left nostril's floor."""
EAR_TARGETS = ("ears/{}-ear-wing-incr", "ears/{}-ear-lobe-incr")
EAR_MOTION = 1e-3

BLOBS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "brow": ((0.033, 0.019, 0.022), (0.021, 0.0075, 0.02)),
    "eyes": ((0.0315, -0.001, 0.016), (0.021, 0.013, 0.02)),
    "nose": ((0.0, -0.032, 0.035), (0.019, 0.027, 0.025)),
    "lips": ((0.0, -0.068, 0.034), (0.027, 0.0125, 0.022)),
    "cheek": ((0.042, -0.045, 0.010), (0.021, 0.024, 0.032)),
    "chin": ((0.0, -0.103, 0.030), (0.024, 0.017, 0.025)),
}
"""Centre (left side) and half axes of the soft ellipsoids for the parts of the face."""


def _inside(cage: Cage, skin_quads: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Vertices (V,) bool that touch the chosen skin quads only."""
    touched, shared = np.zeros(len(cage.verts), bool), np.zeros(len(cage.verts), bool)
    touched[skin_quads[chosen]] = True
    shared[skin_quads[~chosen]] = True
    return touched & ~shared


def _ear(cage: Cage, side: str) -> np.ndarray:
    rows = [cage.identity_names.index(target.format(side)) for target in EAR_TARGETS]
    return (np.linalg.norm(cage.identity[rows], axis=2) > EAR_MOTION).any(0)


def skin_zones(cage: Cage) -> np.ndarray:
    """Index into ZONES of every skin vertex (V,), -1 for the other parts."""
    quads = cage.quads[cage.part == PARTS.index("skin")]
    centre = cage.corner_uv_makehuman[cage.part == PARTS.index("skin")].mean(1)
    bag = _inside(cage, quads, (centre[:, 0] > 0.75) & (centre[:, 1] < 0.14))
    socket = _inside(cage, quads, (centre[:, 0] < 0.16) & (centre[:, 1] > 0.54) & (centre[:, 1] < 0.64))
    floor = np.isin(cage.makehuman_index, NOSTRIL_FLOOR)
    nostril = np.zeros(len(cage.verts), bool)
    nostril[floor | floor[cage.mirror]] = True

    _, y, z = cage.verts.T
    zone = np.full(len(cage.verts), ZONES.index("scalp"))
    zone[y < NAPE] = ZONES.index("neck")
    zone[(y >= BROW_TOP) & (y < HAIRLINE) & (z > -0.04 + 0.3 * (y - BROW_TOP))] = ZONES.index("forehead")
    jaw = np.interp(z, *np.transpose(JAW_LINE))
    zone[(y > jaw) & (y < BROW_TOP) & (z > EAR_FRONT)] = ZONES.index("face")
    for name, mask in (("ear_left", _ear(cage, "l")), ("ear_right", _ear(cage, "r")), ("mouth_bag", bag),
                       ("socket", socket), ("nostril", nostril)):
        zone[mask] = ZONES.index(name)
    skin = np.zeros(len(cage.verts), bool)
    skin[quads] = True
    return np.where(skin, zone, -1)


def quad_zones(cage: Cage, zone: np.ndarray) -> np.ndarray:
    """Index into ZONES of every skin quad (Qs,): hidden zones win with half of the corners, else the majority."""
    corners = zone[cage.quads[cage.part == PARTS.index("skin")]]
    count = np.stack([(corners == i).sum(1) for i in range(len(ZONES))], axis=1).astype(float)
    count[:, [ZONES.index(n) for n in ("mouth_bag", "socket", "nostril")]] += 0.5
    return count.argmax(1)


def region_masks(cage: Cage) -> dict[str, np.ndarray]:
    """Masks (V,) float32 in [0, 1] for all REGIONS; zones are 0 or 1, the parts of the face fade out."""
    zone = skin_zones(cage)
    masks = {name: (zone == i).astype(np.float32) for i, name in enumerate(ZONES)}
    mirrored = cage.verts * [-1, 1, 1]
    outer = masks["face"] + masks["forehead"]
    for name, (centre, axes) in BLOBS.items():
        distance = np.minimum(*(np.linalg.norm((p - centre) / axes, axis=1) for p in (cage.verts, mirrored)))
        masks[name] = (outer * np.clip(2 - 1.5 * distance, 0, 1)).astype(np.float32)
    above = cage.verts[:, 1] - np.interp(cage.verts[:, 2], *np.transpose(JAW_LINE))
    masks["jaw"] = (masks["face"] * np.clip(2 - above / 0.012, 0, 1)).astype(np.float32)
    return masks
