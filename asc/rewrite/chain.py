"""A network as the chain of its layers, on which folding, 8-bit arithmetic, pruning of filters and ONNX work."""

import copy

import torch
from torch import Tensor, nn

from asc.errors import InputError
from asc.nets.pool import PoolOverTime

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, PoolOverTime, nn.Dropout, nn.Linear)


def chain(net: nn.Module) -> list[nn.Module]:
    """The layers of a network that is one chain of them, with the flattening before the first dense layer.

    Raises:
        InputError: the network has other layers than these networks do, or grouped convolutions.
    """
    layers: list[nn.Module] = []
    for layer in net.modules():
        if next(layer.children(), None) is not None:
            continue
        if not isinstance(layer, LAYERS) or getattr(layer, "groups", 1) != 1:
            raise InputError(
                f"{type(net).__name__} has a layer that can be neither quantized nor exported, {layer}: "
                "use plain convolutions, batch norms, ReLU, max pooling and dense layers"
            )
        if isinstance(layer, nn.Linear) and not any(isinstance(earlier, nn.Flatten) for earlier in layers):
            layers.append(nn.Flatten())
        layers.append(layer)
    return layers


def copied_chain(net: nn.Module) -> list[nn.Module]:
    """Copies of the layers of `chain`, all with biases, which folding and 8-bit sums need a place for."""
    layers = copy.deepcopy(chain(net))
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight.flatten(1)[:, 0]))
    return layers


def check_chain(net: nn.Module, features: Tensor) -> None:
    """Refuse a network that does more, or in another order, than its `chain`.

    Raises:
        InputError: the two differ on features (1, 1, n_bins, frames).
    """
    layers = nn.Sequential(*chain(copy.deepcopy(net).eval()))
    x = torch.randn_like(features)
    with torch.inference_mode():
        if not torch.allclose(layers(x), net.eval()(x), rtol=1e-4, atol=1e-5):
            raise InputError(
                f"{type(net).__name__} is not a plain chain of layers: only such networks can be quantized or exported"
            )
