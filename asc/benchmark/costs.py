"""What a clip costs on one thread, for estimates of large datasets: python -m asc.benchmark.costs prints it."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asc.benchmark.ours import classifier
from asc.benchmark.repeated import write_repeated
from asc.data import SceneData
from asc.data.cache import CacheFile
from asc.data.datasets import BatchSampler

ALL = 2_000_000  # clips of AudioSet


def timed(function: Callable[[], Any], times: int = 3) -> float:
    """Seconds of CPU time of the fastest of some calls, which other programs disturb least."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def costs(folder: Path, clips: int = 3000, decoded: int = 40) -> dict[str, float]:
    """Each cost of a clip of 10 s at 48 kHz, stereo, 24 bits; the order of an epoch is that of ALL.

    Args:
        folder: for the clips, which are links to a few recordings, and their features.
        clips: in the lists.
        decoded: of these.
    """
    torch.set_num_threads(1)
    root, frontend = write_repeated(folder / "data", clips), classifier().frontend

    def scenes() -> SceneData:
        data = SceneData(str(root), num_workers=0, cache_dir=str(folder / "cache"))
        data.setup()
        return data

    cold = timed(scenes, 1)
    data = scenes()
    dataset = data.dataset("train")
    waves, _ = dataset[list(range(4))]
    values = frontend.spectrogram(waves[:1])[0, 0].numpy().astype(np.float16)
    file = CacheFile(folder / "cache/rows.npy", clips, values.shape, np.float16)
    file.write(lambda blocks: ((rows, np.repeat(values[None], len(rows), 0)) for rows in blocks))
    sampler = BatchSampler(ALL, 100, seed=0)
    result = {
        "decoding and resampling, ms": 1000 * timed(lambda: dataset[list(range(decoded))]) / decoded,
        "frontend, ms": 1000 * timed(lambda: frontend.spectrogram(waves)) / len(waves),
        "features, bytes": file.row.itemsize,
        "check of the features, ms": 1000 * timed(file.is_intact) / clips,
        "lists and headers, first run, ms": 1000 * cold / clips,
        "lists, later runs, ms": 1000 * timed(scenes) / clips,
        "names in the cache's order, ms": 1000 * timed(lambda: data.cache_path({}, frontend)) / clips,
        f"order of an epoch of {ALL:,} clips, s": timed(lambda: next(iter(sampler))),
    }
    tracemalloc.start()
    kept = scenes()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()  # it slows all Python down
    return {**result, f"lists, bytes of memory ({len(kept.seconds)} clips)": size / clips}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        for what, cost in costs(Path(place)).items():
            print(f"{what:45}{cost:12,.3f}")
