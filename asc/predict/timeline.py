"""The timeline of a recording: from windows, which may overlap, to one scene after the other, and their plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.inference import Window

MAX_COLORS = 10  # labels in a plot; the rarer ones share a color
TICKS = (0.1, 0.5, 1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30, 60, 120, 360, 720)))  # seconds


@dataclass(frozen=True)
class Segment:
    """A part of a recording in which one scene is the most probable: seconds, and the label's mean probability."""

    start: float
    end: float
    label: str
    probability: float


def edges(windows: Sequence[Window]) -> np.ndarray:
    """Seconds (n + 1,) between which each window counts; overlapping windows meet in the middle of their overlap."""
    inner = [(before.end + after.start) / 2 for before, after in zip(windows, windows[1:], strict=False)]
    return np.array([windows[0].start, *inner, windows[-1].end])


def segments(windows: Sequence[Window], labels: Sequence[str]) -> list[Segment]:
    """The scenes of a recording in order; neighbouring windows of one label are joined."""
    times = edges(windows)
    found = []
    for best, group in groupby(range(len(windows)), key=lambda index: int(windows[index].probabilities.argmax())):
        members = list(group)
        mean = np.mean([windows[index].probabilities[best] for index in members])
        found.append(Segment(float(times[members[0]]), float(times[members[-1] + 1]), labels[best], float(mean)))
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


def join_rare(names: list[str], heights: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and probabilities (n_labels, n_windows) of at most MAX_COLORS labels: the least probable are summed."""
    if len(names) <= MAX_COLORS:
        return names, heights
    order = np.argsort(-heights.mean(1), kind="stable")
    common, others = np.sort(order[: MAX_COLORS - 1]), order[MAX_COLORS - 1 :]
    joined = np.vstack([heights[common], heights[others].sum(0)])
    return [*(names[index] for index in common), f"{len(others)} others"], joined


def plot_timeline(name: str, windows: Sequence[Window], labels: Sequence[str], path: Path) -> None:
    """Plot the probability of each label over time, stacked to 1.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # pyplot would look for a display
    from matplotlib.ticker import MultipleLocator

    times, heights = edges(windows), np.array([window.probabilities for window in windows]).T
    names, heights = join_rare([printable(label) for label in labels], heights)
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    last = np.hstack([heights, heights[:, -1:]])  # a step needs the height at its end, too
    axes.stackplot(times, last, step="post", labels=names, colors=colors, linewidth=0)
    hours = times[-1] >= 3600
    axes.set(xlim=(times[0], times[-1]), ylim=(0, 1), ylabel="probability")
    axes.set_xlabel("time, h:min:s" if hours else "time, min:s")
    axes.xaxis.set_major_locator(
        MultipleLocator(next((tick for tick in TICKS if times[-1] <= 9 * tick), times[-1] / 8))
    )
    axes.xaxis.set_major_formatter(lambda time, _: clock(time, hours).removesuffix(".0"))
    axes.set_title(printable(name)[-100:], fontsize=10, parse_math=False)
    handles, texts = axes.get_legend_handles_labels()
    legend = axes.legend(handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
