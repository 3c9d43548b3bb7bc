"""One command for all: `asc predict ...` is `python -m asc.predict ...`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "check": "what a dataset contains, and what is wrong with it",
    "download": "fetch a dataset of the challenge, or a teacher",
    "evaluate": "accuracy with intervals, calibration and mistakes, on any recordings",
    "predict": "the scene in recordings or at the microphone",
    "report": "compare runs in a table, a plot or a page",
    "export": "write a checkpoint as ONNX",
    "bundle": "a folder for the device, and a page that listens",
    "benchmark": "speed beside other libraries and the processor's bounds",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="asc",
        usage="%(prog)s COMMAND [options]",
        description="Acoustic scene classification. train.py and compress.py make the networks.",
        epilog="\n".join(["commands, each with --help:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    argv = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(argv[:1] or ["--help"]).command
    import_module(f"asc.{command}.__main__").main(argv[1:])


if __name__ == "__main__":
    main()
