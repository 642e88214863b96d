# SPDX-License-Identifier: GPL-3.0-or-later
"""Launching warp kernels on torch tensors: arrays without copies, and rows of pixels shared between two threads."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
import warp as wp

from backend.paths import cache_dir

CPU_BANDS = 2  # fixed, not the number of cores: the order of the gradient sums depends on it
# Of the kernels on a CPU: products and sums in one instruction, as on a GPU; what LLVM's search for vectors finds in
# straight code is slower here than none. The rest is warp's default.
CPU_FLAGS = f"{wp.config.cpu_compiler_flags or ''} -ffp-contract=fast -fno-slp-vectorize"
FEW = 100_000  # simple steps, as to interpolate a pixel, below which to wake a second thread takes longer than it saves


@cache
def start_warp() -> None:
    """Initialise warp once, with its kernel cache beside the project's other caches and without chatter."""
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_dir() / "warp")
    wp.config.log_level = wp.LOG_ERROR
    with contextlib.nullcontext() if torch.cuda.is_available() else _stderr_silenced():
        wp.init()


@contextlib.contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Drop what native code writes to stderr: warp's library warns of a missing CUDA driver at any log level."""
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed: nothing to silence
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def array(tensor: torch.Tensor, dtype: Any = wp.float32) -> Any:
    """A contiguous tensor as a flat warp array of scalars, short vectors or matrices, without a copy."""
    width, size = _width_and_size(dtype)
    if not tensor.is_contiguous():
        raise ValueError("A kernel's array must be contiguous.")
    found = _array_type()(tensor.data_ptr(), 0, 1, (tensor.numel() // width,), (size,))
    found._ref = tensor  # kept alive while the array is
    return found


@cache
def _array_type() -> Any:
    """The class that warp passes to kernels."""
    return type(wp.from_torch(torch.empty(1), return_ctype=True))


@cache
def _width_and_size(dtype: Any) -> tuple[int, int]:
    """Numbers and bytes of one item."""
    return math.prod(getattr(dtype, "_shape_", (1,))), wp.types.type_size_in_bytes(dtype)


def bands(buffers: torch.Tensor, dtype: Any = wp.float32) -> list[Any]:
    """One array per band of (bands, ...)."""
    return [array(band, dtype) for band in buffers]


def total(buffers: torch.Tensor) -> torch.Tensor:
    """Sum over the bands, in their order."""
    return buffers[0] if buffers.shape[0] == 1 else torch.add(buffers[0], buffers[1])


class Launcher:
    """Runs kernels on one device. Not to be used by two threads at the same time.

    On a CPU, warp runs a launch serially in the calling thread without the GIL; the work is cut into `CPU_BANDS` parts
    that run side by side, each adding into its own buffer, so that results do not depend on timing.
    """

    def __init__(self, device: str | torch.device) -> None:
        start_warp()
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.is_cpu = self.device.type == "cpu"
        self.band_count = CPU_BANDS if self.is_cpu else 1
        self._warp_device = wp.get_device("cpu") if self.is_cpu else wp.device_from_torch(self.device)
        self._pool = ThreadPoolExecutor(CPU_BANDS - 1) if self.is_cpu else None
        self._loaded: set[Any] = set()

    def load(self, module: Any) -> None:
        """Compile the kernels of a Python module, or read them from the cache; quick when they are loaded already.

        To be called before they are launched, so that two threads do not both start to compile.
        """
        if module not in self._loaded:
            wp.load_module(module, device=self._warp_device)
            self._loaded.add(module)

    def zeros(self, like: torch.Tensor) -> torch.Tensor:
        """One zero gradient buffer per band: (bands, *like.shape)."""
        return torch.zeros((self.band_count, *like.shape), device=like.device)

    def launch(self, kernel: wp.Kernel, dim: tuple[int, ...], args: list[Any]) -> None:
        """One launch over the whole of `dim`."""
        stream = None if self.is_cpu else wp.stream_from_torch(torch.cuda.current_stream(self.device))
        wp.launch(kernel, dim=dim, inputs=args, device=self._warp_device, stream=stream)

    def threads_for(self, steps: int) -> int:
        """How many tasks that take so many simple steps together run at the same time."""
        return 1 if self._pool is None or steps < FEW or torch.get_num_threads() == 1 else CPU_BANDS

    def side_by_side(self, tasks: list[Callable[[], None]], steps: int) -> None:
        """Run at most `CPU_BANDS` tasks that write to different places, one thread each; see `FEW` for `steps`."""
        if self._pool is None or self.threads_for(steps) == 1:
            for task in tasks:
                task()
            return
        others = [self._pool.submit(task) for task in tasks[1:]]
        tasks[0]()
        for other in others:
            other.result()

    def in_bands(self, task: Callable[[int, int, int], None], extent: int, steps: int, fixed: bool = True) -> None:
        """Run `task(band, start, stop)` over `extent`, in all so many simple steps, cut into bands.

        `fixed`: `band_count` bands; else as many as there are threads, where no cut changes the results.
        """
        count = self.band_count if fixed else self.threads_for(steps)
        cuts = [extent * k // count for k in range(count + 1)]
        parts = [(k, cuts[k], cuts[k + 1]) for k in range(count) if cuts[k] < cuts[k + 1]]
        self.side_by_side([partial(task, *part) for part in parts], steps)

    def over_pixels(
        self,
        kernel: wp.Kernel,
        shape: tuple[int, ...],
        before: list[Any],
        after: list[Any],
        steps: int = 1,
        run: int = 1,
    ) -> None:
        """Launch a pixel kernel, of so many `steps` a pixel, over (B, H, W, ...) with before, H, W, y0, span, after.

        A list among the arguments after holds one array per band; without any, every pixel is written on its own. On a
        GPU a thread takes a `run` of pixels: more than one where they add to the same few numbers.
        """
        has_bands = any(isinstance(a, list) for a in after)

        def task(band: int, y0: int, y1: int) -> None:
            own = [a[band] if isinstance(a, list) else a for a in after]
            self.over_rows(kernel, shape, y0, y1, before, own, run)

        self.in_bands(task, shape[1], steps * math.prod(shape[:3]), has_bands)

    def over_whole_pixels(self, kernel: wp.Kernel, shape: tuple[int, ...], before: list[Any], after: list[Any]) -> None:
        """Like `over_pixels`, in one piece."""
        self.over_rows(kernel, shape, 0, shape[1], before, after)

    def over_rows(
        self,
        kernel: wp.Kernel,
        shape: tuple[int, ...],
        y0: int,
        y1: int,
        before: list[Any],
        after: list[Any],
        run: int = 1,
    ) -> None:
        """The part of `over_pixels` in the rows y0..y1, in this thread."""
        batch, height, width = shape[:3]
        span = width if self.is_cpu else run
        self.launch(kernel, (batch, y1 - y0, -(-width // span)), [*before, height, width, y0, span, *after])

    def over_items(self, kernel: wp.Kernel, dim: tuple[int, int], args: list[Any], steps: int = 1) -> None:
        """Launch a kernel, of so many `steps` an index, over (outer, count); its last argument is its band's start."""

        def task(_band: int, start: int, stop: int) -> None:
            self.launch(kernel, (dim[0], stop - start), [*args, start])

        self.in_bands(task, dim[1], steps * dim[0] * dim[1], fixed=False)
