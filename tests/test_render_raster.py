# SPDX-License-Identifier: GPL-3.0-or-later
"""The rasteriser against an analytic sphere, finite differences, torch and, where it is there, nvdiffrast."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.errors import GanfitError
from backend.render.camera import Camera
from backend.render.raster import get_rasterizer
from backend.render.raster_nvdiffrast import is_importable
from backend.render.topology import edge_adjacency


@pytest.fixture(scope="module")
def raster():
    return get_rasterizer("cpu")


def icosphere(subdivisions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit sphere: vertices (V, 3), triangles (T, 3) int32, wound outwards."""
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    return torch.tensor(np.array(mesh.vertices)).float(), torch.tensor(np.array(mesh.faces)).int()


def big_triangles() -> tuple[torch.Tensor, torch.Tensor]:
    """Two tilted triangles in clip space (1, 6, 4), one partly behind the other, with different w per vertex."""
    pos = torch.tensor(
        [
            [-0.83, -0.71, 0.1, 1.0], [1.31, -0.52, 0.5, 1.6], [0.11, 0.93, -0.1, 1.2],
            [-0.53, 0.95, 0.3, 1.1], [-1.15, -0.35, 0.8, 1.4], [0.92, 0.13, 0.45, 1.3],
        ]
    )  # fmt: skip
    return pos[None], torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)


def smooth_weights(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_sphere_coverage_depth_and_normals(raster):
    """A sphere in perspective: area of the disc, distance and normal at each pixel by ray-sphere intersection."""
    verts, tri = icosphere(5)
    size, distance, fov = 256, 3.0, 0.9
    camera = Camera.look_at(torch.tensor([[0.0, 0.0, distance]]), torch.zeros(1, 3), fov, (size, size))
    pos = camera.clip(verts[None])
    rast = raster.rasterize(pos, tri, (size, size))
    focal = 0.5 * size / math.tan(0.5 * fov)
    radius = focal / math.sqrt(distance**2 - 1.0)
    covered = rast[0, ..., 3] > 0
    assert covered.sum().item() == pytest.approx(math.pi * radius**2, rel=2e-3)

    centres = torch.arange(size) + 0.5 - 0.5 * size
    y, x = torch.meshgrid(centres, centres, indexing="ij")  # row 0 is the bottom: y grows upwards
    ray = torch.stack([x / focal, y / focal, -torch.ones_like(x)], dim=-1)
    a, b, c = (ray * ray).sum(-1), -2.0 * distance * ray[..., 2].neg(), distance**2 - 1.0
    root = (b * b - 4 * a * c).clamp_min(0.0)
    hit = torch.tensor([0.0, 0.0, distance]) + ((-b - root.sqrt()) / (2 * a))[..., None] * ray
    inside = covered & (root > 0.5)
    position = raster.interpolate(verts[None], rast, tri)[0]
    assert (position - hit)[inside].norm(dim=-1).max() < 2e-3  # the facets' sagitta is 5e-4
    smooth = torch.nn.functional.normalize(raster.vertex_normals(verts[None], tri), dim=-1)
    normals = torch.nn.functional.normalize(raster.interpolate(smooth, rast, tri)[0], dim=-1)
    assert (normals * hit).sum(-1)[inside].min() > 0.999
    depth = raster.interpolate(pos[..., 3:], rast, tri)[0, ..., 0]
    assert (depth - (distance - hit[..., 2]))[inside].abs().max() < 2e-3


def test_nearest_triangle_wins_and_row_zero_is_the_bottom(raster):
    pos = torch.tensor(
        [[[-1.0, -1, 0.5, 1], [3, -1, 0.5, 1], [-1, 3, 0.5, 1], [-1, -1, -0.2, 1], [1, -1, -0.2, 1], [-1, 0, -0.2, 1]]]
    )
    tri = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    ids = raster.rasterize(pos, tri, (8, 8))[0, ..., 3]
    assert ids[0, 0] == 2 and ids[7, 7] == 1 and ids[7, 0] == 1
    both_windings = raster.rasterize(pos, tri.flip(1), (8, 8))[0, ..., 3]
    assert torch.equal(ids, both_windings)


def test_barycentrics_match_a_double_precision_reference(raster):
    """u, v, z/w by solving [p0 p1 p2] b = (x, y, ., w) per pixel in float64."""
    pos, tri = big_triangles()
    height, width = 48, 64
    rast = raster.rasterize(pos, tri, (height, width))[0]
    assert (rast[..., 3] == 1).sum() > 300 and (rast[..., 3] == 2).sum() > 100
    for y, x in torch.nonzero(rast[..., 3] > 0)[::7].tolist():
        corners = pos[0, tri[int(rast[y, x, 3]) - 1].long()].double()
        ndc = torch.tensor([(x + 0.5) * 2 / width - 1, (y + 0.5) * 2 / height - 1, 1.0], dtype=torch.float64)
        b = torch.linalg.solve(corners[:, [0, 1, 3]].T, ndc)
        b = b / b.sum()
        zw = (b @ corners[:, 2]) / (b @ corners[:, 3])
        expected = torch.stack([b[0], b[1], zw])
        assert (rast[y, x, :3].double() - expected).abs().max() < 5e-6


def test_no_cracks_between_triangles(raster):
    """A jittered grid that covers the screen leaves no pixel empty."""
    n = 60
    generator = torch.Generator().manual_seed(1)
    grid = torch.stack(torch.meshgrid(torch.linspace(-1.2, 1.2, n), torch.linspace(-1.2, 1.2, n), indexing="ij"), -1)
    grid = grid + 0.015 * torch.rand(grid.shape, generator=generator)
    w = 0.5 + torch.rand(n, n, 1, generator=generator)
    pos = torch.cat([grid * w, torch.zeros(n, n, 1), w], dim=-1).reshape(1, -1, 4)
    index = torch.arange(n * n).reshape(n, n)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    tri = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)]).int()
    assert (raster.rasterize(pos, tri, (300, 300))[..., 3] > 0).all()


def test_triangle_through_the_camera_plane_is_clipped(raster):
    """A floor that starts behind the camera fills the lower half up to the horizon, and nothing above it."""
    camera = Camera.look_at(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, -1.0]]), 1.2, (64, 64))
    verts = torch.tensor([[[-50.0, 0, 50], [50, 0, 50], [50, 0, -50], [-50, 0, -50]]])
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    covered = raster.rasterize(camera.clip(verts), tri, (64, 64))[0, ..., 3] > 0
    focal = 32 / math.tan(0.6)
    rows = covered.all(dim=1)
    horizon = 32 - focal / 50  # pixels above the bottom, of the floor's far edge
    assert rows[: int(horizon - 0.5)].all() and not covered[int(horizon + 0.5) :].any()
    behind = camera.clip(verts + torch.tensor([0.0, 0.0, 200.0]))
    assert not (raster.rasterize(behind, tri, (64, 64))[..., 3] > 0).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e30, 1e-30])
def test_positions_out_of_all_bounds_draw_nothing_wrong(raster, bad):
    """Numbers that a fit gone astray hands over: triangles without them are drawn as ever, and no memory is spoilt."""
    generator = torch.Generator().manual_seed(0)
    for resolution in ((300, 200), (5, 9)):
        pos = torch.randn(2, 300, 4, generator=generator)
        pos[..., 3] = pos[..., 3].abs() + 0.5
        spoilt = pos.clone()
        spoilt[:, ::20, torch.randint(0, 4, (1,), generator=generator)] = bad
        tri = torch.randint(0, 300, (500, 3), generator=generator).int()
        sound = (tri % 20 > 0).all(dim=1)
        spoilt.requires_grad_()
        rast = raster.rasterize(spoilt, tri, resolution)
        colors = raster.interpolate(torch.ones(1, 300, 2), rast, tri, spoilt)
        raster.antialias(colors, rast, spoilt, tri).sum().backward()
        shown = rast[..., 3].long()
        assert ((shown >= 0) & (shown <= 500)).all()
        expected = raster.rasterize(pos, tri[sound], resolution)
        kept = torch.cat([torch.zeros(1, dtype=torch.bool), sound])[shown]
        number = torch.cat([torch.zeros(1), torch.cumsum(sound.float(), 0)])[shown]
        assert torch.equal(number[kept], expected[..., 3][kept])


def test_rasterize_gradient_matches_finite_differences(raster):
    """d(sum of weighted u, v)/d(x, y, w) of every vertex, where no pixel changes its triangle."""
    pos, tri = big_triangles()
    shape = (1, 40, 40, 2)
    reference = raster.rasterize(pos, tri, shape[1:3])[..., 3]
    stable = torch.ones_like(reference, dtype=torch.bool)
    step = 2e-3
    shifted = []
    for i in range(6):
        for c in (0, 1, 3):
            for sign in (-1, 1):
                moved = pos.clone()
                moved[0, i, c] += sign * step
                shifted.append(raster.rasterize(moved, tri, shape[1:3]))
                stable &= shifted[-1][..., 3] == reference
    weights = smooth_weights(shape) * (stable & (reference > 0))[..., None]
    assert weights.gt(0).any(-1).sum() > 200
    pos.requires_grad_()
    (raster.rasterize(pos, tri, shape[1:3])[..., :2] * weights).sum().backward()
    values = [(s[..., :2].double() * weights).sum().item() for s in shifted]
    numeric = torch.tensor([(values[k + 1] - values[k]) / (2 * step) for k in range(0, len(values), 2)]).reshape(6, 3)
    analytic = pos.grad[0][:, [0, 1, 3]]
    assert (analytic - numeric).abs().max() < 0.01 * numeric.abs().max()
    assert pos.grad[0, :, 2].abs().max() == 0


def sphere_scene(subdivisions: int, resolution: tuple[int, int]):
    verts, tri = icosphere(subdivisions)
    camera = Camera.look_at(
        torch.tensor([[0.4, 0.3, 3.2], [-1.0, 0.1, 3.0]]), torch.tensor([[0.05, 0.02, 0.0]]), 0.75, resolution
    )
    return verts, tri, camera


@pytest.mark.parametrize("subdivisions", [2, 5])
def test_silhouette_gradient_is_the_contours_length(raster, subdivisions):
    """Growing a sphere's picture moves its contour: d(area)/d(radius) = perimeter, triangles larger or smaller than
    pixels. `subdivisions` 5 at 128 pixels has silhouette triangles far thinner than a pixel."""
    verts, tri = icosphere(subdivisions)
    size = 128
    verts = 0.7 * verts @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    pos = torch.cat([verts, torch.ones(len(verts), 1)], dim=1)[None].requires_grad_()
    rast = raster.rasterize(pos, tri, (size, size))
    coverage = raster.antialias((rast[..., 3:] > 0).float(), rast, pos, tri)
    coverage.sum().backward()
    outwards = torch.nn.functional.normalize(verts[:, :2], dim=1)
    grown = (pos.grad[0, :, :2] * outwards).sum().item()
    assert grown == pytest.approx(2 * math.pi * 0.7 * (size / 2) ** 2, rel=0.03)
    disc = math.pi * 0.49 * (size / 2) ** 2
    assert coverage.sum().item() == pytest.approx(disc, rel=0.04 if subdivisions == 2 else 2e-3)
    assert pos.grad[0, :, :2].sum(0).abs().max() < 0.02 * grown  # moving it sideways changes no area


def test_antialias_matches_finite_differences(raster):
    """Two big triangles, one over the other and over the background: weighted sum of the blended colours against
    moving each vertex of the two, silhouettes only (flat colours)."""
    pos, tri = big_triangles()
    pos[..., 2] = torch.tensor([-0.3, -0.3, -0.3, 0.4, 0.4, 0.4]) * pos[..., 3]  # they do not cut each other
    resolution = (128, 128)
    colors = torch.tensor([[0.0, 0.1], [0.8, 0.3], [0.2, 1.0]])
    yy, xx = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 128), indexing="ij")
    weights = torch.stack([1 + xx * yy, 2 - xx * xx], dim=-1)[None]

    def loss(p: torch.Tensor) -> torch.Tensor:
        rast = raster.rasterize(p, tri, resolution)
        flat = colors[rast[..., 3].long()]
        return (raster.antialias(flat, rast, p, tri).double() * weights).sum()

    moving = pos.clone().requires_grad_()
    loss(moving).backward()
    numeric = torch.zeros(6, 2)
    for i in range(6):
        for c in range(2):
            # The blend is exact for edges that cross a pixel pair's axis at over 45 degrees; averaging over several
            # sub-pixel moves evens out the jumps where edges switch between the two axes.
            slopes = []
            for offset in torch.linspace(-0.02, 0.02, 9):
                low, high = pos.clone(), pos.clone()
                low[0, i, c] += offset - 0.01
                high[0, i, c] += offset + 0.01
                slopes.append((loss(high) - loss(low)) / 0.02)
            numeric[i, c] = torch.stack(slopes).mean()
    assert (moving.grad[0, :, :2] - numeric).abs().max() < 0.05 * numeric.abs().max()


def test_coverage_of_thousands_of_squares_is_their_area(raster):
    """129,000 blended pairs, far more than one head has; and a picture of a few pixels."""
    for count, size in ((60, 1024), (1, 6)):
        generator = torch.Generator().manual_seed(4)
        low = (torch.arange(count) + 0.25) * 2 / count - 1
        y, x = torch.meshgrid(low, low, indexing="ij")
        start = torch.stack([x, y], -1).reshape(-1, 1, 2)
        start = start + torch.rand(start.shape, generator=generator) * 0.2 / count
        corners = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * 1.05 / count
        flat = (start + corners).reshape(-1, 2)
        pos = torch.cat([flat, torch.zeros(len(flat), 1), torch.ones(len(flat), 1)], 1)[None]
        first = 4 * torch.arange(count * count)[:, None]
        tri = torch.cat([first + torch.tensor([0, 1, 2]), first + torch.tensor([0, 2, 3])]).int()
        rast = raster.rasterize(pos, tri, (size, size))
        coverage = raster.antialias((rast[..., 3:] > 0).float(), rast, pos, tri)
        side = 1.05 / count * size / 2
        # Along its sides a square's blending is exact; each corner lacks up to a quarter of a pixel.
        assert coverage.sum().item() / count**2 == pytest.approx(side**2, abs=1.0)
        assert (coverage != (rast[..., 3:] > 0)).sum() > 3.5 * (side - 1) * count**2


def test_antialias_color_gradient_is_the_transpose(raster):
    """<g, A c> = <A^T g, c> for random c, g: the operator is linear in the colours."""
    verts, tri, camera = sphere_scene(3, (60, 70))
    pos = camera.clip(verts[None].expand(2, -1, -1))
    rast = raster.rasterize(pos, tri, (60, 70))
    color = smooth_weights((2, 60, 70, 3), 1).requires_grad_()
    g = smooth_weights((2, 60, 70, 3), 2)
    out = raster.antialias(color, rast, pos, tri)
    (out * g).sum().backward()
    assert not torch.equal(out, color)
    assert ((color.grad * color).sum() - (out * g).sum()).abs() < 1e-3 * out.numel() ** 0.5
    constant = raster.antialias(torch.ones(2, 60, 70, 1), rast, pos, tri)
    assert (constant - 1).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [2, 3, 7, 19])
def test_gradient_past_rast_equals_the_one_through_it(raster, channels):
    """What `interpolate` hands to the positions it is given is what it would hand to rast, and rast to them."""
    verts, tri, camera = sphere_scene(3, (50, 60))
    pos = camera.clip(verts[None].expand(2, -1, -1)).requires_grad_()
    attr = smooth_weights((2, len(verts), channels), 4).requires_grad_()
    g = smooth_weights((2, 50, 60, channels), 3)
    rast = raster.rasterize(pos, tri, (50, 60))
    through = torch.autograd.grad((raster.interpolate(attr, rast, tri) * g).sum(), (pos, attr))
    past = torch.autograd.grad((raster.interpolate(attr, rast, tri, pos) * g).sum(), (pos, attr))
    assert torch.equal(through[1], past[1])
    assert (through[0] - past[0]).norm() < 1e-5 * through[0].norm()


@pytest.mark.parametrize("channels", [2, 3, 5, 7, 19])
def test_interpolate_gradients_match_torch(raster, channels):
    verts, tri, camera = sphere_scene(3, (50, 50))
    rast = raster.rasterize(camera.clip(verts[None].expand(2, -1, -1)), tri, (50, 50)).requires_grad_()
    g = smooth_weights((2, 50, 50, channels), 3)
    for batch in (1, 2):
        attr = smooth_weights((batch, len(verts), channels), 4).requires_grad_()
        rast.grad = None
        (raster.interpolate(attr, rast, tri) * g).sum().backward()
        copy, r = attr.detach().double().requires_grad_(), rast.detach().double().requires_grad_()
        corners = tri.long()[(r[..., 3].long() - 1).clamp_min(0)]
        picked = torch.stack([copy[b if batch == 2 else 0][corners[b]] for b in range(2)])
        u, v = r[..., 0:1], r[..., 1:2]
        expected = (u * picked[..., 0, :] + v * picked[..., 1, :] + (1 - u - v) * picked[..., 2, :]) * (r[..., 3:] > 0)
        assert torch.allclose(raster.interpolate(attr, rast, tri).double(), expected, atol=1e-5)
        (expected * g).sum().backward()
        assert torch.allclose(attr.grad.double(), copy.grad, atol=1e-4)
        assert torch.allclose(rast.grad[..., :2].double(), r.grad[..., :2], atol=1e-4)


def test_texture_matches_grid_sample(raster):
    """Values and gradients to texels and coordinates against torch's grid_sample (border, pixel centres)."""
    tex = smooth_weights((2, 12, 20, 3), 5).requires_grad_()
    uv = (1.2 * smooth_weights((2, 30, 31, 2), 6) - 0.1).requires_grad_()
    g = smooth_weights((2, 30, 31, 3), 7)
    out = raster.texture(tex, uv)
    (out * g).sum().backward()
    tex2, uv2 = tex.detach().double().requires_grad_(), uv.detach().double().requires_grad_()
    expected = torch.nn.functional.grid_sample(
        tex2.permute(0, 3, 1, 2), 2 * uv2 - 1, mode="bilinear", padding_mode="border", align_corners=False
    ).permute(0, 2, 3, 1)
    (expected * g).sum().backward()
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert torch.allclose(tex.grad.double(), tex2.grad, atol=1e-4)
    inside = ((uv2 > 0.03) & (uv2 < 0.97)).all(-1, keepdim=True)
    assert torch.allclose(uv.grad.double() * inside, uv2.grad * inside, atol=1e-3)


@pytest.mark.parametrize("size", [(32, 64), (40, 24), (24, 40)])  # rows that two bands can share on all levels, or not
def test_mipmaps_match_explicit_levels(raster, size):
    """Trilinear lookup = blend of bilinear lookups in average-pooled textures; gradients by the same composition."""
    tex = smooth_weights((1, 3, *size), 8).permute(0, 2, 3, 1).requires_grad_()
    uv = smooth_weights((2, 20, 20, 2), 9).requires_grad_()
    lod = 2.3 * smooth_weights((2, 20, 20), 10)
    g = smooth_weights((2, 20, 20, 3), 11)
    out = raster.texture(tex, uv, lod)
    grads = torch.autograd.grad((out * g).sum(), (tex, uv))
    chain = [tex]
    for _ in range(3):
        chain.append(torch.nn.functional.avg_pool2d(chain[-1].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
    looked = torch.stack([raster.texture(level, uv) for level in chain])
    share = (1 - (torch.arange(4)[:, None, None, None] - lod).abs()).clamp_min(0)[..., None]
    expected = (looked * share).sum(0)
    expected_grads = torch.autograd.grad((expected * g).sum(), (tex, uv))
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.allclose(grads[0], expected_grads[0], atol=1e-5)
    assert torch.allclose(grads[1], expected_grads[1], atol=1e-3)


def test_texture_lod_counts_texels_per_pixel(raster):
    """A square that shows a 256-texel texture on 64 pixels needs level 2."""
    pos = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    lod = raster.texture_lod(pos, tri, uv, raster.rasterize(pos, tri, (64, 64)), (256, 256))
    assert torch.allclose(lod, torch.full_like(lod, 2.0), atol=1e-4)


def test_vertex_normals_and_their_gradient(raster):
    verts, tri = icosphere(2)
    generator = torch.Generator().manual_seed(0)
    verts = (verts + 0.05 * torch.randn(verts.shape, generator=generator))[None].requires_grad_()
    g = torch.randn(verts.shape, generator=generator)
    out = raster.vertex_normals(verts, tri)
    grad = torch.autograd.grad((out * g).sum(), verts)[0]
    v = verts.detach().double().requires_grad_()
    a, b, c = (v[:, tri[:, k].long()] for k in range(3))
    faces = torch.linalg.cross(b - a, c - a)
    expected = torch.zeros_like(v)
    for k in range(3):
        expected = expected.index_add(1, tri[:, k].long(), faces)
    expected_grad = torch.autograd.grad((expected * g).sum(), v)[0]
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert torch.allclose(grad.double(), expected_grad, atol=1e-5)


def test_backward_is_bitwise_deterministic_and_batch_consistent(raster):
    """Same bits on every run and with one thread or two (which a picture of this size gets); an item of a batch equals
    the item alone."""
    verts, tri, camera = sphere_scene(5, (320, 320))
    tex = smooth_weights((2, 64, 64, 3), 12)
    g = smooth_weights((2, 320, 320, 3), 13)
    uv = torch.nn.functional.pad(verts[:, :2] * 0.5 + 0.5, (0, 0))

    def gradients(items: slice) -> list[torch.Tensor]:
        v = verts[None].expand(2, -1, -1)[items].clone().requires_grad_()
        t = tex[items].clone().requires_grad_()
        pos = camera.select(items).clip(v)
        rast = raster.rasterize(pos, tri, (320, 320))
        attr = torch.cat([uv.expand(len(v), -1, -1), raster.vertex_normals(v, tri)], -1)
        place = raster.interpolate(attr, rast, tri, pos)
        lod = raster.texture_lod(pos, tri, uv, rast, (64, 64))
        color = raster.texture(t, place[..., :2].contiguous(), lod) * (1 + place[..., 2:])
        out = raster.antialias(color, rast, pos, tri)
        return [out, *torch.autograd.grad((out * g[items]).sum(), (v, t))]

    first = gradients(slice(0, 2))
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(slice(0, 2)), strict=True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(slice(0, 2)), strict=True))
    finally:
        torch.set_num_threads(threads)
    for k in range(2):
        alone = gradients(slice(k, k + 1))
        assert all(torch.allclose(a[k : k + 1], b, atol=1e-5) for a, b in zip(first, alone, strict=True))


def test_edge_adjacency_is_mutual():
    _, tri = icosphere(1)
    adjacent = edge_adjacency(tri.numpy()).reshape(-1)
    assert (adjacent >= 0).all()
    assert np.array_equal(adjacent[adjacent], np.arange(len(adjacent)))
    open_edges = edge_adjacency(np.array([[0, 1, 2], [2, 1, 3]]))
    assert open_edges.tolist() == [[5, -1, -1], [-1, -1, 0]]


def test_unknown_or_missing_rasterizer_says_so():
    with pytest.raises(GanfitError) as error:
        get_rasterizer("cpu", "opengl")
    assert error.value.code == "bad_option"
    with pytest.raises(GanfitError) as error:
        get_rasterizer("cpu", "nvdiffrast")
    assert error.value.code == "device_unavailable"


def test_kernels_compile_for_cuda(tmp_path):
    """The one source of the kernels, by CUDA's own compiler, which warp brings along; no GPU is needed."""
    import warp

    from backend.render import raster_warp_kernels, shade

    for module in (raster_warp_kernels, shade):
        warp.compile_aot_module(module, arch=75, module_dir=tmp_path, use_ptx=True)
    compiled = [path.read_text("utf-8") for path in tmp_path.glob("*.ptx")]
    assert len(compiled) == 2 and "antialias_analyse" in "".join(compiled) and "shade_backward" in "".join(compiled)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def scene_outputs(raster, device: str) -> list[torch.Tensor]:
    """Picture and gradients of one scene, on the CPU, for comparing implementations."""
    verts, tri, camera = sphere_scene(3, (128, 128))
    v = verts[None].expand(2, -1, -1).to(device).clone().requires_grad_()
    tex = smooth_weights((1, 64, 64, 3), 12).to(device).requires_grad_()
    tri, camera = tri.to(device), camera.to(device)
    pos = camera.clip(v)
    rast = raster.rasterize(pos, tri, (128, 128))
    uv = raster.interpolate(v * 0.5 + 0.5, rast, tri)[..., :2].contiguous()
    out = raster.antialias(raster.texture(tex, uv), rast, pos, tri)
    g = smooth_weights(tuple(out.shape), 13).to(device)
    return [t.detach().cpu() for t in (rast, out, *torch.autograd.grad((out * g).sum(), (v, tex)))]


@needs_cuda
def test_cuda_agrees_with_cpu(raster):
    for a, b in zip(scene_outputs(raster, "cpu"), scene_outputs(get_rasterizer("cuda", "warp"), "cuda"), strict=True):
        assert (a - b).norm() < 1e-2 * b.norm()


@needs_cuda
@pytest.mark.skipif(not is_importable(), reason="nvdiffrast is not installed")
def test_nvdiffrast_agrees():
    """Picture and gradients; barycentrics where both see the same triangle, since on an edge each has its own rule."""
    our_rast, *ours = scene_outputs(get_rasterizer("cuda", "warp"), "cuda")
    their_rast, *theirs = scene_outputs(get_rasterizer("cuda", "nvdiffrast"), "cuda")
    same = our_rast[..., 3] == their_rast[..., 3]
    assert same.float().mean() > 0.98
    for a, b in zip([our_rast[same], *ours], [their_rast[same], *theirs], strict=True):
        assert (a - b).norm() < 5e-2 * b.norm()
