"""Runs grouped into systems, and systems by the task on which they compare."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from asc.report.runs import SAME_ZEROS, Run
from asc.report.settings import differing
from asc.results import shorten

REPORT = {  # Pham et al. 2020, Table 3: accuracy in %, KB; by network, precision and whether half is pruned
    ("Dcase2020Baseline", "float", False): ("DCASE 2020 baseline", 87.3, 450.0),
    ("PhamCNN", "float", False): ("CNN", 93.0, 245.5),
    ("PhamCNN", "int8", False): ("CNN, 8-bit quantization-aware training", 91.9, 61.5),
    ("PhamCNN", "float", True): ("CNN, pruned", 90.5, 122.8),
}


@dataclass(frozen=True, eq=False)
class System:
    """Runs that differ only in seed and fold.

    Attributes:
        name: unique among the systems of its task.
        runs: at least one.
    """

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run to read what all runs share from."""
        return self.runs[0]

    def mean(self, metric: str) -> float:
        return mean(run.metrics[metric] for run in self.runs)

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over the runs; None for a single run."""
        return stdev(run.metrics[metric] for run in self.runs) if len(self.runs) > 1 else None

    @property
    def reported(self) -> tuple[str, float, float] | None:
        """Name, accuracy in % and size in KB in the report, if this is one of its four systems."""
        run = self.first
        if run.filters or run.phases or len(run.labels) != 3 or (run.is_pruned and not 0.45 <= run.sparsity <= 0.55):
            return None
        if run.hyperparameters and run.hyperparameters["net"].get("pooling", "max") != "max":
            return None  # Table 2's network pools by maxima
        return REPORT.get((run.net, run.precision, run.is_pruned))


@dataclass(frozen=True)
class Task:
    """Systems for the same data and labels, whose accuracies compare.

    Attributes:
        title: dataset and number of classes.
        shared: what the names of all systems would have in common, such as CNN; empty with a single system.
        systems: largest first.
    """

    title: str
    shared: str
    systems: list[System]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.systems[0].first.labels


def group(runs: Iterable[Run]) -> list[Task]:
    """Group runs by task, in the order given, and within each into systems, largest first."""
    tasks: dict[tuple, list[list[Run]]] = {}
    for run in runs:
        groups = tasks.setdefault(run.task, [])
        same = next((group for group in groups if is_same_system(group[0], run)), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    titles = distinct([[task_title(task), ", ".join(task[1])] for task in tasks])
    return [task_of(title, groups) for title, groups in zip(titles, tasks.values(), strict=True)]


def is_same_system(one: Run, other: Run) -> bool:
    """Whether both runs differ at most in seed and fold."""
    are_as_sparse = not (one.is_pruned or other.is_pruned) or abs(one.sparsity - other.sparsity) < SAME_ZEROS
    return are_as_sparse and one.recipe == other.recipe


def task_title(task: tuple) -> str:
    """Dataset, number of classes and cross-validation."""
    data, labels, cv = task
    return f"{data or 'unknown data'}, {len(labels)} classes" + (f", {cv}-fold cross-validation" if cv else "")


def task_of(title: str, groups: list[list[Run]]) -> Task:
    """The systems of a task, with names that differ and leave out what they share."""
    groups = sorted(groups, key=lambda group: -mean(run.metrics["size_kb"] for run in group))
    firsts = [group[0] for group in groups]
    parts = [run.parts for run in firsts]
    shared = {k: v for k, v in parts[0].items() if all(part.get(k) == v for part in parts)} if len(parts) > 1 else {}
    own = [", ".join(text for about, text in part.items() if about not in shared) for part in parts]
    plain = ["as above" if "precision" in shared else run.precision for run in firsts]
    names = [name or other for name, other in zip(own, plain, strict=True)]
    names = distinct([[name, *details] for name, details in zip(names, details_of(firsts), strict=True)])
    systems = [System(name, group) for name, group in zip(names, groups, strict=True)]
    return Task(title, ", ".join(shared.values()), systems)


def details_of(runs: Sequence[Run]) -> list[list[str]]:
    """For each run, what may tell it from others of its name: epochs, parameters, then settings."""
    rows = [
        [f"{run.metrics['epochs']:,.0f} epochs" for run in runs],
        [f"{run.metrics['parameters']:,.0f} parameters" for run in runs],
        *(
            [value and shorten(f"{name}={value}", 40) for value in values]
            for name, values in differing([run.settings for run in runs]).items()
        ),
    ]
    return [list(details) for details in zip(*rows, strict=True)]


def distinct(candidates: Sequence[Sequence[str]]) -> list[str]:
    """The first text of each row, extended by the others of its row where they tell it from texts like it."""
    names = [row[0] for row in candidates]
    for details in zip(*(row[1:] for row in candidates), strict=True):
        longer = [", ".join(filter(None, pair)) for pair in zip(names, details, strict=True)]
        before, after = Counter(names), Counter(longer)
        names = [b if after[b] < before[a] else a for a, b in zip(names, longer, strict=True)]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} #{again + 1}" if again else name for name, again in zip(names, earlier, strict=True)]


def all_systems(tasks: Iterable[Task]) -> list[System]:
    """The systems of all tasks."""
    return [system for task in tasks for system in task.systems]
