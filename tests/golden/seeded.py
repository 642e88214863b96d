# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights and inputs that follow from a seed, so that golden outputs can be checked without storing networks."""

from __future__ import annotations

import numpy as np


def seeded_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Plausible weights for every entry of a state dict: each depends on the seed and its own name only."""
    weights = {}
    for name, shape in shapes.items():
        generator = np.random.default_rng([seed, *name.encode()])
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            weights[name] = np.zeros(shape, np.int64)
        elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
            weights[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) > 1:
            fan_in = int(np.prod(shape[1:]))
            weights[name] = (generator.standard_normal(shape) * (1.5 / fan_in) ** 0.5).astype(np.float32)
        else:
            weights[name] = (generator.standard_normal(shape) * 0.1).astype(np.float32)
    return weights


def seeded_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Uniform noise in [0, 1), float32."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)
