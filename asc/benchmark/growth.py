"""How time and memory of train.py grow with the dataset: 200, 2,000 and 13,370 clips."""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from asc.benchmark.repeated import TRAIN, write_repeated
from asc.errors import InputError
from asc.machine import peak_gpu_memory, peak_memory

SIZES = (200, 2_000, 13_370)  # clips; the last is the size of TAU Urban Acoustic Scenes 2020 3Class


class Stopwatch(pl.Callback):
    """Writes the time of the first and last training step and the peak memory to a JSON file.

    The times are of the system's monotonic clock, which all processes share.

    Args:
        file: where to write.
    """

    def __init__(self, file: str):
        self.file = Path(file)
        self.first = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        self.first = self.first or time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        torch.get_device_module(model.device).synchronize()
        peaks = {"memory": peak_memory(), "gpu_memory": peak_gpu_memory()}
        self.file.write_text(json.dumps({"first": self.first, "last": time.monotonic(), **peaks}))


def growth() -> list[dict[str, float]]:
    """A row for each size: clips, set-up seconds (cold and warm cache), seconds per epoch, peak memory in bytes."""
    rows = []
    for clips in SIZES:
        print(f"measuring: {clips:,} clips", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            root = write_repeated(Path(folder) / "data", clips)
            cold = run_train(root, Path(folder), "cold")
            warm = run_train(root, Path(folder), "warm")
        rows.append(
            {
                "clips": clips,
                "training_clips": math.ceil(TRAIN * clips),
                "cold_set_up_seconds": cold["first"] - cold["start"],
                "warm_set_up_seconds": warm["first"] - warm["start"],
                "epoch_seconds": warm["last"] - warm["first"],
                "cold_memory": cold["memory"],
                "warm_memory": warm["memory"],
            }
        )
    return rows


def run_train(root: Path, folder: Path, name: str, *overrides: str) -> dict[str, float]:
    """Run train.py in a new process, one epoch unless `overrides` say otherwise: moments in seconds, peaks in bytes.

    Raises:
        InputError: train.py failed.
    """
    file = folder / f"{name}.json"
    settings = [
        "data=dcase",
        f"data.root={root}",
        f"data.cache_dir={folder}/cache",
        "trainer.max_epochs=1",
        f"hydra.run.dir={folder}/{name}",
        "+callbacks.stopwatch._target_=asc.benchmark.growth.Stopwatch",
        f"+callbacks.stopwatch.file={file}",
        *overrides,
    ]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "train.py", *settings], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"train.py failed: {done.stderr.strip().splitlines()[-1]}")
    return {"start": start, **json.loads(file.read_text()), "end": time.monotonic()}


def growth_table(rows: list[dict[str, float]]) -> str:
    """Table of the rows; ms/clip is the epoch's time over its training clips."""
    lines = [
        "             seconds until the first step      seconds            peak memory, GB",
        "    clips      cold cache    warm cache     per epoch   ms/clip    cold    warm",
        "-" * 78,
    ]
    for row in rows:
        lines.append(
            f"{row['clips']:9,.0f}{row['cold_set_up_seconds']:16.1f}{row['warm_set_up_seconds']:14.1f}"
            f"{row['epoch_seconds']:14.1f}{1000 * row['epoch_seconds'] / row['training_clips']:10.2f}"
            f"{row['cold_memory'] / 1e9:8.1f}{row['warm_memory'] / 1e9:8.1f}"
        )
    return "\n".join(lines)
