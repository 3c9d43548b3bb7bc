"""Single-thread latency of each system's network on one clip."""

import contextlib
import time
from collections.abc import Iterable
from statistics import median

import torch
from torch import Tensor, nn

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.runs import System

WARM_UP, ROUNDS = 3, 30


def single_thread_latency(nets: dict[str, tuple[nn.Module, Tensor]]) -> dict[str, float]:
    """Median latency in ms of each network on its features, on one thread.

    The networks take turns, so that background load affects all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP + ROUNDS):
                for name, (net, features) in nets.items():
                    start = time.perf_counter()
                    net(features)
                    seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: 1000 * median(values[WARM_UP:]) for name, values in seconds.items()}


def measure_latency(systems: Iterable[System]) -> dict[str, float]:
    """Latency in ms of each network by its system's name; systems whose checkpoint cannot be loaded are left out."""
    nets = {}
    for system in systems:
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # an untrusted class is not loaded
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                nets[system.name] = model.net, model.example_features()
    return single_thread_latency(nets)
