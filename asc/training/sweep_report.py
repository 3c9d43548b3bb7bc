"""The runs of a sweep as a table, sweep.csv and sweep.png."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from asc.errors import InputError, one_line, printable
from asc.files import atomic_write
from asc.table import text_table

JOB_FILE = "job.json"
REPEATS = ("seed", "data.fold")  # runs that differ only in these are repetitions, to be averaged
MAX_ROWS, MAX_PANELS, MAX_CELL = 30, 5, 24


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
        name: directory of the run below the sweep's.
        settings: overrides of the run.
        status: finished, failed, "too large" for max_size_kb, or stopped.
        objective: macro-average accuracy on validation clips, below 0 if too large; None without validation.
        reason: cause of the failure.
        results: content of results.json; empty if there is none.
    """

    name: str
    settings: dict[str, str]
    status: str
    objective: float | None = None
    reason: str = ""
    results: dict[str, Any] = field(default_factory=dict)


def read_record(file: Path) -> dict[str, Any] | None:
    """The content of job.json: overrides, status, objective and reason; None if there is no file.

    Raises:
        InputError: it is not what a sweep writes.
    """
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_bytes())
        return {name: record[name] for name in ("overrides", "status", "objective", "reason")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read: {one_line(error)}; delete {file.parent} to repeat the run") from error


def read_runs(directory: Path) -> list[SweepRun]:
    """The runs below a sweep's directory, in the order of their numbers.

    Raises:
        InputError: a record is not what a sweep writes.
    """
    runs = []
    for folder in {file.parent for file in directory.rglob(JOB_FILE)} | {
        file.parent.parent for file in directory.rglob(".hydra/overrides.yaml")
    }:
        record = read_record(folder / JOB_FILE)
        if record is None:
            overrides = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text()) or []
            record = {"overrides": overrides, "status": "stopped", "objective": None, "reason": ""}
        results = folder / "results.json"
        is_tested = record["status"] != "failed" and results.exists()
        record["settings"] = dict(override.partition("=")[::2] for override in record.pop("overrides"))
        name = str(folder.relative_to(directory))
        runs.append(SweepRun(name, **record, results=json.loads(results.read_bytes()) if is_tested else {}))
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def sweep_report(directory: Path, runs: Sequence[SweepRun]) -> str:
    """Write sweep.csv and sweep.png; return the table, the reasons of failures, and the paths of the files.

    Raises:
        WriteError: a file cannot be written.
    """
    table = frame(runs)
    with atomic_write(directory / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    lines = [
        "",
        sweep_table(runs),
        "",
        "runs    " + ", ".join(f"{n} {s}" for s, n in table.status.value_counts(sort=False).items()),
    ]
    for reason, failed in table[table.status == "failed"].groupby("reason", sort=False):
        lines.append(f"failed  {', '.join(failed.job)}: {printable(str(reason))}")
    tested, names = table[table.test_macro_accuracy.notna()], shown(runs)
    if len(tested) and set(names) - {*REPEATS, "job"}:
        group = groups(runs)[0]
        settings = printable(" ".join(f"{name}={group[name].iloc[0]}" for name in names))
        best = f"by validation accuracy: {', '.join(group.job[group.val_macro_accuracy.notna()])}  {settings}"
        has_validation = tested.val_macro_accuracy.notna().any()
        lines.append(f"best    {best if has_validation else 'unknown without validation clips: set data.val_fraction'}")
    lines.append(f"csv     {directory / 'sweep.csv'}")
    if len(tested):
        plot_sweep(directory / "sweep.png", tested, names)
        lines.append(f"png     {directory / 'sweep.png'}")
    return "\n".join(lines)


def swept(runs: Sequence[SweepRun]) -> list[str]:
    """Names of the settings that differ between the runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({run.settings.get(name) for run in runs}) > 1]


def shown(runs: Sequence[SweepRun]) -> list[str]:
    """Names of the columns that distinguish the table's rows: no repetitions, unless all runs are repetitions."""
    return [name for name in swept(runs) if name not in REPEATS] or swept(runs) or ["job"]


def frame(runs: Sequence[SweepRun]) -> pd.DataFrame:
    """The content of sweep.csv: a row for each run, with the differing settings; accuracies are fractions."""
    rows, names = [], swept(runs)
    for run in runs:
        test, cost = run.results.get("test", {}), run.results.get("complexity", {})
        is_accuracy = run.objective is not None and run.objective >= 0
        rows.append(
            {
                "job": run.name,
                **{name: run.settings.get(name, "") for name in names},
                "status": run.status,
                "val_macro_accuracy": run.objective if is_accuracy else None,
                "test_macro_accuracy": test.get("macro_accuracy"),
                "test_log_loss": test.get("log_loss"),
                **{name: cost.get(name) for name in ("size_kb", "macs", "file_bytes")},
                "reason": run.reason,
            }
        )
    measured = ["val_macro_accuracy", "test_macro_accuracy", "test_log_loss", "size_kb"]
    return pd.DataFrame(rows).astype(dict.fromkeys(measured, float) | dict.fromkeys(("macs", "file_bytes"), "Int64"))


def groups(runs: Sequence[SweepRun]) -> list[pd.DataFrame]:
    """The runs of each row of the table, the best on validation first."""
    found = [group for _, group in frame(runs).groupby(shown(runs), sort=False)]

    def loss(group: pd.DataFrame) -> float:
        mean = group.val_macro_accuracy.mean()
        return 1 if pd.isna(mean) else -mean

    return sorted(found, key=loss)


def sweep_table(runs: Sequence[SweepRun]) -> str:
    """A table with a row for each combination of settings, at most MAX_ROWS; accuracies in %."""
    names = shown(runs)
    rows = [[*(cell(group[name].iloc[0]) for name in names), *averages(group)] for group in groups(runs)]
    if set(names) <= set(REPEATS):
        rows.append(["mean", *[""] * (len(names) - 1), *averages(frame(runs))])
    short = [name.partition(".")[2] or name for name in names]
    heads = [last if short.count(last) == 1 else name for last, name in zip(short, names, strict=True)]
    table = text_table(rows[:MAX_ROWS], [*heads, "runs", "validation %", "test %", "KB", ""])
    hidden = len(rows) - MAX_ROWS
    return table if hidden <= 0 else f"{table}\n... and {hidden} more rows: see sweep.csv"


def averages(group: pd.DataFrame) -> list[str]:
    """Number of tested runs, their mean accuracies in % with sample standard deviations, KB, and the other statuses."""
    accuracies = [100 * group.val_macro_accuracy.dropna(), 100 * group.test_macro_accuracy.dropna()]
    cells = [f"{x.mean():.1f}" + (f" +- {x.std():.1f}" if len(x) > 1 else "") if len(x) else "-" for x in accuracies]
    size = group.size_kb.mean()
    counts = Counter(group.status[group.status != "finished"])
    others = ", ".join(status if len(group) == 1 else f"{n} {status}" for status, n in counts.items())
    return [str(group.size_kb.count()), *cells, "-" if pd.isna(size) else f"{size:.1f}", others]


def cell(value: str) -> str:
    """A setting's value in the table: numbers with four digits, strings cut to MAX_CELL characters."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        text = printable(value)
        return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."


def plot_sweep(path: Path, tested: pd.DataFrame, names: Sequence[str]) -> None:
    """Plot each run's accuracy (validation, or else test) against each differing setting and against size."""
    from matplotlib.figure import Figure  # pyplot would need a display

    metric = "test" if tested.val_macro_accuracy.isna().any() else "validation"
    accuracy = 100 * tested["test_macro_accuracy" if metric == "test" else "val_macro_accuracy"]
    panels = [name for name in names if name != "job"]
    if tested.size_kb.nunique() > 1 or not panels:
        panels.insert(0, "size_kb")
    panels = panels[:MAX_PANELS]
    figure = Figure(figsize=(4 * len(panels) + 0.5, 3.4), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, panels, strict=True):
        x = pd.to_numeric(tested[name], errors="coerce")
        if x.isna().any():  # strings
            x = tested[name].map(cell)
            axes.tick_params(axis="x", labelrotation=30)
        elif x.min() > 0 and x.max() >= 10 * x.min():
            axes.set_xscale("log")
        axes.scatter(x, accuracy, alpha=0.7)
        if metric == "validation":
            best = accuracy == accuracy.max()
            axes.scatter(x[best], accuracy[best], s=120, facecolors="none", edgecolors="C3", label="best run")
            axes.legend()
        axes.set_xlabel("non-zero parameters, KB" if name == "size_kb" else printable(name))
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(f"{metric} accuracy, macro-average, %")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
