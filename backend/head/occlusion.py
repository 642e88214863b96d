# SPDX-License-Identifier: GPL-3.0-or-later
"""Ambient occlusion of a triangle mesh from depth maps along many directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

OCCLUSION_FILE = Path(__file__).with_name("occlusion.npz")


def load_occlusion(count: int) -> np.ndarray:
    """The stored ambient occlusion (V1,) of the mean head at level 1, in [0, 1]."""
    with np.load(OCCLUSION_FILE, allow_pickle=False) as data:
        stored = data["occlusion"].astype(np.float32) / 255
    if len(stored) != count:
        return np.ones(count, np.float32)
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
    steps = np.clip(np.ceil(longest / spacing).astype(int), 1, 40)
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
