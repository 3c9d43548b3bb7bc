"""The report's recipe at the size of its dataset, by the command a user would type: 100 epochs of TAU 2020 3Class."""

import math
import tempfile
from pathlib import Path
from statistics import median

from asc.benchmark import ours
from asc.benchmark.contest import Contestant, contest
from asc.benchmark.growth import SIZES, run_train
from asc.benchmark.products import SIZE, products
from asc.benchmark.repeated import TRAIN, write_repeated

EPOCHS = 100
KINDS = {  # of training on a GPU, after the plain command; the first run computes the features
    "float32": ["trainer.precision=32-true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "bf16-mixed, compiled": ["trainer.precision=bf16-mixed", "compile=reduce-overhead"],
}


def table3(device: str, threads: int, clips: int = SIZES[-1], epochs: int = EPOCHS) -> list[dict]:
    """A row for each kind of training; on a CPU the first alone.

    Args:
        device: cpu or cuda.
        threads: of the matrix products, on a CPU.
        clips: of the dataset, those for the test included.
        epochs: of training.
    """
    product = Contestant("products", products, {"device": device, "threads": threads, "size": SIZE})
    seconds_per_mac = median(contest([product], 5)["products"].seconds) / SIZE**3
    heard = math.ceil(TRAIN * clips) * epochs
    arithmetic = 3 * ours.classifier().complexity().macs * heard * seconds_per_mac  # forward, and two gradients
    recipe = ["experiment=table3_cnn", f"trainer.max_epochs={epochs}", f"trainer.accelerator={device}"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = write_repeated(Path(folder) / "data", clips)
        for kind, settings in KINDS.items() if device == "cuda" else [*KINDS.items()][:1]:
            print(f"measuring: {epochs} epochs of {clips:,} clips, {kind}", flush=True)
            moments = run_train(root, Path(folder), kind.replace(", ", "-"), *recipe, *settings)
            training = moments["last"] - moments["first"]
            rows.append(
                {
                    "kind": kind,
                    "set_up_seconds": moments["first"] - moments["start"],
                    "training_seconds": training,
                    "test_seconds": moments["end"] - moments["last"],
                    "clips_per_second": heard / training,
                    "arithmetic": arithmetic / training,
                    "memory": moments["memory"],
                    "gpu_memory": moments["gpu_memory"],
                }
            )
    return rows


def table(rows: list[dict]) -> str:
    """Table of the rows; arithmetic: the time of as many multiply-accumulates in float32 products, over training's."""
    lines = [
        "                             seconds                                         peak memory, GB",
        "                      set-up  training   test    clips/s   arithmetic    GPU    process",
        "-" * 88,
    ]
    for row in rows:
        gpu, process = ("-" if row[name] is None else f"{row[name] / 1e9:.1f}" for name in ("gpu_memory", "memory"))
        lines.append(
            f"{row['kind']:20}{row['set_up_seconds']:8.1f}{row['training_seconds']:10.1f}{row['test_seconds']:7.1f}"
            f"{row['clips_per_second']:11.1f}{100 * row['arithmetic']:11.1f} %{gpu:>7}{process:>11}"
        )
    return "\n".join(lines)
