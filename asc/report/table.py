"""The tables of asc.report for the terminal, the times in them, and the comparison of two settings."""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from scipy.stats import ttest_rel
from tqdm import tqdm

from asc.classifier import SceneClassifier
from asc.complexity import KB
from asc.errors import InputError
from asc.report.runs import System, Task
from asc.results import METRICS
from asc.table import text_table
from asc.timing import median_seconds

ROUNDS, MIN_SECONDS = 10, 0.01  # each network is timed for MIN_SECONDS in each round
VERSION = torch.__version__.partition("+")[0]
LEGEND = """\
accuracy by class: the mean of the classes' accuracies, by which DCASE ranks; ±: standard deviation of runs
log loss: mean cross-entropy, 0 is best; weights: the non-zero ones (DCASE: as the challenge counted, at most
500); file: the one to deploy; MACs: multiply-accumulate operations for a clip, in millions; 1 KB: 1024 bytes"""
TIMES = f"""
clip, ms: the network without its frontend, on one thread in torch {VERSION}, median of {ROUNDS};
speed-up: over the uncompressed network"""


def measure_latency(systems: Sequence[System]) -> dict[System, float]:
    """Median latency in ms of each system's network on a clip's features, on one thread.

    The networks take turns, so that background load affects all equally. Systems without a checkpoint, or with classes
    that are not trusted, are left out.
    """
    calls: dict[System, Any] = {}
    for system in tqdm(systems, "loading", leave=False, disable=None, delay=2):
        if system.first.checkpoint:
            with contextlib.suppress(InputError):
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                calls[system] = partial(model.net, model.example_features())
    seconds: dict[System, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in tqdm(range(ROUNDS), "timing", leave=False, disable=None, delay=2):
            for system, call in calls.items():
                seconds[system].append(median_seconds(call, min_seconds=MIN_SECONDS))
    return {system: 1000 * median(values) for system, values in seconds.items()}


def speedups(systems: Sequence[System], latency: dict[System, float]) -> list[float | None]:
    """Speed-up of each system over the uncompressed network of its class; None for that network itself."""
    timed = [system for system in systems if system in latency]
    references = {system.first.network: system for system in reversed(timed) if system.first.is_uncompressed}
    pairs = [(references.get(system.first.network, system), system) for system in systems]
    return [latency[one] / latency[other] if other in latency and one is not other else None for one, other in pairs]


def systems_table(task: Task, latency: dict[System, float] | None = None) -> str:
    """Table with a row for each system of a task; without `latency` it has no times."""
    systems = task.systems

    def column(metric: str, factor: float, digits: int = 1) -> list[str]:
        return [f"{factor * system.mean(metric):.{digits}f}" for system in systems]

    def percent(metric: str) -> list[str]:
        stds = [system.std(metric) for system in systems]
        suffixes = ["" if std is None else f" ± {100 * std:.1f}" for std in stds]
        width = max(map(len, suffixes))  # aligns the decimal points
        return [f"{cell}{suffix:{width}}" for cell, suffix in zip(column(metric, 100), suffixes, strict=True)]

    columns: dict[str, Sequence[Any]] = {
        "\nsystem": [system.name for system in systems],
        "\nruns": [len(system.runs) for system in systems],
        "accuracy %\nby class": percent("macro_accuracy"),
        "accuracy %\nby clip": percent("accuracy"),
        "log\nloss": column("log_loss", 1, 3),
        "weights\nKB": column("size_kb", 1),
        "DCASE\nKB": column("dcase2020_size_kb", 1),
        "file\nKB": column("file_bytes", 1 / KB),
        "MACs\nM": column("macs", 1e-6),
    }
    if latency is not None:
        columns["clip\nms"] = [f"{latency[system]:.2f}" if system in latency else "-" for system in systems]
        ratios = speedups(systems, latency)
        if any(ratios):
            columns["speed-\nup"] = ["" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
    return f"{task.title}\n{text_table(zip(*columns.values(), strict=True), list(columns))}"


def report(tasks: Sequence[Task], latency: dict[System, float] | None) -> str:
    """All tables and their explanation."""
    tables = [systems_table(task, latency) for task in tasks]
    return "\n\n".join([*tables, LEGEND + (TIMES if latency is not None else "")])


def as_plain_values(tasks: Sequence[Task], latency: dict[System, float] | None) -> list[dict[str, Any]]:
    """All systems for JSON: accuracies are fractions; the deviation of a single run and unmeasured times are null."""
    return [
        {
            "data": task.title,
            "labels": task.labels,
            "system": system.name,
            "runs": [str(run.directory) for run in system.runs],
            "mean": {metric: system.mean(metric) for metric in METRICS},
            "std": {metric: system.std(metric) for metric in METRICS},
            "milliseconds": (latency or {}).get(system),
        }
        for task in tasks
        for system in task.systems
    ]


def by_split(tasks: Sequence[Task]) -> pd.Series:
    """Macro-average accuracy in % by dataset, cross-validation, fold and seed, averaged over repeated runs."""
    systems = [system for task in tasks for system in task.systems]
    if len(names := dict.fromkeys(system.name for system in systems)) > 1:
        found = "; ".join(names)
        raise InputError(f"cannot compare a directory with several systems ({found}): give the directory of one")
    runs = [run for system in systems for run in system.runs]
    splits = [str([run.task[0], *map(run.data.get, ("cv", "fold", "seed"))]) for run in runs]
    return pd.Series([100 * run.metrics["macro_accuracy"] for run in runs]).groupby(splits).mean()


def compare(first: Sequence[Task], second: Sequence[Task]) -> str:
    """Difference in accuracy between the second and the first runs on the same data, folds and seeds.

    On the same clips, paired differences vary less than the means. The interval is Student's t for the mean paired
    difference. Folds share training clips, so it is somewhat too narrow.

    Raises:
        InputError: no split is in both, or one of them has runs of several systems.
    """
    splits = pd.DataFrame({"old": by_split(first), "new": by_split(second)})
    pairs = splits.dropna()
    if pairs.empty:
        raise InputError("the runs to compare share no data, fold and seed: run both settings on the same splits")
    change = (pairs.new - pairs.old).mean()
    lines = [
        f"macro-average accuracy  {pairs.old.mean():6.1f} %",
        f"                     to {pairs.new.mean():6.1f} %",
        f"difference              {change:+6.1f} points over {len(pairs)} pairs of the same fold and seed",
    ]
    if len(pairs) > 1:
        interval = ttest_rel(pairs.new, pairs.old).confidence_interval(0.95)
        lines.append(f"95 % interval           {interval.low:+6.1f} to {interval.high:+.1f}")
    if unpaired := len(splits) - len(pairs):
        lines.append(f"left out                {unpaired} without a partner")
    return "\n".join(lines)
