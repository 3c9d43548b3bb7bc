"""8-bit quantization in torch.ao's eager mode: prepare -> fine-tune -> convert (Jacob et al., 2018).

Weights are quantized symmetrically, per output channel; activations affinely, per tensor, to 8 bits.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field, NonNegativeInt, validate_call
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.intrinsic import qat as nniqat

from asc.errors import InputError
from asc.nets.pool import AvgPoolOverTime, MeanStdPoolOverTime
from asc.quantization.columns import PairedConvReLU2d
from asc.quantization.fold import ConstantPad, fold
from asc.quantization.graph import INPUT, Add, LayerGraph, copied_graph
from asc.settings import STRICT

Engine = Literal["onednn", "x86", "qnnpack"]
WeightBits = Annotated[int, Field(ge=2, le=8)]
ENGINES: tuple[Engine, ...] = get_args(Engine)
FUSED = ((nn.Conv2d, nn.BatchNorm2d, nn.ReLU), (nn.Conv2d, nn.ReLU), (nn.Linear, nn.ReLU))
FUSED_IN_GRAPHS = (*FUSED, (nn.Conv2d, nn.BatchNorm2d))  # apart in chains, as in checkpoints of version 0.1.0
# ConstantPad pads the input, which is float. An average of integers would be rounded to their step size, although its
# range is far smaller than theirs.
IN_FLOATS = (ConstantPad, nn.AvgPool2d, AvgPoolOverTime, MeanStdPoolOverTime)


def safe_weight_bits(engine: str) -> int:
    """Most bits that weights may have for the engine's sums to be right on every processor.

    Without VNNI instructions, x86 and onednn add products in pairs in 16 bits, and two products of 8 bits by 8 overflow
    them, silently. 7 bits by 8 do not (2 * 255 * 64 < 2**15), and qnnpack has no such limit.
    """
    return 8 if engine == "qnnpack" else 7


def available(engine: str) -> str:
    """`engine`, or qnnpack if this machine lacks it: a network's integers run on any engine.

    Raises:
        InputError: this machine has neither.
    """
    for name in (engine, "qnnpack"):
        if name in torch.backends.quantized.supported_engines:
            return name
    raise InputError(
        f"this torch has neither {engine} nor qnnpack and cannot run 8-bit networks: install another build"
    )


@contextmanager
def running_on(engine: str | None) -> Iterator[None]:
    """8-bit layers that are built or loaded in this block run on this engine, also afterwards; None: torch's choice."""
    before = torch.backends.quantized.engine
    if engine:
        torch.backends.quantized.engine = available(engine)
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def without_deprecation_notices() -> Iterator[None]:
    """Silence torch's notices that torch.ao and quantized tensors will be removed: the pinned version has them.

    torch warns once per process, at the first quantized tensor, which a conversion or loading makes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel and .* are deprecated")
        warnings.filterwarnings("ignore", ".*must run observer before calling calculate_qparams")
        warnings.filterwarnings("ignore", ".*reduce_range will be deprecated")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        yield


class KernelObserver(tq.MovingAveragePerChannelMinMaxObserver):
    """Ranges of a kernel's filters. A filter of zeros gets the largest scale, at which its bias fits into 32 bits."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale and zero point of each filter."""
        scale, zero_point = super().calculate_qparams()
        return torch.where(self.min_val == self.max_val, scale.max(), scale), zero_point


def qconfig(bits: int) -> tq.QConfig:
    """Observers and fake quantization of 8-bit activations, and of weights with `bits` bits.

    torch's fused modules would find the scale of weights by another formula (maximum / 127) than the conversion does
    (maximum / 127.5).
    """
    activation = tq.FakeQuantize.with_args(observer=tq.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    weight = tq.FakeQuantize.with_args(
        observer=KernelObserver,
        averaging_constant=1.0,  # the range of the current weights, not a moving average
        quant_min=-(2 ** (bits - 1)),
        quant_max=2 ** (bits - 1) - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return tq.QConfig(activation=activation, weight=weight)


class AddReLU(Add):
    """The rectified sum of two branches, as one layer: its range has no negative values."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """ReLU of the sum of two tensors of one shape."""
        return self.functional.add_relu(x, y)


class FakeQuantized(LayerGraph):
    """A network in quantization-aware training: the ranges of its values are observed in training mode only."""

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Switch the mode, and the observers with it."""
        self.apply(tq.enable_observer if mode else tq.disable_observer)
        return super().train(mode)


@validate_call(config=STRICT)  # a checkpoint says any of them
def prepare(
    net: nn.Module, engine: Engine, weight_bits: WeightBits, fold_norms: bool, unfoldable: Sequence[NonNegativeInt]
) -> FakeQuantized:
    """A copy of `net` that rounds as its 8-bit version will, ready to be fine-tuned.

    Args:
        net: a float network that `layer_graph` can trace.
        engine: PyTorch's engine that will run the 8-bit network.
        weight_bits: of the kernels.
        fold_norms: fold all batch norms except those at `unfoldable`.
        unfoldable: see `asc.quantization.fold.unfoldable_norms`.
    """
    graph = with_stubs(fold(net, unfoldable) if fold_norms else copied_graph(net)).train()
    with without_deprecation_notices(), running_on(engine):
        fuse(graph)
        graph.qconfig = qconfig(weight_bits)  # type: ignore[assignment]
        tq.prepare_qat(graph, inplace=True)
        for layer in graph.children():
            if hasattr(layer, "weight_fake_quant"):  # the range of weights is known before training
                layer.weight_fake_quant(layer.weight)  # type: ignore[operator]
    return graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def with_stubs(graph: LayerGraph) -> FakeQuantized:
    """The layers of `graph`, with a stub wherever values are to be quantized or dequantized."""
    stubbed = FakeQuantized()
    floats, integers = {INPUT: INPUT}, dict[int, int]()  # position in `graph` -> position in `stubbed`

    def as_float(position: int) -> int:
        if position not in floats:
            floats[position] = stubbed.add(tq.DeQuantStub(), integers[position])
        return floats[position]

    def as_integer(position: int) -> int:
        if position not in integers:
            integers[position] = stubbed.add(tq.QuantStub(), floats[position])
        return integers[position]

    for position, layer in enumerate(graph):
        inputs = graph.inputs[position]
        is_flat_average = isinstance(layer, nn.Flatten) and inputs[0] in floats and inputs[0] != INPUT
        if isinstance(layer, IN_FLOATS) or is_flat_average:
            floats[position] = stubbed.add(layer, *map(as_float, inputs))
        else:
            integers[position] = stubbed.add(layer, *map(as_integer, inputs))
    as_float(len(graph) - 1)
    return stubbed


def fuse(graph: LayerGraph) -> None:
    """Fuse neighbouring layers that are to round only once; identities take the places of all but one."""
    for position, layer in enumerate(graph):
        if isinstance(layer, nn.ReLU) and graph.follows(position, Add):
            graph[graph.inputs[position][0]], graph[position] = AddReLU(), nn.Identity()
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
            if tuple(type(graph[position]) for position in path[: len(kinds)]) == kinds:
                groups.append([str(position) for position in path[: len(kinds)]])
                break
    return groups


def convert(prepared: nn.Module, engine: str) -> nn.Module:
    """The 8-bit network, for the CPU, of a fine-tuned one from `prepare`."""
    with without_deprecation_notices(), running_on(engine):
        mapping = {**tq.get_default_static_quant_module_mappings(), nniqat.ConvReLU2d: PairedConvReLU2d}
        return tq.convert(copy.deepcopy(prepared).cpu().eval(), mapping)


def kernels(net: nn.Module) -> Iterator[Tensor]:
    """The kernels of the convolutions and dense layers."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield layer.weight
