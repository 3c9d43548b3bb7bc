"""The plot of asc.report: accuracy over size."""

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
SIDES = [(x, y) for y in (5, -5, 15, -15) for x in (4, -4)] + [(6, 0), (-6, 0)]  # of a point: where its name may be


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Positions of the (size, accuracy) than which no other is as small and as accurate, and better in one; by size."""
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[position][1] > points[front[-1]][1] or points[position] == points[front[-1]]:
            front.append(position)
    return front


def curves(systems: Sequence[System]) -> list[list[System]]:
    """Systems of one network and precision by size: the whole one and those pruned, or those of fewer filters."""
    found = []
    for family in dict.fromkeys(system.first.kind[0] for system in systems):
        members = [system for system in systems if system.first.kind[0] == family]
        fewer = [system for system in members if system.first.filters]
        pruned = [system for system in members if system.first.is_pruned and system not in fewer]
        whole = [system for system in members if system not in fewer + pruned]
        found += [sorted(whole + part, key=lambda system: system.mean("size_kb")) for part in (pruned, fewer) if part]
    return found


def sizes_and_accuracies(systems: Iterable[System]) -> list[tuple[float, float]]:
    """Size in KB and macro-average accuracy in % of each system."""
    return [(system.mean("size_kb"), 100 * system.mean("macro_accuracy")) for system in systems]


def plot_accuracy_over_size(systems: Sequence[System], path: Path) -> None:
    """Plot accuracy over size; systems for other labels have a panel of their own, since they cannot be compared.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    tasks = list(dict.fromkeys(system.first.labels for system in systems))
    figure = Figure(figsize=(7.5 * len(tasks), 5), layout="constrained", dpi=120)
    panels = list(zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True))
    for axes, task in panels:
        plot_panel(axes, [system for system in systems if system.first.labels == task])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the panels have their places now, on which those of the names depend
    for axes, task in panels:
        name_points(axes, [system for system in systems if system.first.labels == task])
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--picture={path} cannot be written: give a .png in a directory that is there") from error


def plot_panel(axes: "Axes", systems: Sequence[System]) -> None:
    """Plot points with error bars, the curves of pruning and the Pareto front."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for curve in curves(systems):
        axes.plot(*zip(*sizes_and_accuracies(curve), strict=True), color="grey", linewidth=0.7, zorder=1)
    where = sizes_and_accuracies(systems)
    front = [where[position] for position in pareto_front(where)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color="C2", alpha=0.6, zorder=1, label="Pareto front")
    nets = list(dict.fromkeys(system.first.net for system in systems))
    for system, (size, accuracy) in zip(systems, where, strict=True):
        deviation = system.deviation("macro_accuracy")
        axes.errorbar(
            size,
            accuracy,
            yerr=None if deviation is None else 100 * deviation,
            fmt=MARKERS[system.first.precision],
            color=COLORS[nets.index(system.first.net) % len(COLORS)],
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.margins(0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 102))
    shown = dict.fromkeys(system.first.precision for system in systems)
    for precision in shown:
        axes.plot([], [], MARKERS[precision], color="grey", label=precision)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="non-zero parameters, KB", ylabel="macro-average accuracy, %")
    data = ", ".join(dict.fromkeys(system.first.data for system in systems if system.first.data))
    axes.set_title(f"{data or 'test clips'}, {len(systems[0].first.labels)} classes", fontsize=10)
    axes.grid(alpha=0.3)


def name_points(axes: "Axes", systems: Sequence[System]) -> None:
    """Write each name beside its point, where it covers least of the points, their bars and the names before it."""
    from matplotlib.transforms import Bbox, BboxBase

    where = sizes_and_accuracies(systems)
    taken: list[BboxBase] = [axes.legend(loc="lower right").get_window_extent()]
    for system, (size, accuracy) in zip(systems, where, strict=True):
        bar = 100 * (system.deviation("macro_accuracy") or 0)
        low, point, high = axes.transData.transform([(size, accuracy + part) for part in (-bar, 0, bar)])
        taken += [Bbox([low, high]).padded(2), Bbox([point, point]).padded(5)]
    for system, position in zip(systems, where, strict=True):
        name = axes.annotate(system.name, position, SIDES[0], textcoords="offset points", fontsize=8)
        name.set_bbox({"color": "white", "alpha": 0.6, "linewidth": 0, "pad": 0})  # legible on a line
        costs = [overlap(move(name, side), taken, axes.bbox) for side in SIDES]
        taken.append(move(name, SIDES[costs.index(min(costs))]))


def move(name: "Annotation", side: tuple[int, int]) -> "BboxBase":
    """Put a name to a side of its point; return the place it takes."""
    name.xyann = side
    name.set_horizontalalignment("left" if side[0] > 0 else "right")
    name.set_verticalalignment("center" if side[1] == 0 else "bottom" if side[1] > 0 else "top")
    return name.get_window_extent()


def overlap(box: "BboxBase", taken: Iterable["BboxBase"], frame: "BboxBase") -> float:
    """Area of what a box covers of the places taken, and of what of it is outside the frame."""
    inside, *shared = (box.intersection(box, other) for other in (frame, *taken))
    areas = [part.width * part.height for part in shared if part]
    return sum(areas) + box.width * box.height - (inside.width * inside.height if inside else 0)
