"""How fast this is here, beside its peers and its bounds: python -m asc.benchmark prints a table and writes JSON."""

import argparse
import json
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from asc.benchmark import growth, ours, peers
from asc.benchmark.contest import Contestant, contest
from asc.benchmark.repeated import TRAIN, write_repeated
from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, check_number

PRODUCT = 2048  # rows of the matrices by whose product the speed of arithmetic is measured


@dataclass
class Row:
    """A line of the table: seconds of each round for so many clips.

    Attributes:
        what: was measured.
        clips: of a round.
        seconds: of ours.
        peer, peer_seconds: the name and seconds of what a user would otherwise pick, where it is installed.
        bound, bound_seconds: what ours cannot be faster than.
        memory: bytes that ours had at most.
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
        """The others' time over ours, round by round."""
        return [other / own for other, own in zip(others, self.seconds, strict=True)]


class Bench:
    """The measurements of one machine.

    Args:
        device: "cpu" or "cuda"; peers run on the CPU alone.
        threads: of ours and the peers, but for the 8-bit network, which gets one.
        batch: clips of a training step and of an inference.
        rounds: that count.
    """

    def __init__(self, device: str, threads: int, batch: int, rounds: int):
        self.batch, self.rounds = batch, rounds
        self.place: dict[str, Any] = {"device": device, "threads": threads}
        self.macs = ours.classifier().complexity().macs
        self.keras = device == "cpu" and peers.has("tensorflow") and peers.has("tf_keras")

    def rows(
        self, clips: int, ours: dict[str, Contestant], peer: Contestant | None, bound: Contestant, scale: float = 1
    ) -> list[Row]:
        """Measure these together, each of so many clips; their work is `scale` times the bound's."""
        timings = contest([*ours.values(), *([peer] if peer else []), bound], self.rounds)
        least = [scale * seconds for seconds in timings[bound.name].seconds]
        others = timings[peer.name].seconds if peer else []
        rows = []
        for what, own in ours.items():
            timing = timings[own.name]
            rows.append(
                Row(what, clips, timing.seconds, timing.memory, peer.name if peer else "", others, bound.name, least)
            )
        return rows

    def products(self, place: dict[str, Any]) -> Contestant:
        """The bound of arithmetic."""
        return Contestant("matrix products", ours.products, {**place, "size": PRODUCT})

    def frontend(self) -> list[Row]:
        """Features of 10 s at 44.1 kHz."""
        clips = 10
        settings = {**self.place, "clips": clips}
        own = {"frontend, 10 s": Contestant("frontend", ours.frontend, settings)}
        peer = Contestant("gammatone", peers.gammatone, {"clips": clips}) if peers.has("gammatone") else None
        return self.rows(clips, own, peer, Contestant("its Fourier transforms", ours.fourier, settings))

    def training(self) -> list[Row]:
        """Training steps of the report's network."""
        kinds: dict[str, dict[str, Any]] = {"training": {}}
        if has_bfloat16(self.place["device"]):
            kinds["training, bfloat16"] = {"precision": "bf16"}
        if self.place["device"] == "cuda":
            kinds["training, bfloat16, compiled"] = {"precision": "bf16", "compiled": True}
        own = {
            f"{what}, batch {self.batch}": Contestant(what, ours.training, {**self.place, **kind, "batch": self.batch})
            for what, kind in kinds.items()
        }
        settings = {"threads": self.place["threads"], "batch": self.batch}
        peer = Contestant("Keras", peers.keras_training, settings) if self.keras else None
        products = 3 * self.macs * self.batch / PRODUCT**3  # forward, and the gradients of inputs and of weights
        return self.rows(self.batch, own, peer, self.products(self.place), products)

    def inference(self) -> list[Row]:
        """Logits of a batch."""
        settings = {"threads": self.place["threads"], "batch": self.batch}
        own = Contestant("inference", ours.inference, {**self.place, "batch": self.batch})
        peer = Contestant("Keras", peers.keras_inference, settings) if self.keras else None
        products = self.macs * self.batch / PRODUCT**3
        return self.rows(self.batch, {f"inference, batch {self.batch}": own}, peer, self.products(self.place), products)

    def epoch(self) -> list[Row]:
        """An epoch of train.py with the cache warm, beside its bare steps in the same process."""
        rows = []
        for name, clips in (("table3_cnn", 2 * self.batch), ("small_data", 320)):
            with (
                tempfile.TemporaryDirectory() as folder,
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
            ):
                root = write_repeated(Path(folder) / "data", round(clips / TRAIN))
                words = [f"experiment={name}", "data=dcase", f"data.root={root}", f"data.cache_dir={folder}/cache"]
                words.append(f"run_dir={folder}/run")
                whole, bare = pool.submit(ours.epochs, **self.place, words=words, rounds=self.rounds).result()
                rows.append(Row(f"epoch, {name}", clips, whole, None, "", [], "its bare steps", bare))
        return rows

    def integers(self) -> list[Row]:
        """The 8-bit network on one clip and one thread, by the engines there are."""
        one = {"threads": 1}
        engines = {"8 bits, 1 thread, PyTorch": Contestant("PyTorch", ours.pytorch_integers, one)}
        if peers.has("onnxruntime"):
            engines["8 bits, 1 thread, ONNX Runtime"] = Contestant("ONNX Runtime", ours.onnx_integers, one)
        peer = Contestant("TensorFlow Lite", peers.tflite_integers, one) if self.keras else None
        return self.rows(1, engines, peer, self.products({"device": "cpu", **one}), self.macs / PRODUCT**3)


def has_bfloat16(device: str) -> bool:
    """Whether it computes in bfloat16 rather than emulate it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()


def timing_table(rows: Sequence[Row]) -> str:
    """How fast, from the slowest to the fastest round; then the ratios, which hold on a busy machine too."""
    cells = [["", "clips/s", "", "ms a clip", "times the peer", "of the bound"]]
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


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "frontend": Bench.frontend,
    "training": Bench.training,
    "inference": Bench.inference,
    "epoch": Bench.epoch,
    "integers": Bench.integers,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.benchmark",
        description="Time this package beside its peers (pip install -e '.[peers]') and its bounds.",
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all of these where none is given; or growth")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", default=2, type=int, help="default: 2")
    parser.add_argument("--batch", default=100, type=int, help="clips of a training step, default: 100")
    parser.add_argument("--rounds", default=5, type=int, help="that count, default: 5")
    parser.add_argument("--json", default=Path("benchmark.json"), type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    silence_libraries()
    with exit_on_input_error():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        InputError: an argument will not do.
    """
    for part in arguments.part:
        if part not in (*PARTS, "growth"):
            raise InputError(f"{part} is not known: choose {', '.join(PARTS)} or growth")
    for name in ("threads", "batch", "rounds"):
        check_number(f"--{name}", getattr(arguments, name), int, 1)
    if arguments.device not in ("cpu", "cuda") or (arguments.device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device={arguments.device} is not on this machine: give cpu, or cuda where there is a GPU")
    if not Path("conf/train.yaml").exists():
        raise InputError("the benchmark runs train.py: start it in the folder that holds train.py and conf")
    if not arguments.json.parent.is_dir():
        raise InputError(f"--json={arguments.json} cannot be written: its directory is not there")
    facts = {"processor": processor(), "torch": torch.__version__, **vars(arguments), "json": str(arguments.json)}
    print(f"{facts['processor']}, {arguments.threads} threads, torch {torch.__version__}\n", flush=True)
    results: dict[str, Any] = {}
    parts = [part for part in PARTS if part in arguments.part or not arguments.part]
    if parts:
        bench = Bench(arguments.device, arguments.threads, arguments.batch, arguments.rounds)
        rows = []
        for part in parts:
            print(f"measuring: {part}", flush=True)
            rows += PARTS[part](bench)
        print("\n" + timing_table(rows) + "\n")
        results["rows"] = [asdict(row) for row in rows]
    if "growth" in arguments.part:
        results["growth"] = growth.growth()
        print("\n" + growth.growth_table(results["growth"]) + "\n")
    arguments.json.write_text(json.dumps({**facts, **results}, indent=2) + "\n")
    print(f"figures  {arguments.json}")


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
