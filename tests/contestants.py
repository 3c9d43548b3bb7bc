"""Contestants of the benchmark whose processes start without torch."""

import os
import time
from pathlib import Path


def clerk(name: str, file: Path):
    """A contestant who writes down when it is made and when it runs: its name, its process, start and end."""

    def note(start: float) -> None:
        with open(file, "a") as lines:
            lines.write(f"{name} {os.getpid()} {start!r} {time.perf_counter()!r}\n")

    note(0.0)
    return lambda: note(time.perf_counter())


def broken():
    raise ValueError("out of order")


def expects(name: str, value: str):
    """A contestant who breaks down unless an environment variable is what it should be."""
    assert os.environ[name] == value
    return lambda: None
