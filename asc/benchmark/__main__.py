"""Time this package against its peers and bounds: python -m asc.benchmark prints a table and writes JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, check_choice, check_number
from asc.files import atomic_write
from asc.machine import processor

PARTS = ("frontend", "training", "inference", "epoch", "integers", "prediction")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.benchmark",
        description="Time this package against its peers (pip install -e '.[peers]') and its bounds.",
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--device", help="cpu or cuda; default: cuda if there is a GPU")
    parser.add_argument("--threads", default=2, type=int, help="default: 2")
    parser.add_argument("--batch", default=100, type=int, help="clips in a batch, default: 100")
    parser.add_argument("--rounds", default=5, type=int, help="timed rounds, default: 5")
    parser.add_argument("--json", default=Path("benchmark.json"), type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the JSON file.

    Raises:
        InputError: an argument is invalid, or train.py failed.
    """
    import torch  # after --help, since it takes seconds

    from asc.benchmark.bench import measure, timing_table

    silence_libraries()
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    arguments.device = arguments.device or devices[-1]
    check_choice("--device", arguments.device, devices)
    for part in arguments.part:
        check_choice("part", part, PARTS)
    for name in ("threads", "batch", "rounds"):
        check_number(f"--{name}", getattr(arguments, name), int, 1)
    if not arguments.json.parent.is_dir():
        raise InputError(f"--json={arguments.json} cannot be written: create its directory first")
    machine = {"processor": processor(), "torch": torch.__version__, **vars(arguments), "json": str(arguments.json)}
    print(f"{machine['processor']}, {arguments.threads} threads, torch {torch.__version__}\n", flush=True)
    rows = []
    for part in PARTS:
        if part in arguments.part or not arguments.part:
            print(f"measuring: {part}", flush=True)
            rows += measure(part, arguments.device, arguments.threads, arguments.batch, arguments.rounds)
    print(f"\n{timing_table(rows)}\n")
    with atomic_write(arguments.json) as temporary:
        temporary.write_text(json.dumps({**machine, "rows": rows}, indent=2) + "\n")
    print(f"results  {arguments.json}")


if __name__ == "__main__":
    main()
