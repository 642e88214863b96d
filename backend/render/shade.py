# SPDX-License-Identifier: GPL-3.0-or-later
"""Shading of all pixels in one kernel with a hand-written backward: albedo times irradiance, sRGB-encoded.

The same as `linear_to_srgb(albedo * lights.irradiance(normal, ao) / pi)` in torch, in a tenth of the time: every torch
operation on full images costs as much as this kernel.
"""

from __future__ import annotations

import math
import sys

import torch
import warp as wp

from backend.constants import constant
from backend.render.launch import CPU_FLAGS, Launcher, array, bands, total
from backend.render.lights import COSINE_LOBE, Y0, Y1, Y2, Y20

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})

vec9 = wp.types.vector(length=9, dtype=wp.float32)
mat93 = wp.types.matrix(shape=(9, 3), dtype=wp.float32)

SH0 = wp.constant(Y0)
SH1 = wp.constant(Y1)
SH2 = wp.constant(Y2)
SH20 = wp.constant(Y20)

RUN = 16  # pixels of a GPU's thread in the backward: all of a picture add to the same lights
SURFACE_CHANNELS = 7  # normal, palette colour (linear), ambient occlusion; with a point light 3 more, towards it


@wp.func
def basis(n: wp.vec3) -> vec9:
    return vec9(
        SH0,
        SH1 * n[1],
        SH1 * n[2],
        SH1 * n[0],
        SH2 * n[0] * n[1],
        SH2 * n[1] * n[2],
        SH20 * (3.0 * n[2] * n[2] - 1.0),
        SH2 * n[0] * n[2],
        0.5 * SH2 * (n[0] * n[0] - n[1] * n[1]),
    )


@wp.func
def basis_gradient(n: wp.vec3, g: vec9) -> wp.vec3:
    """Gradient to the normal from one to the basis."""
    x = SH1 * g[3] + SH2 * (g[4] * n[1] + g[7] * n[2] + g[8] * n[0])
    y = SH1 * g[1] + SH2 * (g[4] * n[0] + g[5] * n[2] - g[8] * n[1])
    z = SH1 * g[2] + SH2 * (g[5] * n[1] + g[7] * n[0]) + 6.0 * SH20 * g[6] * n[2]
    return wp.vec3(x, y, z)


@wp.func
def decode(e: float) -> float:
    if e <= 0.04045:
        return e / 12.92
    return wp.pow((e + 0.055) / 1.055, 2.4)


@wp.func
def encode(linear: float) -> float:
    if linear <= 0.0031308:
        return 12.92 * linear
    return 1.055 * wp.pow(linear, 1.0 / 2.4) - 0.055


@wp.func
def read3(values: wp.array(dtype=float), i: int) -> wp.vec3:
    return wp.vec3(values[i], values[i + 1], values[i + 2])


@wp.kernel
def shade_forward(
    rast: wp.array(dtype=wp.vec4),
    surface: wp.array(dtype=float),
    texel: wp.array(dtype=wp.vec3),
    is_skin: wp.array(dtype=wp.uint8),
    sky: wp.array(dtype=mat93),
    sun_direction: wp.array(dtype=wp.vec3),
    sun: wp.array(dtype=wp.vec3),
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    albedo_out: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=float),
):
    """out: encoded rgb, 1, skin (five channels); zeros outside. albedo_out: linear albedo, kept for the backward."""
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        t = int(rast[pixel][3]) - 1
        albedo = wp.vec3()
        rgb = wp.vec3()
        covered = float(0.0)
        skin = float(0.0)
        if t >= 0:
            i = pixel * channels
            covered = 1.0
            if is_skin[t] != wp.uint8(0):
                skin = 1.0
                e = texel[pixel]
                albedo = wp.vec3(decode(e[0]), decode(e[1]), decode(e[2]))
            else:
                albedo = read3(surface, i + 3)
            n = wp.normalize(read3(surface, i))
            towards = sun_direction[b]
            if channels > 7:
                towards = read3(surface, i + 7)
            light = surface[i + 6] * (wp.transpose(sky[b]) * basis(n)) + wp.max(wp.dot(n, towards), 0.0) * sun[b]
            linear = wp.cw_mul(albedo, light)
            rgb = wp.vec3(encode(linear[0]), encode(linear[1]), encode(linear[2]))
        albedo_out[pixel] = albedo
        j = pixel * 5
        out[j] = rgb[0]
        out[j + 1] = rgb[1]
        out[j + 2] = rgb[2]
        out[j + 3] = covered
        out[j + 4] = skin


@wp.func
def encode_gradient(encoded: float, linear: float) -> float:
    """Slope of `encode`, from its value: no second power."""
    if linear <= 0.0031308:
        return 12.92
    return (encoded + 0.055) / (2.4 * linear)


@wp.func
def decode_gradient(encoded: float, linear: float) -> float:
    if encoded <= 0.04045:
        return 1.0 / 12.92
    return 2.4 * linear / (encoded + 0.055)


@wp.kernel
def shade_backward(
    rast: wp.array(dtype=wp.vec4),
    surface: wp.array(dtype=float),
    texel: wp.array(dtype=wp.vec3),
    is_skin: wp.array(dtype=wp.uint8),
    sky: wp.array(dtype=mat93),
    sun_direction: wp.array(dtype=wp.vec3),
    sun: wp.array(dtype=wp.vec3),
    albedo_in: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=float),
    grad_out: wp.array(dtype=float),
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_surface: wp.array(dtype=float),
    grad_texel: wp.array(dtype=wp.vec3),
    grad_sky: wp.array(dtype=mat93),
    grad_direction: wp.array(dtype=wp.vec3),
    grad_sun: wp.array(dtype=wp.vec3),
):
    b, row, chunk = wp.tid()
    coefficients = sky[b]
    sun_rgb = sun[b]
    sum_sky = mat93()
    sum_direction = wp.vec3()
    sum_sun = wp.vec3()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        t = int(rast[pixel][3]) - 1
        i = pixel * channels
        j = pixel * 5
        g = read3(grad_out, j)
        g_normal = wp.vec3()
        g_palette = wp.vec3()
        g_texel = wp.vec3()
        g_towards = wp.vec3()
        g_ao = float(0.0)
        if t >= 0 and (g[0] != 0.0 or g[1] != 0.0 or g[2] != 0.0):
            raw = read3(surface, i)
            length = wp.max(wp.length(raw), 1.0e-12)
            n = raw / length
            ao = surface[i + 6]
            towards = sun_direction[b]
            if channels > 7:
                towards = read3(surface, i + 7)
            y = basis(n)
            sky_light = wp.transpose(coefficients) * y
            cosine = wp.max(wp.dot(n, towards), 0.0)
            light = ao * sky_light + cosine * sun_rgb
            albedo = albedo_in[pixel]
            g_linear = wp.vec3(
                g[0] * encode_gradient(out[j], albedo[0] * light[0]),
                g[1] * encode_gradient(out[j + 1], albedo[1] * light[1]),
                g[2] * encode_gradient(out[j + 2], albedo[2] * light[2]),
            )
            g_albedo = wp.cw_mul(g_linear, light)
            if is_skin[t] != wp.uint8(0):
                e = texel[pixel]
                g_texel = wp.vec3(
                    g_albedo[0] * decode_gradient(e[0], albedo[0]),
                    g_albedo[1] * decode_gradient(e[1], albedo[1]),
                    g_albedo[2] * decode_gradient(e[2], albedo[2]),
                )
            else:
                g_palette = g_albedo
            g_light = wp.cw_mul(g_linear, albedo)
            g_ao = wp.dot(g_light, sky_light)
            sum_sky += wp.outer(y, ao * g_light)
            g_unit = basis_gradient(n, coefficients * (ao * g_light))
            if cosine > 0.0:
                strength = wp.dot(g_light, sun_rgb)
                sum_sun += cosine * g_light
                g_unit += strength * towards
                g_towards = strength * n
            g_normal = (g_unit - n * wp.dot(n, g_unit)) / length
        for c in range(3):
            grad_surface[i + c] = g_normal[c]
            grad_surface[i + 3 + c] = g_palette[c]
            if channels > 7:
                grad_surface[i + 7 + c] = g_towards[c]
        grad_surface[i + 6] = g_ao
        grad_texel[pixel] = g_texel
        sum_direction += g_towards
    wp.atomic_add(grad_sky, b, sum_sky)
    wp.atomic_add(grad_direction, b, sum_direction)
    wp.atomic_add(grad_sun, b, sum_sun)


def shade(
    launcher: Launcher,
    rast: torch.Tensor,
    surface: torch.Tensor,
    texel: torch.Tensor,
    is_skin: torch.Tensor,
    sh: torch.Tensor,
    sun_direction: torch.Tensor,
    sun_rgb: torch.Tensor,
) -> torch.Tensor:
    """Colour of every pixel.

    Args:
        rast: (B, H, W, 4) of the rasteriser; only the triangle's number is read.
        surface: (B, H, W, 7 or 10): normal (any length), palette colour (linear), ambient occlusion and, for a point
            light, the vector by which `sun_direction` is replaced at the pixel.
        texel: (B, H, W, 3) skin colour, sRGB-encoded.
        is_skin: (T,) uint8; skin triangles take `texel`, others the palette colour.
        sh, sun_direction, sun_rgb: of `Lights`.

    Returns:
        (B, H, W, 5): sRGB-encoded rgb (not clipped), coverage 0 or 1, skin 0 or 1; zeros outside.
    """
    launcher.load(sys.modules[__name__])
    lobe = constant(COSINE_LOBE, sh)[:, None] / math.pi
    return _Shade.apply(rast.detach(), surface, texel, is_skin, sh * lobe, sun_direction, sun_rgb / math.pi, launcher)


class _Shade(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rast, surface, texel, is_skin, sky, direction, sun, launcher):  # type: ignore[no-untyped-def]
        inputs = [t.contiguous() for t in (rast, surface, texel, is_skin, sky, direction, sun)]
        albedo = torch.empty((*rast.shape[:3], 3), device=rast.device)
        out = torch.empty((*rast.shape[:3], 5), device=rast.device)
        before = [*_shade_arrays(inputs), surface.shape[3]]
        launcher.over_pixels(shade_forward, rast.shape, before, [array(albedo, wp.vec3), array(out)], 8)
        ctx.save_for_backward(*inputs, albedo, out)
        ctx.launcher = launcher
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        *inputs, albedo, out = ctx.saved_tensors
        rast, surface, texel, _, sky, direction, sun = inputs
        grad_surface, grad_texel = torch.empty_like(surface), torch.empty_like(texel)
        grads = [ctx.launcher.zeros(t) for t in (sky, direction, sun)]
        before = [*_shade_arrays(inputs), array(albedo, wp.vec3), array(out), array(grad_out.contiguous())]
        after = [array(grad_surface), array(grad_texel, wp.vec3)]
        after += [bands(g, dtype) for g, dtype in zip(grads, (mat93, wp.vec3, wp.vec3), strict=True)]
        ctx.launcher.over_pixels(shade_backward, rast.shape, [*before, surface.shape[3]], after, 8, RUN)
        return None, grad_surface, grad_texel, None, *(total(g) for g in grads), None


def _shade_arrays(inputs: list[torch.Tensor]) -> list[object]:
    types = (wp.vec4, wp.float32, wp.vec3, wp.uint8, mat93, wp.vec3, wp.vec3)
    return [array(tensor, dtype) for tensor, dtype in zip(inputs, types, strict=True)]
