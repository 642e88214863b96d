# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle of the real head model under known parameters, rendered by the project's own renderer; needs no fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from synthetic_bundle import (
    add_glasses,
    add_shell,
    glasses_arrays,
    glasses_picture,
    make_bundle,
    shell_arrays,
    shell_picture,
)

from backend.head.model import HeadModel, load_head
from backend.head.stat import COMPONENTS
from backend.render.camera import Camera
from backend.render.color import srgb_to_linear
from backend.render.lights import Lights
from backend.render.raster import get_rasterizer
from backend.render.render import render
from backend.render.shell import Picture, Shell, with_shells

COLOURS = {"sclera": (0.86, 0.83, 0.81), "iris": (0.30, 0.42, 0.36), "limbus": (0.16, 0.12, 0.10),
           "pupil": (0.02, 0.02, 0.02), "teeth": (0.85, 0.82, 0.75), "gums": (0.62, 0.34, 0.33),
           "tongue": (0.62, 0.33, 0.32), "lashes": (0.06, 0.05, 0.05)}


def head_arrays(head: HeadModel, cage: torch.Tensor) -> dict[str, np.ndarray]:
    """`head.npz` of a neutral cage (V0, 3)."""
    tensors = {
        "verts": cage, "quads": head.quads.int(), "corner_uvs": head.corner_uv,
        "corner_uvs_makehuman": head.corner_uv_makehuman, "part": head.quad_part.to(torch.uint8),
        "expression_deltas": head.expression, "offsets": torch.zeros_like(cage),
        "makehuman_index": head.makehuman_index.int(), "palette_weights": head.palette_weights0,
        "region_masks": torch.stack(list(head.regions.values())).float(),
        "identity_deltas": head.identity[:10].half(),
    }
    names = {"part_names": head.PARTS, "expression_names": head.expression_names,
             "palette_names": head.palette_names, "region_names": list(head.regions),
             "identity_names": [f"shape_{i + 1:02d}" for i in range(10)]}
    return {k: v.numpy() for k, v in tensors.items()} | {k: np.array(list(v)) for k, v in names.items()}


def albedo_map(size: int, seed: int) -> np.ndarray:
    """(size, size, 3) uint8: a skin tone with smooth variation that has no symmetry."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 14, (6, 6, 3)) + [196, 148, 122]
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def hair_shell(cage: np.ndarray, scalp: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of long hair, a centimetre or two over a neutral cage (V0, 3) with a mask of its scalp (V0,)."""
    hair = cage[scalp > 0.5]
    middle = np.array([0.0, 0.0, (hair[:, 2].min() + hair[:, 2].max()) / 2])
    top, side = hair[:, 1].max() + 0.02, np.abs(cage[:, 0]).max() + 0.008  # over the ears
    return shell_arrays((side, top, np.ptp(hair[:, 2]) / 2 + 0.02), tuple(middle), cage[:, 1].min() + 0.01)


def glasses(cage: np.ndarray, eyes: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of glasses for a neutral cage (V0, 3): 2 cm before its eyes' vertices (E,), past the ears."""
    width, middle = np.abs(cage[:, 0]).max() + 0.005, cage[eyes]
    ears = cage[np.abs(cage[:, 0]) > width - 0.015, 2].mean()
    return glasses_arrays(width, middle[:, 2].max() + 0.02 - ears, (middle[:, 1].mean(), ears))


def put_on(folder: Path, head: HeadModel, cage: torch.Tensor, wears: str) -> Shell:
    """Gives the bundle of a neutral cage (V0, 3) "hair" that stands off the head, or "glasses"; returns them."""
    if wears == "hair":
        arrays, texels = hair_shell(cage.numpy(), head.regions["scalp"].numpy()), shell_picture()
        add_shell(folder, arrays)
    else:
        eyes = [head.quads[head.quad_part == head.PARTS.index(f"eye_{side}")] for side in ("left", "right")]
        arrays, texels = glasses(cage.numpy(), torch.cat(eyes).unique().numpy()), glasses_picture()
        add_glasses(folder, arrays)
    pixels = torch.tensor(texels / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    return Shell(*map(torch.tensor, arrays.values()), pixels)


def make(folder: Path, seed: int = 3, wears: str = "") -> dict[str, np.ndarray]:
    """Writes the bundle with `render_00.png`; returns level-1 vertices, their parts and expected pixels.

    Args:
        wears: what `put_on` gives it.

    Returns:
        verts1 (V1, 3) metres GLB axes with the expression, part1 (V1,), pixels (V1, 2) of view 0, cage (V0, 3),
        skin_mask (H, W) where the skin is, shell_mask (H, W) the share of hair or glasses in front of all else.
    """
    head = load_head()
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(1, COMPONENTS, generator=generator) * 0.8
    neutral = head.cage(identity, torch.zeros(1, 52))[0]
    make_bundle(folder, views=2, arrays=head_arrays(head, neutral))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    albedo = albedo_map(512, seed)
    Image.fromarray(albedo).save(folder / "albedo.png")
    result["palette"] = {name: list(COLOURS[name]) for name in head.palette_names}
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    view = result["views"][0]
    expression = torch.tensor([[view["expression"][name] for name in head.expression_names]])
    verts1 = head.subdivide(head.cage(identity, expression))
    camera, lights = Camera.from_result(view["camera"]), Lights.from_result(view["lights"])
    palette = torch.tensor([result["palette"][name] for name in head.palette_names])
    texture = torch.tensor(albedo / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    out = render(get_rasterizer("cpu"), verts1, head.tri1, head.uv1, texture,
                 srgb_to_linear(head.palette_weights1 @ palette)[None], head.tri1_part == 0, head.ao1,
                 camera, lights)
    picture, share = Picture.of(out), torch.zeros_like(out.alpha[0])
    if wears:
        standing = put_on(folder, head, neutral, wears)
        picture = with_shells(get_rasterizer("cpu"), out, [standing], camera, lights)
        white = Shell(standing.verts, standing.quads, standing.corner_uv, standing.texture.clone())
        white.texture[:, :3] = 1
        black = render(get_rasterizer("cpu"), verts1, head.tri1, head.uv1, 0 * texture, torch.zeros_like(verts1),
                       head.tri1_part == 0, head.ao1, camera, lights)
        share = with_shells(get_rasterizer("cpu"), black, [white], camera, lights).albedo[0, ..., :1]
    alpha = picture.alpha[0].clamp(0, 1)
    straight = torch.cat([(picture.rgb[0] / alpha.clamp(min=1e-3)).clamp(0, 1), alpha], -1)
    Image.fromarray((straight * 255).round().to(torch.uint8).numpy()).save(folder / "render_00.png")
    part1 = torch.full((verts1.shape[1],), -1)
    part1[head.tri1.long()] = head.tri1_part[:, None].expand(-1, 3)
    return {"verts1": verts1[0].numpy(), "part1": part1.numpy(), "pixels": camera.project(verts1)[0].numpy(),
            "cage": neutral.numpy(), "skin_mask": out.skin[0, ..., 0].numpy(),
            "shell_mask": share[..., 0].numpy()}
