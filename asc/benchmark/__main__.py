"""Time this package against its peers and bounds: python -m asc.benchmark prints a table and writes JSON."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, check_choice, check_number
from asc.files import atomic_write
from asc.machine import processor

PARTS = ("frontend", "training", "inference", "epoch", "waiting", "integers")  # methods of Bench
LONG = ("growth", "table3", "soak")  # whole runs of train.py, on request


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.benchmark",
        description="Time this package against its peers (pip install -e '.[peers]') and its bounds.",
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all of these); or {', '.join(LONG)}")
    parser.add_argument("--device", help="cpu or cuda; default: cuda if there is a GPU")
    parser.add_argument("--threads", default=2, type=int, help="default: 2")
    parser.add_argument("--batch", default=100, type=int, help="clips in a batch, default: 100")
    parser.add_argument("--rounds", default=5, type=int, help="timed rounds, default: 5")
    parser.add_argument("--json", default=Path("benchmark.json"), type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    with exit_on_input_error():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the tables and write the JSON file.

    Raises:
        InputError: an argument is invalid.
    """
    import torch  # after --help, since it takes seconds

    from asc.benchmark.bench import Bench, timing_table
    from asc.benchmark.train_runs import growth, runs_table, soak_test, table3

    silence_libraries()
    if arguments.device is None:
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    check(arguments, torch.cuda.is_available())
    machine = {"processor": processor(), "torch": torch.__version__, **vars(arguments), "json": str(arguments.json)}
    print(f"{machine['processor']}, {arguments.threads} threads, torch {torch.__version__}\n", flush=True)
    results: dict[str, Any] = {}
    parts = [part for part in PARTS if part in arguments.part or not arguments.part]
    if parts:
        bench = Bench(arguments.device, arguments.threads, arguments.batch, arguments.rounds)
        rows = []
        for part in parts:
            print(f"measuring: {part}", flush=True)
            rows += getattr(bench, part)()
        print("\n" + timing_table(rows) + "\n")
        results["rows"] = [asdict(row) for row in rows]
    runs: list[Callable[[], list[dict]]] = [growth, partial(table3, arguments.device), soak_test]
    for part, measure in zip(LONG, runs, strict=True):
        if part in arguments.part:
            results[part] = measure()
            print(f"\n{runs_table(results[part])}\n")
    with atomic_write(arguments.json) as temporary:
        temporary.write_text(json.dumps({**machine, **results}, indent=2) + "\n")
    print(f"results  {arguments.json}")


def check(arguments: argparse.Namespace, has_gpu: bool) -> None:
    """Reject invalid arguments before anything is measured.

    Raises:
        InputError: names the argument.
    """
    for part in arguments.part:
        check_choice("part", part, (*PARTS, *LONG))
    for name in ("threads", "batch", "rounds"):
        check_number(f"--{name}", getattr(arguments, name), int, 1)
    if arguments.device not in ("cpu", "cuda") or (arguments.device == "cuda" and not has_gpu):
        raise InputError(f"invalid --device={arguments.device}: expected cpu, or cuda on a machine with a GPU")
    if not Path("conf/train.yaml").exists():
        raise InputError("conf/train.yaml does not exist: run the benchmark in the folder with train.py and conf")
    if not arguments.json.parent.is_dir():
        raise InputError(f"--json={arguments.json} cannot be written: create its directory first")


if __name__ == "__main__":
    main()
