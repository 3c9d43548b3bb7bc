"""Whether time is linear in clips, and memory flat: train.py itself on 200, 2,000 and 13,370 of them."""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asc.benchmark.repeated import TRAIN, write_repeated
from asc.errors import InputError
from asc.training.memory import peak_memory

SIZES = (200, 2_000, 13_370)  # the last is TAU Urban Acoustic Scenes 2020 3Class


class Stopwatch(pl.Callback):
    """When the first step began and the last ended, and the memory until then, in a JSON file.

    Args:
        file: to write.
    """

    def __init__(self, file: str):
        self.file = Path(file)
        self.first = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        """Note the first."""
        self.first = self.first or time.time()

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Write."""
        self.file.write_text(json.dumps({"first": self.first, "last": time.time(), "memory": peak_memory()}))


def growth() -> list[dict[str, float]]:
    """A row for each size: clips, seconds of the set-ups (cold and warm), seconds of an epoch, bytes of memory."""
    rows = []
    for clips in SIZES:
        print(f"measuring: {clips:,} clips", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            root = write_repeated(Path(folder) / "data", clips)
            cold = timed(root, Path(folder), "cold")
            warm = timed(root, Path(folder), "warm")
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


def timed(root: Path, folder: Path, name: str) -> dict[str, float]:
    """One epoch of train.py, in a process of its own."""
    watch = folder / f"{name}.json"
    settings = [
        "data=dcase",
        f"data.root={root}",
        f"data.cache_dir={folder}/cache",
        "trainer.max_epochs=1",
        f"hydra.run.dir={folder}/{name}",
        "+callbacks.stopwatch._target_=asc.benchmark.growth.Stopwatch",
        f"+callbacks.stopwatch.file={watch}",
    ]
    start = time.time()
    done = subprocess.run([sys.executable, "train.py", *settings], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"train.py failed: {done.stderr.strip().splitlines()[-1]}")
    return {"start": start, **json.loads(watch.read_text())}


def growth_table(rows: list[dict[str, float]]) -> str:
    """The rows; an epoch's time is also that of each of its training clips."""
    lines = [
        "             seconds until the first step     an epoch,      ms a    GB of memory",
        "    clips      cold cache    warm cache       seconds      clip    cold    warm",
        "-" * 78,
    ]
    for row in rows:
        lines.append(
            f"{row['clips']:9,.0f}{row['cold_set_up_seconds']:16.1f}{row['warm_set_up_seconds']:14.1f}"
            f"{row['epoch_seconds']:14.1f}{1000 * row['epoch_seconds'] / row['training_clips']:10.2f}"
            f"{row['cold_memory'] / 1e9:8.1f}{row['warm_memory'] / 1e9:8.1f}"
        )
    return "\n".join(lines)
