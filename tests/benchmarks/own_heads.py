# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's own heads: random parameters and free-form bumps that the model cannot follow, rendered by Cycles.

Each `truth/<subject>_<condition>/` is a bundle whose head is the ground truth; `images/` are the pictures, made by
`tests/blender_scripts/render_own_head.py` under lamps of its own. In the backend's environment this file is a program:

    python tests/benchmarks/own_heads.py FOLDER
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RENDER = ROOT / "tests" / "blender_scripts" / "render_own_head.py"
SUBJECTS = 4
SIZE = 512
CONDITIONS = {"cooperative": (0.0, 0.0), "indoor": (22.0, 4.0), "outdoor": (-14.0, -3.0)}
"""Name -> yaw and pitch of the camera in degrees; the lamps of each stand in the script that renders it."""
IDENTITY_SPREAD = 0.9
BUMPS, BUMP_MM, BUMP_WIDTH_MM = 24, 2.0, (12.0, 30.0)
"""Gaussian displacements of the whole head: how many, their standard deviation, their widths."""
EXPRESSION = {"mouthSmileLeft": 0.25, "mouthSmileRight": 0.2, "browInnerUp": 0.15, "jawOpen": 0.04}
"""The strongest expression; every subject gets a random share of it."""


def heads_folder(base: Path, backend_python: str, blender_python: str) -> Path:
    """The folder of the heads that this code makes, made on first use: some minutes."""
    files = [Path(__file__), RENDER, *sorted((ROOT / "backend" / "head").glob("*.py"))]
    folder = base / hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:10]
    if not (folder / "complete").exists():
        print(f"Making {SUBJECTS} heads and {SUBJECTS * len(CONDITIONS)} photos of them ...", flush=True)
        subprocess.run([backend_python, str(Path(__file__)), str(folder)], cwd=ROOT, check=True)
        (folder / "images").mkdir(exist_ok=True)
        for truth in sorted((folder / "truth").iterdir()):
            image = folder / "images" / f"{truth.name}.png"
            condition = json.loads((truth / "result.json").read_text("utf-8"))["condition"]
            job = {"bundle": str(truth), "out": str(image), "condition": condition}
            subprocess.run([blender_python, str(RENDER), json.dumps(job)], cwd=ROOT, check=True)
        (folder / "complete").touch()
    return folder


def bumps(points, seed: int):  # type: ignore[no-untyped-def]
    """A smooth random displacement (V, 3), metres, of points (V, 3): the same field moves skin, eyes and teeth."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    low, high = points.new_tensor([-0.08, -0.12, -0.04]), points.new_tensor([0.08, 0.09, 0.07])
    centres = low + (high - low) * torch.rand(BUMPS, 3, generator=rng)
    width = 1e-3 * (BUMP_WIDTH_MM[0] + (BUMP_WIDTH_MM[1] - BUMP_WIDTH_MM[0]) * torch.rand(BUMPS, generator=rng))
    push = 1e-3 * BUMP_MM * torch.randn(BUMPS, 3, generator=rng)
    near = torch.exp(-0.5 * (torch.cdist(points, centres) / width) ** 2)
    return near @ push


def make(folder: Path) -> None:
    """Writes the bundles of all subjects under all conditions."""
    import torch

    sys.path.insert(0, str(ROOT))
    from backend.assemble import assemble
    from backend.bundle import write_bundle
    from backend.head.stat import COMPONENTS
    from backend.options import Options
    from backend.pipeline import Models, bundle_contents, json_bytes

    device = torch.device("cpu")
    person = Models().person(Options(), device)
    for subject in range(SUBJECTS):
        rng = torch.Generator().manual_seed(1000 + subject)
        identity = (IDENTITY_SPREAD * torch.randn(COMPONENTS, generator=rng)).tolist()
        latent = torch.randn(512, generator=rng).tolist()
        share = torch.rand(1, generator=rng).item()
        for condition, angles in CONDITIONS.items():
            name = f"own{subject}_{condition}"
            result = describe(person, identity, latent, share, angles) | {"condition": condition}
            scene = assemble(result, person, device)
            offset = bumps(scene.cage, seed=2000 + subject)
            verts1 = scene.verts1 + person.head.subdivide(offset[None])
            landmarks = person.head.landmarks(verts1, "68")[0]
            scene = replace(scene, cage=scene.cage + offset, verts1=verts1, landmarks=landmarks)
            contents = bundle_contents(scene, result, [torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8).numpy()])
            write_bundle(folder / "truth" / name, {**contents, "result.json": json_bytes(result)})


def describe(person, identity, latent, share, angles) -> dict:  # type: ignore[no-untyped-def]
    """`result.json` of a head that nobody fitted."""
    import torch

    from backend.fit.person import DEFAULT_PALETTE
    from backend.render.camera import Camera
    from backend.render.lights import Lights

    head = person.head
    yaw, pitch = map(math.radians, angles)
    target = torch.tensor([[0.0, -0.03, 0.02]])
    towards = [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    eye = target + 0.8 * torch.tensor([towards])
    camera = Camera.look_at(eye, target, 0.46, (SIZE, SIZE))
    expression = {name: share * EXPRESSION.get(name, 0.0) for name in head.expression_names}
    view = {
        "photo": {"file": "photo_00.png", "name": "made", "sha256": "0" * 64, "size": [SIZE, SIZE]},
        "camera": camera.to_result(), "lights": Lights.default(1).to_result(), "expression": expression,
        "landmarks": [], "files": {"photo": "photo_00.png", "render": "render_00.png", "overlay": "overlay_00.jpg"},
    }
    return {
        "version": 1, "layout_id": head.layout_id, "views": [view],
        "shape": {"basis": "makehuman", "coefficients": identity, "scale": 1.0, "ruler": "known"},
        "texture": {"latent": latent, "generator_sha256": person.generator.sha256, "size": 512},
        "palette": {name: list(DEFAULT_PALETTE[name]) for name in head.palette_names}, "warnings": [],
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    make(Path(sys.argv[1]))
