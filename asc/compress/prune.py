"""Magnitude pruning while the network is fine-tuned: single weights, or whole filters."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torch.nn.utils import prune

from asc.errors import InputError, check
from asc.rewrite.fold import chain, check_chain

NOT_FLOAT = "the checkpoint is quantized already: prune best.ckpt or pruned.ckpt of its origin, then quantize"


class Prune(pl.Callback):
    """The phase `prune`: kernels of convolutions and dense layers lose their weights of smallest magnitude.

    At each epoch the share that is to be zero grows by the schedule, and training goes on with the rest
    (Zhu and Gupta, 2017; TensorFlow Model Optimization's PolynomialDecay).

    Args:
        amount: share of the weights that are zero in the end.
        initial_amount: share in the first epoch.
        schedule: "polynomial", initial + (amount - initial) * (1 - (1 - t)^3), or "constant", `amount` at once.
        ramp_epochs: epochs until `amount` is reached; None: half of all.
        scope: "layer", the same share of each kernel, or "global", the smallest of all kernels together.
    """

    def __init__(
        self,
        amount: float = 0.5,
        initial_amount: float = 0.0,
        schedule: Literal["polynomial", "constant"] = "polynomial",
        ramp_epochs: int | None = None,
        scope: Literal["layer", "global"] = "layer",
    ):
        check_amount("phase.amount", amount)
        check_amount("phase.initial_amount", initial_amount)
        if initial_amount > amount:
            raise InputError(f"phase.initial_amount={initial_amount} is more than phase.amount={amount}: give less")
        if schedule not in ("polynomial", "constant"):
            raise InputError(f"phase.schedule={schedule} is not known: choose polynomial or constant")
        if scope not in ("layer", "global"):
            raise InputError(f"phase.scope={scope} is not known: choose layer or global")
        if ramp_epochs is not None:
            check("phase.ramp_epochs", ramp_epochs, int, 0)
        self.amount, self.initial_amount, self.schedule = amount, initial_amount, schedule
        self.ramp_epochs, self.scope = ramp_epochs, scope

    def begin(self, model: Any) -> Any:
        """The classifier to fine-tune: `model` itself."""
        if model.stage not in ("float", "pruned"):
            raise InputError(NOT_FLOAT)
        return model

    def finish(self, model: Any) -> Any:
        """The pruned classifier."""
        return model.with_net(model.net, stage="pruned")

    def amount_at(self, epoch: int, epochs: int) -> float:
        """Share of zeros in an epoch, counted from 0, of so many."""
        ramp = epochs // 2 if self.ramp_epochs is None else self.ramp_epochs
        if self.schedule == "constant" or epoch >= ramp:
            return self.amount
        left = 1 - epoch / ramp
        return self.amount + (self.initial_amount - self.amount) * left**3

    def on_fit_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Refuse a schedule that ends after training does.

        Raises:
            InputError: tells both numbers.
        """
        epochs = trainer.max_epochs or 1
        if (self.ramp_epochs or 0) >= epochs:
            raise InputError(
                f"phase.ramp_epochs={self.ramp_epochs} is not less than trainer.max_epochs={epochs}, so phase.amount "
                "would not be reached: give less"
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Prune anew: what was zero is smallest and stays so."""
        make_permanent(model.net)
        layers = [layer for layer in model.net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        amount = self.amount_at(trainer.current_epoch, trainer.max_epochs or 1)
        groups = [layers] if self.scope == "global" else [[layer] for layer in layers]
        for group in groups:
            masks = magnitude_masks([layer.weight.detach() for layer in group], amount)
            for layer, mask in zip(group, masks, strict=True):
                prune.custom_from_mask(layer, "weight", mask)

    def on_train_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Make the mask permanent."""
        make_permanent(model.net)


def check_amount(setting: str, amount: Any) -> None:
    """Refuse a share outside [0, 1).

    Raises:
        InputError: names the setting.
    """
    check(setting, amount, float, 0, 1)
    if amount == 1:
        raise InputError(f"{setting}={amount} would leave nothing: give less than 1")


def magnitude_masks(kernels: Sequence[Tensor], amount: float) -> list[Tensor]:
    """For each kernel 0 where its weights are of the share `amount` that is smallest in all of them, and else 1."""
    weights = torch.cat([kernel.flatten() for kernel in kernels])
    mask = prune.L1Unstructured(float(amount)).compute_mask(weights, torch.ones_like(weights))
    parts = mask.split([kernel.numel() for kernel in kernels])
    # in the memory layout of the kernel, which makes convolutions fast
    return [
        torch.empty_like(kernel).copy_(part.view(kernel.shape)) for kernel, part in zip(kernels, parts, strict=True)
    ]


def make_permanent(net: nn.Module) -> None:
    """Plain weights, with zeros where the masks are."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and prune.is_pruned(layer):
            prune.remove(layer, "weight")


class PruneFilters(pl.Callback):
    """The phase `prune_filters`: convolutions lose whole filters, and the network is really smaller and faster.

    The filters of the smallest L1 norm go at once (Li et al., 2017), then the smaller network is fine-tuned.

    Args:
        amount: share of each convolution's filters to remove; at least one filter stays.
    """

    def __init__(self, amount: float = 0.5):
        check_amount("phase.amount", amount)
        self.amount = amount

    def begin(self, model: Any) -> Any:
        """The classifier to fine-tune: a smaller one."""
        if model.stage not in ("float", "pruned"):
            raise InputError(NOT_FLOAT)
        check_chain(model.net, model.example_features())
        kept = strongest_filters(model.net, self.amount)
        net = {**model.hparams["net"], "filters": [len(indices) for indices in kept]}
        try:
            return model.with_net(without_filters(model.net, kept), net=net, stage="pruned")
        except (InstantiationException, RuntimeError) as error:
            raise InputError(
                f"{type(model.net).__name__} takes no filters=[...], one number for each convolution: "
                "give it this argument, or prune single weights by phase=prune"
            ) from error

    def finish(self, model: Any) -> Any:
        """The smaller classifier."""
        return model


def strongest_filters(net: nn.Module, amount: float) -> list[Tensor]:
    """For each convolution the indices of the filters that stay, those of largest L1 norm, in their old order."""
    kept = []
    for layer in chain(net):
        if isinstance(layer, nn.Conv2d):
            removed = min(round(amount * layer.out_channels), layer.out_channels - 1)
            mask = prune.LnStructured(removed, n=1, dim=0).compute_mask(layer.weight, torch.ones_like(layer.weight))
            kept.append(mask.flatten(1)[:, 0].nonzero().flatten())
    return kept


def without_filters(net: nn.Module, kept: Sequence[Tensor]) -> nn.Module:
    """A copy of `net` in which each convolution has the filters `kept`, and what follows takes their maps alone."""
    smaller = copy.deepcopy(net)
    maps, rest = torch.zeros(1, dtype=torch.long), iter(kept)
    channels = 1
    for layer in chain(smaller):
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
    """Leave only `indices` of an array of the layer."""
    array = getattr(layer, name)
    if array is not None:
        kept = array.detach().index_select(dim, indices)
        setattr(layer, name, nn.Parameter(kept) if isinstance(array, nn.Parameter) else kept)
