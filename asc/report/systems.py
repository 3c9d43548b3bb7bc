"""Runs grouped into systems, and systems grouped by task."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from asc.errors import printable
from asc.report.runs import Run

SAME_ZEROS = 0.0075  # tolerance of the sparsity between seeds: rounding and folding add a few zeros, which vary
MAX_SETTING = 40  # characters of a setting in a name
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
        """The first run, for properties that all runs share."""
        return self.runs[0]

    @property
    def accuracy(self) -> float:
        """Macro-average accuracy in %, averaged over the runs."""
        return 100 * self.mean("macro_accuracy")

    def mean(self, metric: str) -> float:
        return mean(run.metrics[metric] for run in self.runs)

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over the runs; None for a single run."""
        return stdev(run.metrics[metric] for run in self.runs) if len(self.runs) > 1 else None

    @property
    def reported(self) -> tuple[str, float, float] | None:
        """Name, accuracy in % and size in KB in the report, if this is one of its four systems."""
        run = self.first
        is_other = {"filters", "phases"} & run.parts.keys() or run.net.get("pooling", "max") != "max"
        if is_other or len(run.labels) != 3 or (run.is_pruned and not 0.45 <= run.sparsity <= 0.55):
            return None
        return REPORT.get((run.net_name, run.precision, run.is_pruned))


@dataclass(frozen=True)
class Task:
    """Systems for the same data and labels, whose accuracies are comparable.

    Attributes:
        title: dataset and number of classes.
        shared: the common part of all systems' names, such as CNN; empty for a single system.
        systems: largest first.
    """

    title: str
    shared: str
    systems: list[System]

    @property
    def labels(self) -> list[str]:
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
    titles = unique_names([[task_title(*task), printable(", ".join(task[1]))] for task in tasks])
    return [task_of(title, groups) for title, groups in zip(titles, tasks.values(), strict=True)]


def is_same_system(one: Run, other: Run) -> bool:
    """Whether both runs differ at most in seed and fold."""
    is_as_sparse = not (one.is_pruned or other.is_pruned) or abs(one.sparsity - other.sparsity) < SAME_ZEROS
    return is_as_sparse and one.configuration == other.configuration


def task_title(data: str, labels: tuple[str, ...], cv: int | None) -> str:
    """Dataset, number of classes and cross-validation."""
    folds = f", {cv}-fold cross-validation" if cv else ""
    return f"{printable(data) or 'unknown data'}, {len(labels)} classes{folds}"


def task_of(title: str, groups: list[list[Run]]) -> Task:
    """A task with its systems, whose names are unique and omit common parts."""
    groups = sorted(groups, key=lambda group: -mean(run.metrics["size_kb"] for run in group))
    firsts = [group[0] for group in groups]
    parts = [run.parts for run in firsts]
    shared = {k: v for k, v in parts[0].items() if all(part.get(k) == v for part in parts)} if len(parts) > 1 else {}
    own = [", ".join(text for topic, text in part.items() if topic not in shared) for part in parts]
    plain = ["as above" if "precision" in shared else run.precision for run in firsts]
    rows = [
        own,
        [f"{run.metrics['epochs']:,.0f} epochs" for run in firsts],
        [f"{run.metrics['parameters']:,.0f} parameters" for run in firsts],
        *(
            [value and f"{name}={value}"[:MAX_SETTING] for value in values]
            for name, values in differing(firsts).items()
        ),
    ]
    rows[0] = [name or other for name, other in zip(own, plain, strict=True)]
    names = unique_names(list(zip(*rows, strict=True)))
    systems = [System(name, group) for name, group in zip(names, groups, strict=True)]
    return Task(title, ", ".join(shared.values()), systems)


def unique_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """The first field of each row, with the fewest further fields appended that make each name unique."""
    names = [row[0] for row in candidates]
    for details in zip(*(row[1:] for row in candidates), strict=True):
        longer = [", ".join(filter(None, pair)) for pair in zip(names, details, strict=True)]
        before, after = Counter(names), Counter(longer)
        names = [b if after[b] < before[a] else a for a, b in zip(names, longer, strict=True)]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} #{again + 1}" if again else name for name, again in zip(names, earlier, strict=True)]


def effective(chain: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings of a run, with those unset (null) in compress.py filled in from the run it started from.

    >>> effective([{"optimizer.lr": 1e-4, "sample_rate": None}, {"optimizer.lr": 3e-3, "sample_rate": 16000}])
    {'optimizer.lr': 0.0001, 'sample_rate': 16000}
    """
    merged: dict[str, Any] = {}
    for settings in reversed(chain):
        merged |= {name: value for name, value in settings.items() if value is not None or name not in merged}
    return merged


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that differ between runs, by name, as on the command line; empty if a run has no such setting."""
    settings = [effective(run.settings) for run in runs]
    names = dict.fromkeys(name for run in settings for name in run if not name.endswith(("_recursive_", "_convert_")))
    differ = [name for name in names if any(run.get(name) != settings[0].get(name) for run in settings)]
    return {printable(name): [written(run[name]) if name in run else "" for run in settings] for name in differ}


def written(value: Any) -> str:
    """A setting's value as on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else printable(str(value))
