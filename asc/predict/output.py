"""What is printed of predictions, as a table, JSON or CSV; and the timeline of a recording, printed and plotted."""

import csv
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.inference import Window

MAX_COLORS = 10  # labels in a plot; the rarer ones share a color
TICKS = (0.1, 0.5, 1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30, 60, 120, 360, 720)))  # seconds


def print_head(form: str, labels: Sequence[str]) -> None:
    """Print the first line of the form "table" or "csv"; "json" has none."""
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(["file", "start", "end", "label", *labels])
    elif form == "table":
        print_row(labels, "scene", "probability", "seconds", "file")
        print("-" * (width(labels) + 40))


def print_windows(form: str, labels: Sequence[str], name: str | None, windows: Sequence[Window]) -> None:
    """Print a recording, or without a name the newest window from the microphone; at once, for other programs."""
    mean = np.mean([window.probabilities for window in windows], axis=0)  # as in `SceneClassifier.classify`
    name_or_device = name or "microphone"
    if form == "json":
        parts = [{"start": one.start, "end": one.end, **prediction(labels, one.probabilities)} for one in windows]
        line = {"file": name, "seconds": windows[-1].end, **prediction(labels, mean)} if name else parts[-1]
        print(json.dumps(line | ({"timeline": parts} if len(parts) > 1 else {})))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for one in windows:
            values = [f"{value:.6f}" for value in one.probabilities]
            label = labels[int(one.probabilities.argmax())]
            writer.writerow([name_or_device, f"{one.start:.3f}", f"{one.end:.3f}", label, *values])
    else:
        label = labels[int(mean.argmax())]
        print_row(labels, label, f"{mean.max():.2f}", f"{windows[-1].end:.1f}", name_or_device)
        scenes = segments(windows, labels)
        for start, end, label, probability in scenes if len(scenes) > 1 else []:
            print_row(labels, f"  {label}", f"{probability:.2f}", "", f"{clock(start)} - {clock(end)}")
    sys.stdout.flush()


def prediction(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """A prediction for JSON."""
    values = dict(zip(labels, probabilities.tolist(), strict=True))
    return {"label": labels[int(probabilities.argmax())], "probabilities": values}


def print_row(labels: Sequence[str], *cells: str) -> None:
    """Print a row of the table: columns have fixed widths, since it is printed as soon as it is known."""
    scene, probability, seconds, file = map(printable, cells)
    print(f"{scene:<{width(labels)}}  {probability:>11}  {seconds:>9}  {file}")


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
