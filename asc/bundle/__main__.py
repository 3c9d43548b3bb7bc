"""A folder for the device: python -m asc.bundle RUN [DIR] [--web]."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from asc.bundle.page import find_runtime
from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import InputError, printable
from asc.results import read_results
from asc.table import text_table

CHECKPOINTS = ("int8.ckpt", "pruned.ckpt", "checkpoints/best.ckpt")  # of a run, the best for a device first


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
        const="",
        metavar="PACKAGE",
        help="write index.html too, with npm's onnxruntime-web: its folder or .tgz, else that in node_modules, else "
        "it is downloaded (33 MB)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    add_trusted_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        bundle(arguments)


def bundle(arguments: argparse.Namespace) -> None:
    """Write the folder and print its files, time and memory, and what to do next."""
    from asc.bundle.folder import check_destination, write_bundle  # after --help, since torch takes seconds
    from asc.classifier import SceneClassifier

    silence_libraries()
    checkpoint = find_checkpoint(arguments.run)
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    folder = arguments.folder or home / "bundle"
    check_destination(folder, arguments.force)  # before anything is loaded or fetched
    model = SceneClassifier.load_from_checkpoint(checkpoint, trusted=arguments.trusted)
    web = arguments.web
    runtime = None if web is None else find_runtime(Path(web) if web else None)
    results = read_results(home) if (home / "results.json").exists() else None
    if results and (results.stage, results.labels) != (model.stage, model.labels):  # those of another model
        results = None
    with tqdm(desc="writing the bundle and measuring its example", bar_format="{desc}", leave=False, disable=None):
        measured = write_bundle(model, folder, results, runtime, arguments.force)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if arguments.json:
        print(json.dumps({"folder": str(folder), "checkpoint": str(checkpoint), "files": sizes, **measured}))
        return
    place = printable(str(folder))
    time = f"{1000 * measured['seconds']:.0f} ms for {measured['clip_seconds']:g} s of sound"
    memory = f", {measured['memory'] / 1e6:.0f} MB of memory" if measured["memory"] else ""
    print(place)
    print(text_table([(f"  {name}", f"{size:,}", "bytes") for name, size in sizes.items()], left=(0, 2)))
    print(f"\ntime  {time} (real-time factor {measured['real_time_factor']:.4f}){memory}")
    print(f"      on one thread of {measured['processor']}")
    print(f"try   python {place}/example.py clip.wav")
    print("look ", f"open {place}/index.html in a browser" if runtime else "add --web for a page in the browser")


def find_checkpoint(run: Path) -> Path:
    """The checkpoint itself, or the best one for a device in a run's directory: in 8 bits if there is one.

    Raises:
        InputError: the directory has none.
    """
    if not run.is_dir():
        return run
    found = [run / name for name in CHECKPOINTS if (run / name).is_file()]
    if not found:
        raise InputError(f"invalid RUN={run}: expected a directory with {' or '.join(CHECKPOINTS)}")
    return found[0]


if __name__ == "__main__":
    main()
