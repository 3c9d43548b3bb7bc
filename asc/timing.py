"""One way to time a function, for the benchmark and the report."""

import logging
from collections.abc import Callable
from typing import Any


def median_seconds(call: Callable[[], Any], threads: int = 1, min_seconds: float = 0.2) -> float:
    """Median seconds of a call with `threads` PyTorch threads, over at least `min_seconds` of calls.

    Earlier calls, not counted, warm CPU caches and determine how many calls a block needs.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # importing it warns about a missing GPU
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=threads)
    return timer.blocked_autorange(min_run_time=min_seconds).median
