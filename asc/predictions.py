"""Predictions of a set of clips: computed in batches, written to and read from CSV files."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asc.data.lists import Clip
from asc.errors import InputError
from asc.files import atomic_write, regular
from asc.inference import Classifier
from asc.metrics import Metrics, compute_metrics

ROUNDED_TO_ZERO = 5e-7  # at most, with the six digits of the file
TINY = float(np.finfo(np.float32).tiny)  # the smallest probability: float32 rounds smaller ones to 0


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions for a set of clips.

    Attributes:
        labels: names of the scenes.
        targets: index of each clip's true label (clips,).
        probabilities: of each label (clips, n_classes).
    """

    labels: list[str]
    targets: np.ndarray
    probabilities: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """Index of the most probable label (clips,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether that is the true one (clips,)."""
        return self.predicted == self.targets

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable label (clips,)."""
        return self.probabilities.max(1)

    @cached_property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each clip (clips,)."""
        return -np.log(self.probabilities[np.arange(len(self.targets)), self.targets].clip(TINY))

    @cached_property
    def confusion_matrix(self) -> Tensor:
        """Numbers of clips (n_classes, n_classes); row = true class, column = predicted class."""
        matrix = np.zeros((len(self.labels),) * 2, np.int64)
        np.add.at(matrix, (self.targets, self.predicted), 1)
        return torch.from_numpy(matrix)

    def metrics(self) -> Metrics:
        """Metrics of these predictions, as in a run's test."""
        return compute_metrics(self.confusion_matrix, float(self.losses.mean()), self.labels)


def predict(predictor: Classifier, batches: Iterable[Sequence[Tensor]], clips: int) -> np.ndarray:
    """Probabilities (clips, n_classes), computed batch by batch.

    Args:
        predictor: the classifier.
        batches: of [wave (batch, samples), target]; the targets are not used.
        clips: number of clips, for the progress bar.

    Raises:
        InputError: a probability is NaN.
    """
    rows = []
    with tqdm(total=clips, unit=" clips", leave=False, disable=None, delay=2) as bar:
        for waves, _ in batches:
            rows.append(predictor.probabilities(waves.numpy()))
            bar.update(len(waves))
    probabilities = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise InputError("the classifier answers with NaN: its weights are damaged, use another checkpoint")
    return probabilities


def write_predictions(
    path: Path, root: Path, clips: Sequence[Clip], labels: Sequence[str], probabilities: Iterable[Sequence[float]]
) -> None:
    """Write a row for each clip: filename (below `root`), scene_label, and the probability of each label.

    The name of a clip from within a recording ends with "#t=SECONDS".

    Raises:
        WriteError: the file cannot be written.
    """
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file)
        table.writerow(["filename", "scene_label", *labels])
        for clip, row in zip(clips, probabilities, strict=False):  # trainer.limit_test_batches
            table.writerow([clip.name(root), clip.label, *(f"{value:.6f}" for value in row)])


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        InputError: the file is missing, or not one of `write_predictions`.
    """
    try:
        with open(regular(path), newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        labels = header[2:]
        targets = [labels.index(row[1]) for row in rows]
        probabilities = np.array([row[2:] for row in rows], float).reshape(len(rows), len(labels))
        is_good = ((probabilities >= 0) & (probabilities <= 1)).all()  # NaN is not
        if header[:2] != ["filename", "scene_label"] or not rows or not is_good:
            raise ValueError("not a table of predictions")
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise InputError(f"{path} is not what a finished run writes: repeat the run") from error
    return Predictions(labels, np.array(targets), probabilities.clip(ROUNDED_TO_ZERO))
