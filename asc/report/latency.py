"""Single-thread latency of each system's network on one clip."""

import contextlib
from collections.abc import Hashable, Sequence
from functools import partial
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.systems import System
from asc.timing import median_seconds

ROUNDS, MIN_SECONDS = 10, 0.01  # each network is timed for MIN_SECONDS in each round
Key = TypeVar("Key", bound=Hashable)


def single_thread_latency(nets: dict[Key, tuple[nn.Module, Tensor]]) -> dict[Key, float]:
    """Median latency in ms of each network on its features, on one thread.

    The networks take turns, so that background load affects all equally.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in nets}
    with torch.inference_mode():
        for _ in tqdm(range(ROUNDS), "timing", leave=False, disable=None, delay=2):
            for key, (net, features) in nets.items():
                seconds[key].append(median_seconds(partial(net, features), min_seconds=MIN_SECONDS))
    return {key: 1000 * median(values) for key, values in seconds.items()}


def measure_latency(systems: Sequence[System]) -> dict[System, float]:
    """Latency in ms of each system's network; systems whose checkpoint cannot be loaded are skipped."""
    nets = {}
    for system in tqdm(systems, "loading", leave=False, disable=None, delay=2):
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # untrusted classes are not loaded
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                nets[system] = model.net, model.example_features()
    return single_thread_latency(nets)
