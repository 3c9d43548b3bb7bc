"""The phase `prune`: weights of small magnitude become zero while the network is fine-tuned."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import pytorch_lightning as pl
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase
from asc.errors import InputError
from asc.settings import BelowOne, checked


class Prune(Phase):
    """Set the weights of smallest magnitude in convolutions and dense layers to zero.

    The fraction of zeros grows by epoch, following the schedule, while the other weights are trained (Zhu and Gupta,
    2017; TensorFlow Model Optimization's PolynomialDecay).

    Args:
        amount: final fraction of zeros; or a list, the fraction of each layer in the network's order.
        initial_amount: fraction in the first epoch.
        schedule: "polynomial", initial + (amount - initial) * (1 - (1 - t)^3), or "constant", `amount` at once.
        ramp_epochs: epochs until `amount` is reached; None: half of the epochs.
        scope: "layer", the same fraction of each layer, or "global", the smallest weights of all layers.
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
        if initial_amount > (min(amount) if isinstance(amount, Sequence) else amount):
            raise InputError(f"invalid phase.initial_amount={initial_amount}: expected at most phase.amount={amount}")
        if isinstance(amount, Sequence) and scope == "global":
            raise InputError(f"invalid phase.scope=global: expected layer for a list of amounts, phase.amount={amount}")
        self.amount, self.initial_amount, self.schedule = amount, initial_amount, schedule
        self.ramp_epochs, self.scope = ramp_epochs, scope

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return a copy of `model`."""
        self.check_source(model, others)
        layers = len(list(weight_tensors(model.net)))
        if isinstance(self.amount, Sequence) and len(self.amount) != layers:
            raise InputError(
                f"invalid phase.amount={self.amount}: expected a fraction for each of the {layers} layers with weights "
                f"of {type(model.net).__name__}, or one for all"
            )
        return model.with_net(model.net)

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model.with_net(model.net, stage="pruned")

    def amount_at(self, epoch: int, epochs: int, amount: float) -> float:
        """Fraction of zeros in `epoch`, from 0, of `epochs`, on the way to `amount`."""
        ramp = epochs // 2 if self.ramp_epochs is None else self.ramp_epochs
        if self.schedule == "constant" or epoch >= ramp:
            return amount
        return amount + (self.initial_amount - amount) * (1 - epoch / ramp) ** 3

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Reject a schedule that ends after training does.

        Raises:
            InputError: names both settings.
        """
        epochs = trainer.max_epochs or 1
        if (self.ramp_epochs or 0) >= epochs:
            raise InputError(
                f"invalid phase.ramp_epochs={self.ramp_epochs}: expected less than trainer.max_epochs={epochs}, "
                "or phase.amount would not be reached"
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Choose the zeros again among all weights: earlier zeros have the smallest magnitude and stay."""
        tensors = list(weight_tensors(model.net))
        groups = [tensors] if self.scope == "global" else [[tensor] for tensor in tensors]
        amounts = self.amount if isinstance(self.amount, Sequence) else [self.amount] * len(groups)
        self.masks = []
        for group, final in zip(groups, amounts, strict=True):
            amount = self.amount_at(trainer.current_epoch, trainer.max_epochs or 1, final)
            self.masks += zip(group, magnitude_masks(group, amount), strict=True)
        self.apply_masks()


def weight_tensors(net: nn.Module) -> Iterator[Tensor]:
    """The weights of each convolution and dense layer, in the network's order."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield layer.weight


@torch.no_grad()
def magnitude_masks(tensors: Sequence[Tensor], amount: float) -> list[Tensor]:
    """Masks with the tensors' shapes: 0 for the fraction `amount` of smallest magnitude in all tensors, else 1."""
    values = torch.cat([tensor.flatten() for tensor in tensors])
    mask = L1Unstructured(float(amount)).compute_mask(values, torch.ones_like(values))
    parts = zip(tensors, mask.split([tensor.numel() for tensor in tensors]), strict=True)
    # in the tensor's memory layout, which makes convolutions fast
    return [torch.empty_like(tensor).copy_(part.view(tensor.shape)) for tensor, part in parts]
