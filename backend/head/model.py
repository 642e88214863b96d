# SPDX-License-Identifier: GPL-3.0-or-later
"""The morphable head: linear in identity and expression over a cage, with its Catmull-Clark level 1."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.assets import require
from backend.head.parts import PARTS
from backend.paths import cache_dir
from backend.sparse import SparseMap

VERSION = 1
"""Version of the cached file's contents."""


@dataclass
class HeadModel:
    """The head on one topology; metres, +Y up, +Z towards the viewer, +X the subject's left, origin between the eyes.

    V0, Q: vertices and quads of the cage (all parts stacked in the order of PARTS); V1, T: vertices and triangles of
    level 1; K: identity components; P: palette entries.
    """

    verts0: Tensor  # (V0, 3) mean head
    identity: Tensor  # (K, V0, 3) metres per standard deviation; coefficients are N(0, I)
    expression: Tensor  # (52, V0, 3) metres at weight 1
    expression_names: list[str]  # ARKit spelling
    quads: Tensor  # (Q, 4) int32; a triangle repeats its last index
    quad_part: Tensor  # (Q,) int64 into PARTS
    vertex_part: Tensor  # (V0,) int64 into PARTS
    makehuman_index: Tensor  # (V0,) int32, -1 where the vertex is ours
    mirror0: Tensor  # (V0,) int64 mirror vertex
    corner_uv: Tensor  # (Q, 4, 2), v up; each part has its own map in [0, 1]
    corner_uv_makehuman: Tensor  # (Q, 4, 2), v up
    subdivision: Tensor  # (V1, V0) sparse CSR: Catmull-Clark level 1
    tri1: Tensor  # (T, 3) int32
    tri1_part: Tensor  # (T,) int64
    uv1: Tensor  # (V1, 2), v up
    palette_names: list[str]
    palette_weights0: Tensor  # (V0, P) rows sum to 1, or to 0 on the skin
    palette_weights1: Tensor  # (V1, P)
    regions: dict[str, Tensor]  # name -> (V0,) in [0, 1]
    ao1: Tensor  # (V1,) ambient occlusion of the mean head in [0, 1]
    landmark_tri: dict[str, Tensor]  # "68", "468" -> (N,) int64 triangle of tri1, -1 where not placed
    landmark_weight: dict[str, Tensor]  # (N, 3) barycentric
    landmark_sigma: dict[str, Tensor]  # (N,) trust: standard deviation in metres of the detector around the point
    layout_id: str
    basis: str

    PARTS = PARTS

    def __post_init__(self) -> None:
        self._subdivide = SparseMap(self.subdivision)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.verts0.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the tensors."""
        return self.verts0.dtype

    def to(self, device: str | torch.device) -> HeadModel:
        """The same model on another device."""
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                value = {name: tensor.to(device) for name, tensor in value.items()}
            moved[field.name] = value.to(device) if isinstance(value, Tensor) else value
        return HeadModel(**moved)

    def cage(self, identity: Tensor, expression: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Cage vertices (B, V0, 3) for coefficients (B, K), weights (B, 52) and free offsets (B|1, V0, 3) in metres.

        Fewer than K coefficients stand for zeros after them.
        """
        return self.expressed(self.neutral(identity, offsets), expression)

    def neutral(self, identity: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Neutral cage vertices (B, V0, 3); see `cage`."""
        verts = self.verts0 + (identity @ self.identity[: identity.shape[-1]].flatten(1)).unflatten(1, (-1, 3))
        return verts if offsets is None else verts + offsets

    def expressed(self, neutral: Tensor, expression: Tensor) -> Tensor:
        """Cage vertices (B, V0, 3) of neutral ones (B or 1, V0, 3) with weights (B, 52)."""
        return neutral + (expression @ self.expression.flatten(1)).unflatten(1, (-1, 3))

    def subdivide(self, cage: Tensor) -> Tensor:
        """Level 1 (B, V1, C) of values (B, V0, C) on the cage."""
        batch, count, channels = cage.shape
        columns = cage.permute(1, 0, 2).reshape(count, batch * channels)
        return self._subdivide(columns).reshape(-1, batch, channels).permute(1, 0, 2)

    def landmarks(self, verts1: Tensor, which: str = "68") -> Tensor:
        """Landmarks (B, N, 3) on level-1 vertices (B, V1, 3); NaN-free: a point not placed is the origin.

        Args:
            which: "68" (iBUG) or "468" (MediaPipe's face mesh).
        """
        tri, weight = self.landmark_tri[which], self.landmark_weight[which]
        corners = verts1[:, self.tri1[tri.clamp(min=0)].long()]
        return (corners * (weight * (tri >= 0)[:, None])[None, ..., None]).sum(2)

    def landmark_rows(self, which: str = "68") -> Tensor:
        """(N, V0) weights that give the landmarks straight from the cage; a point not placed has a row of zeros."""
        tri, weight = self.landmark_tri[which], self.landmark_weight[which]
        pick = torch.zeros(len(tri), self.subdivision.shape[0], dtype=self.dtype, device=self.device)
        pick.scatter_add_(1, self.tri1[tri.clamp(min=0)].long(), weight * (tri >= 0)[:, None])
        return (self._subdivide.transposed @ pick.t()).t()

    def landmark_weights468(self) -> Tensor:
        """(468,) relative weights of the face-mesh points in a least-squares fit, 0 where not placed; the mean is 1."""
        sigma = self.landmark_sigma["468"]
        weight = torch.where(self.landmark_tri["468"] >= 0, 1 / sigma.clamp(min=1e-4) ** 2, torch.zeros_like(sigma))
        return weight / weight.mean()


def load_head(basis: str = "makehuman", device: str | torch.device = "cpu") -> HeadModel:
    """The head model with an identity basis, from the cache or built anew in some seconds.

    Args:
        basis: "makehuman" or "ict" (needs the asset `ict`).

    Raises:
        GanfitError: asset_missing, when MakeHuman's or ICT's files are not installed.
    """
    path = cache_dir() / f"head-{basis}-{_inputs_hash(basis)}.npz"
    arrays = _read_cache(path)
    if arrays is None:
        from backend.head.build import build_arrays  # with scipy, which a cached head does without

        arrays = build_arrays(basis)
        _write_cache(path, arrays)
    return _from_arrays(arrays).to(device)


def _from_arrays(arrays: dict[str, np.ndarray]) -> HeadModel:
    tensor = {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind != "U"}
    shape = (len(tensor["crow"]) - 1, len(tensor["verts0"]))
    long = ("quad_part", "vertex_part", "mirror0", "tri1_part", "tri68", "tri468")
    tensor |= {name: tensor[name].long() for name in long}
    same = (
        "verts0", "identity", "expression", "quads", "quad_part", "vertex_part", "makehuman_index", "mirror0",
        "corner_uv", "corner_uv_makehuman", "tri1", "tri1_part", "uv1", "palette_weights0", "palette_weights1", "ao1",
    )
    with warnings.catch_warnings():  # PyTorch announces CSR as beta
        warnings.simplefilter("ignore")
        matrix = torch.sparse_csr_tensor(
            tensor["crow"].long(), tensor["col"].long(), tensor["value"], shape, check_invariants=False
        )
    return HeadModel(
        **{name: tensor[name] for name in same},
        subdivision=matrix,
        expression_names=arrays["expression_names"].tolist(),
        palette_names=arrays["palette_names"].tolist(),
        regions=dict(zip(arrays["region_names"].tolist(), tensor["region_masks"], strict=True)),
        landmark_tri={w: tensor[f"tri{w}"] for w in ("68", "468")},
        landmark_weight={w: tensor[f"weight{w}"] for w in ("68", "468")},
        landmark_sigma={w: tensor[f"sigma{w}"] for w in ("68", "468")},
        layout_id=str(arrays["layout_id"]),
        basis=str(arrays["basis"]),
    )


def _inputs_hash(basis: str) -> str:
    """Hash of everything that the arrays are computed from: this package's files and the assets' records."""
    digest = hashlib.sha256(f"{VERSION} {basis}".encode())
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".npz"):
            digest.update(path.name.encode() + path.read_bytes())
    for folder in [require("makehuman"), *([require("ict")] if basis == "ict" else [])]:
        for path in sorted(folder.glob("*.json")) or [folder]:
            digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write beside and rename; a cache that cannot be written is done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{path.name.rsplit('-', 1)[0]}-*.npz"):
            old.unlink(missing_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".npz.part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError:
        return
