"""The runs of a sweep as a table, sweep.csv and sweep.png."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from asc.errors import InputError, one_line, printable
from asc.files import atomic_write
from asc.table import text_table

JOB_FILE = "job.json"
REPEATS = ("seed", "data.fold")  # runs that differ only in these are repetitions, to be averaged
MEASURED = ["val_macro_accuracy", "test_macro_accuracy", "test_log_loss", "size_kb"]
FIXED = ["job", "status", *MEASURED, "macs", "file_bytes", "reason"]  # columns besides the settings
MAX_ROWS, MAX_PANELS, MAX_TICKS, MAX_CELL = 30, 5, 8, 24


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


def read_runs(directory: Path) -> pd.DataFrame:
    """The content of sweep.csv: a row for each run below a sweep's directory, in the order of their numbers.

    The columns are job (the run's directory), the settings that differ, status (finished, failed, "too large" for
    max_size_kb, or stopped), metrics and sizes, accuracies as fractions, and the reason of a failure.

    Raises:
        InputError: a record is not what a sweep writes.
    """
    folders = {file.parent for file in directory.rglob(JOB_FILE)}
    folders |= {file.parent.parent for file in directory.rglob(".hydra/overrides.yaml")}
    rows = [read_run(folder, directory) for folder in sorted(folders, key=lambda folder: (len(str(folder)), folder))]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(FIXED[:1] + [name for row in rows for name in row])))
    settings = [name for name in table if name not in FIXED]
    table[settings] = table[settings].fillna("")
    same = [name for name in settings if table[name].nunique() == 1]
    return table.drop(columns=same).astype(dict.fromkeys(MEASURED, float) | dict.fromkeys(FIXED[-3:-1], "Int64"))


def read_run(folder: Path, directory: Path) -> dict[str, Any]:
    """A row of `read_runs`, with all overrides of the run."""
    record = read_record(folder / JOB_FILE)
    if record is None:
        overrides = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text()) or []
        record = {"overrides": overrides, "status": "stopped", "objective": None, "reason": ""}
    file, objective = folder / "results.json", record["objective"]
    is_tested = record["status"] != "failed" and file.exists()
    results = json.loads(file.read_bytes()) if is_tested else {"test": {}, "complexity": {}}
    return {
        "job": str(folder.relative_to(directory)),
        **dict(override.partition("=")[::2] for override in record["overrides"]),
        "status": record["status"],
        "val_macro_accuracy": None if objective is None or objective < 0 else objective,  # below 0 if too large
        "test_macro_accuracy": results["test"].get("macro_accuracy"),
        "test_log_loss": results["test"].get("log_loss"),
        **{name: results["complexity"].get(name) for name in ("size_kb", "macs", "file_bytes")},
        "reason": record["reason"],
    }


def sweep_report(directory: Path, runs: pd.DataFrame) -> str:
    """Write sweep.csv and sweep.png; return the table, the reasons of failures, and the paths of the files.

    Raises:
        WriteError: a file cannot be written.
    """
    with atomic_write(directory / "sweep.csv") as temporary:
        runs.to_csv(temporary, index=False)
    counts = runs.status.value_counts(sort=False)
    lines = ["", sweep_table(runs), "", "runs    " + ", ".join(f"{n} {status}" for status, n in counts.items())]
    for reason, failed in runs[runs.status == "failed"].groupby("reason", sort=False):
        lines.append(f"failed  {', '.join(failed.job)}: {printable(str(reason))}")
    tested, names = runs[runs.test_macro_accuracy.notna()], row_settings(runs)
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


def row_settings(runs: pd.DataFrame) -> list[str]:
    """The settings that distinguish the table's rows: no repetitions, unless all runs are repetitions."""
    settings = [name for name in runs if name not in FIXED]
    return [name for name in settings if name not in REPEATS] or settings or ["job"]


def groups(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each row of the table, the best on validation first."""
    found = [group for _, group in runs.groupby(row_settings(runs), sort=False)]
    return sorted(found, key=lambda group: -group.val_macro_accuracy.fillna(-1).mean())


def sweep_table(runs: pd.DataFrame) -> str:
    """A table with a row for each combination of settings, at most MAX_ROWS; accuracies in %."""
    names = row_settings(runs)
    rows = [[*(cell(group[name].iloc[0]) for name in names), *averages(group)] for group in groups(runs)]
    if set(names) <= set(REPEATS):
        rows.append(["mean", *[""] * (len(names) - 1), *averages(runs)])
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
    counts = group.status[group.status != "finished"].value_counts(sort=False)
    others = ", ".join(status if len(group) == 1 else f"{n} {status}" for status, n in counts.items())
    return [str(group.size_kb.count()), *cells, "-" if pd.isna(size) else f"{size:.1f}", others]


def cell(value: str) -> str:
    """A setting's value in the table: numbers with four digits, strings cut to MAX_CELL characters."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        text = printable(value)
        return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."


def plot_sweep(path: Path, tested: pd.DataFrame, names: list[str]) -> None:
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
        elif x.nunique() <= MAX_TICKS:
            axes.set_xticks(sorted(x.unique()))  # there is no fold 1.5
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
