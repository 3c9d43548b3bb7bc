"""Candidates of the benchmark for its tests."""

import os
import time
from pathlib import Path


def clerk(name: str, file: Path):
    """A candidate that notes when it is made and runs: name, process, an environment variable, start and end."""

    def note(start: float) -> None:
        time.sleep(0.01)
        with open(file, "a") as lines:
            lines.write(f"{name} {os.getpid()} {os.environ['GOMP_SPINCOUNT']} {start!r} {time.perf_counter()!r}\n")

    note(0.0)
    return lambda: note(time.perf_counter())


def broken():
    raise ValueError("out of order")
