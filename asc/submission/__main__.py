"""The challenge package: python -m asc.submission CHECKPOINT DIR --name NAME --abbreviation ABBR --authors FILE.

Writes LASTNAME_INSTITUTE_task1b_NUMBER.output.csv and .meta.yaml for DCASE 2020 Challenge task 1B.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, WriteError, check_number, printable
from asc.files import written_whole

EPILOG = """
FILE of --authors is YAML; all but the authors may be left out:

  authors:
    - lastname: Doe
      firstname: Jane
      email: jane@example.org
      corresponding: true               # of exactly one author, whose names are in the files' names
      affiliation: {abbreviation: UX, institute: University of X, location: "X, Country"}
  description:                          # replaces what is read from the checkpoint and its run
    data_augmentation: mixup
  external_datasets: []                 # each with name, url and total_audio_length (minutes)
  source_code: https://example.org/code

The organizers' validator is github.com/toni-heittola/dcase2020_task1_submission_validator.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.submission",
        description="Write the package for DCASE 2020 Challenge task 1B: the output on the evaluation set, and the "
        "meta information with the figures of the run, checked against the rules.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=".ckpt in the directory of its run")
    parser.add_argument("dir", type=Path, metavar="DIR", help="the evaluation set: holds audio/0.wav to 8639.wav")
    parser.add_argument("--name", required=True, help="of the system")
    parser.add_argument("--abbreviation", required=True, metavar="ABBR", help="of the name, at most 10 characters")
    parser.add_argument("--authors", required=True, type=Path, metavar="FILE", help="YAML file, see below")
    parser.add_argument("--number", type=int, default=1, metavar="N", help="of the submission, 1 to 4, default: 1")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="folder to write, default: this one")
    parser.add_argument("--rehearsal", action="store_true", help="accept an evaluation set with clips missing")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="MODULE",
        help="module besides asc and torch.optim whose classes the checkpoint may name",
    )
    arguments = parser.parse_args(argv)
    silence_libraries()
    with exit_on_input_error():
        summary = submit(arguments)
        print(json.dumps(summary, indent=2) if arguments.json else text(summary), flush=True)


def submit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute, check and write the package; return what was written."""
    from asc.classifier import SceneClassifier  # after --help, since torch takes seconds
    from asc.submission.meta import build_meta, read_team, run_of
    from asc.submission.output import evaluation_files, output_rows
    from asc.submission.rules import CLIPS, HEADER, LABELS, SYSTEMS, check_meta, check_output

    check_number("--number", arguments.number, int, 1, SYSTEMS)
    if not arguments.output.is_dir():
        raise WriteError(f"--output={arguments.output} is no folder: make it first")
    team = read_team(arguments.authors)
    files = evaluation_files(arguments.dir, arguments.rehearsal)
    if arguments.checkpoint.suffix == ".onnx":
        raise InputError(f"{arguments.checkpoint} does not tell its parameters: give the run's checkpoint")
    model = SceneClassifier.load_from_checkpoint(arguments.checkpoint, trusted=arguments.trusted)
    if set(model.labels) != set(LABELS):
        raise InputError(
            f"{arguments.checkpoint} has the labels {', '.join(model.labels)}: the challenge has {', '.join(LABELS)}"
        )
    run = run_of(arguments.checkpoint, model)
    meta = build_meta(model, run, team, arguments.name, arguments.abbreviation, arguments.number)
    check_meta(meta)
    if len(files) < CLIPS:
        print(f"rehearsal: {len(files):,} of {CLIPS:,} clips; the challenge takes complete sets only", file=sys.stderr)
    rows = output_rows(model, arguments.dir, files)
    check_output(rows, len(files))
    output, described = write_package(arguments.output, meta, [HEADER, *rows])
    predicted = Counter(row[1] for row in rows)
    return {
        "output": str(output),
        "meta": str(described),
        "clips": len(rows),
        "predicted": {name: predicted[name] for name in LABELS},
        **{part: meta["system"][part] for part in ("complexity", "description")},
        "development": meta["results"]["development_dataset"]["overall"],
    }


def write_package(folder: Path, meta: dict[str, Any], table: Sequence[Sequence[str]]) -> tuple[Path, Path]:
    """Write the output table and the meta information, both or none; return their paths."""
    label = meta["submission"]["label"]
    output, described = (folder / f"{label}.{suffix}" for suffix in ("output.csv", "meta.yaml"))
    with written_whole(output) as temporary, written_whole(described) as description:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(table)
        description.write_text(yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
    return output, described


def text(summary: dict[str, Any]) -> str:
    """What was written, for people."""
    from asc.complexity import DCASE2020_LIMIT_KB

    complexity, development = summary["complexity"], summary["development"]
    predicted = ", ".join(f"{count:,} {label}" for label, count in summary["predicted"].items())
    unknown = [name for name, value in summary["description"].items() if value is None]
    lines = [
        summary["output"],
        f"  {summary['clips']:,} clips: {predicted}",
        summary["meta"],
        f"  {complexity['total_parameters_non_zero']:,} of {complexity['total_parameters']:,} parameters are not zero, "
        f"{complexity['model_size']:.1f} KB of {DCASE2020_LIMIT_KB:.0f}",
        f"  development set: accuracy {development['accuracy']:.1f} %, log loss {development['logloss']:.3f}",
    ]
    if unknown:
        lines.append(f"  null in the description: {', '.join(unknown)}")
    return "\n".join(map(printable, lines))


if __name__ == "__main__":
    main()
