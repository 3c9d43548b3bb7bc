"""Plots of predictions, drawn without a display."""

from pathlib import Path

import torch
from torch import Tensor

from asc.errors import printable
from asc.files import written_whole


def plot_confusion_matrix(matrix: Tensor, labels: list[str], path: Path, title: str = "Test clips") -> None:
    """Plot a confusion matrix: colour = fraction of the true class, number = clips."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    side = 2.5 + 0.6 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    fraction = matrix / matrix.sum(1, keepdim=True).clamp_min(1)
    axes.imshow(fraction.numpy(), vmin=0, vmax=1, cmap="Blues")
    for row, column in torch.cartesian_prod(*[torch.arange(len(labels))] * 2).tolist():
        dark = fraction[row, column] > 0.5
        axes.text(
            column, row, str(int(matrix[row, column])), ha="center", va="center", color="white" if dark else "black"
        )
    names = list(map(display_name, labels))
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def display_name(label: str) -> str:
    """A label as words."""
    return printable(label.replace("_", " "))
