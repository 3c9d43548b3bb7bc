"""Compare finished runs: python -m asc.report RUN... prints a table of their systems and draws accuracy over size."""

import argparse
import contextlib
import inspect
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

import asc.nets
from asc.classifier import SceneClassifier, check_targets, read_checkpoint
from asc.cli import one_sentence, quiet
from asc.complexity import stored_values
from asc.errors import InputError
from asc.memory import keep_freed_blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

FIGURES = (
    *("accuracy", "macro_accuracy", "log_loss"),
    *("parameters", "nonzero_parameters", "size_kb", "dcase2020_size_kb", "macs", "file_bytes"),
)
NETS = {"PhamCNN": "CNN", "Dcase2020Baseline": "DCASE 2020 baseline"}
PRECISIONS = {"float": "float", "pruned": "float", "qat": "fake-quantized", "int8": "int8"}  # of each stage
FEW_ZEROS = 0.05  # which no pruning made: rounding to 8 bits alone leaves about 1 %
SAME_ZEROS = 0.0075  # between the seeds of one pruning: rounding and folding add some zeros, not the same for each
REPORT = {  # Pham et al. 2020, Table 3: accuracy in %, KB; by network, precision and whether half of it is pruned
    ("Dcase2020Baseline", "float", False): (87.3, 450.0),
    ("PhamCNN", "float", False): (93.0, 245.5),
    ("PhamCNN", "int8", False): (91.9, 61.5),
    ("PhamCNN", "float", True): (90.5, 122.8),
}
WARM_UP, ROUNDS = 3, 30
MARKERS, COLORS = {"float": "o", "fake-quantized": "^", "int8": "s"}, ("C0", "C1", "C4", "C5")
SIDES = [(6, 0), (-6, 0)] + [(x, y) for y in (5, -5, 15, -15) for x in (4, -4)]  # of a point: where its name may be


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: of its results.json.
        stage: float, pruned, qat or int8.
        labels: names of the scenes.
        figures: those of FIGURES, as results.json has them.
        checkpoint: None where it cannot be found.
        settings: the checkpoint's hyperparameters; nothing without a checkpoint.
    """

    directory: Path
    stage: str
    labels: tuple[str, ...]
    figures: dict[str, float]
    checkpoint: Path | None
    settings: dict[str, Any]

    @property
    def precision(self) -> str:
        """Of its arithmetic: float, fake-quantized or int8."""
        return PRECISIONS[self.stage]

    @property
    def sparsity(self) -> float:
        """Share of zeros among its values."""
        parameters = self.figures["parameters"]
        return (parameters - self.figures["nonzero_parameters"]) / parameters

    @property
    def is_pruned(self) -> bool:
        """Whether weights were set to zero; filters that were taken away leave none."""
        return self.sparsity > FEW_ZEROS

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
        """What its system is called, before and after the share of zeros."""
        if not self.settings:
            return f"{self.directory.name}, {self.stage}", ""
        precision = "" if self.precision == "float" else f", {self.precision}"
        norms = "" if self.quantization.get("fold_norms", True) else " (batch norms kept)"
        return NETS.get(self.net, self.net) + precision + norms, f", filters {self.filters}" if self.filters else ""

    @property
    def name(self) -> str:
        """What its system is called."""
        zeros = f", pruned {100 * self.sparsity:.0f} %" if self.settings and self.is_pruned else ""
        before, after = self.kind
        return before + zeros + after

    @cached_property
    def parameters(self) -> int:
        """Values of its network before it was quantized: what folding makes of them depends on the signs learned."""
        if self.quantization:
            with contextlib.suppress(InputError):  # a network of the user's own is not run here
                check_targets(self.settings["net"], (), self.directory)
                net = instantiate(self.settings["net"], n_classes=len(self.labels))
                return sum(value.numel() for _, value in stored_values(net))
        return int(self.figures["parameters"])

    @property
    def reported(self) -> tuple[float, float] | None:
        """Accuracy in % and KB that the report gives for this system, if it is one of its four."""
        if self.filters or len(self.labels) != 3 or (self.is_pruned and not 0.45 <= self.sparsity <= 0.55):
            return None
        return REPORT.get((self.net, self.precision, self.is_pruned))

    def is_like(self, other: "Run") -> bool:
        """Whether both are runs of the same system."""
        if (self.kind, self.parameters, self.labels) != (other.kind, other.parameters, other.labels):
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
        """Sample deviation over the runs; None of a single one."""
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
            raise InputError(f"{place} holds no results.json: give the directory of a finished run, or of several")
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
        if stage not in PRECISIONS or not all(map(math.isfinite, figures.values())) or figures["parameters"] < 1:
            raise ValueError("no run writes this")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what a finished run writes: repeat the run or leave it out") from error
    places = (noted, directory / noted.name, directory / "checkpoints" / noted.name)  # the run may have moved
    checkpoint = next((place for place in places if place.is_file()), None)
    settings = read_checkpoint(checkpoint)["hyper_parameters"] if checkpoint else {}
    return Run(directory, stage, labels, figures, checkpoint, settings)


def group(runs: Iterable[Run]) -> list[System]:
    """The systems of the runs, in order of their first runs."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if group[0].is_like(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    names = distinct_names([group[0] for group in groups])
    return [System(name, group) for name, group in zip(names, groups, strict=True)]


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, and where they share one, what tells them apart."""
    names = [run.name for run in runs]
    for details in (
        [f"{len(run.labels)} classes" for run in runs],
        [f"{run.parameters:,} parameters" for run in runs],
    ):
        longer = [f"{name}, {detail}" for name, detail in zip(names, details, strict=True)]
        names = [b if longer.count(b) < names.count(a) else a for a, b in zip(names, longer, strict=True)]
    earlier = [names[:position].count(name) for position, name in enumerate(names)]
    return [f"{name} #{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def single_thread_latency(nets: dict[str, tuple[nn.Module, Tensor]]) -> dict[str, float]:
    """Median milliseconds of each network on its features, on one thread.

    The networks take turns, so that a busy moment of the machine hits all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP + ROUNDS):
                for name, (net, features) in nets.items():
                    start = time.perf_counter()
                    net(features)
                    seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: 1000 * median(values[WARM_UP:]) for name, values in seconds.items()}


def measure(systems: Iterable[System]) -> dict[str, float]:
    """Milliseconds of the networks by their systems' names, without those whose checkpoint is not to be had."""
    nets = {}
    for system in systems:
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # a network of the user's own is not run here
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                nets[system.name] = model.net, model.example_features()
    return single_thread_latency(nets)


def speedups(systems: Sequence[System], latency: dict[str, float]) -> list[str]:
    """A sentence for each 8-bit system of whose network there is a float one too."""

    def origin(run: Run) -> tuple:
        return run.net, run.labels, run.parameters

    timed = [system for system in systems if system.name in latency]
    version = torch.__version__.partition("+")[0]
    lines = []
    for system in timed:
        same = [other for other in timed if origin(other.first) == origin(system.first)]
        floats = [other for other in same if other.first.precision == "float"]
        if system.first.precision == "int8" and floats:
            other = min(floats, key=lambda other: other.first.sparsity)
            ratio, engine = latency[other.name] / latency[system.name], system.first.quantization["engine"]
            lines.append(
                f"{system.name} runs {ratio:.1f} times as fast as {other.name} on one thread here "
                f"(one machine, torch {version}, {engine} kernels)"
            )
    return lines


def spread(systems: Iterable[System], figure: str, scale: float, digits: int) -> list[str]:
    """Mean and deviation of each system, the decimal points below each other."""
    means = [f"{scale * system.mean(figure):.{digits}f}" for system in systems]
    deviations = [system.deviation(figure) for system in systems]
    tails = ["" if value is None else f" +- {scale * value:.{digits}f}" for value in deviations]
    width = max(map(len, tails))
    return [head + tail.ljust(width) for head, tail in zip(means, tails, strict=True)]


def table(systems: Sequence[System], latency: dict[str, float] | None = None) -> str:
    """A row for each system; without `latency` the column of times is left out."""
    times = []
    if latency is not None:
        times = [f"{latency[system.name]:.2f}" if system.name in latency else "-" for system in systems]
    reported = [system.first.reported for system in systems]
    columns = [
        ("", "system", [system.name for system in systems]),
        ("", "n", [str(len(system.runs)) for system in systems]),
        ("", "accuracy %", spread(systems, "accuracy", 100, 1)),
        ("macro", "accuracy %", spread(systems, "macro_accuracy", 100, 1)),
        ("", "log loss", spread(systems, "log_loss", 1, 3)),
        ("non-zero", "KB", [f"{system.mean('size_kb'):.1f}" for system in systems]),
        ("official", "KB", [f"{system.mean('dcase2020_size_kb'):.1f}" for system in systems]),
        ("file", "bytes", [f"{system.mean('file_bytes'):,.0f}" for system in systems]),
        ("MACs", "M", [f"{system.mean('macs') / 1e6:.1f}" for system in systems]),
        ("ms a", "clip", times),
        ("report", "%", [f"{row[0]:.1f}" if row else "" for row in reported]),
        ("report", "KB", [f"{row[1]:.1f}" if row else "" for row in reported]),
    ]
    stacks = [[*heads, *cells] for *heads, cells in columns if any(cells)]
    widths = [max(map(len, stack)) for stack in stacks]
    lines = []
    for first, *rest in zip(*stacks, strict=True):
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(2, "-" * max(map(len, lines)))
    if times:
        lines += ["", "ms a clip: the network alone, on one thread of this machine"]
    if any(reported):
        lines += [
            *([] if times else [""]),
            "report: quoted from Pham et al. 2020, Table 3, on TAU Urban Acoustic Scenes 2020 3Class; "
            "not measured on these clips",
        ]
    return "\n".join(lines)


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Positions of the (size, accuracy) than which no other is as small and as accurate, and better in one; by size."""
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[position][1] > points[front[-1]][1] or points[position] == points[front[-1]]:
            front.append(position)
    return front


def curves(systems: Sequence[System]) -> list[list[System]]:
    """Systems of one network and precision by size: the whole one and those pruned, or those of fewer filters."""
    found = []
    for family in dict.fromkeys(system.first.kind[0] for system in systems):
        members = [system for system in systems if system.first.kind[0] == family]
        fewer = [system for system in members if system.first.filters]
        pruned = [system for system in members if system.first.is_pruned and system not in fewer]
        whole = [system for system in members if system not in fewer + pruned]
        found += [sorted(whole + part, key=lambda system: system.mean("size_kb")) for part in (pruned, fewer) if part]
    return found


def points(systems: Iterable[System]) -> list[tuple[float, float]]:
    """Size in KB and macro-average accuracy in % of each system."""
    return [(system.mean("size_kb"), 100 * system.mean("macro_accuracy")) for system in systems]


def draw(systems: Sequence[System], path: Path) -> None:
    """Draw accuracy over size; systems for other labels have a panel of their own, since they cannot be compared.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    tasks = list(dict.fromkeys(system.first.labels for system in systems))
    figure = Figure(figsize=(7.5 * len(tasks), 5), layout="constrained", dpi=120)
    panels = list(zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True))
    for axes, task in panels:
        draw_panel(axes, [system for system in systems if system.first.labels == task])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the panels have their places now, on which those of the names depend
    for axes, task in panels:
        name_points(axes, [system for system in systems if system.first.labels == task])
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--picture={path} cannot be written: give a .png in a directory that is there") from error


def draw_panel(axes: "Axes", systems: Sequence[System]) -> None:
    """Draw points with error bars, the curves of pruning and the Pareto front."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for curve in curves(systems):
        axes.plot(*zip(*points(curve), strict=True), color="grey", linewidth=0.7, zorder=1)
    where = points(systems)
    front = [where[position] for position in pareto_front(where)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color="C2", alpha=0.6, zorder=1, label="Pareto front")
    nets = list(dict.fromkeys(system.first.net for system in systems))
    for system, (size, accuracy) in zip(systems, where, strict=True):
        deviation = system.deviation("macro_accuracy")
        axes.errorbar(
            size,
            accuracy,
            yerr=None if deviation is None else 100 * deviation,
            fmt=MARKERS[system.first.precision],
            color=COLORS[nets.index(system.first.net) % len(COLORS)],
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.margins(0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="non-zero parameters, KB", ylabel="macro-average accuracy, %")
    axes.set_title(f"{len(systems[0].first.labels)} classes", fontsize=10)
    axes.grid(alpha=0.3)


def name_points(axes: "Axes", systems: Sequence[System]) -> None:
    """Write each name beside its point, where it covers least of the points, their bars and the names before it."""
    from matplotlib.transforms import Bbox, BboxBase

    where = points(systems)
    taken: list[BboxBase] = [axes.legend(loc="lower right").get_window_extent()]
    for system, (size, accuracy) in zip(systems, where, strict=True):
        bar = 100 * (system.deviation("macro_accuracy") or 0)
        low, point, high = axes.transData.transform([(size, accuracy + part) for part in (-bar, 0, bar)])
        taken += [Bbox([low, high]).padded(2), Bbox([point, point]).padded(5)]
    for system, position in zip(systems, where, strict=True):
        name = axes.annotate(system.name, position, SIDES[0], textcoords="offset points", fontsize=8)
        name.set_bbox({"color": "white", "alpha": 0.6, "linewidth": 0, "pad": 0})  # legible on a line
        costs = [covered(move(name, side), taken, axes.bbox) for side in SIDES]
        taken.append(move(name, SIDES[costs.index(min(costs))]))


def move(name: "Annotation", side: tuple[int, int]) -> "BboxBase":
    """Put a name to a side of its point; return the place it takes."""
    name.xyann = side
    name.set_horizontalalignment("left" if side[0] > 0 else "right")
    name.set_verticalalignment("center" if side[1] == 0 else "bottom" if side[1] > 0 else "top")
    return name.get_window_extent()


def covered(box: "BboxBase", taken: Iterable["BboxBase"], frame: "BboxBase") -> float:
    """Area of what a box covers of the places taken, and of what of it is outside the frame."""
    inside, *shared = (box.intersection(box, other) for other in (frame, *taken))
    areas = [part.width * part.height for part in shared if part]
    return sum(areas) + box.width * box.height - (inside.width * inside.height if inside else 0)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.report", description="Compare finished runs.")
    parser.add_argument("run", nargs="+", metavar="RUN", help="the directory of a finished run, or of several")
    parser.add_argument("--picture", default="report.png", type=Path, metavar="FILE", help="default: report.png")
    parser.add_argument("--no-latency", action="store_true", help="do not time the networks")
    arguments = parser.parse_args(argv)
    quiet()
    keep_freed_blocks()
    with one_sentence():
        systems = group(map(read_run, find_runs(arguments.run)))
        latency = None if arguments.no_latency else measure(systems)
        print("\n".join([table(systems, latency), *speedups(systems, latency or {})]))
        draw(systems, arguments.picture)
        print(f"\npicture  {arguments.picture}")


if __name__ == "__main__":
    main()
