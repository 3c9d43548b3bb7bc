"""One way to time a function, for the benchmark and the report."""

import logging
import time
from collections.abc import Callable
from typing import Any


def median_seconds(call: Callable[[], Any], threads: int = 1, min_seconds: float = 0.2) -> float:
    """Median seconds of a call with `threads` PyTorch threads, over at least `min_seconds` of calls.

    Earlier calls, not counted, warm CPU caches and determine how many calls a block needs.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # importing it warns about a missing GPU
    from torch.utils.benchmark import Timer

    # PyTorch's own clock looks for a GPU at each reading, 5 microseconds, so blocks would become larger to hide it
    timer = Timer("call()", timer=time.perf_counter, globals={"call": call}, num_threads=threads)
    return timer.blocked_autorange(min_run_time=min_seconds).median
