"""Finished runs, grouped into systems."""

import inspect
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from omegaconf import OmegaConf

import asc.nets
from asc.complexity import nonzeros
from asc.errors import InputError
from asc.loading import read_checkpoint

METRICS = (
    *("accuracy", "macro_accuracy", "log_loss"),
    *("parameters", "nonzero_parameters", "size_kb", "dcase2020_size_kb", "macs", "file_bytes"),
)
NETS = {"PhamCNN": "CNN", "CPMobile": "CP-Mobile", "Dcase2020Baseline": "DCASE 2020 baseline"}
PRECISIONS = {"float": "float", "pruned": "float", "qat": "fake-quantized", "int8": "int8"}  # by stage
INCIDENTAL = (  # settings that do not define a system
    *("seed", "run_dir", "checkpoint", "init", "trusted", "compile", "logger", "model."),
    *("data.root", "data.fold", "data.seed", "data.cache", "data.num_workers", "data.missing"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
UNPRUNED_ZEROS = 0.05  # more zeros than this mean pruning: rounding to 8 bits gives about 1 %
SAME_ZEROS = 0.0075  # tolerance between seeds: rounding and folding add a few zeros, which vary
REPORT = {  # Pham et al. 2020, Table 3: accuracy in %, KB; by network, precision and whether half is pruned
    ("Dcase2020Baseline", "float", False): (87.3, 450.0),
    ("PhamCNN", "float", False): (93.0, 245.5),
    ("PhamCNN", "int8", False): (91.9, 61.5),
    ("PhamCNN", "float", True): (90.5, 122.8),
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: holds its results.json.
        stage: float, pruned, qat or int8.
        labels: names of the scenes.
        metrics: values of METRICS in results.json.
        epochs: of training or fine-tuning.
        checkpoint: None where it cannot be found.
        settings: the checkpoint's hyperparameters; empty without a checkpoint.
        data: name of the dataset's folder; empty without a checkpoint.
        split: (cv, fold, seed) of the data; cv None means the dataset's lists. Empty without a checkpoint.
        choices: settings of the run and of the runs it started from, without the INCIDENTAL ones.
        sparsity: fraction of zeros among the weights; without a checkpoint, among all values.
    """

    directory: Path
    stage: str
    labels: tuple[str, ...]
    metrics: dict[str, float]
    epochs: int
    checkpoint: Path | None
    settings: dict[str, Any]
    data: str
    split: tuple
    choices: dict[str, Any]
    sparsity: float

    @property
    def precision(self) -> str:
        """Arithmetic of the network: float, fake-quantized or int8."""
        return PRECISIONS[self.stage]

    @property
    def is_pruned(self) -> bool:
        """Whether weights were pruned; removed filters leave no zeros."""
        return self.sparsity > UNPRUNED_ZEROS

    @property
    def net(self) -> str:
        """Class name of the network; empty without a checkpoint."""
        return self.settings["net"]["_target_"].rpartition(".")[2] if self.settings else ""

    @property
    def quantization(self) -> dict[str, Any]:
        """Quantization settings; empty if the network is not quantized."""
        return self.settings.get("quantization") or {}

    @property
    def filters(self) -> str:
        """Filters of the convolutions, such as 16-32-64-128, if they differ from the network's default."""
        filters = list(self.settings["net"].get("filters") or []) if self.settings else []
        default = inspect.signature(getattr(asc.nets, self.net, lambda: None)).parameters.get("filters")
        return "" if default and filters == list(default.default) else "-".join(map(str, filters))

    @property
    def kind(self) -> tuple[str, str]:
        """The system's name, in two parts: before and after the sparsity."""
        if not self.settings:
            return f"{self.directory.name}, {self.stage}", ""
        precision = "" if self.precision == "float" else f", {self.precision}"
        norms = "" if self.quantization.get("fold_norms", True) else " (batch norms kept)"
        filters = f", filters {self.filters}" if self.filters else ""
        variant = ", one input norm" if self.settings["net"].get("one_input_norm") else ""
        return NETS.get(self.net, self.net) + precision + norms, filters + variant

    @property
    def name(self) -> str:
        """The system's name."""
        zeros = f", pruned {100 * self.sparsity:.0f} %" if self.settings and self.is_pruned else ""
        before, after = self.kind
        return before + zeros + after

    @property
    def recipe(self) -> Any:
        """Everything else that must be equal in runs to be averaged."""
        if not self.settings:
            return self.metrics["parameters"], self.epochs
        parts = ("frontend", "net", "optimizer", "scheduler")
        return [self.settings.get(part) for part in parts], self.data, self.epochs, self.choices

    @property
    def origin(self) -> tuple:
        """Network, dataset and labels, which compression keeps."""
        return self.net, self.data, self.labels

    @property
    def is_whole(self) -> bool:
        """Whether the network is uncompressed."""
        return self.stage == "float"

    @property
    def reported(self) -> tuple[float, float] | None:
        """Accuracy in % and size in KB from the report, if this is one of its four systems."""
        if self.filters or len(self.labels) != 3 or (self.is_pruned and not 0.45 <= self.sparsity <= 0.55):
            return None
        if self.settings and self.settings["net"].get("pooling", "max") != "max":
            return None  # Table 2's network pools by maxima
        return REPORT.get((self.net, self.precision, self.is_pruned))

    def is_like(self, other: "Run") -> bool:
        """Whether both runs belong to the same system."""
        if (self.kind, self.recipe, self.labels) != (other.kind, other.recipe, other.labels):
            return False
        return not (self.is_pruned or other.is_pruned) or abs(self.sparsity - other.sparsity) < SAME_ZEROS


@dataclass(frozen=True)
class System:
    """Runs that differ only in seed and fold.

    Attributes:
        name: unique among the systems.
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


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Directories that hold a results.json: each path itself, or all below it, sorted and without duplicates.

    Raises:
        InputError: a path holds no run.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        own = path / "results.json"
        files = [own] if own.is_file() else sorted(path.rglob("results.json"))
        if not files:
            fault = "holds no results.json" if path.is_dir() else "is no directory"
            raise InputError(f"{path} {fault}: give the directory of a finished run, or of several")
        found |= dict.fromkeys(file.parent.resolve() for file in files)
    return list(found)


def read_run(directory: Path) -> Run:
    """Read the run in a directory.

    Raises:
        InputError: its results.json is incomplete, or its checkpoint is not one of a SceneClassifier.
    """
    file = directory / "results.json"
    try:
        results = json.loads(file.read_text())
        values = {**results["test"], **results["complexity"]}
        metrics = {name: float(values[name]) for name in METRICS}
        stage, labels, recorded = results["stage"], tuple(map(str, results["labels"])), Path(results["checkpoint"])
        epochs = int(results["training"]["epochs"])
        if stage not in PRECISIONS or not all(map(math.isfinite, metrics.values())) or metrics["parameters"] < 1:
            raise ValueError("implausible results")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what a finished run writes: repeat the run or leave it out") from error
    moved = (directory / recorded.name, directory / "checkpoints" / recorded.name)
    checkpoint = next((path for path in (recorded, *moved) if path.is_file()), None)
    content = read_checkpoint(checkpoint) if checkpoint else {"hyper_parameters": {}, "state_dict": {}}
    data = content.get("datamodule_hyper_parameters", {})
    split = tuple(data.get(name) for name in ("cv", "fold", "seed")) if data else ()
    sparsity = zeros(content["state_dict"])
    if sparsity is None:
        sparsity = (metrics["parameters"] - metrics["nonzero_parameters"]) / metrics["parameters"]
    return Run(
        directory=directory,
        stage=stage,
        labels=labels,
        metrics=metrics,
        epochs=epochs,
        checkpoint=checkpoint,
        settings=content["hyper_parameters"],
        data=Path(data.get("root", "")).name,
        split=split,
        choices=read_choices(directory),
        sparsity=sparsity,
    )


def read_choices(directory: Path) -> dict[str, Any]:
    """All settings of a run by dotted name, with those of the run it started from."""
    file = directory / ".hydra/config.yaml"
    if not file.is_file():
        return {}
    settings: Any = OmegaConf.to_container(OmegaConf.load(file))
    choices = {name: value for name, value in flatten(settings) if not name.startswith(INCIDENTAL)}
    source = Path(str(settings.get("checkpoint") or "")).parent
    for before in (source, source.parent):
        if settings.get("phase") and before != directory and (before / ".hydra").is_dir():
            choices |= {f"source.{name}": value for name, value in read_choices(before).items()}
    return choices


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def zeros(state: dict[str, Any]) -> float | None:
    """Fraction of zeros among the weights; None if the state has no weights."""
    kernels = [
        value[0] if isinstance(value, tuple) else value for key, value in state.items() if key.startswith("net.")
    ]
    kernels = [kernel for kernel in kernels if torch.is_tensor(kernel) and kernel.ndim > 1]
    total = sum(kernel.numel() for kernel in kernels)
    return (total - sum(map(nonzeros, kernels))) / total if total else None


def group(runs: Iterable[Run]) -> list[System]:
    """Group runs into systems, largest first."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if group[0].is_like(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    groups.sort(key=lambda group: -mean(run.metrics["size_kb"] for run in group))
    names = distinct_names([group[0] for group in groups])
    return [System(name, group) for name, group in zip(names, groups, strict=True)]


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, extended by what differs where they would be the same."""
    names = [run.name for run in runs]
    for details in (
        [f"{len(run.labels)} classes" for run in runs],
        [run.data for run in runs],
        [f"{run.epochs} epochs" for run in runs],
        [f"{run.metrics['parameters']:,.0f} parameters" for run in runs],
        *differing_choices(runs),
    ):
        longer = [f"{name}, {detail}" for name, detail in zip(names, details, strict=True)]
        names = [b if longer.count(b) < names.count(a) else a for a, b in zip(names, longer, strict=True)]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} #{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def differing_choices(runs: Sequence[Run]) -> list[list[str]]:
    """For each setting that differs between runs, its value in each run, such as frontend.normalize=clip."""
    names = dict.fromkeys(name for run in runs for name in run.choices)
    values = {name: [run.choices.get(name) for run in runs] for name in names}
    differing = {name: row for name, row in values.items() if any(value != row[0] for value in row)}
    return [[f"{name}={value}" for value in row] for name, row in differing.items()]
