"""Reliability of the probabilities: of the clips given 80 %, are 80 % right?"""

from dataclasses import dataclass

import numpy as np

from asc.predictions import Predictions

BINS = 15  # as Guo et al., 2017


@dataclass(frozen=True)
class Bin:
    """The clips whose confidence, the highest of their probabilities, lies from `low` to `high`.

    Attributes:
        low, high: edges; `high` belongs to the next bin, but 1 to the last.
        clips: number of clips.
        confidence: mean of these clips.
        accuracy: fraction of them that is right.
    """

    low: float
    high: float
    clips: int
    confidence: float
    accuracy: float


def reliability(predictions: Predictions) -> list[Bin]:
    """The bins that hold clips, in order of confidence."""
    edges = np.linspace(0, 1, BINS + 1)
    index = np.digitize(predictions.confidence, edges[1:-1])
    return [
        Bin(
            low=edges[number].item(),
            high=edges[number + 1].item(),
            clips=int(inside.sum()),
            confidence=predictions.confidence[inside].mean().item(),
            accuracy=predictions.correct[inside].mean().item(),
        )
        for number in np.unique(index)
        for inside in [index == number]
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance between confidence and accuracy, weighted by the clips in each bin (Naeini et al., 2015)."""
    return sum(part.clips * abs(part.confidence - part.accuracy) for part in bins) / sum(part.clips for part in bins)
