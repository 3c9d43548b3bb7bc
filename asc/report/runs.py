"""Finished runs, and the systems they are runs of."""

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

FIGURES = (
    *("accuracy", "macro_accuracy", "log_loss"),
    *("parameters", "nonzero_parameters", "size_kb", "dcase2020_size_kb", "macs", "file_bytes"),
)
NETS = {"PhamCNN": "CNN", "Dcase2020Baseline": "DCASE 2020 baseline"}
PRECISIONS = {"float": "float", "pruned": "float", "qat": "fake-quantized", "int8": "int8"}  # of each stage
INCIDENTAL = (  # settings that do not make another system
    *("seed", "run_dir", "checkpoint", "init", "trusted", "compile", "logger", "model."),
    *("data.root", "data.fold", "data.seed", "data.cache", "data.num_workers", "data.missing"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
UNPRUNED_ZEROS = 0.05  # which no pruning made: rounding to 8 bits alone leaves about 1 %
SAME_ZEROS = 0.0075  # between the seeds of one pruning: rounding and folding add some zeros, not the same for each
REPORT = {  # Pham et al. 2020, Table 3: accuracy in %, KB; by network, precision and whether half of it is pruned
    ("Dcase2020Baseline", "float", False): (87.3, 450.0),
    ("PhamCNN", "float", False): (93.0, 245.5),
    ("PhamCNN", "int8", False): (91.9, 61.5),
    ("PhamCNN", "float", True): (90.5, 122.8),
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: of its results.json.
        stage: float, pruned, qat or int8.
        labels: names of the scenes.
        figures: those of FIGURES, as results.json has them.
        epochs: of its training or fine-tuning.
        checkpoint: None where it cannot be found.
        settings: the checkpoint's hyperparameters; nothing without a checkpoint.
        data: name of the folder it was trained on; nothing without a checkpoint.
        split: what of it was tested: folds of its cross-validation (None: by lists), fold, seed; nothing without a
            checkpoint.
        choices: settings of the run and of those it came from, but those that chance and place alone decide.
        sparsity: fraction of zeros among the kernels' weights; without a checkpoint, among all values.
    """

    directory: Path
    stage: str
    labels: tuple[str, ...]
    figures: dict[str, float]
    epochs: int
    checkpoint: Path | None
    settings: dict[str, Any]
    data: str
    split: tuple
    choices: dict[str, Any]
    sparsity: float

    @property
    def precision(self) -> str:
        """Of its arithmetic: float, fake-quantized or int8."""
        return PRECISIONS[self.stage]

    @property
    def is_pruned(self) -> bool:
        """Whether weights were set to zero; filters that were taken away leave none."""
        return self.sparsity > UNPRUNED_ZEROS

    @property
    def net(self) -> str:
        """Class of its network; nothing without a checkpoint."""
        return self.settings["net"]["_target_"].rpartition(".")[2] if self.settings else ""

    @property
    def quantization(self) -> dict[str, Any]:
        """How it was quantized; nothing if it was not."""
        return self.settings.get("quantization") or {}

    @property
    def filters(self) -> str:
        """Filters of its convolutions, such as 16-32-64-128, where there are others than the network has by default."""
        filters = list(self.settings["net"].get("filters") or []) if self.settings else []
        default = inspect.signature(getattr(asc.nets, self.net, lambda: None)).parameters.get("filters")
        return "" if default and filters == list(default.default) else "-".join(map(str, filters))

    @property
    def kind(self) -> tuple[str, str]:
        """What its system is called, before and after the fraction of zeros."""
        if not self.settings:
            return f"{self.directory.name}, {self.stage}", ""
        precision = "" if self.precision == "float" else f", {self.precision}"
        norms = "" if self.quantization.get("fold_norms", True) else " (batch norms kept)"
        filters = f", filters {self.filters}" if self.filters else ""
        variant = ", one input norm" if self.settings["net"].get("one_input_norm") else ""
        return NETS.get(self.net, self.net) + precision + norms, filters + variant

    @property
    def name(self) -> str:
        """What its system is called."""
        zeros = f", pruned {100 * self.sparsity:.0f} %" if self.settings and self.is_pruned else ""
        before, after = self.kind
        return before + zeros + after

    @property
    def recipe(self) -> Any:
        """What else tells it from runs that it must not be averaged with."""
        if not self.settings:
            return self.figures["parameters"], self.epochs
        parts = ("frontend", "net", "optimizer", "scheduler")
        return [self.settings.get(part) for part in parts], self.data, self.epochs, self.choices

    @property
    def origin(self) -> tuple:
        """What its network was before it was compressed."""
        return self.net, self.data, self.labels

    @property
    def is_whole(self) -> bool:
        """Whether it was not compressed."""
        return self.stage == "float"

    @property
    def reported(self) -> tuple[float, float] | None:
        """Accuracy in % and KB that the report gives for this system, if it is one of its four."""
        if self.filters or len(self.labels) != 3 or (self.is_pruned and not 0.45 <= self.sparsity <= 0.55):
            return None
        return REPORT.get((self.net, self.precision, self.is_pruned))

    def is_like(self, other: "Run") -> bool:
        """Whether both are runs of the same system."""
        if (self.kind, self.recipe, self.labels) != (other.kind, other.recipe, other.labels):
            return False
        return not (self.is_pruned or other.is_pruned) or abs(self.sparsity - other.sparsity) < SAME_ZEROS


@dataclass(frozen=True)
class System:
    """Runs that differ in chance alone: seeds, folds.

    Attributes:
        name: no other system has it.
        runs: at least one.
    """

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that stands for all of them where they are alike."""
        return self.runs[0]

    def mean(self, figure: str) -> float:
        """Mean over the runs."""
        return mean(run.figures[figure] for run in self.runs)

    def deviation(self, figure: str) -> float | None:
        """Sample standard deviation over the runs; None of a single one."""
        return stdev(run.figures[figure] for run in self.runs) if len(self.runs) > 1 else None


def find_runs(places: Iterable[str | Path]) -> list[Path]:
    """Directories with a results.json: the places themselves, or all below them, sorted; each directory once.

    Raises:
        InputError: nothing there.
    """
    found: dict[Path, None] = {}
    for place in map(Path, places):
        own = place / "results.json"
        files = [own] if own.is_file() else sorted(place.rglob("results.json"))
        if not files:
            fault = "holds no results.json" if place.is_dir() else "is no directory"
            raise InputError(f"{place} {fault}: give the directory of a finished run, or of several")
        found |= dict.fromkeys(file.parent.resolve() for file in files)
    return list(found)


def read_run(directory: Path) -> Run:
    """The run of a directory.

    Raises:
        InputError: its results.json lacks something, or its checkpoint is none.
    """
    file = directory / "results.json"
    try:
        results = json.loads(file.read_text())
        values = {**results["test"], **results["complexity"]}
        figures = {name: float(values[name]) for name in FIGURES}
        stage, labels, noted = results["stage"], tuple(map(str, results["labels"])), Path(results["checkpoint"])
        epochs = int(results["training"]["epochs"])
        if stage not in PRECISIONS or not all(map(math.isfinite, figures.values())) or figures["parameters"] < 1:
            raise ValueError("no run writes this")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what a finished run writes: repeat the run or leave it out") from error
    places = (noted, directory / noted.name, directory / "checkpoints" / noted.name)  # the run may have moved
    checkpoint = next((place for place in places if place.is_file()), None)
    content = read_checkpoint(checkpoint) if checkpoint else {"hyper_parameters": {}, "state_dict": {}}
    data = content.get("datamodule_hyper_parameters", {})
    split = tuple(data.get(name) for name in ("cv", "fold", "seed")) if data else ()
    sparsity = zeros(content["state_dict"])
    if sparsity is None:
        sparsity = (figures["parameters"] - figures["nonzero_parameters"]) / figures["parameters"]
    return Run(
        directory=directory,
        stage=stage,
        labels=labels,
        figures=figures,
        epochs=epochs,
        checkpoint=checkpoint,
        settings=content["hyper_parameters"],
        data=Path(data.get("root", "")).name,
        split=split,
        choices=read_choices(directory),
        sparsity=sparsity,
    )


def read_choices(directory: Path) -> dict[str, Any]:
    """Settings that a run's command gave or took by default, by their dotted names, and those of the run before it."""
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
    """Dotted names and plain values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def zeros(state: dict[str, Any]) -> float | None:
    """Fraction of zeros among the weights of the kernels; None where there are none."""
    kernels = [
        value[0] if isinstance(value, tuple) else value for key, value in state.items() if key.startswith("net.")
    ]
    kernels = [kernel for kernel in kernels if torch.is_tensor(kernel) and kernel.ndim > 1]
    total = sum(kernel.numel() for kernel in kernels)
    return (total - sum(map(nonzeros, kernels))) / total if total else None


def group(runs: Iterable[Run]) -> list[System]:
    """The systems of the runs, largest first."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if group[0].is_like(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    groups.sort(key=lambda group: -mean(run.figures["size_kb"] for run in group))
    names = distinct_names([group[0] for group in groups])
    return [System(name, group) for name, group in zip(names, groups, strict=True)]


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, and where they share one, what tells them apart."""
    names = [run.name for run in runs]
    for details in (
        [f"{len(run.labels)} classes" for run in runs],
        [run.data for run in runs],
        [f"{run.epochs} epochs" for run in runs],
        [f"{run.figures['parameters']:,.0f} parameters" for run in runs],
        *differing_choices(runs),
    ):
        longer = [f"{name}, {detail}" for name, detail in zip(names, details, strict=True)]
        names = [b if longer.count(b) < names.count(a) else a for a, b in zip(names, longer, strict=True)]
    earlier = [names[:position].count(name) for position, name in enumerate(names)]
    return [f"{name} #{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def differing_choices(runs: Sequence[Run]) -> list[list[str]]:
    """For each setting in which runs differ, what each of them has, such as frontend.normalize=clip."""
    names = dict.fromkeys(name for run in runs for name in run.choices)
    values = {name: [run.choices.get(name) for run in runs] for name in names}
    return [[f"{name}={value}" for value in has] for name, has in values.items() if any(has[0] != one for one in has)]
