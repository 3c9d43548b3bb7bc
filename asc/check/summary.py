"""What a dataset holds, as values for programs and as tables for people."""

import math
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from asc.check.dataset import Dataset
from asc.check.sounds import Sound
from asc.data.lists import TAU_NAME, Clip
from asc.errors import printable

WIDTH = 100  # columns
MOST = 12  # different values in a row


def summarize(dataset: Dataset, sounds: dict[Path, Sound], faults: list[str], warnings: list[str]) -> dict[str, Any]:
    """Plain values of all that is known of a dataset."""
    everything = [clip for clips in dataset.splits.values() for clip in clips]
    labels = sorted({clip.label for clip in everything})
    lengths = [sound.seconds for sound in sounds.values()]
    levels = sorted(sound.level for sound in sounds.values() if sound.level > -math.inf)
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "files": len(sounds),
        "clips": len(everything),
        "hours": sum(lengths) / 3600,
        "classes": {label: class_counts(dataset, label) for label in labels},
        "locations": {split: len(locations(clips)) for split, clips in dataset.splits.items() if clips},
        **counts_by_file_name(dataset),
        "sample_rates": counts(sound.rate for sound in sounds.values()),
        "channels": counts(sound.channels for sound in sounds.values()),
        "formats": counts(sound.format for sound in sounds.values()),
        "seconds": counts(round(length, 2) for length in lengths),
        "level_db": [round(value, 1) for value in (levels[0], median(levels), levels[-1])] if levels else [],
        "clipped_files": sum(sound.runs > 0 for sound in sounds.values()),
        "clipped_most": max((sound.clipped for sound in sounds.values()), default=0.0),
        "silent_files": sum(sound.peak == 0 for sound in sounds.values()),
        "faults": faults,
        "warnings": warnings,
    }


def class_counts(dataset: Dataset, label: str) -> dict[str, int]:
    """Clips of a class by split, and its locations."""
    own = {split: [clip for clip in clips if clip.label == label] for split, clips in dataset.splits.items()}
    all_of_it = [clip for clips in own.values() for clip in clips]
    return {**{split: len(clips) for split, clips in own.items()}, "locations": len(locations(all_of_it))}


def locations(clips: Iterable[Clip]) -> set[str]:
    """Where the clips were recorded."""
    return {clip.location for clip in clips}


def counts_by_file_name(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Clips by source scene, city and device in each split, where all file names tell these."""
    names = {
        split: [TAU_NAME.fullmatch(clip.path.stem) for clip in clips]
        for split, clips in dataset.splits.items()
        if clips
    }
    if not names or not all(name for group in names.values() for name in group):
        return {}
    return {
        what: {split: counts(name[key] for name in group if name) for split, group in names.items()}
        for key, what in (("scene", "scenes"), ("city", "cities"), ("device", "devices"))
    }


def counts(values: Iterable[Hashable]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def file_values(dataset: Dataset, sounds: dict[Path, Sound]) -> list[dict[str, Any]]:
    """Plain values of each file, for programs."""
    rows = []
    for path, sound in sounds.items():
        level = sound.level if sound.level > -math.inf else None
        rows.append({"file": str(path.relative_to(dataset.root)), **asdict(sound), "level": level})
    return rows


def tables(summary: dict[str, Any]) -> str:
    """The summary for people, at most 100 columns wide."""
    kind = "lists in the TAU layout" if summary["layout"] == "TAU" else "a folder for each class"
    lines = [
        f"{printable(summary['root'])}: {kind}",
        f"{summary['files']:,} readable files, {summary['hours']:.2f} hours",
        "",
        *class_table(summary["classes"]),
        "",
        *row("locations", summary["locations"]),
    ]
    for what in ("scenes", "cities", "devices"):
        for split, numbers in summary.get(what, {}).items():
            lines += row(f"{what}, {split}", numbers)
    lines += row("sample rates", {f"{int(rate):,} Hz": count for rate, count in summary["sample_rates"].items()})
    lines += row("channels", summary["channels"])
    lines += row("formats", summary["formats"])
    lines += row("lengths", distribution(summary["seconds"]))
    if summary["level_db"]:
        low, middle, high = summary["level_db"]
        lines += row("levels", {}, f"{low:.0f} to {high:.0f} dB full scale, median {middle:.0f}")
    clipped = f"{summary['clipped_files']:,}, up to {summary['clipped_most']:.2%} of a file's samples at full scale"
    lines += row("clipped files", {}, clipped if summary["clipped_files"] else "none")
    lines += row("silent files", {}, f"{summary['silent_files']:,}" if summary["silent_files"] else "none")
    return "\n".join(lines + sentences("fault", summary["faults"]) + sentences("warning", summary["warnings"]))


def class_table(classes: dict[str, dict[str, int]]) -> list[str]:
    """Clips of each class in each split, and the number of its locations."""
    if not classes:
        return ["no clips"]
    columns = [name for name in next(iter(classes.values())) if any(row[name] for row in classes.values())]
    total = {name: sum(row[name] for row in classes.values()) for name in columns}
    names = {label: textwrap.shorten(printable(label), 40, placeholder="...") or "..." for label in classes}
    width = max(len("clips of class"), *map(len, names.values()))
    lines = [f"{'clips of class':{width}}" + "".join(f"{name:>11}" for name in columns)]
    lines += [
        f"{names[label]:{width}}" + "".join(f"{row[name]:11,}" for name in columns) for label, row in classes.items()
    ]
    return [*lines, f"{'all':{width}}" + "".join(f"{total[name]:11,}" for name in columns)]


def distribution(seconds: dict[str, int]) -> dict[str, int]:
    """Numbers of files by length; many lengths are put together in ranges that double."""
    if len(seconds) <= 4:
        return {f"{float(value):g} s": count for value, count in seconds.items()}
    ranges: Counter[int] = Counter()
    for value, count in seconds.items():
        ranges[math.ceil(math.log2(max(float(value), 0.01)))] += count
    return {f"{2.0 ** (power - 1):g} to {2.0**power:g} s": ranges[power] for power in sorted(ranges)}


def row(name: str, numbers: dict[str, int], text: str = "") -> list[str]:
    """A name and what it counts, wrapped between the counts."""
    parts = [f"{printable(value)}: {count:,}" for value, count in list(numbers.items())[:MOST]]
    parts += [f"and {len(numbers) - MOST} others"] if len(numbers) > MOST else []
    text = text or ", ".join(part.replace(" ", "\xa0") for part in parts) or "none"
    indent = 22
    lines = textwrap.wrap(f"{name:{indent}}{text}", WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def sentences(kind: str, messages: Sequence[str], most: int = 20) -> list[str]:
    """A heading with the number of messages, and the first of them, wrapped."""
    if not messages:
        return ["", f"no {kind}s"]
    lines = ["", f"{len(messages)} {kind}{'s' if len(messages) > 1 else ''}"]
    for message in messages[:most]:
        lines += textwrap.wrap(
            printable(message), WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
        )
    more = len(messages) - most
    return lines + ([f"- and {more} more: --json tells all"] if more > 0 else [])
