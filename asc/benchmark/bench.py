"""Compare this package with its peers and bounds, in turns, each in a process of its own."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch
from tabulate import tabulate

from asc.benchmark import candidates
from asc.benchmark.candidates import MATRIX, pytorch
from asc.benchmark.epochs import time_epochs
from asc.machine import peak_gpu_memory, peak_memory
from asc.timing import median_seconds

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
            own = {f"training, batch {batch}": partial(pytorch, threads, candidates.training, device, batch)}
            peer = {"Keras": partial(candidates.keras_training, threads, batch)} if keras else {}
            # forward, gradients of inputs, gradients of weights
            return compare(rounds, batch, own, peer, products, 3 * scale * batch)
        case "inference":
            own = {f"inference, batch {batch}": partial(pytorch, threads, candidates.inference, device, batch)}
            peer = {"Keras": partial(candidates.keras_inference, threads, batch)} if keras else {}
            return compare(rounds, batch, own, peer, products, scale * batch)
        case "integers":
            engines = {"PyTorch": candidates.pytorch_integers, "ONNX Runtime": candidates.onnx_integers}
            own = {f"8 bits, 1 thread, {engine}": partial(pytorch, 1, make) for engine, make in engines.items()}
            peer = {"TensorFlow Lite": candidates.tflite_integers} if keras else {}
            products = {"matrix products": partial(pytorch, 1, candidates.products, "cpu")}
            return compare(rounds, 1, own, peer, products, scale)
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
        computes there), name and seconds of the alternative (`peer`, `peer_seconds`) and of the bound.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        processes = {}
        for name, make in {**own, **peer, **bound}.items():  # all are set up before the first is timed
            processes[name] = stack.enter_context(ProcessPoolExecutor(1, spawn))
            processes[name].submit(set_up, make).result()
        rounds_seconds = [[process.submit(timed).result() for process in processes.values()] for _ in range(1 + rounds)]
        memory = [processes[name].submit(peak).result() for name in own]
    seconds = dict(zip(processes, map(list, zip(*rounds_seconds[1:], strict=True)), strict=True))
    (bound_name,), peer_name = bound, "".join(peer)
    others = {"peer": peer_name, "peer_seconds": seconds.get(peer_name, [])}
    others |= {"bound": bound_name, "bound_seconds": [scale * value for value in seconds[bound_name]]}
    return [
        {"what": name, "clips": clips, "seconds": seconds[name], "memory": peak_bytes, **others}
        for name, peak_bytes in zip(own, memory, strict=True)
    ]


CALL: list[Callable[[], object]] = []  # in a candidate's process: the function to time


def set_up(make: Callable[[], Callable[[], object]]) -> None:
    """In a candidate's process: make the function to time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow logs there; exceptions are sent back
    CALL.append(make())


def timed() -> float:
    """In a candidate's process: median seconds of a call."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else torch.cpu.synchronize
    return median_seconds(lambda: (CALL[0](), wait()), torch.get_num_threads())


def peak() -> int | None:
    """In a candidate's process: its peak memory in bytes, of the GPU if it was used."""
    return peak_gpu_memory() or peak_memory()


def timing_table(rows: Sequence[dict]) -> str:
    """Speed over the rounds, then ratios within each round, which background load does not distort."""
    cells = []
    for row in rows:
        low, mid, high = (row["clips"] / pick(row["seconds"]) for pick in (max, median, min))
        speed = [row["what"], f"{mid:.1f}", f"{low:.1f} to {high:.1f}", f"{1000 / mid:.2f}"]
        cells.append([*speed, ratio(row, "peer"), ratio(row, "bound")])
    headers = ["", "clips/s", "", "ms/clip", "speed-up over", "fraction of bound"]
    align = ("left", "right", "right", "right", "left", "left")
    return tabulate(cells, headers, disable_numparse=True, colalign=align)


def ratio(row: dict, other: str) -> str:
    """How many times as long the other takes, the median over the rounds, and its name."""
    ratios = [theirs / ours for theirs, ours in zip(row[f"{other}_seconds"], row["seconds"], strict=False)]
    return f"{median(ratios):.2f} {row[other]}" if ratios else ""
