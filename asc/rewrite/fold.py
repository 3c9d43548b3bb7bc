"""Batch norms folded away: the same function of convolutions, pools and dense layers only.

A batch norm at inference multiplies each channel and adds to it. Where it stands between two convolutions, after the
ReLU, the factor goes into the convolution before, since ReLU and max pooling commute with positive factors, and the
summand into the one behind. That one may pad its input with zeros, which the summand must not reach: a filter that is
added to the convolution before gives a map of ones (times a constant), zeros around it mark the border, and its kernel
adds the summand inside alone.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asc.errors import InputError
from asc.nets.pool import PoolOverTime

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, PoolOverTime, nn.Dropout, nn.Linear)


class Border(nn.Module):
    """Pad a single map with a learned constant.

    Args:
        height, width: rows above and below, columns left and right.
        value: the constant.
    """

    value: Tensor

    def __init__(self, height: int, width: int, value: Tensor):
        super().__init__()
        self.height, self.width = height, width
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, bins, frames) -> (batch, 1, bins + 2 height, frames + 2 width)."""
        return F.pad(x - self.value, (self.width, self.width, self.height, self.height)) + self.value


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


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and summand (channels,) of a batch norm at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def lasting_norms(net: nn.Module) -> list[int]:
    """Positions in `chain(net)` of the batch norms that cannot be folded.

    A factor below 0 does not pass max pooling, unless the convolution right before takes it; nor can a border make up
    for a factor of 0 at the input. With such a batch norm stay the others between the same two convolutions.
    """
    layers = chain(net)
    lasting: list[int] = []
    stretch: list[int] = []
    pooled, fits = False, True
    for position, layer in reversed(list(enumerate(layers))):
        if isinstance(layer, nn.MaxPool2d | PoolOverTime):
            pooled = True
        elif isinstance(layer, nn.BatchNorm2d) and not (position and isinstance(layers[position - 1], nn.Conv2d)):
            stretch.append(position)
            lowest = affine(layer)[0].min().item()
            fits &= not (pooled and lowest < 0) and not (position == 0 and lowest == 0)
        if isinstance(layer, nn.Conv2d | nn.Linear) or position == 0:
            lasting += [] if fits else stretch
            stretch, pooled, fits = [], False, True
    return sorted(lasting)


def fold(net: nn.Module, lasting: Sequence[int]) -> nn.Sequential:
    """The layers of `net` for inference, without dropout and without all batch norms but those at `lasting`.

    The result computes what `net.eval()` does, to rounding; its structure depends on `lasting`, but on no weights.
    """
    folded: list[nn.Module] = []
    pending: tuple[Tensor, Tensor] | None = None  # factor and summand that the layers so far leave out
    for position, layer in enumerate(copied_chain(net)):
        if isinstance(layer, nn.BatchNorm2d) and position not in lasting:
            if folded and isinstance(folded[-1], nn.Conv2d):
                folded[-1] = fuse_conv_bn_eval(folded[-1].eval(), layer.eval())
            else:
                scale, shift = affine(layer)
                pending = (scale * pending[0], shift + scale * pending[1]) if pending else (scale, shift)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            if pending:
                absorb(*pending, folded, layer)
            folded.append(layer)
            pending = None
        elif not isinstance(layer, nn.Dropout):
            folded.append(layer)
    return nn.Sequential(*folded).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def absorb(scale: Tensor, shift: Tensor, before: list[nn.Module], layer: nn.Conv2d | nn.Linear) -> None:
    """Make `layer` compute from x what it computed from scale * x + shift, x the output of the layers `before` it."""
    source = next((earlier for earlier in reversed(before) if isinstance(earlier, nn.Conv2d)), None)
    padding = layer.padding if isinstance(layer, nn.Conv2d) and any(layer.padding) else None
    if source is not None:  # the factor there, before the 8-bit grid, which all channels share
        source.weight.mul_(scale.abs().view(-1, 1, 1, 1))
        source.bias.mul_(scale.abs())  # type: ignore[union-attr]
        scale = scale.sign()
    elif padding:
        before.append(Border(int(padding[0]), int(padding[1]), -shift / scale))
        layer.padding = (0, 0)
    repeats = layer.weight.shape[1] // len(scale)  # flattened maps stand channel by channel
    scale, shift = (value.repeat_interleave(repeats) for value in (scale, shift))
    kernels = torch.einsum("oc...,c->o...", layer.weight, shift)  # what the summand adds, (n_out, height, width)
    layer.weight.mul_(scale.view(1, -1, *[1] * (layer.weight.ndim - 2)))
    if source is not None and padding:
        add_constant_map(source, layer, kernels)  # type: ignore[arg-type]
    else:
        layer.bias.add_(kernels.reshape(len(kernels), -1).sum(1))  # type: ignore[union-attr]


def add_constant_map(source: nn.Conv2d, layer: nn.Conv2d, kernels: Tensor) -> None:
    """One more map, of a constant, from `source`, of which `layer` makes `kernels` (n_out, height, width)."""
    largest = layer.weight.flatten(1).abs().amax(1).clamp_min(1e-12)
    constant = (kernels.flatten(1).abs().amax(1) / largest).max().clamp_min(1)  # no kernel's grid need grow for it
    source.weight = nn.Parameter(torch.cat([source.weight, torch.zeros_like(source.weight[:1])]))
    source.bias = nn.Parameter(torch.cat([source.bias, constant.view(1)]))  # type: ignore[list-item]
    layer.weight = nn.Parameter(torch.cat([layer.weight, kernels.unsqueeze(1) / constant], 1))
    source.out_channels, layer.in_channels = source.out_channels + 1, layer.in_channels + 1
