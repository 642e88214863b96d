# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of a bench report: error maps on the heads, losses, seconds by stage, memory from photo to photo."""
from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MAX_ERROR_MM = 5.0


def write(folder: Path, report: dict) -> None:
    """All plots that the report has figures for, in `plots/`."""
    out = folder / "plots"
    out.mkdir(exist_ok=True)
    rows = [row for row in report["rows"].values() if "error" not in row]
    error_maps(folder / "maps", [row["id"] for row in rows], out / "error_maps.png")
    if rows:
        losses(rows, out / "losses.png")
        stages(rows, out / "stages.png")
        memory(rows, out / "memory.png")


def error_maps(maps: Path, names: list[str], out: Path) -> None:
    """Every known head's surface from the front, coloured by its distance to the reconstruction."""
    known = [name for name in names if (maps / f"{name}.npz").exists()]
    if not known:
        return
    columns = min(6, len(known))
    lines = -(-len(known) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.3 * columns, 2.7 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, name in zip(axes.flat, known):
        with np.load(maps / f"{name}.npz") as data:
            points, distance = data["points"], data["distance"]
        order = np.argsort(points[:, 2])
        drawn = axis.scatter(*points[order, :2].T, c=distance[order], s=4, cmap="turbo", vmin=0, vmax=MAX_ERROR_MM)
        axis.set_aspect("equal")
        axis.set_title(f"{name}\n{distance.mean():.2f} mm", fontsize=7)
    figure.colorbar(drawn, ax=axes, label="mm", fraction=0.02)
    figure.savefig(out, dpi=110, bbox_inches="tight")
    plt.close(figure)


def losses(rows: list[dict], out: Path) -> None:
    """Each term over the iterations: the median over the photos and where half of them lie."""
    names = sorted({name for row in rows for name in row["losses"]})
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 2.2 * lines), squeeze=False)
    for axis, name in zip(axes.flat, names):
        curves = [row["losses"][name] for row in rows if row["losses"].get(name)]
        length = max(map(len, curves))
        values = np.array([np.pad(np.array(c, float), (0, length - len(c)), constant_values=np.nan) for c in curves])
        low, middle, high = np.nanpercentile(values, (25, 50, 75), axis=0)
        axis.fill_between(range(length), low, high, alpha=0.3)
        axis.plot(middle)
        axis.set_title(name, fontsize=8)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def stages(rows: list[dict], out: Path) -> None:
    """Mean seconds by stage, and by part of an iteration."""
    names = list(dict.fromkeys(name for row in rows for name in row["timings"]))
    values = [np.mean([row["timings"].get(name, 0.0) for row in rows]) for name in names]
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(names) + 1))
    axis.barh(names[::-1], values[::-1], color=["#888" if n.startswith("fit: ") else "#267" for n in names[::-1]])
    axis.bar_label(axis.containers[0], fmt="%.2f", fontsize=7)
    axis.margins(x=0.12)
    axis.set_xlabel("seconds, mean over the photos")
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def memory(rows: list[dict], out: Path) -> None:
    """Resident memory after each photo, and seconds of each: both should be flat."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3))
    axes[0].plot([row["rss_mb"] for row in rows], label="after the photo")
    axes[0].plot([row["peak_mb"] for row in rows], label="highest so far")
    axes[0].set_ylim(0, 1.1 * max(row["peak_mb"] for row in rows))
    axes[0].set_ylabel("MB")
    axes[0].legend()
    axes[1].plot([row["seconds"] for row in rows], label="wall")
    axes[1].plot([row["cpu_seconds"] for row in rows], label="CPU")
    axes[1].set_ylim(bottom=0)
    axes[1].set_ylabel("seconds")
    axes[1].legend()
    for axis in axes:
        axis.set_xlabel("photo")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)
