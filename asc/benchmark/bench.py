"""What the benchmark measures: this package, its peers and its bounds, side by side."""

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from asc.benchmark import ours, peers
from asc.benchmark.contest import Contestant, contest
from asc.benchmark.products import SIZE, products
from asc.benchmark.repeated import TRAIN, write_repeated


@dataclass
class Row:
    """A row of the table.

    Attributes:
        what: what was measured.
        clips: processed in each round.
        seconds: of each round, for this package.
        peer, peer_seconds: name and seconds of the alternative, if it is installed.
        bound, bound_seconds: name and seconds of the lower bound on `seconds`.
        memory: peak memory of this package, bytes; on the GPU, if it computes there.
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
        self.batch, self.rounds = batch, rounds
        self.resources: dict[str, Any] = {"device": device, "threads": threads}
        self.macs = ours.classifier().complexity().macs
        self.keras = device == "cpu" and peers.has("tensorflow") and peers.has("tf_keras")

    def rows(
        self, clips: int, own: dict[str, Contestant], peer: Contestant | None, bound: Contestant, scale: float = 1
    ) -> list[Row]:
        """Time contestants that process `clips` each; their arithmetic is `scale` times that of `bound`."""
        timings = contest([*own.values(), *([peer] if peer else []), bound], self.rounds)
        peer_columns = (peer.name, timings[peer.name].seconds) if peer else ("", [])
        bound_columns = (bound.name, [scale * seconds for seconds in timings[bound.name].seconds])
        timed = [(what, timings[contestant.name]) for what, contestant in own.items()]
        return [Row(what, clips, one.seconds, one.memory, *peer_columns, *bound_columns) for what, one in timed]

    def products(self, resources: dict[str, Any]) -> Contestant:
        """The bound on arithmetic."""
        return Contestant("matrix products", products, {**resources, "size": SIZE})

    def frontend(self) -> list[Row]:
        """Features of 10 s at 44.1 kHz."""
        clips = 10 if self.resources["device"] == "cpu" else self.batch  # fewer do not fill a GPU
        settings = {**self.resources, "clips": clips}
        own = {"frontend, 10 s": Contestant("frontend", ours.frontend, settings)}
        peer = Contestant("gammatone", peers.gammatone, {"clips": clips}) if peers.has("gammatone") else None
        return self.rows(clips, own, peer, Contestant("its Fourier transforms", ours.fourier, settings))

    def training(self) -> list[Row]:
        """Training steps of the report's network."""
        kinds: dict[str, dict[str, Any]] = {"training": {}}
        if has_bfloat16(self.resources["device"]):
            kinds["training, bfloat16"] = {"precision": "bf16"}
        if self.resources["device"] == "cuda":
            kinds["training, bfloat16, compiled"] = {"precision": "bf16", "compiled": True}
        base = {**self.resources, "batch": self.batch}
        own = {
            f"{what}, batch {self.batch}": Contestant(what, ours.training, {**base, **kind})
            for what, kind in kinds.items()
        }
        settings = {"threads": self.resources["threads"], "batch": self.batch}
        peer = Contestant("Keras", peers.keras_training, settings) if self.keras else None
        scale = 3 * self.macs * self.batch / SIZE**3  # forward, gradients of inputs, gradients of weights
        return self.rows(self.batch, own, peer, self.products(self.resources), scale)

    def inference(self) -> list[Row]:
        """Logits of a batch."""
        settings = {"threads": self.resources["threads"], "batch": self.batch}
        own = Contestant("inference", ours.inference, {**self.resources, "batch": self.batch})
        peer = Contestant("Keras", peers.keras_inference, settings) if self.keras else None
        scale = self.macs * self.batch / SIZE**3
        what = f"inference, batch {self.batch}"
        return self.rows(self.batch, {what: own}, peer, self.products(self.resources), scale)

    def epoch(self) -> list[Row]:
        """An epoch of train.py on cached features, against its bare training steps in the same process."""
        rows = []
        for name, clips in (("table3_cnn", 2 * self.batch), ("small_data", 320)):
            with (
                tempfile.TemporaryDirectory() as folder,
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
            ):
                root = write_repeated(Path(folder) / "data", round(clips / TRAIN))
                overrides = [f"experiment={name}", "data=dcase", f"data.root={root}", f"data.cache_dir={folder}/cache"]
                overrides.append(f"run_dir={folder}/run")
                job = pool.submit(ours.epochs, **self.resources, overrides=overrides, rounds=self.rounds)
                whole, bare = job.result()
                rows.append(Row(f"epoch, {name}", clips, whole, None, "", [], "its bare steps", bare))
        return rows

    def waiting(self) -> list[Row]:
        """Steps on few clips, where threads wait for each other often: asleep, as asc sets it, or in a loop."""
        batch = 16
        settings = {"device": "cpu", "threads": self.resources["threads"], "batch": batch}
        own = Contestant("asleep", ours.training, settings, {"OMP_WAIT_POLICY": "PASSIVE"})
        peer = Contestant("threads that spin", ours.training, settings, {"GOMP_SPINCOUNT": "300000"})
        scale = 3 * self.macs * batch / SIZE**3
        bound = self.products({**self.resources, "device": "cpu"})
        return self.rows(batch, {f"training, batch {batch}": own}, peer, bound, scale)

    def integers(self) -> list[Row]:
        """The 8-bit network on one clip and one thread, on each available engine."""
        one = {"threads": 1}
        engines = {"8 bits, 1 thread, PyTorch": Contestant("PyTorch", ours.pytorch_integers, one)}
        if peers.has("onnxruntime"):
            engines["8 bits, 1 thread, ONNX Runtime"] = Contestant("ONNX Runtime", ours.onnx_integers, one)
        peer = Contestant("TensorFlow Lite", peers.tflite_integers, one) if self.keras else None
        return self.rows(1, engines, peer, self.products({"device": "cpu", **one}), self.macs / SIZE**3)


def has_bfloat16(device: str) -> bool:
    """Whether the device supports bfloat16 natively."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()


def timing_table(rows: Sequence[Row]) -> str:
    """Speed over the rounds, then ratios within each round, which background load does not distort."""
    cells = [["", "clips/s", "", "ms/clip", "speed-up over", "fraction of bound"]]
    for row in rows:
        low, mid, high = (row.clips / pick(row.seconds) for pick in (max, median, min))
        peer = f"{median(row.ratios(row.peer_seconds)):.2f} {row.peer}" if row.peer else ""
        bound = f"{median(row.ratios(row.bound_seconds)):.2f} {row.bound}" if row.bound else ""
        cells.append([row.what, f"{mid:.1f}", f"{low:.1f} to {high:.1f}", f"{1000 / mid:.2f}", peer, bound])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        numbers = zip(line[1:4], widths[1:4], strict=True)
        right = [cell.rjust(width) for cell, width in numbers]
        lines.append("  ".join([line[0].ljust(widths[0]), *right, line[4].ljust(widths[4]), line[5]]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
