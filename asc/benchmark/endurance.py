"""Whether a long run needs ever more: memory and open files of train.py over 1,000 epochs."""

import json
import os
import tempfile
from pathlib import Path

import pytorch_lightning as pl

from asc.benchmark.growth import run_train
from asc.benchmark.repeated import write_repeated
from asc.errors import InputError

EPOCHS = 1_000
REPORTED = (1, 10, 100, 250, 500, 750, 1_000)
SMALL = ["data.clip_seconds=1", "data.val_fraction=0.25", "data.batch_size=8", "net.filters=[8,8,8,8]"]


class Gauge(pl.Callback):
    """Writes a row for each epoch to a JSON file: epoch, resident memory in bytes, open files, threads. Linux only.

    Args:
        file: where to write.
    """

    def __init__(self, file: str):
        self.file = Path(file)
        self.rows: list[dict[str, int]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "memory": pages * os.sysconf("SC_PAGE_SIZE"),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
            }
        )

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.file.write_text(json.dumps(self.rows))


def endurance(epochs: int = EPOCHS) -> list[dict[str, int]]:
    """The rows of a run of so many epochs on 24 clips of a second.

    Raises:
        InputError: this is not Linux, or the run failed.
    """
    if not Path("/proc/self/statm").exists():
        raise InputError("endurance reads /proc/self, which only Linux has: run it there")
    print(f"measuring: {epochs:,} epochs", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root, file = write_repeated(Path(folder) / "data", 24, recordings=24), Path(folder) / "rows.json"
        gauge = ["+callbacks.gauge._target_=asc.benchmark.endurance.Gauge", f"+callbacks.gauge.file={file}"]
        run_train(root, Path(folder), "run", f"trainer.max_epochs={epochs}", *gauge, *SMALL)
        return json.loads(file.read_text())


def endurance_table(rows: list[dict[str, int]]) -> str:
    """Table of some of the rows, the last one included."""
    lines = ["   epoch   memory, MB   open files   threads", "-" * 44]
    for row in rows:
        if row["epoch"] in (*REPORTED, len(rows)):
            lines.append(f"{row['epoch']:8,}{row['memory'] / 1e6:13.1f}{row['files']:13}{row['threads']:10}")
    return "\n".join(lines)
