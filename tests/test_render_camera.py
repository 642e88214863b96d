# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera against pinhole arithmetic written out by hand and against glTF's and Blender's conventions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from backend.render.camera import Camera, axis_angle, fov_from_exif, rotation_matrix


def some_camera(batch: int = 2) -> Camera:
    generator = torch.Generator().manual_seed(0)
    return Camera(
        rotation=0.4 * torch.randn(batch, 3, generator=generator),
        translation=torch.tensor([0.02, -0.03, -0.7]) + 0.05 * torch.randn(batch, 3, generator=generator),
        fov_y=torch.linspace(0.4, 0.7, batch),
        principal=torch.tensor([[150.0, 110.0]]) + 10 * torch.randn(batch, 2, generator=generator),
        size=(240, 320),
    )


def some_points(count: int = 50) -> torch.Tensor:
    return 0.15 * torch.randn(1, count, 3, generator=torch.Generator().manual_seed(1))


def test_project_is_the_pinhole_formula():
    """Point by point in plain Python, from the pose matrix that glTF and Blender get."""
    camera = some_camera()
    pixels = camera.project(some_points())
    matrices = camera.cam_to_world().double().numpy()
    for b in range(2):
        world_to_cam = np.linalg.inv(matrices[b])
        focal = 0.5 * 240 / math.tan(0.5 * float(camera.fov_y[b]))
        for point, pixel in zip(some_points()[0].tolist(), pixels[b].tolist(), strict=True):
            x, y, z, _ = world_to_cam @ np.array([*point, 1.0])
            assert z < 0
            assert pixel[0] == pytest.approx(float(camera.principal[b, 0]) + focal * x / -z, abs=1e-3)
            assert pixel[1] == pytest.approx(float(camera.principal[b, 1]) - focal * y / -z, abs=1e-3)


def test_axes_up_is_up_and_left_is_right():
    """A camera in front of the face sees the subject's left (+X) on the picture's right, and up (+Y) at the top."""
    camera = Camera.look_at(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3), 0.5, (100, 100))
    x, y = camera.project(torch.tensor([[[0.1, 0.05, 0.0]]]))[0, 0].tolist()
    assert x > 50 and y < 50


def test_clip_and_project_agree():
    camera = some_camera()
    clip = camera.clip(some_points())
    ndc = clip[..., :3] / clip[..., 3:]
    pixels = torch.stack([(ndc[..., 0] + 1) * 0.5 * 320, (1 - ndc[..., 1]) * 0.5 * 240], dim=-1)
    assert (pixels - camera.project(some_points())).abs().max() < 1e-3
    assert torch.allclose(clip[..., 3], -camera.view(some_points())[..., 2])
    nearer = camera.clip(some_points() + 0.01 * (camera.position()[:, None] - some_points()))
    assert (nearer[..., 2] / nearer[..., 3] < ndc[..., 2]).all() and ndc[..., 2].abs().max() < 1


def test_clip_space_with_y_down_is_the_picture_upside_down():
    camera = some_camera().crop(5.0, 8.0, 1.5, (60, 60))
    up, down = camera.clip(some_points()), camera.clip(some_points(), y_down=True)
    assert torch.allclose(down, up * torch.tensor([1.0, -1.0, 1.0, 1.0]), atol=1e-6)


def test_same_pixels_as_blenders_lens_and_shift():
    """Blender projects with lens, sensor and shift: x = w/2 + s (f x/z - shift_x), s the larger side (fit AUTO)."""
    camera = some_camera(1)
    height, width = camera.size
    longer = max(width, height)
    sensor = 36.0
    lens = float(camera.focal[0]) * sensor / longer
    shift_x = (0.5 * width - float(camera.principal[0, 0])) / longer
    shift_y = (float(camera.principal[0, 1]) - 0.5 * height) / longer
    view = camera.view(some_points())[0]
    x = (lens / sensor * view[:, 0] / -view[:, 2] - shift_x) * longer + 0.5 * width
    y = 0.5 * height - (lens / sensor * view[:, 1] / -view[:, 2] - shift_y) * longer
    assert (torch.stack([x, y], dim=-1) - camera.project(some_points())[0]).abs().max() < 1e-3


def test_crop_is_an_exact_part_of_the_image():
    camera = some_camera()
    x0, y0, scale = torch.tensor([30.5, 12.0]), torch.tensor([20.25, -7.0]), torch.tensor([1.6, 0.7])
    crop = camera.crop(x0, y0, scale, (128, 96))
    expected = (camera.project(some_points()) - torch.stack([x0, y0], -1)[:, None]) * scale[:, None, None]
    assert (crop.project(some_points()) - expected).abs().max() < 1e-3
    assert crop.size == (128, 96)


def test_result_round_trip_through_json():
    camera = some_camera()
    for index in range(2):
        entry = json.loads(json.dumps(camera.to_result(index)))
        assert entry["size"] == [320, 240] and len(entry["cam_to_world"]) == 4
        back = Camera.from_result(entry)
        assert (back.project(some_points()) - camera.project(some_points())[index]).abs().max() < 2e-3


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.3, 2.0, math.pi - 1e-4, math.pi])
def test_axis_angle_round_trip(angle):
    """Rotation matrices survive, also near 0 and pi; against the rotation of a vector by the angle."""
    axis = torch.nn.functional.normalize(torch.tensor([[0.3, -0.7, 0.5]], dtype=torch.float64), dim=-1)
    rotation = rotation_matrix(axis * angle)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    across = torch.linalg.cross(axis, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))
    turned = math.cos(angle) * across + math.sin(angle) * torch.linalg.cross(axis, across)
    assert torch.allclose((rotation @ across[..., None])[..., 0], turned, atol=1e-9)
    assert torch.allclose(rotation_matrix(axis_angle(rotation)), rotation, atol=1e-7)


def test_rotation_gradient_at_zero_is_finite():
    r = torch.zeros(1, 3, requires_grad=True)
    (rotation_matrix(r) * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert torch.allclose(r.grad, torch.tensor([[7.0 - 5.0, 2.0 - 6.0, 3.0 - 1.0]]))


def test_fov_from_exif():
    """A full-frame 50 mm lens, landscape 3:2: 27.0 degrees high, 39.6 degrees for the upright format."""
    assert math.degrees(fov_from_exif(50.0, 6000, 4000)) == pytest.approx(26.99, abs=0.01)
    assert math.degrees(fov_from_exif(50.0, 4000, 6000)) == pytest.approx(39.60, abs=0.01)
    with pytest.raises(ValueError, match="positive"):
        fov_from_exif(0.0, 100, 100)
