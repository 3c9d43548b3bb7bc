"""Complexity of a network: parameters, size counted in two ways, and multiply-accumulates."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.nn.modules.batchnorm import _BatchNorm  # the base of the 8-bit ones too

KB = 1024
DCASE2020_LIMIT_KB = 500.0


@dataclass(frozen=True)
class Complexity:
    """Complexity of a network.

    Attributes:
        parameters: number of stored values, including batch norm's running statistics but not its counters.
        nonzero_parameters: number of these that are not zero.
        size_kb: size of the non-zero values at their stored width, in KB (1024 bytes).
        dcase2020_size_kb: the same without batch norm, counted as in DCASE 2020.
        macs: multiply-accumulates of convolutions and dense layers for one clip.
    """

    parameters: int
    nonzero_parameters: int
    size_kb: float
    dcase2020_size_kb: float
    macs: int


def stored_values(net: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each tensor that `net` needs for inference, with its layer.

    Scales and zero points are excluded, as in the official count; the file size includes them.
    """
    for layer in net.modules():
        if isinstance(layer, FakeQuantizeBase | ObserverBase | nnq.Quantize):
            continue
        if isinstance(layer, nnq.Conv2d | nnq.Linear):
            yield from ((layer, value) for value in (layer.weight(), layer.bias()))
        yield from ((layer, value) for value in layer.parameters(recurse=False))
        for name, value in layer.named_buffers(recurse=False):
            if value.is_floating_point() and (name.startswith("running_") or not isinstance(layer, _BatchNorm)):
                yield layer, value


def count_macs(net: nn.Module, features: Tensor) -> int:
    """Multiply-accumulates of `net`, counted in a forward pass on features (1, 1, n_bins, frames)."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight() if isinstance(layer, nnq.Conv2d | nnq.Linear) else cast(Tensor, layer.weight)
        total += output[0].numel() * weight[0].numel()  # one filter per output value

    net = copy.deepcopy(net).eval()  # leaves the mode and hooks of the original alone
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nnq.Conv2d | nnq.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        net(features)
    return total


def nonzeros(tensor: Tensor) -> int:
    """Number of non-zero values; a quantized tensor has zero point 0, so its integers are counted."""
    return int((tensor.int_repr() if tensor.is_quantized else tensor).count_nonzero())


def complexity(net: nn.Module, features: Tensor) -> Complexity:
    """Complexity of `net` on features (1, 1, n_bins, frames)."""
    values = [value for _, value in stored_values(net)]
    counted = [value for layer, value in stored_values(net) if not isinstance(layer, _BatchNorm)]

    def kilobytes(tensors: list[Tensor]) -> float:
        return sum(nonzeros(tensor) * tensor.element_size() for tensor in tensors) / KB

    return Complexity(
        parameters=sum(value.numel() for value in values),
        nonzero_parameters=sum(map(nonzeros, values)),
        size_kb=kilobytes(values),
        dcase2020_size_kb=kilobytes(counted),
        macs=count_macs(net, features),
    )
