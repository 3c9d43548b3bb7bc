"""How long the networks of systems take for a clip, on one thread."""

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
    """Median milliseconds of each network on its features, on one thread.

    The networks take turns, so that a busy moment of the machine hits all of them.
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
    """Milliseconds of the networks by their systems' names, without those whose checkpoint is not to be had."""
    nets = {}
    for system in systems:
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # a network of the user's own is not run here
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                nets[system.name] = model.net, model.example_features()
    return single_thread_latency(nets)
