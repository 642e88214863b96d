# SPDX-License-Identifier: GPL-3.0-or-later
"""What textured heads of known shape say beside ICT-FaceKit's statistics: where the landmark network puts its points on
people, and in what direction another population's mean lies.

`python -m backend.fit.people --averages DIR --avatars DIR` registers our head to the twelve average faces of the R
package facefuns (six ages of women and of men, ten scanned people each; MIT, (c) 2020 Iris Holzleitner; DIR holds its
folders `ply`, `obj` and `png`) and to the VALID avatars (MIT, (c) 2022 Tiffany Do), and writes
- landmark_map.npz: the 468 points, `SHARE` of the way from those of avatars to those of the average faces;
- calibration.npz: one more identity component, from the mean head to the avatars' mean.
Whatever an earlier run wrote there is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from backend.head.cage import build_cage
from backend.head.landmarks import FACE_OVAL, LANDMARK_MAP, LIPS_INNER
from backend.head.registration import HAIR_TRUST, Registration, SurfaceIndex, Template, register
from backend.head.stat import (
    CALIBRATION,
    COMPONENTS,
    Calibration,
    Skin,
    load_calibration,
    load_identity_basis,
    save_calibration,
    skin_of,
    template_of,
)
from backend.head.subdivision import subdivide
from backend.render.raster import get_rasterizer
from backend.texture.data import read_image
from backend.texture.uvmap import sample_image

VIEW_SIZE, VIEW_WIDTH_M, BEHIND_NOSE_M = 640, 0.288, 0.04
"""The picture from the front that the network sees: its side in pixels and metres, and its middle's depth."""
RIDGE = (1e-7, 1e-9)
"""Prior on the coefficients, see `register`: half a millimetre of residual at 250 independent points."""
LANDMARK_WEIGHT = 0.4
"""Trust in the found points against the surface, see `register`: 1.5 mm at 100 independent points."""
NOSE_TIP, REACH_M = 4, 0.097
"""What of a head counts lies within this distance of this point: no hair, no neck."""
SHARE = 0.6
"""How far the 468 points go from where they are on avatars to where they are on people.

MICC mm of full fits, the bench's scan (3 photos) and its avatars (12): 1.05 and 0.96 with 0 and without the added
component, 1.03 and 0.92 with 0.5 and it, 0.99 and 0.93 with 0.7, 0.94 and 0.94 with 0.6 and the registration as it is
here; a second real head in four views: 1.81, 1.73, 1.70, 1.68.
"""
AGES = (18, 26, 36, 46, 56, 66)


@dataclass(frozen=True)
class TexturedHead:
    """verts (N, 3) metres, y up, z forward; tris (T, 3); corner_uv (T, 3, 2), v up; image (H, W, 3) sRGB in [0, 1];
    eyes: vertices and triangles of meshes without a picture, grey."""

    name: str
    verts: np.ndarray
    tris: np.ndarray
    corner_uv: np.ndarray
    image: np.ndarray
    eyes: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) and triangles (T, 3) of a binary PLY with nothing else in it."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").split("\n")
    if "format binary_little_endian 1.0" not in lines:
        raise ValueError(f"{path.name} is no binary little-endian PLY")
    count = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element ")}
    verts = np.frombuffer(body, "<f4", 3 * count["vertex"]).reshape(-1, 3)
    faces = np.frombuffer(body, [("n", "u1"), ("corner", "<i4", 3)], count["face"], verts.nbytes)
    if (faces["n"] != 3).any():
        raise ValueError(f"{path.name} has faces that are no triangles")
    return verts.astype(float), faces["corner"].astype(np.int64)


def average_faces(folder: Path) -> Iterator[TexturedHead]:
    """The twelve average faces. They share their triangles with an example, whose file alone has the UVs."""
    lines = (folder / "obj" / "example.wavefront").read_text().splitlines()
    uv = np.array([line.split()[1:3] for line in lines if line.startswith("vt ")], float)
    for name in (f"{sex}{age}" for sex in "fm" for age in AGES):
        verts, tris = read_ply(folder / "ply" / f"{name}.ply")
        yield TexturedHead(name, verts / 1e3, tris, uv[tris], read_image(folder / "png" / f"avg_{name}.png"))


def avatars(folder: Path) -> Iterator[TexturedHead]:
    """The VALID avatars; what lies below the shoulders or behind the ears is left out."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            verts, tris = data["skin_verts"].astype(float), data["skin_faces"].astype(np.int64)
            uv = data["skin_corner_uvs"].astype(float)
            eyes = tuple((data[f"{e}_verts"].astype(float), data[f"{e}_faces"]) for e in ("l_eye", "r_eye"))
        middle = verts[tris].mean(1)
        near = (middle[:, 1] > -0.18) & (middle[:, 2] > -0.12)
        image = read_image(path.with_name(f"{path.stem}_albedo.webp"))
        yield TexturedHead(path.stem, verts, tris[near], uv[near], image, eyes)


def front_view(head: TexturedHead) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The unlit head from the front, no perspective: picture (S, S, 3) uint8 over grey, triangle (S, S) at each pixel,
    -1 for none and for eyes, and the place (S, S, 3) there, metres."""
    corners = head.verts[head.tris].reshape(-1, 3)
    meshes = [(corners, np.arange(len(corners)).reshape(-1, 3)), *head.eyes]
    starts = np.cumsum([0, *(len(verts) for verts, _ in meshes)])
    verts = np.concatenate([verts for verts, _ in meshes])
    tris = np.concatenate([tris + start for start, (_, tris) in zip(starts, meshes, strict=False)])
    middle = corners[corners[:, 2].argmax()] * (0, 1, 1) - (0, 0, BEHIND_NOSE_M)
    clip = np.concatenate([(verts - middle) / (VIEW_WIDTH_M / 2) * (1, 1, -0.5), np.ones((len(verts), 1))], 1)
    pos, faces = torch.tensor(clip[None], dtype=torch.float32), torch.tensor(tris, dtype=torch.int32)
    raster = get_rasterizer("cpu")
    rast = raster.rasterize(pos, faces, (VIEW_SIZE, VIEW_SIZE))
    uv = np.concatenate([head.corner_uv.reshape(-1, 2), np.zeros((len(verts) - len(corners), 2))])
    drawn = raster.interpolate(torch.tensor(np.concatenate([verts, uv], 1)[None], dtype=torch.float32), rast, faces)
    place, where = np.split(drawn[0].flip(0).numpy(), [3], -1)
    number = rast[0, ..., 3].flip(0).long().numpy() - 1
    skin = (number >= 0) & (number < len(head.tris))
    picture = np.where(skin[..., None], sample_image(head.image, where), 0.45)
    return (255 * picture.clip(0, 1)).astype(np.uint8), np.where(skin, number, -1), place


def found_points(head: TexturedHead) -> np.ndarray:
    """(468, 3) metres: the network's points on the head, traced back from `front_view`; NaN where they miss it.

    Raises ValueError where the network sees no face.
    """
    from backend.networks.detector import FaceDetector
    from backend.networks.facemesh import FaceMesh

    picture, number, place = front_view(head)
    faces = FaceDetector().detect(picture)
    if not faces:
        raise ValueError(f"no face is seen in {head.name}")
    x, y = np.floor(np.asarray(FaceMesh().landmarks(picture, faces[0]).points)[:, :2]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < VIEW_SIZE) & (y < VIEW_SIZE)
    x, y = (np.clip(axis, 0, VIEW_SIZE - 1) for axis in (x, y))
    hit = inside & (number[y, x] >= 0)
    return np.where(hit[:, None], place[y, x], np.nan)


@dataclass(frozen=True)
class Marks:
    """The 468 points on the level-1 skin: tri (468,), weight (468, 3)."""

    tri: np.ndarray
    weight: np.ndarray

    def rows(self, corners: np.ndarray, count: int) -> sp.csr_matrix:
        """(468, count) weights of the level-1 vertices; corners (T, 3)."""
        where = np.repeat(np.arange(len(self.tri)), 3)
        return sp.csr_matrix((self.weight.ravel(), (where, corners[self.tri].ravel())), (len(self.tri), count))


@dataclass(frozen=True)
class Model:
    """Our head as it is registered: its skin, the template with identity modes, and its level-1 triangles (T, 3)."""

    skin: Skin
    template: Template
    corners: np.ndarray

    @staticmethod
    def load() -> Model:
        """The committed head with the components that ICT-FaceKit's statistics give."""
        cage = build_cage()
        skin = skin_of(cage, load_calibration().outer)
        count = len(skin.verts)
        mean, modes = (x[..., :count, :].astype(float) for x in load_identity_basis("makehuman", cage))
        template = template_of(skin, mean, modes[:COMPONENTS], HAIR_TRUST)
        return Model(skin, template, subdivide(skin.quads, count).triangles)

    def points(self, marks: Marks, coefficients: np.ndarray) -> np.ndarray:
        """(468, 3) metres."""
        return marks.rows(self.corners, self.template.evaluate.shape[0]) @ (
            self.template.evaluate @ self.template.cage(coefficients))

    def registered(self, head: TexturedHead, found: np.ndarray, marks: Marks) -> Registration:
        """Our head laid over another by its surface and the points `found` (468, 3) on it, but for the face's oval."""
        known = np.isfinite(found).all(1)
        known[list(FACE_OVAL)] = False
        rows = marks.rows(self.corners, self.template.evaluate.shape[0])[known]
        tris = head.tris[np.linalg.norm(head.verts[head.tris].mean(1) - found[NOSE_TIP], axis=1) < REACH_M]
        return register(self.template, head.verts, tris, landmarks=(rows, found[known]), ridge=RIDGE,
                        landmark_weight=LANDMARK_WEIGHT, iterations=40)

    def moved(self, marks: Marks, step: np.ndarray) -> Marks:
        """The points of the mean head moved by `step` (468, 3) metres and back onto the skin seen from outside; those
        where the lips meet stay, which no distance could tell apart."""
        surface = self.template.evaluate @ self.template.mean
        outer = np.asarray(self.template.evaluate @ self.skin.outer.astype(float)).ravel() > 0.99
        numbers = np.flatnonzero(outer[self.corners].all(1))
        goal = self.points(marks, np.zeros(len(self.template.modes))) + step
        _, tri, weight, _ = SurfaceIndex(surface, self.corners[numbers]).closest(goal)
        stay = np.isin(np.arange(len(goal)), LIPS_INNER) | (step == 0).all(1)
        return Marks(np.where(stay, marks.tri, numbers[tri]), np.where(stay[:, None], marks.weight, weight))


def mean_step(model: Model, heads: Iterable[TexturedHead], marks: Marks, mirror: np.ndarray) -> np.ndarray:
    """(468, 3) metres in our head's frame: from the marks to where the network puts its points on heads, on average and
    the same on both sides; 0 where it finds them on fewer than half of them, and on the face's oval, which slides."""
    steps = []
    for head in heads:
        found = found_points(head)
        fitted = model.registered(head, found, marks)
        back = (found - fitted.translation) @ fitted.rotation / fitted.scale
        steps.append(back - model.points(marks, fitted.coefficients))
    known = np.isfinite(steps).all(2)
    step = np.where(known[..., None], steps, 0).sum(0) / np.maximum(known.sum(0), 1)[:, None]
    step[(known.mean(0) < 0.5) | np.isin(np.arange(len(step)), FACE_OVAL)] = 0
    both = (step[mirror] != 0).any(1) & (step != 0).any(1)
    return np.where(both[:, None], (step + step[mirror] * (-1, 1, 1)) / 2, 0)


def mean_coefficients(model: Model, heads: Iterable[TexturedHead], marks: Marks) -> np.ndarray:
    """(K,) mean of the identity coefficients of heads."""
    return np.mean([model.registered(head, found_points(head), marks).coefficients for head in heads], 0)


def with_direction(calibration: Calibration, direction: np.ndarray) -> Calibration:
    """The calibration's first COMPONENTS components and, last, their combination `direction` (COMPONENTS,).

    Its coefficient is N(0, 1) like all others: a population whose mean lies there is one standard deviation away.
    """
    def extended(rows: np.ndarray) -> np.ndarray:
        own = rows[: 1 + COMPONENTS]
        return np.concatenate([own, direction[None] @ own[1:]])

    about = {**calibration.about, "populations": "VALID avatars (MIT, (c) 2022 Tiffany Do)"}
    return replace(calibration, weights=extended(calibration.weights),
                   residual_weights=extended(calibration.residual_weights), about=about)


def main(arguments: list[str] | None = None) -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(prog="python -m backend.fit.people", description=__doc__)
    parser.add_argument("--averages", type=Path, required=True, help="facefuns' inst/extdata")
    parser.add_argument("--avatars", type=Path, required=True, help="folder of NAME.npz and NAME_albedo.webp")
    chosen = parser.parse_args(arguments)
    with np.load(LANDMARK_MAP, allow_pickle=False) as data:
        kept = dict(data)
    first = Marks(kept.setdefault("avatar_tri468", kept["tri468"]).astype(np.int64),
                  kept.setdefault("avatar_weight468", kept["weight468"]))
    model = Model.load()
    step = mean_step(model, average_faces(chosen.averages), first, kept["mirror468"].astype(np.int64))
    print(f"Points on the average faces lie {1e3 * np.sqrt((step**2).sum(1).mean()):.2f} mm rms from those on avatars")
    direction = mean_coefficients(model, avatars(chosen.avatars), model.moved(first, step))
    print(f"The avatars' mean lies {np.linalg.norm(direction):.2f} standard deviations from the mean head")
    marks = model.moved(first, SHARE * step)
    kept["tri468"], kept["weight468"] = (new.astype(old.dtype) for new, old in
                                         ((marks.tri, kept["tri468"]), (marks.weight, kept["weight468"])))
    np.savez_compressed(LANDMARK_MAP, **kept)
    save_calibration(with_direction(load_calibration(), direction), CALIBRATION)


if __name__ == "__main__":
    main()
