"""The table of asc.report: a row for each system."""

from collections.abc import Iterable, Sequence

import torch

from asc.report.latency import ROUNDS
from asc.report.runs import System


def speedups(systems: Sequence[System], latency: dict[str, float]) -> list[str]:
    """Speed-up of each system over the uncompressed network of its class and data; empty for that network itself."""
    cells = []
    for system in systems:
        same = [other for other in systems if other.first.origin == system.first.origin and other.name in latency]
        whole = [other for other in same if other.first.is_whole]
        timed = system.name in latency and whole and system is not whole[0]
        cells.append(f"{latency[whole[0].name] / latency[system.name]:.1f}" if timed else "")
    return cells


def mean_and_std(systems: Iterable[System], metric: str, scale: float, digits: int) -> list[str]:
    """Mean and standard deviation of each system, aligned at the decimal point."""
    means = [f"{scale * system.mean(metric):.{digits}f}" for system in systems]
    stds = [system.std(metric) for system in systems]
    suffixes = ["" if std is None else f" +- {scale * std:.{digits}f}" for std in stds]
    width = max(map(len, suffixes))
    return [mean + suffix.ljust(width) for mean, suffix in zip(means, suffixes, strict=True)]


def systems_table(systems: Sequence[System], latency: dict[str, float] | None = None) -> str:
    """Table with a row for each system; without `latency` it has no column of times."""
    times = []
    if latency is not None:
        times = [f"{latency[system.name]:.2f}" if system.name in latency else "-" for system in systems]
    reported = [system.first.reported for system in systems]
    columns = [
        ("", "system", [system.name for system in systems]),
        ("", "n", [str(len(system.runs)) for system in systems]),
        ("", "accuracy %", mean_and_std(systems, "accuracy", 100, 1)),
        ("macro", "accuracy %", mean_and_std(systems, "macro_accuracy", 100, 1)),
        ("", "log loss", mean_and_std(systems, "log_loss", 1, 3)),
        ("non-zero", "KB", [f"{system.mean('size_kb'):.1f}" for system in systems]),
        ("official", "KB", [f"{system.mean('dcase2020_size_kb'):.1f}" for system in systems]),
        ("file", "bytes", [f"{system.mean('file_bytes'):,.0f}" for system in systems]),
        ("MACs", "M", [f"{system.mean('macs') / 1e6:.1f}" for system in systems]),
        ("ms a", "clip", times),
        ("speed-", "up", speedups(systems, latency or {})),
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
            f"ms a clip: the network without its frontend, on one thread in torch {version}, median of {ROUNDS}; "
            "speed-up: over the float network",
        ]
    if any(reported):
        lines += [
            *([] if times else [""]),
            "report: quoted from Pham et al. 2020, Table 3, on TAU Urban Acoustic Scenes 2020 3Class; "
            "not measured on these clips",
        ]
    return "\n".join(lines)
