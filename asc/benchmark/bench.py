"""Compare this package with its peers and bounds, each in a process of its own, and epochs with their bare steps."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from tabulate import tabulate

from asc.benchmark import candidates
from asc.benchmark.candidates import CLASSES, FILES, MATRIX, RATE, SECONDS, pytorch, step
from asc.errors import InputError
from asc.machine import peak_gpu_memory, peak_memory
from asc.timing import median_seconds

PRECISIONS = {"": torch.float32, ", bfloat16": torch.bfloat16}
Candidates = Mapping[str, Callable[[], Callable[[], object]]]  # by their names in the table


def measure(part: str, device: str, threads: int, batch: int, rounds: int) -> list[dict]:
    """The rows of a part of the benchmark; peers run on the CPU only, 8-bit networks on one thread.

    Raises:
        InputError: train.py failed.
    """
    keras = device == "cpu" and find_spec("tf_keras")
    products = {"matrix products": partial(pytorch, threads, candidates.products, device)}
    scale = candidates.classifier().complexity().macs / MATRIX**3  # products for a clip
    peer: Candidates
    match part:
        case "frontend":
            clips = 10 if device == "cpu" else batch  # fewer do not fill a GPU
            own = {"frontend, 10 s": partial(pytorch, threads, candidates.frontend, device, clips)}
            peer = {"gammatone": partial(candidates.gammatone, clips)} if find_spec("gammatone") else {}
            bound = {"its Fourier transforms": partial(pytorch, threads, candidates.fourier, device, clips)}
            return compare(rounds, clips, own, peer, bound)
        case "training":
            own = {
                f"training, batch {batch}{note}": partial(pytorch, threads, candidates.training, device, batch, dtype)
                for note, dtype in PRECISIONS.items()
            }
            peer = {"Keras": partial(candidates.keras_training, threads, batch)} if keras else {}
            # forward, gradients of inputs, gradients of weights
            return compare(rounds, batch, own, peer, products, 3 * scale * batch)
        case "inference":
            own = {
                f"inference, batch {batch}{note}": partial(pytorch, threads, candidates.inference, device, batch, dtype)
                for note, dtype in PRECISIONS.items()
            }
            peer = {"Keras": partial(candidates.keras_inference, threads, batch)} if keras else {}
            return compare(rounds, batch, own, peer, products, scale * batch)
        case "integers":
            engines = {"PyTorch": candidates.pytorch_integers, "ONNX Runtime": candidates.onnx_integers}
            own = {f"8 bits, 1 thread, {engine}": partial(pytorch, 1, make) for engine, make in engines.items()}
            peer = {"TensorFlow Lite": candidates.tflite_integers} if keras else {}
            bound = {"matrix products": partial(pytorch, 1, candidates.products, "cpu")}
            return compare(rounds, 1, own, peer, bound, scale)
        case "prediction":
            makers = {"a checkpoint": candidates.integers, "ONNX": candidates.onnx_classifier}
            own = {
                f"files, from {name}": partial(pytorch, 1, candidates.prediction, threads, make)
                for name, make in makers.items()
            }
            peer = {"librosa": partial(candidates.librosa_prediction, threads)} if find_spec("librosa") else {}
            steps: Candidates = {
                "decoding, 1 thread": candidates.decoding,
                "resampling, 1 thread": candidates.resampling,
                "frontend, 1 thread, ONNX Runtime": candidates.onnx_frontend,
            }
            return compare(rounds, FILES, own, peer, {}) + compare(rounds, 1, steps, {}, {})
    settings = (f"trainer.accelerator={device}", f"trainer.max_epochs={1 + rounds}")  # the first epoch warms up
    return [
        {"what": f"epoch, {name}", "clips": clips, **time_epochs(clips, threads, f"experiment={name}", *settings)}
        for name, clips in (("table3_cnn", 2 * batch), ("small_data", 320))
    ]


def compare(
    rounds: int, clips: int, own: Candidates, peer: Candidates, bound: Candidates, scale: float = 1
) -> list[dict]:
    """Time candidates in turn, so that background load affects all alike, after a round to warm up.

    A call of each processes as many clips, but `scale` calls of the bound are as much work.

    Returns:
        A row for each of our own: `what`, `clips`, `seconds` of each round, peak `memory` in bytes (of the GPU, if it
        computes there), name and seconds of the alternative (`peer`, `peer_seconds`) and of the bound, if it has them.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        processes = {}
        for name, make in {**own, **peer, **bound}.items():  # all are set up before the first is timed
            processes[name] = stack.enter_context(ProcessPoolExecutor(1, spawn))
            processes[name].submit(set_up, make).result()
        turns = [[process.submit(timed).result() for process in processes.values()] for _ in range(1 + rounds)]
    seconds = {name: [turn[index][0] for turn in turns[1:]] for index, name in enumerate(processes)}
    peer_name, bound_name = "".join(peer), "".join(bound)
    others = {"peer": peer_name, "peer_seconds": seconds.get(peer_name, [])}
    others |= {"bound": bound_name, "bound_seconds": [scale * value for value in seconds.get(bound_name, [])]}
    return [
        {"what": name, "clips": clips, "seconds": seconds[name], "memory": turns[-1][index][1], **others}
        for index, name in enumerate(own)
    ]


CALL: list[Callable[[], object]] = []  # in a candidate's process: the function to time


def set_up(make: Callable[[], Callable[[], object]]) -> None:
    """In a candidate's process: make the function to time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow logs there; exceptions are sent back
    CALL.append(make())


def timed() -> tuple[float, int | None]:
    """In a candidate's process: median seconds of a call, and peak memory in bytes, of the GPU if it was used."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else torch.cpu.synchronize
    seconds = median_seconds(lambda: (CALL[0](), wait()), torch.get_num_threads())
    return seconds, peak_gpu_memory() or peak_memory()


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
        is_bfloat16 = model.trainer.precision.startswith("bf16")
        bare_step = step(deepcopy(model).train(), torch.bfloat16 if is_bfloat16 else torch.float32)
        start = time.perf_counter()
        for x, target in self.batches:
            bare_step(x, target)
        wait()
        self.bare_seconds.append(time.perf_counter() - start)
        self.batches.clear()


def time_epochs(clips: int, threads: int, *overrides: str) -> dict[str, Any]:
    """What `EpochTimer` writes in a run of train.py on noise."""
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder, "data"), clips)
        settings = [
            "data=folder",
            f"data.root={folder}/data",
            f"data.clip_seconds={SECONDS}",  # of repeated noise
            f"data.cache_dir={folder}/cache",
            f"hydra.run.dir={folder}/run",
            "+callbacks.timer._target_=asc.benchmark.bench.EpochTimer",
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


def timing_table(rows: Sequence[dict]) -> str:
    """Speed over the rounds, then ratios within each round, which background load does not distort."""
    cells = []
    for row in rows:
        low, mid, high = (row["clips"] / pick(row["seconds"]) for pick in (max, median, min))
        speed = [row["what"], f"{mid:.1f}", f"{low:.1f} to {high:.1f}", f"{1000 / mid:.2f}"]
        cells.append([*speed, ratio(row, "peer"), ratio(row, "bound")])
    headers = ["", "clips/s", "", "ms/clip", "speed-up over", "fraction of bound"]
    return tabulate(cells, headers, disable_numparse=True, colalign=["left", *3 * ["right"], "left", "left"])


def ratio(row: dict, other: str) -> str:
    """How many times as long the other takes, the median over the rounds, and its name."""
    ratios = [theirs / ours for theirs, ours in zip(row[f"{other}_seconds"], row["seconds"], strict=False)]
    return f"{median(ratios):.2f} {row[other]}" if ratios else ""
