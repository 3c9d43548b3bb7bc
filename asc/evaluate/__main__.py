"""Evaluate a classifier: python -m asc.evaluate CHECKPOINT [data=dcase data.root=DIR] [--split test] [--json].

Writes evaluation.json, predictions.csv, confusion_matrix.png, reliability.png and accuracy_by_group.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import InputError, WriteError, check_number

EPILOG = """
examples:
  python -m asc.evaluate RUN/checkpoints/best.ckpt                             the run's own test clips
  python -m asc.evaluate RUN/checkpoints/best.ckpt --split val                 its validation clips
  python -m asc.evaluate RUN/int8.ckpt data=dcase data.root=DIR                other recordings
  python -m asc.evaluate RUN/model.onnx data=tau2020_3class data.root=DIR      an ONNX file
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.evaluate",
        usage="%(prog)s CHECKPOINT [SETTING ...] [options]",
        description="Evaluate a classifier on any dataset and split: metrics with confidence intervals, accuracy by "
        "class, city, device and source scene, reliability of the probabilities, and the worst mistakes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's .ckpt, or its .onnx file")
    settings_help = "data settings of train.py: data=dcase data.root=DIR data.fold=2; default: the checkpoint's own"
    add("setting", nargs="*", default=[], metavar="SETTING", help=settings_help)
    add("--split", choices=("test", "val", "train"), default="test", help="default: test")
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
        evaluation = evaluate(arguments)
        if arguments.json:
            print(json.dumps(evaluation, indent=2, allow_nan=False))
        else:
            from asc.evaluate.output import evaluation_tables

            print(f"{evaluation_tables(evaluation)}\n\nfiles  {arguments.output}", flush=True)


def make_folder(directory: Path) -> None:
    """Create the folder before computing probabilities; an earlier evaluation in it will be replaced.

    Raises:
        InputError: it is the directory of a run, whose files have the same names, or cannot be made.
    """
    if (directory / "results.json").exists():
        raise InputError(f"invalid --output={directory}: expected a folder other than a run's")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--output={directory} cannot be created: {error.strerror}; choose another folder") from error


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute and write the evaluation; return evaluation.json's content."""
    import numpy as np  # imported after --help, since torch takes seconds

    from asc.evaluate.data import clips_of, evaluation_data, notes_on, probabilities_of
    from asc.evaluate.figures import clip_table, evaluation_figures
    from asc.evaluate.output import plot_groups, plot_reliability
    from asc.files import atomic_write
    from asc.inference import load_classifier
    from asc.plot import plot_confusion_matrix
    from asc.results import write_predictions

    directory, split = arguments.output, arguments.split
    classifier = load_classifier(arguments.checkpoint, arguments.trusted)
    data = evaluation_data(arguments.checkpoint, classifier, arguments.setting)
    clips, labels = clips_of(data, split), classifier.labels
    make_folder(directory)
    probabilities = probabilities_of(clips, data.loader(split), classifier)
    table = clip_table(clips, data.root, labels, probabilities)
    evaluation = {
        "checkpoint": str(arguments.checkpoint),
        "stage": getattr(classifier, "stage", None),
        "data": str(data.root),
        "split": split,
        "cv": data.cv,
        "fold": data.fold,
        "labels": labels,
        "notes": notes_on(data, clips, classifier),
        **evaluation_figures(table, labels, arguments.seed, arguments.worst),
    }
    write_predictions(directory / "predictions.csv", data.root, clips, labels, probabilities)
    matrix = np.array(evaluation["test"]["confusion_matrix"])
    plot_confusion_matrix(matrix, labels, directory / "confusion_matrix.png", f"{split.capitalize()} clips")
    error = evaluation["reliability"]["expected_calibration_error"]
    plot_reliability(table, error, directory / "reliability.png")
    plot_groups(evaluation["groups"], directory / "accuracy_by_group.png")
    with atomic_write(directory / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
    return evaluation


if __name__ == "__main__":
    main()
