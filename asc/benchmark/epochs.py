"""Epochs of train.py, as a user starts it, beside their bare training steps."""

import json
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch

from asc.benchmark.candidates import CLASSES, RATE, SECONDS, step
from asc.errors import InputError
from asc.machine import peak_gpu_memory, peak_memory


class EpochTimer(pl.Callback):
    """Write the seconds of each epoch but the first to a JSON file, as columns of the benchmark's table.

    The bound is a copy of the network trained on the epoch's augmented batches, without all that surrounds a step.
    """

    def __init__(self, file: str):
        self.file, self.start = Path(file), 0.0
        self.batches: list[list[torch.Tensor]] = []
        self.seconds: list[float] = []
        self.bare_seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        self.finish_epoch(model)
        self.start = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        self.batches.append([tensor.float() if tensor.is_floating_point() else tensor for tensor in batch])

    def on_train_end(self, trainer: pl.Trainer, model: Any) -> None:
        self.finish_epoch(model)
        row = {
            "seconds": self.seconds[1:],
            "memory": peak_gpu_memory() or peak_memory(),
            "peer": "",
            "peer_seconds": [],
        }
        row |= {"bound": "its bare steps", "bound_seconds": self.bare_seconds[1:]}
        self.file.write_text(json.dumps(row))

    def finish_epoch(self, model: Any) -> None:
        """Note the time of an epoch, whose checkpoints are written, then take its steps again."""
        wait = torch.get_device_module(model.device).synchronize
        wait()
        if not self.batches:
            return
        self.seconds.append(time.perf_counter() - self.start)
        bare_step = step(deepcopy(model).train())
        start = time.perf_counter()
        for x, target in self.batches:
            bare_step(x, target)
        wait()
        self.bare_seconds.append(time.perf_counter() - start)
        self.batches.clear()


def time_epochs(clips: int, threads: int, *overrides: str) -> dict[str, Any]:
    """What `EpochTimer` writes in a run of train.py on noise.

    Raises:
        InputError: train.py failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder, "data"), clips)
        settings = [
            "data=folder",
            f"data.root={folder}/data",
            f"data.clip_seconds={SECONDS}",  # of repeated noise
            f"data.cache_dir={folder}/cache",
            f"hydra.run.dir={folder}/run",
            "+callbacks.timer._target_=asc.benchmark.epochs.EpochTimer",
            f"+callbacks.timer.file={folder}/row.json",
        ]
        command = [sys.executable, "train.py", *overrides, *settings]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"train.py failed: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(Path(folder, "row.json").read_text())


def write_noise(root: Path, clips: int) -> None:
    """Write training clips and a test clip a class for data=folder, of one second."""
    rng = np.random.default_rng(0)
    for split, count in (("train", clips), ("test", CLASSES)):
        for number in range(count):
            folder = root / split / f"class-{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{number}.wav", 0.05 * rng.standard_normal(RATE), RATE)
