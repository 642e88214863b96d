# SPDX-License-Identifier: GPL-3.0-or-later
"""The texture generator: shapes, cost, growing, files, and what the shipped weights draw."""
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from backend.errors import GanfitError
from backend.texture.generator import DEFAULT_WEIGHTS, Generator, GeneratorSpec, load_generator, save_generator

SMALL = GeneratorSpec(latent=16, channels=(8, 8, 8, 8, 8, 8), linear_bands=(2, 2), band_grid=(2, 3),
                      place_maps=(2, 0))


def lively(spec: GeneratorSpec, seed: int = 0) -> Generator:
    """A generator whose every parameter takes part (the trained ones start at zero)."""
    torch.manual_seed(seed)
    generator = Generator(spec, "layout")
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return generator.eval()


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_maps_have_the_asked_size_and_are_albedo(resolution: int) -> None:
    maps = lively(SMALL)(torch.randn(2, 16), resolution)
    assert maps.shape == (2, 3, resolution, resolution)
    assert 0 < maps.min() and maps.max() <= 1


def test_an_unknown_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution"):
        lively(SMALL)(torch.zeros(1, 16), 96)


def test_a_faded_out_resolution_shows_the_one_below() -> None:
    generator, z = lively(SMALL), torch.randn(1, 16)
    below = F.interpolate(generator.raw(z, 64), scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(generator.raw(z, 128, fade=0.0), below, atol=1e-5)
    assert not torch.allclose(generator.raw(z, 128, fade=1.0), below, atol=1e-2)


def test_cost_is_what_torch_counts_and_within_three_gmac() -> None:
    generator = Generator()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.zeros(1, 512))
    counted = counter.get_total_flops() / 2
    assert abs(generator.macs() / counted - 1) < 0.03
    assert generator.macs() <= 3e9


def test_the_closed_form_start_finds_the_latent_of_a_linear_generator() -> None:
    generator = Generator(SMALL)
    with torch.no_grad():
        generator.base.normal_(0, 0.05)
        generator.base_mean.fill_(-0.8)
    z = torch.randn(3, 16)
    with torch.no_grad():
        maps = generator(z, 32)
    half = torch.ones(3, 1, 32, 32)
    half[..., 16:] = 0
    assert torch.allclose(generator.solve_latent(maps, half, prior=1e-6), z, atol=1e-2)


def test_the_closed_form_start_sees_the_bands_at_their_resolution() -> None:
    generator = Generator(SMALL)
    with torch.no_grad():
        generator.base_mean.fill_(-0.8)
        generator.band(64).maps.normal_(0, 0.1)
        generator.band(64).weight.normal_(0, 0.3)
    z = 0.3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = generator(z, 64)
    weak = generator.solve_latent(maps, prior=1e-6)
    found = generator.solve_latent(maps, prior=1e-6, resolution=64)
    with torch.no_grad():
        assert (generator(found, 64) - maps).abs().mean() < 0.05 * (generator(weak, 64) - maps).abs().mean()


def test_gradients_reach_the_latent_at_every_resolution() -> None:
    generator = lively(SMALL)
    for resolution in (32, 64, 128):
        z = torch.randn(1, 16, requires_grad=True)
        generator(z, resolution).mean().backward()
        assert z.grad is not None and z.grad.abs().max() > 0


def test_a_saved_generator_comes_back_and_another_layout_is_refused(tmp_path) -> None:
    generator, path = lively(SMALL), tmp_path / "g.safetensors"
    save_generator(generator, path)
    loaded, z = load_generator(path, layout_id="layout"), torch.randn(1, 16)
    assert torch.allclose(loaded(z), generator(z), atol=5e-3)
    with pytest.raises(GanfitError) as error:
        load_generator(path, layout_id="other")
    assert error.value.code == "layout_mismatch"
    path.write_bytes(b"not a generator")
    with pytest.raises(GanfitError) as error:
        load_generator(path)
    assert error.value.code == "generator_invalid"
    with pytest.raises(GanfitError) as error:
        load_generator(tmp_path / "none.safetensors")
    assert error.value.code == "generator_missing"


@pytest.fixture(scope="module")
def shipped() -> Generator:
    return load_generator()


def test_the_shipped_weights_are_small_and_belong_to_the_heads_layout(shipped: Generator) -> None:
    from backend.head.uv_layout import load_layout

    assert DEFAULT_WEIGHTS.stat().st_size <= 12_000_000
    assert shipped.layout_id == load_layout()[2]
    assert len(shipped.sha256) == 64


def test_samples_are_different_people_of_light_and_dark_skin(shipped: Generator) -> None:
    with torch.no_grad():
        maps = torch.cat([shipped(z, 64) for z in shipped.sample_latent(100, 11).split(25)])
    flat = maps.flatten(1)
    distance = torch.cdist(flat, flat, p=1) / flat.shape[1]
    distance.fill_diagonal_(9.0)
    assert distance.min() > 0.01, "two of the samples are the same person"
    green = maps[:, 1].median(-1).values.median(-1).values
    assert green.min() < 0.25 and green.max() > 0.6, "skin tone covers only a part of the range"


def test_samples_are_as_symmetric_as_faces_and_end_without_a_seam(shipped: Generator) -> None:
    with torch.no_grad():
        maps = torch.cat([shipped(z, 256) for z in shipped.sample_latent(16, 12).split(4)])
    assert (maps - maps.flip(-1)).abs().mean() < 0.06
    edge = torch.cat((maps[:, :, 0], maps[:, :, -1]), -1)
    assert (edge[..., 1:] - edge[..., :-1]).abs().mean() < 0.02
