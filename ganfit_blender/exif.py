# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the focal length out of a JPEG's EXIF block, to be shown; the backend reads it itself. Needs no Blender."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

EXIF_IFD, FOCAL_35MM = 0x8769, 0xA405  # tags of TIFF's first directory and of EXIF's own
SHORT, LONG = 3, 4
PLAUSIBLE_MM = (8, 1200)


def focal_35mm(photo: Path) -> float | None:
    """FocalLengthIn35mmFilm in mm, None where the file has none that makes sense."""
    try:
        with open(photo, "rb") as stream:
            block = _exif_block(stream)
        value = _entry(block, _entry(block, _first_directory(block), EXIF_IFD), FOCAL_35MM)
    except (OSError, struct.error, LookupError, ValueError):
        return None
    return float(value) if PLAUSIBLE_MM[0] <= value <= PLAUSIBLE_MM[1] else None


def _exif_block(stream: BinaryIO) -> bytes:
    """The TIFF structure in the first APP1 segment; LookupError when there is none before the picture."""
    if stream.read(2) != b"\xff\xd8":
        raise LookupError("no JPEG")
    while True:
        mark, kind, length = struct.unpack(">BBH", stream.read(4))
        if mark != 0xFF or kind == 0xDA:  # start of the picture itself
            raise LookupError("no EXIF")
        data = stream.read(length - 2)
        if kind == 0xE1 and data.startswith(b"Exif\0\0"):
            return data[6:]


def _order(block: bytes) -> str:
    return {b"II": "<", b"MM": ">"}[block[:2]]


def _first_directory(block: bytes) -> int:
    return struct.unpack(_order(block) + "I", block[4:8])[0]


def _entry(block: bytes, directory: int, wanted: int) -> int:
    """A number of a directory; LookupError when it has none of this tag."""
    order = _order(block)
    (count,) = struct.unpack_from(order + "H", block, directory)
    for number in range(count):
        tag, kind, amount = struct.unpack_from(order + "HHI", block, directory + 2 + 12 * number)
        if tag == wanted and amount == 1 and kind in (SHORT, LONG):
            form = order + ("H" if kind == SHORT else "I")
            return struct.unpack_from(form, block, directory + 2 + 12 * number + 8)[0]
    raise LookupError(f"no tag {wanted:#x}")
