"""The plot of asc.report: accuracy against size."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asc.errors import InputError
from asc.report.runs import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

MARKERS, COLORS = {"float": "o", "fake-quantized": "^", "int8": "s"}, ("C0", "C1", "C4", "C5")
OFFSETS = [(x, y) for y in (5, -5, 15, -15) for x in (4, -4)] + [(6, 0), (-6, 0)]  # points: where a label may go


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the (size, accuracy) points that no other point dominates, sorted by size."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def curves(systems: Sequence[System]) -> list[list[System]]:
    """Systems to connect by a line, sorted by size: one network and precision, unpruned and pruned in one way."""
    lines = []
    for family in dict.fromkeys(system.first.kind[0] for system in systems):
        members = [system for system in systems if system.first.kind[0] == family]
        narrow = [system for system in members if system.first.filters]
        sparse = [system for system in members if system.first.is_pruned and system not in narrow]
        unpruned = [system for system in members if system not in narrow + sparse]
        for pruned in (sparse, narrow):
            if pruned:
                lines.append(sorted(unpruned + pruned, key=lambda system: system.mean("size_kb")))
    return lines


def sizes_and_accuracies(systems: Iterable[System]) -> list[tuple[float, float]]:
    """Size in KB and macro-average accuracy in % of each system."""
    return [(system.mean("size_kb"), 100 * system.mean("macro_accuracy")) for system in systems]


def plot_accuracy_over_size(systems: Sequence[System], path: Path) -> None:
    """Plot accuracy against size, with a panel for each label set: accuracies on different labels do not compare.

    Raises:
        InputError: the plot cannot be written.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    tasks = list(dict.fromkeys(system.first.labels for system in systems))
    figure = Figure(figsize=(7.5 * len(tasks), 5), layout="constrained", dpi=120)
    panels = list(zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True))
    for axes, task in panels:
        plot_panel(axes, [system for system in systems if system.first.labels == task])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # freeze the axes: the labels are placed in pixels
    for axes, task in panels:
        label_points(axes, [system for system in systems if system.first.labels == task])
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--picture={path} cannot be written: give a .png in an existing directory") from error


def plot_panel(axes: "Axes", systems: Sequence[System]) -> None:
    """Plot the points with error bars, the pruning curves and the Pareto front."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for curve in curves(systems):
        axes.plot(*zip(*sizes_and_accuracies(curve), strict=True), color="grey", linewidth=0.7, zorder=1)
    points = sizes_and_accuracies(systems)
    front = [points[index] for index in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color="C2", alpha=0.6, zorder=1, label="Pareto front")
    nets = list(dict.fromkeys(system.first.net for system in systems))
    for system, (size, accuracy) in zip(systems, points, strict=True):
        std = system.std("macro_accuracy")
        axes.errorbar(
            size,
            accuracy,
            yerr=None if std is None else 100 * std,
            fmt=MARKERS[system.first.precision],
            color=COLORS[nets.index(system.first.net) % len(COLORS)],
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.margins(0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 102))
    for precision in dict.fromkeys(system.first.precision for system in systems):
        axes.plot([], [], MARKERS[precision], color="grey", label=precision)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="non-zero parameters, KB", ylabel="macro-average accuracy, %")
    data = ", ".join(dict.fromkeys(system.first.data for system in systems if system.first.data))
    axes.set_title(f"{data or 'test clips'}, {len(systems[0].first.labels)} classes", fontsize=10)
    axes.grid(alpha=0.3)


def label_points(axes: "Axes", systems: Sequence[System]) -> None:
    """Label each point at the offset that overlaps least with points, error bars and earlier labels."""
    from matplotlib.transforms import Bbox, BboxBase

    points = sizes_and_accuracies(systems)
    occupied: list[BboxBase] = [axes.legend(loc="lower right").get_window_extent()]
    for system, (size, accuracy) in zip(systems, points, strict=True):
        bar = 100 * (system.std("macro_accuracy") or 0)
        low, point, high = axes.transData.transform([(size, accuracy + part) for part in (-bar, 0, bar)])
        occupied += [Bbox([low, high]).padded(2), Bbox([point, point]).padded(5)]
    for system, position in zip(systems, points, strict=True):
        label = axes.annotate(system.name, position, OFFSETS[0], textcoords="offset points", fontsize=8)
        label.set_bbox({"color": "white", "alpha": 0.6, "linewidth": 0, "pad": 0})  # legible on a line
        costs = [overlap(move(label, offset), occupied, axes.bbox) for offset in OFFSETS]
        occupied.append(move(label, OFFSETS[costs.index(min(costs))]))


def move(label: "Annotation", offset: tuple[int, int]) -> "BboxBase":
    """Move a label to an offset from its point; return its bounding box."""
    label.xyann = offset
    label.set_horizontalalignment("left" if offset[0] > 0 else "right")
    label.set_verticalalignment("center" if offset[1] == 0 else "bottom" if offset[1] > 0 else "top")
    return label.get_window_extent()


def overlap(box: "BboxBase", occupied: Iterable["BboxBase"], frame: "BboxBase") -> float:
    """Area of `box` over the occupied boxes, plus its area outside the frame."""
    inside, *shared = (box.intersection(box, other) for other in (frame, *occupied))
    areas = [part.width * part.height for part in shared if part]
    return sum(areas) + box.width * box.height - (inside.width * inside.height if inside else 0)
