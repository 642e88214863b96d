# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of a reconstructed head against a known one: MICC and NoW style distances, regions, image, albedo."""
from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

INNER = slice(17, 68)
"""iBUG's landmarks without the jaw line, which is no fixed point of a face."""
NOW_POINTS = (36, 39, 42, 45, 33, 48, 54)
"""The seven landmarks that NoW aligns by: corners of the eyes, base of the nose, corners of the mouth."""
CROP_MM = 95.0
"""MICC: what lies within this distance of the nose's tip counts."""
SAMPLES = 4000
MAX_STEPS, MIN_GAIN_MM = 60, 1e-3
CANDIDATES = 12
MAX_EDGE_MM = 4.0
REGIONS = ("forehead", "brow", "eyes", "nose", "cheek", "lips", "chin", "jaw")
SKIN_TONES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -90.0}
"""Tone -> the least individual typology angle in degrees (Del Bino and Bernerd 2013, British J. of Dermatology 169)."""
COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}


class Surface:
    """A triangle surface in millimetres that answers for its closest points."""

    def __init__(self, verts: np.ndarray, triangles: np.ndarray) -> None:
        fine_verts, fine = trimesh.remesh.subdivide_to_size(verts, triangles, MAX_EDGE_MM, max_iter=20)
        corners = fine_verts[fine]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        self.corners, self.area = corners[area > 1e-9], area[area > 1e-9]
        self.tree = cKDTree(self.corners.mean(1))

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Closest surface points (N, 3) of points (N, 3), and the distances (N,)."""
        near = self.tree.query(points, CANDIDATES)[1]
        repeated = np.repeat(points, CANDIDATES, 0)
        found = trimesh.triangles.closest_point(self.corners[near].reshape(-1, 3, 3), repeated)
        distance = np.linalg.norm(found - repeated, axis=1).reshape(-1, CANDIDATES)
        best = distance.argmin(1)
        rows = np.arange(len(points))
        return found.reshape(-1, CANDIDATES, 3)[rows, best], distance[rows, best]

    def sample(self, centre: np.ndarray, radius: float) -> np.ndarray:
        """`SAMPLES` points (N, 3), even over the area within a radius (mm) of a point; always the same ones."""
        inside = np.linalg.norm(self.corners.mean(1) - centre, axis=1) < radius
        if inside.sum() < 10:
            raise ValueError("nothing of the surface is near the nose")
        corners, area = self.corners[inside], self.area[inside]
        rng = np.random.default_rng(0)
        chosen = corners[rng.choice(len(corners), SAMPLES, p=area / area.sum())]
        u, v = np.sqrt(rng.random((SAMPLES, 1))), rng.random((SAMPLES, 1))
        return chosen[:, 0] * (1 - u) + chosen[:, 1] * u * (1 - v) + chosen[:, 2] * u * v


@dataclass
class Head:
    """A head in millimetres: its surface as seen from outside, 68 iBUG landmarks, and the regions of its points."""

    verts: np.ndarray  # (V, 3)
    triangles: np.ndarray  # (T, 3)
    landmarks: np.ndarray  # (68, 3)
    region_points: np.ndarray | None = None  # (N, 3) points with known regions
    region_masks: dict[str, np.ndarray] | None = None  # name -> (N,) in [0, 1]


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, rotation R, translation t with s R source + t nearest to target (Umeyama 1991); points (N, 3)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, d, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = float(np.trace(np.diag(d) @ flip) / (a**2).sum())
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


def icp(points: np.ndarray, surface: Surface) -> tuple[np.ndarray, float, np.ndarray]:
    """Points (N, 3) moved onto a surface by similarity steps: distances (N,), the scale applied, moved points."""
    scale, before = 1.0, np.inf
    nearest, distance = surface.closest(points)
    for _ in range(MAX_STEPS):
        if before - distance.mean() < MIN_GAIN_MM:
            break
        before = distance.mean()
        s, rotation, translation = similarity(points, nearest)
        points, scale = s * points @ rotation.T + translation, scale * s
        nearest, distance = surface.closest(points)
    return distance, scale, points


def moved(head: Head, points: slice | tuple[int, ...], truth: Head) -> Head:
    """The head in the truth's frame by the similarity of some landmarks."""
    chosen = list(points) if isinstance(points, tuple) else points
    s, rotation, t = similarity(head.landmarks[chosen], truth.landmarks[chosen])

    def move(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else s * x @ rotation.T + t

    return Head(move(head.verts), head.triangles, move(head.landmarks), move(head.region_points), head.region_masks)


def geometry(truth: Head, head: Head) -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray]]:
    """Distances in the truth's millimetres, and the map (points (N, 3), distances (N,)) that they come from.

    MICC style (Bagdanov et al. 2011, as GANFIT reports it): mean point-to-surface distance within 95 mm of the nose's
    tip, both directions, each after an ICP with scale that starts from the 51 inner landmarks. NoW style (Sanyal et
    al. 2019): median over a sphere between nose and eyes, seven landmarks, then ICP. Regions: MICC's first direction by
    the region that the closest point of the reconstruction belongs to.
    """
    true_surface, aligned = Surface(truth.verts, truth.triangles), moved(head, INNER, truth)
    surface = Surface(aligned.verts, aligned.triangles)
    points = true_surface.sample(truth.landmarks[30], CROP_MM)
    forth, scale, placed = icp(points, surface)
    back, _, _ = icp(surface.sample(aligned.landmarks[30], CROP_MM), true_surface)
    row = {"micc_gt2pred": float(forth.mean() / scale), "micc_pred2gt": float(back.mean())}
    row["micc_mean"] = (row["micc_gt2pred"] + row["micc_pred2gt"]) / 2
    by_seven = moved(head, NOW_POINTS, truth)
    corner = truth.landmarks[list(NOW_POINTS)]
    between = (corner[1] + corner[2]) / 2
    radius = 0.7 * (np.linalg.norm(corner[0] - corner[3]) + np.linalg.norm(between - corner[4]))
    ball = true_surface.sample(corner[4] + 0.3 * (between - corner[4]), radius)
    now, now_scale, _ = icp(ball, Surface(by_seven.verts, by_seven.triangles))
    row["now_median"] = float(np.median(now / now_scale))
    row |= {f"region_{name}": value for name, value in by_region(placed, forth / scale, aligned).items()}
    return row, (points, forth / scale)


def by_region(points: np.ndarray, distance: np.ndarray, head: Head) -> dict[str, float]:
    """Mean distance per region; a point belongs to the regions of the nearest point whose regions are known."""
    if head.region_points is None or head.region_masks is None:
        return {}
    nearest = cKDTree(head.region_points).query(points)[1]
    found = {}
    for name in REGIONS:
        weight = head.region_masks[name][nearest] if name in head.region_masks else np.zeros(1)
        if weight.sum() > 10:
            found[name] = float((weight * distance).sum() / weight.sum())
    return found


def image_error(photo: np.ndarray, render: np.ndarray) -> dict[str, float]:
    """Mean absolute error and SSIM inside the render's alpha; photo (H, W, 3), render (H, W, 4), uint8."""
    inside = render[..., 3] > 127
    if inside.sum() < 100:
        raise ValueError("the render is empty")
    a, b = photo / 255.0, np.where(inside[..., None], render[..., :3], photo) / 255.0
    luma = [x @ [0.299, 0.587, 0.114] for x in (a, b)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, similar = structural_similarity(*luma, full=True, **settings)
    return {"img_mae": float(np.abs(a - b)[inside].mean()), "img_ssim": float(similar[inside].mean())}


def light_invariance(bundles: list[Path]) -> float | None:
    """Mean CIEDE2000 difference on the face between one person's albedos from several photos; None for a single one."""
    colours = [face_colours(bundle) for bundle in bundles]
    pairs = [deltaE_ciede2000(a, b).mean() for a, b in itertools.combinations(colours, 2)]
    return float(np.mean(pairs)) if pairs else None


def skin_tone_angle(colours: np.ndarray) -> float:
    """Individual typology angle in degrees of skin colours (N, 3), CIELAB: atan((L - 50) / b) of their median."""
    lightness, _, yellow = np.median(colours, axis=0)
    return float(np.degrees(np.arctan2(lightness - 50.0, max(yellow, 1e-6))))


def skin_tone(angle: float) -> str:
    """Name of a typology angle, see `SKIN_TONES`."""
    return next(name for name, least in SKIN_TONES.items() if angle >= least)


def face_colours(bundle: Path, side: int = 64) -> np.ndarray:
    """CIELAB (N, 3) of the skin albedo at the face's quads, smoothed to one `side`-th of the map."""
    with np.load(bundle / "head.npz", allow_pickle=False) as head:
        mask = head["region_masks"][list(head["region_names"]).index("face")]
        skin = (head["part"] == list(head["part_names"]).index("skin")) & (mask[head["quads"]] > 0.5).all(1)
        uv = head["corner_uvs"][skin].mean(1)
    image = np.asarray(Image.open(bundle / "albedo.png").convert("RGB")) / 255.0
    size = image.shape[0]
    smooth = uniform_filter(image, (size // side, size // side, 0))
    at = np.clip((np.stack([1 - uv[:, 1], uv[:, 0]], 1) * size).astype(int), 0, size - 1)
    return rgb2lab(smooth[at[:, 0], at[:, 1]])


# --- files ------------------------------------------------------------------------------------------------------------


def read_bundle(folder: Path) -> Head:
    """The head of a bundle with its photo's expression, as `head.glb` holds it; regions from `head.npz`."""
    verts, triangles = read_glb_head(folder / "head.glb")
    landmarks = np.array(json.loads((folder / "landmarks68.json").read_text("utf-8"))) * 1000.0
    with np.load(folder / "head.npz", allow_pickle=False) as head:
        names, masks = head["region_names"].tolist(), head["region_masks"]
        skin = np.unique(head["quads"][head["part"] == list(head["part_names"]).index("skin")])
        result = json.loads((folder / "result.json").read_text("utf-8"))["views"][0]["expression"]
        weights = np.array([result[name] for name in head["expression_names"].tolist()])
        cage = head["verts"] + head["offsets"] + np.tensordot(weights, head["expression_deltas"], 1)
    return Head(verts, triangles, landmarks, cage[skin] * 1000.0, {n: m[skin] for n, m in zip(names, masks)})


def read_ground_truth(ply: Path, landmarks: list[list[float]]) -> Head:
    """A scan in millimetres."""
    mesh = trimesh.load(ply, process=False)
    return Head(np.asarray(mesh.vertices, float), np.asarray(mesh.faces), np.array(landmarks))


def read_glb_head(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) mm and triangles (T, 3) of the node `Head`, its morph targets applied with their weights."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    document, binary = json.loads(data[20 : 20 + length]), memoryview(data)[28 + length :]

    def numbers(view: int, offset: int, kind: int, count: int, width: int) -> np.ndarray:
        start = document["bufferViews"][view].get("byteOffset", 0) + offset
        return np.frombuffer(binary, COMPONENTS[kind], count * width, start).reshape(count, width)

    def values(index: int) -> np.ndarray:
        entry = document["accessors"][index]
        kind, count, width = entry["componentType"], entry["count"], WIDTHS[entry["type"]]
        if "bufferView" in entry:
            array = numbers(entry["bufferView"], entry.get("byteOffset", 0), kind, count, width)
        else:
            array = np.zeros((count, width), COMPONENTS[kind])
        if sparse := entry.get("sparse"):
            array, where = array.copy(), sparse["indices"]
            rows = numbers(where["bufferView"], where.get("byteOffset", 0), where["componentType"], sparse["count"], 1)
            new = sparse["values"]
            array[rows[:, 0]] = numbers(new["bufferView"], new.get("byteOffset", 0), kind, sparse["count"], width)
        return array

    node = next(node for node in document["nodes"] if node.get("name") == "Head")
    mesh = document["meshes"][node["mesh"]]
    (primitive,) = mesh["primitives"]
    verts = values(primitive["attributes"]["POSITION"]).astype(float)
    weights = node.get("weights", mesh.get("weights", []))
    for weight, target in zip(weights, primitive.get("targets", [])):
        if weight:
            verts = verts + weight * values(target["POSITION"])
    return verts * 1000.0, values(primitive["indices"])[:, 0].astype(int).reshape(-1, 3)
