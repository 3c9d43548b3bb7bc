"""The page of asc.report: all runs in one HTML file that needs no network and no script."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asc.classifier import SceneClassifier
from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.report.curves import training_curves
from asc.report.mistakes import Mistake, worst_mistakes
from asc.report.palette import DARK, LIGHT
from asc.report.plot import SIZE, accuracy, accuracy_plot, size
from asc.report.recording import Recording, embed
from asc.report.settings import differing
from asc.report.svg import inline_svg
from asc.report.systems import REPORT, System, Task, all_systems
from asc.report.table import speedups


@dataclass(frozen=True)
class Section:
    """What the page says of a task.

    Attributes:
        task: the systems.
        rows: each system's latency in ms and speed-up, where they are known.
        plots: SVG elements.
        confusions: each system's confusion matrix, summed over its runs: (clips, fraction of the true class) cells.
        mistakes: the worst, with their recordings.
        settings: those that differ between the systems, by name.
    """

    task: Task
    rows: list[tuple[System, float | None, float | None]]
    plots: list[Markup]
    confusions: list[tuple[System, list[list[tuple[int, float]]]]]
    mistakes: list[tuple[Mistake, Recording]]
    settings: dict[str, list[str]]


def write_page(
    path: Path, tasks: Sequence[Task], latency: dict[System, float] | None, mistakes: int, with_sound: bool
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        tasks: what to compare.
        latency: ms of a clip by system; None: not measured.
        mistakes: how many of the worst to show for each task.
        with_sound: put their recordings into the page.

    Raises:
        InputError: a file of a run is damaged, or the page cannot be written.
    """
    sections = [
        section(f"task{index}", task, latency or {}, mistakes, with_sound) for index, task in enumerate(tasks, start=1)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    runs = [run.directory for system in all_systems(tasks) for run in system.runs]
    common = Path(os.path.commonpath([directory.parent for directory in runs]))
    page = environment.get_template("page.html").render(
        sections=sections,
        report=reported_systems(tasks),
        directories={directory: printable(str(directory.relative_to(common))) for directory in runs},
        timed=latency is not None,
        with_sound=with_sound,
        light=LIGHT,
        dark=DARK,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def section(name: str, task: Task, latency: dict[System, float], mistakes: int, with_sound: bool) -> Section:
    """What the page says of a task; `name` begins the ids of its plots."""
    return Section(
        task=task,
        rows=list(zip(task.systems, map(latency.get, task.systems), speedups(task.systems, latency), strict=True)),
        plots=plots(name, task, latency),
        confusions=[(system, confusion(system)) for system in task.systems],
        mistakes=[(mistake, recording(mistake, task, with_sound)) for mistake in worst_mistakes(task, mistakes)],
        settings=differing([system.first.settings for system in task.systems]),
    )


def plots(name: str, task: Task, latency: dict[System, float]) -> list[Markup]:
    """Accuracy against size and against latency, and the training curves."""
    found = []
    costs = {
        "size": ({system: size(system) for system in task.systems}, SIZE, "KB"),
        "latency": (latency, "time for a clip on one thread, ms", "ms"),
    }
    for about, (cost, label, unit) in costs.items():
        if systems := [system for system in task.systems if system in cost]:
            title = f"Accuracy against {about}"
            figure = accuracy_plot([Task(task.title, task.shared, systems)], cost.__getitem__, label, [title])
            points = "; ".join(f"{s.name}: {accuracy(s):.1f} % at {cost[s]:.4g} {unit}" for s in systems)
            found.append(inline_svg(figure, f"{name}-{about}", f"{title}. {points}."))
    if curves := training_curves(task):
        figure, titles = curves
        description = f"Training curves over the epochs: {', '.join(titles)}."
        found.append(inline_svg(figure, f"{name}-training", description))
    return found


def confusion(system: System) -> list[list[tuple[int, float]]]:
    """Confusion matrix summed over the system's runs: clips, and their fraction of the true class."""
    matrix = np.array([run.results.confusion for run in system.runs], dtype=object).sum(axis=0)  # Python's integers
    return [[(clips, clips / max(sum(row), 1)) for clips in row] for row in matrix.tolist()]


def recording(mistake: Mistake, task: Task, with_sound: bool) -> Recording:
    """The clip of a mistake as it sounds to the most accurate system that was tested on it and can be loaded."""
    found = Recording(fault="No checkpoint tells where the recording is.")
    for system in sorted((answer.system for answer in mistake.answers), key=accuracy, reverse=True):
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # of an untrusted class
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                found = embed(mistake.filename, system.first, model, with_sound)
            if not found.fault:
                return found
    return found


def reported_systems(tasks: Sequence[Task]) -> list[tuple[tuple[str, float, float], list[tuple[Task, System]]]]:
    """The report's four systems, and ours that are like each of them."""
    ours = [(task, system) for task in tasks for system in task.systems]
    return [(row, [(task, system) for task, system in ours if system.reported == row]) for row in REPORT.values()]
