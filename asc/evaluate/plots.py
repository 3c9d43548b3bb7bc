"""Plots of an evaluation: reliability diagram and accuracy by group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asc.evaluate.tables import HEADINGS
from asc.files import atomic_write
from asc.plot import display_name

MOST_GROUPS = 40  # in a panel; evaluation.json has all


def plot_reliability(reliability: dict[str, Any], path: Path) -> None:
    """Plot accuracy over confidence, and below it the number of clips of each confidence."""
    from matplotlib.figure import Figure  # pyplot would look for a display
    from matplotlib.ticker import MaxNLocator

    bins = reliability["bins"]
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middles = [(part["low"] + part["high"]) / 2 for part in bins]
    widths = [part["high"] - part["low"] for part in bins]
    upper.bar(middles, [part["accuracy"] for part in bins], widths, edgecolor="white", color="C0", label="accuracy")
    confidences = [part["confidence"] for part in bins]
    upper.plot(confidences, confidences, "o", color="C1", markersize=5, label="confidence")
    upper.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="perfectly reliable")
    error = reliability["expected_calibration_error"]
    upper.set(ylabel="fraction of right answers", ylim=(0, 1.02), title=f"Expected calibration error {error:.3f}")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    lower.bar(middles, [part["clips"] for part in bins], widths, edgecolor="white", color="grey")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="clips", xlim=(0, 1))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_groups(groups: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Plot accuracy by group with its interval, a panel for each way to group the clips."""
    from matplotlib.figure import Figure

    panels = {factor: list(rows.items())[:MOST_GROUPS] for factor, rows in groups.items()}
    heights = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(7, 1 + sum(0.55 + 0.26 * height for height in heights)), layout="constrained")
    for axes, (factor, rows) in zip(
        figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[h + 1 for h in heights])[:, 0],
        panels.items(),
        strict=True,
    ):
        plot_panel(axes, HEADINGS[factor], rows)
    axes.set(xlabel="accuracy; line: 95 % interval by bootstrap over locations; n: clips", xlim=(0, 1.02))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_panel(axes: Any, heading: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Plot the groups of one kind, first on top."""
    places = range(len(rows))
    accuracies = [figures["accuracy"] for _, figures in rows]
    axes.barh(places, accuracies, color="C0", alpha=0.3)
    axes.plot(accuracies, places, "o", color="C0", markersize=5, clip_on=False)
    for place, (_, figures) in zip(places, rows, strict=True):
        if figures["accuracy_interval"]:
            axes.plot(figures["accuracy_interval"], [place, place], color="C0", linewidth=1.2)
    names = [f"{display_name(name)}  n={figures['clips']}" for name, figures in rows]
    axes.set_yticks(places, names, parse_math=False, fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(f"by {heading}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
