"""Single-thread latency of each system's network on one clip."""

import contextlib
import time
from collections.abc import Hashable, Sequence
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.systems import System

WARM_UP, ROUNDS = 3, 30
Key = TypeVar("Key", bound=Hashable)


def single_thread_latency(nets: dict[Key, tuple[nn.Module, Tensor]]) -> dict[Key, float]:
    """Median latency in ms of each network on its features, on one thread.

    The networks take turns, so that background load affects all of them alike.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in nets}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in tqdm(range(WARM_UP + ROUNDS), "timing", leave=False, disable=None, delay=2):
                for key, (net, features) in nets.items():
                    start = time.perf_counter()
                    net(features)
                    seconds[key].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {key: 1000 * median(values[WARM_UP:]) for key, values in seconds.items()}


def measure_latency(systems: Sequence[System]) -> dict[System, float]:
    """Latency in ms of each system's network; systems whose checkpoint cannot be loaded are left out."""
    nets = {}
    for system in tqdm(systems, "loading", leave=False, disable=None, delay=2):
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # an untrusted class is not loaded
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                nets[system] = model.net, model.example_features()
    return single_thread_latency(nets)
