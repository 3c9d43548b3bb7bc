"""Layers of an 8-bit network as ONNX nodes.

Each layer takes dequantized values, and its output is quantized again: the QDQ form, which ONNX Runtime turns into
integer kernels. The exception is a first convolution before max pooling. It has one input map, for which an integer
kernel does not pay: it would round an output for every nine products. Floats hold its integers exactly, float kernels
take a fifth of the time, and pooling leaves an eighth of the outputs to round.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto
from torch import nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.quantized import ConvReLU2d, LinearReLU

from asc.errors import InputError
from asc.export.floats import add_batch_norm, add_float, add_same, convolution
from asc.export.graph import Graph
from asc.quantization.graph import Add
from asc.quantization.quantize import AddReLU

EXACT = 2**24  # up to here float32 holds every integer


class QuantParams:
    """Scale and zero point of a quantized value.

    Attributes:
        integers: name of the value on the grid, after `apply`.
    """

    def __init__(self, graph: Graph, scale: float, zero_point: int):
        self.scale, self.zero_point, self.integers = np.float32(scale), int(zero_point), ""
        self.names = [graph.constant(self.scale), graph.constant(np.uint8(zero_point))]

    def apply(self, graph: Graph, in_steps: bool = False) -> "QuantParams":
        """Quantize and dequantize the newest value; `in_steps`: it is counted in steps from the zero point already."""
        scale = graph.constant(np.float32(1)) if in_steps else self.names[0]
        self.integers = graph.node("QuantizeLinear", graph.x, scale, self.names[1])
        graph.x = graph.node("DequantizeLinear", self.integers, *self.names)
        return self


class Accumulator:
    """The accumulators of the first convolution: sums of integers in float arithmetic, not yet requantized.

    Rounding and ReLU commute with max pooling, so that they wait for it. Without pooling in between, ONNX Runtime would
    take what follows for part of the convolution, and round its weights anew.
    """

    def __init__(self, graph: Graph, layer: nnq.Conv2d, grid: QuantParams):
        kernel, scales, bias = integer_weights(layer, grid)
        self.layer, steps = layer, (scales * grid.scale / np.float32(layer.scale)).astype(np.float32)
        filters = len(kernel) - int(not kernel[-1].any())  # the last map may be constant: see asc.quantization.fold
        self.steps = steps[:filters, None, None]  # of the output's grid for each step of the sums
        self.constant = np.rint(np.float32(bias[-1]) * steps[-1]) if filters < len(kernel) else None
        graph.x = graph.node("DequantizeLinear", grid.integers, graph.constant(np.float32(1)), grid.names[1])
        weights = graph.node("Cast", graph.constant(kernel[:filters]), to=TensorProto.FLOAT)
        graph.then("Conv", weights, graph.constant(bias[:filters].astype(np.float32)), **convolution(layer))

    @staticmethod
    def can_hold(layer: nnq.Conv2d, grid: QuantParams) -> bool:
        """Whether the convolution has one map, and sums that floats hold exactly."""
        if layer.in_channels > 1:
            return False
        kernel, _, bias = integer_weights(layer, grid)
        return bool((255 * np.abs(kernel.astype(int)).sum((1, 2, 3)) + np.abs(bias)).max() < EXACT)

    def apply(self, graph: Graph) -> QuantParams:
        """Requantize the newest value: these sums, or their maxima after pooling."""
        grid = QuantParams(graph, self.layer.scale, self.layer.zero_point)
        if isinstance(self.layer, ConvReLU2d) and grid.zero_point:  # else the grid begins at 0
            graph.then("Relu")
        graph.then("Mul", graph.constant(self.steps))
        if self.constant is not None:
            pads = np.array([0, 0, 0, 0, 0, 1, 0, 0])  # one map more
            graph.then("Pad", graph.constant(pads), graph.constant(np.float32(self.constant)))
        return grid.apply(graph, in_steps=True)


def add_integer(
    graph: Graph,
    layer: nn.Module,
    shape: Sequence[int],
    grid: QuantParams | Accumulator | None,
    *others: str,
    is_pooled: bool,
) -> QuantParams | Accumulator | None:
    """Add a layer of an 8-bit network, whose input is on `grid`; return that of its output, None for floats.

    `is_pooled`: whether nothing but max pooling takes the output.
    """
    if isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
        return grid
    if isinstance(grid, Accumulator):
        add_same(graph, layer, shape)
        return grid.apply(graph)
    if isinstance(layer, nnq.Quantize):
        grid = QuantParams(graph, float(layer.scale), int(layer.zero_point))
    elif isinstance(layer, nnq.DeQuantize):
        return None
    elif grid is None:
        add_float(graph, layer, shape)
        return None
    elif is_pooled and isinstance(layer, nnq.Conv2d) and Accumulator.can_hold(layer, grid):
        return Accumulator(graph, layer, grid)
    elif isinstance(layer, nnq.Conv2d | nnq.Linear):
        weights = add_integer_weights(graph, layer, grid)
        if isinstance(layer, nnq.Conv2d):
            graph.then("Conv", *weights, **convolution(layer))
        else:
            graph.then("Gemm", *weights, transB=1)
        if isinstance(layer, ConvReLU2d | LinearReLU):
            graph.then("Relu")
        grid = QuantParams(graph, layer.scale, layer.zero_point)
    elif isinstance(layer, nnq.BatchNorm2d):
        add_batch_norm(graph, layer)
        grid = QuantParams(graph, float(layer.scale), int(layer.zero_point))  # type: ignore[arg-type]
    elif isinstance(layer, Add):
        graph.then("Add", *others)
        if isinstance(layer, AddReLU):
            graph.then("Relu")
        grid = QuantParams(graph, layer.functional.scale, layer.functional.zero_point)  # type: ignore[arg-type]
    else:
        add_same(graph, layer, shape)
    return grid.apply(graph)


def add_integer_weights(graph: Graph, layer: nnq.Conv2d | nnq.Linear, grid: QuantParams) -> list[str]:
    """Names of the kernel, 8-bit by output channel, and the bias, 32-bit on the grid of the sums."""
    kernel, scales, bias = integer_weights(layer, grid)
    sums = (scales * grid.scale).astype(np.float32)
    # ONNX Runtime before 1.28 fuses a dense layer with a single zero point where none is given, and refuses its shape
    zeros = [graph.constant(np.zeros(len(scales), np.int8))] if isinstance(layer, nnq.Linear) else []
    return [
        graph.node("DequantizeLinear", graph.constant(integers), graph.constant(steps), *zero_point, axis=0)
        for integers, steps, zero_point in ((kernel, scales, zeros), (bias, sums, []))
    ]


def integer_weights(layer: nnq.Conv2d | nnq.Linear, grid: QuantParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kernel (int8), its scales (n_out,) and the bias (int32) in steps of the sums, scale times input's scale.

    Raises:
        InputError: a bias is too large for these steps.
    """
    weight = layer.weight()
    scales = weight.q_per_channel_scales().float().numpy()
    bias = np.zeros(len(scales))
    if layer.bias() is not None:
        bias = np.rint(layer.bias().detach().double().numpy() / (scales * grid.scale).astype(np.float64))
    if np.abs(bias).max() > np.iinfo(np.int32).max:
        raise InputError("a bias does not fit its 32-bit grid: the features are too small, scale them up")
    return weight.int_repr().numpy(), scales, bias.astype(np.int32)
