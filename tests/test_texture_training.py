# SPDX-License-Identifier: GPL-3.0-or-later
"""Baking, filling, variation, the linear code and the training loop of the texture generator."""
from __future__ import annotations

import numpy as np
import torch

from backend.texture.data import SourceMap, decode, encode, fill_map
from backend.texture.evaluate import skin_angle
from backend.texture.generator import GeneratorSpec
from backend.texture.linear import as_maps, features, fit_code
from backend.texture.train import MapSet, Stage, Training, TrainOptions, reconstruction_loss
from backend.texture.uvmap import push_pull, rasterize_uv, sample_image, split_quads

SQUARE = np.array([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])


def test_texels_carry_a_linear_function_exactly() -> None:
    corners = split_quads(np.array([[0, 1, 2, 3]]), SQUARE)
    texels = rasterize_uv(corners, 16)
    assert texels.covered.all()
    uv = texels.interpolate(corners)
    centres = (np.arange(16) + 0.5) / 16
    assert np.allclose(uv[..., 0], centres[None, :], atol=1e-5)
    assert np.allclose(uv[..., 1], 1 - centres[:, None], atol=1e-5)


def test_a_triangle_stored_as_quad_covers_its_own_area() -> None:
    quad = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    texels = rasterize_uv(split_quads(np.array([[0, 1, 2, 2]]), quad), 64)
    assert abs(texels.covered.mean() - 0.5) < 0.02


def test_sampling_hits_texel_centres() -> None:
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    uv = np.array([[(3 + 0.5) / 8, 1 - (5 + 0.5) / 8]])
    assert np.allclose(sample_image(image, uv)[0], image[5, 3], atol=1e-6)


def test_filling_keeps_what_is_known_and_continues_constants() -> None:
    rng = np.random.default_rng(1)
    known = (rng.random((32, 32)) < 0.2).astype(np.float32)
    image = np.full((32, 32, 3), 0.4, np.float32)
    image[known == 0] = rng.random((int((known == 0).sum()), 3))
    assert np.allclose(push_pull(image, known), 0.4, atol=1e-4)
    picture = rng.random((32, 32, 3)).astype(np.float32)
    assert np.allclose(push_pull(picture, known)[known == 1], picture[known == 1], atol=1e-6)


def test_the_srgb_curve_is_the_standards() -> None:
    assert np.allclose(decode(np.array([0.5, 0.04045])), [0.21404114, 0.0031308], atol=1e-6)
    assert np.allclose(encode(decode(np.linspace(0, 1, 50))), np.linspace(0, 1, 50), atol=1e-5)


def test_typology_angle_of_known_colours() -> None:
    grey_blue = np.full((1, 4, 4, 3), 0.9, np.float32)
    grey_blue[..., 2] = 0.8
    dark = np.broadcast_to(np.array([0.25, 0.16, 0.12], np.float32), (1, 4, 4, 3))
    everywhere = np.ones((4, 4), bool)
    assert skin_angle(grey_blue, everywhere)[0] > 55
    assert skin_angle(dark, everywhere)[0] < -30


def regions(size: int) -> dict[str, np.ndarray]:
    names = ("brow cheek chin ear_left ear_right eyes face forehead jaw lips mouth_bag neck nose nostril scalp socket")
    masks = {name: np.zeros((size, size), np.float32) for name in names.split()}
    masks["face"][size // 8:-size // 8, size // 8:-size // 8] = 1
    masks["cheek"][size // 2:size * 5 // 8, size // 4:size * 3 // 4] = 1
    masks["scalp"][:size // 10] = 1
    masks["lips"][size * 6 // 8:size * 7 // 8, size * 3 // 8:size * 5 // 8] = 1
    return masks


def test_a_map_without_one_half_is_completed_from_the_other() -> None:
    rng = np.random.default_rng(2)
    picture = np.full((64, 64, 3), 0.5, np.float32) + 0.1 * rng.random((64, 1, 1)).astype(np.float32)
    damaged, valid = picture.copy(), np.ones((64, 64), bool)
    damaged[:, 40:], valid[:, 40:] = 0, False
    masks = regions(64)
    whole = fill_map(damaged, valid, masks, np.ones((64, 64), bool), 0)
    rows = slice(12, 52)
    assert np.abs(whole[rows, 44:60] - picture[rows, 44:60]).mean() < 0.01


def test_variation_is_repeatable_and_covers_light_and_dark_skin() -> None:
    from backend.texture.augment import Augmenter

    rng = np.random.default_rng(3)
    people = [SourceMap(str(i), "test", np.clip(tone + 0.05 * rng.random((64, 64, 3)), 0, 1).astype(np.float32),
                        np.ones((64, 64), np.float32)) for i, tone in enumerate(
                            (np.array([0.8, 0.6, 0.5]), np.array([0.6, 0.45, 0.35]), np.array([0.35, 0.22, 0.17])))]
    augmenter = Augmenter(people, regions(64))
    assert (augmenter.draw(5) == augmenter.draw(5)).all()
    green = np.array([np.median(augmenter.draw(i)[..., 1]) for i in range(60)])
    assert green.min() < 70 and green.max() > 160


def low_rank_images(count: int, rank: int, size: int = 128) -> torch.Tensor:
    torch.manual_seed(4)
    basis = torch.nn.functional.interpolate(torch.randn(rank, 3, 8, 8), (size, size), mode="bilinear")
    maps = torch.sigmoid(torch.einsum("nr,rchw->nchw", 0.4 * torch.randn(count, rank), basis))
    return (maps * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def test_codes_are_white_and_rebuild_the_maps() -> None:
    images = low_rank_images(60, 5)
    code, latents = fit_code(images, torch.ones(1, 1, 128, 128), latent=8, base=32)
    maps = as_maps(images)
    z = code.encode(maps)
    assert torch.allclose(z[:, :5], latents[:, :5], atol=0.02)
    assert torch.allclose(z[:, :5].T @ z[:, :5] / 60, torch.eye(5), atol=0.02)
    assert (code.decode(z) - maps).abs().mean() < 0.01
    assert features(maps[:1], torch.ones(1, 1, 128, 128), 32).shape == (1, 3 * (32**2 + 64**2) + 128**2)


def test_the_loss_of_a_constant_shift_is_known() -> None:
    target, weight = torch.full((1, 3, 32, 32), 0.35), torch.ones(1, 1, 32, 32)
    loss = reconstruction_loss(target + 0.1, target, weight, band_weight=2.0)
    assert torch.allclose(loss, torch.tensor(0.1 * 0.5 / (0.15 + 0.35)), atol=1e-6)


def test_a_killed_training_continues_as_if_nothing_had_happened(tmp_path) -> None:
    images = low_rank_images(24, 4).numpy()
    np.save(tmp_path / "maps.npy", images)
    spec = GeneratorSpec(latent=8, channels=(4, 4, 4, 4, 4, 4), linear_bands=(2, 2), place_maps=(1, 0))
    options = TrainOptions(spec=spec, stages=(Stage(64, 2, 2), Stage(128, 2, 2, adversarial=0.1)))
    data = MapSet([tmp_path / "maps.npy"])
    data.encode(fit_code(torch.from_numpy(images), torch.ones(1, 1, 128, 128), 8, 32)[0])
    weight, places = torch.ones(1, 1, 128, 128), torch.tensor([[0.0, 0.0], [1.0, 1.0]])

    def run(training: Training, steps: int) -> Training:
        for _ in range(steps):
            training.run_step(data, weight, places)
        return training

    whole = run(Training(options, "l"), 4)
    run(Training(options, "l"), 3).save(tmp_path / "s.safetensors")
    resumed = Training(options, "l")
    resumed.load(tmp_path / "s.safetensors")
    run(resumed, 1)
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.judge.parameters(), resumed.judge.parameters(), strict=True):
        assert torch.equal(a, b)
