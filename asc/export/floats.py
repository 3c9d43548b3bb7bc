"""The frontend and float layers as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq

from asc.errors import InputError
from asc.export.filterbank import add_filterbank
from asc.export.fourier import add_magnitudes
from asc.export.graph import Graph
from asc.frontend import MIN_PEAK, Frontend, Spectrogram
from asc.nets.layers import AvgPoolOverTime, MaxPoolOverTime, MeanStdPoolOverTime
from asc.quantization.fold import ConstantPad, Shift
from asc.quantization.graph import Add


def add_frontend(graph: Graph, frontend: Frontend, samples: int) -> None:
    """Add the frontend, from wave (batch, samples) to features (batch, 1, n_bins, frames).

    Raises:
        InputError: it is trainable or not a `Spectrogram`.
    """
    if not isinstance(frontend, Spectrogram):
        raise InputError(f"cannot export the frontend {type(frontend).__name__}: export the network alone")
    if frontend.trainable:
        raise InputError("cannot export a frontend with trainable_stft=true: export the network alone")
    frequencies = add_magnitudes(graph, frontend, samples)
    if frontend.power != 1:
        graph.append("Pow", graph.constant(np.float32(frontend.power)))
    if frontend.weights is None:
        first = np.unique(frequencies, return_index=True)[1]
        graph.append("Gather", graph.constant(first), axis=2)
    else:
        add_filterbank(graph, frontend, frequencies)
    if frontend.normalize:
        add_normalized_log(graph, frontend)
    elif frontend.log:
        graph.append("Add", graph.constant(np.float32(frontend.eps)))
        graph.append("Log")
    graph.append("Transpose", perm=[0, 2, 1])
    if frontend.standardized:
        graph.append("Sub", graph.constant(frontend.mean.cpu()))
        graph.append("Div", graph.constant(frontend.std.cpu()))
    graph.append("Unsqueeze", graph.constant(np.array([1])))


def add_normalized_log(graph: Graph, frontend: Spectrogram) -> None:
    """Add `Spectrogram.normalized_log`, of (batch, frames, n_bins)."""
    peak = graph.node("ReduceMax", graph.x, axes=[1, 2])
    graph.append("Div", graph.node("Max", peak, graph.constant(np.float32(MIN_PEAK))))
    graph.append("Max", graph.constant(np.float32(frontend.floor)))
    clip, band = [1, 2], [1]
    if frontend.normalize == "level":
        square = graph.node("ReduceMean", graph.node("Mul", graph.x, graph.x), axes=clip)
        graph.append("Div", graph.node("Sqrt", square))
        graph.append("Log")
    else:
        graph.append("Log")
        graph.append("Sub", graph.node("ReduceMean", graph.x, axes=clip if frontend.normalize == "clip" else band))
    if not frontend.log:
        graph.append("Exp")


def add_float(graph: Graph, layer: nn.Module, x: Tensor, *others: str) -> None:
    """Add a float layer with an example input x; `others` are the names of further inputs."""
    if isinstance(layer, ConstantPad):
        pads = np.array([0, 0, layer.height, layer.width] * 2)
        graph.append("Pad", graph.constant(pads), graph.constant(np.float32(layer.value.item())))
    elif isinstance(layer, Shift):
        graph.append("Add", graph.constant(layer.shift))
    elif isinstance(layer, nn.Conv2d):
        graph.append("Conv", *float_weights(graph, layer), **convolution(layer))
    elif isinstance(layer, nn.Linear):
        graph.append("Gemm", *float_weights(graph, layer), transB=1)
    elif isinstance(layer, nn.BatchNorm2d):
        add_batch_norm(graph, layer)
    elif isinstance(layer, Add):
        graph.append("Add", *others)
    elif isinstance(layer, nn.AvgPool2d | AvgPoolOverTime):
        add_average(graph, layer, x)
    elif isinstance(layer, MeanStdPoolOverTime):
        add_mean_std(graph, layer, x)
    else:
        add_range_free(graph, layer, x)


def float_weights(graph: Graph, layer: nn.Conv2d | nn.Linear) -> list[str]:
    """Names of the weight and the bias."""
    assert layer.bias is not None  # folding adds a bias to each layer
    return [graph.constant(value.detach().cpu()) for value in (layer.weight, layer.bias)]


def convolution(layer: nn.Conv2d | nnq.Conv2d) -> dict[str, Any]:
    """Attributes of ONNX's Conv."""
    pads = [int(side) for side in layer.padding] * 2
    groups = {"group": layer.groups} if layer.groups > 1 else {}
    return {"pads": pads, "strides": list(layer.stride), "dilations": list(layer.dilation), **groups}


def add_batch_norm(graph: Graph, layer: Any) -> None:
    """Add a batch norm that could not be folded."""
    values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    names = [graph.constant(value.detach().cpu()) for value in values]
    graph.append("BatchNormalization", *names, epsilon=layer.eps)


def add_average(graph: Graph, layer: nn.AvgPool2d | AvgPoolOverTime, x: Tensor) -> None:
    """Add average pooling of floats."""
    if isinstance(layer, AvgPoolOverTime):
        kernel = list(layer.kernel_size(x))
        graph.append("AveragePool", kernel_shape=kernel, strides=kernel)
    else:
        kernel, strides, pads = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding) * 2
        counted = int(layer.count_include_pad)
        graph.append("AveragePool", kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=counted)


def add_mean_std(graph: Graph, layer: MeanStdPoolOverTime, x: Tensor) -> None:
    """Add mean and standard deviation over bins and frames of floats."""
    kernel = list(layer.kernel_size(x))
    mean = graph.node("AveragePool", graph.x, kernel_shape=kernel)
    deviation = graph.node("Sub", graph.x, mean)
    variance = graph.node("AveragePool", graph.node("Mul", deviation, deviation), kernel_shape=kernel)
    std = graph.node("Sqrt", graph.node("Add", variance, graph.constant(np.float32(layer.eps))))
    graph.x = graph.node("Concat", mean, std, axis=2)


def add_range_free(graph: Graph, layer: nn.Module, x: Tensor) -> None:
    """Add ReLU, max pooling or flattening, which need no new range and apply to integers as to floats."""
    if isinstance(layer, nn.ReLU):
        graph.append("Relu")
    elif isinstance(layer, nn.Flatten):
        graph.append("Flatten")
    elif isinstance(layer, MaxPoolOverTime):
        kernel = list(layer.kernel_size(x))
        graph.append("MaxPool", kernel_shape=kernel, strides=kernel)
    elif isinstance(layer, nn.MaxPool2d):
        padding, dilation = pair(layer.padding), pair(layer.dilation)
        unusual = {"pads": padding * 2} if any(padding) else {}
        unusual |= {"dilations": dilation} if dilation != [1, 1] else {}
        kernel, strides = pair(layer.kernel_size), pair(layer.stride)
        graph.append("MaxPool", kernel_shape=kernel, strides=strides, ceil_mode=int(layer.ceil_mode), **unusual)
    else:
        raise InputError(f"cannot export the layer {layer}: no ONNX form is implemented")


def pair(value: int | Sequence[int]) -> list[int]:
    """Height and width, from one number for both or from a pair."""
    return [value, value] if isinstance(value, int) else list(value)
