"""The page of asc.report: all runs in one HTML file without scripts or network access."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asc.errors import printable
from asc.files import atomic_write
from asc.report.mistakes import recording, worst_mistakes
from asc.report.plot import DARK, LIGHT, SIZE, accuracy_plot, inline_svg, size, training_curves
from asc.report.systems import REPORT, System, Task, differing
from asc.report.table import speedups


def write_page(
    path: Path, tasks: Sequence[Task], latency: dict[System, float] | None, mistakes: int, with_sound: bool
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        tasks: tasks to compare.
        latency: ms of a clip by system; None: not measured.
        mistakes: number of worst mistakes to show for each task.
        with_sound: embed their recordings in the page.

    Raises:
        InputError: a file of a run cannot be read, or the page cannot be written.
    """
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["printable"] = printable
    systems = [(task, system) for task in tasks for system in task.systems]
    directories = [run.directory for _, system in systems for run in system.runs]
    common = Path(os.path.commonpath([directory.parent for directory in directories]))
    page = environment.get_template("page.html").render(
        sections=[
            section(f"task{index}", task, latency or {}, mistakes, with_sound)
            for index, task in enumerate(tasks, start=1)
        ],
        report=[(row, [pair for pair in systems if pair[1].reported == row]) for row in REPORT.values()],
        directories={directory: printable(str(directory.relative_to(common))) for directory in directories},
        timed=latency is not None,
        with_sound=with_sound,
        light=LIGHT,
        dark=DARK,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def section(name: str, task: Task, latency: dict[System, float], mistakes: int, with_sound: bool) -> dict[str, Any]:
    """The variables of a task's section of the page; `name` is the prefix of its plots' ids."""
    systems = task.systems
    return {
        "task": task,
        "rows": list(zip(systems, map(latency.get, systems), speedups(systems, latency), strict=True)),
        "plots": plots(name, task, latency),
        "confusions": [(system, confusion_cells(system)) for system in systems],
        "mistakes": [(mistake, recording(mistake, with_sound)) for mistake in worst_mistakes(task, mistakes)],
        "settings": differing([system.first for system in systems]),
    }


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
            points = "; ".join(f"{s.name}: {s.accuracy:.1f} % at {cost[s]:.4g} {unit}" for s in systems)
            found.append(inline_svg(figure, f"{name}-{about}", f"{title}. {points}."))
    if curves := training_curves(task):
        figure, titles = curves
        found.append(inline_svg(figure, f"{name}-training", f"Training curves over the epochs: {', '.join(titles)}."))
    return found


def confusion_cells(system: System) -> list[list[tuple[int, float]]]:
    """Confusion matrix summed over the system's runs: clips, and their fraction of the true class."""
    matrix = np.sum([run.results.test.confusion_matrix for run in system.runs], axis=0)
    return [[(clips, clips / max(sum(row), 1)) for clips in row] for row in matrix.tolist()]
