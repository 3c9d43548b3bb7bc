"""Float layers as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.ao.nn import quantized as nnq

from asc.errors import InputError
from asc.export.graph import Graph
from asc.nets.pool import AvgPoolOverTime, MaxPoolOverTime, MeanStdPoolOverTime
from asc.quantization.fold import ConstantPad, Shift
from asc.quantization.graph import Add


def add_float(graph: Graph, layer: nn.Module, shape: Sequence[int], *others: str) -> None:
    """Add a float layer whose input has this shape; `others` are the names of further inputs."""
    if isinstance(layer, ConstantPad):
        pads = np.array([0, 0, layer.height, layer.width] * 2)
        graph.then("Pad", graph.constant(pads), graph.constant(np.float32(layer.value.item())))
    elif isinstance(layer, Shift):
        graph.then("Add", graph.constant(layer.shift))
    elif isinstance(layer, nn.Conv2d):
        graph.then("Conv", *float_weights(graph, layer), **convolution(layer))
    elif isinstance(layer, nn.Linear):
        graph.then("Gemm", *float_weights(graph, layer), transB=1)
    elif isinstance(layer, nn.BatchNorm2d):
        add_batch_norm(graph, layer)
    elif isinstance(layer, Add):
        graph.then("Add", *others)
    elif isinstance(layer, nn.AvgPool2d | AvgPoolOverTime):
        add_average(graph, layer, shape)
    elif isinstance(layer, MeanStdPoolOverTime):
        add_mean_std(graph, layer, shape)
    else:
        add_same(graph, layer, shape)


def float_weights(graph: Graph, layer: nn.Conv2d | nn.Linear) -> list[str]:
    """Names of the kernel and the bias."""
    assert layer.bias is not None  # folding gives each layer one
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
    graph.then("BatchNormalization", *names, epsilon=layer.eps)


def add_average(graph: Graph, layer: nn.AvgPool2d | AvgPoolOverTime, shape: Sequence[int]) -> None:
    """Add average pooling, of floats."""
    if isinstance(layer, AvgPoolOverTime):
        kernel = list(layer.kernel_size(torch.empty(*shape)))
        graph.then("AveragePool", kernel_shape=kernel, strides=kernel)
    else:
        kernel, strides, pads = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding) * 2
        counted = int(layer.count_include_pad)
        graph.then("AveragePool", kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=counted)


def add_mean_std(graph: Graph, layer: MeanStdPoolOverTime, shape: Sequence[int]) -> None:
    """Add the mean and the standard deviation over the whole map, of floats."""
    kernel, x = list(layer.kernel_size(torch.empty(*shape))), graph.x
    mean = graph.node("AveragePool", x, kernel_shape=kernel)
    deviation = graph.node("Sub", x, mean)
    variance = graph.node("AveragePool", graph.node("Mul", deviation, deviation), kernel_shape=kernel)
    std = graph.node("Sqrt", graph.node("Add", variance, graph.constant(np.float32(layer.eps))))
    graph.x = graph.node("Concat", mean, std, axis=2)


def add_same(graph: Graph, layer: nn.Module, shape: Sequence[int]) -> None:
    """Add ReLU, max pooling or flattening, which do the same to integers as to floats."""
    if isinstance(layer, nn.ReLU):
        graph.then("Relu")
    elif isinstance(layer, nn.Flatten):
        graph.then("Flatten")
    elif isinstance(layer, MaxPoolOverTime):
        kernel = list(layer.kernel_size(torch.empty(*shape)))
        graph.then("MaxPool", kernel_shape=kernel, strides=kernel)
    elif isinstance(layer, nn.MaxPool2d):
        padding, dilation = pair(layer.padding), pair(layer.dilation)
        unusual = {"pads": padding * 2} if any(padding) else {}
        unusual |= {"dilations": dilation} if dilation != [1, 1] else {}
        kernel, strides = pair(layer.kernel_size), pair(layer.stride)
        graph.then("MaxPool", kernel_shape=kernel, strides=strides, ceil_mode=int(layer.ceil_mode), **unusual)
    else:
        raise InputError(f"{layer} cannot be exported to ONNX")


def pair(value: int | Sequence[int]) -> list[int]:
    """One number for height and width, or the two."""
    return [value, value] if isinstance(value, int) else list(value)
