"""Runs of train.py as a user starts them: times, memory and open files of each epoch."""

import json
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from tabulate import tabulate

from asc.benchmark.ours import step
from asc.errors import InputError
from asc.machine import peak_gpu_memory, peak_memory

SIZES = (200, 2_000, 13_370)  # clips; the last is the size of TAU Urban Acoustic Scenes 2020 3Class
TRAIN = 9185 / 13370  # fraction of training clips in it
LABELS = ("indoor", "outdoor", "transportation")
RATE, SECONDS = 48000, 10
TABLE3 = {  # kinds of training on a GPU; the first run computes the features
    "float32": ["trainer.precision=32-true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "bf16-mixed, compiled": ["trainer.precision=bf16-mixed", "compile=reduce-overhead"],
}
SMALL = ["data.clip_seconds=1", "data.val_fraction=0.25", "data.batch_size=8", "net.filters=[8,8,8,8]"]


class ResourceMonitor(pl.Callback):
    """Write moments of a training, on the system's monotonic clock, and the resources after each epoch to a JSON file.

    Args:
        file: where to write.
        bare_steps: also train a copy of the network on each epoch's augmented batches, without all that surrounds a
            training step, for the epoch's lower bound.
    """

    def __init__(self, file: str, bare_steps: bool = False):
        self.file, self.bare_steps = Path(file), bare_steps
        self.rows: list[dict[str, float | None]] = []
        self.batches: list[list[torch.Tensor]] = []
        self.first: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        self.finish_epoch(model)
        self.rows.append({"start": time.monotonic(), "bare_seconds": 0.0})

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        self.first = self.first or time.monotonic()
        if self.bare_steps:
            self.batches.append([tensor.float() if tensor.is_floating_point() else tensor for tensor in batch])

    def on_train_end(self, trainer: pl.Trainer, model: Any) -> None:
        self.finish_epoch(model)
        moments = {"first": self.first, "last": time.monotonic()}
        peaks = {"memory": peak_memory(), "gpu_memory": peak_gpu_memory()}
        self.file.write_text(json.dumps({**moments, **peaks, "epochs": self.rows}))

    def finish_epoch(self, model: Any) -> None:
        """Complete the row of an epoch when its checkpoints are written, then take its steps again."""
        torch.get_device_module(model.device).synchronize()
        if not self.rows:
            return
        end = time.monotonic()
        self.rows[-1] |= {"seconds": end - (self.rows[-1]["start"] or 0.0), **resources()}
        if self.batches:
            bare_step = step(deepcopy(model).train(), "32")
            start = time.monotonic()
            for x, target in self.batches:
                bare_step(x, target)
            torch.get_device_module(model.device).synchronize()
            self.rows[-1]["bare_seconds"] = time.monotonic() - start
            self.batches.clear()


def resources() -> dict[str, int | None]:
    """Resident memory of this process in bytes, and its open files; None where /proc does not tell them."""
    if not Path("/proc/self/statm").exists():
        return {"resident": None, "files": None}
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"resident": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd"))}


def train_run(name: str, root: Path, *overrides: str, bare_steps: bool = False, threads: int = 0) -> dict[str, Any]:
    """Run train.py in a new process, one epoch unless `overrides` say otherwise.

    Args:
        name: of the run in the table.
        root: dataset in the TAU layout; its features are cached there as well.
        overrides: settings of train.py.
        bare_steps: also time each epoch's bare steps.
        threads: of PyTorch; 0: its default.

    Returns:
        Seconds until the first step, of training, and of test and export; peaks and resources in bytes.

    Raises:
        InputError: train.py failed.
    """
    print(f"measuring: train.py, {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            "data=dcase",
            f"data.root={root}",
            f"data.cache_dir={root}/cache",
            "trainer.max_epochs=1",
            f"hydra.run.dir={folder}/run",
            "+callbacks.monitor._target_=asc.benchmark.train_runs.ResourceMonitor",
            f"+callbacks.monitor.file={folder}/monitor.json",
            f"+callbacks.monitor.bare_steps={bare_steps}",
            *overrides,
        ]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        start = time.monotonic()
        done = subprocess.run([sys.executable, "train.py", *settings], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"train.py failed: {done.stderr.strip().splitlines()[-1]}")
        end = time.monotonic()
        found = json.loads(Path(folder, "monitor.json").read_text())
    return {
        "run": name,
        "set_up_seconds": found["first"] - start,
        "training_seconds": found["last"] - found["first"],
        "test_seconds": end - found["last"],
        **{key: found[key] for key in ("memory", "gpu_memory", "epochs")},
    }


def growth() -> list[dict]:
    """One epoch of train.py for each of SIZES, with a cold and a warm cache of features."""
    rows = []
    for clips in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = write_repeated(Path(folder), clips)
            rows += [train_run(f"{clips:,} clips, {cache} cache", root) for cache in ("cold", "warm")]
    return rows


def table3(device: str, clips: int = SIZES[-1], epochs: int = 100) -> list[dict]:
    """The report's recipe at the size of its dataset: a row for each kind of training, on a CPU the first alone."""
    recipe = ["experiment=table3_cnn", f"trainer.max_epochs={epochs}", f"trainer.accelerator={device}"]
    kinds = TABLE3 if device == "cuda" else {"float32": TABLE3["float32"]}
    with tempfile.TemporaryDirectory() as folder:
        root = write_repeated(Path(folder), clips)
        return [train_run(f"table 3, {kind}", root, *recipe, *settings) for kind, settings in kinds.items()]


def soak_test(epochs: int = 1_000) -> list[dict]:
    """Whether a long run needs ever more memory or files: many epochs on 24 clips of a second."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_repeated(Path(folder), 24, recordings=24)
        return [train_run(f"{epochs:,} epochs", root, f"trainer.max_epochs={epochs}", *SMALL)]


def runs_table(rows: list[dict]) -> str:
    """Table of runs; growth: from the tenth epoch to the last."""
    cells = []
    for row in rows:
        early, late = row["epochs"][:10][-1], row["epochs"][-1]
        grown = [None if late[key] is None else late[key] - early[key] for key in ("resident", "files")]
        megabytes = [value and value / 1e6 for value in (row["memory"], row["gpu_memory"], grown[0])]
        seconds = [row[f"{part}_seconds"] for part in ("set_up", "training", "test")]
        cells.append([row["run"], *seconds, median(epoch["seconds"] for epoch in row["epochs"]), *megabytes, grown[1]])
    headers = ["", "set-up, s", "training, s", "test, s", "epoch, s", "peak, MB", "GPU, MB", "growth, MB", "files"]
    return tabulate(cells, headers, floatfmt=".1f", missingval="-")


def write_repeated(root: Path, clips: int, recordings: int = 6) -> Path:
    """Write a dataset in the TAU layout, made of a few recordings of noise.

    Clips are symbolic links to the recordings, 48 kHz, stereo and 24 bits as in TAU. A recording is a location; the
    first half of them is for training. Their number is a multiple of 6.
    """
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rng = np.random.default_rng(0)
    for number in range(recordings):
        wave = 0.05 * rng.standard_normal((RATE * SECONDS, 2))
        soundfile.write(root / f"recording-{number}.wav", wave, RATE, subtype="PCM_24")
    meta, train, test = (["filename\tscene_label" + more] for more in ("\tidentifier", "", ""))
    for number in range(clips):
        label, is_train = LABELS[number % len(LABELS)], number < TRAIN * clips
        location = number % (recordings // 2) + (0 if is_train else recordings // 2)
        name = f"audio/{label}-oslo-{location}-{number}-a.wav"
        (root / name).symlink_to(root / f"recording-{location}.wav")
        meta.append(f"{name}\t{label}\toslo-{location}")
        (train if is_train else test).append(f"{name}\t{label}")
    (root / "meta.csv").write_text("\n".join(meta) + "\n")
    (root / "evaluation_setup/fold1_train.csv").write_text("\n".join(train) + "\n")
    (root / "evaluation_setup/fold1_evaluate.csv").write_text("\n".join(test) + "\n")
    return root
