# SPDX-License-Identifier: GPL-3.0-or-later
"""The contact sheet with the columns of GANFIT's Fig. 6: photo, fit with and without light, shape, albedo, views."""
import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from backend.assemble import Assembled, head_box, picture
from backend.networks.crop import crop_photo
from backend.render.camera import Camera
from backend.render.lights import Lights

CELL = 320
"""Side of one picture of the sheet, pixels."""
TITLES = ("Photo", "Fit, with light", "Fit, without light", "Difference", "Geometry", "Albedo", "Subject's right",
          "Subject's left")
HAIR_ROOM = 0.25
"""How much larger a picture's frame is where there is hair, in sides of the bare head's: for all hair."""
NEW_VIEW_YAW = 40.0
"""Degrees by which the two new views are turned."""


def overlay(photo: np.ndarray, render: np.ndarray) -> np.ndarray:
    """A render (H, W, 4) uint8 with straight alpha over a photo (H, W, 3) uint8."""
    return np.asarray(Image.alpha_composite(Image.fromarray(photo).convert("RGBA"),
                                            Image.fromarray(render)).convert("RGB"))


def soft_light(device: torch.device) -> Lights:
    """A neutral light for pictures of the geometry and for new views: white surroundings and a sun from above."""
    sh = torch.zeros(1, 9, 3, device=device)
    sh[:, 0] = 0.55 * math.sqrt(4 * math.pi)
    direction = torch.nn.functional.normalize(torch.tensor([[0.35, 0.55, 0.8]], device=device), dim=-1)
    return Lights(sh, direction, torch.full((1, 3), 0.5 * math.pi, device=device))


def orbit(scene: Assembled, yaw: float, size: int, device: torch.device) -> Camera:
    """A camera 1 m away that the head fills, `yaw` degrees around it (positive shows the subject's left)."""
    angle = math.radians(yaw)
    points = scene.verts1[0]
    centre = ((points.min(0).values + points.max(0).values) / 2)[None]
    radius = float((points - centre).norm(dim=1).max())
    away = torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]], device=device)
    room = 1.0 if scene.hair_shell is None else 1 + HAIR_ROOM
    return Camera.look_at(centre + away, centre, 2 * math.atan(radius * 0.95 * room), (size, size))


def contact_sheet(scene: Assembled, photos: list[np.ndarray]) -> np.ndarray:
    """One row of eight pictures per photo. photos: upright (H, W, 3) uint8 each. Returns (rows, columns, 3) uint8."""
    rows = [np.concatenate([_titled(c, t) for c, t in zip(_cells(scene, i, p), TITLES, strict=True)], 1)
            for i, p in enumerate(photos)]
    return np.concatenate(rows, 0)


def _cells(scene: Assembled, view: int, photo: np.ndarray) -> list[np.ndarray]:
    """The eight pictures of one view, (CELL, CELL, 3) uint8 each."""
    device = scene.verts1.device
    x0, y0, side = head_box(scene, view, bare=True)
    room = 0.0 if scene.hair_shell is None else HAIR_ROOM * side
    x0, y0, side = x0 - room / 2, y0 - 0.7 * room, side + room
    transform = torch.tensor([[side / CELL, 0, x0], [0, side / CELL, y0]])
    background = crop_photo(photo, transform, CELL).permute(0, 2, 3, 1).to(device)
    camera = scene.cameras[view].crop(x0, y0, CELL / side, (CELL, CELL))
    lit = picture(scene, view, camera)
    with_light = lit.rgb + (1 - lit.alpha) * background
    without = lit.albedo * lit.alpha + (1 - lit.alpha) * background
    difference = ((lit.rgb - lit.albedo).mean(-1, keepdim=True) * 0.5 + 0.5).expand(-1, -1, -1, 3) * lit.alpha
    soft = soft_light(device)
    grey = picture(scene, view, camera, soft, grey=True).rgb
    texture = torch.nn.functional.interpolate(scene.texture, (CELL, CELL), mode="area").permute(0, 2, 3, 1)
    sides = [picture(scene, view, orbit(scene, yaw, CELL, device), soft).rgb for yaw in (-NEW_VIEW_YAW, NEW_VIEW_YAW)]
    return [_bytes(t) for t in (background, with_light, without, difference, grey, texture, *sides)]


def _bytes(image: Tensor) -> np.ndarray:
    """(1, H, W, 3) in [0, 1] -> (H, W, 3) uint8."""
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _titled(cell: np.ndarray, title: str) -> np.ndarray:
    """A picture with its title in a bar above."""
    bar = Image.new("RGB", (cell.shape[1], 24), (32, 32, 32))
    ImageDraw.Draw(bar).text((8, 5), title, (225, 225, 225), ImageFont.load_default(13))
    return np.concatenate([np.asarray(bar), cell], 0)
