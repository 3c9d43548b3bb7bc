"""Compare finished runs: python -m asc.report RUN... prints a table of their systems and draws accuracy over size."""

import argparse
import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from asc.classifier import SceneClassifier
from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError
from asc.report.plot import draw
from asc.report.runs import System, find_runs, group, read_run
from asc.training.memory import keep_freed_memory

WARM_UP, ROUNDS = 3, 30


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
    """How many times as fast each system is as the whole float network of its class and data; nothing for that one."""
    found = []
    for system in systems:
        same = [other for other in systems if other.first.origin == system.first.origin and other.name in latency]
        whole = [other for other in same if other.first.is_whole]
        timed = system.name in latency and whole and system is not whole[0]
        found.append(f"{latency[whole[0].name] / latency[system.name]:.1f}" if timed else "")
    return found


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
        ("times", "as fast", speedups(systems, latency or {})),
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
        version = torch.__version__.partition("+")[0]
        lines += [
            "",
            f"ms a clip: the network alone on one thread of this machine in torch {version}, median of {ROUNDS}; "
            "as fast: as the float network",
        ]
    if any(reported):
        lines += [
            *([] if times else [""]),
            "report: quoted from Pham et al. 2020, Table 3, on TAU Urban Acoustic Scenes 2020 3Class; "
            "not measured on these clips",
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.report", description="Compare finished runs.")
    parser.add_argument("run", nargs="+", metavar="RUN", help="the directory of a finished run, or of several")
    parser.add_argument("--picture", default="report.png", type=Path, metavar="FILE", help="default: report.png")
    parser.add_argument("--no-latency", action="store_true", help="do not time the networks")
    arguments = parser.parse_args(argv)
    silence_libraries()
    keep_freed_memory()
    with exit_on_input_error():
        if not arguments.picture.parent.is_dir():
            raise InputError(f"--picture={arguments.picture} cannot be written: its directory is not there")
        systems = group(map(read_run, find_runs(arguments.run)))
        latency = None if arguments.no_latency else measure(systems)
        print(table(systems, latency))
        draw(systems, arguments.picture)
        print(f"\npicture  {arguments.picture}")


if __name__ == "__main__":
    main()
