# SPDX-License-Identifier: GPL-3.0-or-later
"""The head as an asset of Blender's asset browser, with the fit's own picture as its preview."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from . import licence
from .importer import scene as importer

PREVIEW_SIZE = 256
MARGIN = 0.08
TAGS = ("head", "face", "GANFIT")


def mark(collection: bpy.types.Collection) -> None:
    """Marks the person's collection as an asset: preview, tags, where it comes from, licence."""
    head = importer.head_of(collection)
    collection.asset_mark()
    data = collection.asset_data
    for tag in TAGS:
        data.tags.new(tag, skip_if_exists=True)
    data.description = f"Head of {head.get('ganfit_photos') or collection.name}, 52 ARKit shape keys"
    answer = licence.answer(importer.result_of(head))
    data.license = "; ".join(sorted({row["licence"] for row in answer.rows}))
    picture = preview(Path(head.get("ganfit_bundle", "")) / "render_00.png")
    if picture is not None:
        shown = collection.preview_ensure()
        shown.image_size = (PREVIEW_SIZE, PREVIEW_SIZE)
        shown.image_pixels_float.foreach_set(picture.ravel())


def unmark(collection: bpy.types.Collection) -> None:
    """Takes it out of the asset browser."""
    collection.asset_clear()


def preview(path: Path) -> np.ndarray | None:
    """(PREVIEW_SIZE, PREVIEW_SIZE, 4) of a render with alpha, cut to the head; None without a picture of a head."""
    if not path.is_file():
        return None
    image = bpy.data.images.load(str(path), check_existing=False)
    try:
        width, height = image.size
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    pixels = pixels.reshape(height, width, 4)
    rows, columns = np.nonzero(pixels[..., 3] > 0.5)
    if not len(rows):
        return None
    middle = np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2
    side = max(np.ptp(rows), np.ptp(columns)) * (1 + 2 * MARGIN)
    steps = (np.arange(4 * PREVIEW_SIZE) + 0.5) / (4 * PREVIEW_SIZE) - 0.5
    y, x = ((middle[:, None] + side * steps).round().astype(int))
    inside = (y[:, None] >= 0) & (y[:, None] < height) & (x >= 0) & (x < width)
    cut = pixels[np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)] * inside[..., None]
    return cut.reshape(PREVIEW_SIZE, 4, PREVIEW_SIZE, 4, 4).mean((1, 3)).astype(np.float32)
