"""The plots of asc.report: accuracy against size or latency, with a panel for each task."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asc.errors import InputError
from asc.files import atomic_write
from asc.report.palette import LIGHT, SERIES
from asc.report.point_label import MOST, label_points
from asc.report.systems import System, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARKERS = {"float": "o", "fake-quantized": "^", "int8": "s"}
FRONT = LIGHT["series8"]
PANELS_A_ROW, PANEL = 3, (4.6, 3.6)  # inches
SIZE = "size of the non-zero weights, KB"


def size(system: System) -> float:
    """KB of the non-zero weights."""
    return system.mean("size_kb")


def accuracy(system: System) -> float:
    """Macro-average accuracy in %."""
    return 100 * system.mean("macro_accuracy")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, accuracy) points that no other point dominates, sorted by cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def curves(systems: Sequence[System]) -> list[list[System]]:
    """Lines through systems by size: the most accurate unpruned one of a network and precision, and the pruned ones."""
    families: dict[tuple, list[System]] = defaultdict(list)
    for system in systems:
        if not system.first.phases:
            families[tuple(map(system.first.parts.get, ("network", "precision", "folding")))].append(system)
    lines = []
    for members in families.values():
        narrow = [system for system in members if system.first.filters]
        sparse = [system for system in members if system.first.is_pruned and not system.first.filters]
        unpruned = sorted((system for system in members if system not in narrow + sparse), key=accuracy)[-1:]
        lines += [sorted(unpruned + pruned, key=size) for pruned in (sparse, narrow) if pruned]
    return lines


def plot_accuracy_over_size(tasks: Sequence[Task], path: Path) -> None:
    """Plot accuracy against size to a file, with a panel for each task: accuracies on different data do not compare.

    Raises:
        InputError: the plot cannot be written.
    """
    figure = accuracy_plot(tasks, size, SIZE, [task.title for task in tasks])
    try:
        with atomic_write(path) as temporary, without_glyph_warnings():
            figure.savefig(temporary, dpi=160, facecolor=LIGHT["paper"])
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--picture={path} cannot be written: give a name that ends in .png, .svg or .pdf") from error


def accuracy_plot(
    tasks: Sequence[Task], cost: Callable[[System], float], cost_label: str, titles: Sequence[str]
) -> "Figure":
    """Accuracy against a cost of each system, on a logarithmic scale."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    columns = min(len(tasks), PANELS_A_ROW)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    networks = list(dict.fromkeys(system.first.parts["network"] for task in tasks for system in task.systems))
    colors = {network: SERIES[index % len(SERIES)] for index, network in enumerate(networks)}
    with without_glyph_warnings():
        for axes, task, title in zip(panels, tasks, titles, strict=False):
            draw_panel(axes, task.systems, cost, colors)
            axes.set_title(title, fontsize=10, color=LIGHT["ink"], parse_math=False)
            axes.set_xlabel(cost_label, color=LIGHT["ink"])
            axes.set_ylabel("accuracy, mean of the classes, %", color=LIGHT["ink"])
        for axes in panels:  # of the last row, without a task
            axes.set_axis_off()
        draw_legend(figure, [system for task in tasks for system in task.systems], colors)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the axes stay as they are: labels are placed in pixels
        for axes, task in zip(figure.axes, tasks, strict=False):
            label_systems(axes, task.systems, cost)
    return figure


def draw_panel(
    axes: "Axes", systems: Sequence[System], cost: Callable[[System], float], colors: dict[str, str]
) -> None:
    """Draw the points with error bars, the pruning curves and the Pareto front."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for curve in curves(systems):
        axes.plot([cost(s) for s in curve], [accuracy(s) for s in curve], color=LIGHT["muted"], linewidth=0.7, zorder=1)
    points = [(cost(system), accuracy(system)) for system in systems]
    front = [points[index] for index in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color=FRONT, linewidth=2, zorder=0.5)
    for system, (x, y) in zip(systems, points, strict=True):
        std = system.std("macro_accuracy")
        axes.errorbar(
            x,
            y,
            yerr=None if std is None else 100 * std,
            fmt=MARKERS[system.first.precision],
            color=colors[system.first.parts["network"]],
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.margins(0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 103))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    dress(axes)


def dress(axes: "Axes") -> None:
    """Give axes the palette's colors, a grid, and no frame."""
    axes.grid(color=LIGHT["rule"], linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(which="both", color=LIGHT["muted"], labelcolor=LIGHT["muted"])
    axes.spines[:].set_color(LIGHT["muted"])
    axes.spines[["top", "right"]].set_visible(False)


def draw_legend(figure: "Figure", systems: Sequence[System], colors: dict[str, str]) -> None:
    """A legend below all panels: colors of the networks, markers of the precisions, and the Pareto front."""
    from matplotlib.lines import Line2D

    precisions = dict.fromkeys(system.first.precision for system in systems)
    entries = [(network, Line2D([], [], marker="o", ls="", color=color)) for network, color in colors.items()]
    entries = entries if 1 < len(entries) <= MOST else []
    if len(precisions) > 1:
        entries += [(name, Line2D([], [], marker=MARKERS[name], ls="", color=LIGHT["muted"])) for name in precisions]
    if len(systems) > 1:
        entries.append(("Pareto front", Line2D([], [], color=FRONT, linewidth=2)))
    figure_legend(figure, entries)


def figure_legend(figure: "Figure", entries: Sequence[tuple[str, "Line2D"]], columns: int = 3) -> None:
    """A legend below all panels, where it covers nothing."""
    names = [name.lstrip("_") for name, _ in entries]  # a leading underscore would hide the entry
    legend = figure.legend(
        [line for _, line in entries], names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_color(LIGHT["ink"])


def label_systems(axes: "Axes", systems: Sequence[System], cost: Callable[[System], float]) -> None:
    """Label all systems, or if there are many those of the Pareto front only."""
    points = [(cost(system), accuracy(system)) for system in systems]
    bars = [100 * (system.std("macro_accuracy") or 0) for system in systems]
    labelled = range(len(systems)) if len(systems) <= MOST else pareto_front(points)[-MOST:]
    label_points(axes, points, bars, {index: systems[index].name for index in labelled})


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Without matplotlib's warnings about characters that its font lacks, which a user cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
