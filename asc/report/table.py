"""The tables of asc.report for the terminal: for each task, a row for each system."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from asc.complexity import KB
from asc.report.latency import ROUNDS
from asc.report.systems import System, Task
from asc.results import METRICS
from asc.table import text_table


def mean_and_std(systems: Sequence[System], metric: str) -> list[str]:
    """Mean and standard deviation of a fraction in %, aligned at the decimal point."""
    stds = [system.std(metric) for system in systems]
    suffixes = ["" if std is None else f" ± {100 * std:.1f}" for std in stds]
    width = max(map(len, suffixes))
    return [f"{100 * s.mean(metric):.1f}{suffix:{width}}" for s, suffix in zip(systems, suffixes, strict=True)]


def speedups(systems: Sequence[System], latency: dict[System, float]) -> list[float | None]:
    """Speed-up of each system over the uncompressed network of its class; None for that network itself."""
    ratios: list[float | None] = []
    for system in systems:
        same_net = [other for other in systems if other.first.net_name == system.first.net_name and other in latency]
        reference = next((other for other in same_net if other.first.is_uncompressed), system)
        is_timed = system in latency and reference is not system
        ratios.append(latency[reference] / latency[system] if is_timed else None)
    return ratios


def systems_table(task: Task, latency: dict[System, float] | None = None) -> str:
    """Table with a row for each system of a task; without `latency` it has no times."""
    systems = task.systems
    columns = {
        "\nsystem": [system.name for system in systems],
        "\nruns": [len(system.runs) for system in systems],
        "accuracy %\nby class": mean_and_std(systems, "macro_accuracy"),
        "accuracy %\nby clip": mean_and_std(systems, "accuracy"),
        "log\nloss": [f"{system.mean('log_loss'):.3f}" for system in systems],
        "weights\nKB": [f"{system.mean('size_kb'):.1f}" for system in systems],
        "DCASE\nKB": [f"{system.mean('dcase2020_size_kb'):.1f}" for system in systems],
        "file\nKB": [f"{system.mean('file_bytes') / KB:.1f}" for system in systems],
        "MACs\nM": [f"{system.mean('macs') / 1e6:.1f}" for system in systems],
    }
    if latency is not None:
        columns["clip\nms"] = [f"{latency[system]:.2f}" if system in latency else "-" for system in systems]
        ratios = speedups(systems, latency)
        if any(ratios):
            columns["speed-\nup"] = ["" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
    title = f"{task.title}: {task.shared}" if task.shared else task.title
    return f"{title}\n{text_table(zip(*columns.values(), strict=True), list(columns))}"


def report_table(tasks: Iterable[Task]) -> str:
    """The report's accuracies and sizes with those of the same systems here; empty if there are none."""
    rows = [
        [name, f"{percent:.1f}", f"{kilobytes:.1f}", f"{system.accuracy:.1f}", f"{system.mean('size_kb'):.1f}"]
        + [task.title]
        for task in tasks
        for system in task.systems
        if system.reported
        for name, percent, kilobytes in [system.reported]
    ]
    if not rows:
        return ""
    header = ["\nthe report's system", "report\n%", "report\nKB", "here\n%", "here\nKB", "\non"]
    note = "report: quoted from Pham et al. 2020, Table 3, on TAU Urban Acoustic Scenes 2020 3Class; not measured here"
    return f"{text_table(rows, header, left=(0, 5))}\n\n{note}"


def legend(timed: bool) -> str:
    """Explanation of the headings."""
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
    """All tables and their explanation."""
    tables = [systems_table(task, latency) for task in tasks]
    return "\n\n".join(filter(None, [*tables, legend(latency is not None), report_table(tasks)]))


def as_plain_values(tasks: Sequence[Task], latency: dict[System, float] | None) -> list[dict[str, Any]]:
    """All systems for JSON: accuracies are fractions; the deviation of a single run and unmeasured times are null."""
    return [
        {
            "data": task.title,
            "labels": task.labels,
            "system": f"{task.shared}, {system.name}" if task.shared else system.name,
            "runs": [str(run.directory) for run in system.runs],
            "mean": {metric: system.mean(metric) for metric in METRICS},
            "std": {metric: system.std(metric) for metric in METRICS},
            "milliseconds": (latency or {}).get(system),
        }
        for task in tasks
        for system in task.systems
    ]
