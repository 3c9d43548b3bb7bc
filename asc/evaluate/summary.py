"""All figures of an evaluation, as in evaluation.json."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from asc.data.lists import Clip
from asc.evaluate.bootstrap import LEVEL, RESAMPLES, LocationBootstrap
from asc.evaluate.groups import group_clips
from asc.evaluate.reliability import expected_calibration_error, reliability
from asc.predictions import Predictions


def summarize(predictions: Predictions, clips: Sequence[Clip], root: Path, seed: int, worst: int) -> dict[str, Any]:
    """The figures of a set of clips.

    Args:
        predictions: of these clips.
        clips: in the same order.
        root: of the dataset; file names are given below it.
        seed: of the bootstrap.
        worst: number of mistakes to list.
    """
    bootstrap = LocationBootstrap([clip.location for clip in clips], seed)
    bins = reliability(predictions)
    return {
        "clips": len(clips),
        "locations": bootstrap.count,
        "test": asdict(predictions.metrics()),
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "seed": seed, **intervals(predictions, bootstrap)},
        "groups": {
            factor: group_figures(predictions, clips, values, bootstrap)
            for factor, values in group_clips(clips).items()
        },
        "reliability": {
            "expected_calibration_error": expected_calibration_error(bins),
            "confidence": predictions.confidence.mean().item(),
            "bins": [asdict(part) for part in bins],
        },
        "worst": worst_mistakes(predictions, clips, root, worst),
    }


def intervals(predictions: Predictions, bootstrap: LocationBootstrap) -> dict[str, list[float] | None]:
    """Confidence intervals of the three figures for all clips."""
    by_class = np.eye(len(predictions.labels))[predictions.targets]  # (clips, n_classes)
    all_clips = np.ones((len(predictions.targets), 1))
    recall = np.ma.masked_invalid(bootstrap.mean(predictions.correct, by_class))
    return {
        "macro_accuracy": bootstrap.interval(recall.mean(1).filled(np.nan)),
        "accuracy": bootstrap.interval(bootstrap.mean(predictions.correct, all_clips)[:, 0]),
        "log_loss": bootstrap.interval(bootstrap.mean(predictions.losses, all_clips)[:, 0]),
    }


def group_figures(
    predictions: Predictions, clips: Sequence[Clip], values: Sequence[str], bootstrap: LocationBootstrap
) -> dict[str, dict[str, Any]]:
    """For each group, its clips, locations, accuracy with its interval, and log loss."""
    names = [label for label in predictions.labels if label in set(values)] or sorted(set(values))
    inside = np.array(values)[:, None] == np.array(names)  # (clips, n_groups)
    resampled = bootstrap.mean(predictions.correct, inside)
    figures = {}
    for name, members, statistic in zip(names, inside.T, resampled.T, strict=True):
        locations = len({clip.location for clip, member in zip(clips, members, strict=True) if member})
        figures[name] = {
            "clips": int(members.sum()),
            "locations": locations,
            "accuracy": predictions.correct[members].mean().item(),
            "accuracy_interval": bootstrap.interval(statistic) if locations > 1 else None,
            "log_loss": predictions.losses[members].mean().item(),
        }
    return figures


def worst_mistakes(predictions: Predictions, clips: Sequence[Clip], root: Path, most: int) -> list[dict[str, Any]]:
    """The wrongly classified clips with the highest cross-entropy, worst first."""
    order = np.argsort(-predictions.losses, kind="stable")
    rows = []
    for index in order[~predictions.correct[order]][:most]:
        target, predicted = predictions.targets[index], predictions.predicted[index]
        rows.append(
            {
                "filename": clips[index].name(root),
                "true": predictions.labels[target],
                "predicted": predictions.labels[predicted],
                "probability_of_true": predictions.probabilities[index, target].item(),
                "probability_of_predicted": predictions.probabilities[index, predicted].item(),
                "log_loss": predictions.losses[index].item(),
            }
        )
    return rows
