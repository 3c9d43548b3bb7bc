"""What the benchmark compares: this package, its peers and its bounds, side by side."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate

from asc.benchmark import ours, peers
from asc.benchmark.compare import Candidate, compare_timings
from asc.benchmark.train_runs import TRAIN, train_run, write_repeated


@dataclass
class Row:
    """A row of the table.

    Attributes:
        what: what was measured.
        clips: processed in each round.
        seconds: of each round, for this package.
        memory: peak memory of this package, bytes; on the GPU, if it computes there.
        peer, peer_seconds: name and seconds of the alternative, if it is installed.
        bound, bound_seconds: name and seconds of the lower bound on `seconds`.
    """

    what: str
    clips: int
    seconds: list[float]
    memory: int | None
    peer: str
    peer_seconds: list[float]
    bound: str
    bound_seconds: list[float]

    def ratios(self, others: list[float]) -> list[float]:
        """Speed-up over `others` in each round."""
        return [other / own for other, own in zip(others, self.seconds, strict=True)]


class Bench:
    """The measurements.

    Args:
        device: "cpu" or "cuda"; peers run on the CPU only.
        threads: for all but the 8-bit networks, which use one.
        batch: clips in a training or inference batch.
        rounds: number of timed rounds.
    """

    def __init__(self, device: str, threads: int, batch: int, rounds: int):
        self.device, self.threads, self.batch, self.rounds = device, threads, batch, rounds
        self.resources: dict[str, Any] = {"device": device, "threads": threads}
        self.macs = ours.classifier().complexity().macs
        self.keras = device == "cpu" and peers.has("tensorflow") and peers.has("tf_keras")

    def rows(
        self, clips: int, own: list[Candidate], peer: Candidate | None, bound: Candidate, scale: float = 1
    ) -> list[Row]:
        """Time candidates that process `clips` each; their arithmetic is `scale` times that of `bound`."""
        timings = compare_timings([*own, *([peer] if peer else []), bound], self.rounds)
        peer_columns = (peer.name, timings[peer.name].seconds) if peer else ("", [])
        bound_columns = (bound.name, [scale * seconds for seconds in timings[bound.name].seconds])
        found = [(one.name, timings[one.name]) for one in own]
        return [Row(what, clips, one.seconds, one.memory, *peer_columns, *bound_columns) for what, one in found]

    def frontend(self) -> list[Row]:
        """Features of 10 s at 44.1 kHz."""
        clips = 10 if self.device == "cpu" else self.batch  # fewer do not fill a GPU
        settings = {**self.resources, "clips": clips}
        own = [Candidate("frontend, 10 s", ours.frontend, settings)]
        peer = Candidate("gammatone", peers.gammatone, {"clips": clips}) if peers.has("gammatone") else None
        return self.rows(clips, own, peer, Candidate("its Fourier transforms", ours.fourier, settings))

    def training(self) -> list[Row]:
        """Training steps of the report's network."""
        kinds: dict[str, dict[str, Any]] = {"training": {}}
        if has_bfloat16(self.device):
            kinds["training, bfloat16"] = {"precision": "bf16"}
        if self.device == "cuda":
            kinds["training, bfloat16, compiled"] = {"precision": "bf16", "compiled": True}
        base = {**self.resources, "batch": self.batch}
        own = [Candidate(f"{what}, batch {self.batch}", ours.training, base | kind) for what, kind in kinds.items()]
        settings = {"threads": self.threads, "batch": self.batch}
        peer = Candidate("Keras", peers.keras_training, settings) if self.keras else None
        scale = 3 * self.macs * self.batch / ours.MATRIX**3  # forward, gradients of inputs, gradients of weights
        return self.rows(self.batch, own, peer, Candidate("matrix products", ours.products, self.resources), scale)

    def inference(self) -> list[Row]:
        """Logits of a batch."""
        own = [Candidate(f"inference, batch {self.batch}", ours.inference, {**self.resources, "batch": self.batch})]
        settings = {"threads": self.threads, "batch": self.batch}
        peer = Candidate("Keras", peers.keras_inference, settings) if self.keras else None
        scale = self.macs * self.batch / ours.MATRIX**3
        return self.rows(self.batch, own, peer, Candidate("matrix products", ours.products, self.resources), scale)

    def epoch(self) -> list[Row]:
        """Epochs of train.py on cached features, each against its bare training steps; the first one warms up."""
        rows = []
        for name, clips in (("table3_cnn", 2 * self.batch), ("small_data", 320)):
            epochs = f"trainer.max_epochs={1 + self.rounds}"
            with tempfile.TemporaryDirectory() as folder:
                root = write_repeated(Path(folder), round(clips / TRAIN))
                settings = [f"experiment={name}", f"trainer.accelerator={self.device}", epochs]
                run = train_run(name, root, *settings, bare_steps=True, threads=self.threads)
            whole, bare = ([epoch[key] for epoch in run["epochs"][1:]] for key in ("seconds", "bare_seconds"))
            rows.append(Row(f"epoch, {name}", clips, whole, run["memory"], "", [], "its bare steps", bare))
        return rows

    def waiting(self) -> list[Row]:
        """Steps on few clips, where threads wait for each other often: asleep, as asc sets it, or in a loop."""
        batch = 16
        resources = {"device": "cpu", "threads": self.threads}
        settings = {**resources, "batch": batch}
        own = [Candidate(f"training, batch {batch}", ours.training, settings, {"OMP_WAIT_POLICY": "PASSIVE"})]
        peer = Candidate("threads that spin", ours.training, settings, {"GOMP_SPINCOUNT": "300000"})
        scale = 3 * self.macs * batch / ours.MATRIX**3
        return self.rows(batch, own, peer, Candidate("matrix products", ours.products, resources), scale)

    def integers(self) -> list[Row]:
        """The 8-bit network on one clip and one thread, on each engine."""
        one = {"threads": 1}
        engines = {"PyTorch": ours.pytorch_integers, "ONNX Runtime": ours.onnx_integers}
        own = [Candidate(f"8 bits, 1 thread, {engine}", make, one) for engine, make in engines.items()]
        peer = Candidate("TensorFlow Lite", peers.tflite_integers, one) if self.keras else None
        bound = Candidate("matrix products", ours.products, {"device": "cpu", **one})
        return self.rows(1, own, peer, bound, self.macs / ours.MATRIX**3)


def has_bfloat16(device: str) -> bool:
    """Whether the device supports bfloat16 natively."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()


def timing_table(rows: Sequence[Row]) -> str:
    """Speed over the rounds, then ratios within each round, which background load does not distort."""
    cells = []
    for row in rows:
        low, mid, high = (row.clips / pick(row.seconds) for pick in (max, median, min))
        peer = f"{median(row.ratios(row.peer_seconds)):.2f} {row.peer}" if row.peer else ""
        bound = f"{median(row.ratios(row.bound_seconds)):.2f} {row.bound}"
        cells.append([row.what, f"{mid:.1f}", f"{low:.1f} to {high:.1f}", f"{1000 / mid:.2f}", peer, bound])
    headers = ["", "clips/s", "", "ms/clip", "speed-up over", "fraction of bound"]
    align = ("left", "right", "right", "right", "left", "left")
    return tabulate(cells, headers, disable_numparse=True, colalign=align)
