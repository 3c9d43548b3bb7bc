"""Time candidates in interleaved rounds, each in its own process, so that background load affects all of them alike."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from asc.machine import peak_gpu_memory, peak_memory
from asc.timing import median_seconds


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        name: key of its result.
        make: module-level function that does the set-up in the candidate's process and returns the function to time.
        settings: arguments of `make`; "threads" among them is also PyTorch's number of threads, 1 by default.
        environment: variables to set for its process.
    """

    name: str
    make: Callable[..., Callable[[], None]]
    settings: dict[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Seconds of a call in each round, and peak memory in bytes, of the GPU if it was used."""

    seconds: list[float]
    memory: int | None


def compare_timings(candidates: Sequence[Candidate], rounds: int) -> dict[str, Timing]:
    """Time each candidate once a round, one after the other, after a warm-up round.

    Raises:
        RuntimeError: a candidate failed.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {}
        for candidate in candidates:  # all are set up before the first is timed
            pools[candidate.name] = stack.enter_context(ProcessPoolExecutor(1, spawn))
            with mock.patch.dict(os.environ, candidate.environment):  # inherited by the process
                ask(pools, candidate.name, set_up, candidate)
        seconds: dict[str, list[float]] = {name: [] for name in pools}
        for _ in range(1 + rounds):
            for name in pools:
                seconds[name].append(ask(pools, name, timed))
        return {name: Timing(seconds[name][1:], ask(pools, name, peak)) for name in pools}


def ask(pools: dict[str, ProcessPoolExecutor], name: str, function: Callable, *arguments: Any) -> Any:
    """What `function` returns in a candidate's process."""
    try:
        return pools[name].submit(function, *arguments).result()
    except Exception as error:
        raise RuntimeError(f"{name} could not be measured: {error}") from error


CALL: list[tuple[Callable[[], None], int]] = []  # in a candidate's process: the function to time, and its threads


def set_up(candidate: Candidate) -> None:
    """In a candidate's process: make the function to time."""
    CALL.append((candidate.make(**candidate.settings), candidate.settings.get("threads", 1)))


def timed() -> float:
    """In a candidate's process: median seconds of a call."""
    return median_seconds(*CALL[0])


def peak() -> int | None:
    """In a candidate's process: its peak memory in bytes, of the GPU if it was used."""
    return peak_gpu_memory() or peak_memory()
