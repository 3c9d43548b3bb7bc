"""Evaluate a classifier on any dataset and split.

Writes metrics with confidence intervals, accuracy by class, city, device and source scene, reliability of the
probabilities, and the worst mistakes: evaluation.json, predictions.csv, confusion_matrix.png, reliability.png and
accuracy_by_group.png.

Examples:
  python -m asc.evaluate RUN/checkpoints/best.ckpt                             the run's own test clips
  python -m asc.evaluate RUN/checkpoints/best.ckpt --split val                 its validation clips
  python -m asc.evaluate RUN/int8.ckpt data=dcase data.root=DIR                the test list of other recordings
  python -m asc.evaluate RUN/int8.ckpt data=folder data.root=DIR --split all   all recordings in class folders
  python -m asc.evaluate RUN/int8.ckpt --list FILE                             those that a list names
  python -m asc.evaluate RUN/model.onnx data=tau2020_3class data.root=DIR      an ONNX file
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import check_number


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.evaluate",
        usage="%(prog)s CHECKPOINT [SETTING ...] [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's .ckpt, or its .onnx file")
    settings_help = "data settings of train.py: data=dcase data.root=DIR data.fold=2; default: the checkpoint's own"
    add("setting", nargs="*", default=[], metavar="SETTING", help=settings_help)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--split", choices=("test", "val", "train", "all"), default="test", help="default: test; all: every recording"
    )
    list_help = "a list with the columns filename (below data.root, by default the list's folder) and scene_label"
    which.add_argument("--list", type=Path, metavar="FILE", help=list_help)
    add("--output", type=Path, default="evaluation", metavar="DIR", help="folder to write, default: evaluation")
    add("--json", action="store_true", help="print evaluation.json instead of tables")
    add("--worst", type=int, default=10, metavar="N", help="mistakes to list, default: 10")
    add("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap, default: 0")
    add_trusted_option(parser)
    arguments = parser.parse_intermixed_args(argv)
    silence_libraries()
    with exit_on_input_error():
        check_number("--worst", arguments.worst, int, 0)
        check_number("--seed", arguments.seed, int, 0)
        from asc.evaluate.evaluation import evaluate  # imported after --help, since torch takes seconds
        from asc.evaluate.output import evaluation_tables

        evaluation = evaluate(arguments)
        if arguments.json:
            print(json.dumps(evaluation, indent=2, allow_nan=False))
        else:
            print(f"{evaluation_tables(evaluation)}\n\nfiles  {arguments.output}", flush=True)


if __name__ == "__main__":
    main()
