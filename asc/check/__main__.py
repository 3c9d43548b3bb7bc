"""Check a dataset before training: python -m asc.check DIR [--json]."""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from asc.check.dataset import Dataset, read_dataset
from asc.check.sounds import analyze_all
from asc.cli import exit_on_input_error
from asc.data.lists import TAU_NAME, Fault
from asc.errors import printable
from asc.files import expand_home
from asc.table import text_table

DESCRIPTION = """\
Count the contents of a dataset and report its faults before a run meets them. DIR contains lists in the layout of TAU
Urban Acoustic Scenes (data=dcase), or a folder for each class (data=folder). Every file is decoded completely.

The exit status is 1 if there are faults, which stop or spoil a run; warnings leave it 0."""
WIDTH = 100  # columns
MAX_VALUES = 12  # in a row
MAX_LABEL = 40  # columns
MAX_MESSAGES = 20


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.check", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("root", metavar="DIR", type=Path, help="the folder of the dataset")
    add("--fold", default="1", help="replaces {fold} in the names of the lists, default: 1")
    for split, name in (("train", "train"), ("test", "evaluate")):
        default = f"evaluation_setup/fold{{fold}}_{name}.csv"
        add(f"--{split}-list", metavar="LIST", default=default, help="default: %(default)s")
    add("--teacher", metavar="FILE", help="pretrained network, .pt of EfficientAT or .onnx: list the labels it doubts")
    add("--json", action="store_true", help="for programs: one JSON object, with all file names")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        names = [name.replace("{fold}", arguments.fold) for name in (arguments.train_list, arguments.test_list)]
        dataset = read_dataset(expand_home(arguments.root).resolve(), *names)
        files = dataset.files()
        sounds, errors = analyze_all(files)
        dataset.add_sounds(sounds, errors)
        summary = summarize(dataset, sounds)
        if not arguments.json:
            print(tables(summary), flush=True)
        if arguments.teacher and dataset.faults:
            print("correct the faults first, then the teacher can check the labels", file=sys.stderr)
        elif arguments.teacher:
            from asc.check.doubts import doubts, doubts_table  # torch takes seconds to import

            doubted = doubts(dataset, names, arguments.teacher)
            summary |= doubted
            if not arguments.json:
                print(f"\n{doubts_table(doubted)}", flush=True)
        if arguments.json:
            sounds["level"] = sounds.level.astype(object).where(sounds.level > -math.inf, None)
            sounds.insert(0, "file", [str(path.relative_to(dataset.root)) for path in sounds.index])
            unreadable = [path.relative_to(dataset.root) for path in files if path not in sounds.index]
            found = [*dataset.faults, *dataset.warnings]
            named = {str(sentence): sentence.names for sentence in found if isinstance(sentence, Fault)}
            lists = {"names": named, "unreadable": list(map(str, unreadable)), "sounds": sounds.to_dict("records")}
            print(json.dumps({**summary, **lists}, allow_nan=False), flush=True)
    sys.exit(1 if dataset.faults else 0)


def summarize(dataset: Dataset, sounds: pd.DataFrame) -> dict[str, Any]:
    """The contents of a dataset and its faults, as plain values."""
    rows = [
        {"split": split, "label": clip.label, "location": clip.location, "name": TAU_NAME.fullmatch(clip.path.stem)}
        for split, clips in dataset.splits.items()
        for clip in clips
    ]
    clips = pd.DataFrame(rows, columns=["split", "label", "location", "name"])
    by_split = clips.groupby("split", sort=False)
    levels = sounds.level[sounds.level > -math.inf].astype(float)
    by_name = {}
    if len(clips) and clips.name.notna().all():
        for key, what in (("scene", "scenes"), ("city", "cities"), ("device", "devices")):
            by_name[what] = {split: counts(name[key] for name in group) for split, group in by_split.name}
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "files": len(sounds),
        "clips": len(clips),
        "hours": sounds.seconds.sum() / 3600,
        "classes": {
            label: {split: int((own.split == split).sum()) for split in dataset.splits}
            | {"locations": own.location.nunique()}
            for label, own in clips.groupby("label")
        },
        "locations": by_split.location.nunique().to_dict(),
        **by_name,
        "sample_rates": counts(sounds.rate),
        "channels": counts(sounds.channels),
        "formats": counts(sounds.format),
        "seconds": counts(round(seconds, 2) for seconds in sounds.seconds),
        "level_db": [round(value, 1) for value in (levels.min(), levels.median(), levels.max())] if len(levels) else [],
        "clipped_files": int((sounds.runs > 0).sum()),
        "clipped_most": max(sounds.clipped, default=0.0),
        "silent_files": int((sounds.peak == 0).sum()),
        "faults": dataset.faults,
        "warnings": dataset.warnings,
    }


def counts(values: Iterable[Hashable]) -> dict[str, int]:
    """The number of times that each value occurs, the most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def tables(summary: dict[str, Any]) -> str:
    """The summary for people, at most WIDTH columns wide."""
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
        class_table(summary["classes"]) if summary["classes"] else "no clips",
        text_table(facts.items(), left=(0, 1)),
        *(messages(kind, summary[f"{kind}s"]) for kind in ("fault", "warning")),
    ]
    return "\n\n".join(parts)


def class_table(classes: dict[str, dict[str, int]]) -> str:
    """Numbers of clips of each class in each split, and of its locations."""
    table = pd.DataFrame.from_dict(classes, orient="index")
    table = pd.concat([table, table.sum().to_frame("all").T]).loc[:, table.any()]
    rows = [[printable(label)[:MAX_LABEL], *(f"{n:,}" for n in row)] for label, *row in table.itertuples(name=None)]
    return text_table(rows, ["clips of class", *table])


def counted(numbers: dict[str, int]) -> str:
    """The most frequent values with their counts, wrapped between them."""
    parts = [f"{printable(value)}: {count:,}".replace(" ", "\xa0") for value, count in numbers.items()]
    others = len(parts) - MAX_VALUES
    parts[MAX_VALUES:] = [f"and\xa0{others}\xa0others"] if others > 0 else []
    return fill(", ".join(parts) or "none", WIDTH - 22, break_on_hyphens=False).replace("\xa0", " ")


def messages(kind: str, sentences: list[str]) -> str:
    """A heading with the number of sentences, and the first of them, wrapped."""
    lines = [f"{len(sentences) or 'no'} {kind}{'' if len(sentences) == 1 else 's'}"]
    more = len(sentences) - MAX_MESSAGES
    items = sentences[:MAX_MESSAGES] + ([f"and {more} more, which --json prints"] if more > 0 else [])
    for item in items:
        lines.append(fill(f"- {printable(item)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
