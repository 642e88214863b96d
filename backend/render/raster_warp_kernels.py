# SPDX-License-Identifier: GPL-3.0-or-later
"""Warp kernels of the rasteriser: one source for CPU and CUDA, forward and hand-written backward.

Every kernel that walks over pixels takes a band of rows (`y0`, and the launch's second dimension) and a `span`: one
launch index handles `span` neighbouring pixels of a row (the whole row on a CPU, one pixel on a GPU). On a CPU each
band is one serial task that adds into its own gradient buffer, so the sums have one fixed order and the backward is
deterministic; on a GPU the band is the whole image and `atomic_add` is atomic.

Arrays are flat: vertices at b * V + i, pixels at (b * H + y) * W + x, row 0 at the bottom of the image.
Barycentrics follow nvdiffrast: an attribute is u * a0 + v * a1 + (1 - u - v) * a2, perspective-correct.

The innermost loops are C++ snippets (for CPU and CUDA alike): an index into a warp array costs more there than the sum
that it is for. Kernels over rows keep what belongs to a triangle while its pixels follow each other.
"""

import warp as wp

from backend.render.launch import CPU_FLAGS

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})

WALK_LIMIT = wp.constant(32)


@wp.func
def to_pixel(p: wp.vec4, width: float, height: float) -> wp.vec2:
    """Clip-space position to window coordinates in pixels, y up."""
    return wp.vec2((p[0] / p[3] * 0.5 + 0.5) * width, (p[1] / p[3] * 0.5 + 0.5) * height)


@wp.func_native("""
const float w = width, h = height, step_x = 2.0f / w, step_y = 2.0f / h;
for (int t = begin; t < stop; ++t) {
    const wp::vec3i& face = tri.data[t];
    const wp::vec4& p0 = pos.data[base + face[0]];
    const wp::vec4& p1 = pos.data[base + face[1]];
    const wp::vec4& p2 = pos.data[base + face[2]];
    const float w_min = wp::min(p0[3], wp::min(p1[3], p2[3]));
    if (!(wp::max(p0[3], wp::max(p1[3], p2[3])) > 1.0e-6f)) continue;
    int x_low = 0, x_high = width - 1, y_low = y0, y_high = y1 - 1;
    if (w_min > 1.0e-6f) {
        const float n0 = 0.5f / p0[3], n1 = 0.5f / p1[3], n2 = 0.5f / p2[3];
        const float b0 = p0[1] * n0, b1 = p1[1] * n1, b2 = p2[1] * n2;
        const float bottom = wp::clamp((wp::min(b0, wp::min(b1, b2)) + 0.5f) * h, -1.0f, h + 1.0f);
        const float top = wp::clamp((wp::max(b0, wp::max(b1, b2)) + 0.5f) * h, -1.0f, h + 1.0f);
        y_low = wp::max(y_low, static_cast<int>(bottom + 0.499f));
        y_high = wp::min(y_high, static_cast<int>(top + 0.501f) - 1);
        if (y_low > y_high) continue;
        const float a0 = p0[0] * n0, a1 = p1[0] * n1, a2 = p2[0] * n2;
        const float left = wp::clamp((wp::min(a0, wp::min(a1, a2)) + 0.5f) * w, -1.0f, w + 1.0f);
        const float right = wp::clamp((wp::max(a0, wp::max(a1, a2)) + 0.5f) * w, -1.0f, w + 1.0f);
        x_low = wp::max(x_low, static_cast<int>(left + 0.499f));
        x_high = wp::min(x_high, static_cast<int>(right + 0.501f) - 1);
        if (x_low > x_high) continue;
    }
    // The edge functions relative to the box's first pixel (cx, cy).
    const float cx = (x_low + 0.5f) * step_x - 1.0f, cy = (y_low + 0.5f) * step_y - 1.0f;
    const wp::vec3 q0(p0[0] - cx * p0[3], p0[1] - cy * p0[3], p0[3]);
    const wp::vec3 q1(p1[0] - cx * p1[3], p1[1] - cy * p1[3], p1[3]);
    const wp::vec3 q2(p2[0] - cx * p2[3], p2[1] - cy * p2[3], p2[3]);
    wp::vec3 e0 = wp::cross(q1, q2), e1 = wp::cross(q2, q0), e2 = wp::cross(q0, q1);
    // The edge functions times the corners' w add up to the same number at every pixel: the determinant of the corners.
    // With its sign on them they are positive inside and in front of the camera, and the depth needs no division.
    const float det = e0[2] * p0[3] + e1[2] * p1[3] + e2[2] * p2[3];
    if (det == 0.0f) continue;
    if (det < 0.0f) {
        e0 = -e0;
        e1 = -e1;
        e2 = -e2;
    }
    // Depth, too, is linear over the screen.
    const float scale = 0.5f / wp::abs(det);
    const wp::vec3 z = e0 * (p0[2] * scale) + e1 * (p1[2] * scale) + e2 * (p2[2] * scale);
    const float slope0 = e0[0] * step_x, slope1 = e1[0] * step_x, slope2 = e2[0] * step_x, slope_z = z[0] * step_x;
    const bool is_wide = x_high - x_low >= 16;
    const float slopes[3] = {slope0, slope1, slope2};
    float widths[3];
    for (int k = 0; k < 3 && is_wide; ++k) widths[k] = -1.0f / slopes[k];
    for (int y = y_low; y <= y_high; ++y) {
        const float dy = (y - y_low) * step_y;
        const float start0 = e0[1] * dy + e0[2], start1 = e1[1] * dy + e1[2], start2 = e2[1] * dy + e2[2];
        const float start_z = z[1] * dy + z[2];
        int first = 0, last = x_high - x_low;
        if (is_wide) {
            const float starts[3] = {start0, start1, start2};
            for (int k = 0; k < 3; ++k) {  // where the edge is crossed; a pixel of margin for rounding
                const float at = starts[k] * widths[k];
                if (slopes[k] > 0.0f && at > 1.0f) first = wp::max(first, static_cast<int>(wp::min(at, w)) - 1);
                if (slopes[k] < 0.0f && at < last) last = wp::min(last, static_cast<int>(wp::max(at, -1.0f)) + 1);
            }
        }
        wp::uint64* row = keys.data + (image + y) * width + x_low;
        int i = first;
#if !defined(__CUDA_ARCH__)
        typedef float floats __attribute__((ext_vector_type(8)));
        typedef unsigned int wholes __attribute__((ext_vector_type(8)));
        typedef unsigned long long longs __attribute__((ext_vector_type(8), aligned(8)));
        if (width >= 8) {
            for (; i <= last; i += 8) {
                const int from = wp::min(i, width - 8 - x_low);
                const floats place = floats{0, 1, 2, 3, 4, 5, 6, 7} + static_cast<float>(from);
                const floats a0 = slope0 * place + start0, a1 = slope1 * place + start1, a2 = slope2 * place + start2;
                const floats half = slope_z * place + start_z;
                const floats size = a0 + a1 + a2, least = -1.0e-6f * size;
                const auto inside = (size > 0.0f) & (a0 >= least) & (a1 >= least) & (a2 >= least)
                    & (half >= -0.5f) & (half <= 0.5f);
                const wholes none = 0xffffffffu, depth = __builtin_convertvector((half + 0.5f) * 4294967040.0f, wholes);
                const longs number = static_cast<unsigned long long>(t);
                const longs key = (__builtin_convertvector(inside ? depth : none, longs) << 32) | number;
                longs& old = *reinterpret_cast<longs*>(row + from);
                old = __builtin_elementwise_min(key, old);
            }
        }
#endif
        for (; i <= last; ++i) {
            const float a0 = slope0 * i + start0, a1 = slope1 * i + start1, a2 = slope2 * i + start2;
            const float size = a0 + a1 + a2;
            if (size > 0.0f && wp::min(a0, wp::min(a1, a2)) >= -1.0e-6f * size) {
                const float half = slope_z * i + start_z;
                if (wp::abs(half) <= 0.5f) {
                    const wp::uint64 depth = static_cast<wp::uint32>((half + 0.5f) * 4294967040.0f);
                    wp::atomic_min(row + i, (depth << 32) | static_cast<wp::uint64>(t));
                }
            }
        }
    }
}
""")
def draw_triangles(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    begin: int,
    stop: int,
    base: int,
    image: int,
    height: int,
    width: int,
    y0: int,
    y1: int,
    keys: wp.array(dtype=wp.uint64),
):
    """Keep, per pixel of the rows y0..y1, the smallest (depth, triangle) key of the triangles [begin, stop).

    Eight pixels of a row at a time on a CPU; those outside the triangle's box fail the test like all others.
    Edge functions are homogeneous (Olano and Greer 1997), so triangles that cross w = 0 need no clipping: they are
    tested over the whole band and their pixels behind the camera have w <= 0 or |z/w| > 1. The tolerance of 1e-6
    closes cracks along shared edges that rounding would open. `image` is the first row of the image among all.
    """
    ...


@wp.kernel
def raster_depth(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    vertex_count: int,
    height: int,
    width: int,
    y0: int,
    y1: int,
    span: int,
    keys: wp.array(dtype=wp.uint64),
):
    """Depth test of all triangles in rows y0..y1; launch over (B, T / span)."""
    b, chunk = wp.tid()
    stop = wp.min(chunk * span + span, tri.shape[0])
    draw_triangles(pos, tri, chunk * span, stop, b * vertex_count, b * height, height, width, y0, y1, keys)


@wp.func_native("""
const float step = 2.0f / width, cy = (y + 0.5f) * 2.0f / height - 1.0f;
int x = begin;
while (x < stop) {
    wp::uint64* row = keys.data + start;
    wp::vec4* out = rast.data + start;
    if (static_cast<wp::uint32>(row[x] >> 32) == 0xffffffffu) {
        row[x] = ~static_cast<wp::uint64>(0);
        out[x++] = wp::vec4();
        continue;
    }
    const wp::uint32 t = static_cast<wp::uint32>(row[x]);
    const wp::vec3i& face = tri.data[t];
    const wp::vec4& p0 = pos.data[base + face[0]];
    const wp::vec4& p1 = pos.data[base + face[1]];
    const wp::vec4& p2 = pos.data[base + face[2]];
    const float cx = (x + 0.5f) * step - 1.0f;
    const wp::vec3 q0(p0[0] - cx * p0[3], p0[1] - cy * p0[3], p0[3]);
    const wp::vec3 q1(p1[0] - cx * p1[3], p1[1] - cy * p1[3], p1[3]);
    const wp::vec3 q2(p2[0] - cx * p2[3], p2[1] - cy * p2[3], p2[3]);
    const wp::vec3 c0 = wp::cross(q1, q2), c1 = wp::cross(q2, q0), c2 = wp::cross(q0, q1);
    const float slope0 = c0[0] * step, slope1 = c1[0] * step, slope2 = c2[0] * step;
    const float number = static_cast<float>(t + 1);
    for (int first = x; x < stop && static_cast<wp::uint32>(row[x]) == t
         && static_cast<wp::uint32>(row[x] >> 32) != 0xffffffffu; ++x) {
        const float dx = x - first;
        const float e0 = slope0 * dx + c0[2], e1 = slope1 * dx + c1[2], area = e0 + e1 + (slope2 * dx + c2[2]);
        const float inverse = area != 0.0f ? 1.0f / area : 0.0f;
        const float u = wp::clamp(e0 * inverse, 0.0f, 1.0f), v = wp::clamp(e1 * inverse, 0.0f, 1.0f - u);
        const float depth = static_cast<float>(static_cast<wp::uint32>(row[x] >> 32)) * (2.0f / 4294967040.0f) - 1.0f;
        out[x] = wp::vec4(u, v, wp::clamp(depth, -1.0f, 1.0f), number);
        row[x] = ~static_cast<wp::uint64>(0);
    }
}
""")
def resolve_row(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    keys: wp.array(dtype=wp.uint64),
    base: int,
    start: int,
    begin: int,
    stop: int,
    y: int,
    width: int,
    height: int,
    rast: wp.array(dtype=wp.vec4),
):
    """`raster_resolve` for the pixels [begin, stop) of the row y that starts at pixel `start`."""
    ...


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
    """Turn the winning key of each pixel into (u, v, z/w, triangle + 1), or zeros; the keys are empty afterwards."""
    b, row, chunk = wp.tid()
    y = y0 + row
    start = (b * height + y) * width
    begin = chunk * span
    stop = wp.min(begin + span, width)
    resolve_row(pos, tri, keys, b * vertex_count, start, begin, stop, y, width, height, rast)


@wp.func_native("""
auto run = [&](auto count) {
    const int channels = count;
    int pixel = start;
    while (pixel < stop) {
        const int t = static_cast<int>(rast.data[pixel][3]);
        if (t == 0) {
            for (int c = 0; c < channels; ++c) out.data[pixel * channels + c] = 0.0f;
            ++pixel;
            continue;
        }
        const wp::vec3i& face = tri.data[t - 1];
        const float* a0 = attr.data + base + face[0] * channels;
        const float* a1 = attr.data + base + face[1] * channels;
        const float* a2 = attr.data + base + face[2] * channels;
        do {
            const float u = rast.data[pixel][0], v = rast.data[pixel][1], rest = 1.0f - u - v;
            float* target = out.data + pixel * channels;
            for (int c = 0; c < channels; ++c) target[c] = u * a0[c] + v * a1[c] + rest * a2[c];
            ++pixel;
        } while (pixel < stop && static_cast<int>(rast.data[pixel][3]) == t);
    }
};
struct Two { constexpr operator wp::int32() const { return 2; } };
struct Three { constexpr operator wp::int32() const { return 3; } };
struct Seven { constexpr operator wp::int32() const { return 7; } };
if (channels == 2) run(Two());
else if (channels == 3) run(Three());
else if (channels == 7) run(Seven());
else run(channels);
""")
def interpolate_row(
    attr: wp.array(dtype=float),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    base: int,
    channels: int,
    start: int,
    stop: int,
    out: wp.array(dtype=float),
):
    """`interpolate_forward` for the pixels [start, stop) of a row."""
    ...


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
    first = (b * height + y0 + row) * width + chunk * span
    stop = first + wp.min(span, width - chunk * span)
    interpolate_row(attr, tri, rast, b * attr_step, channels, first, stop, out)


@wp.func_native("""
const float step = 2.0f / width, cy = (y + 0.5f) * 2.0f / height - 1.0f;
const bool of_uv = attr.shape[0] == 0;
const wp::vec4* values = rast.data + start;
auto run = [&](auto count, auto room, auto corners, int skip) {
    const int given = count;
    const bool to_corners = corners;
    int x = begin;
    while (x < stop) {
        const int t = static_cast<int>(values[x][3]);
        if (t == 0) {
            if (!to_corners) grad_rast.data[start + x] = wp::vec4();
            ++x;
            continue;
        }
        const wp::vec3i& face = tri.data[t - 1];
        const int i0 = base + face[0] * channels + skip, i1 = base + face[1] * channels + skip;
        const int i2 = base + face[2] * channels + skip;
        float du[room], dv[room], s0[room], s1[room], s2[room];
        for (int c = 0; c < given; ++c) {
            du[c] = of_uv ? (c == 0 ? 1.0f : 0.0f) : attr.data[i0 + c] - attr.data[i2 + c];
            dv[c] = of_uv ? (c == 1 ? 1.0f : 0.0f) : attr.data[i1 + c] - attr.data[i2 + c];
            s0[c] = s1[c] = s2[c] = 0.0f;
        }
        const wp::vec4 *p0 = pos.data + verts + face[0], *p1 = pos.data + verts + face[1];
        const wp::vec4* p2 = pos.data + verts + face[2];
        const float cx = (x + 0.5f) * step - 1.0f;
        wp::vec3 q0, q1, q2, edges;
        if (to_corners) {
            q0 = wp::vec3((*p0)[0] - cx * (*p0)[3], (*p0)[1] - cy * (*p0)[3], (*p0)[3]);
            q1 = wp::vec3((*p1)[0] - cx * (*p1)[3], (*p1)[1] - cy * (*p1)[3], (*p1)[3]);
            q2 = wp::vec3((*p2)[0] - cx * (*p2)[3], (*p2)[1] - cy * (*p2)[3], (*p2)[3]);
            edges = wp::cross(q1, q2) + wp::cross(q2, q0) + wp::cross(q0, q1);
        }
        const float slope = edges[0] * step;
        // Sums over the pixels of the gradients to the three edge functions: of themselves, and times the place.
        float m0 = 0.0f, m1 = 0.0f, m2 = 0.0f, x0 = 0.0f, x1 = 0.0f, x2 = 0.0f;
        const int first = x;
        do {
            const float u = values[x][0], v = values[x][1], rest = 1.0f - u - v;
            const float* g = grad_out.data + (start + x) * grad_channels + skip;
            float gu = 0.0f, gv = 0.0f;
            for (int c = 0; c < given; ++c) {
                gu += g[c] * du[c];
                gv += g[c] * dv[c];
                s0[c] += g[c] * u;
                s1[c] += g[c] * v;
                s2[c] += g[c] * rest;
            }
            if (to_corners) {
                const float dx = x - first, area = slope * dx + edges[2];
                const float inverse = wp::abs(area) > 1.0e-20f ? 1.0f / area : 0.0f;
                const float common = gu * u + gv * v;
                const float g0 = (gu - common) * inverse, g1 = (gv - common) * inverse, g2 = -common * inverse;
                m0 += g0;
                m1 += g1;
                m2 += g2;
                x0 += g0 * dx;
                x1 += g1 * dx;
                x2 += g2 * dx;
            } else {
                const wp::vec4 before = skip == 0 ? wp::vec4() : grad_rast.data[start + x];
                grad_rast.data[start + x] = before + wp::vec4(gu, gv, 0.0f, 0.0f);
            }
            ++x;
        } while (x < stop && static_cast<int>(values[x][3]) == t);
        if (need_attr) {
            for (int c = 0; c < given; ++c) {
                wp::atomic_add(grad_attr.data + i0 + c, s0[c]);
                wp::atomic_add(grad_attr.data + i1 + c, s1[c]);
                wp::atomic_add(grad_attr.data + i2 + c, s2[c]);
            }
        }
        if (to_corners) {
            const wp::vec3 e0(x0 * step, 0.0f, m0), e1(x1 * step, 0.0f, m1), e2(x2 * step, 0.0f, m2);
            const wp::vec3 g0 = wp::cross(e1, q2) - wp::cross(e2, q1);
            const wp::vec3 g1 = wp::cross(e2, q0) - wp::cross(e0, q2);
            const wp::vec3 g2 = wp::cross(e0, q1) - wp::cross(e1, q0);
            wp::vec4* target = grad_pos.data + verts;
            wp::atomic_add(target + face[0], wp::vec4(g0[0], g0[1], 0.0f, g0[2] - cx * g0[0] - cy * g0[1]));
            wp::atomic_add(target + face[1], wp::vec4(g1[0], g1[1], 0.0f, g1[2] - cx * g1[0] - cy * g1[1]));
            wp::atomic_add(target + face[2], wp::vec4(g2[0], g2[1], 0.0f, g2[2] - cx * g2[0] - cy * g2[1]));
        }
    }
};
struct No { constexpr operator bool() const { return false; } };
struct Yes { constexpr operator bool() const { return true; } };
struct Two { constexpr operator wp::int32() const { return 2; } };
struct Three { constexpr operator wp::int32() const { return 3; } };
struct Seven { constexpr operator wp::int32() const { return 7; } };
struct Eight { constexpr operator wp::int32() const { return 8; } };
if (!to_pos) for (int skip = 0; skip < channels; skip += 8) run(wp::min(channels - skip, 8), Eight(), No(), skip);
else if (channels == 2) run(Two(), Two(), Yes(), 0);
else if (channels == 3) run(Three(), Three(), Yes(), 0);
else if (channels == 7) run(Seven(), Seven(), Yes(), 0);
else for (int skip = 0; skip < channels; skip += 8) run(wp::min(channels - skip, 8), Eight(), Yes(), skip);
""")
def interpolate_row_backward(
    attr: wp.array(dtype=float),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    grad_out: wp.array(dtype=float),
    pos: wp.array(dtype=wp.vec4),
    base: int,
    channels: int,
    grad_channels: int,
    verts: int,
    start: int,
    begin: int,
    stop: int,
    y: int,
    width: int,
    height: int,
    need_attr: int,
    to_pos: int,
    grad_attr: wp.array(dtype=float),
    grad_rast: wp.array(dtype=wp.vec4),
    grad_pos: wp.array(dtype=wp.vec4),
):
    """`interpolate_backward` for the pixels [begin, stop) of the row y that starts at pixel `start`.

    Those of a triangle are summed, then added.
    """
    ...


@wp.kernel
def interpolate_backward(
    attr: wp.array(dtype=float),
    tri: wp.array(dtype=wp.vec3i),
    rast: wp.array(dtype=wp.vec4),
    grad_out: wp.array(dtype=float),
    pos: wp.array(dtype=wp.vec4),
    attr_step: int,
    channels: int,
    grad_channels: int,
    vertex_count: int,
    need_attr: int,
    to_pos: int,
    height: int,
    width: int,
    y0: int,
    span: int,
    grad_attr: wp.array(dtype=float),
    grad_rast: wp.array(dtype=wp.vec4),
    grad_pos: wp.array(dtype=wp.vec4),
):
    """Gradients to the attributes (added), and to u and v (written) or through them to the corners' x, y, w (added).

    u and v are edge functions over their sum, the area; what the pixels of a triangle in a row give is summed as
    gradients to the edge functions, times the place relative to the first of them, and goes to the corners at once.
    Without attributes, u and v themselves are what was interpolated. `grad_out` has `grad_channels` per pixel.
    """
    b, row, chunk = wp.tid()
    y = y0 + row
    start = (b * height + y) * width
    begin = chunk * span
    stop = wp.min(begin + span, width)
    base = b * attr_step
    verts = b * vertex_count
    interpolate_row_backward(
        attr, tri, rast, grad_out, pos, base, channels, grad_channels, verts, start, begin, stop, y, width, height,
        need_attr, to_pos, grad_attr, grad_rast, grad_pos
    )  # fmt: skip


@wp.func_native("""
for (int p = start; p < stop;) {
    const int t = static_cast<int>(rast.data[p][3]);
    float level = 0.0f;
    if (t > 0) {
        const wp::vec3i& face = tri.data[t - 1];
        const wp::vec4 &p0 = pos.data[base + face[0]], &p1 = pos.data[base + face[1]], &p2 = pos.data[base + face[2]];
        const wp::vec2 &u0 = uv.data[face[0]], &u1 = uv.data[face[1]], &u2 = uv.data[face[2]];
        if (wp::min(p0[3], wp::min(p1[3], p2[3])) > 1.0e-6f) {
            const float n0 = 1.0f / p0[3], n1 = 1.0f / p1[3], n2 = 1.0f / p2[3];
            const float ax = p1[0] * n1 - p0[0] * n0, ay = p1[1] * n1 - p0[1] * n0;
            const float bx = p2[0] * n2 - p0[0] * n0, by = p2[1] * n2 - p0[1] * n0;
            const float pixels = wp::abs(ax * by - bx * ay) * (0.25f * width * height);
            const wp::vec2 c = u1 - u0, d = u2 - u0;
            const float area = wp::abs(c[0] * d[1] - d[0] * c[1]) * texels;
            level = 0.5f * wp::log2(wp::max(area, 1.0e-8f) / wp::max(pixels, 1.0e-8f));
            level = wp::clamp(level, 0.0f, 16.0f);
        }
    }
    do out.data[p++] = level; while (p < stop && static_cast<int>(rast.data[p][3]) == t);
}
""")
def lod_row(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    uv: wp.array(dtype=wp.vec2),
    rast: wp.array(dtype=wp.vec4),
    base: int,
    texels: float,
    width: int,
    height: int,
    start: int,
    stop: int,
    out: wp.array(dtype=float),
):
    """`texture_lod` for the pixels [start, stop) of a row."""
    ...


@wp.kernel
def texture_lod(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    uv: wp.array(dtype=wp.vec2),
    rast: wp.array(dtype=wp.vec4),
    vertex_count: int,
    texels: float,
    height: int,
    width: int,
    y0: int,
    span: int,
    out: wp.array(dtype=float),
):
    """Mip level of each pixel's triangle, half the log2 of texels per pixel by area; zero where nothing is."""
    b, row, chunk = wp.tid()
    first = (b * height + y0 + row) * width + chunk * span
    stop = first + wp.min(span, width - chunk * span)
    lod_row(pos, tri, uv, rast, b * vertex_count, texels, width, height, first, stop, out)


@wp.func_native("""
auto run = [&](auto count) {
    const int given = count;
    int at = place, h = height, w = width, first = y0, stop = y1;
    for (int k = 0; k < levels; ++k) {
        const int half = w / 2, below = at + h * w * given;
        for (int y = first; y < stop; ++y) {
            const float *top = chain.data + at + 2 * y * w * given, *bottom = top + w * given;
            float* target = chain.data + below + y * half * given;
            for (int x = 0; x < half; ++x, top += 2 * given, bottom += 2 * given, target += given)
                for (int c = 0; c < given; ++c)
                    target[c] = 0.25f * (top[c] + top[c + given] + bottom[c] + bottom[c + given]);
        }
        at = below, h /= 2, w = half, first /= 2, stop /= 2;
    }
};
struct Three { constexpr operator wp::int32() const { return 3; } };
if (channels == 3) run(Three());
else run(channels);
""")
def mip_rows_down(
    chain: wp.array(dtype=float), place: int, height: int, width: int, channels: int, levels: int, y0: int, y1: int
):
    """`mip_down` for the rows y0..y1 of the first level that is filled."""
    ...


@wp.func_native("""
auto run = [&](auto count) {
    const int given = count;
    for (int k = levels - 1; k >= 0; --k) {
        int at = place;
        for (int j = 0; j < k; ++j) at += (height >> j) * (width >> j) * given;
        const int w = width >> k, half = w / 2, below = at + (height >> k) * w * given;
        for (int y = y0 >> k; y < y1 >> k; ++y) {
            float *top = grad.data + at + 2 * y * w * given, *bottom = top + w * given;
            const float* source = grad.data + below + y * half * given;
            for (int x = 0; x < half; ++x, top += 2 * given, bottom += 2 * given, source += given)
                for (int c = 0; c < given; ++c) {
                    const float g = 0.25f * source[c];
                    top[c] += g, top[c + given] += g, bottom[c] += g, bottom[c + given] += g;
                }
        }
    }
};
struct Three { constexpr operator wp::int32() const { return 3; } };
if (channels == 3) run(Three());
else run(channels);
""")
def mip_rows_up(
    grad: wp.array(dtype=float), place: int, height: int, width: int, channels: int, levels: int, y0: int, y1: int
):
    """`mip_up` for the rows y0..y1 of the finest level that gives."""
    ...


@wp.kernel
def mip_down(
    chain: wp.array(dtype=float),
    step: int,
    offset: int,
    height: int,
    width: int,
    channels: int,
    levels: int,
    y0: int,
    y1: int,
):
    """Fill the `levels` after the one at `offset` (height x width) with means of 2x2; launch over (B,).

    Only what comes from the rows y0..y1 of the first of them: both divisible by 2^(levels - 1).
    """
    mip_rows_down(chain, wp.tid() * step + offset, height, width, channels, levels, y0, y1)


@wp.kernel
def mip_up(
    grad: wp.array(dtype=float),
    step: int,
    offset: int,
    height: int,
    width: int,
    channels: int,
    levels: int,
    y0: int,
    y1: int,
):
    """Transpose of `mip_down`: a quarter of each texel goes to its four children, from the coarsest level on."""
    mip_rows_up(grad, wp.tid() * step + offset, height, width, channels, levels, y0, y1)


@wp.func_native("""
int starts[20] = {0};
for (int k = 0; k + 1 < levels; ++k) starts[k + 1] = starts[k] + (tex_width >> k) * (tex_height >> k) * channels;
auto run = [&](auto count) {
    const int given = count;
    for (int p = start; p < stop; ++p) {
        const wp::vec2 place = uv.data[p];
        float* target = out.data + p * given;
        const float level = levels > 1 ? wp::clamp(lod.data[p], 0.0f, levels - 1.0f) : 0.0f;
        if (p > start && place[0] == uv.data[p - 1][0] && place[1] == uv.data[p - 1][1]
            && (levels == 1 || lod.data[p] == lod.data[p - 1])) {  // as where nothing is
            for (int c = 0; c < given; ++c) target[c] = target[c - given];
            continue;
        }
        const int first = static_cast<int>(level);
        const float blend = level - first;
        for (int k = first; k < first + (blend > 0.0f ? 2 : 1); ++k) {
            const int w = tex_width >> k, h = tex_height >> k;
            const float x = place[0] * w - 0.5f, y = place[1] * h - 0.5f;
            const float left = wp::floor(x), top = wp::floor(y), fx = x - left, fy = y - top;
            const int x0 = wp::clamp(static_cast<int>(left), 0, w - 1) * given;
            const int x1 = wp::clamp(static_cast<int>(left) + 1, 0, w - 1) * given;
            const float* texels = tex.data + base + starts[k];
            const float* row0 = texels + wp::clamp(static_cast<int>(top), 0, h - 1) * w * given;
            const float* row1 = texels + wp::clamp(static_cast<int>(top) + 1, 0, h - 1) * w * given;
            const float share = k == first ? 1.0f - blend : blend;
            const float w00 = share * (1.0f - fx) * (1.0f - fy), w01 = share * fx * (1.0f - fy);
            const float w10 = share * (1.0f - fx) * fy, w11 = share * fx * fy;
            for (int c = 0; c < given; ++c) {
                const float value = w00 * row0[x0 + c] + w01 * row0[x1 + c] + w10 * row1[x0 + c] + w11 * row1[x1 + c];
                target[c] = k == first ? value : target[c] + value;
            }
        }
    }
};
struct Three { constexpr operator wp::int32() const { return 3; } };
if (channels == 3) run(Three());
else run(channels);
""")
def texture_row(
    tex: wp.array(dtype=float),
    uv: wp.array(dtype=wp.vec2),
    lod: wp.array(dtype=float),
    base: int,
    tex_height: int,
    tex_width: int,
    levels: int,
    channels: int,
    start: int,
    stop: int,
    out: wp.array(dtype=float),
):
    """`texture_forward` for the pixels [start, stop) of a row."""
    ...


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
    first = (b * height + y0 + row) * width + chunk * span
    stop = first + wp.min(span, width - chunk * span)
    texture_row(tex, uv, lod, b * tex_step, tex_height, tex_width, levels, channels, first, stop, out)


@wp.func_native("""
int starts[20] = {0};
for (int k = 0; k + 1 < levels; ++k) starts[k + 1] = starts[k] + (tex_width >> k) * (tex_height >> k) * channels;
auto run = [&](auto count) {
    const int given = count;
    for (int p = start; p < stop; ++p) {
        const float* g = grad_out.data + p * given;
        bool some = false;
        for (int c = 0; c < given; ++c) some = some || g[c] != 0.0f;
        if (!some) continue;
        const wp::vec2 place = uv.data[p];
        const float level = levels > 1 ? wp::clamp(lod.data[p], 0.0f, levels - 1.0f) : 0.0f;
        const int first = static_cast<int>(level);
        const float blend = level - first;
        float gx = 0.0f, gy = 0.0f;
        for (int k = first; k < first + (blend > 0.0f ? 2 : 1); ++k) {
            if (parity >= 0 && parity != k % 2) continue;
            const int w = tex_width >> k, h = tex_height >> k;
            const float x = place[0] * w - 0.5f, y = place[1] * h - 0.5f;
            const float left = wp::floor(x), top = wp::floor(y), fx = x - left, fy = y - top;
            const int x0 = wp::clamp(static_cast<int>(left), 0, w - 1) * given;
            const int x1 = wp::clamp(static_cast<int>(left) + 1, 0, w - 1) * given;
            const int y0 = base + starts[k] + wp::clamp(static_cast<int>(top), 0, h - 1) * w * given;
            const int y1 = base + starts[k] + wp::clamp(static_cast<int>(top) + 1, 0, h - 1) * w * given;
            const float share = k == first ? 1.0f - blend : blend;
            const float w00 = share * (1.0f - fx) * (1.0f - fy), w01 = share * fx * (1.0f - fy);
            const float w10 = share * (1.0f - fx) * fy, w11 = share * fx * fy;
            float dx = 0.0f, dy = 0.0f;
            for (int c = 0; c < given; ++c) {
                const float c00 = tex.data[y0 + x0 + c], c01 = tex.data[y0 + x1 + c];
                const float c10 = tex.data[y1 + x0 + c], c11 = tex.data[y1 + x1 + c];
                dx += g[c] * ((c01 - c00) * (1.0f - fy) + (c11 - c10) * fy);
                dy += g[c] * ((c10 - c00) * (1.0f - fx) + (c11 - c01) * fx);
                if (need_tex) {
                    wp::atomic_add(grad_tex.data + y0 + x0 + c, g[c] * w00);
                    wp::atomic_add(grad_tex.data + y0 + x1 + c, g[c] * w01);
                    wp::atomic_add(grad_tex.data + y1 + x0 + c, g[c] * w10);
                    wp::atomic_add(grad_tex.data + y1 + x1 + c, g[c] * w11);
                }
            }
            gx += share * w * dx;
            gy += share * h * dy;
        }
        grad_uv.data[p] = grad_uv.data[p] + wp::vec2(gx, gy);
    }
};
struct Three { constexpr operator wp::int32() const { return 3; } };
if (channels == 3) run(Three());
else run(channels);
""")
def texture_row_backward(
    tex: wp.array(dtype=float),
    uv: wp.array(dtype=wp.vec2),
    lod: wp.array(dtype=float),
    grad_out: wp.array(dtype=float),
    base: int,
    tex_height: int,
    tex_width: int,
    levels: int,
    channels: int,
    need_tex: int,
    parity: int,
    start: int,
    stop: int,
    grad_tex: wp.array(dtype=float),
    grad_uv: wp.array(dtype=wp.vec2),
):
    """`texture_backward` for the pixels [start, stop) of a row."""
    ...


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
    first = (b * height + y0 + row) * width + chunk * span
    stop = first + wp.min(span, width - chunk * span)
    base = b * tex_step
    texture_row_backward(
        tex, uv, lod, grad_out, base, tex_height, tex_width, levels, channels, need_tex, parity, first, stop, grad_tex,
        grad_uv
    )  # fmt: skip


@wp.func_native("""
const wp::vec3i& face = tri.data[t];
const wp::vec4 &p0 = pos.data[base + face[0]], &p1 = pos.data[base + face[1]], &p2 = pos.data[base + face[2]];
if (!(wp::min(p0[3], wp::min(p1[3], p2[3])) > 1.0e-6f)) return 0;
// Relative to the first vertex: the triangle is much smaller than its distance to the optical axis.
const float x = p0[0] / p0[3], y = p0[1] / p0[3];
const float ax = p1[0] - x * p1[3], ay = p1[1] - y * p1[3], bx = p2[0] - x * p2[3], by = p2[1] - y * p2[3];
return ax * by - ay * bx > 0.0f ? 1 : -1;
""")
def winding(pos: wp.array(dtype=wp.vec4), tri: wp.array(dtype=wp.vec3i), base: int, t: int) -> wp.int8:
    """Of triangle t on the screen: 1 or -1, 0 where a vertex is behind the camera."""
    ...


@wp.kernel
def facing_forward(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    vertex_count: int,
    facing: wp.array(dtype=wp.int8),
    start: int,
):
    """`winding` of all triangles; launch over (B, T)."""
    b, t = wp.tid()
    t += start
    facing[b * tri.shape[0] + t] = winding(pos, tri, b * vertex_count, t)


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


@wp.struct
class Silhouette:
    """How two neighbouring pixels blend.

    weight > 0: the first takes so much of the second's colour; < 0: the second takes so much of the first's.
    code: 1 + 2 * (3 * triangle + edge) + (1 if the nearer surface is the second's), or 0 without a silhouette.
    """

    weight: float
    code: int


@wp.func
def silhouette_between(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    adjacent: wp.array(dtype=int),
    facing: wp.array(dtype=wp.int8),
    vertex_base: int,
    facing_base: int,
    r0: wp.vec4,
    r1: wp.vec4,
    axis: int,
    x: int,
    y: int,
    width: float,
    height: float,
    side: wp.int8,
) -> Silhouette:
    """Silhouette between the pixel (x, y), whose `rast` is r0, and its right or upper (axis 0 or 1) neighbour's r1.

    Only where the nearer one's surface faces to `side`.
    """
    none = Silhouette()
    swap = int(0)
    if r0[3] == 0.0 or (r1[3] > 0.0 and r1[2] < r0[2]):
        swap = 1
    t = int(wp.where(swap == 1, r1[3], r0[3])) - 1
    goal = int(wp.where(swap == 1, r0[3], r1[3])) - 1
    if facing[facing_base + t] != side:
        return none
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
        pos, tri, adjacent, facing, vertex_base, facing_base, t, goal, axis, direction, along, across, width, height
    )
    if hit[0] < 0.0:
        return none
    code = int(hit[1])
    f = tri[code // 3]
    n = code % 3
    a = pair_point(pos[vertex_base + f[(n + 1) % 3]], axis, along, across, width, height)
    c = pair_point(pos[vertex_base + f[(n + 2) % 3]], axis, along, across, width, height)
    if wp.abs(c[1] - a[1]) < wp.abs(c[0] - a[0]):
        return none
    found = Silhouette()
    found.weight = direction * (0.5 - hit[0])
    found.code = 1 + 2 * code + swap
    return found


@wp.func_native("""
for (int t = begin / 3; t < stop; ++t) {
    const wp::int8 side = facing.data[faces + t];
    if (side == 0) continue;
    for (int edge = 0; edge < 3; ++edge) {
        const int other = adjacent.data[3 * t + edge];
        if (3 * t + edge >= begin && (other < 0 || facing.data[faces + other / 3] != side)) return 3 * t + edge;
    }
}
return 3 * stop;
""")
def next_silhouette(
    adjacent: wp.array(dtype=int), facing: wp.array(dtype=wp.int8), faces: int, begin: int, stop: int
) -> int:
    """First place 3 * triangle + edge from `begin` on, of the triangles before `stop`, where the surface turns over.

    There is no other triangle, or one that faces the other way.
    """
    ...


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
    band: int,
    room: int,
    counts: wp.array(dtype=int),
    places: wp.array(dtype=wp.vec2i),
    weights: wp.array(dtype=float),
    start: int,
    span: int,
):
    """List the pixel pairs (this, right) and (this, up) across which a silhouette runs; launch over (B, T / span).

    Every silhouette edge looks at the pairs that it crosses, seen or not: a pair is listed where the walk over the
    visible surface ends at this very edge, so once at most.
    places: (2 * pixel + axis, code of `Silhouette`), weights: the blend weight; each band fills its own part, as far as
    there is room, and counts on.
    """
    b, chunk = wp.tid()
    w = float(width)
    h = float(height)
    faces = b * tri.shape[0]
    verts = b * vertex_count
    stop = wp.min(start + chunk * span + span, tri.shape[0])
    code = next_silhouette(adjacent, facing, faces, 3 * (start + chunk * span), stop)
    while code < 3 * stop:
        face = tri[code // 3]
        side = facing[faces + code // 3]
        k = code % 3
        ends_a = to_pixel(pos[verts + face[(k + 1) % 3]], w, h)
        ends_b = to_pixel(pos[verts + face[(k + 2) % 3]], w, h)
        for axis in range(2):
            along = ends_a[axis]
            across = ends_a[1 - axis]
            step_along = ends_b[axis] - along
            step_across = ends_b[1 - axis] - across
            if wp.abs(step_across) > 0.999 * wp.abs(step_along):  # only such edges blend pairs along this axis
                tilt = step_along / step_across
                limit = wp.where(axis == 0, h, w) - 1.0
                low = wp.clamp(wp.min(across, across + step_across) - 0.5, 0.0, limit + 1.0)
                high = wp.clamp(wp.max(across, across + step_across) - 0.5, -1.0, limit)
                last = wp.where(axis == 0, width, height) - 2
                for line in range(int(wp.ceil(low)), int(wp.floor(high)) + 1):
                    # The pair whose centres the edge runs between; two where it runs close by a centre.
                    place = wp.clamp(along + (float(line) + 0.5 - across) * tilt - 0.5, -1.0, float(last) + 2.0)
                    for i in range(wp.max(int(wp.floor(place - 0.01)), 0), wp.min(int(place + 0.01), last) + 1):
                        x = wp.where(axis == 0, i, line)
                        y = wp.where(axis == 0, line, i)
                        pixel = (b * height + y) * width + x
                        r0 = rast[pixel]
                        r1 = rast[pixel + wp.where(axis == 0, 1, width)]
                        if r0[3] != r1[3]:
                            found = silhouette_between(
                                pos, tri, adjacent, facing, verts, faces, r0, r1, axis, x, y, w, h, side
                            )
                            if found.code > 0 and (found.code - 1) // 2 == code:
                                n = wp.atomic_add(counts, band, 1)
                                if n < room:
                                    places[band * room + n] = wp.vec2i(2 * pixel + axis, found.code)
                                    weights[band * room + n] = found.weight
        code = next_silhouette(adjacent, facing, faces, code + 1, stop)


@wp.kernel
def antialias_forward(
    color: wp.array(dtype=float),
    places: wp.array(dtype=wp.vec2i),
    weights: wp.array(dtype=float),
    count: wp.array(dtype=int),
    channels: int,
    width: int,
    out: wp.array(dtype=float),
):
    """Blend the `count` listed pairs; `out` holds the colours before; launch over the list, or over more."""
    i = wp.tid()
    if i >= count[0]:
        return
    pixel = places[i][0] // 2
    other = pixel + wp.where(places[i][0] % 2 == 0, 1, width)
    target = wp.where(weights[i] > 0.0, pixel, other)
    for c in range(channels):
        step = color[other * channels + c] - color[pixel * channels + c]
        wp.atomic_add(out, target * channels + c, weights[i] * step)


@wp.func
def window_gradient(p: wp.vec4, gx: float, gy: float, width: float, height: float) -> wp.vec4:
    """Gradient to a clip-space position from one to its window coordinates."""
    sx = 0.5 * width * gx / p[3]
    sy = 0.5 * height * gy / p[3]
    return wp.vec4(sx, sy, 0.0, -(sx * p[0] + sy * p[1]) / p[3])


@wp.kernel
def antialias_backward(
    pos: wp.array(dtype=wp.vec4),
    tri: wp.array(dtype=wp.vec3i),
    color: wp.array(dtype=float),
    grad_out: wp.array(dtype=float),
    places: wp.array(dtype=wp.vec2i),
    weights: wp.array(dtype=float),
    count: wp.array(dtype=int),
    vertex_count: int,
    channels: int,
    height: int,
    width: int,
    grad_color: wp.array(dtype=float),
    grad_pos: wp.array(dtype=wp.vec4),
):
    """Gradients to the pairs' colours and to the two ends of the silhouette edge; launch over the list, or over more.

    `grad_color` holds `grad_out` before; `grad_pos` is added to.
    """
    i = wp.tid()
    if i >= count[0]:
        return
    pixel = places[i][0] // 2
    axis = places[i][0] % 2
    other = pixel + wp.where(axis == 0, 1, width)
    weight = weights[i]
    target = wp.where(weight > 0.0, pixel, other)
    slope = float(0.0)
    for c in range(channels):
        g = grad_out[target * channels + c]
        slope += g * (color[other * channels + c] - color[pixel * channels + c])
        wp.atomic_add(grad_color, other * channels + c, weight * g)
        wp.atomic_add(grad_color, pixel * channels + c, -weight * g)
    if slope == 0.0:
        return
    swap = (places[i][1] - 1) % 2
    code = (places[i][1] - 1) // 2
    face = tri[code // 3]
    k = code % 3
    base = pixel // (height * width) * vertex_count
    ia = base + face[(k + 1) % 3]
    ib = base + face[(k + 2) % 3]
    px = float(pixel % width) + 0.5
    py = float(pixel // width % height) + 0.5
    if swap == 1:
        if axis == 0:
            px += 1.0
        else:
            py += 1.0
    along = wp.where(axis == 0, px, py)
    across = wp.where(axis == 0, py, px)
    w = float(width)
    h = float(height)
    a = pair_point(pos[ia], axis, along, across, w, h)
    e = pair_point(pos[ib], axis, along, across, w, h) - a
    # weight = direction / 2 - (crossing along the positive axis): the direction cancels.
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


@wp.func_native("""
wp::vec3 total;
for (int k = first.data[i]; k < first.data[i + 1]; ++k) {
    const wp::vec3i& face = tri.data[incident.data[k]];
    const wp::vec3 &a = verts.data[base + face[0]], &b = verts.data[base + face[1]], &c = verts.data[base + face[2]];
    total = total + wp::cross(b - a, c - a);
}
return total;
""")
def vertex_normal(
    verts: wp.array(dtype=wp.vec3),
    tri: wp.array(dtype=wp.vec3i),
    first: wp.array(dtype=int),
    incident: wp.array(dtype=int),
    base: int,
    i: int,
) -> wp.vec3:
    """Sum of the area-weighted face normals around vertex i."""
    ...


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
    """`vertex_normal` of all; launch over (B, vertices)."""
    b, i = wp.tid()
    i += start
    out[b * vertex_count + i] = vertex_normal(verts, tri, first, incident, b * vertex_count, i)


@wp.func_native("""
wp::vec3 total;
for (int k = first.data[i]; k < first.data[i + 1]; ++k) {
    const wp::vec3i& face = tri.data[incident.data[k]];
    const wp::vec3 g = grad_out.data[base + face[0]] + grad_out.data[base + face[1]] + grad_out.data[base + face[2]];
    const int place = i == face[0] ? 0 : i == face[1] ? 1 : 2;
    const wp::vec3 &next = verts.data[base + face[(place + 1) % 3]], &last = verts.data[base + face[(place + 2) % 3]];
    total = total + wp::cross(g, last - next);
}
return total;
""")
def vertex_normal_gradient(
    verts: wp.array(dtype=wp.vec3),
    tri: wp.array(dtype=wp.vec3i),
    first: wp.array(dtype=int),
    incident: wp.array(dtype=int),
    grad_out: wp.array(dtype=wp.vec3),
    base: int,
    i: int,
) -> wp.vec3:
    """What vertex i gets from the faces around it: for face (a, b, c), d((b-a) x (c-a))/da = (c-b) x."""
    ...


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
    """Gradient of `normals_forward`, gathered per vertex."""
    b, i = wp.tid()
    i += start
    base = b * vertex_count
    grad_verts[base + i] = vertex_normal_gradient(verts, tri, first, incident, grad_out, base, i)
