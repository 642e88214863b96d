# SPDX-License-Identifier: GPL-3.0-or-later
"""Decodes any photo file to upright 8-bit sRGB, or says in one sentence why it cannot."""

from __future__ import annotations

import hashlib
import io
import math
import stat
import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from .errors import GanfitError
from .options import FOCAL_MM

MAX_FILE_BYTES = 1 << 30
MAX_PIXELS = 150_000_000
MIN_SIDE = 64
FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
SUFFIXES = tuple(".jpg .jpeg .png .webp .tif .tiff .bmp .gif .jp2 .ppm .avif .heic .heif".split())

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "AVIF", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_STRIP_PIXELS = 4_000_000
# EXIF orientation -> (transpose, flip top-bottom, flip left-right), applied in this order to the stored image.
_UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class Photo:
    """A decoded photo."""

    image: np.ndarray
    """(H, W, 3) uint8, sRGB-encoded, upright, row 0 on top, in the original size."""
    name: str
    """File name without folders, or the name given with the bytes."""
    sha256: str
    """Of the file as it was given, in hexadecimal."""
    focal_35mm: float | None = None
    """Focal length in mm, equivalent on 36x24 mm film by the diagonal, from EXIF."""
    mode: str = "RGB"
    """Pillow's mode of the stored image, such as RGB, CMYK, I;16."""
    warnings: tuple[str, ...] = field(default=())
    """Sentences about what had to be changed or guessed."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def focal_px(self) -> float | None:
        """Focal length in pixels of the photo, from EXIF (CIPA DCG-001: the equivalent is taken by the diagonal)."""
        if self.focal_35mm is None:
            return None
        return self.focal_35mm / FULL_FRAME_DIAGONAL_MM * math.hypot(*self.size)

    def reduced(self, max_side: int) -> tuple[np.ndarray, tuple[float, float]]:
        """A copy of which no side is longer than `max_side` pixels, never enlarged.

        Returns ((h, w, 3) uint8, (w / W, h / H)): the photo's pixel coordinates times these factors are the copy's.
        """
        width, height = self.size
        factor = min(1.0, max_side / max(width, height))
        if factor == 1.0:
            return self.image.copy(), (1.0, 1.0)
        small = (max(1, round(width * factor)), max(1, round(height * factor)))
        picture = Image.fromarray(self.image).resize(small, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.array(picture), (small[0] / width, small[1] / height)

    def png(self) -> bytes:
        """The upright photo as a PNG file in its original size."""
        stream = io.BytesIO()
        level = 6 if self.image.size < 3 * 16_000_000 else 1
        Image.fromarray(self.image).save(stream, "PNG", compress_level=level)
        return stream.getvalue()


def load_photo(source: str | Path | bytes, name: str | None = None) -> Photo:
    """Decodes a photo.

    Args:
        source: path of an image file, or the content of one.
        name: what to call it in messages; by default the file's name.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, transparency is laid over white, grey
    and 16-bit images are widened or narrowed to 8-bit RGB, and of an animation the first frame is taken.

    Raises GanfitError: photo_missing, photo_is_folder, photo_unreadable, photo_empty, photo_format, photo_damaged,
    photo_too_large, photo_too_small, out_of_memory.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "photo"
    else:
        data, name = _read_file(Path(source)), name or Path(source).name
    if not data:
        raise GanfitError("photo_empty", f"{name} is empty (zero bytes).")
    if len(data) > MAX_FILE_BYTES:
        raise GanfitError("photo_too_large", f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB.")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            return _decode(data, name, sha256)
    except GanfitError:
        raise
    except MemoryError:
        raise GanfitError("out_of_memory", f"There is not enough memory to decode {name}.") from None
    except Exception as error:  # Pillow's plugins raise a dozen types on broken files
        raise GanfitError("photo_damaged", f"{name} cannot be decoded: {_one_line(error)}.") from error


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file."""
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise GanfitError("photo_missing", f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise GanfitError("photo_unreadable", f"{path} cannot be read: {_one_line(error)}.") from error
    if stat.S_ISDIR(kind):
        raise GanfitError("photo_is_folder", f"{path} is a folder, not a photo.")
    if not stat.S_ISREG(kind):
        raise GanfitError("photo_format", f"{path} is not a regular file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise GanfitError("photo_too_large", f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise GanfitError("photo_unreadable", f"{path} cannot be read: {_one_line(error)}.") from error


def _decode(data: bytes, name: str, sha256: str) -> Photo:
    with _open(data, name) as stored:
        _check_size(stored, name)
        notes: list[str] = []
        frames = getattr(stored, "n_frames", 1)
        if frames > 1 and stored.format != "MPO":
            notes.append(f"{name} holds {frames} frames: the first one is used.")
        mode, profile = stored.mode, stored.info.get("icc_profile")
        stored.load()
        exif = _exif(stored)
        image = _to_srgb(stored, profile, name, notes)
    image = _turn_upright(image, exif.get(ExifTags.Base.Orientation, 1) if exif else 1)
    focal = _focal_35mm(exif, image.shape, name, notes)
    return Photo(image, name, sha256, focal, mode, tuple(notes))


def _open(data: bytes, name: str) -> Image.Image:
    """Pillow's lazily decoding image; only formats that photos come in, never one that runs a program."""
    Image.init()
    if _is_heif(data):
        _register_heif(name)
    try:
        return Image.open(io.BytesIO(data), formats=[format for format in _FORMATS if format in Image.OPEN])
    except UnidentifiedImageError:
        if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n" or _is_heif(data):
            raise GanfitError("photo_damaged", f"{name} is damaged: its header cannot be read.") from None
        raise GanfitError("photo_format", f"{name} is not an image of a known format.") from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:32]


def _register_heif(name: str) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise GanfitError(
            "photo_format",
            f"{name} is a HEIC photo, which needs the package pillow-heif.",
            "Install it into the backend's environment with `pip install pillow-heif`, or save the photo as JPEG.",
        ) from None
    register_heif_opener()


def _check_size(stored: Image.Image, name: str) -> None:
    width, height = stored.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}x{height}, {width * height / 1e6:.0f} megapixels")
    if min(width, height) < MIN_SIDE:
        raise GanfitError("photo_too_small", f"{name} is only {width}x{height} pixels.")


def _too_large(name: str, size: str = "its size") -> GanfitError:
    limit = f"{MAX_PIXELS // 10**6} megapixels"
    return GanfitError("photo_too_large", f"{name} is too large ({size}); the limit is {limit}.")


def _exif(stored: Image.Image) -> Image.Exif | None:
    """EXIF after loading (Pillow turns TIFFs upright itself and drops the tag); None when it is broken."""
    try:
        return stored.getexif()
    except Exception:  # a broken EXIF block does not spoil the pixels
        return None


def _to_srgb(stored: Image.Image, profile: bytes | None, name: str, notes: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 sRGB in strips, so that besides the stored and the returned image no third one is in memory."""
    width, height = stored.size
    widen = _range_to_8_bit(stored, name, notes)
    transparent = stored.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in stored.info
    image = np.empty((height, width, 3), np.uint8)
    mode, convert = _colour_conversion(stored, profile, name, notes)
    see_through = False
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = stored.crop((0, top, width, min(top + rows, height)))
        strip = widen(strip) if widen else strip
        rgb = np.asarray(convert(_as_mode(strip, mode)))
        if transparent:
            alpha = np.asarray(strip.convert("RGBA"))[..., 3:].astype(np.uint16)
            see_through |= bool((alpha < 255).any())
            rgb = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        image[top : top + rows] = rgb
    if see_through:
        notes.append(f"{name} is partly transparent: it was laid over white.")
    return image


def _as_mode(strip: Image.Image, mode: str) -> Image.Image:
    """The strip in a mode that the colour transform takes; alpha is cut off, not multiplied in."""
    if strip.mode == mode:
        return strip
    if strip.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in strip.info:
        strip = strip.convert("RGBA")
    return strip.convert(mode)


def _range_to_8_bit(
    stored: Image.Image, name: str, notes: list[str]
) -> Callable[[Image.Image], Image.Image] | None:
    """How integers of 16 and 32 bits and floats become 8-bit grey (mode L); None for images that have 8 bits."""
    if stored.mode.startswith("I;16"):
        white = 65535.0
    elif stored.mode in ("I", "F"):
        low, high = stored.getextrema()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise GanfitError("photo_damaged", f"{name} holds values that are not numbers.")
        white = next((limit for limit in (1.0, 255.0, 65535.0) if high <= limit), float(high))
        if stored.mode == "I" and white == 1.0:
            white = 255.0
        notes.append(f"{name} has {'float' if stored.mode == 'F' else '32-bit'} values: {white:g} is taken as white.")
    else:
        return None

    def widen(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.float32) * (255.0 / white)
        return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))

    return widen


def _colour_conversion(
    stored: Image.Image, profile: bytes | None, name: str, notes: list[str]
) -> tuple[str, Callable[[Image.Image], Image.Image]]:
    """(mode, function from an image of this mode to sRGB): through the embedded profile where there is a usable one."""
    if stored.mode in ("CMYK", "LAB"):
        native = stored.mode
    else:
        grey = stored.mode in ("1", "L", "LA", "La", "F") or stored.mode.startswith("I")
        native = "L" if grey else "RGB"
    if profile:
        for mode in dict.fromkeys((native, "RGB")):
            transform = _profile_transform(profile, mode)
            if transform is not None:
                return mode, partial(ImageCms.applyTransform, transform=transform)
        notes.append(f"The colour profile of {name} cannot be used: its colours are taken as sRGB.")
    elif native == "CMYK":
        notes.append(f"{name} is CMYK without a colour profile: its colours are approximate.")
    return native, lambda strip: strip.convert("RGB")


def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From images of this mode in an ICC profile's colours to sRGB; None when the profile does not fit or is broken."""
    try:
        return ImageCms.buildTransform(
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _turn_upright(image: np.ndarray, orientation: object) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8; anything else counts as 1) to an (H, W, 3) image."""
    known = orientation if isinstance(orientation, int) and orientation in _UPRIGHT else 1
    transpose, flip_rows, flip_columns = _UPRIGHT[known]
    if transpose:
        image = image.transpose(1, 0, 2)
    if flip_rows:
        image = image[::-1]
    if flip_columns:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _focal_35mm(exif: Image.Exif | None, shape: tuple[int, ...], name: str, notes: list[str]) -> float | None:
    """Focal length on 35 mm film (mm) unless it is missing, absurd, or of another picture than this crop of it."""
    try:
        camera = exif.get_ifd(ExifTags.IFD.Exif) if exif else {}
        focal = float(camera.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
        wide = float(camera.get(ExifTags.Base.ExifImageWidth, 0))
        high = float(camera.get(ExifTags.Base.ExifImageHeight, 0))
    except Exception:  # a broken EXIF block does not spoil the pixels
        return None
    if not FOCAL_MM[0] <= focal <= FOCAL_MM[1]:
        return None
    if wide > 0 and high > 0:
        taken, kept = max(wide, high) / min(wide, high), max(shape[:2]) / min(shape[:2])
        if abs(taken / kept - 1.0) > 0.02:
            notes.append(f"{name} was cropped after it was taken: its focal length is not used.")
            return None
    return focal


def _one_line(error: BaseException) -> str:
    """An exception's text as part of a sentence."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return (text or type(error).__name__).rstrip(".")
