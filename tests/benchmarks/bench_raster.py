# SPDX-License-Identifier: GPL-3.0-or-later
"""Times of the rasteriser: warp (used), numba and deodr in one run, and the whole differentiable render.

    python tests/benchmarks/bench_raster.py [--threads 2] [--size 256] [--repeats 20]

numba and deodr are optional here and no dependencies of the project. Each figure is the best of the repeats, in
milliseconds; wall time, and the process's CPU time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backend.render.camera import Camera
from backend.render.lights import random_lights
from backend.render.raster import get_rasterizer
from backend.render.render import render

BATCH = 2
CHANNELS = 7


def sphere(rings: int = 125) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sphere of radius 0.1 m with 2 * rings^2 triangles: vertices, uv, triangles."""
    theta, phi = np.meshgrid(np.linspace(5e-4, np.pi - 5e-4, rings + 1), np.linspace(0, 2 * np.pi, rings + 1))
    verts = 0.1 * np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1)
    uv = np.stack([phi / (2 * np.pi), 1 - theta / np.pi], -1).reshape(-1, 2)
    i = np.arange((rings + 1) ** 2).reshape(rings + 1, rings + 1)
    a, b, c, d = i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]
    tri = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return torch.tensor(verts.reshape(-1, 3)).float(), torch.tensor(uv).float(), torch.tensor(tri).int()


def best(task: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall and CPU milliseconds of a task."""
    task()
    wall, cpu = [], []
    for _ in range(repeats):
        t, c = time.perf_counter(), time.process_time()
        task()
        wall.append(time.perf_counter() - t)
        cpu.append(time.process_time() - c)
    return 1e3 * min(wall), 1e3 * min(cpu)


def report(name: str, times: tuple[float, float], base: tuple[float, float] | None = None) -> tuple[float, float]:
    ratio = "" if base is None else f"   x{times[1] / base[1]:.2f} CPU of warp's"
    print(f"{name:48s} {times[0]:8.2f} wall {times[1]:8.2f} CPU{ratio}", flush=True)
    return times


def numba_kernels() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """The depth test and the backward of the interpolation, written for numba as warp's are."""
    try:
        import numba
    except ImportError:
        return None
    f32 = np.float32
    half, one = f32(0.5), f32(1.0)

    @numba.njit(nogil=True)
    def draw(pos, tri, height, width, y0, y1, keys):  # type: ignore[no-untyped-def]
        for b in range(pos.shape[0]):
            for t in range(tri.shape[0]):
                p, q, r = pos[b, tri[t, 0]], pos[b, tri[t, 1]], pos[b, tri[t, 2]]
                if p[3] <= 0 or q[3] <= 0 or r[3] <= 0:
                    continue
                ax, ay = (p[0] / p[3] * half + half) * f32(width), (p[1] / p[3] * half + half) * f32(height)
                bx, by = (q[0] / q[3] * half + half) * f32(width), (q[1] / q[3] * half + half) * f32(height)
                cx, cy = (r[0] / r[3] * half + half) * f32(width), (r[1] / r[3] * half + half) * f32(height)
                ylo = max(int(np.ceil(min(ay, by, cy) - half)), y0)
                yhi = min(int(np.floor(max(ay, by, cy) - half)), y1 - 1)
                xlo = max(int(np.ceil(min(ax, bx, cx) - half)), 0)
                xhi = min(int(np.floor(max(ax, bx, cx) - half)), width - 1)
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                if ylo > yhi or xlo > xhi or area == 0:
                    continue
                za, zb, zc = p[2] / p[3], q[2] / q[3], r[2] / r[3]
                for y in range(ylo, yhi + 1):
                    for x in range(xlo, xhi + 1):
                        fx, fy = f32(x) + half, f32(y) + half
                        u = ((bx - fx) * (cy - fy) - (cx - fx) * (by - fy)) / area
                        v = ((cx - fx) * (ay - fy) - (ax - fx) * (cy - fy)) / area
                        w = one - u - v
                        if u >= f32(-1e-6) and v >= f32(-1e-6) and w >= f32(-1e-6):
                            z = u * za + v * zb + w * zc
                            key = (np.int64((z * half + half) * f32(2147483000.0)) << 32) | t
                            if key < keys[b, y, x]:
                                keys[b, y, x] = key

    @numba.njit(nogil=True)
    def scatter(attr, tri, rast, grad, y0, y1, grad_attr, grad_rast):  # type: ignore[no-untyped-def]
        for b in range(rast.shape[0]):
            for y in range(y0, y1):
                for x in range(rast.shape[2]):
                    t = int(rast[b, y, x, 3]) - 1
                    gu, gv = f32(0), f32(0)
                    if t >= 0:
                        i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
                        u, v = rast[b, y, x, 0], rast[b, y, x, 1]
                        w = one - u - v
                        for c in range(attr.shape[2]):
                            g, last = grad[b, y, x, c], attr[b, k, c]
                            gu += g * (attr[b, i, c] - last)
                            gv += g * (attr[b, j, c] - last)
                            grad_attr[b, i, c] += g * u
                            grad_attr[b, j, c] += g * v
                            grad_attr[b, k, c] += g * w
                    grad_rast[b, y, x, 0] = gu
                    grad_rast[b, y, x, 1] = gv
                    grad_rast[b, y, x, 2] = 0
                    grad_rast[b, y, x, 3] = 0

    return draw, scatter


def bench_numba(scene: dict, repeats: int, base: dict[str, tuple[float, float]]) -> None:
    start = time.perf_counter()
    kernels = numba_kernels()
    if kernels is None:
        print("numba: not installed")
        return
    draw, scatter = kernels
    pool = ThreadPoolExecutor(1)
    size, pos, tri, rast = scene["size"], scene["pos"].numpy(), scene["tri"].numpy(), scene["rast"].numpy()
    attr, grad = scene["attr"].numpy(), scene["grad"].numpy()

    def side_by_side(task: Callable[[int], None]) -> None:
        if torch.get_num_threads() == 1:
            task(0), task(1)
            return
        other = pool.submit(task, 1)
        task(0)
        other.result()

    def run_draw() -> None:
        keys = torch.full((BATCH, size, size), 2**62, dtype=torch.int64).numpy()
        side_by_side(lambda k: draw(pos, tri, size, size, k * size // 2, (k + 1) * size // 2, keys))

    def run_scatter() -> None:
        sums = torch.zeros((2, *scene["attr"].shape))
        grad_rast = torch.empty_like(scene["rast"]).numpy()
        parts = sums.numpy()
        side_by_side(lambda k: scatter(attr, tri, rast, grad, k * size // 2, (k + 1) * size // 2, parts[k], grad_rast))
        sums.sum(dim=0)

    run_draw(), run_scatter()
    print(f"numba: {time.perf_counter() - start:.1f} s to import and compile these two kernels")
    report("numba depth test", best(run_draw, repeats), base["draw"])
    report("numba interpolate backward", best(run_scatter, repeats), base["interpolate backward"])


def bench_deodr(scene: dict, repeats: int, base: tuple[float, float]) -> None:
    """One deodr picture with 3 colour channels and its backward, twice (deodr has no batch)."""
    try:
        from deodr.differentiable_renderer import Scene2D
    except ImportError:
        print("deodr: not installed")
        return
    size, tri = scene["size"], scene["tri"].numpy().astype(np.uint32)
    clip = scene["pos"][0].double().numpy()
    ij = (clip[:, :2] / clip[:, 3:] * 0.5 + 0.5) * size
    count = len(ij)
    deodr_scene = Scene2D(
        faces=tri,
        faces_uv=tri,
        ij=ij,
        depths=clip[:, 3].copy(),
        textured=np.zeros(len(tri), dtype=bool),
        uv=np.zeros((count, 2)),
        shade=np.zeros(count),
        colors=np.random.default_rng(0).random((count, 3)),
        shaded=np.zeros(len(tri), dtype=bool),
        edgeflags=np.zeros((len(tri), 3), dtype=bool),
        height=size,
        width=size,
        nb_colors=3,
        texture=np.zeros((2, 2, 3)),
        background_image=np.zeros((size, size, 3)),
        backface_culling=True,  # its gradients need it; it draws half of the triangles
        clockwise=True,
    )
    gradient = np.random.default_rng(0).random((size, size, 3))

    drawn = (deodr_scene.render(sigma=1.0)[0].sum(axis=2) > 0).mean()
    if drawn < 0.2:
        deodr_scene.clockwise = False

    def run() -> None:
        for _ in range(BATCH):
            deodr_scene.render(sigma=1.0)
            deodr_scene.clear_gradients()
            deodr_scene.render_backward(gradient)

    report("deodr picture without antialiasing, culled", best(run, repeats), base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, repeats = options.size, options.repeats

    start = time.perf_counter()
    raster = get_rasterizer("cpu")
    print(f"warp: {time.perf_counter() - start:.1f} s until the kernels are there (compiled or from the cache)")
    verts, uv, tri = sphere()
    eyes = torch.tensor([[0.0, 0.05, 0.6], [0.2, 0.1, 0.5]])
    camera = Camera.look_at(eyes, torch.zeros(1, 3), 0.42, (size, size))
    pos = camera.clip(verts[None])
    rast = raster.rasterize(pos, tri, (size, size))
    generator = torch.Generator().manual_seed(0)
    attr = torch.rand(BATCH, len(verts), CHANNELS, generator=generator)
    grad = torch.rand(BATCH, size, size, CHANNELS, generator=generator)
    scene = {"size": size, "pos": pos, "tri": tri, "rast": rast, "attr": attr, "grad": grad}
    print(f"{len(tri)} triangles, {size}^2, batch {BATCH}, {options.threads} threads, "
          f"{(rast[..., 3] > 0).float().mean():.0%} covered")  # fmt: skip

    base = {"rasterize": report("warp rasterize", best(lambda: raster.rasterize(pos, tri, (size, size)), repeats))}
    from backend.render.raster_warp import _draw  # the part that numba's kernel does

    keys = torch.empty((BATCH, size, size), dtype=torch.int64)
    base["draw"] = best(lambda: _draw(raster.launcher, keys.fill_(-1), pos, tri), repeats)
    report("warp depth test", base["draw"])
    attr_leaf, rast_leaf = attr.clone().requires_grad_(), rast.clone().requires_grad_()
    pixels = raster.interpolate(attr_leaf, rast_leaf, tri)
    base["interpolate backward"] = report(
        "warp interpolate backward",
        best(lambda: torch.autograd.grad(pixels, (attr_leaf, rast_leaf), grad, retain_graph=True), repeats),
    )
    bench_numba(scene, repeats, base)

    pos_leaf, colors = pos.clone().requires_grad_(), attr[..., :3].clone().requires_grad_()

    def picture() -> None:
        drawn = raster.rasterize(pos_leaf, tri, (size, size))
        raster.antialias(raster.interpolate(colors, drawn, tri), drawn, pos_leaf, tri).sum().backward()

    flat = report("warp picture with antialiasing forward + backward", best(picture, repeats))
    bench_deodr(scene, repeats, flat)

    texture = torch.rand(1, 3, 512, 512, generator=generator)
    for batch in (1, BATCH):
        leaves = [verts.expand(BATCH, -1, -1).clone(), texture.repeat(batch, 1, 1, 1), torch.rand(1, len(verts), 3)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        lights = random_lights(BATCH, generator)
        lights.sh.requires_grad_()
        is_skin, ao = torch.arange(len(tri)) % 10 > 0, torch.ones(len(verts))

        def whole() -> None:
            out = render(raster, leaves[0], tri, uv, leaves[1], leaves[2], is_skin, ao, camera, lights)  # noqa: B023
            (out.rgb.mean() + out.alpha.mean()).backward()

        report(f"render forward + backward, {batch} texture(s) of 512^2", best(whole, repeats))


if __name__ == "__main__":
    main()
