"""The plots of asc.report: accuracy against size or latency, with a panel for each task, and training curves."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # pyplot would look for a display
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from asc.errors import InputError
from asc.files import atomic_write
from asc.report.runs import System, Task
from asc.results import unreadable

PALETTE = {  # colors on a light and on a dark background
    "paper": ("#fdfdfc", "#16181c"),  # background
    "panel": ("#f1f2f0", "#22252b"),  # behind table headings
    "ink": ("#1d2025", "#e8e9eb"),  # text
    "muted": ("#565c66", "#a9afb9"),  # captions, axes
    "rule": ("#c9ccd1", "#41464f"),  # lines of tables and grids
    "link": ("#0a57a4", "#8cc2f7"),
    "shade": ("#86b9ea", "#1f5c97"),  # full cell of a confusion matrix, behind ink
    "series1": ("#0b65b0", "#6ab4f2"),
    "series2": ("#bc4309", "#f59563"),
    "series3": ("#1a7d4e", "#5fcb93"),
    "series4": ("#8d4197", "#d59ce1"),
    "series5": ("#806203", "#dcbb4c"),
    "series6": ("#03737d", "#51c5d1"),
    "series7": ("#b5265f", "#f48db4"),
    "series8": ("#6d737c", "#aab0ba"),
}
LIGHT, DARK = ({name: pair[index] for name, pair in PALETTE.items()} for index in (0, 1))
SERIES = [color for name, color in LIGHT.items() if name.startswith("series")]
INK, MUTED, FRONT = LIGHT["ink"], LIGHT["muted"], LIGHT["series8"]
STYLE: dict = {  # matplotlib's settings; text.parse_math: names may contain $
    **{"text.color": INK, "text.parse_math": False, "axes.titlesize": 10},
    **{"axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED},
    **{"axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": LIGHT["rule"], "grid.linewidth": 0.5, "grid.alpha": 0.6},
    **{"legend.frameon": False, "legend.fontsize": 8, "svg.fonttype": "none"},
}
MARKERS = {"float": "o", "fake-quantized": "^", "int8": "s"}
PANEL = (4.6, 3.6)  # inches
MAX_LABELS = 14  # in a panel: more would hide its points
SIZE = "size of the non-zero weights, KB"
HISTORIES = {  # by column of metrics.csv: title, factor
    "train/loss": ("training loss", 1),
    "val/loss": ("validation loss", 1),
    "val/acc": ("validation accuracy, mean of the classes, %", 100),
}
# users cannot fix characters missing from matplotlib's font
warnings.filterwarnings("ignore", "Glyph .* missing from")


def size(system: System) -> float:
    """Size of the non-zero weights in KB."""
    return system.mean("size_kb")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, accuracy) points that no other point dominates, sorted by cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def plot_accuracy_over_size(tasks: Sequence[Task], path: Path) -> None:
    """Plot accuracy against size to a file, one panel per task: accuracies on different data are not comparable.

    Raises:
        InputError: the plot cannot be written.
    """
    figure = accuracy_plot(tasks, size, SIZE)
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise InputError(f"invalid --picture={path}: expected a .png, .svg or .pdf file")
    with atomic_write(path) as temporary, rc_context(STYLE):
        figure.savefig(temporary, dpi=160, facecolor=LIGHT["paper"])


@rc_context(STYLE)
def accuracy_plot(tasks: Sequence[Task], cost: Callable[[System], float], cost_label: str) -> Figure:
    """Accuracy against a cost of each system on a logarithmic scale, a panel for each task."""
    from adjustText import adjust_text  # imports pyplot, which takes a second

    figure = Figure(figsize=(PANEL[0] * len(tasks), PANEL[1] + 0.5), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    systems = [system for task in tasks for system in task.systems]
    networks = dict.fromkeys(system.first.network for system in systems)
    colors = {network: SERIES[index % len(SERIES)] for index, network in enumerate(networks)}
    for axes, task in zip(panels, tasks, strict=True):
        draw_panel(axes, task.systems, cost, colors)
        axes.set(title=task.title, xlabel=cost_label, ylabel="accuracy, mean of the classes, %")

    entries = {name: Line2D([], [], marker="o", ls="", color=color) for name, color in colors.items()}
    entries = entries if 1 < len(entries) <= MAX_LABELS else {}
    precisions = dict.fromkeys(system.first.precision for system in systems)
    if len(precisions) > 1:
        entries |= {name: Line2D([], [], marker=MARKERS[name], ls="", color=MUTED) for name in precisions}
    if len(systems) > 1:
        entries["Pareto front"] = Line2D([], [], color=FRONT, linewidth=2)
    draw_legend(figure, entries, columns=3)

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keep the axes fixed: labels are placed in pixels
    for axes, task in zip(panels, tasks, strict=True):
        points = [(cost(system), system.accuracy) for system in task.systems]
        labelled = range(len(points)) if len(points) <= MAX_LABELS else pareto_front(points)[-MAX_LABELS:]
        texts = [axes.text(*points[index], task.systems[index].name, fontsize=8) for index in labelled]
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5}
        x, y = zip(*points, strict=True)
        adjust_text(texts, x, y, ax=axes, expand=(1.2, 2), iter_lim=200, arrowprops=arrow)  # clear of the markers
    return figure


def draw_panel(axes: Axes, systems: Sequence[System], cost: Callable[[System], float], colors: dict[str, str]) -> None:
    """Draw the points with error bars and the Pareto front."""
    points = [(cost(system), system.accuracy) for system in systems]
    front = [points[index] for index in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color=FRONT, linewidth=2, zorder=0.5)
    for system, (x, y) in zip(systems, points, strict=True):
        bar = 100 * (system.std("macro_accuracy") or 0) or None
        style: dict = {"fmt": MARKERS[system.first.precision], "color": colors[system.first.network]}
        axes.errorbar(x, y, bar, **style, elinewidth=0.8, capsize=2)
    axes.set_xscale("log")
    axes.margins(0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 103))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_legend(figure: Figure, entries: dict[str, Line2D], columns: int) -> None:
    """Draw a legend below all panels, where it covers nothing."""
    names = [name.lstrip("_") for name in entries]  # a leading underscore would hide the entry
    figure.legend(list(entries.values()), names, loc="outside lower center", ncols=columns)


def read_history(directory: Path) -> pd.DataFrame:
    """The epochs and columns of HISTORIES in a run's metrics.csv; NaN without them.

    Raises:
        InputError: the file does not contain numbers.
    """
    file = directory / "metrics.csv"
    try:
        return pd.read_csv(file, index_col="epoch").reindex(columns=list(HISTORIES)).astype(float)
    except FileNotFoundError:
        return pd.DataFrame(columns=list(HISTORIES), dtype=float)
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error


@rc_context(STYLE)
def training_curves(task: Task) -> Figure | None:
    """A plot of the runs of the most accurate systems, a color for each; None without any metrics.csv."""
    systems = sorted(task.systems, key=lambda system: -system.accuracy)[: len(SERIES)]
    curves = {system: [read_history(run.directory) for run in system.runs] for system in systems}
    everything = pd.concat([table for tables in curves.values() for table in tables])
    shown = [column for column in HISTORIES if everything[column].notna().any()]
    if not shown:
        return None
    figure = Figure(figsize=(PANEL[0], 2.6 * len(shown) + 0.125 * (len(systems) + 1)), layout="constrained")
    entries: dict[str, Line2D] = {}
    for axes, column in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        title, factor = HISTORIES[column]
        for color, (system, tables) in zip(SERIES, curves.items(), strict=False):
            for values in [table[column].dropna() for table in tables]:
                style: dict = {"color": color, "linewidth": 1.4, "marker": "." if len(values) == 1 else ""}
                [entries[system.name]] = axes.plot(values.index, factor * values, **style)
        axes.set_title(title, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=100 if factor == 100 else None)
    axes.set_xlabel("epoch")
    draw_legend(figure, entries, columns=2)
    return figure


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """An <svg> element for a page; the colors of `LIGHT` become the page's variables, as in var(--ink).

    Args:
        figure: of matplotlib.
        name: unique in the page; begins the ids.
        description: alternative text.
    """
    file = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"(?s)<(metadata|style).*?</\1>|font-family: [^;]*;", "", file.getvalue().partition("<svg ")[2])
    svg = re.sub(r'\bid="|href="#|url\(#', rf"\g<0>{name}-", svg)
    for variable, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{variable})")
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(description)}" {svg}')
