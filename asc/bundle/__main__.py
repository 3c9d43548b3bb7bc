"""A folder for the device: python -m asc.bundle RUN [DIR] [--web]."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from asc.bundle.measure import Measurement
from asc.bundle.page import find_runtime
from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import InputError, printable
from asc.table import text_table

CHECKPOINTS = ("int8.ckpt", "pruned.ckpt", "checkpoints/best.ckpt")  # of a run, the best for a device first
FETCH = "FETCH"  # --web without a place


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.bundle",
        description="Write a folder for the device: the network and its frontend as ONNX, labels, an example without "
        "PyTorch, a README with measured time and memory, and with --web a page that runs the network in the browser.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run, or a checkpoint")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="the folder to write, default: RUN/bundle")
    parser.add_argument(
        "--web",
        nargs="?",
        const=FETCH,
        metavar="PACKAGE",
        help="write index.html too, with npm's onnxruntime-web: its folder or .tgz, else that in node_modules, else "
        "npm fetches it",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    add_trusted_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        bundle(arguments)


def bundle(arguments: argparse.Namespace) -> None:
    """Write the folder and print its summary."""
    from asc.bundle.folder import check_destination, results_of, write_bundle  # after --help, since torch takes seconds
    from asc.classifier import SceneClassifier

    silence_libraries()
    checkpoint = find_checkpoint(arguments.run)
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    folder = arguments.folder or home / "bundle"
    check_destination(folder, arguments.force)  # before anything is loaded or fetched
    model = SceneClassifier.load_from_checkpoint(checkpoint, trusted=arguments.trusted)
    runtime = None
    if arguments.web is not None:
        runtime = find_runtime(None if arguments.web == FETCH else Path(arguments.web))
    measurement = write_bundle(model, folder, results_of(home, model), runtime, arguments.force)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if arguments.json:
        measured = {"real_time_factor": measurement.real_time_factor, **asdict(measurement)}
        print(json.dumps({"folder": str(folder), "checkpoint": str(checkpoint), "files": sizes, **measured}))
    else:
        print(summary(folder, sizes, measurement))


def find_checkpoint(run: Path) -> Path:
    """The checkpoint itself, or the best one for a device in a run's directory: in 8 bits if there is one.

    Raises:
        InputError: the directory has none.
    """
    if not run.is_dir():
        return run
    for name in CHECKPOINTS:
        if (run / name).is_file():
            return run / name
    raise InputError(f"invalid RUN={run}: expected a directory with {' or '.join(CHECKPOINTS)}")


def summary(folder: Path, sizes: dict[str, int], measurement: Measurement) -> str:
    """The folder's files, time and memory, and what to do next."""
    place = printable(str(folder))
    time = f"{1000 * measurement.seconds:.0f} ms for {measurement.clip_seconds:g} s of sound"
    memory = f", {measurement.memory / 1e6:.0f} MB of memory" if measurement.memory else ""
    look = f"open {place}/index.html in a browser" if "index.html" in sizes else "add --web for a page in the browser"
    facts = [
        ("time", f"{time} (real-time factor {measurement.real_time_factor:.4f}){memory}"),
        ("", f"on one thread of {measurement.processor}"),
        ("try", f"python {place}/example.py clip.wav"),
        ("look", look),
    ]
    files = text_table([(f"  {name}", f"{size:,}", "bytes") for name, size in sizes.items()], left=(0, 2))
    return "\n".join([place, files, "", text_table(facts, left=(0, 1))])


if __name__ == "__main__":
    main()
