"""Batch norms folded away: the same function of convolutions, pooling and dense layers only.

At inference a batch norm is y = scale * x + shift, with a scale and a shift for each channel. Between two convolutions
stand

    Conv, ReLU, BatchNorm, MaxPool, BatchNorm, Conv           (Table 2 of the report, dropout left out)

and folding moves every scale back into the convolution before and every shift forward into the convolution behind:

- A scale > 0 commutes with ReLU and with max pooling: relu(s x) = s relu(x), max(s x) = s max(x). So the convolution
  before can produce s x by having its weights and bias multiplied by s. A scale < 0 commutes with neither; |s| goes
  back and the sign forward, which is exact as long as no max pooling stands between. Averages commute with any scale.
- A shift commutes with pooling: max(x + t) = max(x) + t. A convolution is linear, so W * (x + t) = W * x + W * t,
  and where it does not pad, W * t is one number for each of its filters, the sum over its kernel of W t: a bias.
- Where it pads with zeros, W * t is smaller at the borders, where part of the kernel sees zeros rather than t. Floats
  have t added behind the pooling, where maps are small. 8-bit integers have one grid for all channels, on which the
  sums would be coarser. There the convolution before gets one more filter, of weights 0 and a constant bias c > 0: a
  map that is c everywhere (ReLU and pooling leave it so) and 0 where the next one pads, just what t is. Its kernel
  W t / c then adds W * t exactly, borders included.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asc.nets.pool import AvgPoolOverTime, MaxPoolOverTime
from asc.rewrite.graph import INPUT, LayerGraph, check_same, copied_graph, layer_graph

COMMUTING = (
    *(nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Flatten),
    *(nn.MaxPool2d, MaxPoolOverTime, AvgPoolOverTime),
)


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


class Shift(nn.Module):
    """Add a number to each map.

    Args:
        shift: the numbers, shape (channels,).
    """

    shift: Tensor

    def __init__(self, shift: Tensor):
        super().__init__()
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, bins, frames), as given."""
        return x + self.shift


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (channels,) of a batch norm at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def unfoldable_norms(net: nn.Module) -> list[int]:
    """Positions in `layer_graph(net)` of the batch norms that stay.

    A norm right behind a convolution always folds into it, another one where `foldable_before` lets it.
    """
    graph = layer_graph(net)
    norms = set(other_norms(graph, range(len(graph))))
    for position, layer in enumerate(graph):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            norms.difference_update(foldable_before(graph, position))
    return sorted(norms)


def other_norms(graph: LayerGraph, positions: Iterable[int]) -> list[int]:
    """Those of `positions` where a batch norm stands that is not right behind a convolution."""
    return [
        position
        for position in positions
        if isinstance(graph[position], nn.BatchNorm2d) and not graph.follows(position, nn.Conv2d)
    ]


def foldable_before(graph: LayerGraph, position: int) -> list[int]:
    """Positions of the norms that fold, of those from the convolution before (or the input) to the layer at `position`.

    All of them do or none. A norm does not where a ReLU follows it (its shift does not commute), where max pooling
    follows and a scale is negative, or where it is the input's and a scale is 0, since `ConstantPad` divides by it.
    Grouped convolutions have no place for a scale and a shift of every input, nor sums and forks for those of a branch.
    """
    path, source = path_before(graph, position)
    ends = [graph[end] for end in (source, position) if end != INPUT]
    if source != INPUT and len(graph.users(source)) > 1:
        return []
    if not all(isinstance(end, nn.Conv2d | nn.Linear) and getattr(end, "groups", 1) == 1 for end in ends):
        return []
    norms = other_norms(graph, path)
    for norm in norms:
        scale, _ = scale_and_shift(graph[norm])  # type: ignore[arg-type]
        later = [graph[at] for at in path[: path.index(norm)]]
        if any(isinstance(layer, nn.ReLU) for layer in later):
            return []
        if scale.min() < 0 and any(isinstance(layer, nn.MaxPool2d | MaxPoolOverTime) for layer in later):
            return []
        if source == INPUT and (scale == 0).any():
            return []
    return norms


def path_before(graph: LayerGraph, position: int) -> tuple[list[int], int]:
    """Positions of the layers that a batch norm may commute with, going back from `position`, and of what is before.

    The latter alone may be a sum, or pass its output to others, too.
    """
    path, at = [], graph.inputs[position][0]
    while at != INPUT and may_commute(graph[at]) and len(graph.users(at)) == 1:
        path.append(at)
        at = graph.inputs[at][0]
    return path, at


def may_commute(layer: nn.Module) -> bool:
    """Whether scales or shifts pass through the layer at all; a shift does not where padding is averaged, too."""
    if isinstance(layer, nn.AvgPool2d):
        return layer.padding in (0, (0, 0)) or not layer.count_include_pad
    return isinstance(layer, COMMUTING)


def fold(net: nn.Module, unfoldable: Sequence[int], constant_maps: bool = True) -> LayerGraph:
    """The layers of `net` for inference, without dropout and without the batch norms but those at `unfoldable`.

    Where a shift meets padding there is a constant map, for 8 bits, or a `Shift`. The result computes what `net.eval()`
    does, to rounding. Its structure depends on `unfoldable` alone, not on the weights, so that a checkpoint of the
    result fits a network that was folded anew.
    """
    graph, folded = copied_graph(net), LayerGraph()
    places = {INPUT: INPUT}  # position in `graph` -> position in `folded`
    pending: dict[int, tuple[Tensor, Tensor]] = {}  # scale and shift (channels,) that `folded` leaves out, by position
    for position, layer in enumerate(graph):
        before, *others = graph.inputs[position]
        place = places[before]
        if isinstance(layer, nn.BatchNorm2d) and position not in unfoldable:
            convolution = folded[place] if place != INPUT else None
            if isinstance(convolution, nn.Conv2d):
                folded[place] = fuse_conv_bn_eval(convolution.eval(), layer.eval())
            else:
                pending[position] = chained(pending.get(before), scale_and_shift(layer))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            if before in pending:
                place = absorb(*pending[before], folded, place, layer, constant_maps)
            place = folded.add(layer, place)
        else:
            if before in pending:
                pending[position] = pending[before]
            if not isinstance(layer, nn.Dropout | nn.Dropout2d):
                place = folded.add(layer, place, *(places[other] for other in others))
        places[position] = place
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold_checked(net: nn.Module, features: Tensor) -> LayerGraph:
    """`net` in floats, folded as far as it can be, and compared with it on random features, shaped as `features`."""
    folded = fold(net, unfoldable_norms(net), constant_maps=False)
    pool_first(folded)
    check_same(folded, net, features)
    return folded


def pool_first(graph: LayerGraph) -> None:
    """Swap each ReLU with the max pooling behind it, which leaves it fewer values: they commute."""
    for position, layer in enumerate(graph):
        if isinstance(layer, nn.MaxPool2d | MaxPoolOverTime) and graph.follows(position, nn.ReLU):
            before = graph.inputs[position][0]
            graph[before], graph[position] = layer, graph[before]


def chained(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale and shift of one batch norm behind another."""
    if first is None:
        return second
    scale, shift = second
    return scale * first[0], shift + scale * first[1]  # scale (s x + t) + shift = (scale s) x + (shift + scale t)


@torch.no_grad()
def absorb(
    scale: Tensor,
    shift: Tensor,
    folded: LayerGraph,
    place: int,
    layer: nn.Conv2d | nn.Linear,
    constant_maps: bool,
) -> int:
    """Make `layer` compute from x what it computed from scale * x + shift, x the output at `place` of `folded`.

    Edits `layer`, and in `folded` the nearest convolution before; may append a `ConstantPad`, where there is none, or a
    `Shift`. Returns the place whose output `layer` takes.

    scale, shift (n_in,); layer.weight (n_out, n_in, height, width), or (n_out, n_in * values a map) of a dense layer.
    """
    source = convolution_before(folded, place)
    padding = layer.padding if isinstance(layer, nn.Conv2d) and any(layer.padding) else None
    if source is not None:  # |scale| back: there it lies before the 8-bit grid, which all channels share
        source.weight.mul_(scale.abs().view(-1, 1, 1, 1))
        source.bias.mul_(scale.abs())  # type: ignore[union-attr]
        scale = torch.where(scale < 0, -1.0, 1.0).to(scale)  # of a scale of 0, x is 0 now
    elif padding:  # at the input: zeros of (scale x + shift) are x = -shift / scale
        place = folded.add(ConstantPad(int(padding[0]), int(padding[1]), -shift / scale), place)
        layer.padding = (0, 0)
    repeats = layer.weight.shape[1] // len(scale)  # flattened maps stand channel by channel
    scale, shift = (value.repeat_interleave(repeats) for value in (scale, shift))
    shift_kernels = torch.einsum("oc...,c->o...", layer.weight, shift)  # W t: (n_out, height, width), or (n_out,)
    layer.weight.mul_(scale.view(1, -1, *[1] * (layer.weight.ndim - 2)))
    if source is not None and padding and constant_maps:
        add_constant_map(source, layer, shift_kernels)  # type: ignore[arg-type]
    elif source is not None and padding:
        place = folded.add(Shift(scale * shift), place)  # W s (x + s t) = W (s x + t), since s is 1 or -1
    else:
        layer.bias.add_(shift_kernels.reshape(len(shift_kernels), -1).sum(1))  # type: ignore[union-attr]
    return place


def convolution_before(graph: LayerGraph, place: int) -> nn.Conv2d | None:
    """The convolution at `place` or, going back, the nearest."""
    while place != INPUT:
        layer = graph[place]
        if isinstance(layer, nn.Conv2d):
            return layer
        place = graph.inputs[place][0]
    return None


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
