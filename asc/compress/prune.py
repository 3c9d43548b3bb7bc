"""The phase `prune`: weights of small magnitude become zero while the network is fine-tuned."""

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase
from asc.errors import InputError, check_choice, check_number


class Prune(Phase):
    """Kernels of convolutions and dense layers lose their weights of smallest magnitude.

    At each epoch the fraction that is to be zero grows by the schedule, and training goes on with the rest
    (Zhu and Gupta, 2017; TensorFlow Model Optimization's PolynomialDecay).

    Args:
        amount: fraction of the weights that are zero in the end; or a list, the fraction of each kernel in the
            network's order.
        initial_amount: fraction in the first epoch.
        schedule: "polynomial", initial + (amount - initial) * (1 - (1 - t)^3), or "constant", `amount` at once.
        ramp_epochs: epochs until `amount` is reached; None: half of all.
        scope: "layer", the same fraction of each kernel, or "global", the smallest of all kernels together.
    """

    def __init__(
        self,
        amount: float | Sequence[float] = 0.5,
        initial_amount: float = 0.0,
        schedule: Literal["polynomial", "constant"] = "polynomial",
        ramp_epochs: int | None = None,
        scope: Literal["layer", "global"] = "layer",
    ):
        self.by_layer = isinstance(amount, Sequence) and not isinstance(amount, str)
        self.amounts: list[float] = list(amount) if self.by_layer else [amount]  # type: ignore[arg-type, list-item]
        for fraction in self.amounts:
            check_amount("phase.amount", fraction)
        check_amount("phase.initial_amount", initial_amount)
        if initial_amount > min(self.amounts, default=1):
            raise InputError(f"invalid phase.initial_amount={initial_amount}: expected at most phase.amount={amount}")
        if self.by_layer and scope == "global":
            raise InputError(f"invalid phase.scope=global with phase.amount={amount}: a list is for phase.scope=layer")
        check_choice("phase.schedule", schedule, ("polynomial", "constant"))
        check_choice("phase.scope", scope, ("layer", "global"))
        if ramp_epochs is not None:
            check_number("phase.ramp_epochs", ramp_epochs, int, 0)
        self.initial_amount, self.schedule = initial_amount, schedule
        self.ramp_epochs, self.scope = ramp_epochs, scope

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """The classifier to fine-tune: `model` itself."""
        self.refuse_others(others)
        check_float(model)
        kernels = len(prunable(model.net))
        if self.by_layer and len(self.amounts) != kernels:
            raise InputError(
                f"phase.amount is a list of {len(self.amounts)}, but {type(model.net).__name__} has {kernels} kernels: "
                "give a fraction for each, or one for all"
            )
        return model

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """The pruned classifier."""
        return model.with_net(model.net, stage="pruned")

    def amount_at(self, epoch: int, epochs: int, amount: float | None = None) -> float:
        """Fraction of zeros in an epoch, counted from 0, of so many, on the way to `amount`, by default the first."""
        final = self.amounts[0] if amount is None else amount
        ramp = epochs // 2 if self.ramp_epochs is None else self.ramp_epochs
        if self.schedule == "constant" or epoch >= ramp:
            return final
        left = 1 - epoch / ramp
        return final + (self.initial_amount - final) * left**3

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
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

    def on_train_epoch_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Prune anew: what was zero is smallest and stays so."""
        make_permanent(model.net)
        layers = prunable(model.net)
        groups = [layers] if self.scope == "global" else [[layer] for layer in layers]
        amounts = self.amounts if self.by_layer else self.amounts * len(groups)
        for group, final in zip(groups, amounts, strict=True):
            amount = self.amount_at(trainer.current_epoch, trainer.max_epochs or 1, final)
            masks = magnitude_masks([layer.weight.detach() for layer in group], amount)
            for layer, mask in zip(group, masks, strict=True):
                prune.custom_from_mask(layer, "weight", mask)

    def on_train_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Make the mask permanent."""
        make_permanent(model.net)


def check_float(model: SceneClassifier) -> None:
    """Refuse a quantized classifier.

    Raises:
        InputError: says which checkpoint to give.
    """
    if model.stage not in ("float", "pruned"):
        raise InputError(
            "the checkpoint is quantized already: prune best.ckpt or pruned.ckpt of its origin, then quantize"
        )


def check_amount(setting: str, amount: Any) -> None:
    """Refuse a fraction outside [0, 1).

    Raises:
        InputError: names the setting.
    """
    check_number(setting, amount, float, 0, 1)
    if amount == 1:
        raise InputError(f"invalid {setting}={amount}: expected less than 1, which would leave nothing")


def magnitude_masks(kernels: Sequence[Tensor], amount: float) -> list[Tensor]:
    """For each kernel 0 where its weights are of the fraction `amount` that is smallest in all of them, and else 1."""
    weights = torch.cat([kernel.flatten() for kernel in kernels])
    mask = prune.L1Unstructured(float(amount)).compute_mask(weights, torch.ones_like(weights))
    parts = mask.split([kernel.numel() for kernel in kernels])
    # in the memory layout of the kernel, which makes convolutions fast
    return [
        torch.empty_like(kernel).copy_(part.view(kernel.shape)) for kernel, part in zip(kernels, parts, strict=True)
    ]


def prunable(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers whose kernels are pruned, in the network's order."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def make_permanent(net: nn.Module) -> None:
    """Plain weights, with zeros where the masks are."""
    for layer in prunable(net):
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")
