"""Timings side by side: contestants in processes of their own take turns, so that a busy moment hits all of them."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from asc.training.memory import peak_memory


@dataclass(frozen=True)
class Contestant:
    """One of those that are measured.

    Attributes:
        name: that the result goes by.
        make: function of a module, which gets `settings` in the contestant's process, prepares everything and returns
            what is timed.
        settings: arguments of `make`.
    """

    name: str
    make: Callable[..., Callable[[], None]]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, and the most bytes in memory at a time."""

    seconds: list[float]
    memory: int | None


def contest(contestants: Sequence[Contestant], rounds: int) -> dict[str, Timing]:
    """Time each contestant once a round, one after the other, after a round that does not count.

    In its turn each runs twice, and the second run counts: a process that has waited finds its caches cold.

    Raises:
        RuntimeError: a contestant's process broke down.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        lines: dict[str, Connection] = {}
        for contestant in contestants:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs, contestant), daemon=False)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)  # which ends the process
            lines[contestant.name] = ours
            ask(ours, contestant.name)  # ready: none prepares while another is timed
        seconds: dict[str, list[float]] = {name: [] for name in lines}
        for _ in range(1 + rounds):
            for name, line in lines.items():
                line.send("run")
                seconds[name].append(ask(line, name))
        memory = {}
        for name, line in lines.items():
            line.send("memory")
            memory[name] = ask(line, name)
    return {name: Timing(seconds[name][1:], memory[name]) for name in lines}


def ask(line: Connection, name: str) -> Any:
    """The answer of a contestant's process."""
    try:
        return line.recv()
    except EOFError:
        raise RuntimeError(f"{name} could not be measured, see its own words above") from None


def serve(line: Connection, contestant: Contestant) -> None:
    """In the contestant's process: prepare, then run as often as asked."""
    run = contestant.make(**contestant.settings)
    line.send(None)
    while True:
        try:
            wish = line.recv()
        except EOFError:
            return
        if wish == "memory":
            line.send(peak_memory())
            continue
        run()
        start = time.perf_counter()
        run()
        line.send(time.perf_counter() - start)
