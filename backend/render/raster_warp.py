# SPDX-License-Identifier: GPL-3.0-or-later
"""The permissive rasteriser: warp kernels on CPU and CUDA, wrapped for torch's autograd.

warp-lang was chosen over numba by tests/benchmarks/bench_raster.py: numba's CPU code is somewhat faster per kernel,
but warp gives CUDA from the same source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import warp as wp

from backend.render import raster_warp_kernels as kernels
from backend.render.launch import CPU_BANDS, Launcher, array, bands, total
from backend.render.raster import mip_levels
from backend.render.topology import edge_adjacency, incident_faces

SILHOUETTE_SHARE = 0.5
"""Room on a GPU for pairs of pixels across a silhouette, for each pixel of the picture; a head's are 0.02."""


class _Topology:
    """Neighbourhood tables of one triangle list, on the rasteriser's device."""

    def __init__(self, tri: torch.Tensor, vertex_count: int) -> None:
        indices = tri.cpu().numpy()
        first, incident = incident_faces(indices, vertex_count)
        self.tri = tri  # held, so that its address cannot be reused while it serves as a key
        self.key = _topology_key(tri, vertex_count)
        self.adjacent = torch.from_numpy(edge_adjacency(indices).reshape(-1)).to(tri.device)
        self.first = torch.from_numpy(first).to(tri.device)
        self.incident = torch.from_numpy(incident).to(tri.device)


def _topology_key(tri: torch.Tensor, vertex_count: int) -> tuple[int, ...]:
    return (tri.data_ptr(), tri.shape[0], tri._version, vertex_count)


class WarpRasterizer:
    """`Rasterizer` on warp kernels. Not to be used by two threads at the same time."""

    name = "warp"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.launcher = Launcher(self.device)
        self.launcher.load(kernels)
        self._topologies: list[_Topology] = []
        self._keys: torch.Tensor | None = None
        self._pairs: tuple[torch.Tensor, torch.Tensor] | None = None

    def rasterize(self, pos: torch.Tensor, tri: torch.Tensor, resolution: tuple[int, int]) -> torch.Tensor:
        return _Rasterize.apply(pos, tri, resolution, self)

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor, pos: torch.Tensor | None = None
    ) -> torch.Tensor:
        return _Interpolate.apply(attr, rast if pos is None else rast.detach(), tri, pos, self)

    def texture(self, tex: torch.Tensor, uv: torch.Tensor, lod: torch.Tensor | None = None) -> torch.Tensor:
        levels = 1 if lod is None else mip_levels((tex.shape[1], tex.shape[2]), lod)
        return _Texture.apply(tex, uv, lod, levels, self)

    def antialias(self, color: torch.Tensor, rast: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        return _Antialias.apply(color, rast.detach(), pos, tri, self)

    @torch.no_grad()
    def texture_lod(
        self, pos: torch.Tensor, tri: torch.Tensor, uv: torch.Tensor, rast: torch.Tensor, texture_size: tuple[int, int]
    ) -> torch.Tensor:
        lod = torch.empty(rast.shape[:3], device=pos.device)
        texels = float(texture_size[0] * texture_size[1])
        before = [_vec4(pos.contiguous()), _vec3i(tri), array(uv.contiguous(), wp.vec2), _vec4(rast.contiguous())]
        self.launcher.over_pixels(kernels.texture_lod, rast.shape, [*before, pos.shape[1], texels], [array(lod)])
        return lod

    def vertex_normals(self, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        return _VertexNormals.apply(verts, tri, self)

    def topology(self, tri: torch.Tensor, vertex_count: int) -> _Topology:
        """Tables of a triangle list; the last few lists are remembered."""
        key = _topology_key(tri, vertex_count)
        for known in self._topologies:
            if known.key == key:
                return known
        self._topologies = [_Topology(tri, vertex_count), *self._topologies[:3]]
        return self._topologies[0]

    @contextmanager
    def empty_keys(self, count: int) -> Iterator[torch.Tensor]:
        """At least `count` keys of an empty depth test; whoever takes them leaves them empty again.

        One buffer serves all pictures: to fill a new one each time costs as much as to draw a small mesh.
        """
        keys, self._keys = self._keys, None  # one that an exception has left half done is not seen again
        if keys is None or len(keys) < count:
            keys = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        yield keys
        self._keys = keys

    def pair_lists(self, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for at least `room` pixel pairs per band: places (bands, room, 2) and weights, used again each time."""
        if self._pairs is None or self._pairs[0].shape[1] < room:
            shape = (self.launcher.band_count, room)
            places = torch.empty((*shape, 2), dtype=torch.int32, device=self.device)
            self._pairs = places, torch.empty(shape, device=self.device)
        return self._pairs


def _vec4(tensor: torch.Tensor) -> Any:
    return array(tensor, wp.vec4)


def _vec3i(tri: torch.Tensor) -> Any:
    return array(tri, wp.vec3i)


def _draw(raster: WarpRasterizer, pos: torch.Tensor, tri: torch.Tensor, rast: torch.Tensor) -> None:
    """Depth test and barycentrics: every band goes through all triangles and draws its own rows of (B, H, W, 4)."""
    launcher, shape, head = raster.launcher, rast.shape[:3], [_vec4(pos), _vec3i(tri), pos.shape[1]]
    span = max(1, tri.shape[0]) if launcher.is_cpu else 1
    with raster.empty_keys(shape.numel()) as buffer:
        keys = array(buffer, wp.uint64)

        def task(_band: int, y0: int, y1: int) -> None:
            dim = (shape[0], tri.shape[0] // span)
            launcher.launch(kernels.raster_depth, dim, [*head, *shape[1:], y0, y1, span, keys])
            launcher.over_rows(kernels.raster_resolve, shape, y0, y1, head, [keys, _vec4(rast)])

        launcher.in_bands(task, shape[1], shape.numel() + shape[0] * tri.shape[0], fixed=False)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pos, tri, resolution, raster):  # type: ignore[no-untyped-def]
        pos = pos.contiguous()
        rast = torch.empty((pos.shape[0], *resolution, 4), device=pos.device)
        _draw(raster, pos, tri, rast)
        ctx.save_for_backward(pos, tri, rast)
        ctx.raster = raster
        return rast

    @staticmethod
    def backward(ctx, grad_rast):  # type: ignore[no-untyped-def]
        pos, tri, rast = ctx.saved_tensors
        nothing = pos.new_empty(0)
        return _interpolate_backward(ctx.raster, nothing, rast, tri, pos, grad_rast, 2, False)[2], None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, attr, rast, tri, pos, raster):  # type: ignore[no-untyped-def]
        attr, rast = attr.contiguous(), rast.contiguous()
        channels = attr.shape[2]
        out = torch.empty((*rast.shape[:3], channels), device=rast.device)
        before = [array(attr), _vec3i(tri), _vec4(rast), _step(attr), channels]
        raster.launcher.over_pixels(kernels.interpolate_forward, rast.shape, before, [array(out)])
        ctx.save_for_backward(attr, rast, tri, None if pos is None else pos.contiguous())
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        attr, rast, tri, pos = ctx.saved_tensors
        need_attr = ctx.needs_input_grad[0]
        grads = _interpolate_backward(ctx.raster, attr, rast, tri, pos, grad_out, attr.shape[2], need_attr)
        return grads[0], grads[1], None, grads[2], None


def _step(attr: torch.Tensor) -> int:
    """Numbers from one item of a batch of attributes to the next: 0 where all share one."""
    return attr[0].numel() if attr.ndim == 3 and attr.shape[0] > 1 else 0


def _interpolate_backward(
    raster: WarpRasterizer,
    attr: torch.Tensor,
    rast: torch.Tensor,
    tri: torch.Tensor,
    pos: torch.Tensor | None,
    grad_out: torch.Tensor,
    channels: int,
    need_attr: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients to the attributes, and to rast or, where they are given, to the positions."""
    launcher = raster.launcher
    nothing = rast[:0]
    corners = nothing if pos is None else pos
    grad_rast = torch.empty_like(rast) if pos is None else nothing
    grad_attr, grad_pos = launcher.zeros(attr if need_attr else attr[:0]), launcher.zeros(corners)
    before = [array(attr), _vec3i(tri), _vec4(rast), array(grad_out.contiguous()), _vec4(corners), _step(attr)]
    before += [channels, grad_out.shape[3], corners.shape[1], int(need_attr), int(pos is not None)]
    after = [bands(grad_attr), _vec4(grad_rast), bands(grad_pos, wp.vec4)]
    pixels, triangles = rast.shape[:3].numel(), rast.shape[0] * tri.shape[0]
    steps = 1 + 2 * triangles // max(1, pixels)  # the shorter the runs of pixels, the more a pixel takes
    launcher.over_pixels(kernels.interpolate_backward, rast.shape, before, after, steps)
    if pos is None:
        return (total(grad_attr) if need_attr else None), grad_rast, None
    return (total(grad_attr) if need_attr else None), None, total(grad_pos)


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tex, uv, lod, levels, raster):  # type: ignore[no-untyped-def]
        uv = uv.contiguous()
        lod = uv.new_zeros(1) if lod is None else lod.contiguous()
        ctx.shape, ctx.levels, ctx.raster = tex.shape, levels, raster
        chain = _mip_chain(raster.launcher, tex, levels)
        out = torch.empty((*uv.shape[:3], tex.shape[3]), device=uv.device)
        step = chain.shape[1] if tex.shape[0] > 1 else 0
        ctx.numbers = [step, tex.shape[1], tex.shape[2], levels, tex.shape[3]]
        before = [array(chain), array(uv, wp.vec2), array(lod), *ctx.numbers]
        raster.launcher.over_pixels(kernels.texture_forward, uv.shape, before, [array(out)], 2)
        ctx.save_for_backward(chain, uv, lod)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        chain, uv, lod = ctx.saved_tensors
        launcher, need_tex = ctx.raster.launcher, ctx.needs_input_grad[0]
        grad_chain = torch.zeros_like(chain if need_tex else chain[:, :1])
        grad_uv = torch.zeros((launcher.band_count, *uv.shape), device=uv.device)
        before = [array(chain), array(uv, wp.vec2), array(lod), array(grad_out.contiguous()), *ctx.numbers]
        target, targets = array(grad_chain), bands(grad_uv, wp.vec2)

        def task(parity: int, places: object) -> None:
            args = [*before, int(need_tex), parity]
            launcher.over_whole_pixels(kernels.texture_backward, uv.shape, args, [target, places])

        tasks = [partial(task, k if len(targets) > 1 else -1, t) for k, t in enumerate(targets)]
        launcher.side_by_side(tasks, 3 * math.prod(uv.shape[:3]))
        grad_tex = _fold_mip_chain(launcher, grad_chain, ctx.shape, ctx.levels) if need_tex else None
        return grad_tex, total(grad_uv), None, None, None


def _level_views(chain: torch.Tensor, shape: tuple[int, ...], levels: int) -> list[torch.Tensor]:
    """The mip levels (B, H >> k, W >> k, C) in a chain, as views."""
    batch, height, width, channels = shape
    views, offset = [], 0
    for k in range(levels):
        size = (height >> k) * (width >> k) * channels
        views.append(chain[:, offset : offset + size].view(batch, height >> k, width >> k, channels))
        offset += size
    return views


def _squares(level: torch.Tensor) -> torch.Tensor:
    """A level (B, H, W, C) of a chain as (B, H/2, 2, W/2, 2, C)."""
    batch, height, width, channels = level.shape
    return level.view(batch, height // 2, 2, width // 2, 2, channels)


def _mip_chain(launcher: Launcher, tex: torch.Tensor, levels: int) -> torch.Tensor:
    """The first `levels` mip levels of (B, H, W, C), any strides, one after another: (B, texels of all levels * C)."""
    batch, height, width, channels = tex.shape
    step = sum((height >> k) * (width >> k) for k in range(levels)) * channels
    chain = torch.empty((batch, step), device=tex.device)
    views = _level_views(chain, tex.shape, levels)
    views[0].copy_(tex)
    if not launcher.is_cpu:
        for view, below in pairwise(views):
            torch.mean(_squares(view), (2, 4), out=below)
        return chain
    for part in _mip_parts(tex.shape, levels):
        launcher.side_by_side([partial(launcher.launch, kernels.mip_down, (batch,), [array(chain), step, *args])
                               for args in part], width * height)
    return chain


def _fold_mip_chain(launcher: Launcher, grad: torch.Tensor, shape: tuple[int, ...], levels: int) -> torch.Tensor:
    """Gradient of `_mip_chain` to the texture: a quarter of each texel goes to its four children; changes `grad`."""
    views = _level_views(grad, shape, levels)
    if not launcher.is_cpu:
        for view, below in reversed(list(pairwise(views))):
            _squares(view).add_(below[:, :, None, :, None], alpha=0.25)
        return views[0]
    for part in reversed(_mip_parts(shape, levels)):
        launcher.side_by_side([partial(launcher.launch, kernels.mip_up, shape[:1], [array(grad), grad.shape[1], *args])
                               for args in part], shape[1] * shape[2])
    return views[0]


def _mip_parts(shape: tuple[int, ...], levels: int) -> list[list[list[int]]]:
    """What `mip_down` fills, one after the other: in halves the levels that two bands of rows share without a rest,
    then the others; for each the kernel's arguments from `offset` on."""
    _, height, width, channels = shape
    shared = 0
    while shared < levels - 1 and (height // 2) % (CPU_BANDS << shared) == 0:
        shared += 1
    parts = []
    if shared:
        cuts = [height // 2 * k // CPU_BANDS for k in range(CPU_BANDS + 1)]
        parts.append([[0, height, width, channels, shared, *rows] for rows in pairwise(cuts)])
    if shared < levels - 1:
        offset = sum((height >> k) * (width >> k) for k in range(shared)) * channels
        height, width = height >> shared, width >> shared
        parts.append([[offset, height, width, channels, levels - 1 - shared, 0, height // 2]])
    return parts


def _silhouettes(
    raster: WarpRasterizer, rast: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixel pairs across which a silhouette runs: (N, 2) int32 places and codes, (N,) blend weights, (1,) how many.

    On a GPU the lists are longer than that, and nobody waits to learn by how much.
    """
    launcher, shape, head = raster.launcher, rast.shape[:3], [_vec4(pos), _vec3i(tri)]
    facing = torch.empty((shape[0], tri.shape[0]), dtype=torch.int8, device=pos.device)
    launcher.over_items(kernels.facing_forward, facing.shape, [*head, pos.shape[1], array(facing, wp.int8)], 3)
    adjacent = raster.topology(tri, pos.shape[1]).adjacent
    args = [*head, array(adjacent, wp.int32), array(facing, wp.int8), _vec4(rast), pos.shape[1], *shape[1:]]
    room, found = 4096, [0] * launcher.band_count
    while True:
        if launcher.is_cpu:
            places, weights = raster.pair_lists(max(room, *found))
        else:
            length = math.ceil(SILHOUETTE_SHARE * math.prod(shape))
            places = torch.empty((1, length, 2), dtype=torch.int32, device=pos.device)
            weights = torch.empty((1, length), device=pos.device)
        room = places.shape[1]
        counts = torch.zeros(launcher.band_count, dtype=torch.int32, device=pos.device)
        lists = [room, array(counts, wp.int32), array(places, wp.vec2i), array(weights)]

        def task(band: int, start: int, stop: int) -> None:
            span = stop - start if launcher.is_cpu else 1
            dim = (shape[0], (stop - start) // span)
            launcher.launch(kernels.antialias_analyse, dim, [*args, band, *lists, start, span])  # noqa: B023

        launcher.in_bands(task, tri.shape[0], 3 * shape[0] * tri.shape[0])
        if not launcher.is_cpu:
            return places[0], weights[0], counts
        found = counts.tolist()
        if max(found) <= room:
            break
    parts = [(places[band, :count], weights[band, :count]) for band, count in enumerate(found)]
    count = torch.tensor([sum(found)], dtype=torch.int32)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), count


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, color, rast, pos, tri, raster):  # type: ignore[no-untyped-def]
        color, pos = color.contiguous(), pos.contiguous()
        places, weights, count = _silhouettes(raster, rast.contiguous(), pos, tri)
        out = color.clone()
        if len(weights):
            args = [array(color), array(places, wp.vec2i), array(weights), array(count, wp.int32)]
            args += [color.shape[3], color.shape[2], array(out)]
            raster.launcher.launch(kernels.antialias_forward, (len(weights),), args)
        ctx.save_for_backward(color, pos, tri, places, weights, count)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        color, pos, tri, places, weights, count = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        grad_color, grad_pos = grad_out.clone(), torch.zeros_like(pos)
        if len(weights):
            args = [_vec4(pos), _vec3i(tri), array(color), array(grad_out), array(places, wp.vec2i), array(weights)]
            args += [array(count, wp.int32), pos.shape[1], *color.shape[3:], *color.shape[1:3]]
            args += [array(grad_color), _vec4(grad_pos)]
            ctx.raster.launcher.launch(kernels.antialias_backward, (len(weights),), args)
        return grad_color, None, grad_pos, None, None


class _VertexNormals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts, tri, raster):  # type: ignore[no-untyped-def]
        verts = verts.contiguous()
        tables = raster.topology(tri, verts.shape[1])
        out = torch.empty_like(verts)
        before = [array(verts, wp.vec3), _vec3i(tri), array(tables.first, wp.int32), array(tables.incident, wp.int32)]
        args = [*before, verts.shape[1], array(out, wp.vec3)]
        raster.launcher.over_items(kernels.normals_forward, verts.shape[:2], args, 6)
        ctx.save_for_backward(verts, tri)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        verts, tri = ctx.saved_tensors
        tables = ctx.raster.topology(tri, verts.shape[1])
        grad_verts = torch.empty_like(verts)
        before = [array(verts, wp.vec3), _vec3i(tri), array(tables.first, wp.int32), array(tables.incident, wp.int32)]
        before.append(array(grad_out.contiguous(), wp.vec3))
        args = [*before, verts.shape[1], array(grad_verts, wp.vec3)]
        ctx.raster.launcher.over_items(kernels.normals_backward, verts.shape[:2], args, 12)
        return grad_verts, None, None
