"""The plot of a confusion matrix, drawn without a display."""

from pathlib import Path

import numpy as np

from asc.errors import printable
from asc.files import atomic_write

MAX_NAMED = 30  # labels; with more, names and numbers would be too small to read


def plot_confusion_matrix(matrix: np.ndarray, labels: list[str], path: Path, title: str = "Test clips") -> None:
    """Plot a confusion matrix (n_classes, n_classes): colour = fraction of the true class, number = clips."""
    from matplotlib.figure import Figure  # pyplot would need a display
    from sklearn.metrics import ConfusionMatrixDisplay

    is_readable = len(labels) <= MAX_NAMED
    side = 2.5 + 0.6 * len(labels) if is_readable else 10  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    fraction = matrix / matrix.sum(1, keepdims=True).clip(1)
    shown = ConfusionMatrixDisplay(fraction).plot(
        include_values=is_readable, cmap="Blues", ax=axes, colorbar=False, im_kw={"vmin": 0, "vmax": 1}
    )
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if is_readable:
        for (row, column), clips in np.ndenumerate(matrix):
            shown.text_[row, column].set_text(str(clips))
        names = list(map(display_name, labels))
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(labels)), names, parse_math=False)
    else:
        axes.set(xlabel="predicted, by index of the label", ylabel="true, by index of the label", xticks=[], yticks=[])
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def display_name(label: str) -> str:
    """A label for display, with spaces for underscores."""
    return printable(label.replace("_", " "))
