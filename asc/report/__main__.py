"""Compare finished runs: python -m asc.report RUN... prints tables and plots accuracy against size; --html: a page."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, check_number, printable
from asc.machine import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.report", description="Compare finished runs.")
    add = parser.add_argument
    add("run", nargs="+", metavar="RUN", help="the directory of a finished run, or of several")
    add("--html", type=Path, metavar="FILE", help="write a page that needs no other file")
    add("--mistakes", type=int, default=3, metavar="N", help="on the page, mistakes of each dataset, default: 3")
    add("--no-audio", action="store_true", help="omit recordings from the page: TAU's, for example, may not be shared")
    add("--picture", type=Path, metavar="FILE", help="plot of accuracy over size, default without --html: report.png")
    add("--no-latency", action="store_true", help="do not time the networks")
    add("--json", action="store_true", help="print a JSON list of the systems instead of tables")
    add("--compare", action="store_true", help="of two directories, print the second's accuracy minus the first's")
    arguments = parser.parse_args(argv)
    silence_libraries()
    keep_freed_memory()
    with exit_on_input_error():
        from asc.report.page import write_page  # imported after --help, since torch takes seconds
        from asc.report.plot import plot_accuracy_over_size
        from asc.report.runs import Task, find_runs, group, read_run
        from asc.report.table import as_plain_values, compare, measure_latency, report

        def read(paths: Sequence[str]) -> list[Task]:
            return group(map(read_run, tqdm(find_runs(paths), "reading", leave=False, disable=None, delay=1)))

        if arguments.compare:
            if len(arguments.run) != 2:
                raise InputError(f"invalid --compare with {len(arguments.run)} directories: expected two")
            print(compare(*(read([path]) for path in arguments.run)))
            return
        check_number("--mistakes", arguments.mistakes, int, 0)
        picture = arguments.picture or (None if arguments.html or arguments.json else Path("report.png"))
        for option, path in (("--html", arguments.html), ("--picture", picture)):
            if path and not path.parent.is_dir():
                raise InputError(f"invalid {option}={path}: expected a file in an existing directory")
        tasks = read(arguments.run)
        systems = [system for task in tasks for system in task.systems]
        latency = None if arguments.no_latency else measure_latency(systems)
        if picture:
            plot_accuracy_over_size(tasks, picture)
        if arguments.html:
            write_page(arguments.html, tasks, latency, arguments.mistakes, not arguments.no_audio)
        if arguments.json:
            print(json.dumps(as_plain_values(tasks, latency), indent=2))
            return
        print(report(tasks, latency), end="\n\n")
        for what, path in (("picture", picture), ("page", arguments.html)):
            if path:
                print(f"{what:8} {printable(str(path))}")


if __name__ == "__main__":
    main()
