"""Metrics of a set of classified clips."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of clips; accuracies are fractions in [0, 1].

    Attributes:
        accuracy: of all clips.
        macro_accuracy: mean of the classes' accuracies (recalls), by which DCASE ranks.
        log_loss: mean negative logarithm of the true class's probability, scikit-learn's `log_loss`.
        class_accuracy: by label; None for a class without clips, which macro_accuracy leaves out.
        confusion_matrix: clips, row = true class, column = predicted class.
    """

    accuracy: float
    macro_accuracy: float
    log_loss: float
    class_accuracy: dict[str, float | None]
    confusion_matrix: list[list[int]]


def compute_metrics(matrix: Tensor, log_loss: float, labels: list[str]) -> Metrics:
    """Metrics of a confusion matrix (n_classes, n_classes) and the log loss."""
    correct, clips = matrix.diag().double(), matrix.sum(1)
    recall = correct / clips  # nan where a class has no clips
    return Metrics(
        accuracy=(correct.sum() / clips.sum()).item(),
        macro_accuracy=recall.nanmean().item(),
        log_loss=log_loss,
        class_accuracy={k: None if math.isnan(v) else v for k, v in zip(labels, recall.tolist(), strict=True)},
        confusion_matrix=matrix.tolist(),
    )
