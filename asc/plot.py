"""Plots of predictions, drawn without a display."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from asc.errors import printable
from asc.files import atomic_write

MOST_NAMED = 30  # labels


def plot_confusion_matrix(matrix: Tensor, labels: list[str], path: Path, title: str = "Test clips") -> None:
    """Plot a confusion matrix: colour = fraction of the true class, number = clips.

    Of more than MOST_NAMED labels, which nobody could read, the numbers and names are left out.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    is_readable = len(labels) <= MOST_NAMED
    side = 2.5 + 0.6 * len(labels) if is_readable else 10  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    fraction = matrix / matrix.sum(1, keepdim=True).clamp_min(1)
    axes.imshow(fraction.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if is_readable:
        write_counts(axes, matrix, fraction)
        names = list(map(display_name, labels))
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(labels)), names, parse_math=False)
    else:
        axes.set(xlabel="predicted, by index of the label", ylabel="true, by index of the label")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def write_counts(axes: Any, matrix: Tensor, fraction: Tensor) -> None:
    """Write the number of clips into each cell of a confusion matrix, legibly on its colour."""
    for (row, column), clips in np.ndenumerate(matrix.numpy()):
        color = "white" if fraction[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(clips)), ha="center", va="center", color=color)


def display_name(label: str) -> str:
    """A label as words."""
    return printable(label.replace("_", " "))
