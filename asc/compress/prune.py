"""The phase `prune`: weights of small magnitude become zero while the network is fine-tuned."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor
from torch.nn.utils.prune import L1Unstructured

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase, check_float
from asc.errors import InputError
from asc.quantization.quantize import kernels
from asc.settings import BelowOne, checked


class Prune(Phase):
    """Set the weights of smallest magnitude in convolutions and dense layers to zero.

    From epoch to epoch the fraction of zeros grows by the schedule, and training goes on with the other weights (Zhu
    and Gupta, 2017; TensorFlow Model Optimization's PolynomialDecay).

    Args:
        amount: fraction of the weights that are zero in the end; or a list, the fraction of each kernel in the
            network's order.
        initial_amount: fraction in the first epoch.
        schedule: "polynomial", initial + (amount - initial) * (1 - (1 - t)^3), or "constant", `amount` at once.
        ramp_epochs: epochs until `amount` is reached; None: half of all.
        scope: "layer", the same fraction of each kernel, or "global", the smallest of all kernels together.
    """

    @checked("phase")
    def __init__(
        self,
        amount: BelowOne | Annotated[Sequence[BelowOne], Field(min_length=1)] = 0.5,
        initial_amount: BelowOne = 0.0,
        schedule: Literal["polynomial", "constant"] = "polynomial",
        ramp_epochs: NonNegativeInt | None = None,
        scope: Literal["layer", "global"] = "layer",
    ):
        self.by_layer = isinstance(amount, Sequence)
        self.amounts = list(amount) if isinstance(amount, Sequence) else [amount]
        if initial_amount > min(self.amounts):
            raise InputError(f"invalid phase.initial_amount={initial_amount}: expected at most phase.amount={amount}")
        if self.by_layer and scope == "global":
            raise InputError(f"invalid phase.scope=global with phase.amount={amount}: a list is for phase.scope=layer")
        self.amount, self.initial_amount, self.schedule = amount, initial_amount, schedule
        self.ramp_epochs, self.scope = ramp_epochs, scope
        self.masks: list[tuple[Tensor, Tensor]] = []

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """The classifier to fine-tune: `model` itself."""
        self.refuse_others(others)
        check_float(model)
        there = len(list(kernels(model.net)))
        if self.by_layer and len(self.amounts) != there:
            raise InputError(
                f"phase.amount is a list of {len(self.amounts)}, but {type(model.net).__name__} has {there} kernels: "
                "give a fraction for each, or one for all"
            )
        for kernel in kernels(model.net):
            # a product's memory layout, as in earlier versions: the rounding of convolutions depends on it
            kernel.data = kernel.data * torch.ones_like(kernel)
        return model

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model.with_net(model.net, stage="pruned")

    def amount_at(self, epoch: int, epochs: int, amount: float | None = None) -> float:
        """Fraction of zeros in `epoch`, from 0, of `epochs`, on the way to `amount`; None: the first kernel's."""
        final = self.amounts[0] if amount is None else amount
        ramp = epochs // 2 if self.ramp_epochs is None else self.ramp_epochs
        if self.schedule == "constant" or epoch >= ramp:
            return final
        left = 1 - epoch / ramp
        return final + (self.initial_amount - final) * left**3

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Refuse a schedule that ends after training does.

        Raises:
            InputError: gives both numbers.
        """
        epochs = trainer.max_epochs or 1
        if (self.ramp_epochs or 0) >= epochs:
            raise InputError(
                f"phase.ramp_epochs={self.ramp_epochs} is not less than trainer.max_epochs={epochs}, so phase.amount "
                "would not be reached: give less"
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Choose the zeros again, for all weights: earlier zeros have the smallest magnitude and stay."""
        every = list(kernels(model.net))
        groups = [every] if self.scope == "global" else [[kernel] for kernel in every]
        amounts = self.amounts if self.by_layer else self.amounts * len(groups)
        self.masks = []
        for group, final in zip(groups, amounts, strict=True):
            amount = self.amount_at(trainer.current_epoch, trainer.max_epochs or 1, final)
            self.masks += zip(group, magnitude_masks(group, amount), strict=True)
        apply_masks(self.masks)

    def on_train_batch_end(self, trainer: pl.Trainer, model: SceneClassifier, *args: Any) -> None:
        """Put the zeros back after the optimizer's step."""
        apply_masks(self.masks)

    def on_train_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Put the zeros into weights that were averaged over epochs, too."""
        apply_masks(self.masks)


@torch.no_grad()
def apply_masks(masks: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Set the weights of each kernel to zero where its mask is 0."""
    for kernel, mask in masks:
        kernel.mul_(mask)


@torch.no_grad()
def magnitude_masks(group: Sequence[Tensor], amount: float) -> list[Tensor]:
    """For each kernel 1, and 0 at the fraction `amount` of the weights of all kernels that is smallest in magnitude."""
    weights = torch.cat([kernel.flatten() for kernel in group])
    mask = L1Unstructured(float(amount)).compute_mask(weights, torch.ones_like(weights))
    parts = mask.split([kernel.numel() for kernel in group])
    # in the memory layout of the kernel, which makes convolutions fast
    return [torch.empty_like(kernel).copy_(part.view(kernel.shape)) for kernel, part in zip(group, parts, strict=True)]
