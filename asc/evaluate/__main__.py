"""Evaluate a classifier: python -m asc.evaluate CHECKPOINT [data=dcase data.root=DIR] [--split test] [--json].

Writes evaluation.json, predictions.csv, confusion_matrix.png, reliability.png and accuracy_by_group.png.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from asc.cli import exit_on_input_error, silence_libraries
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
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's .ckpt, or its .onnx file")
    parser.add_argument(
        "setting",
        nargs="*",
        default=[],
        metavar="SETTING",
        help="of the data, as of train.py: data=dcase data.root=DIR data.fold=2; default: the checkpoint's own",
    )
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument(
        "--output", type=Path, default=Path("evaluation"), metavar="DIR", help="folder to write, default: evaluation"
    )
    parser.add_argument("--json", action="store_true", help="print evaluation.json instead of tables")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="mistakes to list, default: 10")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap, default: 0")
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="MODULE",
        help="module besides asc and torch.optim whose classes the checkpoint may name",
    )
    arguments = parser.parse_intermixed_args(argv)
    silence_libraries()
    with exit_on_input_error():
        check_number("--worst", arguments.worst, int, 0)
        check_number("--seed", arguments.seed, int, 0)
        with output_folder(arguments.output):
            evaluation = evaluate(arguments)
        if arguments.json:
            print(json.dumps(evaluation, indent=2, allow_nan=False))
        else:
            from asc.evaluate.tables import evaluation_tables

            print(f"{evaluation_tables(evaluation)}\n\nfiles  {arguments.output}", flush=True)


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute and write everything; return evaluation.json's content."""
    from asc.data.datasets import class_indices  # after --help, since torch takes seconds
    from asc.evaluate.data import clips_of, evaluation_data, notes_on
    from asc.evaluate.plots import plot_groups, plot_reliability
    from asc.evaluate.summary import summarize
    from asc.files import atomic_write
    from asc.inference import load_classifier
    from asc.plot import plot_confusion_matrix
    from asc.predictions import Predictions, predict, write_predictions

    directory = arguments.output
    predictor = load_classifier(arguments.checkpoint, arguments.trusted)
    data = evaluation_data(arguments.checkpoint, predictor, arguments.setting)
    clips = clips_of(data, arguments.split)
    probabilities = predict(predictor, data.loader(arguments.split), len(clips))
    predictions = Predictions(predictor.labels, class_indices(clips, predictor.labels).numpy(), probabilities)
    evaluation = {
        "checkpoint": str(arguments.checkpoint),
        "stage": getattr(predictor, "stage", None),
        "data": str(data.root),
        "split": arguments.split,
        "cv": data.cv,
        "fold": data.fold,
        "labels": predictor.labels,
        "notes": notes_on(data, clips, predictor),
        **summarize(predictions, clips, data.root, arguments.seed, arguments.worst),
    }
    write_predictions(directory / "predictions.csv", data.root, clips, predictor.labels, probabilities)
    title = f"{arguments.split.capitalize()} clips"
    plot_confusion_matrix(predictions.confusion_matrix, predictor.labels, directory / "confusion_matrix.png", title)
    plot_reliability(evaluation["reliability"], directory / "reliability.png")
    plot_groups(evaluation["groups"], directory / "accuracy_by_group.png")
    with atomic_write(directory / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
    return evaluation


@contextmanager
def output_folder(directory: Path) -> Iterator[None]:
    """Make the folder before anything is computed, and remove it on failure; an earlier evaluation is replaced.

    Raises:
        InputError: the folder is a run's, whose files have the same names, or cannot be made.
    """
    if (directory / "results.json").exists():
        raise InputError(f"--output={directory} holds a run: choose another folder")
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--output={directory} cannot be made ({error.strerror}): choose another folder") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one holds files
            for made in new:
                made.rmdir()
        raise


if __name__ == "__main__":
    main()
