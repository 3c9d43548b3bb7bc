"""An evaluation as tables for the terminal, at most about 100 columns wide."""

from collections.abc import Sequence
from typing import Any

from asc.errors import printable
from asc.evaluate.bootstrap import LEVEL

WIDTH = 100
MOST_ROWS = 25  # of a table; evaluation.json has all
HEADINGS = {"label": "class", "scene": "source scene", "city": "city", "device": "device"}


def evaluation_tables(evaluation: dict[str, Any]) -> str:
    """All tables of an evaluation."""
    test, interval, labels = evaluation["test"], evaluation["interval"], evaluation["labels"]
    source = f"{evaluation['checkpoint']} ({evaluation['stage']})" if evaluation["stage"] else evaluation["checkpoint"]
    figures = {"macro-average accuracy": "macro_accuracy", "accuracy": "accuracy", "log loss": "log_loss"}
    blocks = [
        f"{source}\non the {evaluation['split']} clips of {evaluation['data']}: "
        f"{evaluation['clips']:,} clips from {evaluation['locations']:,} locations",
        *(f"note: {note}" for note in evaluation["notes"]),
        table(
            ["", "value", f"{100 * LEVEL:.0f} % interval"],
            [[name, f"{test[key]:.3f}", span(interval[key])] for name, key in figures.items()],
        ),
        *(group_table(HEADINGS[factor], groups) for factor, groups in evaluation["groups"].items()),
        confusion_table(test["confusion_matrix"], labels),
        reliability_text(evaluation["reliability"], test["accuracy"]),
        worst_table(evaluation["worst"]),
    ]
    return "\n\n".join(map(printable_lines, blocks))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns under their heads; the first `left` are aligned left, the others right."""
    rows = [[printable(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in cells).rstrip()
        for cells in (enumerate(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def printable_lines(text: str) -> str:
    """The text with the control characters of each line escaped."""
    return "\n".join(map(printable, text.split("\n")))


def span(interval: Sequence[float] | None) -> str:
    """An interval in words."""
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def group_table(heading: str, groups: dict[str, dict[str, Any]]) -> str:
    """Accuracy by group."""
    rows = [
        [
            name,
            f"{figures['clips']:,}",
            f"{figures['locations']:,}",
            f"{figures['accuracy']:.3f}",
            span(figures["accuracy_interval"]),
            f"{figures['log_loss']:.3f}",
        ]
        for name, figures in groups.items()
    ]
    interval = f"{100 * LEVEL:.0f} % interval"
    text = table([heading, "clips", "locations", "accuracy", interval, "log loss"], rows[:MOST_ROWS])
    return text + (f"\nand {len(rows) - MOST_ROWS} more in evaluation.json" if len(rows) > MOST_ROWS else "")


def confusion_table(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Confusion matrix; where the labels are too long for heads of columns, they are numbered."""
    rows = [[label, *(f"{count:,}" for count in row)] for label, row in zip(labels, matrix, strict=True)]
    text = table(["true \\ predicted", *labels], rows)
    if len(text.partition("\n")[0]) > WIDTH:
        numbers = [str(number) for number in range(1, len(labels) + 1)]
        rows = [[f"{number} {row[0]}", *row[1:]] for number, row in zip(numbers, rows, strict=True)]
        text = table(["true \\ predicted", *numbers], rows)
    return text


def reliability_text(reliability: dict[str, Any], accuracy: float) -> str:
    """Expected calibration error, and the side to which the confidence errs."""
    error, confidence = reliability["expected_calibration_error"], reliability["confidence"]
    side = "over" if confidence > accuracy else "under"
    return (
        f"expected calibration error {error:.3f}; mean confidence {confidence:.3f}, accuracy {accuracy:.3f}: "
        f"{side}confident by {abs(confidence - accuracy):.3f}"
    )


def worst_table(mistakes: Sequence[dict[str, Any]]) -> str:
    """The worst mistakes."""
    if not mistakes:
        return "no mistakes"
    rows = [
        [
            shortened(mistake["filename"], 45),
            mistake["true"],
            f"{mistake['probability_of_true']:.3f}",
            mistake["predicted"],
            f"{mistake['probability_of_predicted']:.3f}",
        ]
        for mistake in mistakes
    ]
    return table(["worst mistakes", "true", "probability", "predicted", "probability"], rows)


def shortened(name: str, most: int) -> str:
    """The end of a long name."""
    return name if len(name) <= most else "..." + name[3 - most :]
