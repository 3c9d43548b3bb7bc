"""An evaluation as tables for the terminal, at most about 100 columns wide, and as plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from asc.errors import printable
from asc.files import atomic_write
from asc.plot import display_name
from asc.table import text_table

WIDTH = 100
MAX_ROWS, MAX_NAME = 25, 45  # rows of a table, and characters of a file name; evaluation.json has all
MAX_GROUPS = 40  # in a panel
HEADINGS = {"label": "class", "scene": "source scene", "city": "city", "device": "device"}
INTERVAL = "95 % interval"


def evaluation_tables(evaluation: dict[str, Any]) -> str:
    """All tables of an evaluation."""
    test, interval = evaluation["test"], evaluation["interval"]
    stage = f" ({evaluation['stage']})" if evaluation["stage"] else ""
    which = {"all": "all clips", "list": "the listed clips"}.get(
        evaluation["split"], f"the {evaluation['split']} clips"
    )
    figures = {"macro-average accuracy": "macro_accuracy", "accuracy": "accuracy", "log loss": "log_loss"}
    rows = [[name, f"{test[key]:.3f}", bounds(interval[key])] for name, key in figures.items()]
    blocks = [
        f"{printable(evaluation['checkpoint'])}{stage}\n"
        f"on {which} of {printable(evaluation['data'])}: "
        f"{evaluation['clips']:,} clips from {evaluation['locations']:,} locations",
        *(printable(f"note: {note}") for note in evaluation["notes"]),
        text_table(rows, ["", "value", INTERVAL]),
        *(group_table(HEADINGS[factor], groups) for factor, groups in evaluation["groups"].items()),
        confusion_table(test["confusion_matrix"], evaluation["labels"]),
        reliability_sentence(evaluation["reliability"], test["accuracy"]),
        worst_table(evaluation["worst"]),
    ]
    return "\n\n".join(blocks)


def bounds(interval: Sequence[float] | None) -> str:
    """An interval such as 0.812 to 0.901."""
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def group_table(heading: str, groups: dict[str, dict[str, Any]]) -> str:
    """Accuracy by group."""
    rows = []
    for name, row in groups.items():
        clips, locations = f"{row['clips']:,}", f"{row['locations']:,}"
        figures = f"{row['accuracy']:.3f}", bounds(row["accuracy_interval"]), f"{row['log_loss']:.3f}"
        rows.append([name, clips, locations, *figures])
    text = text_table(rows[:MAX_ROWS], [heading, "clips", "locations", "accuracy", INTERVAL, "log loss"])
    return text + (f"\nand {len(rows) - MAX_ROWS} more in evaluation.json" if len(rows) > MAX_ROWS else "")


def confusion_table(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Confusion matrix; columns are numbered if the labels are too long for headings."""
    rows = [[label, *(f"{count:,}" for count in row)] for label, row in zip(labels, matrix, strict=True)]
    text = text_table(rows, ["true \\ predicted", *labels])
    if len(text.partition("\n")[0]) > WIDTH:
        numbers = [str(number) for number in range(1, len(labels) + 1)]
        rows = [[f"{number} {row[0]}", *row[1:]] for number, row in zip(numbers, rows, strict=True)]
        text = text_table(rows, ["true \\ predicted", *numbers])
    return text


def reliability_sentence(reliability: dict[str, Any], accuracy: float) -> str:
    """Expected calibration error, and whether the classifier is over- or underconfident."""
    error, confidence = reliability["expected_calibration_error"], reliability["confidence"]
    side = "over" if confidence > accuracy else "under"
    return (
        f"expected calibration error {error:.3f}; mean confidence {confidence:.3f}, accuracy {accuracy:.3f}: "
        f"{side}confident by {abs(confidence - accuracy):.3f}"
    )


def worst_table(mistakes: Sequence[dict[str, Any]]) -> str:
    """The worst mistakes."""
    if not mistakes:
        return "no mistakes to list"
    rows = []
    for name, true, guess, of_true, of_guess, _ in (mistake.values() for mistake in mistakes):
        short = name if len(name) <= MAX_NAME else "..." + name[3 - MAX_NAME :]
        rows.append([short, true, f"{of_true:.3f}", guess, f"{of_guess:.3f}"])
    return text_table(rows, ["worst mistakes", "true", "probability", "predicted", "probability"])


def plot_reliability(reliability: dict[str, Any], path: Path) -> None:
    """Plot accuracy over confidence, and below it a histogram of the confidence."""
    from matplotlib.figure import Figure  # pyplot would need a display

    bins = pd.DataFrame(reliability["bins"])
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], "k:", label="perfectly calibrated")
    upper.plot(bins.confidence, bins.accuracy, "s-", label="classifier")
    upper.set(ylabel="accuracy", title=f"Expected calibration error {reliability['expected_calibration_error']:.3f}")
    upper.legend(loc="upper left")
    lower.bar(bins.low, bins.clips, bins.high - bins.low, align="edge", edgecolor="white", color="grey")
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
