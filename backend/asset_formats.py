# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the files inside downloaded archives into safetensors and npz, without pickle.

Each `convert_*` function works in place on the folder that holds the unpacked members.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from backend.errors import GanfitError

DLIB_BLOCKS: tuple[tuple[int, bool], ...] = (
    *((32, False),) * 3,
    (64, True),
    *((64, False),) * 3,
    (128, True),
    *((128, False),) * 2,
    (256, True),
    *((256, False),) * 2,
    (256, True),
)
"""(channels, halves the resolution) of the residual blocks of dlib's face recognition network, input to output."""

ICT_KEYS = ("neutral", "identity", "identity_names", "expression", "expression_names", "faces", "uv", "uv_faces")


# --- dlib's face recognition network ----------------------------------------------------------------------------------


def convert_dlib_resnet(folder: Path) -> None:
    """`dlib_face_recognition_resnet_model_v1.dat` -> `dlib_resnet.safetensors` (float32, see `dlib_tensors`)."""
    source = folder / "dlib_face_recognition_resnet_model_v1.dat"
    save_file(dlib_tensors(source.read_bytes()), folder / "dlib_resnet.safetensors")
    source.unlink()


def dlib_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The weights in dlib's serialised network, each convolution merged with the affine layer that follows it.

    The first convolution also absorbs the input's normalisation, so the network takes RGB in [0, 1].

    Returns:
        `convs.<i>.weight` (out, in, k, k) and `.bias` (out,) from input to output, `embedding.weight` (128, 256).
    """
    mean, layers = _read_dlib_layers(data)
    channels = [(3, 32, 7)]
    for width, _ in DLIB_BLOCKS:
        channels += [(channels[-1][1], width, 3), (width, width, 3)]
    kinds = ["con_4", "affine_"] * len(channels) + ["fc_2"]
    if [kind for kind, _ in layers] != kinds:
        raise GanfitError("asset_damaged", "The dlib network does not have the layers that are expected.")
    tensors: dict[str, np.ndarray] = {}
    for index, (inputs, outputs, size) in enumerate(channels):
        params = layers[2 * index][1].astype(np.float64)
        gain, shift = layers[2 * index + 1][1].astype(np.float64).reshape(2, outputs)
        weight = params[: -outputs or None].reshape(outputs, inputs, size, size)
        bias = params[-outputs:]
        if index == 0:  # (255 x - mean) / 256
            bias = bias - np.einsum("oikl,i->o", weight, mean) / 256
            weight = weight * (255 / 256)
        tensors[f"convs.{index}.weight"] = (weight * gain[:, None, None, None]).astype(np.float32)
        tensors[f"convs.{index}.bias"] = (bias * gain + shift).astype(np.float32)
    tensors["embedding.weight"] = np.ascontiguousarray(layers[-1][1].reshape(256, 128).T)
    return tensors


def _read_dlib_layers(data: bytes) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """(mean colour (3,), [(layer tag, flat float32 parameters)]) from input to output.

    dlib writes nested templates, innermost (the input) first. Each layer that has parameters starts with its tag as a
    serialised string, followed by its parameter tensor; what lies between is of no use for inference and is skipped.
    """
    tag = b"input_rgb_image_sized"
    position = data.index(tag) + len(tag)
    mean = []
    for _ in range(3):
        mantissa, position = _dlib_integer(data, position)
        exponent, position = _dlib_integer(data, position)
        mean.append(mantissa * 2.0**exponent)
    layers = []
    tags = {bytes([1, len(name)]) + name.encode(): name for name in ("con_4", "affine_", "fc_2")}
    while True:
        hits = [(at, mark) for mark in tags if (at := data.find(mark, position)) >= 0]
        if not hits:
            return np.array(mean), layers
        at, mark = min(hits)
        position = at + len(mark)
        if tags[mark] == "fc_2":  # number of outputs and inputs come first
            _, position = _dlib_integer(data, position)
            _, position = _dlib_integer(data, position)
        values, position = _dlib_tensor(data, position)
        layers.append((tags[mark], values))


def _dlib_integer(data: bytes, position: int) -> tuple[int, int]:
    """dlib's integers: a byte with the sign (bit 7) and the number of bytes that follow, little-endian."""
    control = data[position]
    end = position + 1 + (control & 0x0F)
    value = int.from_bytes(data[position + 1 : end], "little")
    return (-value if control & 0x80 else value), end


def _dlib_tensor(data: bytes, position: int) -> tuple[np.ndarray, int]:
    """dlib's tensors, version 2: four sizes, then float32."""
    version, position = _dlib_integer(data, position)
    if version != 2:
        raise GanfitError("asset_damaged", f"The dlib network holds a tensor of unknown version {version}.")
    count = 1
    for _ in range(4):
        size, position = _dlib_integer(data, position)
        count *= size
    return np.frombuffer(data, "<f4", count, position), position + 4 * count


# --- ICT-FaceKit ------------------------------------------------------------------------------------------------------


def convert_ict(folder: Path) -> None:
    """ICT-FaceKit's `.obj` files -> `ict.npz`; displacements in float16 (error below 0.01 mm), centimetres.

    Keys: `neutral` (V, 3) f32, `identity` (100, V, 3) f16, `expression` (E, V, 3) f16, their `_names`, `faces` (F, 4)
    and `uv_faces` (F, 4) i32 (a triangle has -1 last), `uv` (T, 2) f32, `face_material` (F,) i8, `material_names`.
    """
    arrays = _read_obj(folder / "generic_neutral_mesh.obj")
    neutral = arrays["neutral"]
    names = sorted(path.stem for path in folder.glob("*.obj") if path.stem != "generic_neutral_mesh")
    for kind in ("identity", "expression"):
        chosen = [name for name in names if name.startswith("identity") == (kind == "identity")]
        deltas = [_read_positions(folder / f"{name}.obj") - neutral for name in chosen]
        arrays[kind] = np.stack(deltas).astype(np.float16)
        arrays[f"{kind}_names"] = np.array(chosen)
    _check_ict(arrays)
    np.savez_compressed(folder / "ict.npz", **arrays)
    for path in folder.glob("*.obj"):
        path.unlink()


def take_ict_npz(file: Path, folder: Path) -> None:
    """Checks a local npz with the keys of `convert_ict` and copies it to `folder/ict.npz`."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            _check_ict({key: stored[key] for key in ICT_KEYS})
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise GanfitError("asset_damaged", f"{file.name} is not an npz of ICT-FaceKit: {error}.") from error
    (folder / "ict.npz").write_bytes(file.read_bytes())


def _check_ict(arrays: dict[str, np.ndarray]) -> None:
    vertices = len(arrays["neutral"])
    expected = {
        "neutral": (vertices, 3),
        "identity": (len(arrays["identity_names"]), vertices, 3),
        "expression": (len(arrays["expression_names"]), vertices, 3),
        "faces": (len(arrays["faces"]), 4),
        "uv_faces": (len(arrays["faces"]), 4),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise ValueError(f"{key} has shape {arrays[key].shape}, not {shape}")
    for key in ("neutral", "identity", "expression", "uv"):
        if not np.isfinite(arrays[key]).all():
            raise ValueError(f"{key} holds values that are not finite")
    if arrays["faces"].max() >= vertices or arrays["uv_faces"].max() >= len(arrays["uv"]):
        raise ValueError("a face refers to a vertex that is not there")


def _read_positions(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8") as stream:
        rows = [line.split()[1:4] for line in stream if line.startswith("v ")]
    return np.array(rows, np.float32)


def _read_obj(path: Path) -> dict[str, np.ndarray]:
    uv, faces, uv_faces, material, materials = [], [], [], [], []
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith("vt "):
                uv.append(line.split()[1:3])
            elif line.startswith("usemtl "):
                materials.append(line.split()[1])
            elif line.startswith("f "):
                corners = [corner.split("/") for corner in line.split()[1:]]
                padding = [-1] * (4 - len(corners))
                faces.append([int(corner[0]) - 1 for corner in corners] + padding)
                uv_faces.append([int(corner[1]) - 1 for corner in corners] + padding)
                material.append(len(materials) - 1)
    order = sorted(materials)
    return {
        "neutral": _read_positions(path),
        "faces": np.array(faces, np.int32),
        "uv": np.array(uv, np.float32),
        "uv_faces": np.array(uv_faces, np.int32),
        "face_material": np.array([order.index(materials[index]) for index in material], np.int8),
        "material_names": np.array(order),
    }


# --- torch checkpoints ------------------------------------------------------------------------------------------------


def convert_facenet(folder: Path) -> None:
    """facenet-pytorch's VGGFace2 state dict -> `facenet.safetensors`, without the classifier."""
    _convert_state_dict(next(folder.glob("*.pt")), folder / "facenet.safetensors", drop="logits.")


def convert_fan(folder: Path) -> None:
    """face-alignment's 2DFAN-4 state dict -> `fan.safetensors`."""
    _convert_state_dict(next(folder.glob("*.tar")), folder / "fan.safetensors")


def _convert_state_dict(source: Path, target: Path, drop: str | None = None) -> None:
    import torch  # only these two need it, and it takes a second
    from safetensors.torch import save_file as save_torch

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything here, down to UnpicklingError and KeyError
        raise GanfitError("asset_damaged", f"{source.name} is not a plain state dict: {error}.") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise GanfitError("asset_damaged", f"{source.name} is not a plain state dict.")
    state = {key.removeprefix("module."): value.contiguous().clone() for key, value in state.items()}
    state = {key: value for key, value in state.items() if not (drop and key.startswith(drop))}
    save_torch(state, target)
    source.unlink()
