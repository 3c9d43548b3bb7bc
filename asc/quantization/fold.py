"""Batch norms folded away: the same function of convolutions, pooling and dense layers only.

At inference a batch norm is s x + t, with a scale s and a shift t for each channel. Right behind a convolution it is
part of that (`fuse_conv_bn_eval`). Other norms stand between two convolutions, x -> W1 * x + b1 and x -> W2 * x + b2:

    Conv, ReLU, BatchNorm, MaxPool, BatchNorm, Conv           (Table 2 of the report, without dropout)

W is (n_out, n_in, height, width), b (n_out,), and s and t are (n_out,) of the first, which is (n_in,) of the second.
Every scale moves back into W1 and b1, every shift forward into b2:

1. Norms in a row are one: s2 (s1 x + t1) + t2 = (s2 s1) x + (s2 t1 + t2).
2. Pooling: max(s x + t) = s max(x) + t for s > 0, mean(s x + t) = s mean(x) + t for any s.
3. ReLU: s relu(y) = relu(s y) for s >= 0. So s W1 and s b1 give s x. Of s < 0 only |s| goes back, the sign to step 4;
   that is exact unless max pooling stands between.
4. Convolution is linear: W2 * (s x + t) = (W2 s) * x + W2 * t. Without padding, W2 * t has the same value everywhere,
   the sum of W2 t over inputs, height and width, (n_out,): it goes to b2.
5. With zero padding, W2 * t is smaller at the borders, where part of the filter sees zeros rather than t.
   - Floats: t is added after pooling, where tensors are small (`Shift`).
   - 8-bit integers have one step size for all channels, and adding t would make it coarser. So the first convolution
     gets one more filter, with weights 0 and a bias c > 0: ReLU and pooling keep this channel at c, and the second
     convolution pads it with zeros, as it should t. Its weights W2 t / c for it add W2 * t exactly, borders included.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asc.nets.layers import AvgPoolOverTime, MaxPoolOverTime
from asc.quantization.graph import INPUT, LayerGraph, check_same, graph_with_biases, layer_graph

COMMUTING = (
    *(nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Flatten),
    *(nn.MaxPool2d, MaxPoolOverTime, AvgPoolOverTime),
)


class ConstantPad(nn.Module):
    """Pad the network's input, one channel, with a constant instead of zeros.

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
    """Add a number to each channel.

    Args:
        shift: shape (channels,).
    """

    shift: Tensor

    def __init__(self, shift: Tensor):
        super().__init__()
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, bins, frames) -> the same shape."""
        return x + self.shift


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (channels,) of a batch norm at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def unfoldable_norms(net: nn.Module) -> list[int]:
    """Indices in `layer_graph(net)` of the batch norms that cannot be folded.

    A norm right behind a convolution can always be folded, others if in `foldable_before` of a convolution.
    """
    graph = layer_graph(net)
    norms = set(detached_norms(graph, range(len(graph))))
    for index, layer in enumerate(graph):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            norms.difference_update(foldable_before(graph, index))
    return sorted(norms)


def detached_norms(graph: LayerGraph, indices: Iterable[int]) -> list[int]:
    """Those `indices` of batch norms that are not right behind a convolution."""
    norms = (index for index in indices if isinstance(graph[index], nn.BatchNorm2d))
    return [index for index in norms if not graph.follows(index, nn.Conv2d)]


def foldable_before(graph: LayerGraph, index: int) -> list[int]:
    """Indices of the norms between the layer at `index` and the convolution before it, or the input, if they fold.

    All of them fold or none. None does if one of them is followed by a ReLU (shifts do not commute) or, with a negative
    scale, by max pooling; or if one at the input has a scale of 0, by which `ConstantPad` would divide. Grouped
    convolutions, sums and forks cannot absorb the scale and shift of each channel.
    """
    path, source = [], graph.inputs[index][0]
    while source != INPUT and may_commute(graph[source]) and len(graph.users(source)) == 1:
        path.append(source)
        source = graph.inputs[source][0]
    ends = [graph[end] for end in (source, index) if end != INPUT]
    if source != INPUT and len(graph.users(source)) > 1:
        return []
    if not all(isinstance(end, nn.Conv2d | nn.Linear) and getattr(end, "groups", 1) == 1 for end in ends):
        return []
    norms = detached_norms(graph, path)
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


def may_commute(layer: nn.Module) -> bool:
    """Whether a scale or a shift commutes with the layer; a shift does not with an average over padding."""
    if isinstance(layer, nn.AvgPool2d):
        return layer.padding in (0, (0, 0)) or not layer.count_include_pad
    return isinstance(layer, COMMUTING)


def fold(net: nn.Module, unfoldable: Sequence[int], constant_channel: bool = True) -> LayerGraph:
    """The layers of `net` for inference, without dropout, and without batch norms except those at `unfoldable`.

    The result computes what `net.eval()` does, up to rounding. Its structure depends on `unfoldable` alone, not on the
    weights, so that a checkpoint of the result fits a network that was folded anew.

    Args:
        net: the float network.
        unfoldable: see `unfoldable_norms`.
        constant_channel: at zero padding, add a constant channel (for 8 bits) rather than a `Shift`: step 5 above.
    """
    graph, folded = graph_with_biases(net), LayerGraph()
    indices = {INPUT: INPUT}  # index in `graph` -> index in `folded`
    pending: dict[int, tuple[Tensor, Tensor]] = {}  # scale and shift (channels,) that outputs in `folded` still lack
    for old, layer in enumerate(graph):
        before, *others = graph.inputs[old]
        index = indices[before]
        if isinstance(layer, nn.BatchNorm2d) and old not in unfoldable:
            convolution = folded[index] if index != INPUT else None
            if isinstance(convolution, nn.Conv2d):
                folded[index] = fuse_conv_bn_eval(convolution.eval(), layer.eval())
            else:  # leave it to the next convolution
                pending[old] = compose_affine(pending.get(before), scale_and_shift(layer))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            if before in pending:
                index = fold_affine_into(layer, *pending[before], folded, index, constant_channel)
            index = folded.add(layer, index)
        else:
            if before in pending:  # pooling and dropout commute with it
                pending[old] = pending[before]
            if not isinstance(layer, nn.Dropout | nn.Dropout2d):
                index = folded.add(layer, index, *(indices[other] for other in others))
        indices[old] = index
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold_checked(net: nn.Module, features: Tensor) -> LayerGraph:
    """`net` in floats, folded as far as possible, and compared with it on random features of the shape of `features`.

    Max pooling moves before ReLU: they commute, and ReLU then has fewer values to compute.

    Raises:
        InputError: the two differ.
    """
    folded = fold(net, unfoldable_norms(net), constant_channel=False)
    for index, layer in enumerate(folded):
        if isinstance(layer, nn.MaxPool2d | MaxPoolOverTime) and folded.follows(index, nn.ReLU):
            before = folded.inputs[index][0]
            folded[before], folded[index] = layer, folded[before]
    check_same(folded, net, features)
    return folded


def compose_affine(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale and shift of one batch norm, if there is one, followed by another (step 1)."""
    if first is None:
        return second
    (s1, t1), (s2, t2) = first, second
    return s2 * s1, t2 + s2 * t1


@torch.no_grad()
def fold_affine_into(
    layer: nn.Conv2d | nn.Linear,
    scale: Tensor,
    shift: Tensor,
    folded: LayerGraph,
    index: int,
    constant_channel: bool,
) -> int:
    """Make `layer` compute from x what it computed from scale * x + shift, x the output at `index` of `folded`.

    Edits `layer`, and in `folded` the convolution before. May append a `ConstantPad` or a `Shift`.

    Returns the index in `folded` whose output is the input of `layer`.

    scale, shift (n_in,); layer.weight (n_out, n_in, height, width), in a dense layer (n_out, n_in * height * width).
    """
    source = convolution_before(folded, index)
    padding = layer.padding if isinstance(layer, nn.Conv2d) and any(layer.padding) else None
    if source is not None:  # step 3; before the 8-bit step size, which all channels share
        source.weight.mul_(scale.abs().view(-1, 1, 1, 1))
        source.bias.mul_(scale.abs())  # type: ignore[union-attr]
        scale = torch.where(scale < 0, -1.0, 1.0).to(scale)  # also for a scale of 0, which has made x 0
    elif padding:  # at the input: what is 0 after the norm was -shift / scale before
        index = folded.add(ConstantPad(int(padding[0]), int(padding[1]), -shift / scale), index)
        layer.padding, padding = (0, 0), None

    # step 4; in a dense layer the values of a channel are neighbours
    scale, shift = (value.repeat_interleave(layer.weight.shape[1] // len(value)) for value in (scale, shift))
    shifted = torch.einsum("oc...,c->o...", layer.weight, shift)  # W2 t: (n_out, height, width), or (n_out,)
    layer.weight.mul_(scale.view(1, -1, *[1] * (layer.weight.ndim - 2)))
    if not padding:
        layer.bias.add_(shifted.reshape(len(shifted), -1).sum(1))  # type: ignore[union-attr]
    elif constant_channel:  # step 5
        add_constant_channel(source, layer, shifted)  # type: ignore[arg-type]
    else:
        index = folded.add(Shift(scale * shift), index)  # s x + t = s (x + s t), since s is 1 or -1
    return index


def convolution_before(graph: LayerGraph, index: int) -> nn.Conv2d | None:
    """The convolution at `index`, or the nearest one before it."""
    while index != INPUT:
        layer = graph[index]
        if isinstance(layer, nn.Conv2d):
            return layer
        index = graph.inputs[index][0]
    return None


def add_constant_channel(source: nn.Conv2d, layer: nn.Conv2d, shifted: Tensor) -> None:
    """Add a filter to `source` whose output is a constant c, and to `layer` the weights `shifted` / c for this channel.

    shifted: W2 t (n_out, height, width). c is at least 1, and large enough that no filter of `layer` has its largest
    weight, which sets its 8-bit step size, in the new channel.
    """
    largest = layer.weight.flatten(1).abs().amax(1).clamp_min(1e-12)  # (n_out,)
    constant = (shifted.flatten(1).abs().amax(1) / largest).max().clamp_min(1)
    source.weight = nn.Parameter(torch.cat([source.weight, torch.zeros_like(source.weight[:1])]))
    source.bias = nn.Parameter(torch.cat([source.bias, constant.view(1)]))  # type: ignore[list-item]
    layer.weight = nn.Parameter(torch.cat([layer.weight, shifted.unsqueeze(1) / constant], 1))
    source.out_channels, layer.in_channels = source.out_channels + 1, layer.in_channels + 1
