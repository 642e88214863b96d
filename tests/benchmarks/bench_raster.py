# SPDX-License-Identifier: GPL-3.0-or-later
"""Times of the rasteriser: warp (used), numba and deodr in one run, and the whole differentiable render.

    pip install --no-deps --target /tmp/deodr deodr==0.2.3
    PYTHONPATH=/tmp/deodr python tests/benchmarks/bench_raster.py --sweep [--repeats 20] [--json FILE]
    python tests/benchmarks/bench_raster.py [--threads 2] [--size 256] [--repeats 20] [--profile]

numba and deodr are optional here and no dependencies of the project. `--sweep` compares with deodr on equal triangles
over 256 to 1024 pixels and 5k to 100k triangles, forward and backward, all taking turns: deodr, which knows one thread
only, ours with as many threads as are asked for, and ours with one. Each figure is the best of the repeats, in
milliseconds; wall time, and the process's CPU time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import backend  # noqa: F401 before torch, whose threads it tells how to wait

# isort: split
import numpy as np
import torch

from backend.render.camera import Camera
from backend.render.lights import random_lights
from backend.render.raster import get_rasterizer
from backend.render.render import render
from backend.render.topology import edge_adjacency

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


def deodr_scene(scene: dict) -> object | None:
    """deodr's scene of the same triangles, camera and three colours per vertex; None where it is not installed."""
    try:
        from deodr.differentiable_renderer import Scene2D
    except ImportError:
        return None
    size, tri = scene["size"], scene["tri"].numpy().astype(np.uint32)
    clip = scene["pos"][0].double().numpy()
    ij = (clip[:, :2] / clip[:, 3:] * 0.5 + 0.5) * size
    count = len(ij)
    found = Scene2D(
        faces=tri,
        faces_uv=tri,
        ij=ij,
        depths=clip[:, 3].copy(),
        textured=np.zeros(len(tri), dtype=bool),
        uv=np.zeros((count, 2)),
        shade=np.zeros(count),
        colors=scene["attr"][0, :, :3].double().numpy(),
        shaded=np.zeros(len(tri), dtype=bool),
        edgeflags=np.zeros((len(tri), 3), dtype=bool),
        height=size,
        width=size,
        nb_colors=3,
        texture=np.zeros((2, 2, 3)),
        background_image=np.zeros((size, size, 3)),
        backface_culling=True,  # its gradients need it; it draws half of the triangles
        clockwise=False,
    )
    found.edgeflags = silhouette_edges(ij, tri.astype(np.int64))
    return found


def silhouette_edges(ij: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """(T, 3) bool: edges (k, k + 1) of drawn triangles whose neighbour is culled or missing: deodr antialiases them."""
    a, b, c = (ij[tri[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    drawn = area > 0
    neighbour = edge_adjacency(tri)  # 3 * triangle + edge, opposite to the vertex of that number
    is_edge = np.where(neighbour < 0, True, ~drawn[neighbour // 3]) & drawn[:, None]
    return np.roll(is_edge, -2, axis=1)  # opposite vertex 2 is edge (0, 1)


def taking_turns(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Least wall and CPU milliseconds of each task; the tasks alternate, so that all see the same machine."""
    least = {name: (np.inf, np.inf) for name in tasks}
    for number in range(repeats + 1):
        for name, task in tasks.items():
            t, c = time.perf_counter(), time.process_time()
            task()
            taken = 1e3 * (time.perf_counter() - t), 1e3 * (time.process_time() - c)
            if number:  # the first one warms up
                least[name] = min(least[name][0], taken[0]), min(least[name][1], taken[1])
    return least


def make_scene(raster: object, size: int, rings: int, batch: int, device: str = "cpu") -> dict:
    """A sphere seen by `batch` cameras, with random attributes and gradients."""
    verts, uv, tri = (t.to(device) for t in sphere(rings))
    eyes = torch.tensor([[0.0, 0.05, 0.6], [0.2, 0.1, 0.5]])[:batch]
    camera = Camera.look_at(eyes, torch.zeros(1, 3), 0.42, (size, size)).to(device)
    pos = camera.clip(verts[None])
    generator = torch.Generator().manual_seed(0)
    return {"size": size, "verts": verts, "uv": uv, "tri": tri, "camera": camera, "pos": pos,
            "rast": raster.rasterize(pos, tri, (size, size)),
            "attr": torch.rand(batch, len(verts), CHANNELS, generator=generator).to(device),
            "grad": torch.rand(batch, size, size, CHANNELS, generator=generator).to(device)}  # fmt: skip


def sweep(raster: object, threads: int, repeats: int, file: str | None) -> None:
    """One picture with antialiased silhouettes, forward and backward to positions and colours, beside deodr's."""
    rows = []
    print(f"ms of wall time; ours with {threads} threads (1), deodr with the 1 that it knows; ratio: ours to deodr's"
          f"\n{'pixels':>6s} {'triangles':>9s} | {'forward':>14s} {'deodr':>14s} | {'backward':>14s} {'deodr':>6s} |"
          f" {'ratio':>6s} {'1 thread':>8s} {'its CPU':>8s}")  # fmt: skip
    for size in (256, 512, 1024):
        for rings in (50, 100, 158, 224):
            scene = make_scene(raster, size, rings, batch=1)
            other = deodr_scene(scene)
            if other is None:
                print("deodr: not installed")
                return
            tasks = picture_tasks(raster, scene, threads, "") | picture_tasks(raster, scene, 1, "1 thread ")
            times = taking_turns(tasks | deodr_tasks(scene, other), repeats)
            torch.set_num_threads(threads)
            ours, single, theirs = ([times[prefix + name] for name in ("forward", "backward")]
                                    for prefix in ("", "1 thread ", "deodr "))  # fmt: skip
            ratio, one = (sum(a[0] for a in each) / sum(b[0] for b in theirs) for each in (ours, single))
            cpu = sum(a[1] for a in single) / sum(b[1] for b in theirs)
            cells = [f"{ours[k][0]:6.2f} ({single[k][0]:5.2f}) {theirs[k][0]:6.2f}" for k in (0, 1)]
            print(f"{size:6d} {len(scene['tri']):9d} | {cells[0]:>29s} | {cells[1]:>21s} |"
                  f" {ratio:6.2f} {one:8.2f} {cpu:8.2f}", flush=True)  # fmt: skip
            rows.append({"pixels": size, "triangles": len(scene["tri"]), "threads": threads, "wall and CPU ms": times})
    if file:
        Path(file).write_text(json.dumps(rows, indent=1), "utf-8")


def picture_tasks(raster: object, scene: dict, threads: int, prefix: str) -> dict[str, Callable[[], object]]:
    """Our picture and its gradients, by so many threads."""
    size, tri, gradient = scene["size"], scene["tri"], scene["grad"][..., :3].contiguous()
    pos, colours = scene["pos"].clone().requires_grad_(), scene["attr"][..., :3].clone().requires_grad_()
    kept = {}

    def forward() -> None:
        torch.set_num_threads(threads)
        drawn = raster.rasterize(pos, tri, (size, size))
        kept["picture"] = raster.antialias(raster.interpolate(colours, drawn, tri, pos), drawn, pos, tri)

    def backward() -> None:
        torch.autograd.grad(kept.pop("picture"), (pos, colours), gradient)

    return {prefix + "forward": forward, prefix + "backward": backward}


def deodr_tasks(scene: dict, other: object) -> dict[str, Callable[[], object]]:
    """deodr's picture and its gradients."""
    gradient = scene["grad"][0, ..., :3].double().numpy()

    def backward() -> None:
        other.clear_gradients()
        other.render_backward(gradient)

    return {"deodr forward": lambda: other.render(sigma=1.0), "deodr backward": backward}


def profile(scene: dict, raster: object, repeats: int) -> None:
    """Milliseconds by kernel of one picture, forward and backward: where a rasteriser's time goes."""
    launcher, spent = raster.launcher, {}
    launch = launcher.launch

    def timed(kernel: object, *args: object, **more: object) -> None:
        start = time.thread_time()
        launch(kernel, *args, **more)
        spent[kernel.key] = spent.get(kernel.key, 0.0) + time.thread_time() - start

    launcher.launch = timed
    pos, colours = scene["pos"].clone().requires_grad_(), scene["attr"][..., :3].clone().requires_grad_()
    for number in range(repeats + 1):
        if number == 1:
            spent.clear()
        drawn = raster.rasterize(pos, scene["tri"], (scene["size"],) * 2)
        pixels = raster.interpolate(colours, drawn, scene["tri"], pos)
        raster.antialias(pixels, drawn, pos, scene["tri"]).sum().backward()
    launcher.launch = launch
    total = sum(spent.values())
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:32s} {1e3 * seconds / repeats:8.2f} ms CPU {seconds / total:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sweep", action="store_true", help="sizes and triangle counts beside deodr")
    parser.add_argument("--json", metavar="FILE", help="of the sweep")
    parser.add_argument("--profile", action="store_true", help="CPU time by kernel")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, repeats = options.size, options.repeats

    start = time.perf_counter()
    raster = get_rasterizer("cpu")
    print(f"warp: {time.perf_counter() - start:.1f} s until the kernels are there (compiled or from the cache)")
    if options.sweep:
        sweep(raster, options.threads, repeats, options.json)
        return
    scene = make_scene(raster, size, 125, BATCH)
    verts, uv, tri, camera, pos = (scene[name] for name in ("verts", "uv", "tri", "camera", "pos"))
    rast, attr, grad = scene["rast"], scene["attr"], scene["grad"]
    generator = torch.Generator().manual_seed(0)
    if options.profile:
        profile(scene, raster, repeats)
        return
    print(f"{len(tri)} triangles, {size}^2, batch {BATCH}, {options.threads} threads, "
          f"{(rast[..., 3] > 0).float().mean():.0%} covered")  # fmt: skip

    base = {"rasterize": report("warp rasterize", best(lambda: raster.rasterize(pos, tri, (size, size)), repeats))}
    from backend.render.raster_warp import _draw  # numba's kernel does its larger part, the depth test

    drawn = torch.empty_like(rast)
    base["draw"] = report("warp depth test and resolve", best(lambda: _draw(raster, pos, tri, drawn), repeats))
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
        raster.antialias(raster.interpolate(colors, drawn, tri, pos_leaf), drawn, pos_leaf, tri).sum().backward()

    report("warp picture with antialiasing forward + backward", best(picture, repeats))

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
