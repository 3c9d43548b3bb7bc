"""Check a dataset before training: python -m asc.check DIR [--json]."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from asc.check.dataset import read_dataset
from asc.check.findings import sound_faults, sound_warnings
from asc.check.sounds import analyze_all
from asc.check.summary import file_values, summarize, tables
from asc.cli import exit_on_input_error
from asc.files import expand_home

DESCRIPTION = """\
Count the contents of a dataset and report its faults before a run meets them. DIR contains lists in the layout of TAU
Urban Acoustic Scenes (data=dcase), or a folder for each class (data=folder). Every file is decoded completely.

The exit status is 1 if there are faults, which stop or spoil a run; warnings leave it 0."""


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
    add("--json", action="store_true", help="for programs: one JSON object, with all files")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        names = [name.replace("{fold}", arguments.fold) for name in (arguments.train_list, arguments.test_list)]
        dataset = read_dataset(expand_home(arguments.root).resolve(), *names)
        sounds, unreadable = analyze_all(dataset.files())
        dataset.split(sounds)
        faults = [*dataset.faults, *sound_faults(dataset, sounds, unreadable)]
        warnings = [*dataset.warnings, *sound_warnings(dataset, sounds)]
        summary = summarize(dataset, sounds, faults, warnings)
        if arguments.json:
            text = json.dumps({**summary, "sounds": file_values(dataset, sounds)}, allow_nan=False)
        else:
            text = tables(summary)
        print(text, flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
