# SPDX-License-Identifier: GPL-3.0-or-later
"""Baking, filling, variation, the linear code and the training loop of the texture generator."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from backend.networks.detector import FaceDetector
from backend.networks.landmarks import load_landmarks
from backend.options import Options
from backend.pipeline import Models, choose_device
from backend.texture.augment import BLOOD, MELANIN
from backend.texture.data import SourceMap, decode, encode, fill_map
from backend.texture.evaluate import skin_angle
from backend.texture.generator import Generator, GeneratorSpec, load_generator
from backend.texture.linear import (
    as_maps,
    features,
    fit_code,
    initialise,
    local_factors,
    set_grain,
    spread_matrix,
)
from backend.texture.portraits import MAX_GLASSES, Workshop, glasses_score, read_portrait, skin_tone
from backend.texture.train import (
    FaceFeatures,
    MapSet,
    Stage,
    Training,
    TrainOptions,
    bands,
    energy_loss,
    read_options,
    reconstruction_loss,
    train,
    varied,
)
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
    spec = GeneratorSpec(latent=8, channels=(4, 4, 4, 4, 4, 4), linear_bands=(2, 2), band_grid=(2, 3),
                         place_maps=(1, 0))
    options = TrainOptions(spec=spec, stages=(Stage(64, 2, 2), Stage(128, 2, 2, adversarial=0.1)))
    data = MapSet([tmp_path / "maps.npy"])
    code, _ = fit_code(torch.from_numpy(images), torch.ones(1, 1, 128, 128), 8, 32)
    weight, places = torch.ones(1, 1, 128, 128), torch.tensor([[0.0, 0.0], [1.0, 1.0]])

    def run(training: Training, steps: int) -> Training:
        for _ in range(steps):
            training.run_step(data, code, weight, places)
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


def test_linear_bands_explain_maps_that_are_linear_in_their_latents() -> None:
    torch.manual_seed(6)
    half = 0.15 * torch.randn(6, 3, 64, 32)
    half[1:] = half[1:, :1]  # details of one tint
    mix = torch.randn(200, 5)
    raw = -0.8 + torch.einsum("nk,kchw->nchw", torch.cat((torch.ones(200, 1), 0.4 * mix), 1),
                              torch.cat((half, half.flip(-1)), -1))
    maps = torch.exp(raw.clamp(max=-0.05))
    images = (maps * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    spec = GeneratorSpec(latent=5, channels=(4, 4, 4, 4, 4), linear_bands=(4,), band_grid=(3,), place_maps=(0,),
                         grain=(False,))
    generator = Generator(spec)
    before = (generator(mix) - maps).abs().mean()
    initialise(generator, mix, images, torch.ones(1, 1, 64, 64), {32: 5, 64: 5})
    assert (generator(mix) - maps).abs().mean() < 0.1 * before


def test_maps_that_count_differently_by_place_are_found_again() -> None:
    torch.manual_seed(10)
    line = spread_matrix(32, 3)
    assert torch.allclose(line[[0, 31]], torch.eye(3)[[0, 2]]) and torch.allclose(line.sum(1), torch.ones(32))
    nodes = torch.einsum("ya,xb->abyx", line, line).reshape(9, 32, 32)
    truth = torch.einsum("kgl,gyx,kyx->lyx", torch.randn(2, 9, 24), nodes, torch.randn(2, 32, 32)).reshape(24, -1)
    amounts, maps = local_factors(truth, torch.ones(32 * 32), 2, 3, rounds=40)
    made = torch.einsum("kgl,gyx,kyx->lyx", amounts.view(2, 9, 24), nodes, maps).reshape(24, -1)
    left = (made - truth).square().sum() / truth.square().sum()
    leading = torch.linalg.svdvals(truth).square()
    assert left < 0.01 < leading[2:].sum() / leading.sum(), "two global maps would do as well"


def test_energy_is_blind_to_place_and_sees_strength() -> None:
    torch.manual_seed(11)
    flat, weight = torch.full((1, 3, 256, 256), 0.4), torch.ones(1, 1, 256, 256)
    grain = 0.05 * torch.randn(2, 1, 1, 256, 256)
    same, half = (energy_loss(flat + grain[0], flat + g, weight) for g in (grain[1], 0.5 * grain[1]))
    assert energy_loss(flat + grain[0], flat + grain[0], weight) == 0
    assert same < 0.4 * half  # 16 to 64 texels a place: the root mean square itself varies by 6 to 12 %


def test_the_network_judges_a_face_by_its_features() -> None:
    features = FaceFeatures()
    maps = as_maps(low_rank_images(2, 5, 256))
    assert features.distance(maps, maps) == 0
    outside = maps.clone()
    outside[:, :, :40] = 0
    assert features.distance(outside, maps) == 0, "the scalp is no part of the face"
    drawn = maps[:1].clone().requires_grad_(True)
    features.distance(drawn, maps[1:]).backward()
    assert drawn.grad.abs().amax((0, 1))[60:220, 50:200].min() > 0


def octave(count: int, side: int) -> torch.Tensor:
    """Noise (count, side, side) of standard deviation 1 that has nothing below its own octave."""
    noise = torch.randn(count, 1, side, side)
    coarse = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(noise, 2), scale_factor=2, mode="bilinear")
    return ((noise - coarse) / (noise - coarse).std())[:, 0]


def test_grain_follows_the_detail_below_it() -> None:
    """People whose skin is rough in one octave are rough in the next: grain has to come out as strong, person by
    person, at latents that were in no fit too."""
    torch.manual_seed(7)
    latents, below = torch.randn(240, 30), octave(1, 64)
    roughness = (0.06 + 0.015 * latents[:, 0].clamp(-2, 2))[:, None, None]
    finer = torch.nn.functional.interpolate(below[None], (128, 128), mode="bilinear")[0]
    raw = -0.9 + roughness * finer + 0.6 * roughness * octave(240, 128)
    images = (255 * raw.exp()).round().byte()[..., None].expand(-1, -1, -1, 3).contiguous()
    spec = GeneratorSpec(latent=30, channels=(4, 4, 4, 4, 4, 4), linear_bands=(4, 3), band_grid=(2, 2),
                         place_maps=(0, 0), grain=(False, True))
    generator = Generator(spec)
    fitted = slice(0, 200)
    initialise(generator, latents[fitted], images[fitted], torch.ones(1, 1, 128, 128), {32: 30, 64: 8, 128: 2})
    before = generator(latents).detach()
    set_grain(generator, latents[fitted], images[fitted], torch.ones(200, 1, 128, 128), 128, octave(1, 128)[0])
    made, wanted = (bands(maps, 1)[0].mean(1).std((1, 2)) for maps in (generator(latents).detach(), as_maps(images)))
    ratio, old = (made / wanted)[200:], (bands(before, 1)[0].mean(1).std((1, 2)) / wanted)[200:]
    assert old.mean() < 0.7, "there was nothing for the grain to do"
    assert 0.9 < ratio.mean() < 1.1 and ratio.std() < 0.1


def test_the_fit_does_not_descend_on_grain() -> None:
    generator = load_generator()
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    band = generator.band(512)
    below = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(4)).requires_grad_(True)
    assert float((band(z, below) - band.smooth(z)).detach().abs().mean()) > 0
    (band(z, below) - band.smooth(z)).sum().backward()
    assert below.grad is None and float(z.grad.abs().max()) == 0


def test_variation_in_training_keeps_detail_and_moves_the_pigments() -> None:
    maps = torch.rand(16, 3, 8, 8) * 0.3 + 0.3
    same = varied(maps, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(same.sort(-1).values, maps.sort(-1).values, atol=1e-3), "more than a mirror"
    assert 0 < ((same - maps).abs().amax((1, 2, 3)) > 0.01).sum() < 16
    even = (torch.rand(16, 3, 1, 1) * 0.1 + 0.1).expand(-1, -1, 8, 8)
    shift = torch.log(varied(even, 0.1, torch.Generator().manual_seed(0)) / even)[..., 0, 0]
    apart = torch.linalg.cross(torch.from_numpy(MELANIN), torch.from_numpy(BLOOD))
    assert shift.abs().mean() > 0.01
    assert (shift @ apart / apart.norm()).abs().max() < 1e-3, "a colour that is neither melanin's nor blood's"


def test_a_folder_of_pictures_is_enough_to_train(tmp_path) -> None:
    rng = np.random.default_rng(8)
    (tmp_path / "maps").mkdir()
    for i in range(3):
        tone = np.array([0.7, 0.5, 0.4]) * (0.5 + 0.25 * i)
        coarse = np.kron(rng.random((16, 16, 1)), np.ones((32, 32, 1)))
        picture = (255 * np.clip(tone * (0.9 + 0.2 * coarse), 0, 1)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "maps" / f"{i}.png")
    spec = GeneratorSpec(latent=12, channels=(4,) * 8, linear_bands=(3, 3, 3, 3), band_grid=(3, 3, 3, 2),
                         place_maps=(1, 0, 0, 0))
    options = TrainOptions(textures=tmp_path / "maps", out=tmp_path / "run", spec=spec, stages=(Stage(64, 2, 2),),
                           maps_256=16, maps_512=4, snapshot_every=2, threads=1)
    train(options, report=lambda _: None)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"generator.safetensors", "snapshot.safetensors", "losses.png", "samples_000002.png"} <= names
    assert read_options(tmp_path / "run" / "options.json", seed=5).stages == (Stage(64, 2, 2),)


def test_spectacles_are_seen_and_bare_faces_are_not() -> None:
    size = 256
    rows, columns = np.mgrid[:size, :size]
    eyes = np.minimum(*(np.hypot((rows - 100) / 6, (columns - x) / 14) for x in (85, 171)))
    masks = {"socket": (eyes < 1).astype(np.float32)}
    bare = 0.02 * np.random.default_rng(9).standard_normal((size, size)) - 2 * np.exp(-2 * (eyes - 1).clip(0))
    distance = ndimage.distance_transform_edt(eyes >= 1)
    worn = bare.copy()
    worn[94:97, 50:206] -= 0.6
    worn[(distance > 13) & (distance < 16)] -= 0.6
    assert glasses_score(worn, masks) > MAX_GLASSES > glasses_score(bare, masks)


def test_skin_tone_of_a_usual_photo_is_light_skin_and_tint_is_drawn_to_the_line() -> None:
    locus = [np.array([0.7, 0.35]), np.array([1.0, 0.0]), np.array([1.16, -0.3])]
    usual = np.array([-0.6, -1.5, -1.9])
    tone = skin_tone(usual, usual, -1.15, locus)
    assert np.allclose(tone, [np.polyval(line, -1.15) for line in locus])
    bluish = skin_tone(usual + [0, 0, 0.3], usual, -1.15, locus)
    assert 0 < bluish[2] - tone[2] < 0.2
    assert skin_tone(usual - 0.5, usual, -1.15, locus)[1] < -1.6


def test_a_portrait_is_read_and_its_mirror_image_the_same_way(astronaut: Path, tmp_path: Path) -> None:
    """From a photo to a map, as a training set is made: what lies left in the photo lies left in the map."""
    person = Models().person(Options(), choose_device("cpu"))
    with torch.no_grad():
        drawn = person.generator(torch.randn(3, 512, generator=torch.Generator().manual_seed(1)) * 0.3, 256)
    sources = [SourceMap(f"drawn {i}", "avatar", m.permute(1, 2, 0).clamp(0.02, 1).numpy(), np.ones((256, 256)))
               for i, m in enumerate(drawn)]
    shop = Workshop(person, sources, FaceDetector(), load_landmarks("mediapipe"))
    mirrored = tmp_path / "mirrored.png"
    with Image.open(astronaut) as photo:
        photo.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    one, other = read_portrait(shop, astronaut), read_portrait(shop, mirrored)
    assert one.report["yaw"] == pytest.approx(-other.report["yaw"], abs=3)
    assert np.abs(one.photo_tone - other.photo_tone).max() < 0.1
    both = (np.minimum(one.weight, other.weight[:, ::-1]) > 0.5) & (shop.regions["face"] > 0.5)
    assert both.mean() > 0.15
    own, flipped = (p.detail.mean(-1) for p in (one, other))
    alike = np.corrcoef(own[both], flipped[:, ::-1][both])[0, 1]
    assert alike > 0.9 and alike > np.corrcoef(own[both], flipped[both])[0, 1] + 0.1
