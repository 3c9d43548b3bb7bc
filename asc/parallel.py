"""Parts of a computation in parallel, each on one thread: threads that share an operation would wait for each other."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`function` of each part, in as many threads as torch has, each of which computes alone."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        return list(map(function, parts))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(threads)  # threads that are yet to start take the last number set
