# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the golden files out of the original packages; run by hand, in an environment of its own.

    pip install ai-edge-litert dlib-bin pillow scikit-image torch
    pip install --no-deps facenet-pytorch==2.6.0 face-alignment==1.5.0
    python tests/golden/make_goldens.py PART OUT.npz ASSETS     # PART: mediapipe | dlib | facenet | fan

ASSETS is the folder of the part's asset, or for dlib of the unpacked face_recognition_models.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
from seeded import seeded_image, seeded_weights


def mediapipe(folder: Path) -> dict[str, np.ndarray]:
    """LiteRT's outputs of the three networks for a seeded image."""
    from ai_edge_litert.interpreter import Interpreter

    golden = {}
    for path in sorted(folder.glob("*.tflite")):
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (entry,) = interpreter.get_input_details()
        interpreter.set_tensor(entry["index"], seeded_image(tuple(entry["shape"])))
        interpreter.invoke()
        for index, output in enumerate(interpreter.get_output_details()):
            golden[f"{path.stem}.{index}"] = interpreter.get_tensor(output["index"]).astype(np.float32)
    return golden


def dlib(folder: Path) -> dict[str, np.ndarray]:
    """dlib's five points and embedding of the astronaut, embeddings of noise, and where its chip comes from."""
    import dlib
    from skimage.data import astronaut

    models = next(folder.rglob("dlib_face_recognition_resnet_model_v1.dat")).parent
    network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
    predictor = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    photo = astronaut()
    shape = predictor(photo, max(dlib.get_frontal_face_detector()(photo, 1), key=lambda box: -box.top()))
    chip = dlib.get_face_chip(photo, shape, 150, 0.25)
    noise = (seeded_image((2, 150, 150, 3)) * 256).astype(np.uint8)
    ramps = [dlib.get_face_chip(ramp, shape, 150, 0.25)[..., :2] / 4.0 for ramp in _ramps(photo.shape)]
    return {
        "points": np.array([[part.x, part.y] for part in shape.parts()], np.float32),
        "embedding": np.array(network.compute_face_descriptor(chip), np.float32),
        "noise_embeddings": np.array([list(network.compute_face_descriptor(image)) for image in noise], np.float32),
        "chip_source": np.sum(ramps, 0)[4::47, 4::47].astype(np.float32),
    }


def _ramps(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Images whose first two channels sum up to 4 times the pixel's x and y, each step within 8 bits."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    position = np.stack([x, y, 0 * x], -1) * 4
    return [np.clip(position - 255 * step, 0, 255).astype(np.uint8) for step in range(shape[0] * 4 // 255 + 1)]


def facenet(folder: Path) -> dict[str, np.ndarray]:
    """The original InceptionResnetV1's embedding of seeded chips under seeded weights, without its torchvision."""
    import torch

    root = Path(importlib.util.find_spec("facenet_pytorch").submodule_search_locations[0])
    for name in ("facenet_pytorch", "facenet_pytorch.models"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root / "models") if name.endswith("models") else str(root)]
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

    network = _seed(InceptionResnetV1(), 1)
    with torch.no_grad():
        chip = torch.from_numpy(seeded_image((1, 3, 160, 160)))
        return {"embedding": network((chip * 255 - 127.5) / 128).numpy()}


def fan(folder: Path) -> dict[str, np.ndarray]:
    """The original FAN's heatmaps (every fourth pixel of every fourth) under seeded weights."""
    import torch

    root = Path(importlib.util.find_spec("face_alignment").submodule_search_locations[0])
    sys.modules["face_alignment"] = types.ModuleType("face_alignment")
    sys.modules["face_alignment"].__path__ = [str(root)]
    from face_alignment.models.fan import FAN

    network = _seed(FAN(4), 2)
    with torch.no_grad():
        heatmaps = network(torch.from_numpy(seeded_image((1, 3, 128, 128))))[-1]
    return {"heatmaps": heatmaps[:, ::4, ::4, ::4].numpy(), "mean": heatmaps.mean((2, 3)).numpy()}


def _seed(network, seed: int):  # noqa: ANN001, ANN202 - torch is imported only where it is needed
    import torch

    state = network.state_dict()
    weights = seeded_weights({name: tuple(value.shape) for name, value in state.items()}, seed)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.eval()


if __name__ == "__main__":
    part, output, assets = sys.argv[1:]
    arrays = {"mediapipe": mediapipe, "dlib": dlib, "facenet": facenet, "fan": fan}[part](Path(assets))
    np.savez_compressed(output, **arrays)
    print({name: array.shape for name, array in arrays.items()})
