# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks against the original packages' outputs (tests/golden/make_goldens.py made them)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import assets
from backend.errors import GanfitError
from backend.networks.crop import apply_transform, crop_photo
from backend.networks.facemesh import FaceMesh
from backend.networks.fan import Fan, heatmap_points
from backend.networks.identity import DlibIdentity, load_identity
from backend.networks.landmarks import load_landmarks
from backend.networks.tflite_graph import TfliteGraph

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from seeded import seeded_image, seeded_weights  # noqa: E402


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def tflite_network(name: str) -> TfliteGraph:
    return TfliteGraph(assets.require("mediapipe") / f"{name}.tflite")


def seeded_chip(shape: tuple[int, ...]) -> torch.Tensor:
    """The golden's uint8 noise (B, H, W, 3) as the network's input (B, 3, H, W)."""
    noise = (seeded_image(shape) * 256).astype(np.uint8)
    return torch.from_numpy(noise).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", ["face_detection_short_range", "face_landmark", "iris_landmark"])
def test_tflite_networks_equal_litert(name: str) -> None:
    network, expected = tflite_network(name), golden("mediapipe")
    image = torch.from_numpy(seeded_image((1, *network.input_size, 3))).permute(0, 3, 1, 2)
    for index, output in enumerate(network(image)):
        want = expected[f"{name}.{index}"]
        assert output.shape == want.shape
        assert np.abs(output.numpy() - want).max() < 1e-3, "pixels and logits"


def test_tflite_networks_take_batches() -> None:
    network = tflite_network("face_detection_short_range")
    images = torch.rand(3, 3, 128, 128)
    together = network(images)
    for index in range(3):
        for batch, single in zip(together, network(images[index : index + 1]), strict=True):
            assert torch.allclose(batch[index : index + 1], single, atol=1e-3)


def test_landmark_gradient_equals_finite_differences() -> None:
    mesh = FaceMesh().double()
    y, x = torch.meshgrid(torch.linspace(0, 6, 192), torch.linspace(0, 6, 192), indexing="ij")
    base = (0.5 + 0.25 * torch.stack([torch.sin(x), torch.cos(y), torch.sin(x + y)]))[None].double()
    pattern = torch.stack([torch.cos(x * 2), torch.sin(x * y / 3), torch.cos(y)])[None].double()
    weight = torch.from_numpy(seeded_image((1, 468, 3), 3)).double()

    def loss(amount: torch.Tensor) -> torch.Tensor:
        return (mesh(base + amount * pattern)[0] * weight).sum()

    amount = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(amount), amount)
    with torch.no_grad():
        numeric = (loss(amount + 1e-8) - loss(amount - 1e-8)) / 2e-8  # the networks are piecewise: stay in one piece
    assert abs(gradient) > 1
    assert gradient == pytest.approx(float(numeric), rel=1e-4)


def test_dlib_embeddings_equal_dlib() -> None:
    embedding, activations = DlibIdentity()(seeded_chip((2, 150, 150, 3)))
    assert np.abs(embedding.numpy() - golden("dlib")["noise_embeddings"]).max() < 1e-5
    assert [value.shape[1] for value in activations] == [32, 64, 128, 256]


def test_dlib_chip_lies_where_dlib_cuts_it(astronaut: Path) -> None:
    expected = golden("dlib")
    points = torch.from_numpy(expected["points"] + 0.5)[None]  # dlib's pixel centres are whole numbers
    transform = DlibIdentity().chip_transform(points)
    y, x = np.mgrid[4:150:47, 4:150:47]
    centres = torch.from_numpy(np.stack([x, y], -1).reshape(1, -1, 2)).float() + 0.5
    found = apply_transform(transform, centres)[0].reshape(4, 4, 2) - 0.5
    assert np.abs(found.numpy() - expected["chip_source"]).max() < 0.75  # dlib truncates to 8 bits and quarter pixels


def test_astronaut_is_recognised_as_by_dlib(astronaut: Path) -> None:
    from PIL import Image

    expected = golden("dlib")
    network = DlibIdentity()
    photo = np.asarray(Image.open(astronaut).convert("RGB"))
    transform = network.chip_transform(torch.from_numpy(expected["points"] + 0.5)[None])[0]
    embedding, _ = network(crop_photo(photo, transform, network.chip_size))
    reference = torch.from_numpy(expected["embedding"])[None]
    assert float((embedding - reference).norm()) < 0.1, "dlib's threshold for the same person is 0.6"
    assert float(network.similarity(embedding, reference)) > 0.98


def test_identity_gradient_equals_finite_differences() -> None:
    network = DlibIdentity().double()
    chip = torch.nn.functional.interpolate(seeded_chip((1, 10, 10, 3)).double(), size=150, mode="bicubic")
    direction = torch.nn.functional.interpolate(seeded_chip((1, 8, 8, 3)).double() - 0.5, size=150, mode="bicubic")

    def loss(amount: torch.Tensor) -> torch.Tensor:
        embedding, activations = network(chip + amount * direction)
        return embedding[:, :9].sum() + sum(value.square().mean() for value in activations)

    amount = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(amount), amount)
    with torch.no_grad():
        numeric = (loss(amount + 1e-8) - loss(amount - 1e-8)) / 2e-8  # the networks are piecewise: stay in one piece
    assert gradient == pytest.approx(float(numeric), rel=1e-4)


def test_similarity_is_the_cosine_of_centred_embeddings() -> None:
    network = DlibIdentity()
    away = torch.zeros(1, 128)
    away[0, 0] = 1.0
    assert float(network.similarity(network.mean + away, network.mean + 3 * away)) == pytest.approx(1)
    assert float(network.similarity(network.mean + away, network.mean - away)) == pytest.approx(-1)


def test_facenet_equals_facenet_pytorch_under_seeded_weights() -> None:
    from backend.networks.facenet import FacenetIdentity, _InceptionResnet

    shapes = {name: tuple(value.shape) for name, value in _InceptionResnet().state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes, 1).items()}
    embedding, activations = FacenetIdentity(weights)(torch.from_numpy(seeded_image((1, 3, 160, 160))))
    assert np.abs(embedding.numpy() - golden("facenet")["embedding"]).max() < 1e-5
    assert [value.shape[1] for value in activations] == [256, 896, 1792]


def test_fan_equals_face_alignment_under_seeded_weights() -> None:
    network = Fan().eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in seeded_weights(shapes, 2).items()})
    with torch.no_grad():
        heatmaps = network(torch.from_numpy(seeded_image((1, 3, 128, 128))))
    expected = golden("fan")
    scale = np.abs(expected["heatmaps"]).max()
    assert np.abs(heatmaps[:, ::4, ::4, ::4].numpy() - expected["heatmaps"]).max() < 1e-4 * scale
    assert np.abs(heatmaps.mean((2, 3)).numpy() - expected["mean"]).max() < 1e-4 * scale


def test_heatmap_points_find_the_centres_of_gaussians() -> None:
    centres = torch.tensor([[20.3, 31.8], [5.5, 60.0], [40.0, 12.25]])
    pixels = torch.arange(64) + 0.5
    squared = (pixels - centres[:, :1, None]) ** 2 + (pixels[:, None] - centres[:, 1:, None]) ** 2
    heatmaps = torch.exp(-squared / (2 * 0.7**2))[None].requires_grad_()
    points, peaks = heatmap_points(heatmaps)
    assert (points[0] - centres).abs().max() < 0.05
    assert peaks.min() > 0.6
    (gradient,) = torch.autograd.grad(points.sum(), heatmaps)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["facenet", "fan"])
def test_networks_that_are_not_installed_say_how_to_install_them(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GANFIT_CACHE", str(tmp_path))
    with pytest.raises(GanfitError) as caught:
        load_identity(name) if name == "facenet" else load_landmarks(name)
    assert caught.value.code == "asset_missing"
    assert f"assets install {name}" in caught.value.hint


def test_unknown_networks_are_refused() -> None:
    for load in (load_identity, load_landmarks):
        with pytest.raises(GanfitError, match="bad_option"):
            load("arcface")
