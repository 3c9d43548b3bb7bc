"""What a network costs: stored values, kilobytes by two rules, multiply-accumulates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

KB = 1024
DCASE2020_LIMIT_KB = 500.0


@dataclass(frozen=True)
class Complexity:
    """Costs of one network.

    Attributes:
        parameters: all stored values, batch norm's four arrays included, counters not.
        nonzero_parameters: those of them that are not zero.
        size_kb: bytes of the non-zero values at their stored width, over 1024.
        dcase2020_size_kb: the same without batch norm, as the official count of 2020 does.
        macs: multiply-accumulates of the convolutions and dense layers for one clip.
    """

    parameters: int
    nonzero_parameters: int
    size_kb: float
    dcase2020_size_kb: float
    macs: int


def stored_values(net: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each array that `net` needs at inference, with the layer that holds it."""
    for layer in net.modules():
        yield from ((layer, value) for value in layer.parameters(recurse=False))
        yield from ((layer, value) for value in layer.buffers(recurse=False) if value.is_floating_point())


def count_macs(net: nn.Module, features: Tensor) -> int:
    """Multiply-accumulates of one clip, by running `net` once on features (1, 1, n_bins, frames)."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * cast(Tensor, layer.weight)[0].numel()  # a kernel for each value

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = {layer: layer.training for layer in net.modules()}  # a part of it may be frozen
    try:
        with torch.inference_mode():
            net.eval()(features)
    finally:
        for layer, mode in training.items():
            layer.training = mode
        for hook in hooks:
            hook.remove()
    return total


def complexity(net: nn.Module, features: Tensor) -> Complexity:
    """Costs of `net` for an input shaped as features (1, 1, n_bins, frames)."""
    values = list(stored_values(net))
    official = [value for layer, value in values if not isinstance(layer, nn.BatchNorm2d)]

    def kilobytes(arrays: list[Tensor]) -> float:
        return sum(int(array.count_nonzero()) * array.element_size() for array in arrays) / KB

    return Complexity(
        parameters=sum(value.numel() for _, value in values),
        nonzero_parameters=sum(int(value.count_nonzero()) for _, value in values),
        size_kb=kilobytes([value for _, value in values]),
        dcase2020_size_kb=kilobytes(official),
        macs=count_macs(net, features),
    )
