"""Batch norms folded away: the same function of convolutions, pooling and dense layers only.

At inference a batch norm is y = scale * x + shift, with a scale and a shift for each channel. Between two convolutions
stand

    Conv, ReLU, BatchNorm, MaxPool, BatchNorm, Conv           (Table 2 of the report, dropout left out)

and folding moves every scale back into the convolution before and every shift forward into the convolution behind:

- A scale > 0 commutes with ReLU and with max pooling: relu(s x) = s relu(x), max(s x) = s max(x). So the convolution
  before can produce s x by having its weights and bias multiplied by s. A scale < 0 commutes with neither; |s| goes
  back and the sign forward, which is exact as long as no pooling stands between.
- A shift commutes with max pooling: max(x + t) = max(x) + t. A convolution is linear, so W * (x + t) = W * x + W * t,
  and where it does not pad, W * t is one number for each of its filters, the sum over its kernel of W t: a bias.
- Where it pads with zeros, W * t is smaller at the borders, where part of the kernel sees zeros rather than t. Instead
  of a bias, the convolution before gets one more filter, of weights 0 and a constant bias c > 0: a map that is c
  everywhere (ReLU and pooling leave it so) and 0 where the next one pads, just what t is. Its kernel W t / c then adds
  W * t exactly, borders included.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asc.nets.pool import PoolOverTime
from asc.rewrite.chain import chain, copied_chain


class ConstantPad(nn.Module):
    """Pad the input's single map with a constant, which an input batch norm's shift makes of the zeros of padding.

    Args:
        height, width: rows above and below, columns left and right.
        value: the constant, shape ().
    """

    value: Tensor

    def __init__(self, height: int, width: int, value: Tensor):
        super().__init__()
        self.height, self.width = height, width
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, bins, frames) -> (batch, 1, bins + 2 height, frames + 2 width)."""
        return F.pad(x - self.value, (self.width, self.width, self.height, self.height)) + self.value


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (channels,) of a batch norm at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def unfoldable_norms(net: nn.Module) -> list[int]:
    """Positions in `chain(net)` of the batch norms that stay.

    A norm right behind a convolution always folds into it. Another one stays where a ReLU follows it before the next
    convolution (its shift does not commute), where max pooling follows and a scale is negative, or where it is the
    input's and a scale is 0, since `ConstantPad` divides by it. With it stay the others between the same convolutions.
    """
    layers = chain(net)
    unfoldable: list[int] = []
    between: list[int] = []  # norms met since the convolution behind them, going backwards
    pooled, foldable, rectified = False, True, False
    for position, layer in reversed(list(enumerate(layers))):
        if isinstance(layer, nn.MaxPool2d | PoolOverTime):
            pooled = True
        elif isinstance(layer, nn.ReLU):
            rectified = True
        elif isinstance(layer, nn.BatchNorm2d) and not (position and isinstance(layers[position - 1], nn.Conv2d)):
            between.append(position)
            lowest = scale_and_shift(layer)[0].min().item()
            foldable &= not rectified and not (pooled and lowest < 0) and not (position == 0 and lowest == 0)
        if isinstance(layer, nn.Conv2d | nn.Linear) or position == 0:
            unfoldable += [] if foldable else between
            between, pooled, foldable, rectified = [], False, True, False
    return sorted(unfoldable)


def fold(net: nn.Module, unfoldable: Sequence[int]) -> nn.Sequential:
    """The layers of `net` for inference, without dropout and without the batch norms but those at `unfoldable`.

    The result computes what `net.eval()` does, to rounding. Its structure depends on `unfoldable` alone, not on the
    weights, so that a checkpoint of the result fits a network that was folded anew.
    """
    folded: list[nn.Module] = []
    pending: tuple[Tensor, Tensor] | None = None  # scale and shift (channels,) that the layers so far leave out
    for position, layer in enumerate(copied_chain(net)):
        if isinstance(layer, nn.BatchNorm2d) and position not in unfoldable:
            if folded and isinstance(folded[-1], nn.Conv2d):
                folded[-1] = fuse_conv_bn_eval(folded[-1].eval(), layer.eval())
            else:
                scale, shift = scale_and_shift(layer)
                # scale (s x + t) + shift = (scale s) x + (shift + scale t)
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
    """Make `layer` compute from x what it computed from scale * x + shift, x the output of the layers `before` it.

    Edits `layer`, and in `before` the nearest convolution; without one, may append a `ConstantPad`.

    scale, shift (n_in,); layer.weight (n_out, n_in, height, width), or (n_out, n_in * values a map) of a dense layer.
    """
    source = next((earlier for earlier in reversed(before) if isinstance(earlier, nn.Conv2d)), None)
    padding = layer.padding if isinstance(layer, nn.Conv2d) and any(layer.padding) else None
    if source is not None:  # |scale| back: there it lies before the 8-bit grid, which all channels share
        source.weight.mul_(scale.abs().view(-1, 1, 1, 1))
        source.bias.mul_(scale.abs())  # type: ignore[union-attr]
        scale = scale.sign()
    elif padding:  # at the input: zeros of (scale x + shift) are x = -shift / scale
        before.append(ConstantPad(int(padding[0]), int(padding[1]), -shift / scale))
        layer.padding = (0, 0)
    repeats = layer.weight.shape[1] // len(scale)  # flattened maps stand channel by channel
    scale, shift = (value.repeat_interleave(repeats) for value in (scale, shift))
    shift_kernels = torch.einsum("oc...,c->o...", layer.weight, shift)  # W t: (n_out, height, width), or (n_out,)
    layer.weight.mul_(scale.view(1, -1, *[1] * (layer.weight.ndim - 2)))
    if source is not None and padding:
        add_constant_map(source, layer, shift_kernels)  # type: ignore[arg-type]
    else:
        layer.bias.add_(shift_kernels.reshape(len(shift_kernels), -1).sum(1))  # type: ignore[union-attr]


def add_constant_map(source: nn.Conv2d, layer: nn.Conv2d, shift_kernels: Tensor) -> None:
    """One more filter of `source`, whose map is a constant c, and for it in `layer` the kernels W t / c.

    shift_kernels (n_out, height, width). c is chosen so large that no filter of `layer` has its largest weight, which
    sets the step of its 8-bit grid, in the new kernel; at least 1.
    """
    largest = layer.weight.flatten(1).abs().amax(1).clamp_min(1e-12)  # (n_out,)
    constant = (shift_kernels.flatten(1).abs().amax(1) / largest).max().clamp_min(1)
    source.weight = nn.Parameter(torch.cat([source.weight, torch.zeros_like(source.weight[:1])]))
    source.bias = nn.Parameter(torch.cat([source.bias, constant.view(1)]))  # type: ignore[list-item]
    layer.weight = nn.Parameter(torch.cat([layer.weight, shift_kernels.unsqueeze(1) / constant], 1))
    source.out_channels, layer.in_channels = source.out_channels + 1, layer.in_channels + 1
