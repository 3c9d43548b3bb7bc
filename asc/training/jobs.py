"""The runs of a sweep as a table, sweep.csv and sweep.png."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.plain_yaml import read_yaml
from asc.results import read_results

JOB_FILE = "job.json"
REPEATS = ("seed", "data.fold")  # runs that differ in these alone are repetitions, to be averaged
MAX_ROWS, MAX_PANELS, MAX_CELL = 30, 6, 24


class Record(TypedDict):
    """How a run of a sweep ended: its job.json."""

    overrides: list[str]
    status: Literal["finished", "failed", "too large", "stopped"]  # a stopped run has no job.json
    objective: Annotated[float, Field(allow_inf_nan=False)] | None
    reason: str


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Attributes:
        name: its directory below the sweep's.
        settings: its overrides.
        status: finished, failed, "too large" for max_size_kb, or stopped.
        objective: macro-average accuracy on validation clips, below 0 if too large; None without validation.
        reason: why it failed.
        results: content of results.json; empty if there is none.
    """

    name: str
    settings: dict[str, str]
    status: str
    objective: float | None
    reason: str
    results: dict[str, Any]

    @property
    def validation(self) -> float | None:
        """Accuracy on validation clips in %; None without validation or results."""
        return None if self.objective is None or self.objective < 0 else 100 * self.objective

    @property
    def test(self) -> float | None:
        """Macro-average accuracy on test clips in %; None without results."""
        return 100 * self.results["test"]["macro_accuracy"] if self.results else None

    @property
    def size_kb(self) -> float | None:
        """KB of the non-zero parameters; None without results."""
        return self.results["complexity"]["size_kb"] if self.results else None


def read_record(folder: Path) -> Record | None:
    """The job.json in a run's directory; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    return read_as(Record, folder / JOB_FILE, lambda file: json.loads(file.read_bytes()))


def read_as(kind: Any, file: Path, read: Callable[[Path], Any]) -> Any:
    """The content of a run's file by `read`, which must be of type `kind`; None if there is no file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return TypeAdapter(kind).validate_python(read(file), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: JSON nested without end
        folder = file.parent.parent if file.parent.name == ".hydra" else file.parent
        raise InputError(
            f"{file} is not what a sweep writes: delete {folder}, and the same command does this run again"
        ) from error


def read_checked_results(file: Path) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        FileNotFoundError, InputError: it is not there, or damaged.
    """
    content = json.loads(file.read_bytes())
    read_results(file)
    return content


def read_jobs(directory: Path) -> list[Job]:
    """The runs below a sweep's directory, in the order of their numbers.

    Raises:
        InputError: a file of a run is damaged.
    """
    jobs = []
    for file in directory.rglob(".hydra/overrides.yaml"):
        folder = file.parent.parent
        record = read_record(folder)
        if record is None:
            overrides = read_as(list[str], file, lambda file: read_yaml(file) or [])
            record = {"overrides": overrides, "status": "stopped", "objective": None, "reason": ""}
        results = None
        if record["status"] != "failed":
            results = read_as(dict, folder / "results.json", read_checked_results)
        jobs.append(
            Job(
                name=str(folder.relative_to(directory)),
                settings=dict(override.partition("=")[::2] for override in record["overrides"]),
                status=record["status"],
                objective=record["objective"],
                reason=record["reason"],
                results=results or {},
            )
        )
    return sorted(jobs, key=lambda job: (len(job.name), job.name))


def sweep_report(directory: Path, jobs: Sequence[Job]) -> str:
    """Write sweep.csv and sweep.png; return the table, the reasons of failures, and the paths of the files.

    Raises:
        WriteError: a file cannot be written.
    """
    files = [directory / "sweep.csv"]
    write_table(files[0], jobs)
    if any(job.results for job in jobs):
        files.append(directory / "sweep.png")
        plot_sweep(files[1], jobs)
    counts = Counter(job.status for job in jobs)
    lines = ["", *sweep_table(jobs), "", "runs    " + ", ".join(f"{n} {status}" for status, n in counts.items())]
    for reason in dict.fromkeys(job.reason for job in jobs if job.status == "failed"):
        names = [job.name for job in jobs if job.status == "failed" and job.reason == reason]
        lines.append(f"failed  {', '.join(names)}: {printable(reason)}")
    if any(job.results for job in jobs) and set(swept(jobs)) - set(REPEATS):
        lines.append(f"best    {best(jobs) or 'cannot be told without validation clips: set data.val_fraction'}")
    return "\n".join([*lines, *(f"{file.suffix[1:]:8}{file}" for file in files)])


def swept(jobs: Sequence[Job]) -> list[str]:
    """Names of the settings that differ between the runs."""
    names = dict.fromkeys(name for job in jobs for name in job.settings)
    return [name for name in names if len({job.settings.get(name) for job in jobs}) > 1]


def short_names(names: Sequence[str]) -> list[str]:
    """Names without their group, such as lr for optimizer.lr, where they stay distinct."""
    short = [name.partition(".")[2] or name for name in names]
    return [a if short.count(a) == 1 else name for a, name in zip(short, names, strict=True)]


def grouped(jobs: Sequence[Job]) -> tuple[list[str], list[list[Job]]]:
    """The settings to show, and the runs of each row: repetitions share a row, unless all runs are repetitions."""
    names = [name for name in swept(jobs) if name not in REPEATS]
    if not names:
        return swept(jobs), [[job] for job in jobs]
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.settings.get(name) for name in names), []).append(job)
    return names, list(groups.values())


def score(jobs: Sequence[Job]) -> float:
    """Mean objective of runs with the same settings; -inf if none has one."""
    return mean([job.objective for job in jobs if job.objective is not None] or [float("-inf")])


def best(jobs: Sequence[Job]) -> str | None:
    """The settings of best validation accuracy; None without validation."""
    names, groups = grouped(jobs)
    group = max(groups, key=score)
    if not any(job.validation is not None for job in group):
        return None
    runs = ", ".join(job.name for job in group if job.results)
    settings = " ".join(f"{name}={group[0].settings.get(name, '')}" for name in names)
    return f"by validation accuracy: {runs}  {printable(settings)}".rstrip()


def sweep_table(jobs: Sequence[Job]) -> list[str]:
    """Lines of a table: a row for each combination of settings, the best on validation first."""
    names, groups = grouped(jobs)
    groups = sorted(groups, key=score, reverse=True)
    columns = [
        [head, *(cell(group[0].settings.get(name, "")) for group in groups)]
        for head, name in zip(short_names(names), names, strict=True)
    ]
    if not columns:
        columns = [["run", *(group[0].name for group in groups)]]
    if names and not set(names) - set(REPEATS):
        groups = [*groups, list(jobs)]
        columns = [[*column, "mean" if column is columns[0] else ""] for column in columns]
    columns += [
        ["runs", *(str(sum(bool(job.results) for job in group)) for group in groups)],
        ["validation %", *(average(group, "validation") for group in groups)],
        ["test %", *(average(group, "test") for group in groups)],
        ["KB", *(average(group, "size_kb", spread=False) for group in groups)],
        ["", *(unfinished(group) for group in groups)],
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    hidden = len(lines) - 2 - MAX_ROWS
    return lines if hidden <= 0 else [*lines[: 2 + MAX_ROWS], f"... and {hidden} more rows: see sweep.csv"]


def average(jobs: Sequence[Job], metric: str, spread: bool = True) -> str:
    """Mean of a metric over the runs that have it, and its sample standard deviation."""
    values = [value for value in (getattr(job, metric) for job in jobs) if value is not None]
    if not values:
        return "-"
    deviation = f" +- {stdev(values):.1f}" if spread and len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation}"


def unfinished(jobs: Sequence[Job]) -> str:
    """Statuses of the runs that are not finished."""
    counts = Counter(job.status for job in jobs if job.status != "finished")
    return ", ".join(status if len(jobs) == 1 else f"{n} {status}" for status, n in counts.items())


def cell(value: str) -> str:
    """A setting's value in the table: numbers with four digits, text cut to MAX_CELL characters."""
    number = as_number(value)
    text = f"{number:.4g}" if number is not None else printable(value)
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."


def as_number(value: str) -> float | None:
    """A setting's value as a number; None if it is none."""
    try:
        return float(value)
    except ValueError:
        return None


def write_table(path: Path, jobs: Sequence[Job]) -> None:
    """Write sweep.csv: a row for each run, with the settings that differ between runs; accuracies are fractions."""
    names = swept(jobs)
    columns = ["job", *names, "status", "val_macro_accuracy", "test_macro_accuracy", "test_log_loss"]
    sizes = ["size_kb", "macs", "file_bytes"]
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns, *sizes, "reason"])
        for job in jobs:
            test, cost = job.results.get("test", {}), job.results.get("complexity", {})
            settings = [job.settings.get(name, "") for name in names]
            metrics = [test.get("macro_accuracy"), test.get("log_loss"), *map(cost.get, sizes)]
            validation = None if job.validation is None else job.objective
            table.writerow([job.name, *settings, job.status, validation, *metrics, job.reason])


def plot_sweep(path: Path, jobs: Sequence[Job]) -> None:
    """Plot each run's accuracy (validation, or else test) against each setting that differs and against size."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    done = [job for job in jobs if job.results]
    metric = "validation" if all(job.validation is not None for job in done) else "test"
    accuracies = [getattr(job, metric) for job in done]
    names, _ = grouped(jobs)
    panels: list[tuple[str, list[Any]]] = [(name, [job.settings.get(name, "") for job in done]) for name in names]
    if len({job.size_kb for job in done}) > 1 or not panels:
        panels.insert(0, ("non-zero parameters, KB", [job.size_kb for job in done]))
    panels = panels[:MAX_PANELS]
    columns = min(3, len(panels))
    figure = Figure(figsize=(4 * columns + 0.5, 3.4 * -(-len(panels) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(grid.flat, panels, strict=False):
        plot_accuracies(axes, list(map(str, values)), accuracies, mark_best=metric == "validation")
        axes.set_xlabel(printable(name))
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{metric} accuracy, macro-average, %")
    if metric == "validation":
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_accuracies(axes: Any, values: Sequence[str], accuracies: Sequence[float], mark_best: bool) -> None:
    """Plot accuracies against values: of numbers, on a logarithmic axis if they span a decade, or of text."""
    numbers = [number for number in map(as_number, values) if number is not None]
    are_numbers = len(numbers) == len(values)
    x: list[Any] = numbers if are_numbers else list(map(cell, values))
    axes.scatter(x, accuracies, alpha=0.7)
    if not are_numbers:
        axes.tick_params(axis="x", labelrotation=30)
    elif min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
        axes.set_xscale("log")
    if mark_best:
        best = accuracies.index(max(accuracies))
        axes.scatter([x[best]], [accuracies[best]], s=120, facecolors="none", edgecolors="C3", label="best run")
