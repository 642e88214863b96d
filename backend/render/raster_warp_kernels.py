# SPDX-License-Identifier: GPL-3.0-or-later
"""Warp kernels of the rasteriser: one source for CPU and CUDA, forward and hand-written backward.

Every kernel that walks over pixels takes a band of rows (`y0`, and the launch's second dimension) and a `span`: one
launch index handles `span` neighbouring pixels of a row (the whole row on a CPU, one pixel on a GPU). On a CPU each
band is one serial task that adds into its own gradient buffer, so the sums have one fixed order and the backward is
deterministic; on a GPU the band is the whole image and `atomic_add` is atomic.

Arrays are flat: vertices at b * V + i, pixels at (b * H + y) * W + x, row 0 at the bottom of the image.
Barycentrics follow nvdiffrast: an attribute is u * a0 + v * a1 + (1 - u - v) * a2, perspective-correct.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})

COVER_TOLERANCE = wp.constant(1.0e-6)  # closes cracks along shared edges that rounding would open
MIN_W = wp.constant(1.0e-6)
WALK_LIMIT = wp.constant(32)


@wp.func
def to_pixel(p: wp.vec4, width: float, height: float) -> wp.vec2:
    """Clip-space position to window coordinates in pixels, y up."""
    return wp.vec2((p[0] / p[3] * 0.5 + 0.5) * width, (p[1] / p[3] * 0.5 + 0.5) * height)


@wp.func
def relative(p: wp.vec4, x: float, y: float) -> wp.vec3:
    """Homogeneous (x, y, w) of a clip-space position after moving the NDC point (x, y) to the origin."""
    return wp.vec3(p[0] - x * p[3], p[1] - y * p[3], p[3])


@wp.func
def cross2(a: wp.vec3, b: wp.vec3) -> float:
    return a[0] * b[1] - a[1] * b[0]


@wp.kernel
def raster_depth(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    vertex_count: int,
    height: int,
    width: int,
    y0: int,
    y1: int,
    keys: wp.array(dtype=wp.uint64),
):
    """Keep, per pixel, the smallest (depth, triangle) key of the triangles over it; launch over (B, T).

    Edge functions are homogeneous (Olano and Greer 1997), so triangles that cross w = 0 need no clipping: they are
    tested over the whole band and their pixels behind the camera have w <= 0 or |z/w| > 1.
    """
    b, t = wp.tid()
    face = tri[t]
    base = b * vertex_count
    p0 = pos[base + face[0]]
    p1 = pos[base + face[1]]
    p2 = pos[base + face[2]]
    wmin = wp.min(p0[3], wp.min(p1[3], p2[3]))
    wmax = wp.max(p0[3], wp.max(p1[3], p2[3]))
    if not wmax > MIN_W:
        return
    w = float(width)
    h = float(height)
    ylo = int(y0)
    yhi = int(y1 - 1)
    xlo = int(0)
    xhi = int(width - 1)
    if wmin > MIN_W:
        s0 = to_pixel(p0, w, h)
        s1 = to_pixel(p1, w, h)
        s2 = to_pixel(p2, w, h)
        bottom = wp.max(wp.min(s0[1], wp.min(s1[1], s2[1])), -1.0)
        top = wp.min(wp.max(s0[1], wp.max(s1[1], s2[1])), h + 1.0)
        ylo = wp.max(ylo, int(wp.ceil(bottom - 0.501)))
        yhi = wp.min(yhi, int(wp.floor(top - 0.499)))
        if ylo > yhi:
            return
        left = wp.max(wp.min(s0[0], wp.min(s1[0], s2[0])), -1.0)
        right = wp.min(wp.max(s0[0], wp.max(s1[0], s2[0])), w + 1.0)
        xlo = wp.max(xlo, int(wp.ceil(left - 0.501)))
        xhi = wp.min(xhi, int(wp.floor(right - 0.499)))
        if xlo > xhi:
            return
    step_x = 2.0 / w
    step_y = 2.0 / h
    cx = (float(xlo) + 0.5) * step_x - 1.0
    cy = (float(ylo) + 0.5) * step_y - 1.0
    q0 = relative(p0, cx, cy)
    q1 = relative(p1, cx, cy)
    q2 = relative(p2, cx, cy)
    e0 = wp.cross(q1, q2)
    e1 = wp.cross(q2, q0)
    e2 = wp.cross(q0, q1)
    # The edge functions times the corners' w add up to the same number at every pixel: the determinant of the corners.
    # With its sign on them they are positive inside and in front of the camera, and the depth needs no division.
    det = e0[2] * p0[3] + e1[2] * p1[3] + e2[2] * p2[3]
    if det == 0.0:
        return
    sign = wp.where(det > 0.0, 1.0, -1.0)
    e0 = e0 * sign
    e1 = e1 * sign
    e2 = e2 * sign
    depth_scale = 0.5 / wp.abs(det)
    z0 = p0[2] * depth_scale
    z1 = p1[2] * depth_scale
    z2 = p2[2] * depth_scale
    for y in range(ylo, yhi + 1):
        dy = float(y - ylo) * step_y
        r0 = e0[1] * dy + e0[2]
        r1 = e1[1] * dy + e1[2]
        r2 = e2[1] * dy + e2[2]
        row = (b * height + y) * width
        for x in range(xlo, xhi + 1):
            dx = float(x - xlo) * step_x
            a0 = e0[0] * dx + r0
            a1 = e1[0] * dx + r1
            a2 = e2[0] * dx + r2
            size = a0 + a1 + a2
            if size > 0.0 and wp.min(a0, wp.min(a1, a2)) >= -COVER_TOLERANCE * size:
                half = a0 * z0 + a1 * z1 + a2 * z2
                if wp.abs(half) <= 0.5:
                    depth = wp.uint32((half + 0.5) * 4294967040.0)
                    key = (wp.uint64(depth) << wp.uint64(32)) | wp.uint64(t)
                    wp.atomic_min(keys, row + x, key)


@wp.kernel
def raster_resolve(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    vertex_count: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    keys: wp.array(dtype=wp.uint64),
    rast: wp.array(dtype=wp.vec4),
):
    """Turn the winning key of each pixel into (u, v, z/w, triangle + 1), or zeros."""
    b, row, chunk = wp.tid()
    y = y0 + row
    cy = (float(y) + 0.5) * 2.0 / float(height) - 1.0
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        key = keys[pixel]
        out = wp.vec4()
        if key != wp.uint64(0xFFFFFFFFFFFFFFFF):
            t = int(wp.uint32(key & wp.uint64(0xFFFFFFFF)))
            face = tri[t]
            cx = (float(x) + 0.5) * 2.0 / float(width) - 1.0
            p0 = pos[b * vertex_count + face[0]]
            p1 = pos[b * vertex_count + face[1]]
            p2 = pos[b * vertex_count + face[2]]
            q0 = relative(p0, cx, cy)
            q1 = relative(p1, cx, cy)
            q2 = relative(p2, cx, cy)
            a0 = cross2(q1, q2)
            a1 = cross2(q2, q0)
            area = a0 + a1 + cross2(q0, q1)
            u = float(0.0)
            v = float(0.0)
            if area != 0.0:
                u = wp.clamp(a0 / area, 0.0, 1.0)
                v = wp.clamp(a1 / area, 0.0, 1.0 - u)
            rest = 1.0 - u - v
            z = u * p0[2] + v * p1[2] + rest * p2[2]
            zw = z / wp.max(u * p0[3] + v * p1[3] + rest * p2[3], MIN_W)
            out = wp.vec4(u, v, wp.clamp(zw, -1.0, 1.0), float(t + 1))
        rast[pixel] = out


@wp.kernel
def raster_backward(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    grad_rast: wp.array(dtype=wp.vec4),
    vertex_count: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_pos: wp.array(dtype=wp.vec4),
):
    """Gradient of (u, v) to the clip-space x, y, w of the triangle's vertices; z/w and the id carry none."""
    b, row, chunk = wp.tid()
    y = y0 + row
    cy = (float(y) + 0.5) * 2.0 / float(height) - 1.0
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        r = rast[pixel]
        g = grad_rast[pixel]
        if r[3] > 0.0 and (g[0] != 0.0 or g[1] != 0.0):
            face = tri[int(r[3]) - 1]
            i0 = b * vertex_count + face[0]
            i1 = b * vertex_count + face[1]
            i2 = b * vertex_count + face[2]
            cx = (float(x) + 0.5) * 2.0 / float(width) - 1.0
            q0 = relative(pos[i0], cx, cy)
            q1 = relative(pos[i1], cx, cy)
            q2 = relative(pos[i2], cx, cy)
            area = cross2(q1, q2) + cross2(q2, q0) + cross2(q0, q1)
            if wp.abs(area) > 1.0e-20:
                common = g[0] * r[0] + g[1] * r[1]
                g0 = (g[0] - common) / area
                g1 = (g[1] - common) / area
                g2 = -common / area
                x0 = g2 * q1[1] - g1 * q2[1]
                y0_ = g1 * q2[0] - g2 * q1[0]
                x1 = g0 * q2[1] - g2 * q0[1]
                y1_ = g2 * q0[0] - g0 * q2[0]
                x2 = g1 * q0[1] - g0 * q1[1]
                y2_ = g0 * q1[0] - g1 * q0[0]
                wp.atomic_add(grad_pos, i0, wp.vec4(x0, y0_, 0.0, -cx * x0 - cy * y0_))
                wp.atomic_add(grad_pos, i1, wp.vec4(x1, y1_, 0.0, -cx * x1 - cy * y1_))
                wp.atomic_add(grad_pos, i2, wp.vec4(x2, y2_, 0.0, -cx * x2 - cy * y2_))


@wp.kernel
def interpolate_forward(
    attr: wp.array(dtype=float),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    attr_step: int,
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    out: wp.array(dtype=float),
):
    """out = u * a0 + v * a1 + (1 - u - v) * a2; zero where no triangle is. `attr_step` is V * C, or 0 when shared."""
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        r = rast[pixel]
        j = pixel * channels
        if r[3] > 0.0:
            face = tri[int(r[3]) - 1]
            i0 = b * attr_step + face[0] * channels
            i1 = b * attr_step + face[1] * channels
            i2 = b * attr_step + face[2] * channels
            u = r[0]
            v = r[1]
            rest = 1.0 - u - v
            for c in range(channels):
                out[j + c] = u * attr[i0 + c] + v * attr[i1 + c] + rest * attr[i2 + c]
        else:
            for c in range(channels):
                out[j + c] = 0.0


@wp.kernel
def interpolate_backward(
    attr: wp.array(dtype=float),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    grad_out: wp.array(dtype=float),
    attr_step: int,
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    need_attr: int,
    grad_attr: wp.array(dtype=float),
    grad_rast: wp.array(dtype=wp.vec4),
):
    """Gradients to the attributes (added) and to u, v (written)."""
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        r = rast[pixel]
        gu = float(0.0)
        gv = float(0.0)
        if r[3] > 0.0:
            face = tri[int(r[3]) - 1]
            i0 = b * attr_step + face[0] * channels
            i1 = b * attr_step + face[1] * channels
            i2 = b * attr_step + face[2] * channels
            u = r[0]
            v = r[1]
            rest = 1.0 - u - v
            j = pixel * channels
            for c in range(channels):
                g = grad_out[j + c]
                if g != 0.0:
                    last = attr[i2 + c]
                    gu += g * (attr[i0 + c] - last)
                    gv += g * (attr[i1 + c] - last)
                    if need_attr != 0:
                        wp.atomic_add(grad_attr, i0 + c, g * u)
                        wp.atomic_add(grad_attr, i1 + c, g * v)
                        wp.atomic_add(grad_attr, i2 + c, g * rest)
        grad_rast[pixel] = wp.vec4(gu, gv, 0.0, 0.0)


@wp.kernel
def lod_forward(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    uv: wp.array(dtype=wp.vec2),
    vertex_count: int,
    height: int,
    width: int,
    texels: float,
    lod: wp.array(dtype=float),
):
    """Mip level per triangle, half the log2 of texels per pixel by area; launch over (B, T)."""
    b, t = wp.tid()
    face = tri[t]
    p0 = pos[b * vertex_count + face[0]]
    p1 = pos[b * vertex_count + face[1]]
    p2 = pos[b * vertex_count + face[2]]
    level = float(0.0)
    if p0[3] > MIN_W and p1[3] > MIN_W and p2[3] > MIN_W:
        s0 = to_pixel(p0, float(width), float(height))
        s1 = to_pixel(p1, float(width), float(height))
        s2 = to_pixel(p2, float(width), float(height))
        u0 = uv[face[0]]
        u1 = uv[face[1]]
        u2 = uv[face[2]]
        pixels = wp.abs((s1[0] - s0[0]) * (s2[1] - s0[1]) - (s2[0] - s0[0]) * (s1[1] - s0[1]))
        area = wp.abs((u1[0] - u0[0]) * (u2[1] - u0[1]) - (u2[0] - u0[0]) * (u1[1] - u0[1])) * texels
        level = 0.5 * wp.log2(wp.max(area, 1.0e-8) / wp.max(pixels, 1.0e-8))
    lod[b * tri.shape[0] + t] = wp.clamp(level, 0.0, 16.0)


@wp.kernel
def per_triangle(
    rast: wp.array(dtype=wp.vec4),
    values: wp.array(dtype=float),
    count: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    out: wp.array(dtype=float),
):
    """Spread values (B, T) of triangles over their pixels; zero where nothing is."""
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        t = int(rast[pixel][3]) - 1
        out[pixel] = wp.where(t >= 0, values[b * count + wp.max(t, 0)], 0.0)


@wp.kernel
def mip_down(
    chain: wp.array(dtype=float),
    step: int,
    offset: int,
    height: int,
    width: int,
    channels: int,
    start: int,
):
    """Fill the level after the one at `offset` (height x width) with means of 2x2; launch over (B, height / 2)."""
    b, y = wp.tid()
    y += start
    source = b * step + offset + 2 * y * width * channels
    below = source + width * channels
    half = width // 2
    target = b * step + offset + height * width * channels + y * half * channels
    for x in range(half):
        for c in range(channels):
            i = 2 * x * channels + c
            top = chain[source + i] + chain[source + i + channels]
            chain[target + x * channels + c] = 0.25 * (top + chain[below + i] + chain[below + i + channels])


@wp.kernel
def mip_up(
    grad: wp.array(dtype=float),
    step: int,
    offset: int,
    height: int,
    width: int,
    channels: int,
    start: int,
):
    """Transpose of `mip_down`: the level at `offset` gets a quarter of its parent; launch over (B, height / 2)."""
    b, y = wp.tid()
    y += start
    target = b * step + offset + 2 * y * width * channels
    below = target + width * channels
    half = width // 2
    parent = b * step + offset + height * width * channels + y * half * channels
    for x in range(half):
        for c in range(channels):
            i = 2 * x * channels + c
            g = 0.25 * grad[parent + x * channels + c]
            grad[target + i] = grad[target + i] + g
            grad[target + i + channels] = grad[target + i + channels] + g
            grad[below + i] = grad[below + i] + g
            grad[below + i + channels] = grad[below + i + channels] + g


@wp.struct
class Footprint:
    """The four texels around a place on one mip level, as places in the chain, and the fractions between them."""

    t00: int
    t01: int
    t10: int
    t11: int
    fx: float
    fy: float


@wp.func
def footprint(uv: wp.vec2, base: int, width: int, height: int, channels: int) -> Footprint:
    """Texels around `uv` on the level that starts at `base`, clamped to the border."""
    f = Footprint()
    x = uv[0] * float(width) - 0.5
    y = uv[1] * float(height) - 0.5
    left = wp.floor(x)
    top = wp.floor(y)
    f.fx = x - left
    f.fy = y - top
    x0 = wp.clamp(int(left), 0, width - 1)
    x1 = wp.clamp(int(left) + 1, 0, width - 1)
    y0 = base + wp.clamp(int(top), 0, height - 1) * width * channels
    y1 = base + wp.clamp(int(top) + 1, 0, height - 1) * width * channels
    f.t00 = y0 + x0 * channels
    f.t01 = y0 + x1 * channels
    f.t10 = y1 + x0 * channels
    f.t11 = y1 + x1 * channels
    return f


@wp.func
def level_start(level: int, width: int, height: int, channels: int) -> int:
    """Where a mip level starts in the chain."""
    start = int(0)
    for k in range(level):
        start += (width >> k) * (height >> k) * channels
    return start


@wp.kernel
def texture_forward(
    tex: wp.array(dtype=float),
    uv: wp.array(dtype=wp.vec2),
    lod: wp.array(dtype=float),
    tex_step: int,
    tex_height: int,
    tex_width: int,
    levels: int,
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    out: wp.array(dtype=float),
):
    """Bilinear lookup, trilinear when levels > 1; `tex` holds the mip levels of a texture one after another."""
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        j = pixel * channels
        place = uv[pixel]
        level = float(0.0)
        if levels > 1:
            level = wp.clamp(lod[pixel], 0.0, float(levels - 1))
        k = int(level)
        blend = level - float(k)
        base = b * tex_step + level_start(k, tex_width, tex_height, channels)
        w = tex_width >> k
        h = tex_height >> k
        f = footprint(place, base, w, h, channels)
        keep = 1.0 - blend
        w00 = keep * (1.0 - f.fx) * (1.0 - f.fy)
        w01 = keep * f.fx * (1.0 - f.fy)
        w10 = keep * (1.0 - f.fx) * f.fy
        w11 = keep * f.fx * f.fy
        for c in range(channels):
            out[j + c] = w00 * tex[f.t00 + c] + w01 * tex[f.t01 + c] + w10 * tex[f.t10 + c] + w11 * tex[f.t11 + c]
        if blend > 0.0:
            q = footprint(place, base + w * h * channels, w >> 1, h >> 1, channels)
            w00 = blend * (1.0 - q.fx) * (1.0 - q.fy)
            w01 = blend * q.fx * (1.0 - q.fy)
            w10 = blend * (1.0 - q.fx) * q.fy
            w11 = blend * q.fx * q.fy
            for c in range(channels):
                out[j + c] += w00 * tex[q.t00 + c] + w01 * tex[q.t01 + c] + w10 * tex[q.t10 + c] + w11 * tex[q.t11 + c]


@wp.kernel
def texture_backward(
    tex: wp.array(dtype=float),
    uv: wp.array(dtype=wp.vec2),
    lod: wp.array(dtype=float),
    grad_out: wp.array(dtype=float),
    tex_step: int,
    tex_height: int,
    tex_width: int,
    levels: int,
    channels: int,
    need_tex: int,
    parity: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_tex: wp.array(dtype=float),
    grad_uv: wp.array(dtype=wp.vec2),
):
    """Gradients to the texels of all levels (added) and to uv (added); the level itself carries none.

    `parity` 0 or 1 handles the even or odd levels only, -1 all: a lookup blends one even with one odd level, so two
    tasks share the work without writing to the same texels.
    """
    b, row, chunk = wp.tid()
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y0 + row) * width + x
        j = pixel * channels
        some = float(0.0)
        for c in range(channels):
            some += wp.abs(grad_out[j + c])
        if some > 0.0:
            place = uv[pixel]
            level = float(0.0)
            if levels > 1:
                level = wp.clamp(lod[pixel], 0.0, float(levels - 1))
            first = int(level)
            blend = level - float(first)
            gx = float(0.0)
            gy = float(0.0)
            for step in range(2):
                k = first + step
                share = wp.where(step == 0, 1.0 - blend, blend)
                if share > 0.0 and (parity < 0 or parity == k % 2):
                    w = tex_width >> k
                    h = tex_height >> k
                    base = b * tex_step + level_start(k, tex_width, tex_height, channels)
                    f = footprint(place, base, w, h, channels)
                    w00 = share * (1.0 - f.fx) * (1.0 - f.fy)
                    w01 = share * f.fx * (1.0 - f.fy)
                    w10 = share * (1.0 - f.fx) * f.fy
                    w11 = share * f.fx * f.fy
                    dx = float(0.0)
                    dy = float(0.0)
                    for c in range(channels):
                        g = grad_out[j + c]
                        c00 = tex[f.t00 + c]
                        c01 = tex[f.t01 + c]
                        c10 = tex[f.t10 + c]
                        c11 = tex[f.t11 + c]
                        dx += g * ((c01 - c00) * (1.0 - f.fy) + (c11 - c10) * f.fy)
                        dy += g * ((c10 - c00) * (1.0 - f.fx) + (c11 - c01) * f.fx)
                        if need_tex != 0:
                            wp.atomic_add(grad_tex, f.t00 + c, g * w00)
                            wp.atomic_add(grad_tex, f.t01 + c, g * w01)
                            wp.atomic_add(grad_tex, f.t10 + c, g * w10)
                            wp.atomic_add(grad_tex, f.t11 + c, g * w11)
                    gx += share * float(w) * dx
                    gy += share * float(h) * dy
            grad_uv[pixel] = grad_uv[pixel] + wp.vec2(gx, gy)


@wp.kernel
def facing_forward(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    vertex_count: int,
    facing: wp.array(dtype=wp.int8),
):
    """Winding of each triangle on the screen: 1 or -1, 0 where a vertex is behind the camera; launch over (B, T)."""
    b, t = wp.tid()
    face = tri[t]
    p0 = pos[b * vertex_count + face[0]]
    p1 = pos[b * vertex_count + face[1]]
    p2 = pos[b * vertex_count + face[2]]
    sign = int(0)
    if p0[3] > MIN_W and p1[3] > MIN_W and p2[3] > MIN_W:
        # Relative to the first vertex: the triangle is much smaller than its distance to the optical axis.
        q1 = relative(p1, p0[0] / p0[3], p0[1] / p0[3])
        q2 = relative(p2, p0[0] / p0[3], p0[1] / p0[3])
        sign = wp.where(cross2(q1, q2) > 0.0, 1, -1)
    facing[b * tri.shape[0] + t] = wp.int8(sign)


@wp.func
def pair_point(p: wp.vec4, axis: int, along: float, across: float, width: float, height: float) -> wp.vec2:
    """Window position relative to a pixel centre as (along the pair's axis, across it)."""
    s = to_pixel(p, width, height)
    if axis == 0:
        return wp.vec2(s[0] - along, s[1] - across)
    return wp.vec2(s[1] - along, s[0] - across)


@wp.func
def crossing(a: wp.vec2, b: wp.vec2) -> float:
    """Position along the axis at which the edge a-b crosses it (a and b lie on different sides)."""
    return a[0] - a[1] * (b[0] - a[0]) / (b[1] - a[1])


@wp.func
def silhouette_crossing(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    adjacent: wp.array(dtype=int),
    facing: wp.array(dtype=wp.int8),
    vertex_base: int,
    facing_base: int,
    start: int,
    goal: int,
    axis: int,
    direction: float,
    along: float,
    across: float,
    width: float,
    height: float,
) -> wp.vec2:
    """Walk from a pixel centre towards its neighbour over the mesh until a silhouette edge ends the surface.

    Returns (distance in pixels, 3 * triangle + edge), or a negative distance where the surface goes on to the
    neighbour. Edge k lies opposite to the triangle's vertex k. nvdiffrast (Laine et al. 2020, section 3.6) looks at
    the pixel's own triangle only, which misses silhouettes where triangles are smaller than pixels.
    """
    none = wp.vec2(-1.0, 0.0)
    face = tri[start]
    v0 = pair_point(pos[vertex_base + face[0]], axis, along, across, width, height)
    v1 = pair_point(pos[vertex_base + face[1]], axis, along, across, width, height)
    v2 = pair_point(pos[vertex_base + face[2]], axis, along, across, width, height)
    up0 = v0[1] >= 0.0
    up1 = v1[1] >= 0.0
    up2 = v2[1] >= 0.0
    edge = int(-1)
    reach = float(-1.0e30)
    if up1 != up2:
        reach = crossing(v1, v2) * direction
        edge = 0
    if up2 != up0:
        d1 = crossing(v2, v0) * direction
        if d1 > reach:
            reach = d1
            edge = 1
    if up0 != up1:
        d2 = crossing(v0, v1) * direction
        if d2 > reach:
            reach = d2
            edge = 2
    if edge < 0:
        return none
    side = facing[facing_base + start]
    t = int(start)
    for _step in range(WALK_LIMIT):
        if reach > 1.0:
            return none
        other = adjacent[3 * t + edge]
        silhouette = bool(other < 0)
        if not silhouette:
            silhouette = facing[facing_base + (other // 3)] != side
        if silhouette:
            return wp.vec2(wp.max(reach, 0.0), float(3 * t + edge))
        # Enter the neighbour through its edge `e`; leave through the one of its other two edges that the axis crosses.
        t = other // 3
        if t == goal:
            return none
        e = other - 3 * t
        face_t = tri[t]
        tip = pair_point(pos[vertex_base + face_t[e]], axis, along, across, width, height)
        n1 = (e + 1) % 3
        n2 = (e + 2) % 3
        a = pair_point(pos[vertex_base + face_t[n1]], axis, along, across, width, height)
        b = pair_point(pos[vertex_base + face_t[n2]], axis, along, across, width, height)
        if (tip[1] >= 0.0) != (a[1] >= 0.0):
            edge = n2  # edge tip-a is opposite to b
            reach = crossing(tip, a) * direction
        elif (tip[1] >= 0.0) != (b[1] >= 0.0):
            edge = n1
            reach = crossing(b, tip) * direction
        else:
            return none
    return none


@wp.kernel
def antialias_analyse(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    adjacent: wp.array(dtype=int),
    facing: wp.array(dtype=wp.int8),
    rast: wp.array(dtype=wp.vec4),
    vertex_count: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    alpha: wp.array(dtype=wp.vec2),
    edges: wp.array(dtype=wp.vec2i),
):
    """Blend weight and silhouette edge of the pixel pairs (this, right) and (this, up).

    alpha > 0: this pixel takes alpha of the neighbour's colour; alpha < 0: the neighbour takes -alpha of this one's.
    edges: 1 + 2 * (3 * triangle + edge) + (1 if the nearer surface is the neighbour's), or 0.
    """
    b, row, chunk = wp.tid()
    y = y0 + row
    w = float(width)
    h = float(height)
    faces = tri.shape[0]
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        r0 = rast[pixel]
        weights = wp.vec2()
        found = wp.vec2i()
        for axis in range(2):
            neighbour = int(-1)
            if axis == 0 and x + 1 < width:
                neighbour = pixel + 1
            if axis == 1 and y + 1 < height:
                neighbour = pixel + width
            if neighbour >= 0:
                r1 = rast[neighbour]
                if r0[3] != r1[3]:
                    swap = int(0)
                    if r0[3] == 0.0 or (r1[3] > 0.0 and r1[2] < r0[2]):
                        swap = 1
                    t = int(wp.where(swap == 1, r1[3], r0[3])) - 1
                    goal = int(wp.where(swap == 1, r0[3], r1[3])) - 1
                    side = facing[b * faces + t]
                    search = bool(side != wp.int8(0))
                    if search and goal >= 0 and facing[b * faces + goal] == side:
                        # Direct neighbours on a surface that does not fold between them: the common, quick case.
                        for k in range(3):
                            shared = adjacent[3 * t + k] - 3 * goal
                            if shared >= 0 and shared < 3:
                                search = False
                    if search:
                        px = float(x) + 0.5
                        py = float(y) + 0.5
                        direction = float(1.0)
                        if swap == 1:
                            direction = -1.0
                            if axis == 0:
                                px += 1.0
                            else:
                                py += 1.0
                        along = wp.where(axis == 0, px, py)
                        across = wp.where(axis == 0, py, px)
                        hit = silhouette_crossing(
                            pos, tri, adjacent, facing, b * vertex_count, b * faces,
                            t, goal, axis, direction, along, across, w, h,
                        )  # fmt: skip
                        if hit[0] >= 0.0:
                            code = int(hit[1])
                            f = tri[code // 3]
                            n = code % 3
                            a = pair_point(pos[b * vertex_count + f[(n + 1) % 3]], axis, along, across, w, h)
                            c = pair_point(pos[b * vertex_count + f[(n + 2) % 3]], axis, along, across, w, h)
                            if wp.abs(c[1] - a[1]) >= wp.abs(c[0] - a[0]):
                                weights[axis] = direction * (0.5 - hit[0])
                                found[axis] = 1 + 2 * code + swap
        alpha[pixel] = weights
        edges[pixel] = found


@wp.kernel
def antialias_forward(
    color: wp.array(dtype=float),
    alpha: wp.array(dtype=wp.vec2),
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    out: wp.array(dtype=float),
):
    """Each pixel gathers its share from the pairs in which it is the one to change; `out` holds the colours before."""
    b, row, chunk = wp.tid()
    y = y0 + row
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        own = alpha[pixel]
        right = wp.max(own[0], 0.0)
        up = wp.max(own[1], 0.0)
        left = float(0.0)
        down = float(0.0)
        if x > 0:
            left = wp.max(-alpha[pixel - 1][0], 0.0)
        if y > 0:
            down = wp.max(-alpha[pixel - width][1], 0.0)
        j = pixel * channels
        if right + up + left + down > 0.0:
            for c in range(channels):
                here = color[j + c]
                value = here
                if right > 0.0:
                    value += right * (color[j + channels + c] - here)
                if up > 0.0:
                    value += up * (color[j + width * channels + c] - here)
                if left > 0.0:
                    value += left * (color[j - channels + c] - here)
                if down > 0.0:
                    value += down * (color[j - width * channels + c] - here)
                out[j + c] = value


@wp.kernel
def antialias_backward_color(
    grad_out: wp.array(dtype=float),
    alpha: wp.array(dtype=wp.vec2),
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_color: wp.array(dtype=float),
):
    """Transpose of `antialias_forward`, again as a gather: each pixel collects from the four pairs that read it.

    `grad_color` holds `grad_out` before.
    """
    b, row, chunk = wp.tid()
    y = y0 + row
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        own = alpha[pixel]
        left = float(0.0)
        down = float(0.0)
        if x > 0:
            left = alpha[pixel - 1][0]
        if y > 0:
            down = alpha[pixel - width][1]
        j = pixel * channels
        if own[0] != 0.0 or own[1] != 0.0 or left != 0.0 or down != 0.0:
            # A pair (first, second, alpha) adds alpha * (second - first) to first (alpha > 0) or to second (alpha < 0).
            keep = 1.0 - wp.max(own[0], 0.0) - wp.max(own[1], 0.0) + wp.min(left, 0.0) + wp.min(down, 0.0)
            for c in range(channels):
                value = keep * grad_out[j + c]
                if own[0] < 0.0:
                    value -= own[0] * grad_out[j + channels + c]
                if own[1] < 0.0:
                    value -= own[1] * grad_out[j + width * channels + c]
                if left > 0.0:
                    value += left * grad_out[j - channels + c]
                if down > 0.0:
                    value += down * grad_out[j - width * channels + c]
                grad_color[j + c] = value


@wp.func
def window_gradient(p: wp.vec4, gx: float, gy: float, width: float, height: float) -> wp.vec4:
    """Gradient to a clip-space position from one to its window coordinates."""
    sx = 0.5 * width * gx / p[3]
    sy = 0.5 * height * gy / p[3]
    return wp.vec4(sx, sy, 0.0, -(sx * p[0] + sy * p[1]) / p[3])


@wp.kernel
def antialias_backward_pos(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    color: wp.array(dtype=float),
    grad_out: wp.array(dtype=float),
    alpha: wp.array(dtype=wp.vec2),
    edges: wp.array(dtype=wp.vec2i),
    vertex_count: int,
    channels: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_pos: wp.array(dtype=wp.vec4),
):
    """Gradient of the crossing's place to the two ends of the silhouette edge."""
    b, row, chunk = wp.tid()
    y = y0 + row
    w = float(width)
    h = float(height)
    for x in range(chunk * span, wp.min(chunk * span + span, width)):
        pixel = (b * height + y) * width + x
        codes = edges[pixel]
        for axis in range(2):
            if codes[axis] != 0:
                other = wp.where(axis == 0, pixel + 1, pixel + width)
                target = wp.where(alpha[pixel][axis] > 0.0, pixel, other)
                slope = float(0.0)
                for c in range(channels):
                    step = color[other * channels + c] - color[pixel * channels + c]
                    slope += grad_out[target * channels + c] * step
                if slope != 0.0:
                    swap = (codes[axis] - 1) % 2
                    code = (codes[axis] - 1) // 2
                    face = tri[code // 3]
                    k = code % 3
                    ia = b * vertex_count + face[(k + 1) % 3]
                    ib = b * vertex_count + face[(k + 2) % 3]
                    px = float(x) + 0.5
                    py = float(y) + 0.5
                    if swap == 1:
                        if axis == 0:
                            px += 1.0
                        else:
                            py += 1.0
                    along = wp.where(axis == 0, px, py)
                    across = wp.where(axis == 0, py, px)
                    a = pair_point(pos[ia], axis, along, across, w, h)
                    e = pair_point(pos[ib], axis, along, across, w, h) - a
                    # alpha = direction / 2 - (crossing along the positive axis): the direction cancels.
                    t = wp.clamp(-a[1] / e[1], 0.0, 1.0)
                    tilt = -e[0] / e[1]
                    ga = -slope * (1.0 - t)
                    gb = -slope * t
                    if axis == 0:
                        wp.atomic_add(grad_pos, ia, window_gradient(pos[ia], ga, ga * tilt, w, h))
                        wp.atomic_add(grad_pos, ib, window_gradient(pos[ib], gb, gb * tilt, w, h))
                    else:
                        wp.atomic_add(grad_pos, ia, window_gradient(pos[ia], ga * tilt, ga, w, h))
                        wp.atomic_add(grad_pos, ib, window_gradient(pos[ib], gb * tilt, gb, w, h))


@wp.kernel
def normals_forward(
    verts: wp.array(dtype=wp.vec3),
    tri: wp.array(dtype=wp.vec3i),
    first: wp.array(dtype=int),
    incident: wp.array(dtype=int),
    vertex_count: int,
    out: wp.array(dtype=wp.vec3),
    start: int,
):
    """Sum of the area-weighted face normals around each vertex; launch over (B, vertices)."""
    b, i = wp.tid()
    i += start
    base = b * vertex_count
    total = wp.vec3()
    for k in range(first[i], first[i + 1]):
        face = tri[incident[k]]
        p0 = verts[base + face[0]]
        total += wp.cross(verts[base + face[1]] - p0, verts[base + face[2]] - p0)
    out[base + i] = total


@wp.kernel
def normals_backward(
    verts: wp.array(dtype=wp.vec3),
    tri: wp.array(dtype=wp.vec3i),
    first: wp.array(dtype=int),
    incident: wp.array(dtype=int),
    grad_out: wp.array(dtype=wp.vec3),
    vertex_count: int,
    grad_verts: wp.array(dtype=wp.vec3),
    start: int,
):
    """Gradient of `normals_forward`, gathered per vertex: for face (a, b, c), d((b-a) x (c-a))/da = (c-b) x."""
    b, i = wp.tid()
    i += start
    base = b * vertex_count
    total = wp.vec3()
    for k in range(first[i], first[i + 1]):
        face = tri[incident[k]]
        j0 = face[0]
        j1 = face[1]
        j2 = face[2]
        g = grad_out[base + j0] + grad_out[base + j1] + grad_out[base + j2]
        opposite = wp.vec3()
        if i == j0:
            opposite = verts[base + j2] - verts[base + j1]
        elif i == j1:
            opposite = verts[base + j0] - verts[base + j2]
        else:
            opposite = verts[base + j1] - verts[base + j0]
        total += wp.cross(g, opposite)
    grad_verts[base + i] = total
