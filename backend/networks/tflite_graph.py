# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a `.tflite` network of convolutions as a torch module, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tflite
import torch
import torch.nn.functional as F
from tflite.BuiltinOperator import BuiltinOperator
from torch import Tensor, nn

from backend.errors import GanfitError

_OPERATORS = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}
_ACTIVATIONS: dict[int, Callable[[Tensor], Tensor] | None] = {0: None, 1: F.relu, 3: F.relu6}


class TfliteGraph(nn.Module):
    """A float network read from a TensorFlow Lite flatbuffer.

    The graph is built once: weights become buffers in torch's layout (float32, whatever the file stores), paddings are
    computed from the file's shapes, and the forward pass is a fixed list of torch calls in NCHW. Operators: the ones
    that MediaPipe's detector, face mesh and iris networks use; another one is refused with its name.

    Args:
        path: the `.tflite` file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = tflite.Model.GetRootAs(bytearray(path.read_bytes()), 0)
        graph = model.Subgraphs(0)
        self._shapes = [_shape(graph.Tensors(i)) for i in range(graph.TensorsLength())]
        self._constants = _constants(model, graph, self._shapes)
        self._inputs = [int(i) for i in graph.InputsAsNumpy()]
        self._outputs = [int(i) for i in graph.OutputsAsNumpy()]
        self.input_size = tuple(self._shapes[self._inputs[0]][1:3])
        self._steps: list[tuple[Callable[..., Tensor], tuple[int, ...], int]] = []
        for index in range(graph.OperatorsLength()):
            self._add(model, graph.Operators(index))
        self._release = self._last_uses()
        self.to(memory_format=torch.channels_last)  # a third faster than contiguous, forward and backward

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, C, H, W) float32, of the file's size -> the file's outputs, each (B, ...) in its layout (NHWC)."""
        values: dict[int, Tensor] = {self._inputs[0]: image.contiguous(memory_format=torch.channels_last)}
        for (step, sources, target), done in zip(self._steps, self._release, strict=True):
            values[target] = step(*(values[source] for source in sources))
            for source in done:
                del values[source]
        return [_to_nhwc(values[i]) for i in self._outputs]

    def _last_uses(self) -> list[list[int]]:
        """For each step the values that nobody reads afterwards: keeps memory low without gradients."""
        release: list[list[int]] = [[] for _ in self._steps]
        seen = set(self._outputs)
        for index in reversed(range(len(self._steps))):
            for source in set(self._steps[index][1]) - seen:
                release[index].append(source)
                seen.add(source)
        return release

    def _add(self, model: tflite.Model, operator: tflite.Operator) -> None:
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        sources = [int(i) for i in operator.InputsAsNumpy()]
        target = int(operator.OutputsAsNumpy()[0])
        if name == "DEQUANTIZE" and sources[0] in self._constants:  # float16 weights, widened when read
            self._constants[target] = self._constants[sources[0]]
            return
        build = getattr(self, f"_build_{name.lower()}", None)
        if build is None:
            raise GanfitError("asset_damaged", f"The network uses the operator {name}, which is not supported.")
        step = build(operator, sources, target)
        inputs = tuple(source for source in sources if source not in self._constants)
        self._steps.append((step, inputs, target))

    def _buffer(self, tensor: int, axes: tuple[int, ...] | None = None) -> str:
        """Registers a constant as a buffer, its axes permuted, and returns the name."""
        name = f"t{tensor}"
        value = self._constants[tensor]
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value.transpose(axes) if axes else value)))
        return name

    def _build_conv_2d(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        return self._convolution(_options(operator, tflite.Conv2DOptions), sources, (0, 3, 1, 2), depthwise=False)

    def _build_depthwise_conv_2d(self, operator: tflite.Operator, sources: list[int], target: int):
        return self._convolution(
            _options(operator, tflite.DepthwiseConv2DOptions), sources, (3, 0, 1, 2), depthwise=True
        )

    def _convolution(
        self, options: tflite.Conv2DOptions, sources: list[int], axes: tuple[int, ...], depthwise: bool
    ) -> Callable[..., Tensor]:
        weight, bias = self._buffer(sources[1], axes), self._buffer(sources[2])
        stride = (options.StrideH(), options.StrideW())
        kernel = getattr(self, weight).shape[2:]
        symmetric, explicit = _padding(options.Padding(), self._shapes[sources[0]][1:3], kernel, stride)
        activation = _ACTIVATIONS[options.FusedActivationFunction()]
        groups = getattr(self, weight).shape[0] if depthwise else 1

        def run(image: Tensor) -> Tensor:
            if explicit:
                image = F.pad(image, explicit)
            out = F.conv2d(image, getattr(self, weight), getattr(self, bias), stride, symmetric, groups=groups)
            return activation(out) if activation else out

        return run

    def _build_max_pool_2d(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        options = _options(operator, tflite.Pool2DOptions)
        kernel, stride = (options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW())
        symmetric, explicit = _padding(options.Padding(), self._shapes[sources[0]][1:3], kernel, stride)
        if explicit:
            raise GanfitError("asset_damaged", "The network pools over a padded border, which is not supported.")
        return lambda image: F.max_pool2d(image, kernel, stride, symmetric)

    def _build_prelu(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        self._constants[sources[1]] = self._constants[sources[1]].reshape(-1)
        slope = self._buffer(sources[1])
        return lambda image: F.prelu(image, getattr(self, slope))

    def _build_relu(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        return F.relu

    def _build_add(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        activation = _ACTIVATIONS[_options(operator, tflite.AddOptions).FusedActivationFunction()]
        return (lambda a, b: activation(a + b)) if activation else torch.add

    def _build_pad(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        before_after = self._constants[sources[1]][[0, 3, 1, 2]]  # of N, H, W, C
        padding = [int(value) for value in before_after[::-1].reshape(-1)]
        return lambda image: F.pad(image, padding)

    def _build_reshape(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        shape = self._shapes[target][1:]
        return lambda image: _to_nhwc(image).reshape(len(image), *shape)

    def _build_concatenation(self, operator: tflite.Operator, sources: list[int], target: int) -> Callable[..., Tensor]:
        if len(self._shapes[target]) != 3:
            raise GanfitError("asset_damaged", "The network joins images, which is not supported.")
        axis = _options(operator, tflite.ConcatenationOptions).Axis()
        return lambda *parts: torch.cat(parts, axis)


def _shape(tensor: tflite.Tensor) -> list[int]:
    return [int(size) for size in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []


def _constants(model: tflite.Model, graph: tflite.SubGraph, shapes: list[list[int]]) -> dict[int, np.ndarray]:
    constants = {}
    for index, shape in enumerate(shapes):
        tensor = graph.Tensors(index)
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength():
            values = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[tensor.Type()]).reshape(shape)
            constants[index] = values.astype(np.float32) if values.dtype == np.float16 else values.copy()
    return constants


def _options(operator: tflite.Operator, kind: type) -> object:
    options, table = kind(), operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _padding(
    mode: int, size: list[int], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, int], list[int] | None]:
    """TensorFlow's padding as (what the convolution itself can do, what has to be padded before: F.pad's list).

    SAME (mode 0) puts the odd pixel at the end, which torch's convolutions cannot.
    """
    if mode == 1:  # VALID
        return (0, 0), None
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return (totals[0] // 2, totals[1] // 2), None
    height, width = totals
    return (0, 0), [width // 2, width - width // 2, height // 2, height - height // 2]


def _to_nhwc(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value
