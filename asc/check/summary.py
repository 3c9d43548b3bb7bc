"""What a dataset contains, as values for programs and as tables for people."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from asc.check.dataset import Dataset
from asc.check.sounds import Sound
from asc.data.lists import TAU_NAME, Clip
from asc.errors import printable
from asc.table import text_table

WIDTH = 100  # columns
MAX_VALUES = 12  # in a row
MAX_LABEL = 40  # columns
MAX_MESSAGES = 20


def summarize(dataset: Dataset, sounds: dict[Path, Sound], faults: list[str], warnings: list[str]) -> dict[str, Any]:
    """The contents of a dataset and its faults, as plain values."""
    everything = [clip for clips in dataset.splits.values() for clip in clips]
    labels = sorted({clip.label for clip in everything})
    levels = sorted(sound.level for sound in sounds.values() if sound.level > -math.inf)
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "files": len(sounds),
        "clips": len(everything),
        "hours": sum(sound.seconds for sound in sounds.values()) / 3600,
        "classes": {label: class_counts(dataset, label) for label in labels},
        "locations": {split: count_locations(clips) for split, clips in dataset.splits.items() if clips},
        **counts_by_file_name(dataset),
        "sample_rates": counts(sound.rate for sound in sounds.values()),
        "channels": counts(sound.channels for sound in sounds.values()),
        "formats": counts(sound.format for sound in sounds.values()),
        "seconds": counts(round(sound.seconds, 2) for sound in sounds.values()),
        "level_db": [round(value, 1) for value in (levels[0], median(levels), levels[-1])] if levels else [],
        "clipped_files": sum(sound.runs > 0 for sound in sounds.values()),
        "clipped_most": max((sound.clipped for sound in sounds.values()), default=0.0),
        "silent_files": sum(sound.peak == 0 for sound in sounds.values()),
        "faults": faults,
        "warnings": warnings,
    }


def class_counts(dataset: Dataset, label: str) -> dict[str, int]:
    """Numbers of clips of a class by split, and of its locations."""
    own = {split: [clip for clip in clips if clip.label == label] for split, clips in dataset.splits.items()}
    numbers = {split: len(clips) for split, clips in own.items()}
    return {**numbers, "locations": count_locations(clip for clips in own.values() for clip in clips)}


def count_locations(clips: Iterable[Clip]) -> int:
    """Number of locations of the clips."""
    return len({clip.location for clip in clips})


def counts_by_file_name(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Numbers of clips by source scene, city and device in each split, if all file names contain these."""
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
    """The number of times that each value occurs, the most frequent first."""
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
    facts = {"locations": counted(summary["locations"])}
    for what in ("scenes", "cities", "devices"):
        facts |= {f"{what}, {split}": counted(numbers) for split, numbers in summary.get(what, {}).items()}
    facts["sample rates"] = counted({f"{int(rate):,} Hz": count for rate, count in summary["sample_rates"].items()})
    facts |= {"channels": counted(summary["channels"]), "formats": counted(summary["formats"])}
    facts["lengths"] = counted({f"{float(seconds):g} s": count for seconds, count in summary["seconds"].items()})
    if summary["level_db"]:
        low, middle, high = summary["level_db"]
        facts["levels"] = f"{low:.0f} to {high:.0f} dB full scale, median {middle:.0f}"
    clipped = f"{summary['clipped_files']:,}, up to {summary['clipped_most']:.2%} of a file's samples at full scale"
    facts["clipped files"] = clipped if summary["clipped_files"] else "none"
    facts["silent files"] = f"{summary['silent_files']:,}" if summary["silent_files"] else "none"
    parts = [
        f"{printable(summary['root'])}: {kind}\n{summary['files']:,} readable files, {summary['hours']:.2f} hours",
        class_table(summary["classes"]),
        text_table(facts.items(), left=(0, 1)),
        *(messages(kind, summary[f"{kind}s"]) for kind in ("fault", "warning")),
    ]
    return "\n\n".join(parts)


def class_table(classes: dict[str, dict[str, int]]) -> str:
    """Numbers of clips of each class in each split, and of its locations."""
    if not classes:
        return "no clips"
    columns = [name for name in next(iter(classes.values())) if any(row[name] for row in classes.values())]
    total = {name: sum(row[name] for row in classes.values()) for name in columns}
    rows = [
        [printable(label)[:MAX_LABEL], *(f"{numbers[name]:,}" for name in columns)]
        for label, numbers in [*classes.items(), ("all", total)]
    ]
    return text_table(rows, ["clips of class", *columns])


def counted(numbers: dict[str, int]) -> str:
    """The most frequent values with their counts, wrapped between them."""
    parts = [f"{printable(value)}: {count:,}" for value, count in list(numbers.items())[:MAX_VALUES]]
    parts += [f"and {len(numbers) - MAX_VALUES} others"] if len(numbers) > MAX_VALUES else []
    text = ", ".join(part.replace(" ", "\xa0") for part in parts) or "none"
    return fill(text, WIDTH - 22, break_on_hyphens=False).replace("\xa0", " ")


def messages(kind: str, sentences: list[str]) -> str:
    """A heading with the number of sentences, and the first of them, wrapped."""
    if not sentences:
        return f"no {kind}s"
    lines = [f"{len(sentences)} {kind}{'s' if len(sentences) > 1 else ''}"]
    for sentence in sentences[:MAX_MESSAGES]:
        lines.append(
            fill(printable(sentence), WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        )
    more = len(sentences) - MAX_MESSAGES
    return "\n".join(lines + ([f"- and {more} more, which --json prints"] if more > 0 else []))
