"""Compare finished runs: python -m asc.report RUN... prints a table of the systems and plots accuracy against size."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError
from asc.report.compare import compare
from asc.report.latency import measure_latency
from asc.report.plot import plot_accuracy_over_size
from asc.report.runs import find_runs, group, read_run
from asc.report.table import systems_table
from asc.training.memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.report", description="Compare finished runs.")
    parser.add_argument("run", nargs="+", metavar="RUN", help="the directory of a finished run, or of several")
    parser.add_argument("--picture", default="report.png", type=Path, metavar="FILE", help="plot, default: report.png")
    parser.add_argument("--no-latency", action="store_true", help="do not time the networks")
    parser.add_argument(
        "--compare", action="store_true", help="of two directories, print the second's accuracy minus the first's"
    )
    arguments = parser.parse_args(argv)
    silence_libraries()
    keep_freed_memory()
    with exit_on_input_error():
        if arguments.compare:
            if len(arguments.run) != 2:
                raise InputError(f"invalid --compare with {len(arguments.run)} directories: expected two")
            print(compare(*(map(read_run, find_runs([path])) for path in arguments.run)))
            return
        if not arguments.picture.parent.is_dir():
            raise InputError(f"--picture={arguments.picture} cannot be written: create its directory first")
        systems = group(map(read_run, find_runs(arguments.run)))
        latency = None if arguments.no_latency else measure_latency(systems)
        print(systems_table(systems, latency))
        plot_accuracy_over_size(systems, arguments.picture)
        print(f"\npicture  {arguments.picture}")


if __name__ == "__main__":
    main()
