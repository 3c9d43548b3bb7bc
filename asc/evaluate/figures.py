"""All metrics of an evaluation, as in evaluation.json."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix

from asc.data.lists import TAU_NAME, Clip
from asc.metrics import compute_metrics

RESAMPLES, LEVEL = 2000, 0.95
BINS = 15  # number in the reliability diagram, as in Guo et al., 2017
FACTORS = {"label": "true", "scene": "scene", "city": "city", "device": "device"}  # columns to group clips by
MISTAKE = ["filename", "true", "predicted", "probability_of_true", "probability_of_predicted", "log_loss"]
TINY = float(np.finfo(np.float32).tiny)  # the smallest probability: float32 rounds smaller ones to 0


def clip_table(clips: Sequence[Clip], root: Path, labels: Sequence[str], probabilities: np.ndarray) -> pd.DataFrame:
    """A row for each clip: its properties, its prediction and their agreement.

    Args:
        clips: clips of the evaluation.
        root: the dataset's folder; file names are relative to it.
        labels: labels of the classifier.
        probabilities: probability of each label (clips, n_classes).

    Returns:
        Columns filename, true, predicted (labels), probability_of_true, probability_of_predicted, is_correct, log_loss,
        location, and scene, city and device where all file names have them.
    """
    names = [TAU_NAME.fullmatch(clip.path.stem) for clip in clips]
    table = pd.DataFrame([name.groupdict() if name else {} for name in names]).dropna(axis=1)
    rows = [(clip.name(root), clip.label, clip.location) for clip in clips]
    table[["filename", "true", "location"]] = pd.DataFrame(rows, dtype=object)
    table["predicted"] = np.array(labels)[probabilities.argmax(1)]
    table["probability_of_predicted"] = probabilities.max(1)
    index = [labels.index(clip.label) for clip in clips]
    table["probability_of_true"] = probabilities[np.arange(len(clips)), index]
    table["is_correct"] = table.predicted == table.true
    table["log_loss"] = -np.log(table.probability_of_true.clip(TINY))
    return table


def evaluation_figures(table: pd.DataFrame, labels: list[str], seed: int, worst: int) -> dict[str, Any]:
    """Metrics of a table of clips.

    Args:
        table: see `clip_table`.
        labels: labels of the classifier.
        seed: seed of the bootstrap.
        worst: number of mistakes to list.
    """
    bootstrap, everything = LocationBootstrap(table, seed), np.zeros(len(table), int)  # a single group
    matrix = torch.from_numpy(confusion_matrix(table.true, table.predicted, labels=labels))
    return {
        "clips": len(table),
        "locations": bootstrap.count,
        "test": asdict(compute_metrics(matrix, float(table.log_loss.mean()), labels)),
        "interval": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": seed,
            "macro_accuracy": bootstrap.interval(bootstrap.means("is_correct", table.true).mean(axis=1)),
            "accuracy": bootstrap.interval(bootstrap.means("is_correct", everything)[0]),
            "log_loss": bootstrap.interval(bootstrap.means("log_loss", everything)[0]),
        },
        "groups": {
            factor: group_figures(table, FACTORS[factor], labels, bootstrap) for factor in informative_factors(table)
        },
        "reliability": reliability(table),
        "worst": worst_mistakes(table, worst),
    }


class LocationBootstrap:
    """Confidence intervals from RESAMPLES draws of as many locations as there are, with replacement.

    Clips of a location resemble each other, so resampling single clips would give intervals that are too narrow.

    Args:
        table: clips with their locations.
        seed: seed of the draws.
    """

    def __init__(self, table: pd.DataFrame, seed: int = 0):
        self.table, self.count = table, table.location.nunique()
        share = np.full(self.count, 1 / self.count)
        # (resamples, locations): how often each location is drawn
        self.draws = np.random.default_rng(seed).multinomial(self.count, share, RESAMPLES).astype(float)

    def means(self, column: str, groups: Any) -> pd.DataFrame:
        """Means of a column in each resample and group (resamples, groups); NaN if no clip of the group is drawn."""
        by_location = self.table[column].astype(float).groupby([self.table.location, groups])
        sums, counts = by_location.sum().unstack(fill_value=0), by_location.size().unstack(fill_value=0)
        with np.errstate(invalid="ignore"):
            return pd.DataFrame((self.draws @ sums.values) / (self.draws @ counts.values), columns=sums.columns)

    def interval(self, statistic: pd.Series) -> list[float] | None:
        """The interval of a statistic (resamples,); None if there is a single location."""
        values = statistic.dropna()
        if self.count < 2 or values.empty:
            return None
        return values.quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def informative_factors(table: pd.DataFrame) -> list[str]:
    """The factors to group clips by: the label, and others with several values that are not the labels themselves."""
    others = [factor for factor in FACTORS if factor in table and table[factor].nunique() > 1]
    return ["label", *(factor for factor in others if (table[factor] != table.true).any())]


def group_figures(
    table: pd.DataFrame, column: str, labels: Sequence[str], bootstrap: LocationBootstrap
) -> dict[str, dict[str, Any]]:
    """Clips, locations, accuracy with its interval and log loss of each value of a column of `table`."""
    groups = table.groupby(column).agg(
        clips=("filename", "size"),
        locations=("location", "nunique"),
        accuracy=("is_correct", "mean"),
        accuracy_interval=("is_correct", lambda _: None),
        log_loss=("log_loss", "mean"),
    )
    groups = groups.loc[[label for label in labels if label in groups.index] or sorted(groups.index)]
    figures: dict = groups.to_dict("index")
    resampled = bootstrap.means("is_correct", table[column])
    for name, row in figures.items():
        row["accuracy_interval"] = bootstrap.interval(resampled[name]) if row["locations"] > 1 else None
    return figures


def reliability(table: pd.DataFrame) -> dict[str, Any]:
    """Expected calibration error (Naeini et al., 2015), mean confidence, and the non-empty bins of confidence.

    A bin has its edges (`high` belongs to the next bin, but 1 to the last), clips, mean confidence and accuracy.
    """
    edges = np.linspace(0, 1, BINS + 1)
    index = np.digitize(table.probability_of_predicted, edges[1:-1])
    bins = table.groupby(index).agg(
        clips=("filename", "size"), confidence=("probability_of_predicted", "mean"), accuracy=("is_correct", "mean")
    )
    error = ((bins.confidence - bins.accuracy).abs() * bins.clips).sum() / len(table)
    bins.insert(0, "low", edges[bins.index])
    bins.insert(1, "high", edges[bins.index + 1])
    return {
        "expected_calibration_error": float(error),
        "confidence": float(table.probability_of_predicted.mean()),
        "bins": bins.to_dict("records"),
    }


def worst_mistakes(table: pd.DataFrame, count: int) -> list[Any]:
    """The misclassified clips of highest cross-entropy, worst first."""
    mistakes = table[~table.is_correct].sort_values("log_loss", ascending=False, kind="stable")
    return mistakes.head(count)[MISTAKE].to_dict("records")
