# SPDX-License-Identifier: GPL-3.0-or-later
"""The shaded picture: colour, orientation, perspective, gradients, and the full-size render in strips."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from backend.render.camera import Camera
from backend.render.color import clip_keeping_gradient, linear_to_srgb, srgb_to_linear
from backend.render.lights import Lights, random_lights
from backend.render.raster import get_rasterizer
from backend.render.render import render, render_image


@pytest.fixture(scope="module")
def raster():
    return get_rasterizer("cpu")


def even_light(strength: float = 1.0, batch: int = 1) -> Lights:
    """Light under which the picture shows strength times the albedo."""
    ambient = torch.full((batch, 3), strength * math.pi)
    return Lights.ambient_and_sun(ambient, torch.ones(batch, 3), torch.zeros(batch, 3))


def square(n: int = 1, tilt: float = 0.0) -> dict:
    """Unit square around the origin, facing +Z, (n + 1)^2 vertices, texture over the whole of it; `tilt` about Y."""
    line = torch.linspace(-0.5, 0.5, n + 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    verts = torch.stack([x * math.cos(tilt), y, -x * math.sin(tilt)], dim=-1).reshape(1, -1, 3)
    index = torch.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    tri = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)]).int()
    count = verts.shape[1]
    return {
        "verts": verts,
        "tri": tri,
        "uv": torch.stack([x + 0.5, y + 0.5], dim=-1).reshape(-1, 2),
        "vertex_palette_linear": torch.full((1, count, 3), 0.5),
        "is_skin_tri": torch.ones(len(tri), dtype=torch.bool),
        "ao": torch.ones(count),
    }


def facing_camera(size: tuple[int, int], distance: float = 2.0) -> Camera:
    """Camera that sees exactly 1 m of height at the origin."""
    return Camera.look_at(torch.tensor([[0.0, 0.0, distance]]), torch.zeros(1, 3), 2 * math.atan(0.5 / distance), size)


def test_texture_row_zero_is_at_the_top_of_an_upright_square(raster):
    """Each texel lands on its pixel, unblurred and with its encoded value."""
    texture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = render(raster, **square(), skin_texture=texture, camera=facing_camera((32, 32)), lights=even_light())
    assert (picture.rgb[0] - texture[0].permute(1, 2, 0)).abs().max() < 2e-3


def test_texture_is_perspective_correct(raster):
    """On a tilted square, the texture coordinate at a pixel by intersecting its ray with the plane."""
    ramp = (torch.arange(256) + 0.5) / 256
    texture = torch.stack([ramp.expand(256, 256), ramp.flip(0)[:, None].expand(256, 256), torch.zeros(256, 256)])[None]
    tilt, distance, size = 1.0, 1.6, 128
    camera = facing_camera((size, size), distance)
    scene = {**square(tilt=tilt), "skin_texture": texture, "camera": camera, "lights": even_light()}
    picture = render(raster, **scene, mipmap=False)
    focal = size * distance
    y, x = torch.meshgrid(torch.arange(size) + 0.5 - size / 2, torch.arange(size) + 0.5 - size / 2, indexing="ij")
    # Point (s cos t, h, -s sin t) on the ray (x, -y, -focal) d from (0, 0, distance).
    d = distance / (focal - x * math.tan(tilt))
    s, h = x * d / math.cos(tilt), -y * d
    inside = (s.abs() < 0.47) & (h.abs() < 0.47)
    expected = torch.stack([s + 0.5, h + 0.5], dim=-1)
    assert inside.sum() > 2000
    assert (picture.rgb[0, ..., :2] - expected)[inside].abs().max() < 3e-3


def test_shading_is_linear_and_encoded_once(raster):
    """Half the light on a mid grey: sRGB(0.5 * decode(0.6)), by hand."""
    texture = torch.full((1, 3, 8, 8), 0.6)
    picture = render(raster, **square(), skin_texture=texture, camera=facing_camera((16, 16)), lights=even_light(0.5))
    linear = 0.5 * ((0.6 + 0.055) / 1.055) ** 2.4
    assert picture.rgb[0, 8, 8, 0].item() == pytest.approx(1.055 * linear ** (1 / 2.4) - 0.055, abs=1e-4)
    assert picture.albedo[0, 8, 8, 0].item() == pytest.approx(0.6, abs=1e-4)
    assert picture.shading[0, 8, 8, 0].item() == pytest.approx(0.5, abs=1e-4)


def bumpy_scene(batch: int = 2, n: int = 24) -> dict:
    """A curved square, half skin and half palette, with texture, light and gradients everywhere."""
    generator = torch.Generator().manual_seed(3)
    scene = square(n)
    verts = scene["verts"].repeat(batch, 1, 1)
    verts[..., 2] = 0.25 * torch.cos(3 * verts[..., 0]) * torch.cos(2 * verts[..., 1])
    scene["verts"] = (0.8 * verts).requires_grad_()
    centre = verts[0][scene["tri"].long()].mean(dim=1)
    scene["is_skin_tri"] = centre[:, 0] < 0.2
    scene["ao"] = 0.5 + 0.5 * torch.rand(verts.shape[1], generator=generator)
    scene["vertex_palette_linear"] = torch.rand(1, verts.shape[1], 3, generator=generator).requires_grad_()
    texture = torch.rand(1, 3, 16, 16, generator=generator)
    scene["skin_texture"] = torch.nn.functional.interpolate(texture, 64, mode="bilinear").requires_grad_()
    scene["lights"] = random_lights(batch, generator)
    eye = torch.tensor([[0.3, 0.2, 1.6], [-0.4, 0.1, 1.7]])[:batch]
    scene["camera"] = Camera.look_at(eye, torch.zeros(1, 3), 0.6, (72, 80))
    return scene


@pytest.mark.parametrize("point_light", [False, True])
def test_one_kernel_equals_the_formula_in_torch(raster, point_light):
    """rgb = sRGB(albedo * shading) with albedo, shading from torch; all gradients equal too."""
    scene = bumpy_scene()
    lights = scene["lights"]
    leaves = [t.clone().requires_grad_() for t in (lights.sh, lights.sun_direction, lights.sun_rgb)]
    position = torch.tensor([[0.5, 0.4, 1.0], [-0.5, 0.8, 1.2]]).requires_grad_() if point_light else None
    scene["lights"] = Lights(*leaves, position)
    wanted = [scene["skin_texture"], scene["vertex_palette_linear"], scene["verts"], leaves[0], leaves[2]]
    wanted.append(position if point_light else leaves[1])
    picture = render(raster, **scene)
    composed = linear_to_srgb(picture.albedo_linear * picture.shading) * picture.covered
    # The same antialiasing on both, so that only the shading differs.
    pos = scene["camera"].clip(scene["verts"], y_down=True)
    smooth = raster.antialias(composed, picture.rast, pos, scene["tri"])
    assert (smooth - picture.rgb_unclipped).abs().max() < 2e-3 if point_light else 2e-5
    g = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(1))
    kernel = torch.autograd.grad((picture.rgb_unclipped * g).sum(), wanted, retain_graph=True)
    formula = torch.autograd.grad((smooth * g).sum(), wanted)
    for a, b in zip(kernel, formula, strict=True):
        assert (a - b).norm() < (0.02 if point_light else 1e-3) * b.norm()


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("skin_texture", False),
        ("vertex_palette_linear", False),
        ("sh", False),
        ("verts", True),
        ("translation", True),
    ],
)
def test_gradients_match_finite_differences(raster, name, geometry):
    """Through everything: weighted sum of rgb and alpha against random moves of shape, texture, light and camera."""
    scene = bumpy_scene(batch=1)
    if geometry:  # the colour border between skin and palette is no silhouette: its motion carries no gradient
        scene["is_skin_tri"] = torch.ones_like(scene["is_skin_tri"])
    camera, lights = scene["camera"], scene["lights"]
    yy, xx = torch.meshgrid(torch.linspace(0, 1, 72), torch.linspace(0, 1, 80), indexing="ij")
    weights = torch.stack([1 + xx, 1 + yy, xx * yy, 2 - xx], dim=-1)

    def loss(value: torch.Tensor) -> torch.Tensor:
        change = {name: value}
        if name == "sh":
            change = {"lights": replace(lights, sh=value)}
        if name == "translation":
            change = {"camera": replace(camera, translation=value)}
        picture = render(raster, **{**scene, **change})
        return (torch.cat([picture.rgb_unclipped, picture.alpha], dim=-1) * weights).double().sum()

    start = {"sh": lights.sh, "translation": camera.translation, **scene}[name].detach().clone().requires_grad_()
    gradient = torch.autograd.grad(loss(start), start)[0]
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(7))
    if name == "verts":  # a smooth field: it moves the contour as a whole
        direction = torch.sin(4 * start.detach().flip(-1) + 1.0)
    step = 5e-3 if geometry else 1e-2
    numeric = ((loss(start + step * direction) - loss(start - step * direction)) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=0.03)


def test_overexposure_is_clipped_but_keeps_its_gradient():
    linear = torch.tensor([0.0, 0.5, 1.0, 4.0], requires_grad=True)
    clipped = clip_keeping_gradient(linear_to_srgb(linear))
    clipped.sum().backward()
    assert clipped.max() == 1 and torch.isfinite(linear.grad).all() and (linear.grad > 0).all()


def test_srgb_curve_round_trip_and_known_values():
    """0.5 encoded is 0.2140 linear; 0.18 linear is 0.4614 encoded (IEC 61966-2-1)."""
    assert srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.21404, abs=1e-5)
    assert linear_to_srgb(torch.tensor(0.18)).item() == pytest.approx(0.46136, abs=1e-5)
    values = torch.linspace(0, 1, 1001, requires_grad=True)
    assert (linear_to_srgb(srgb_to_linear(values)) - values).abs().max() < 1e-5
    srgb_to_linear(values).sum().backward()
    assert torch.isfinite(values.grad).all()


def test_crop_camera_renders_a_part_of_the_picture(raster):
    scene = bumpy_scene(batch=1)
    whole = render(raster, **scene)
    part = render(raster, **{**scene, "camera": scene["camera"].crop(20.0, 10.0, 1.0, (40, 50))})
    inner = slice(1, -1)
    assert (part.rgb[0, inner, inner] - whole.rgb[0, 10:50, 20:70][inner, inner]).abs().max() < 1e-2
    assert (part.rgb[0, inner, inner] - whole.rgb[0, 10:50, 20:70][inner, inner]).abs().mean() < 1e-4


def test_render_image_in_strips_equals_one_piece(raster, monkeypatch):
    scene = bumpy_scene()
    whole = render(raster, **scene)
    monkeypatch.setattr("backend.render.render.TILE_PIXELS", 80 * 2 * 13)
    strips = render_image(raster, **scene, fields=("rgb", "alpha", "skin"))
    assert strips["rgb"].shape == whole.rgb.shape
    for name, picture in strips.items():
        assert (picture - getattr(whole, name)).abs().mean() < 1e-4, name
    assert not strips["rgb"].requires_grad


def test_batch_equals_single_renders(raster):
    scene = bumpy_scene()
    together = render(raster, **scene)
    for k in range(2):
        one = slice(k, k + 1)
        alone = {**scene, "verts": scene["verts"][one], "camera": scene["camera"].select(one)}
        alone["lights"] = scene["lights"].select(one)
        assert (render(raster, **alone).rgb - together.rgb[one]).abs().max() < 1e-5
