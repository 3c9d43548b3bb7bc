"""Classification metrics."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt
from torch import Tensor

UnitInterval = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of clips; accuracies are fractions in [0, 1].

    Attributes:
        accuracy: fraction of correctly classified clips.
        macro_accuracy: macro-average accuracy (mean recall over classes), DCASE's ranking metric.
        log_loss: mean cross-entropy, as scikit-learn's `log_loss`.
        class_accuracy: recall by label; None for a class without clips, which macro_accuracy ignores.
        confusion_matrix: numbers of clips; row = true class, column = predicted class.
    """

    accuracy: UnitInterval
    macro_accuracy: UnitInterval
    log_loss: NonNegative
    class_accuracy: dict[str, UnitInterval | None]
    confusion_matrix: list[list[NonNegativeInt]]


def compute_metrics(matrix: Tensor, log_loss: float, labels: list[str]) -> Metrics:
    """Metrics from a confusion matrix (n_classes, n_classes) and the log loss."""
    correct, clips = matrix.diag().double(), matrix.sum(1)
    recall = correct / clips  # nan where a class has no clips
    return Metrics(
        accuracy=(correct.sum() / clips.sum()).item(),
        macro_accuracy=recall.nanmean().item(),
        log_loss=log_loss,
        class_accuracy={k: None if math.isnan(v) else v for k, v in zip(labels, recall.tolist(), strict=True)},
        confusion_matrix=matrix.tolist(),
    )
