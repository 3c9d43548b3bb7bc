"""Finished runs: what their results.json, checkpoint and settings tell."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import asc.nets
from asc.complexity import nonzeros
from asc.errors import InputError, printable
from asc.loading import read_checkpoint
from asc.report.settings import read_settings
from asc.results import PRECISIONS, Results, read_results

NETS = {"PhamCNN": "CNN", "CPMobile": "CP-Mobile", "Dcase2020Baseline": "DCASE 2020 baseline"}
PHASES = {  # of compression, by class: what the system's name says of them; empty where the network shows it
    **dict.fromkeys(("asc.compress.Prune", "asc.compress.PruneFilters", "asc.compress.QAT"), ""),
    "asc.compress.Distill": "distilled",
}
UNPRUNED_ZEROS = 0.05  # more zeros than this mean pruning: rounding to 8 bits gives about 1 %
SAME_ZEROS = 0.0075  # tolerance between seeds: rounding and folding add a few zeros, which vary


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: holds its results.json.
        results: what that says.
        checkpoint: None where it cannot be found.
        hyperparameters: of the checkpoint; empty without one.
        root: the dataset's folder, of the machine of the run; None without a checkpoint.
        split: (cv, fold, seed) of the data; cv None means the dataset's lists. Empty without a checkpoint.
        settings: of the run and of the runs it started from (see `read_settings`).
        sparsity: fraction of zeros among the weights; without a checkpoint, among all values.
    """

    directory: Path
    results: Results
    checkpoint: Path | None
    hyperparameters: dict[str, Any]
    root: Path | None
    split: tuple
    settings: dict[str, Any]
    sparsity: float

    @property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def labels(self) -> tuple[str, ...]:
        return self.results.labels

    @property
    def precision(self) -> str:
        """Arithmetic of the network: float, fake-quantized or int8."""
        return PRECISIONS[self.results.stage]

    @property
    def data(self) -> str:
        """Name of the dataset's folder; empty without a checkpoint."""
        return printable(self.root.name) if self.root else ""

    @property
    def task(self) -> tuple:
        """Dataset, labels and cross-validation: accuracies on other tasks do not compare."""
        return self.data, self.labels, (self.split or (None,))[0]

    @property
    def is_pruned(self) -> bool:
        """Whether weights were pruned; removed filters leave no zeros."""
        return self.sparsity > UNPRUNED_ZEROS

    @property
    def is_whole(self) -> bool:
        """Whether the network is as trained, without compression or distillation."""
        return self.results.stage == "float" and not self.phases

    @property
    def net(self) -> str:
        """Class name of the network; empty without a checkpoint."""
        return printable(self.hyperparameters["net"]["_target_"].rpartition(".")[2]) if self.hyperparameters else ""

    @property
    def quantization(self) -> dict[str, Any]:
        """Quantization settings; empty if the network is not quantized."""
        return self.hyperparameters.get("quantization") or {}

    @property
    def filters(self) -> str:
        """Filters of the convolutions, such as 16-32-64-128, if they differ from the network's default."""
        filters = list(self.hyperparameters["net"].get("filters") or []) if self.hyperparameters else []
        default = inspect.signature(getattr(asc.nets, self.net, lambda: None)).parameters.get("filters")
        return "" if default and filters == list(default.default) else printable("-".join(map(str, filters)))

    @property
    def phases(self) -> str:
        """How it was compressed, where the network does not show it: distilled, or the class of another phase."""
        targets = [str(value) for name, value in self.settings.items() if name.endswith("phase._target_")]
        return ", ".join(filter(None, (PHASES.get(name, printable(name.rpartition(".")[2])) for name in targets)))

    @cached_property
    def parts(self) -> dict[str, str]:
        """The parts of the system's name, by what they are about."""
        if not self.hyperparameters:
            return {"network": printable(self.directory.name), "precision": self.results.stage}
        parts = {
            "network": NETS.get(self.net, self.net),
            "phases": self.phases,
            "precision": "" if self.precision == "float" else self.precision,
            "folding": "" if self.quantization.get("fold_norms", True) else "batch norms kept",
            "pruning": f"pruned {100 * self.sparsity:.0f} %" if self.is_pruned else "",
            "filters": f"filters {self.filters}" if self.filters else "",
            "norms": "one input norm" if self.hyperparameters["net"].get("bn_first_block_only") else "",
        }
        return {about: text for about, text in parts.items() if text}

    @property
    def recipe(self) -> Any:
        """Everything that must be equal in runs to be averaged, but for the sparsity."""
        parts = {about: text for about, text in self.parts.items() if about != "pruning"}
        if not self.hyperparameters:
            return self.task, parts, self.metrics["parameters"], self.metrics["epochs"]
        nodes = [self.hyperparameters.get(part) for part in ("frontend", "net", "optimizer", "scheduler")]
        return self.task, parts, self.metrics["epochs"], nodes, self.settings


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
            raise InputError(printable(f"{path} {fault}: give the directory of a finished run, or of several"))
        found |= dict.fromkeys(file.parent.resolve() for file in files)
    return list(found)


def read_run(directory: Path) -> Run:
    """Read the run in a directory.

    Raises:
        InputError: its results.json is not of a finished run, or its checkpoint is not one of a SceneClassifier.
    """
    results = read_results(directory / "results.json")
    recorded = results.checkpoint
    moved = (directory / recorded.name, directory / "checkpoints" / recorded.name)
    checkpoint = next((path for path in (recorded, *moved) if path.is_file()), None)
    content = read_checkpoint(checkpoint) if checkpoint else {"hyper_parameters": {}, "state_dict": {}}
    hyperparameters, data = content["hyper_parameters"], content.get("datamodule_hyper_parameters") or {}
    net = hyperparameters.get("net")
    if checkpoint and not (isinstance(net, dict) and isinstance(net.get("_target_"), str)):
        raise InputError(f"checkpoint={checkpoint} names no network: repeat the run or leave it out")
    split = tuple(data.get(name) for name in ("cv", "fold", "seed")) if data else ()
    quantization = hyperparameters.get("quantization") or {}
    if not isinstance(quantization, dict) or any(not isinstance(n, int | None) for n in split):
        raise InputError(f"checkpoint={checkpoint} has settings that no run has: repeat the run or leave it out")
    sparsity = zeros(content["state_dict"])
    if sparsity is None:
        all_values = results.metrics["parameters"]
        sparsity = (all_values - results.metrics["nonzero_parameters"]) / all_values
    return Run(
        directory=directory,
        results=results,
        checkpoint=checkpoint,
        hyperparameters=hyperparameters,
        root=Path(str(data["root"])) if data.get("root") else None,
        split=split,
        settings=read_settings(directory),
        sparsity=sparsity,
    )


def zeros(state: dict[str, Any]) -> float | None:
    """Fraction of zeros among the weights; None if the state has no weights."""
    kernels = [
        value[0] if isinstance(value, tuple) and value else value
        for key, value in state.items()
        if key.startswith("net.")
    ]
    kernels = [kernel for kernel in kernels if torch.is_tensor(kernel) and kernel.ndim > 1]
    total = sum(kernel.numel() for kernel in kernels)
    return (total - sum(map(nonzeros, kernels))) / total if total else None
