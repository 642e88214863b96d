# SPDX-License-Identifier: GPL-3.0-or-later
"""From the parameters in `result.json` to meshes, textures and pictures; fit and `render` both use it."""
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.fit.person import Person
from backend.render.camera import Camera
from backend.render.color import linear_to_srgb, srgb_to_linear
from backend.render.lights import Lights
from backend.render.render import RenderOutput
from backend.render.shell import Picture, Shell, with_shells

MAX_RENDER = 2048
"""Longest side in pixels that is rendered at once; a larger photo gets this render scaled up."""
FINE_RENDER, MOST_SAMPLES = 1600, 4
"""Longest side in pixels up to which several points a pixel, along one side, are rendered and averaged, and how many at
most: in a small photo an iris is three pixels wide."""
GEOMETRY_GREY = 0.72
"""sRGB albedo of the grey view of the geometry."""


@dataclass
class Assembled:
    """Everything that follows from the parameters alone.

    cage (V0, 3) without offsets, offsets (V0, 3), verts1 (V, V1, 3) with them: metres, metric scale; landmarks (68, 3):
    metres, view 0; generated (1, 3, S, S): the generator's map, sRGB; texture (1, 3, R, R): the albedo that is shown,
    also the generator's until a refinement replaces it; normal (1, 3, R, R), roughness (1, 1, R, R): the refinement's;
    hair (1, 4, H, H): colour, sRGB, and cover of the hair on the head, None without; hair_shell: the hair that stands
    off it, None without; glasses: None without; wearing: whether each view's photo shows them, None: all do. All maps
    are in [0, 1], in 8-bit steps.
    """

    person: Person
    cage: Tensor
    offsets: Tensor
    verts1: Tensor
    landmarks: Tensor
    generated: Tensor
    texture: Tensor
    palette: Tensor
    cameras: list[Camera]
    lights: list[Lights]
    normal: Tensor | None = None
    roughness: Tensor | None = None
    hair: Tensor | None = None
    hair_shell: Shell | None = None
    glasses: Shell | None = None
    wearing: tuple[bool, ...] | None = None

    @property
    def neutral1(self) -> Tensor:
        """(V1, 3) level-1 vertices without expression, metres."""
        return self.person.head.subdivide((self.cage + self.offsets)[None])[0]

    def wears_glasses(self, view: int) -> bool:
        """Whether a view's photo shows glasses."""
        return self.glasses is not None and (self.wearing is None or self.wearing[view])

    def shells(self, view: int) -> list[Shell]:
        """What stands off the head in a view, from the outside."""
        worn = self.glasses if self.wears_glasses(view) else None
        return [shell for shell in (worn, self.hair_shell) if shell is not None]

    @cached_property
    def shown(self) -> Tensor:
        """(1, 3, R, R) sRGB: the albedo under the hair."""
        if self.hair is None:
            return self.texture
        layer = torch.nn.functional.interpolate(self.hair, self.texture.shape[-2:], mode="bilinear")
        colour, cover = layer[:, :3], layer[:, 3:]
        return linear_to_srgb(torch.lerp(srgb_to_linear(self.texture), srgb_to_linear(colour), cover))


def assemble(result: dict, person: Person, device: torch.device, offsets: np.ndarray | None = None) -> Assembled:
    """Rebuilds the person from a `result.json` of version 1 (identity, latent, palette; expression, camera, lights).

    offsets: (V0, 3) free-form displacements of the neutral cage, metres, metric scale, as in `head.npz`.
    """
    head = person.head
    shape, views = result["shape"], result["views"]
    identity = torch.tensor([shape["coefficients"]], dtype=torch.float32, device=device)
    expression = torch.tensor([[v["expression"][n] for n in head.expression_names] for v in views], device=device)
    with torch.no_grad():
        neutral = head.cage(identity, torch.zeros_like(expression[:1])) * shape["scale"]
        moved = torch.zeros_like(neutral[0]) if offsets is None else torch.as_tensor(offsets).to(neutral)
        posed = head.cage(identity.expand(len(views), -1), expression) * shape["scale"]
        verts1 = head.subdivide(posed + moved)
        latent = torch.tensor([result["texture"]["latent"]], dtype=torch.float32, device=device)
        texture = person.generator(latent, result["texture"]["size"]).clamp(0, 1)
        # Quantised like the file, so that whoever reads the file renders the same picture.
        texture = (texture * 255).round() / 255
        palette = torch.tensor([result["palette"][n] for n in head.palette_names], device=device)
    return Assembled(person, neutral[0], moved, verts1, head.landmarks(verts1[:1], "68")[0], texture, texture, palette,
                     [Camera.from_result(v["camera"], device) for v in views],
                     [Lights.from_result(v["lights"], device) for v in views])


def picture(scene: Assembled, view: int, camera: Camera, lights: Lights | None = None,
            grey: bool = False) -> Picture:
    """Renders one view's geometry under any camera, with hair and the glasses that its photo shows; `grey` shows a
    bare, grey surface."""
    texture, palette = scene.shown, scene.palette
    if grey:
        texture = torch.full_like(texture[:, :, :8, :8], GEOMETRY_GREY)
        palette = torch.full_like(palette, GEOMETRY_GREY)
    with torch.no_grad():
        lights = lights or scene.lights[view]
        colours = scene.person.vertex_colours(palette)
        head = scene.person.picture(scene.verts1[view:view + 1], texture, colours, camera, lights)
        return with_shells(scene.person.raster, head, () if grey else scene.shells(view), camera, lights)


def bare_picture(scene: Assembled, view: int, camera: Camera) -> RenderOutput:
    """Renders what the fit has found of one view: the head with the generator's map."""
    with torch.no_grad():
        colours = scene.person.vertex_colours(scene.palette)
        return scene.person.picture(scene.verts1[view:view + 1], scene.generated, colours, camera, scene.lights[view])


def head_box(scene: Assembled, view: int, bare: bool = False) -> tuple[float, float, float]:
    """(x0, y0, side) of the square that holds the projected head, `bare` or with hair and glasses, in a photo, with a
    margin, pixels."""
    shown = scene.verts1[view]
    if not bare:
        shown = torch.cat([shown, *(shell.covered for shell in scene.shells(view))])
    points = scene.cameras[view].project(shown[None])[0]
    low, high = points.min(0).values, points.max(0).values
    side = float((high - low).max()) * 1.04
    centre = (low + high) / 2
    return float(centre[0]) - side / 2, float(centre[1]) - side / 2, side


def full_render(scene: Assembled, view: int) -> np.ndarray:
    """The head in the photo's own size: (H, W, 4) uint8, sRGB, straight alpha."""
    camera = scene.cameras[view]
    height, width = camera.size
    x0, y0, side = head_box(scene, view)
    left, top = max(int(x0), 0), max(int(y0), 0)
    right, bottom = min(int(x0 + side) + 1, width), min(int(y0 + side) + 1, height)
    canvas = np.zeros((height, width, 4), np.uint8)
    if right <= left or bottom <= top:
        return canvas
    scale = min(1.0, MAX_RENDER / max(right - left, bottom - top))
    size = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    samples = min(max(FINE_RENDER // max(size), 1), MOST_SAMPLES)
    fine = picture(scene, view, camera.crop(left, top, scale * samples, (size[0] * samples, size[1] * samples)))
    patch = Image.fromarray(straight_rgba(fine.rgb, fine.alpha, samples))
    if scale < 1:
        patch = patch.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    canvas[top:bottom, left:right] = np.asarray(patch)
    return canvas


def straight_rgba(rgb: Tensor, alpha: Tensor, samples: int = 1) -> np.ndarray:
    """A render (1, H, W, 3) over black and its coverage (1, H, W, 1) as uint8 (H / samples, W / samples, 4) with
    straight alpha: means over squares of samples."""
    premultiplied = torch.cat([rgb, alpha], -1).permute(0, 3, 1, 2)
    mean = torch.nn.functional.avg_pool2d(premultiplied, samples)[0].permute(1, 2, 0)
    alpha = mean[..., 3:].clamp(0, 1)
    colour = (mean[..., :3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    return (torch.cat([colour, alpha], -1) * 255).round().to(torch.uint8).cpu().numpy()


def map_pixels(values: Tensor) -> np.ndarray:
    """A map (1, C, S, S) in [0, 1] as pixels (S, S, C) uint8."""
    return (values[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()


def png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 1, 3 or 4) -> PNG, the same bytes for the same picture.

    zlib's level 4: on a bundle's maps 2.5 to 3 times as fast as its usual 6, for 1 to 4 % more bytes.
    """
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """uint8 (H, W, 3) -> JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
