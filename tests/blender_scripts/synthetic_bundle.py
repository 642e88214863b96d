# SPDX-License-Identifier: GPL-3.0-or-later
"""A small result bundle of known geometry, camera and lights, for tests of the add-on that need no fit."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

PARTS = ("skin", "eye_left", "eye_right", "teeth", "tongue", "lashes")
PALETTE = {"white": [0.9, 0.88, 0.85], "iris": [0.3, 0.45, 0.6], "flesh": [0.75, 0.4, 0.38], "hair": [0.1, 0.08, 0.06]}
ARKIT = (
    "browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
    "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
    "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
    "noseSneerRight tongueOut"
).split()
EXPRESSION = {"jawOpen": 0.45, "mouthSmileLeft": 0.6, "eyeBlinkRight": 0.3}


def write_png(path: Path, image: np.ndarray) -> None:
    """uint8 (H, W, 3 or 4) -> PNG."""
    height, width, channels = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(image))
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def grid_sphere(radii: tuple[float, float, float], centre: tuple[float, float, float], rows: int, columns: int,
                open_below: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An ellipsoid of quads with triangles at its poles (on the Y axis), outward: vertices, quads, corner UVs."""
    rings = rows - 1
    theta = np.pi * np.arange(1, rows) / rows
    phi = 2 * np.pi * np.arange(columns) / columns
    ring = np.stack(np.broadcast_arrays(np.sin(theta)[:, None] * np.sin(phi), np.cos(theta)[:, None],
                                        np.sin(theta)[:, None] * np.cos(phi)), -1).reshape(-1, 3)
    points = np.concatenate([ring, [[0, 1, 0]], [[0, -1, 0]]])
    quads, uvs = [], []
    for column in range(columns):
        right = (column + 1) % columns
        u0, u1 = column / columns, (column + 1) / columns
        for row in range(rings - 1):
            v0, v1 = 1 - (row + 1) / rows, 1 - (row + 2) / rows
            a, b = row * columns, (row + 1) * columns
            quads.append([a + column, b + column, b + right, a + right])
            uvs.append([[u0, v0], [u0, v1], [u1, v1], [u1, v0]])
        top, bottom, last = len(points) - 2, len(points) - 1, (rings - 1) * columns
        v0, v1 = 1 - 1 / rows, 1 / rows
        quads.append([column, right, top, top])
        uvs.append([[u0, v0], [u1, v0], [u0, 1.0], [u0, 1.0]])
        if not open_below:
            quads.append([last + right, last + column, bottom, bottom])
            uvs.append([[u1, v1], [u0, v1], [u0, 0.0], [u0, 0.0]])
    if open_below:
        points = points[:-1]
    return points * radii + centre, np.array(quads), np.array(uvs)


def head_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of `head.npz`: an egg-shaped head open at the neck, eyes, teeth, tongue and lashes as ellipsoids."""
    rng = np.random.default_rng(seed)
    bodies = {
        "skin": grid_sphere((0.075, 0.11, 0.09), (0, -0.02, -0.06), 18, 28, open_below=True),
        "eye_left": grid_sphere((0.0125,) * 3, (0.032, 0, 0.012), 8, 12),
        "eye_right": grid_sphere((0.0125,) * 3, (-0.032, 0, 0.012), 8, 12),
        "teeth": grid_sphere((0.02, 0.006, 0.006), (0, -0.075, 0.008), 5, 8),
        "tongue": grid_sphere((0.012, 0.004, 0.01), (0, -0.08, 0.0), 5, 8),
        "lashes": grid_sphere((0.014, 0.001, 0.003), (0.032, 0.011, 0.02), 4, 6),
    }
    verts, quads, uvs, parts, weights = [], [], [], [], []
    colour_of = {"eye_left": 0, "eye_right": 0, "teeth": 0, "tongue": 2, "lashes": 3, "skin": 2}
    for number, name in enumerate(PARTS):
        points, faces, corner_uvs = bodies[name]
        quads.append(faces + sum(map(len, verts)))
        verts.append(points)
        uvs.append(corner_uvs)
        parts.append(np.full(len(faces), number))
        weight = np.eye(len(PALETTE))[np.full(len(points), colour_of[name])]
        if name.startswith("eye"):
            front = points[:, 2] > points[:, 2].mean() + 0.009
            weight[front] = np.eye(len(PALETTE))[1]
        weights.append(weight)
    points = np.concatenate(verts)
    skin = len(verts[0])
    centres = np.stack([rng.uniform(-0.05, 0.05, 52), rng.uniform(-0.1, 0.05, 52), np.full(52, 0.02)], -1)
    falloff = np.exp(-((points[None] - centres[:, None]) ** 2).sum(-1) / 0.03**2)
    deltas = falloff[..., None] * rng.normal(0, 0.004, (52, 1, 3))
    deltas[:, skin:] *= (np.arange(52) % 4 == 0)[:, None, None]
    offsets = np.zeros_like(points)
    offsets[:skin, 2] = 0.003 * np.exp(-((points[:skin] - [0, -0.03, 0.03]) ** 2).sum(-1) / 0.02**2)
    shapes = np.zeros((3, *points.shape))
    shapes[0] = 0.04 * points * [1, 0, 0]
    shapes[1, :skin, 1] = 0.002 * np.cos(20 * points[:skin, 0])
    shapes[2, :, 2] = 0.001
    lips = np.exp(-((points - [0, -0.07, 0.02]) ** 2).sum(-1) / 0.02**2) * (np.arange(len(points)) < skin)
    quads, uvs = np.concatenate(quads), np.concatenate(uvs)
    return {
        "verts": points.astype(np.float32),
        "quads": quads.astype(np.int32),
        "corner_uvs": uvs.astype(np.float32),
        "corner_uvs_makehuman": (uvs * 0.5).astype(np.float32),
        "part": np.concatenate(parts).astype(np.uint8),
        "part_names": np.array(PARTS),
        "expression_names": np.array(ARKIT),
        "expression_deltas": deltas.astype(np.float32),
        "offsets": offsets.astype(np.float32),
        "identity_deltas": shapes.astype(np.float16),
        "identity_names": np.array(["shape_01", "shape_02", "shape_03"]),
        "makehuman_index": np.where(np.arange(len(points)) < skin, np.arange(len(points)) + 7, -1).astype(np.int32),
        "palette_weights": np.concatenate(weights).astype(np.float32),
        "palette_names": np.array(list(PALETTE)),
        "region_names": np.array(["face", "lips"]),
        "region_masks": np.stack([np.arange(len(points)) < skin, lips]).astype(np.float32),
    }


def cells(grid: np.ndarray) -> np.ndarray:
    """(R, C, ...), rows downwards -> (N, 4, ...): the corners of its cells, counter-clockwise seen from outside."""
    found = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
    return found.reshape(-1, *found.shape[2:])


def shell_arrays(radii: tuple[float, float, float], centre: tuple[float, float, float], low: float, dome: int = 10,
                 curtain: int = 8, columns: int = 32) -> dict[str, np.ndarray]:
    """The arrays of hair that stands off the head: half an ellipsoid, and a cylinder from its rim down to `low`."""
    theta, rows = np.linspace(-np.pi, np.pi, columns, endpoint=False), dome + curtain + 1
    polar = np.concatenate([np.linspace(0, np.pi / 2, dome + 1), np.full(curtain, np.pi / 2)])[:, None]
    points = np.stack(np.broadcast_arrays(np.sin(polar) * np.sin(theta), np.cos(polar), np.sin(polar) * np.cos(theta)),
                      -1) * radii + centre
    points[dome:, :, 1] = np.linspace(centre[1], low, curtain + 1)[:, None]
    ring = 1 + np.arange((rows - 1) * columns).reshape(rows - 1, columns)
    ring = np.concatenate([ring, ring[:, :1]], 1)
    at = np.stack(np.meshgrid(np.linspace(0, 1, columns + 1), 1 - np.arange(1, rows) / (rows - 1)), -1)
    quads, uvs = [cells(ring)], [cells(at)]
    first = np.arange(0, columns, 2)  # at the crown two triangles make a quad
    quads.append(np.stack([0 * first, ring[0, first], ring[0, first + 1], ring[0, first + 2]], -1))
    crown = np.stack([at[0, first + 1, 0], np.ones(len(first))], -1)
    uvs.append(np.stack([crown, at[0, first], at[0, first + 1], at[0, first + 2]], 1))
    return {"hair_verts": np.concatenate([points[:1, 0], points[1:].reshape(-1, 3)]).astype(np.float32),
            "hair_quads": np.concatenate(quads).astype(np.int32), "hair_uvs": np.concatenate(uvs).astype(np.float32)}


def shell_picture(height: int = 128, width: int = 256) -> np.ndarray:
    """(height, width, 4) uint8 sRGB and cover: brown locks that leave the face bare and hang down beside it."""
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    light = 1 + 0.2 * np.sin(20 * np.pi * u) * np.cos(5 * np.pi * v)
    beside = np.clip((np.abs(2 * u - 1) - 0.35) / 0.04, 0, 1)  # 0 before the face
    cover = np.maximum(beside * np.clip((0.95 - v) / 0.02, 0, 1), np.clip((0.4 - v) / 0.04, 0, 1))
    color = light[..., None] * np.array([120, 84, 50]) * (1 + 0.3 * v[..., None])
    return np.concatenate([color, 255 * cover[..., None]], -1).clip(0, 255).round().astype(np.uint8)


def add_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Adds arrays to those of a bundle that is written."""
    with np.load(folder / "head.npz") as head:
        arrays = {**head, **arrays}
    np.savez(folder / "head.npz", **arrays)


def add_shell(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Gives a bundle that is written hair which stands off the head."""
    add_arrays(folder, arrays)
    write_png(folder / "hair_shell.png", shell_picture())


EGG_SHELL = shell_arrays((0.09, 0.125, 0.105), (0.0, -0.02, -0.06), -0.1)
"""Hair for the head of `head_arrays`, 1.5 cm over its skin."""


def glasses_arrays(width: float, depth: float, centre: tuple[float, float], rows: int = 4,
                   columns: int = 40) -> dict[str, np.ndarray]:
    """The arrays of glasses: half an elliptic ribbon from ear to ear before the eyes, of half this width, whose centre
    (y, z) lies between the ears."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, columns + 1)
    x, y = np.meshgrid(width * np.sin(turn), np.linspace(0.022, -0.022, rows + 1) + centre[0])
    z = np.broadcast_to(centre[1] + depth * np.cos(turn), x.shape)
    at = np.stack(np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(1, 0, rows + 1)), -1)
    return {"glasses_verts": np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32),
            "glasses_quads": cells(np.arange(x.size).reshape(x.shape)).astype(np.int32),
            "glasses_uvs": cells(at).astype(np.float32)}


def glasses_picture(height: int = 64, width: int = 320) -> np.ndarray:
    """(height, width, 4) uint8 sRGB and cover: dark frames with tinted lenses, a bridge and arms; the rest is clear."""
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    side = np.abs(2 * u - 1)
    lens = np.hypot((side - 0.25) / 0.17, (v - 0.5) / 0.45)
    cover = np.where(lens < 0.85, 0.15, np.where(lens < 1, 1.0, 0.0))
    bars = (np.abs(v - 0.45) < 0.06) & ((side < 0.09) | (side > 0.41))
    return np.concatenate([np.broadcast_to([30, 25, 40], (*u.shape, 3)), 255 * np.maximum(cover, bars)[..., None]],
                          -1).round().astype(np.uint8)


def add_glasses(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Gives a bundle that is written glasses."""
    add_arrays(folder, arrays)
    write_png(folder / "glasses.png", glasses_picture())


EGG_GLASSES = glasses_arrays(0.085, 0.105, (0.0, -0.06))
"""Glasses for the head of `head_arrays`, 1 cm off its skin."""


def look_at(eye: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """(4, 4) camera to world, GLB axes: looks along -Z at the target, rolled by radians."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([np.sin(roll), np.cos(roll), 0.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    matrix[:3, 3] = eye
    return matrix


def view(number: int, size: tuple[int, int], eye: tuple[float, float, float], principal: tuple[float, float],
         sh: np.ndarray, sun: tuple[list[float], list[float]]) -> dict:
    """A view of `result.json`."""
    names = {"photo": f"photo_{number:02d}.png", "render": f"render_{number:02d}.png",
             "overlay": f"overlay_{number:02d}.jpg"}
    matrix = look_at(np.array(eye), np.array([0.0, -0.02, -0.03]), 0.1)
    direction = np.array(sun[0]) / np.linalg.norm(sun[0])
    return {
        "photo": {"file": names["photo"], "name": f"person_{number}.jpg", "sha256": "0" * 64, "size": list(size)},
        "camera": {"cam_to_world": matrix.tolist(), "yfov": 0.42 + 0.05 * number, "principal_point": list(principal),
                   "size": list(size)},
        "lights": {"sh": sh.tolist(), "sun": {"direction": direction.tolist(), "rgb": sun[1]}},
        "expression": {name: EXPRESSION.get(name, 0.0) / (number + 1) for name in ARKIT},
        "files": names,
    }


def default_lights() -> np.ndarray:
    """(9, 3) radiance: positive over the sphere, brightest from the subject's upper left front."""
    sh = np.zeros((9, 3))
    sh[0] = [2.2, 2.0, 1.9]
    sh[1], sh[2], sh[3] = [0.35, 0.3, 0.3], [0.4, 0.35, 0.3], [0.5, 0.3, 0.1]
    sh[4], sh[8] = [0.1, 0.05, 0.0], [0.05, 0.1, 0.1]
    return sh


def make_bundle(folder: Path, views: int = 1, seed: int = 0, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """Writes a bundle (without renders and GLB) and returns its folder; `arrays` replaces the synthetic head."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays or head_arrays(seed)
    np.savez(folder / "head.npz", **arrays)
    sizes = [(320, 400), (300, 200)]
    described = []
    for number in range(views):
        size = sizes[number % 2]
        principal = (size[0] / 2 + 21.5, size[1] / 2 - 13.25)
        eye = (0.25 - 0.4 * number, 0.1, 0.75)
        described.append(view(number, size, eye, principal, default_lights(), ([0.5, 0.6, 0.8], [0.9, 0.7, 0.5])))
        y, x = np.mgrid[: size[1], : size[0]]
        photo = np.stack([x * 255 // size[0], y * 255 // size[1], np.full_like(x, 90)], -1)
        write_png(folder / f"photo_{number:02d}.png", photo.astype(np.uint8))
    y, x = np.mgrid[:128, :128]
    albedo = np.stack([150 + x // 2, 110 + y // 3, 90 + (x + y) // 8], -1)
    write_png(folder / "albedo.png", albedo.astype(np.uint8))
    palette = {str(name): PALETTE.get(str(name), [0.7, 0.5, 0.45]) for name in arrays["palette_names"]}
    result = {
        "version": 1, "layout_id": "synthetic", "views": described,
        "shape": {"basis": "makehuman", "coefficients": [0.0] * 4, "scale": 1.0},
        "texture": {"latent": [0.0] * 512, "generator_sha256": "0" * 64, "size": 128},
        "palette": palette, "losses": {"pixel": [1.0, 0.5]}, "timings": {"fit": 1.0}, "device": "cpu",
        "packages": {}, "assets": {}, "seed": seed, "options": {}, "warnings": [],
    }
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    return folder


if __name__ == "__main__":
    import sys

    print(make_bundle(Path(sys.argv[1])))
