"""Layers of an 8-bit network as ONNX nodes.

Each layer's input is dequantized and its output quantized again: the QDQ form, which ONNX Runtime turns into
integer kernels. The exception is a first convolution before max pooling. It has one input channel, for which an integer
kernel does not pay: it would round an output for every nine products. Floats represent its integers exactly, float
kernels need a fifth of the time, and pooling leaves an eighth of the outputs to round.
"""

import numpy as np
from onnx import TensorProto
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.quantized import ConvReLU2d, LinearReLU

from asc.errors import InputError
from asc.export.floats import add_batch_norm, add_float, add_range_free, convolution
from asc.export.graph import Graph
from asc.quantization.graph import Add

MAX_EXACT_FLOAT = 2**24  # float32 represents every integer up to here


class QuantParams:
    """Scale and zero point of a quantized value.

    Attributes:
        integers: name of the integer value; "" before `apply`.
        unused: number of channels at the end that the network does not have.
    """

    unused = 0

    def __init__(self, graph: Graph, scale: float, zero_point: int):
        self.scale, self.zero_point, self.integers = np.float32(scale), int(zero_point), ""
        self.names = [graph.constant(self.scale), graph.constant(np.uint8(zero_point))]

    def apply(self, graph: Graph, in_steps: bool = False) -> "QuantParams":
        """Quantize and dequantize the newest value; `in_steps`: it is already divided by the scale."""
        scale = graph.constant(np.float32(1)) if in_steps else self.names[0]
        self.integers = graph.node("QuantizeLinear", graph.x, scale, self.names[1])
        graph.x = graph.node("DequantizeLinear", self.integers, *self.names)
        return self


class Accumulator:
    """The accumulators of the first convolution: sums of integers in float arithmetic, not yet requantized.

    Rounding and ReLU commute with max pooling, so that they come after it. Without pooling in between, ONNX Runtime
    would take what follows for part of the convolution, and round its weights again.
    """

    def __init__(self, graph: Graph, layer: nnq.Conv2d, params: QuantParams):
        weight, scales, bias = integer_weights(layer, params)
        self.layer, steps = layer, (scales * params.scale / np.float32(layer.scale)).astype(np.float32)
        filters = len(weight) - int(not weight[-1].any())  # the last may be the constant of asc.quantization.fold
        self.steps = steps[:filters, None, None]  # steps of the output for each step of the sums
        self.constant = np.rint(np.float32(bias[-1]) * steps[-1]) if filters < len(weight) else None
        graph.x = graph.node("DequantizeLinear", params.integers, graph.constant(np.float32(1)), params.names[1])
        weights = graph.node("Cast", graph.constant(weight[:filters]), to=TensorProto.FLOAT)
        graph.append("Conv", weights, graph.constant(bias[:filters].astype(np.float32)), **convolution(layer))

    @staticmethod
    def can_represent(layer: nnq.Conv2d, params: QuantParams) -> bool:
        """Whether the convolution has one input channel, and sums that floats represent exactly."""
        if layer.in_channels > 1:
            return False
        weight, _, bias = integer_weights(layer, params)
        return bool((255 * np.abs(weight.astype(int)).sum((1, 2, 3)) + np.abs(bias)).max() < MAX_EXACT_FLOAT)

    def apply(self, graph: Graph) -> QuantParams:
        """Requantize the newest value: these sums, or their maxima after pooling."""
        params = QuantParams(graph, self.layer.scale, self.layer.zero_point)
        if isinstance(self.layer, ConvReLU2d) and params.zero_point:  # a zero point of 0 clips negative values anyway
            graph.append("Relu")
        graph.append("Mul", graph.constant(self.steps))
        if self.constant is not None:
            params.unused = -(len(self.steps) + 1) % 4  # ONNX Runtime takes a third longer for 33 channels than for 36
            channels = np.array([0, 0, 0, 0, 0, 1 + params.unused, 0, 0])
            graph.append("Pad", graph.constant(channels), graph.constant(np.float32(self.constant)))
        return params.apply(graph, in_steps=True)


def add_integer(
    graph: Graph,
    layer: nn.Module,
    x: Tensor,
    params: QuantParams | Accumulator | None,
    *others: str,
    is_pooled: bool,
) -> QuantParams | Accumulator | None:
    """Add a layer of an 8-bit network; return the quantization of its output, None for floats.

    Args:
        graph: to add to; its newest value is the input.
        layer: layer of the 8-bit network.
        x: an example input.
        params: quantization of the input.
        others: names of further inputs.
        is_pooled: whether the output is used only by max pooling.
    """
    if isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
        return params
    if isinstance(params, Accumulator) or (params and not params.integers):
        add_range_free(graph, layer, x)
        if isinstance(params, QuantParams):  # else ONNX Runtime would move the rounding back
            graph.append("Div", params.names[0])
            return params.apply(graph, in_steps=True)
        return params.apply(graph)
    if isinstance(layer, nnq.Quantize):
        params = QuantParams(graph, float(layer.scale), int(layer.zero_point))
    elif isinstance(layer, nnq.DeQuantize):
        return None
    elif params is None:
        add_float(graph, layer, x)
        return None
    elif is_pooled and isinstance(layer, nnq.Conv2d) and Accumulator.can_represent(layer, params):
        return Accumulator(graph, layer, params)
    elif isinstance(layer, nnq.Conv2d | nnq.Linear):
        weights = add_integer_weights(graph, layer, params)
        if isinstance(layer, nnq.Conv2d):
            graph.append("Conv", *weights, **convolution(layer))
        else:
            graph.append("Gemm", *weights, transB=1)
        if isinstance(layer, ConvReLU2d | LinearReLU):
            graph.append("Relu")
        params = QuantParams(graph, layer.scale, layer.zero_point)
    elif isinstance(layer, nnq.BatchNorm2d):
        add_batch_norm(graph, layer)
        params = QuantParams(graph, float(layer.scale), int(layer.zero_point))  # type: ignore[arg-type]
        if is_pooled:  # rounding commutes with max pooling, and ONNX Runtime pools floats many times as fast
            return params
    elif isinstance(layer, Add):
        graph.append("Add", *others)
        if layer.with_relu:
            graph.append("Relu")
        params = QuantParams(graph, layer.functional.scale, layer.functional.zero_point)  # type: ignore[arg-type]
    else:
        add_range_free(graph, layer, x)
    return params.apply(graph)


def add_integer_weights(graph: Graph, layer: nnq.Conv2d | nnq.Linear, params: QuantParams) -> list[str]:
    """Names of the weight, 8-bit by output channel, and the bias, 32-bit in steps of the sums."""
    weight, scales, bias = integer_weights(layer, params)
    sums = (scales * params.scale).astype(np.float32)
    # ONNX Runtime before 1.28 assumes a single zero point for a dense layer without one, and rejects its shape
    zeros = [graph.constant(np.zeros(len(scales), np.int8))] if isinstance(layer, nnq.Linear) else []
    name = graph.constant(weight)
    if params.unused:
        name = graph.node("Pad", name, graph.constant(np.array([0, 0, 0, 0, 0, params.unused, 0, 0])))
    return [
        graph.node("DequantizeLinear", integers, graph.constant(steps), *zero_point, axis=0)
        for integers, steps, zero_point in ((name, scales, zeros), (graph.constant(bias), sums, []))
    ]


def integer_weights(layer: nnq.Conv2d | nnq.Linear, params: QuantParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weight (int8), its scales (n_out,) and the bias (int32) in steps of the sums, scale times input's scale.

    Raises:
        InputError: a bias is too large for these steps.
    """
    weight = layer.weight()
    scales = weight.q_per_channel_scales().float().numpy()
    bias = np.zeros(len(scales))
    if layer.bias() is not None:
        bias = np.rint(layer.bias().detach().double().numpy() / (scales * params.scale).astype(np.float64))
    if np.abs(bias).max() > np.iinfo(np.int32).max:
        raise InputError("cannot export: a bias exceeds 32 bits at the features' tiny scale; scale the features up")
    return weight.int_repr().numpy(), scales, bias.astype(np.int32)
