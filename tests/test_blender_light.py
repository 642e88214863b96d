# SPDX-License-Identifier: GPL-3.0-or-later
"""The imported world and sun in Cycles against irradiance integrated by hand: catches mirrored or swapped axes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import sph_harm_y
from test_blender_import import run_blender

SIZE, SAMPLES = 40, 256
NO_SUN = {"direction": [0.0, 0.0, 1.0], "rgb": [0.0, 0.0, 0.0]}
DEGREES = [(0, 0), (1, -1), (1, 0), (1, 1), (2, -2), (2, -1), (2, 0), (2, 1), (2, 2)]


def real_harmonics(directions: np.ndarray) -> np.ndarray:
    """(N, 9) from SciPy's complex harmonics, without their Condon-Shortley phase: not the formulas under test."""
    x, y, z = directions.T
    theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    columns = []
    for degree, order in DEGREES:
        value = sph_harm_y(degree, abs(order), theta, phi) * (-1) ** abs(order)
        columns.append(value.real if order == 0 else np.sqrt(2) * (value.imag if order < 0 else value.real))
    return np.stack(columns, -1)


def cases() -> dict[str, dict]:
    """Ambient plus one harmonic of each kind in each colour, and the sun alone; from the front and from behind."""
    first, second, mixed = np.zeros((3, 9, 3))
    first[0] = second[0] = mixed[0] = 2.0
    for channel, (one, two) in enumerate([(1, 4), (2, 5), (3, 7)]):
        first[one, channel] = 0.9
        second[two, channel] = 0.9
    mixed[6], mixed[8], mixed[3], mixed[1] = [0.5, -0.4, 0], [0, 0.5, -0.5], [0.3, 0, -0.3], [0, -0.4, 0.4]
    sky = {name: {"sh": sh.tolist(), **NO_SUN} for name, sh in
           {"first": first, "second": second, "mixed": mixed, "mixed_back": mixed}.items()}
    direction = np.array([0.48, 0.6, 0.64])
    sun = {"sh": np.zeros((9, 3)).tolist(), "direction": direction.tolist(), "rgb": [2.0, 1.0, 0.5]}
    return {**sky, "sun": sun}


@pytest.fixture(scope="module")
def pictures(bpy_python, extension_zip, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("light")
    job = {"zip": str(extension_zip), "out": str(folder), "cases": cases(), "size": SIZE, "samples": SAMPLES}
    run_blender(bpy_python, "light_spheres.py", job, folder / "profile")
    return {name: np.load(folder / f"{name}.npy") for name in cases()}


def sphere_normals(back: bool) -> tuple[np.ndarray, np.ndarray]:
    """GLB normals (H, W, 3) of a unit sphere in an orthographic picture 2.2 wide, and where it is hit well inside."""
    at = ((np.arange(SIZE) + 0.5) / SIZE - 0.5) * 2.2
    x, y = np.meshgrid(at, -at)
    inside = x**2 + y**2 < 0.9**2
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    return (np.stack([-x, y, -z], -1) if back else np.stack([x, y, z], -1)), inside


def irradiance(normals: np.ndarray, sh: np.ndarray) -> np.ndarray:
    """(N, 3) by brute force: radiance times cosine, summed over directions spread evenly on the sphere."""
    count = 20000
    index = np.arange(count) + 0.5
    z, turn = 1 - 2 * index / count, index * np.pi * (3 - np.sqrt(5))
    across = np.sqrt(1 - z * z)
    directions = np.stack([across * np.cos(turn), across * np.sin(turn), z], -1)
    radiance = np.maximum(real_harmonics(directions) @ sh, 0)
    return np.clip(normals @ directions.T, 0, None) @ radiance * (4 * np.pi / count)


@pytest.mark.parametrize("name", list(cases()))
def test_cycles_lights_a_white_sphere_as_the_formulas_say(pictures, name):
    case = cases()[name]
    normals, inside = sphere_normals(name.endswith("_back"))
    expected = irradiance(normals[inside], np.array(case["sh"])) / np.pi
    cosine = np.clip(normals[inside] @ np.array(case["direction"]), 0, None)
    expected += cosine[:, None] * np.array(case["rgb"]) / np.pi
    found = pictures[name][inside][:, :3]
    # Noise and the pixels' extent: 3 % of the brightest; a mirrored axis is off by 30 % and more.
    assert np.abs(found - expected).mean() < 0.012 * expected.max()
    assert np.abs(found - expected).max() < 0.08 * expected.max()


def test_the_test_would_see_a_mirrored_axis(pictures):
    """Negative control: the same comparison fails for every mirrored axis."""
    normals, inside = sphere_normals(False)
    sh = np.array(cases()["mixed"]["sh"])
    found = pictures["mixed"][inside][:, :3]
    for axis in range(3):
        mirrored = normals[inside].copy()
        mirrored[:, axis] *= -1
        expected = irradiance(mirrored, sh) / np.pi
        if axis != 2:  # the visible half has only +z
            assert np.abs(found - expected).mean() > 0.03 * expected.max(), axis
