"""The worst mistakes of the systems for one task, from the predictions.csv of their runs."""

import contextlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from asc.report.systems import System, Task
from asc.results import read_predictions

MIN_PROBABILITY = 5e-7  # predictions.csv has six decimals


class Prediction(NamedTuple):
    """A system's label for a clip, its mean probability over the runs, and the probability of the true label."""

    system: System
    label: str
    probability: float
    of_true_label: float


class Mistake(NamedTuple):
    """A clip that a system misclassifies: its file below the dataset's folder, its true label, and the predictions."""

    filename: str
    scene: str
    predictions: list[Prediction]


def worst_mistakes(task: Task, count: int) -> list[Mistake]:
    """The misclassified clips whose true scene got the lowest probability, on average over the runs.

    Raises:
        InputError: a predictions.csv is not of a run for this task.
    """
    tables, keys = [], []
    for index, system in enumerate(task.systems):
        for run in system.runs:
            with contextlib.suppress(FileNotFoundError):
                table = read_predictions(run.directory / "predictions.csv", task.labels)
                tables.append(table.set_index(["filename", "scene_label"]))
                keys.append(index)
    if not tables:
        return []
    runs = pd.concat(tables, keys=keys)  # rows (system, filename, scene) of probabilities of each label
    true = runs.columns.get_indexer(runs.index.get_level_values(2))
    losses = pd.Series(-np.log(runs.to_numpy()[range(len(runs)), true].clip(MIN_PROBABILITY)), runs.index)
    means = runs.groupby(level=[0, 1, 2], sort=False).mean()
    is_wrong = means.idxmax(axis=1) != means.index.get_level_values(2)
    wrong = is_wrong.groupby(level=[1, 2]).any()
    order = losses.groupby(level=[1, 2]).mean()[wrong].sort_values(ascending=False, kind="stable")
    mistakes = []
    for filename, scene in order.index[:count]:
        predictions = []
        for index, system in enumerate(task.systems):
            if (index, filename, scene) in means.index:
                row: dict = means.xs((index, filename, scene)).to_dict()
                label = max(row, key=row.__getitem__)
                predictions.append(Prediction(system, label, row[label], row[scene]))
        mistakes.append(Mistake(filename, scene, predictions))
    return mistakes
