"""Time contestants in turn, each in its own process, so that background load affects all of them alike."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

from asc.machine import peak_gpu_memory, peak_memory

SHORTEST = 0.2  # s of a measurement: those of a few milliseconds scatter by a fifth


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes:
        name: key of its result.
        make: module-level function that does the set-up in the contestant's process and returns the function to time.
        settings: arguments of `make`.
        environment: variables to set for its process.
    """

    name: str
    make: Callable[..., Callable[[], None]]
    settings: dict[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, and peak memory in bytes, of the GPU if it was used."""

    seconds: list[float]
    memory: int | None


def contest(contestants: Sequence[Contestant], rounds: int) -> dict[str, Timing]:
    """Time each contestant once a round, one after the other, after a warm-up round.

    In its turn each runs once, since CPU caches go cold while a process waits, and is then timed over as many runs as
    take `SHORTEST`.

    Raises:
        RuntimeError: a contestant's process failed.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        connections: dict[str, Connection] = {}
        for contestant in contestants:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs, contestant), daemon=False)
            with mock.patch.dict(os.environ, contestant.environment):  # which the process inherits
                process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)  # which ends the process
            connections[contestant.name] = ours
            receive(ours, contestant.name)  # wait for its set-up, which must not overlap with timing
        seconds: dict[str, list[float]] = {name: [] for name in connections}
        for _ in range(1 + rounds):
            for name, connection in connections.items():
                connection.send("run")
                seconds[name].append(receive(connection, name))
        memory = {}
        for name, connection in connections.items():
            connection.send("memory")
            memory[name] = receive(connection, name)
    return {name: Timing(seconds[name][1:], memory[name]) for name in connections}


@contextmanager
def busy(processes: int) -> Iterator[list]:
    """Let this many other processes, which it yields, compute until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=compute, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield others
    finally:
        for other in others:
            other.terminate()


def compute() -> None:
    """Keep a core busy as long as the parent process lives."""
    parent = os.getppid()
    while os.getppid() == parent:
        pass


def receive(connection: Connection, name: str) -> Any:
    """The answer of a contestant's process."""
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"{name} could not be measured: see its traceback above") from None


def serve(connection: Connection, contestant: Contestant) -> None:
    """Set up, then answer requests, in the contestant's process."""
    run = contestant.make(**contestant.settings)
    connection.send(None)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if request == "memory":
            connection.send(peak_gpu_memory() or peak_memory())
            continue
        run()
        connection.send(duration(run))


def duration(run: Callable[[], None]) -> float:
    """Seconds of a run, the mean of as many as take `SHORTEST`."""
    runs, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SHORTEST:
        run()
        runs += 1
    return elapsed / runs
