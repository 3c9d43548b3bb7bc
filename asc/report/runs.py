"""Finished runs, grouped into systems, and systems grouped by task."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import yaml

from asc.errors import InputError, one_line, printable
from asc.loading import read_checkpoint
from asc.results import PRECISIONS, Results, read_results

NETS = {"PhamCNN": "CNN", "CPMobile": "CP-Mobile", "Dcase2020Baseline": "DCASE 2020 baseline"}
PHASES = {  # compression phases by class: part of the system's name; empty if the results show it
    **dict.fromkeys(("asc.compress.Prune", "asc.compress.QAT"), ""),
    "asc.compress.PruneFilters": "filters pruned",
    "asc.compress.Distill": "distilled",
}
INCIDENTAL = (  # settings that do not define a system
    *("seed", "run_dir", "checkpoint", "init", "trusted", "compile", "logger", "model."),
    *("data.root", "data.fold", "data.seed", "data.cache", "data.num_workers", "data.missing"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
UNPRUNED_ZEROS = 0.05  # a larger fraction of zeros means pruning: rounding to 8 bits gives about 1 %
MAX_SETTING = 40  # characters of a setting in a name


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path
    results: Results
    checkpoint: Path | None  # None if it cannot be found
    hyperparameters: dict[str, Any]  # of the checkpoint; empty without one
    data: dict[str, Any]  # hyperparameters of the checkpoint's data; empty without one
    settings: list[dict[str, Any]]  # of the run, of the run it started from and so on, by dotted name
    overrides: dict[str, str]  # of these runs' command lines; those of later runs replace earlier ones

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def precision(self) -> str:
        """Arithmetic of the network: float, fake-quantized or int8."""
        return PRECISIONS[self.results.stage]

    @property
    def root(self) -> Path | None:
        """The dataset's folder, on the machine of the run; None without a checkpoint."""
        return Path(str(self.data["root"])) if self.data.get("root") else None

    @property
    def task(self) -> tuple:
        """Dataset, labels and cross-validation: accuracies are comparable only within a task."""
        return self.root.name if self.root else "", tuple(self.results.labels), self.data.get("cv")

    @property
    def network(self) -> str:
        """Name of the network's class; without a checkpoint, of the run's folder."""
        name = str(self.hyperparameters.get("net", {}).get("_target_", "")).rpartition(".")[2]
        return printable(NETS.get(name, name) or self.directory.name)

    @property
    def phases(self) -> list[str]:
        """The compression phases that the results do not show, in order."""
        targets = [str(settings["phase._target_"]) for settings in self.settings if "phase._target_" in settings]
        return list(filter(None, (PHASES.get(name, printable(name.rpartition(".")[2])) for name in targets)))

    @property
    def is_uncompressed(self) -> bool:
        """Whether the network was trained without compression or distillation."""
        return self.results.stage == "float" and not self.phases

    @property
    def zeros(self) -> float:
        """Fraction of the parameters that are zero; 0 if no more than rounding gives."""
        cost = self.results.complexity
        zeros = (cost.parameters - cost.nonzero_parameters) / cost.parameters
        return zeros if zeros > UNPRUNED_ZEROS else 0.0

    @property
    def effective_settings(self) -> dict[str, Any]:
        """The settings, with those unset (null) in compress.py filled in from the run it started from."""
        merged: dict[str, Any] = {}
        for settings in reversed(self.settings):
            merged |= {name: value for name, value in settings.items() if value is not None or name not in merged}
        return merged

    @property
    def configuration(self) -> str:
        """Everything that must be equal in runs to be averaged."""
        nodes = [self.hyperparameters.get(part) for part in ("frontend", "net", "optimizer", "scheduler")]
        quantization = (self.hyperparameters.get("quantization") or {}).get("fold_norms")
        # seeds of one amount of pruning differ a little in zeros
        pruning = self.effective_settings.get("phase.amount", round(self.zeros, 1))
        own = [self.network, self.precision, quantization, pruning, self.metrics["epochs"], nodes, self.settings]
        return json.dumps([self.task, *own], sort_keys=True, default=str)


@dataclass(frozen=True, eq=False)
class System:
    """Runs that differ only in seed and fold; the name is unique in the task."""

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


@dataclass(frozen=True)
class Task:
    """Systems for the same data and labels, whose accuracies are comparable; the largest is first."""

    title: str
    systems: list[System]

    @property
    def labels(self) -> list[str]:
        return self.systems[0].first.results.labels


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Directories with a results.json: each path itself, or all below it, sorted and without duplicates.

    Raises:
        InputError: a path contains no run.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        own = path / "results.json"
        files = [own] if own.is_file() else sorted(path.rglob("results.json"))
        if not files:
            fault = "has no results.json" if path.is_dir() else "is not a directory"
            raise InputError(printable(f"{path} {fault}: give the directory of a finished run, or of several"))
        found |= dict.fromkeys(file.parent.resolve() for file in files)
    return list(found)


def read_run(directory: Path) -> Run:
    """Read the run in a directory.

    Raises:
        InputError: its results.json is not of a finished run, or its checkpoint is not one of a SceneClassifier.
    """
    results = read_results(directory)
    name = results.checkpoint.name  # in the directory if the run was moved
    places = (results.checkpoint, directory / name, directory / "checkpoints" / name)
    checkpoint = next((path for path in places if path.is_file()), None)
    content = read_checkpoint(checkpoint) if checkpoint else {"hyper_parameters": {}}
    data = content.get("datamodule_hyper_parameters") or {}
    return Run(directory, results, checkpoint, content["hyper_parameters"], data, *read_settings(directory))


def read_settings(directory: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """`Run.settings` and `Run.overrides` from .hydra, without INCIDENTAL ones.

    Raises:
        InputError: a file in .hydra is not of a run.
    """
    chain: list[dict[str, Any]] = []
    words: dict[str, str] = {}
    seen: list[Path] = []
    while directory not in seen and (file := directory / ".hydra/config.yaml").is_file():
        seen.append(directory)
        try:
            content = yaml.safe_load(file.read_bytes()) or {}
            [flat] = pd.json_normalize(dict(content)).to_dict("records")  # dotted names
            chain.append({name: value for name, value in flat.items() if is_essential(name)})
            if (file := directory / ".hydra/overrides.yaml").is_file():
                pairs = [str(word).partition("=") for word in yaml.safe_load(file.read_bytes()) or []]
                words = {name: value for name, _, value in pairs if is_essential(name)} | words
        except (OSError, yaml.YAMLError, TypeError, ValueError, AttributeError) as error:  # or no mapping
            raise InputError(f"{file} cannot be read: {one_line(error)}; repeat or exclude the run") from error
        checkpoints = flat.get("checkpoint") or ""
        source = Path(checkpoints[0] if isinstance(checkpoints, list) else str(checkpoints)).parent
        if "phase._target_" in flat:
            directory = source if (source / ".hydra").is_dir() else source.parent
    return chain, words


def is_essential(name: str) -> bool:
    """Whether a setting defines a system."""
    return not name.lstrip("+~").startswith(INCIDENTAL) and not name.endswith(("_recursive_", "_convert_"))


def group(runs: Iterable[Run]) -> list[Task]:
    """Group runs by task, in the order given, and within each into systems, largest first."""
    tasks: dict[tuple, dict[str, list[Run]]] = {}
    for run in runs:
        tasks.setdefault(run.task, {}).setdefault(run.configuration, []).append(run)
    titles = []
    for data, labels, cv in tasks:
        folds = f", {cv}-fold cross-validation" if cv else ""
        titles.append(f"{printable(data) or 'unknown data'}, {len(labels)} classes{folds}")
    return [
        Task(title, named(list(systems.values())))
        for title, systems in zip(numbered(titles), tasks.values(), strict=True)
    ]


def named(groups: list[list[Run]]) -> list[System]:
    """Systems with names: network, phases, precision and zeros; equal ones have the overrides that differ, too."""
    groups = sorted(groups, key=lambda runs: -mean(run.metrics["size_kb"] for run in runs))
    names = pd.Series([system_name(runs) for runs in groups])
    overrides = pd.DataFrame([runs[0].overrides for runs in groups])
    for _, same in overrides.groupby(names.to_list()):
        for index, row in same.loc[:, same.nunique(dropna=False) > 1].iterrows():
            settings = [printable(f"{name}={value}")[:MAX_SETTING] for name, value in row.dropna().items()]
            names[index] = ", ".join([names[index], *settings])
    return [System(name, runs) for name, runs in zip(numbered(names), groups, strict=True)]


def system_name(runs: list[Run]) -> str:
    """Network, phases, precision and pruning, as in "CNN, distilled, int8, pruned 50 %"."""
    first, zeros = runs[0], mean(run.zeros for run in runs)
    precision = [first.precision] if first.precision != "float" else []
    return ", ".join([first.network, *first.phases, *precision, *([f"pruned {100 * zeros:.0f} %"] if zeros else [])])


def numbered(names: Iterable[str]) -> list[str]:
    """The names, with #2, #3... after those that occur again."""
    series = pd.Series(names, dtype=object)
    again = series.groupby(series).cumcount() + 1
    return [name if count == 1 else f"{name} #{count}" for name, count in zip(series, again, strict=True)]


def differing(systems: Iterable[System]) -> dict[str, list[str]]:
    """The settings in which the systems' first runs differ, as on the command line; empty for those without."""
    rows = [
        {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in settings.items()}
        for settings in (system.first.effective_settings for system in systems)
    ]
    table = pd.DataFrame(rows, dtype=object).fillna("")
    return {printable(name): [printable(v) for v in values] for name, values in table.items() if values.nunique() > 1}
