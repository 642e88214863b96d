# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fit needs to know of each photo: where the face is, its landmarks, its square crop, the networks' views."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from backend.errors import GanfitError
from backend.fit.parameters import ViewFrame
from backend.networks.crop import crop_photo
from backend.networks.detector import FaceDetector
from backend.networks.facemesh import FaceLandmarks, FaceMesh
from backend.networks.fan import FanLandmarks
from backend.photo import Photo
from backend.render.color import LUMA, srgb_to_linear

LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
        (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249))
"""Mesh points around the opening of the subject's right and left eye."""
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
"""Mesh points around the opening of the mouth."""
CHEEKS = (50, 205, 280, 425)
"""Mesh points on bare cheeks."""
TOOTH_LUMA, TOOTH_WHITENESS = 0.4, 0.95
"""What is at least so bright, and has at least so much blue beside red, as the cheeks in linear light is a tooth: gums,
tongue and lips are redder than skin."""
LID_SHARE = 0.85
"""Shrinks that outline, which keeps lashes out."""
IRIS_RING = (0.4, 0.85)
"""Iris pixels lie between these shares of its radius: outside the pupil, inside the limbus."""
MIN_OPENING = 1.5
"""A mouth whose opening is lower than this on average, pixels, is closed."""
OPEN = (0.04, 0.08)
"""Mean height of the mouth's opening, interocular distances, at which `LIPS_TRUST` begins and is whole."""
LIPS_TRUST = 12.0
"""How much more the points around an open mouth count than their scatter says: 20 of 470 alone tell how far it is open.
Three broad smiles: 0.73 of the opening that the network finds, which is the one that the photos show, without; 0.97
with it and `CLOSED_JAW` at 100 instead of 30."""
MIN_FACE = 40
"""Smallest interocular distance times 2 that is fitted, pixels: below that there is no face to see."""


@dataclass
class View:
    """One photo, prepared.

    photo      the decoded picture
    landmarks  468 points and irises in photo pixels
    frame      units of the camera parameters
    grey       the photo has no colour
    box        (x0, y0, side) of the square crop in photo pixels; it may reach over the photo's edge
    """

    photo: Photo
    landmarks: FaceLandmarks
    frame: ViewFrame
    grey: bool
    box: tuple[float, float, float]

    def points(self) -> Tensor:
        """(470, 2) photo pixels: the 468 mesh points, then the centres of the subject's right and left iris."""
        iris = np.asarray(self.landmarks.iris)[:, 0]
        return torch.tensor(np.concatenate([self.landmarks.points, iris]), dtype=torch.float32)

    def iris_pixels(self) -> np.ndarray:
        """(N, 3) float32 encoded colours of the photo on both irises: between pupil and limbus, and well inside
        the lids; none where the eyes are closed or small."""
        found = [np.zeros((0, 3), np.float32)]
        for rim, lids in zip(np.asarray(self.landmarks.iris), LIDS, strict=True):
            centre, radius = rim[0], float(np.linalg.norm(rim[1:] - rim[0], axis=1).mean())
            low = np.maximum(np.floor(centre - radius).astype(int), 0)
            piece = self.photo.image[low[1]:low[1] + int(2 * radius) + 2, low[0]:low[0] + int(2 * radius) + 2]
            outline = np.asarray(self.landmarks.points)[list(lids)]
            middle = outline.mean(0)
            inside = Image.new("1", piece.shape[1::-1])
            shrunk = middle + LID_SHARE * (outline - middle) - low
            ImageDraw.Draw(inside).polygon([tuple(p) for p in shrunk.tolist()], fill=1)
            y, x = np.mgrid[:piece.shape[0], :piece.shape[1]] + 0.5
            distance = np.hypot(x + low[0] - centre[0], y + low[1] - centre[1]) / max(radius, 1e-6)
            chosen = (distance > IRIS_RING[0]) & (distance < IRIS_RING[1]) & np.asarray(inside)
            found.append(piece[chosen].astype(np.float32) / 255)
        return np.concatenate(found)

    def opening(self) -> float:
        """Mean height of the mouth's opening in interocular distances."""
        outline = np.asarray(self.landmarks.points)[list(INNER_LIPS)]
        width = np.linalg.norm(outline[0] - outline[INNER_LIPS.index(308)])
        return enclosed(outline) / max(float(width), 1e-6) / self.frame.unit

    def trust(self) -> Tensor:
        """(470,) how much more than others the points around an open mouth count, see `LIPS_TRUST`."""
        share = min(max((self.opening() - OPEN[0]) / (OPEN[1] - OPEN[0]), 0.0), 1.0)
        trust = torch.ones(470)
        trust[list(INNER_LIPS)] += (LIPS_TRUST - 1) * share
        return trust

    def teeth(self) -> tuple[np.ndarray, float]:
        """(N, 3) float32 encoded colours of the photo on teeth, the brighter half, and how much of the mouth's opening
        shows teeth; none and 0 for a closed mouth."""
        nothing = np.zeros((0, 3), np.float32), 0.0
        image, points = self.photo.image, np.asarray(self.landmarks.points)
        outline, cheeks = points[list(INNER_LIPS)], np.round(points[list(CHEEKS)]).astype(int)
        low = np.maximum(np.floor(outline.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, image.shape[1::-1])
        if (high - low).min() < 2 or enclosed(outline) < MIN_OPENING * np.ptp(outline[:, 0]):
            return nothing
        inside = Image.new("1", tuple((high - low).tolist()))
        ImageDraw.Draw(inside).polygon([tuple(p) for p in (outline - low).tolist()], fill=1)
        opening = image[low[1]:high[1], low[0]:high[0]][np.asarray(inside)]
        mouth = _linear(opening)
        x, y = np.clip(cheeks, 0, np.array(image.shape[1::-1]) - 1).T
        cheek = np.median(_linear(image[y, x]), 0)
        bright = mouth @ LUMA > TOOTH_LUMA * (cheek @ LUMA)
        white = mouth[:, 2] * cheek[0] > TOOTH_WHITENESS * mouth[:, 0] * cheek[2]
        shown = bright & white
        if not shown.any():
            return nothing
        inner = shown & (mouth @ LUMA >= np.median((mouth @ LUMA)[shown]))  # the darker half is mixed with lips
        return opening[inner].astype(np.float32) / 255, float(shown.mean())

    def crop_transform(self, size: int) -> Tensor:
        """(1, 2, 3): pixels of a crop of `size` px to photo pixels."""
        x0, y0, side = self.box
        return torch.tensor([[[side / size, 0, x0], [0, side / size, y0]]], dtype=torch.float32)

    def to_crop(self, transform: Tensor, size: int) -> Tensor:
        """A transform (..., 2, 3) into photo pixels, turned into one to pixels of the crop of `size` px."""
        x0, y0, side = self.box
        shifted = transform - transform.new_tensor([[0, 0, x0], [0, 0, y0]])
        return shifted * (size / side)

    def crop(self, size: int) -> tuple[Tensor, Tensor]:
        """The photo's crop (1, size, size, 3) in [0, 1] and the mask (1, size, size, 1) of pixels inside the photo."""
        x0, y0, side = self.box
        height, width = self.photo.image.shape[:2]
        out = crop_photo(self.photo.image, self.crop_transform(size)[0], size).permute(0, 2, 3, 1)
        centres = (torch.arange(size) + 0.5) * (side / size)
        inside_x = ((centres + x0 > 0) & (centres + x0 < width)).float()
        inside_y = ((centres + y0 > 0) & (centres + y0 < height)).float()
        return out, (inside_y[:, None] * inside_x[None])[None, :, :, None]


CLOSED_JAW = 100.0
"""How much more a square of `jawOpen` counts where the mouth shows nothing but teeth. The lips' outline alone does not
tell a smile over closed teeth from an open jaw, in which half of the mouth is dark."""


def enclosed(outline: np.ndarray) -> float:
    """Area inside a closed line (N, 2)."""
    x, y = (outline - outline.mean(0)).T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def expression_stiffness(views: Sequence[View], names: Sequence[str]) -> Tensor:
    """(V, 52) weights of the squares of the expression coefficients: 1, more for the jaw where teeth fill the mouth."""
    weights = torch.ones(len(views), len(names))
    weights[:, list(names).index("jawOpen")] += CLOSED_JAW * torch.tensor([view.teeth()[1] for view in views])
    return weights


def _linear(pixels: np.ndarray) -> np.ndarray:
    """Linear values (..., 3) of sRGB bytes."""
    return srgb_to_linear(torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255).numpy()


def is_grey(image: np.ndarray) -> bool:
    """Whether a photo (H, W, 3) uint8 has no colour."""
    height, width = image.shape[:2]
    sample = image[::max(1, height // 256), ::max(1, width // 256)].astype(np.int16)
    return int(np.abs(sample - sample.mean(-1, keepdims=True)).max()) <= 6


def choose_face(photo: Photo, detector: FaceDetector, face: int | None) -> tuple[object, list[str]]:
    """The detection to fit and warnings. The largest face unless `face` (0-based, by size) says otherwise.

    Raises GanfitError: no_face, face_index.
    """
    found = detector.detect(photo.image)
    if not found:
        raise GanfitError("no_face", f"No face was found in {photo.name}.")
    index = 0 if face is None else face
    if not 0 <= index < len(found):
        raise GanfitError("face_index", f"{photo.name} has {len(found)} face(s), so there is no face {index}.",
                          hint=f"Choose a number from 0 to {len(found) - 1}; 0 is the largest.")
    warnings = []
    if len(found) > 1 and face is None:
        warnings.append(f"{photo.name} shows {len(found)} faces; the largest was taken (--face N chooses another).")
    return found[index], warnings


def prepare_view(photo: Photo, detector: FaceDetector, network: FaceMesh | FanLandmarks,
                 face: int | None) -> tuple[View, list[str]]:
    """Detects the face of a photo and everything that stays fixed during the fit.

    The dense mesh places crops and the alignment, also where the fit's landmark term uses FAN's 68 points.

    Raises GanfitError: no_face, face_index, face_too_small.
    """
    detection, warnings = choose_face(photo, detector, face)
    mesh = network.mesh if isinstance(network, FanLandmarks) else network
    landmarks = mesh.landmarks(photo.image, detection)
    points = np.asarray(landmarks.points)
    if float(landmarks.presence) < 0.3:
        raise GanfitError("no_face", f"What was found in {photo.name} does not look like a whole face.")
    eyes = np.stack([points[[33, 133]].mean(0), points[[263, 362]].mean(0)])
    # Seen from the side the eyes' distance shrinks, the face's height does not.
    unit = max(float(np.linalg.norm(eyes[1] - eyes[0])), 0.5 * float(np.linalg.norm(points[10] - points[152])))
    if unit * 2 < MIN_FACE:
        raise GanfitError("face_too_small", f"The face in {photo.name} is only about {unit * 2:.0f} pixels wide.")
    if unit * 2 < 3 * MIN_FACE:
        warnings.append(f"The face in {photo.name} is small ({unit * 2:.0f} pixels); details will be guessed.")
    height, width = photo.image.shape[:2]
    anchor = eyes.mean(0)
    frame = ViewFrame((height, width), (float(anchor[0]), float(anchor[1])), unit, photo.focal_px)
    low, high = points.min(0), points.max(0)
    centre, side = (low + high) / 2, 1.7 * float((high - low).max())
    centre[1] -= 0.06 * side
    box = (float(centre[0] - side / 2), float(centre[1] - side / 2), side)
    grey = is_grey(photo.image)
    if grey:
        warnings.append(f"{photo.name} has no colour; skin and eye colours are guesses.")
    return View(photo, landmarks, frame, grey, box), warnings

