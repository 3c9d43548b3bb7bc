"""Training curves of runs, from their metrics.csv."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

from asc.files import regular
from asc.report.palette import LIGHT, SERIES
from asc.report.plot import PANEL, dress, figure_legend, without_glyph_warnings
from asc.report.systems import Task
from asc.results import not_of_a_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANELS = {  # by column of metrics.csv: title, factor
    "train/loss": ("training loss", 1),
    "val/loss": ("validation loss", 1),
    "val/acc": ("validation accuracy, mean of the classes, %", 100),
}
STYLES = ("-", "--", ":")
MOST = len(SERIES) * len(STYLES)  # systems that lines can tell apart


def read_history(directory: Path) -> dict[str, list[tuple[float, float]]]:
    """(epoch, value) pairs of the columns of PANELS; none without a metrics.csv.

    Raises:
        InputError: it does not hold numbers.
    """
    file = directory / "metrics.csv"
    try:
        with open(regular(file), newline="") as lines:
            rows = list(csv.DictReader(lines))
        points = {
            column: [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column)] for column in PANELS
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise not_of_a_run(file, "unreadable") from error
    if not all(map(math.isfinite, (value for column in points.values() for pair in column for value in pair))):
        raise not_of_a_run(file, "a value is not finite")
    return {column: values for column, values in points.items() if values}


def training_curves(task: Task) -> "tuple[Figure, list[str]] | None":
    """A plot of the runs of a task, a color for each system, and its titles; None if they left no metrics.csv.

    Of more systems than lines can tell apart, the most accurate ones.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    best = sorted(task.systems, key=lambda system: -system.mean("macro_accuracy"))[:MOST]
    systems = [system for system in task.systems if system in best]
    histories = {system: [read_history(run.directory) for run in system.runs] for system in systems}
    shown = [column for column in PANELS if any(column in run for runs in histories.values() for run in runs)]
    if not shown:
        return None
    figure = Figure(figsize=(PANEL[0], 2.6 * len(shown) + 0.25 * math.ceil(len(systems) / 2)), layout="constrained")
    entries: dict[str, Line2D] = {}
    for axes, column in zip(figure.subplots(len(shown), 1, squeeze=False).flat, shown, strict=True):
        title, factor = PANELS[column]
        for index, system in enumerate(systems):
            style = {"color": SERIES[index % len(SERIES)], "linestyle": STYLES[index // len(SERIES)], "linewidth": 1.4}
            for points in [run[column] for run in histories[system] if column in run]:
                epochs, values = zip(*points, strict=True)
                marker = "." if len(points) == 1 else ""
                [line] = axes.plot(epochs, [factor * value for value in values], marker=marker, **style)
                entries.setdefault(system.name, line)
        axes.set_title(title, fontsize=10, loc="left", color=LIGHT["ink"])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=100 if factor == 100 else None)
        dress(axes)
    axes.set_xlabel("epoch", color=LIGHT["ink"])
    with without_glyph_warnings():
        figure_legend(figure, list(entries.items()), columns=2)
    return figure, [PANELS[column][0] for column in shown]
