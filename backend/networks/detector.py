# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds faces in a photo: MediaPipe's short-range detector on several windows of the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from backend import assets
from backend.networks.crop import crop_photo, square_transform
from backend.networks.tflite_graph import TfliteGraph

KEYPOINTS = ("right_eye", "left_eye", "nose_tip", "mouth", "right_ear", "left_ear")
"""The detector's points; right and left are the subject's."""

_SIZE = 128
_WORKING_SIZE = 512
"""longer side, in pixels, to which a photo is brought first; even the smallest windows are not enlarged much"""
_MESH_SIZE = 192


@dataclass(frozen=True)
class Detection:
    """A face: `score` in [0, 1], `box` (4,) x0, y0, x1, y1 and `keypoints` (6, 2) in photo pixels, see `KEYPOINTS`."""

    score: float
    box: np.ndarray
    keypoints: np.ndarray

    @property
    def area(self) -> float:
        """Square pixels."""
        return _area(self.box)

    def crop_transform(self, size: int, margin: float = 1.5) -> Tensor:
        """(2, 3) crop pixels -> photo pixels of a square crop with level eyes, `margin` times the box's longer side."""
        axis = self.keypoints[1] - self.keypoints[0]
        centre = torch.from_numpy((self.box[:2] + self.box[2:]) / 2).float()
        side = torch.tensor([float((self.box[2:] - self.box[:2]).max()) * margin])
        rotation = torch.tensor([float(np.arctan2(axis[1], axis[0]))])
        return square_transform(centre[None], side, rotation, size)[0]


class FaceDetector(nn.Module):
    """Detector for faces that fill from about a tenth of the photo's longer side up to more than the whole photo.

    The network sees 128 x 128 pixels and wants a face of 20-60 % of that; so it is run, in one batch, on the whole
    photo, on the photo with a wide border (for faces that fill it) and on overlapping tiles (for small ones); where
    that finds nothing, on smaller tiles. What the windows find is merged by weighted non-maximum suppression
    (Bazarevsky et al. 2019, BlazeFace) and confirmed by the presence output of the face mesh network.

    Args:
        min_score: of a candidate.
        min_presence: of a face; if no candidate has it, those with a score of at least `sure_score` are taken.
    """

    def __init__(self, min_score: float = 0.5, min_presence: float = 0.5, sure_score: float = 0.75) -> None:
        super().__init__()
        self.min_score, self.min_presence, self.sure_score = min_score, min_presence, sure_score
        folder = assets.require("mediapipe")
        self.network = TfliteGraph(folder / "face_detection_short_range.tflite")
        self.mesh_network = TfliteGraph(folder / "face_landmark.tflite")
        self.register_buffer("anchors", _anchors())

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> list[Detection]:
        """Faces in an image (H, W, 3) uint8 RGB, the largest first; an empty list if there is none."""
        shrink = max(max(image.shape[:2]) / _WORKING_SIZE, 1.0)
        size = [max(round(side / shrink), 1) for side in (image.shape[1], image.shape[0])]
        picture = Image.fromarray(np.ascontiguousarray(image))
        if shrink > 1:
            picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        for windows in (_windows(*picture.size), _tiles(*picture.size, 0.35)):
            if faces := self._confirmed(picture, self._find(picture, windows)):
                break
        scale = np.array([image.shape[1], image.shape[0]]) / picture.size
        faces = [Detection(f.score, f.box * np.tile(scale, 2), f.keypoints * scale) for f in faces]
        return sorted(faces, key=lambda face: -face.area)

    def _find(self, picture: Image.Image, windows: list[_Window]) -> list[Detection]:
        """Merged candidates in pixels of the working picture."""
        values, logits = self._run(picture, windows)
        scores = torch.sigmoid(logits.clamp(-100, 100))
        candidates = []
        for window, value, score in zip(windows, values, scores, strict=True):
            keep = score > self.min_score
            candidates += _to_picture(window, value[keep].numpy(), score[keep].numpy(), picture.size)
        return _merge(candidates)

    def _confirmed(self, picture: Image.Image, faces: list[Detection]) -> list[Detection]:
        """The candidates in which the face mesh network sees a face."""
        if not faces:
            return []
        pixels = np.array(picture)
        crops = torch.cat([crop_photo(pixels, face.crop_transform(_MESH_SIZE), _MESH_SIZE) for face in faces])
        presence = torch.sigmoid(self.mesh_network(crops.to(self.anchors.device))[1].reshape(-1)).cpu()
        confirmed = [face for face, value in zip(faces, presence, strict=True) if value > self.min_presence]
        return confirmed or [face for face in faces if face.score > self.sure_score]

    def _run(self, picture: Image.Image, windows: list[_Window]) -> tuple[Tensor, Tensor]:
        """Boxes and keypoints (N, 896, 8, 2) in window pixels of the network, and logits (N, 896)."""
        crops = np.stack([np.asarray(_cut(picture, window)) for window in windows])
        batch = torch.from_numpy(crops).to(self.anchors.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        regressors, logits = self.network(batch)
        values = regressors.reshape(len(windows), -1, 8, 2).clone()
        values[:, :, [0, 2, 3, 4, 5, 6, 7]] += self.anchors[:, None] * _SIZE
        return values.cpu(), logits[..., 0].cpu()


@dataclass(frozen=True)
class _Window:
    """A square of the working picture: corner and side in pixels; `tile` if it shows a part of it only."""

    x: float
    y: float
    side: float
    tile: bool


def _anchors() -> Tensor:
    """(896, 2) centres in [0, 1]: two per cell of a 16 x 16 grid, then six per cell of an 8 x 8 grid."""
    grids = []
    for cells, repeats in ((16, 2), (8, 6)):
        line = (torch.arange(cells) + 0.5) / cells
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
        grids.append(grid.repeat_interleave(repeats, 0))
    return torch.cat(grids)


def _windows(width: int, height: int) -> list[_Window]:
    longer = max(width, height)
    windows = []
    for factor in (1.0, 1.8):
        side = longer * factor
        windows.append(_Window((width - side) / 2, (height - side) / 2, side, tile=False))
    return windows + _tiles(width, height, 0.6)


def _tiles(width: int, height: int, factor: float) -> list[_Window]:
    side = max(width, height) * factor
    return [_Window(x, y, side, tile=True) for y in _starts(height, side) for x in _starts(width, side)]


def _starts(length: float, side: float) -> list[float]:
    """Corners of windows along one axis that overlap by a third or more; one centred window if one covers it."""
    if side >= length:
        return [(length - side) / 2]
    count = int(np.ceil((length - side) / (0.67 * side))) + 1
    return [float(start) for start in np.linspace(0, length - side, count)]


def _cut(picture: Image.Image, window: _Window) -> Image.Image:
    """The window in the network's size, black where it leaves the picture; PIL's filter averages when shrinking."""
    box = np.array([window.x, window.y, window.x + window.side, window.y + window.side])
    inside = np.clip(box, 0, np.tile(picture.size, 2))
    target = np.round((inside - np.tile(box[:2], 2)) * _SIZE / window.side).astype(int)
    size = np.maximum(target[2:] - target[:2], 1)
    canvas = Image.new("RGB", (_SIZE, _SIZE))
    canvas.paste(picture.resize(tuple(size), Image.Resampling.BILINEAR, box=tuple(inside)), tuple(target[:2]))
    return canvas


def _to_picture(window: _Window, values: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> list[Detection]:
    """Network output to working-picture pixels; a tile's faces that its border may have cut are left to others."""
    found = []
    scale = window.side / _SIZE
    for value, score in zip(values, scores, strict=True):
        centre, extent = value[0], value[1]
        low, high = centre - extent / 2, centre + extent / 2
        if window.tile:
            free_low = (np.array([window.x, window.y]) <= 0) | (low > 0.02 * _SIZE)
            free_high = (np.array([window.x, window.y]) + window.side >= np.array(size)) | (high < 0.98 * _SIZE)
            if not (free_low.all() and free_high.all()):
                continue
        box = np.concatenate([low, high]) * scale + np.tile([window.x, window.y], 2)
        found.append(Detection(float(score), box, value[2:] * scale + [window.x, window.y]))
    return found


def _merge(candidates: list[Detection], threshold: float = 0.3) -> list[Detection]:
    """Weighted non-maximum suppression; a box that lies inside of a stronger one counts as overlapping it."""
    remaining = sorted(candidates, key=lambda face: -face.score)
    faces = []
    while remaining:
        best = remaining[0]
        near = [face for face in remaining if _overlap(best.box, face.box) > threshold]
        same = [face for face in near if _iou(best.box, face.box) > threshold] or [best]
        weights = np.array([face.score for face in same])
        box = np.average([face.box for face in same], axis=0, weights=weights)
        keypoints = np.average([face.keypoints for face in same], axis=0, weights=weights)
        faces.append(Detection(best.score, box, keypoints))
        taken = {id(face) for face in near} | {id(best)}
        remaining = [face for face in remaining if id(face) not in taken]
    return faces


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 1e-9)))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    common = _intersection(a, b)
    return common / (_area(a) + _area(b) - common)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The larger of intersection over union and half of the share of the smaller box that the other covers."""
    return max(_iou(a, b), 0.5 * _intersection(a, b) / min(_area(a), _area(b)))
