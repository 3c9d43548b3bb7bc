"""The phase `distill`: knowledge distillation (Hinton et al., 2015)."""

from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor

from asc.classifier import SceneClassifier, kl_divergence
from asc.compress.phase import Phase
from asc.errors import InputError
from asc.settings import checked


class Distill(Phase):
    """Train a new network, the student, on the average predictions of its teachers for the same augmented clips.

    Args:
        net: Hydra node of the student's network; None: that of the first teacher.
        temperature: softmax temperature of teachers and student; above 1 it softens the predictions.
    """

    @checked("phase")
    def __init__(self, net: dict[str, Any] | None = None, temperature: Annotated[float, Field(ge=0.1, le=100)] = 2.0):
        self.net, self.temperature = net, temperature
        self.teachers: list[SceneClassifier] = []

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return the untrained student."""
        self.teachers = [model, *others]
        for name in ("frontend", "labels", "clip_samples"):
            if any(teacher.hparams[name] != model.hparams[name] for teacher in others):
                raise InputError(f"invalid checkpoint: expected teachers with the same {name}")
        changes = {"net": self.net or model.hparams["net"], "stage": "float", "quantization": None}
        student = type(model)(**{**model.hparams, **changes, "backbone_lr_scale": 1.0})
        student.frontend.load_state_dict(model.frontend.state_dict())
        return student

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model.eval()

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        model.loss = self.loss
        self.teachers = [teacher.to(model.device).eval() for teacher in self.teachers]

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        batch[1] = self.soft_targets(batch[0])

    @torch.no_grad()
    def soft_targets(self, x: Tensor) -> Tensor:
        """The teachers' mean probabilities (batch, n_classes) for features x (batch, 1, n_bins, frames)."""
        probabilities = [(teacher.net(x).float() / self.temperature).softmax(-1) for teacher in self.teachers]
        return torch.stack(probabilities).mean(0)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """T^2 times the divergence at temperature T: the factor keeps the scale of the gradients."""
        return self.temperature**2 * kl_divergence(logits / self.temperature, target)

    def on_train_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        model.loss = model.adjusted_divergence
