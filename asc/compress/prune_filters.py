"""The phase `prune_filters`: whole filters are removed, which makes the network smaller and faster."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase, check_float
from asc.errors import InputError
from asc.quantization.graph import check_same, layer_graph
from asc.settings import BelowOne, checked


class PruneFilters(Phase):
    """Remove whole filters of convolutions, and the inputs of the layers behind them.

    The filters of smallest L1 norm are removed at once (Li et al., 2017), then the smaller network is fine-tuned.

    Args:
        amount: fraction of each convolution's filters to remove; at least one filter stays.
    """

    @checked("phase")
    def __init__(self, amount: BelowOne = 0.5):
        self.amount = amount

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """The classifier to fine-tune: a smaller one."""
        self.refuse_others(others)
        check_float(model)
        check_prunable(model.net, model.example_features())
        kept = strongest_filters(model.net, self.amount)
        net = {**model.hparams["net"], "filters": [len(indices) for indices in kept]}
        try:
            return model.with_net(without_filters(model.net, kept), net=net, stage="pruned")
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"{type(model.net).__name__} takes no filters=[...], one number for each convolution: "
                "give it this argument, or prune single weights by phase=prune"
            ) from error

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model


def check_prunable(net: nn.Module, features: Tensor) -> None:
    """Refuse a network whose filters depend on each other.

    Raises:
        InputError: it has sums, whose branches need the same maps, or grouped convolutions.
    """
    graph = layer_graph(net)
    if not graph.is_chain or any(getattr(layer, "groups", 1) > 1 for layer in graph):
        raise InputError(
            f"{type(net).__name__} has sums or grouped convolutions, which tie filters to each other: "
            "prune single weights by phase=prune"
        )
    check_same(graph, net, features)


def strongest_filters(net: nn.Module, amount: float) -> list[Tensor]:
    """For each convolution the indices of the filters that stay, those of largest L1 norm, in their old order."""
    kept = []
    for layer in layer_graph(net):
        if isinstance(layer, nn.Conv2d):
            removed = min(round(amount * layer.out_channels), layer.out_channels - 1)
            mask = prune.LnStructured(removed, n=1, dim=0).compute_mask(layer.weight, torch.ones_like(layer.weight))
            kept.append(mask.flatten(1)[:, 0].nonzero().flatten().cpu())
    return kept


def without_filters(net: nn.Module, kept: Sequence[Tensor]) -> nn.Module:
    """A copy of `net` in which each convolution has the filters `kept`, and what follows takes their maps alone."""
    smaller = copy.deepcopy(net)
    rest, channels = iter(kept), 1
    maps = torch.zeros(1, dtype=torch.long)  # indices of the maps that stay of these channels; at first the input
    for layer in layer_graph(smaller):
        if isinstance(layer, nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                select(layer, name, maps)
        elif isinstance(layer, nn.Conv2d):
            select(layer, "weight", maps, dim=1)
            channels, maps = layer.out_channels, next(rest)
            select(layer, "weight", maps)
            select(layer, "bias", maps)
        elif isinstance(layer, nn.Linear):  # the first; it has as many columns for a map as the map has values
            select(layer, "weight", torch.arange(layer.in_features).view(channels, -1)[maps].flatten(), dim=1)
            break
    return smaller


def select(layer: nn.Module, name: str, indices: Tensor, dim: int = 0) -> None:
    """Select `indices` of an array of the layer along `dim`."""
    array = getattr(layer, name)
    if array is not None:
        kept = array.detach().index_select(dim, indices.to(array.device))
        setattr(layer, name, nn.Parameter(kept) if isinstance(array, nn.Parameter) else kept)
