"""The phase `prune_filters`: whole filters are removed, which makes the network smaller and faster."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase
from asc.errors import InputError, one_line
from asc.quantization.graph import check_same, layer_graph
from asc.settings import BelowOne, checked


class PruneFilters(Phase):
    """Remove whole filters of convolutions, and the matching inputs of the following layers.

    The filters of smallest L1 norm are removed at once (Li et al., 2017), then the smaller network is fine-tuned.

    Args:
        amount: fraction of each convolution's filters to remove; at least one filter is kept.
    """

    @checked("phase")
    def __init__(self, amount: BelowOne = 0.5):
        self.amount = amount

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return the smaller classifier."""
        self.check_source(model, others)
        check_prunable(model.net, model.example_features())
        kept = strongest_filters(model.net, self.amount)
        net = {**model.hparams["net"], "filters": [len(indices) for indices in kept]}
        try:
            return model.with_net(without_filters(model.net, kept), net=net, stage="pruned")
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"cannot build {type(model.net).__name__} with net.filters={net['filters']}: {one_line(error)}; "
                "add an argument `filters`, one number for each convolution, or use phase=prune"
            ) from error

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model


def check_prunable(net: nn.Module, features: Tensor) -> None:
    """Reject a network whose filters depend on each other.

    Raises:
        InputError: it has sums, whose branches need the same channels, or grouped convolutions.
    """
    graph = layer_graph(net)
    if not graph.is_chain or any(getattr(layer, "groups", 1) > 1 for layer in graph):
        raise InputError(
            f"cannot remove filters of {type(net).__name__}: sums or grouped convolutions couple them; "
            "prune single weights with phase=prune"
        )
    check_same(graph, net, features)


def strongest_filters(net: nn.Module, amount: float) -> list[Tensor]:
    """For each convolution, the ascending indices of the filters to keep: those with the largest L1 norm."""
    kept = []
    for layer in layer_graph(net):
        if isinstance(layer, nn.Conv2d):
            removed = min(round(amount * layer.out_channels), layer.out_channels - 1)
            mask = prune.LnStructured(removed, n=1, dim=0).compute_mask(layer.weight, torch.ones_like(layer.weight))
            kept.append(mask.flatten(1)[:, 0].nonzero().flatten().cpu())
    return kept


def without_filters(net: nn.Module, kept: Sequence[Tensor]) -> nn.Module:
    """A copy of `net` without the filters of each convolution that are not in `kept`, and without their channels."""
    smaller = copy.deepcopy(net)
    rest, channels = iter(kept), 1
    indices = torch.zeros(1, dtype=torch.long)  # channels to keep; initially the input's
    for layer in layer_graph(smaller):
        if isinstance(layer, nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                select(layer, name, indices)
        elif isinstance(layer, nn.Conv2d):
            select(layer, "weight", indices, dim=1)
            channels, indices = layer.out_channels, next(rest)
            select(layer, "weight", indices)
            select(layer, "bias", indices)
        elif isinstance(layer, nn.Linear):  # only the first; each channel has one column per value
            select(layer, "weight", torch.arange(layer.in_features).view(channels, -1)[indices].flatten(), dim=1)
            break
    return smaller


def select(layer: nn.Module, name: str, indices: Tensor, dim: int = 0) -> None:
    """Replace a tensor of the layer, if present, by its `indices` along `dim`."""
    tensor = getattr(layer, name)
    if tensor is not None:
        kept = tensor.detach().index_select(dim, indices.to(tensor.device))
        setattr(layer, name, nn.Parameter(kept) if isinstance(tensor, nn.Parameter) else kept)
