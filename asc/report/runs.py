"""Finished runs: the contents of their results.json, checkpoints and settings."""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

import asc.nets
from asc.complexity import nonzeros
from asc.errors import InputError, one_line, printable
from asc.loading import read_checkpoint
from asc.results import PRECISIONS, Results, read_results

NETS = {"PhamCNN": "CNN", "CPMobile": "CP-Mobile", "Dcase2020Baseline": "DCASE 2020 baseline"}
PHASES = {  # compression phases by class: part of the system's name; empty if the network shows it
    **dict.fromkeys(("asc.compress.Prune", "asc.compress.PruneFilters", "asc.compress.QAT"), ""),
    "asc.compress.Distill": "distilled",
}
INCIDENTAL = (  # settings that do not define a system
    *("seed", "run_dir", "checkpoint", "init", "trusted", "compile", "logger", "model."),
    *("data.root", "data.fold", "data.seed", "data.cache", "data.num_workers", "data.missing"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
UNPRUNED_ZEROS = 0.05  # a larger fraction of zeros means pruning: rounding to 8 bits gives about 1 %


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: folder of its results.json.
        results: content of results.json.
        checkpoint: None if it cannot be found.
        hyperparameters: those of the checkpoint; empty without one.
        root: the dataset's folder, on the machine of the run; None without a checkpoint.
        split: (cv, fold, seed) of the data; cv None means the dataset's lists. Empty without a checkpoint.
        settings: those of the run, of the run it started from and so on (see `read_settings`).
        sparsity: fraction of zeros among the weights; without a checkpoint, among all parameters.
    """

    directory: Path
    results: Results
    checkpoint: Path | None
    hyperparameters: dict[str, Any]
    root: Path | None
    split: tuple
    settings: list[dict[str, Any]]
    sparsity: float

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def labels(self) -> list[str]:
        return self.results.labels

    @property
    def precision(self) -> str:
        """Arithmetic of the network: float, fake-quantized or int8."""
        return PRECISIONS[self.results.stage]

    @property
    def data(self) -> str:
        """Name of the dataset's folder; empty without a checkpoint."""
        return self.root.name if self.root else ""

    @property
    def task(self) -> tuple:
        """Dataset, labels and cross-validation: accuracies are comparable only within a task."""
        return self.data, tuple(self.labels), (self.split or (None,))[0]

    @property
    def is_pruned(self) -> bool:
        """Whether weights were pruned; removed filters leave no zeros."""
        return self.sparsity > UNPRUNED_ZEROS

    @property
    def is_uncompressed(self) -> bool:
        """Whether the network was trained without compression or distillation."""
        return self.results.stage == "float" and "phases" not in self.parts

    @property
    def net(self) -> dict[str, Any]:
        """Hyperparameters of the network; empty without a checkpoint."""
        return self.hyperparameters.get("net", {})

    @property
    def net_name(self) -> str:
        """Class name of the network; empty without a checkpoint."""
        return printable(self.net.get("_target_", "").rpartition(".")[2])

    @cached_property
    def parts(self) -> dict[str, str]:
        """Parts of the system's name, by topic."""
        if not self.net:
            return {"network": printable(self.directory.name), "precision": self.results.stage}
        filters = list(self.net.get("filters") or [])
        default = inspect.signature(getattr(asc.nets, self.net_name, lambda: None)).parameters.get("filters")
        is_default = not filters or (default is not None and filters == list(default.default))
        folds = (self.hyperparameters.get("quantization") or {}).get("fold_norms", True)
        phases = [str(settings["phase._target_"]) for settings in self.settings if "phase._target_" in settings]
        phases = [PHASES.get(phase, printable(phase.rpartition(".")[2])) for phase in phases]
        parts = {
            "network": NETS.get(self.net_name, self.net_name),
            "phases": ", ".join(filter(None, phases)),
            "precision": "" if self.precision == "float" else self.precision,
            "folding": "" if folds else "batch norms kept",
            "pruning": f"pruned {100 * self.sparsity:.0f} %" if self.is_pruned else "",
            "filters": "" if is_default else printable("filters " + "-".join(map(str, filters))),
            "norms": "one input norm" if self.net.get("bn_first_block_only") else "",
        }
        return {topic: text for topic, text in parts.items() if text}

    @property
    def configuration(self) -> tuple:
        """Everything that must be equal in runs to be averaged, except the sparsity."""
        parts = {topic: text for topic, text in self.parts.items() if topic != "pruning"}
        nodes = [self.hyperparameters.get(part) for part in ("frontend", "net", "optimizer", "scheduler")]
        parameters = None if self.net else self.metrics["parameters"]
        return self.task, parts, parameters, self.metrics["epochs"], nodes, self.settings


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
    content = read_checkpoint(checkpoint) if checkpoint else {"hyper_parameters": {}, "state_dict": {}}
    data = content.get("datamodule_hyper_parameters") or {}
    sparsity = weight_sparsity(content["state_dict"])
    if math.isnan(sparsity):
        cost = results.complexity
        sparsity = (cost.parameters - cost.nonzero_parameters) / cost.parameters
    return Run(
        directory=directory,
        results=results,
        checkpoint=checkpoint,
        hyperparameters=content["hyper_parameters"],
        root=Path(str(data["root"])) if data.get("root") else None,
        split=tuple(data.get(name) for name in ("cv", "fold", "seed")) if data else (),
        settings=read_settings(directory),
        sparsity=sparsity,
    )


def weight_sparsity(state: dict[str, Any]) -> float:
    """Fraction of zeros among the network's weights in a state; NaN if it has none."""
    values = [value for name, value in state.items() if name.startswith("net.")]
    values = [value[0] if isinstance(value, tuple) and value else value for value in values]  # 8 bits: weight and bias
    weights = [value for value in values if torch.is_tensor(value) and value.ndim > 1]
    total = sum(weight.numel() for weight in weights)
    return (total - sum(map(nonzeros, weights))) / total if total else math.nan


def read_settings(directory: Path) -> list[dict[str, Any]]:
    """Settings of a run, of the run it started from and so on, by dotted name and without INCIDENTAL ones.

    Raises:
        InputError: a .hydra/config.yaml is not a run's.
    """
    chain: list[dict[str, Any]] = []
    seen: list[Path] = []
    while directory not in seen and (file := directory / ".hydra/config.yaml").is_file():
        seen.append(directory)
        try:
            content = yaml.safe_load(file.read_bytes()) or {}
            chain.append({name: value for name, value in flatten(content) if not name.startswith(INCIDENTAL)})
        except (OSError, yaml.YAMLError, AttributeError) as error:  # AttributeError: not a mapping
            raise InputError(f"{file} cannot be read: {one_line(error)}; repeat or exclude the run") from error
        checkpoints = content.get("checkpoint") or ""
        source = Path(checkpoints[0] if isinstance(checkpoints, list) else checkpoints).parent
        if content.get("phase"):
            directory = source if (source / ".hydra").is_dir() else source.parent
    return chain


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
