"""8-bit quantization in torch.ao's eager mode: prepare -> fine-tune -> convert (Jacob et al., 2018).

Weights are quantized symmetrically, per output channel; activations affinely, per tensor, to 8 bits.
"""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, validate_call
from torch import Tensor, nn
from torch.ao import quantization as tq

from asc.nets.layers import AvgPoolOverTime, MeanStdPoolOverTime
from asc.quantization.convert import Engine, WeightBits, running_on, without_deprecation_notices
from asc.quantization.fold import ConstantPad, fold
from asc.quantization.graph import INPUT, Add, LayerGraph, graph_with_biases
from asc.settings import STRICT

FUSED = ((nn.Conv2d, nn.BatchNorm2d, nn.ReLU), (nn.Conv2d, nn.ReLU), (nn.Linear, nn.ReLU))
FUSED_IN_GRAPHS = (*FUSED, (nn.Conv2d, nn.BatchNorm2d))  # not fused in chains, as in checkpoints of version 0.1.0
# ConstantPad pads the input, which is float. Averaging shrinks the range; requantizing at the input's scale would lose
# precision, so average in float.
IN_FLOATS = (ConstantPad, nn.AvgPool2d, AvgPoolOverTime, MeanStdPoolOverTime)


class WeightObserver(tq.MovingAveragePerChannelMinMaxObserver):
    """Ranges of the filters. A filter of zeros gets the largest scale, so that its bias fits into 32 bits."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale and zero point of each filter."""
        scale, zero_point = super().calculate_qparams()
        return torch.where(self.min_val == self.max_val, scale.max(), scale), zero_point


def qconfig(bits: int) -> tq.QConfig:
    """Observers and fake quantization of 8-bit activations, and of weights with `bits` bits.

    torch's fused modules would compute the scale of weights by another formula (maximum / 127) than the conversion does
    (maximum / 127.5).
    """
    activation = tq.FakeQuantize.with_args(observer=tq.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    weight = tq.FakeQuantize.with_args(
        observer=WeightObserver,
        averaging_constant=1.0,  # the range of the current weights, not a moving average
        quant_min=-(2 ** (bits - 1)),
        quant_max=2 ** (bits - 1) - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return tq.QConfig(activation=activation, weight=weight)


class FakeQuantized(LayerGraph):
    """A network in quantization-aware training: it observes the ranges of values only in training mode."""

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Switch the mode and the observers."""
        self.apply(tq.enable_observer if mode else tq.disable_observer)
        return super().train(mode)


@validate_call(config=STRICT)  # the arguments may come from a checkpoint
def prepare(
    net: nn.Module, engine: Engine, weight_bits: WeightBits, fold_norms: bool, unfoldable: Sequence[NonNegativeInt]
) -> FakeQuantized:
    """A copy of `net` that rounds like its 8-bit version, ready for fine-tuning.

    Args:
        net: a float network that `layer_graph` can trace.
        engine: PyTorch's engine that will run the 8-bit network.
        weight_bits: bits of a weight.
        fold_norms: fold all batch norms except those at `unfoldable`.
        unfoldable: see `asc.quantization.fold.unfoldable_norms`.
    """
    graph = with_stubs(fold(net, unfoldable) if fold_norms else graph_with_biases(net)).train()
    with without_deprecation_notices(), running_on(engine):
        fuse(graph)
        graph.qconfig = qconfig(weight_bits)  # type: ignore[assignment]
        tq.prepare_qat(graph, inplace=True)
        for layer in graph.children():
            if hasattr(layer, "weight_fake_quant"):  # the range of weights is known before training
                layer.weight_fake_quant(layer.weight)  # type: ignore[operator]
    return graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def with_stubs(graph: LayerGraph) -> FakeQuantized:
    """The layers of `graph`, with stubs that quantize and dequantize values between floats and integers."""
    stubbed = FakeQuantized()
    floats, integers = {INPUT: INPUT}, dict[int, int]()  # index in `graph` -> index in `stubbed`

    def as_float(index: int) -> int:
        if index not in floats:
            floats[index] = stubbed.add(tq.DeQuantStub(), integers[index])
        return floats[index]

    def as_integer(index: int) -> int:
        if index not in integers:
            integers[index] = stubbed.add(tq.QuantStub(), floats[index])
        return integers[index]

    for index, layer in enumerate(graph):
        inputs = graph.inputs[index]
        is_flat_average = isinstance(layer, nn.Flatten) and inputs[0] in floats and inputs[0] != INPUT
        if isinstance(layer, IN_FLOATS) or is_flat_average:
            floats[index] = stubbed.add(layer, *map(as_float, inputs))
        else:
            integers[index] = stubbed.add(layer, *map(as_integer, inputs))
    as_float(len(graph) - 1)
    return stubbed


def fuse(graph: LayerGraph) -> None:
    """Fuse neighbouring layers that round only once; all but one of a group become identities."""
    for index, layer in enumerate(graph):
        if isinstance(layer, nn.ReLU) and graph.follows(index, Add):
            graph[graph.inputs[index][0]], graph[index] = Add(with_relu=True), nn.Identity()
    if groups := fusible(graph):
        tq.fuse_modules_qat(graph, groups, inplace=True)


def fusible(graph: LayerGraph) -> list[list[str]]:
    """Names of the layers in each group that torch can fuse."""
    groups = []
    fused = FUSED if graph.is_chain else FUSED_IN_GRAPHS
    for start in range(len(graph)):
        path = [start]
        while len(users := graph.users(path[-1])) == 1 and len(path) < 3:
            path += users
        for kinds in fused:
            if tuple(type(graph[index]) for index in path[: len(kinds)]) == kinds:
                groups.append([str(index) for index in path[: len(kinds)]])
                break
    return groups
