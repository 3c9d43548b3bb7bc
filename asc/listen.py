"""Listen to a recording: the scene in each of its windows, by a classifier in torch or in ONNX Runtime."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from asc.sound import windows


class Predictor(Protocol):
    """A trained classifier: `SceneClassifier` and `asc.onnx_predictor.OnnxPredictor`.

    Attributes:
        labels: names of the scenes, in the order of the probabilities.
        sample_rate: Hz of the waveforms.
        clip_samples: samples of a waveform.
        min_samples: samples that a file must have at `sample_rate`.
        channel: channel of a file to listen to: index from 0, or "mean".
    """

    labels: list[str]
    clip_samples: int
    channel: int | str

    @property
    def sample_rate(self) -> int: ...

    @property
    def min_samples(self) -> int: ...

    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        """Probabilities (batch, n_classes) of waves (batch, clip_samples), mono in [-1, 1], float32."""
        ...


@dataclass(frozen=True)
class Window:
    """The scene in a part of a recording: from `start` to `end` in seconds, with the probability of each label."""

    start: float
    end: float
    probabilities: np.ndarray


def listen(predictor: Predictor, path: Path, hop: float | None = None, batch_size: int = 1) -> Iterator[Window]:
    """The windows of a recording in order; memory does not grow with its length.

    Args:
        predictor: the classifier.
        path: the sound file, of any rate, channels and length.
        hop: seconds from one window to the next; None: no overlap. The last window ends with the file.
        batch_size: windows to compute together.

    Raises:
        InputError: the file is not readable or too short.
    """
    rate, samples = predictor.sample_rate, predictor.clip_samples
    parts = windows(path, rate, predictor.channel, samples, hop, shortest=predictor.min_samples)
    while batch := [part for _, part in zip(range(batch_size), parts, strict=False)]:
        probabilities = predictor.probabilities(np.stack([wave for _, wave in batch]))
        for (start, _), row in zip(batch, probabilities, strict=True):
            yield Window(start / rate, (start + samples) / rate, row)
