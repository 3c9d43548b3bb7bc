"""The phase `distill`: a network learns from the answers of others (Hinton et al., 2015)."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase
from asc.errors import InputError, check_number


class Distill(Phase):
    """A new network, the student, is trained to answer as its teachers do on average, on the same augmented clips.

    Args:
        net: Hydra node of the student's network; None: that of the first teacher.
        temperature: of both sides of the loss: above 1, the teachers' doubts count.
    """

    def __init__(self, net: dict | None = None, temperature: float = 2.0):
        check_number("phase.temperature", temperature, float, 0.1, 100)
        self.net, self.temperature = net, float(temperature)
        self.teachers: list[SceneClassifier] = []

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """The student, untrained."""
        self.teachers = [model, *others]
        for teacher in others:
            shared = ("frontend", "labels", "clip_samples")
            differing = [name for name in shared if teacher.hparams[name] != model.hparams[name]]
            if differing:
                raise InputError(f"the teachers have another {', '.join(differing)}: give checkpoints that share these")
        student = {"net": self.net or model.hparams["net"], "stage": "float", "quantization": None}
        classifier = SceneClassifier(**{**model.hparams, **student})
        classifier.frontend.load_state_dict(model.frontend.state_dict())
        return classifier

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """The trained student."""
        return model.eval()

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Bring the teachers to the student's device."""
        model.temperature = self.temperature
        self.teachers = [teacher.to(model.device).eval() for teacher in self.teachers]

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Targets are the teachers' answers to the augmented clips."""
        batch[1] = self.answers(batch[0])

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """Mean of the teachers' soft labels (batch, n_classes) of features x (batch, 1, n_bins, frames)."""
        soft = [(teacher.net(x).float() / self.temperature).softmax(-1) for teacher in self.teachers]
        return torch.stack(soft).mean(0)

    def on_train_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """The student stands for itself."""
        model.temperature = 1.0
