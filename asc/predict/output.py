"""What is printed of predictions, as a table, JSON or CSV; and the timeline of a recording, printed and plotted."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.inference import Window

MAX_COLORS = 10  # labels in a plot; the rarer ones share a color
TICKS = (0.1, 0.5, 1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30, 60, 120, 360, 720)))  # seconds


def head(form: str, labels: Sequence[str]) -> str:
    """The first lines of the form "table", "json" or "csv"."""
    if form == "json":
        return ""
    if form == "csv":
        return csv_rows([["file", "start", "end", "label", *labels]])
    return table_row(labels, "scene", "probability", "seconds", "file") + "-" * (width(labels) + 40) + "\n"


def lines(form: str, labels: Sequence[str], name: str | None, windows: Sequence[Window]) -> str:
    """The lines of a recording, or without a name those of the newest window from the microphone."""
    mean = np.mean([window.probabilities for window in windows], axis=0)  # as in `SceneClassifier.classify`
    if form == "json":
        parts = [{"start": one.start, "end": one.end, **prediction(labels, one.probabilities)} for one in windows]
        line = {"file": name, "seconds": windows[-1].end, **prediction(labels, mean)} if name else parts[-1]
        return json.dumps(line | ({"timeline": parts} if len(parts) > 1 else {})) + "\n"
    name = name or "microphone"
    if form == "csv":
        return csv_rows(
            [name, f"{one.start:.3f}", f"{one.end:.3f}", best(labels, one.probabilities)]
            + [f"{value:.6f}" for value in one.probabilities]
            for one in windows
        )
    rows = [table_row(labels, best(labels, mean), f"{mean.max():.2f}", f"{windows[-1].end:.1f}", name)]
    scenes = segments(windows, labels)
    for start, end, label, probability in scenes if len(scenes) > 1 else []:
        rows.append(table_row(labels, f"  {label}", f"{probability:.2f}", "", f"{clock(start)} - {clock(end)}"))
    return "".join(rows)


def best(labels: Sequence[str], probabilities: np.ndarray) -> str:
    """The most probable label."""
    return labels[int(probabilities.argmax())]


def prediction(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """A prediction for JSON."""
    values = dict(zip(labels, probabilities.tolist(), strict=True))
    return {"label": best(labels, probabilities), "probabilities": values}


def csv_rows(rows: Iterable[Sequence[str]]) -> str:
    """Rows of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def table_row(labels: Sequence[str], *cells: str) -> str:
    """A row, printed as soon as it is known: columns have fixed widths, and file names, of any length, come last."""
    scene, probability, seconds, file = map(printable, cells)
    return f"{scene:<{width(labels)}}  {probability:>11}  {seconds:>9}  {file}\n"


def width(labels: Sequence[str]) -> int:
    """Characters of the first column."""
    return max(len("scene"), *(len(printable(label)) + 2 for label in labels))


def edges(windows: Sequence[Window]) -> np.ndarray:
    """Seconds (n + 1,) between which each window counts; overlapping windows meet in the middle of their overlap."""
    inner = [(before.end + after.start) / 2 for before, after in zip(windows, windows[1:], strict=False)]
    return np.array([windows[0].start, *inner, windows[-1].end])


def segments(windows: Sequence[Window], labels: Sequence[str]) -> list[tuple[float, float, str, float]]:
    """Start and end in seconds, label and its mean probability of each part in which one label is the most probable."""
    times, found = edges(windows).tolist(), []
    for label, group in groupby(range(len(windows)), key=lambda index: int(windows[index].probabilities.argmax())):
        members = list(group)
        mean = float(np.mean([windows[index].probabilities[label] for index in members]))
        found.append((times[members[0]], times[members[-1] + 1], labels[label], mean))
    return found


def clock(seconds: float, hours: bool = False) -> str:
    """Minutes and seconds; hours where there are some, or asked for.

    >>> clock(83.25), clock(3601), clock(83.25, hours=True)
    ('1:23.2', '1:00:01.0', '0:01:23.2')
    """
    tenths = round(10 * seconds)
    hour, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hour}:{minutes:02}:{rest:04.1f}" if hour or hours else f"{minutes}:{rest:04.1f}"


def check_picture(path: Path) -> None:
    """Reject a picture that cannot be written, before anything is computed.

    Raises:
        InputError: its directory is missing, or matplotlib writes no such format.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats or path.is_dir() or not path.parent.is_dir():
        raise InputError(f"invalid --picture={path}: expected a .png, .svg or .pdf file in an existing directory")


def plot_timeline(name: str, windows: Sequence[Window], labels: Sequence[str], path: Path) -> None:
    """Plot the probability of each label over time, stacked to 1; the rarest of many labels are summed.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # pyplot would look for a display
    from matplotlib.ticker import MultipleLocator

    times, heights = edges(windows), np.array([window.probabilities for window in windows]).T
    names = [printable(label) for label in labels]
    if len(names) > MAX_COLORS:
        order = np.argsort(-heights.mean(1), kind="stable")
        common, others = np.sort(order[: MAX_COLORS - 1]), order[MAX_COLORS - 1 :]
        names = [*(names[index] for index in common), f"{len(others)} others"]
        heights = np.vstack([heights[common], heights[others].sum(0)])
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    last = np.hstack([heights, heights[:, -1:]])  # a step needs the height at its end, too
    axes.stackplot(times, last, step="post", labels=names, colors=colors, linewidth=0)
    hours = times[-1] >= 3600
    axes.set(xlim=(times[0], times[-1]), ylim=(0, 1), ylabel="probability")
    axes.set_xlabel("time, h:min:s" if hours else "time, min:s")
    tick = next((tick for tick in TICKS if times[-1] <= 9 * tick), times[-1] / 8)
    axes.xaxis.set_major_locator(MultipleLocator(tick))
    axes.xaxis.set_major_formatter(lambda time, _: clock(time, hours).removesuffix(".0"))
    axes.set_title(printable(name)[-100:], fontsize=10, parse_math=False)
    handles, texts = axes.get_legend_handles_labels()
    legend = axes.legend(handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
