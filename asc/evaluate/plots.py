"""Plots of an evaluation: reliability diagram and accuracy by group."""

from pathlib import Path
from typing import Any

import pandas as pd

from asc.evaluate.figures import BINS
from asc.evaluate.tables import HEADINGS
from asc.files import atomic_write
from asc.plot import display_name

MAX_GROUPS = 40  # in a panel; evaluation.json has all


def plot_reliability(table: pd.DataFrame, error: float, path: Path) -> None:
    """Plot accuracy over confidence of a table of clips, and below it the number of clips of each confidence."""
    from matplotlib.figure import Figure  # pyplot would look for a display
    from sklearn.calibration import CalibrationDisplay

    figure = Figure(figsize=(5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence = table.probability_of_predicted.clip(upper=1)
    CalibrationDisplay.from_predictions(table.is_correct, confidence, n_bins=BINS, ax=upper, name="classifier")
    upper.set(xlabel="", ylabel="accuracy", title=f"Expected calibration error {error:.3f}")
    lower.hist(confidence, BINS, range=(0, 1), edgecolor="white", color="grey")
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="clips", xlim=(0, 1))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_groups(groups: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Plot accuracy by group with its interval, a panel for each factor, the first group on top."""
    from matplotlib.figure import Figure

    panels = {factor: list(rows.items())[:MAX_GROUPS] for factor, rows in groups.items()}
    heights = [len(rows) + 1 for rows in panels.values()]
    figure = Figure(figsize=(7, 1 + 0.3 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, (factor, rows) in zip(grid[:, 0], panels.items(), strict=True):
        for place, (_, row) in enumerate(rows):
            axes.barh(place, row["accuracy"], color="C0", alpha=0.3)
            axes.plot(row["accuracy"], place, "o", color="C0", markersize=5, clip_on=False)
            if row["accuracy_interval"]:
                axes.plot(row["accuracy_interval"], [place, place], color="C0", linewidth=1.2)
        names = [f"{display_name(name)}  n={row['clips']}" for name, row in rows]
        axes.set_yticks(range(len(rows)), names, parse_math=False, fontsize=9)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(f"by {HEADINGS[factor]}", fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="accuracy; line: 95 % interval by bootstrap over locations; n: clips", xlim=(0, 1.02))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
