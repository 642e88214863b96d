# SPDX-License-Identifier: GPL-3.0-or-later
"""The permissive rasteriser: warp kernels on CPU and CUDA, wrapped for torch's autograd.

warp-lang was chosen over numba by tests/benchmarks/bench_raster.py: numba's CPU code is somewhat faster per kernel,
but warp gives CUDA from the same source.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import warp as wp

from backend.paths import cache_dir
from backend.render import raster_warp_kernels as kernels
from backend.render.raster import mip_chain, mip_levels
from backend.render.topology import edge_adjacency, incident_faces

CPU_BANDS = 2  # fixed, not the number of cores: the order of the gradient sums depends on it


def _start_warp() -> None:
    """Initialise warp once, with its kernel cache beside the project's other caches."""
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_dir() / "warp")
    wp.config.log_level = wp.LOG_ERROR
    wp.init()


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
        _start_warp()
        self.device = torch.device(device)
        self.is_cpu = self.device.type == "cpu"
        self.bands = CPU_BANDS if self.is_cpu else 1
        self._warp_device = wp.get_device("cpu") if self.is_cpu else wp.device_from_torch(self.device)
        self._pool = ThreadPoolExecutor(CPU_BANDS - 1) if self.is_cpu else None
        self._topologies: list[_Topology] = []
        wp.load_module(kernels, device=self._warp_device)

    # The contract -------------------------------------------------------------------------------------------------

    def rasterize(self, pos: torch.Tensor, tri: torch.Tensor, resolution: tuple[int, int]) -> torch.Tensor:
        return _Rasterize.apply(pos, tri, resolution, self)

    def interpolate(self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        return _Interpolate.apply(attr, rast, tri, self)

    def texture(self, tex: torch.Tensor, uv: torch.Tensor, lod: torch.Tensor | None = None) -> torch.Tensor:
        size = (tex.shape[1], tex.shape[2])
        levels = 1 if lod is None else mip_levels(size, lod)
        return _Texture.apply(mip_chain(tex, levels), uv, lod, size, levels, tex.shape[3], self)

    def antialias(
        self, color: torch.Tensor, rast: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        return _Antialias.apply(color, rast, pos, tri, self)

    @torch.no_grad()
    def texture_lod(
        self, pos: torch.Tensor, tri: torch.Tensor, uv: torch.Tensor, rast: torch.Tensor, texture_size: tuple[int, int]
    ) -> torch.Tensor:
        batch, height, width = rast.shape[:3]
        per_tri = torch.empty(batch, tri.shape[0], device=pos.device)
        texels = float(texture_size[0] * texture_size[1])
        self._launch(
            kernels.lod_forward, (batch, tri.shape[0]),
            [_vec4(pos), _vec3i(tri), _array(uv, wp.vec2), pos.shape[1], height, width, texels, _array(per_tri)],
        )  # fmt: skip
        index = rast[..., 3].to(torch.int64)
        padded = torch.nn.functional.pad(per_tri, (1, 0))
        return torch.gather(padded, 1, index.reshape(batch, -1)).reshape(batch, height, width)

    def vertex_normals(self, verts: torch.Tensor, tri: torch.Tensor) -> torch.Tensor:
        return _VertexNormals.apply(verts, tri, self)

    # Launching ----------------------------------------------------------------------------------------------------

    def topology(self, tri: torch.Tensor, vertex_count: int) -> _Topology:
        """Tables of a triangle list; the last few lists are remembered."""
        key = _topology_key(tri, vertex_count)
        for known in self._topologies:
            if known.key == key:
                return known
        self._topologies = [_Topology(tri, vertex_count), *self._topologies[:3]]
        return self._topologies[0]

    def _launch(self, kernel: wp.Kernel, dim: tuple[int, ...], args: list[Any]) -> None:
        stream = None if self.is_cpu else wp.stream_from_torch(torch.cuda.current_stream(self.device))
        wp.launch(kernel, dim=dim, inputs=args, device=self._warp_device, stream=stream)

    def _in_bands(self, task: Any, extent: int) -> None:
        """Run `task(band, start, stop)` over `extent` cut into `bands` parts, one thread each."""
        cuts = [extent * k // self.bands for k in range(self.bands + 1)]
        parts = [(k, cuts[k], cuts[k + 1]) for k in range(self.bands) if cuts[k] < cuts[k + 1]]
        if self._pool is None or torch.get_num_threads() == 1 or len(parts) == 1:
            for part in parts:
                task(*part)
            return
        others = [self._pool.submit(task, *part) for part in parts[1:]]
        task(*parts[0])
        for other in others:
            other.result()

    def over_pixels(self, kernel: wp.Kernel, shape: torch.Size, before: list[Any], after: list[Any]) -> None:
        """Launch a pixel kernel; a list among the arguments holds one array per band."""
        batch, height, width = shape[:3]
        span = width if self.is_cpu else 1

        def task(band: int, y0: int, y1: int) -> None:
            tail = [a[band] if isinstance(a, list) else a for a in after]
            self._launch(kernel, (batch, y1 - y0, width // span), [*before, height, width, y0, span, *tail])

        self._in_bands(task, height)

    def over_rows_of_triangles(self, keys: torch.Tensor, pos: torch.Tensor, tri: torch.Tensor) -> None:
        """Launch the depth test: every band goes through all triangles and draws its own rows."""
        batch, height, width = keys.shape
        args = [_vec4(pos), _vec3i(tri), pos.shape[1], height, width]
        target = _array(keys, wp.uint64)

        def task(_band: int, y0: int, y1: int) -> None:
            self._launch(kernels.raster_depth, (batch, tri.shape[0]), [*args, y0, y1, target])

        self._in_bands(task, height)

    def over_vertices(self, kernel: wp.Kernel, shape: torch.Size, before: list[Any], after: list[Any]) -> None:
        """Launch a vertex kernel over (B, V)."""
        batch, count = shape[:2]

        def task(_band: int, start: int, stop: int) -> None:
            self._launch(kernel, (batch, stop - start), [*before, count, start, *after])

        self._in_bands(task, count)

    def zero_buffers(self, like: torch.Tensor) -> torch.Tensor:
        """One gradient buffer per band: (bands, *like.shape)."""
        return torch.zeros((self.bands, *like.shape), device=like.device)


def _array(tensor: torch.Tensor, dtype: Any = wp.float32) -> Any:
    """A contiguous tensor as a flat warp array of scalars or short vectors, without a copy."""
    width = getattr(dtype, "_length_", 1)
    flat = tensor.detach().view(-1, width) if width > 1 else tensor.detach().view(-1)
    return wp.from_torch(flat, dtype=dtype, return_ctype=True)


def _vec4(tensor: torch.Tensor) -> Any:
    return _array(tensor, wp.vec4)


def _vec3i(tri: torch.Tensor) -> Any:
    return _array(tri, wp.vec3i)


def _bands(buffers: torch.Tensor, dtype: Any = wp.float32) -> list[Any]:
    return [_array(band, dtype) for band in buffers]


def _total(buffers: torch.Tensor) -> torch.Tensor:
    return buffers[0] if buffers.shape[0] == 1 else buffers.sum(dim=0)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pos, tri, resolution, raster):  # type: ignore[no-untyped-def]
        pos = pos.contiguous()
        shape = torch.Size((pos.shape[0], *resolution))
        keys = torch.full(shape, -1, dtype=torch.int64, device=pos.device)
        raster.over_rows_of_triangles(keys, pos, tri)
        rast = torch.empty((*shape, 4), device=pos.device)
        before = [_vec4(pos), _vec3i(tri), pos.shape[1]]
        raster.over_pixels(kernels.raster_resolve, shape, before, [_array(keys, wp.uint64), _vec4(rast)])
        ctx.save_for_backward(pos, tri, rast)
        ctx.raster = raster
        return rast

    @staticmethod
    def backward(ctx, grad_rast):  # type: ignore[no-untyped-def]
        pos, tri, rast = ctx.saved_tensors
        grad_pos = ctx.raster.zero_buffers(pos)
        before = [_vec4(pos), _vec3i(tri), _vec4(rast), _vec4(grad_rast.contiguous()), pos.shape[1]]
        ctx.raster.over_pixels(kernels.raster_backward, rast.shape, before, [_bands(grad_pos, wp.vec4)])
        return _total(grad_pos), None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, attr, rast, tri, raster):  # type: ignore[no-untyped-def]
        attr, rast = attr.contiguous(), rast.contiguous()
        channels = attr.shape[2]
        ctx.step = attr[0].numel() if attr.shape[0] > 1 else 0
        out = torch.empty((*rast.shape[:3], channels), device=rast.device)
        before = [_array(attr), _vec3i(tri), _vec4(rast), ctx.step, channels]
        raster.over_pixels(kernels.interpolate_forward, rast.shape, before, [_array(out)])
        ctx.save_for_backward(attr, rast, tri)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        attr, rast, tri = ctx.saved_tensors
        need_attr = ctx.needs_input_grad[0]
        grad_attr = ctx.raster.zero_buffers(attr if need_attr else attr[:, :0])
        grad_rast = torch.empty_like(rast)
        before = [_array(attr), _vec3i(tri), _vec4(rast), _array(grad_out.contiguous()), ctx.step, attr.shape[2]]
        after = [int(need_attr), _bands(grad_attr), _vec4(grad_rast)]
        ctx.raster.over_pixels(kernels.interpolate_backward, rast.shape, before, after)
        return (_total(grad_attr) if need_attr else None), grad_rast, None, None


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx, chain, uv, lod, size, levels, channels, raster):  # type: ignore[no-untyped-def]
        chain, uv = chain.contiguous(), uv.contiguous()
        lod = uv.new_zeros(1) if lod is None else lod.contiguous()
        out = torch.empty((*uv.shape[:3], channels), device=uv.device)
        ctx.numbers = [chain.shape[1] if chain.shape[0] > 1 else 0, *size, levels, channels]
        before = [_array(chain), _array(uv, wp.vec2), _array(lod), *ctx.numbers]
        raster.over_pixels(kernels.texture_forward, uv.shape, before, [_array(out)])
        ctx.save_for_backward(chain, uv, lod)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        chain, uv, lod = ctx.saved_tensors
        need_tex = ctx.needs_input_grad[0]
        grad_tex = ctx.raster.zero_buffers(chain if need_tex else chain[:, :0])
        grad_uv = torch.empty_like(uv)
        before = [_array(chain), _array(uv, wp.vec2), _array(lod), _array(grad_out.contiguous()), *ctx.numbers]
        after = [int(need_tex), _bands(grad_tex), _array(grad_uv, wp.vec2)]
        ctx.raster.over_pixels(kernels.texture_backward, uv.shape, before, after)
        return (_total(grad_tex) if need_tex else None), grad_uv, None, None, None, None, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, color, rast, pos, tri, raster):  # type: ignore[no-untyped-def]
        color, rast, pos = color.contiguous(), rast.contiguous(), pos.contiguous()
        shape, channels = color.shape, color.shape[3]
        facing = torch.empty((shape[0], tri.shape[0]), dtype=torch.int8, device=pos.device)
        head = [_vec4(pos), _vec3i(tri)]
        raster._launch(kernels.facing_forward, tuple(facing.shape), [*head, pos.shape[1], _array(facing, wp.int8)])
        alpha = torch.empty((*shape[:3], 2), device=pos.device)
        edges = torch.empty((*shape[:3], 2), dtype=torch.int32, device=pos.device)
        adjacent = raster.topology(tri, pos.shape[1]).adjacent
        before = [*head, _array(adjacent, wp.int32), _array(facing, wp.int8), _vec4(rast), pos.shape[1]]
        after = [_array(alpha, wp.vec2), _array(edges, wp.vec2i)]
        raster.over_pixels(kernels.antialias_analyse, shape, before, after)
        out = torch.empty_like(color)
        before = [_array(color), _array(alpha, wp.vec2), channels]
        raster.over_pixels(kernels.antialias_forward, shape, before, [_array(out)])
        ctx.save_for_backward(color, pos, tri, alpha, edges)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        color, pos, tri, alpha, edges = ctx.saved_tensors
        grad_out, channels, raster = grad_out.contiguous(), color.shape[3], ctx.raster
        grad_color = torch.empty_like(color)
        before = [_array(grad_out), _array(alpha, wp.vec2), channels]
        raster.over_pixels(kernels.antialias_backward_color, color.shape, before, [_array(grad_color)])
        if not ctx.needs_input_grad[2]:
            return grad_color, None, None, None, None
        grad_pos = raster.zero_buffers(pos)
        head = [_vec4(pos), _vec3i(tri), _array(color), _array(grad_out)]
        before = [*head, _array(alpha, wp.vec2), _array(edges, wp.vec2i), pos.shape[1], channels]
        raster.over_pixels(kernels.antialias_backward_pos, color.shape, before, [_bands(grad_pos, wp.vec4)])
        return grad_color, None, _total(grad_pos), None, None


class _VertexNormals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts, tri, raster):  # type: ignore[no-untyped-def]
        verts = verts.contiguous()
        tables = raster.topology(tri, verts.shape[1])
        out = torch.empty_like(verts)
        before = [_array(verts, wp.vec3), _vec3i(tri), _array(tables.first, wp.int32), _array(tables.incident, wp.int32)]
        raster.over_vertices(kernels.normals_forward, verts.shape, before, [_array(out, wp.vec3)])
        ctx.save_for_backward(verts, tri)
        ctx.raster = raster
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        verts, tri = ctx.saved_tensors
        tables = ctx.raster.topology(tri, verts.shape[1])
        grad_verts = torch.empty_like(verts)
        before = [_array(verts, wp.vec3), _vec3i(tri), _array(tables.first, wp.int32), _array(tables.incident, wp.int32)]
        before.append(_array(grad_out.contiguous(), wp.vec3))
        ctx.raster.over_vertices(kernels.normals_backward, verts.shape, before, [_array(grad_verts, wp.vec3)])
        return grad_verts, None, None
