"""The tables of asc.report for the terminal: for each task, a row for each system."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from asc.complexity import KB
from asc.report.latency import ROUNDS
from asc.report.systems import System, Task
from asc.results import LIMITS

Column = tuple[str, str, list[str]]  # two lines of heading, cells


def mean_and_std(systems: Iterable[System], metric: str, scale: float, digits: int) -> list[str]:
    """Mean and standard deviation of each system, aligned at the decimal point."""
    means = [f"{scale * system.mean(metric):.{digits}f}" for system in systems]
    stds = [system.std(metric) for system in systems]
    suffixes = ["" if std is None else f" ± {scale * std:.{digits}f}" for std in stds]
    width = max(map(len, suffixes))
    return [mean + suffix.ljust(width) for mean, suffix in zip(means, suffixes, strict=True)]


def speedups(systems: Sequence[System], latency: dict[System, float]) -> list[float | None]:
    """Speed-up of each system over the uncompressed network of its class; None for that network itself."""
    ratios: list[float | None] = []
    for system in systems:
        whole = [other for other in systems if other.first.net == system.first.net and other.first.is_whole]
        whole = [other for other in whole if other in latency]
        timed = system in latency and whole and system is not whole[0]
        ratios.append(latency[whole[0]] / latency[system] if timed else None)
    return ratios


def systems_table(task: Task, latency: dict[System, float] | None = None) -> str:
    """Table with a row for each system of a task; without `latency` it has no times."""
    systems, times, ratios = task.systems, [""], [""]
    if latency is not None:
        times = [f"{latency[system]:.2f}" if system in latency else "-" for system in systems]
        ratios = ["" if ratio is None else f"{ratio:.1f}" for ratio in speedups(systems, latency)]
    columns = [
        ("", "system", [system.name for system in systems]),
        ("", "runs", [str(len(system.runs)) for system in systems]),
        ("accuracy %", "by class", mean_and_std(systems, "macro_accuracy", 100, 1)),
        ("accuracy %", "by clip", mean_and_std(systems, "accuracy", 100, 1)),
        ("log", "loss", [f"{system.mean('log_loss'):.3f}" for system in systems]),
        ("weights", "KB", [f"{system.mean('size_kb'):.1f}" for system in systems]),
        ("DCASE", "KB", [f"{system.mean('dcase2020_size_kb'):.1f}" for system in systems]),
        ("file", "KB", [f"{system.mean('file_bytes') / KB:.1f}" for system in systems]),
        ("MACs", "M", [f"{system.mean('macs') / 1e6:.1f}" for system in systems]),
        ("clip", "ms", times),
        ("speed-", "up", ratios),
    ]
    return "\n".join([f"{task.title}: {task.shared}" if task.shared else task.title, *aligned(columns)])


def aligned(columns: Iterable[Column]) -> list[str]:
    """Lines of a table, the first column at the left, the others at the right; columns without a cell are left out."""
    stacks = [[*heads, *cells] for *heads, cells in columns if any(cells)]
    widths = [max(map(len, stack)) for stack in stacks]
    lines = []
    for first, *rest in zip(*stacks, strict=True):
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(2, "-" * max(map(len, lines)))
    return lines


def report_table(tasks: Iterable[Task]) -> str:
    """The report's figures beside those of the same systems; empty if there are none."""
    systems = [(task, system) for task in tasks for system in task.systems]
    found = [(task, system, reported) for task, system in systems if (reported := system.reported)]
    if not found:
        return ""
    columns = [
        ("", "the report's system", [reported[0] for _, _, reported in found]),
        ("report", "%", [f"{reported[1]:.1f}" for _, _, reported in found]),
        ("report", "KB", [f"{reported[2]:.1f}" for _, _, reported in found]),
        ("here", "%", [f"{100 * system.mean('macro_accuracy'):.1f}" for _, system, _ in found]),
        ("here", "KB", [f"{system.mean('size_kb'):.1f}" for _, system, _ in found]),
        ("", "on", [task.title for task, _, _ in found]),
    ]
    note = "report: quoted from Pham et al. 2020, Table 3, on TAU Urban Acoustic Scenes 2020 3Class; not measured here"
    return "\n".join([*aligned(columns), "", note])


def legend(timed: bool) -> str:
    """What the headings mean."""
    lines = [
        "accuracy by class: the mean of the classes' accuracies, by which DCASE ranks; ±: standard deviation of runs",
        "log loss: mean cross-entropy, 0 is best; weights: the non-zero ones (DCASE: as the challenge counted, at most",
        "500); file: the one to deploy; MACs: multiply-accumulate operations for a clip, in millions; 1 KB: 1024 bytes",
    ]
    if timed:
        version = torch.__version__.partition("+")[0]
        lines += [
            f"clip, ms: the network without its frontend, on one thread in torch {version}, median of {ROUNDS};",
            "speed-up: over the uncompressed network",
        ]
    return "\n".join(lines)


def report(tasks: Sequence[Task], latency: dict[System, float] | None) -> str:
    """All tables and what they mean."""
    tables = [systems_table(task, latency) for task in tasks]
    return "\n\n".join(filter(None, [*tables, legend(latency is not None), report_table(tasks)]))


def as_plain_values(tasks: Sequence[Task], latency: dict[System, float] | None) -> list[dict[str, Any]]:
    """All systems for JSON: accuracies are fractions; a deviation of a single run and a time not measured are null."""
    return [
        {
            "data": task.title,
            "labels": list(task.labels),
            "system": f"{task.shared}, {system.name}" if task.shared else system.name,
            "runs": [str(run.directory) for run in system.runs],
            "mean": {metric: system.mean(metric) for metric in LIMITS},
            "std": {metric: system.std(metric) for metric in LIMITS},
            "milliseconds": (latency or {}).get(system),
        }
        for task in tasks
        for system in task.systems
    ]
