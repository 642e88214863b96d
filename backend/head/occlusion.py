# SPDX-License-Identifier: GPL-3.0-or-later
"""Ambient occlusion of a triangle mesh from depth maps along many directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.head.parts import PARTS

OCCLUSION_FILE = Path(__file__).with_name("occlusion.npz")
OPEN_MOUTH = {"jawOpen": 0.45, "mouthUpperUpLeft": 0.8, "mouthUpperUpRight": 0.8, "mouthSmileLeft": 0.8,
              "mouthSmileRight": 0.8, "mouthLowerDownLeft": 0.7, "mouthLowerDownRight": 0.7}
"""The pose in which teeth, tongue and the mouth's lining are lit: what is seen of them is seen in an open mouth."""

INTERREFLECTION = {"teeth": 0.25, "tongue": 0.6}
"""Exponents that brighten teeth and tongue, which light each other; teeth also shine through. In 22 photographed smiles
the brightest quarter of the open mouth is 1.2 times as bright as the cheeks: 0.6 for the teeth made half of that."""

GROOVE = 8000.0
"""Teeth are darkened by exp(-GROOVE d) where they lie d metres deeper than around: the grooves between them, a tenth of
a millimetre deep, are finer than the depth maps."""


def load_occlusion(count: int) -> np.ndarray:
    """The stored ambient occlusion (V1,) of the mean head at level 1, in [0, 1].

    Raises: ValueError if it was computed for another number of vertices.
    """
    if not OCCLUSION_FILE.exists():  # while it is being computed
        return np.ones(count, np.float32)
    with np.load(OCCLUSION_FILE, allow_pickle=False) as data:
        stored = data["occlusion"].astype(np.float32) / 255
    if len(stored) != count:
        raise ValueError(f"{OCCLUSION_FILE.name} is for {len(stored)} vertices, not {count}: run this module anew")
    return stored


def sphere_axes(count: int) -> np.ndarray:
    """(count, 3) unit axes that, with their opposites, are spread evenly over the sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1 - index / count
    turn = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - z * z)
    return np.stack([np.cos(turn) * radius, np.sin(turn) * radius, z], axis=1)


def surface_samples(verts: np.ndarray, tri: np.ndarray, spacing: float) -> np.ndarray:
    """Points (N, 3) on the triangles, at most about `spacing` apart."""
    corners = verts[tri]
    longest = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2).max(1)
    steps = np.clip(np.ceil(longest / spacing).astype(int), 1, 500)
    points = []
    for n in np.unique(steps):
        i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
        keep = i + j <= n
        weights = np.stack([i[keep], j[keep], n - i[keep] - j[keep]], axis=1) / n
        points.append(np.einsum("pc,tcx->tpx", weights, corners[steps == n]).reshape(-1, 3))
    return np.concatenate(points)


def vertex_normals(verts: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    first, second = verts[tri[:, 1]] - verts[tri[:, 0]], verts[tri[:, 2]] - verts[tri[:, 0]]
    face = np.cross(first, second)
    normals = np.zeros_like(verts)
    for corner in range(3):
        np.add.at(normals, tri[:, corner], face)
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-20)


def ambient_occlusion(verts: np.ndarray, tri: np.ndarray, occluders: np.ndarray, axes: int = 32,
                      pixel: float = 0.0015, bias: float = 0.0018) -> np.ndarray:
    """Share of a white sky's irradiance that reaches every vertex.

    Args:
        verts: (V, 3) metres.
        tri: (T, 3) all triangles, for the normals.
        occluders: (T,) bool, triangles that cast shadow.
        axes: number of axes; the sky is seen along both directions of each.
        pixel: size of the depth maps' pixels, metres.
        bias: distance to its depth map that a point needs to be in shadow, metres.

    Returns: (V,) in [0, 1].
    """
    verts = verts.astype(np.float32)
    normals = vertex_normals(verts, tri)
    samples = surface_samples(verts, tri[occluders], pixel)
    open_sky, sky = np.zeros(len(verts)), np.zeros(len(verts))
    for axis in sphere_axes(axes).astype(np.float32):
        side = np.cross(axis, [0.0, 1.0, 0.0] if abs(axis[1]) < 0.9 else [1.0, 0.0, 0.0])
        side /= np.linalg.norm(side)
        frame = (np.stack([side, np.cross(axis, side)], axis=1) / pixel).astype(np.float32)
        cell = samples @ frame
        low = cell.min(0) - 2
        cell = (cell - low).astype(np.int32)
        width, height = cell.max(0) + 3
        flat, depth = cell[:, 1] * width + cell[:, 0], samples @ axis
        lifted = verts + bias * normals
        at = np.clip((lifted @ frame - low).astype(np.int32), 0, [width - 1, height - 1])
        at, height_here = at[:, 1] * width + at[:, 0], lifted @ axis
        for sign in (1.0, -1.0):
            top = np.full(width * height, -np.inf, np.float32)
            np.maximum.at(top, flat, sign * depth)
            facing = np.clip(sign * (normals @ axis), 0, None)
            sky += facing
            open_sky += facing * (sign * height_here + bias > top[at])
    return np.clip(open_sky / np.maximum(sky, 1e-9), 0, 1)


def groove_depth(verts: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """(V,) how far along its normal a vertex of (V, 3) lies below the mean of its neighbours; 0 where it does not, and
    away from the triangles (T, 3)."""
    edges = np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]])
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    near = np.zeros_like(verts)
    np.add.at(near, edges[:, 0], verts[edges[:, 1]])
    count = np.bincount(edges[:, 0], minlength=len(verts))[:, None]
    offset = np.where(count > 0, near / np.maximum(count, 1) - verts, 0)
    return (offset * vertex_normals(verts, tri)).sum(1).clip(min=0)


def main() -> None:
    """Compute the occlusion of the mean head and write `occlusion.npz`."""
    import torch
    from scipy.spatial import cKDTree

    from backend.head.cage import build_cage
    from backend.head.model import load_head

    OCCLUSION_FILE.unlink(missing_ok=True)
    head = load_head()
    expression = torch.zeros(2, 52)
    for name, weight in OPEN_MOUTH.items():
        expression[1, head.expression_names.index(name)] = weight
    verts1 = head.subdivide(head.cage(torch.zeros(2, 1), expression)).numpy()
    tri, part = head.tri1.numpy(), head.tri1_part.numpy()
    occluders = part != PARTS.index("lashes")
    closed, opened = (ambient_occlusion(v, tri, occluders) for v in verts1)
    inner = head.subdivide(head.regions["mouth_bag"][None, :, None])[0, :, 0].numpy()
    for name, exponent in INTERREFLECTION.items():
        bright = np.unique(tri[part == PARTS.index(name)])
        inner[bright] = 1
        opened[bright] **= exponent
    opened *= np.exp(-GROOVE * groove_depth(verts1[1], tri[part == PARTS.index("teeth")]))
    value = closed + inner * (opened - closed)
    value[tri[~occluders]] = 1

    symmetric = head.subdivide(torch.tensor(build_cage().verts, dtype=torch.float32)[None])[0].numpy()
    _, mirror = cKDTree(symmetric).query(symmetric * [-1, 1, 1])
    value = np.round(255 * np.clip((value + value[mirror]) / 2, 0, 1)).astype(np.uint8)
    np.savez_compressed(OCCLUSION_FILE, occlusion=value)
    print(f"{OCCLUSION_FILE}: {len(value)} vertices, mean {value.mean() / 255:.3f}")


if __name__ == "__main__":
    main()
