"""The history of a run: metrics.csv and a plot of the training curves."""

import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asc.errors import InputError


class History(pl.Callback):
    """metrics.csv, one row an epoch, and training_curves.png; a resumed run continues the rows.

    Args:
        directory: where to write them.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.rows: list[dict[str, float]] = []
        self.started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Start the clock of the epoch."""
        self.started = time.perf_counter()
        self.seconds = 0.0

    def on_validation_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Stop it: clips/s are training clips over training time."""
        self.seconds = time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Add the epoch's row and write all of them.

        Raises:
            InputError: the loss is not finite, before the epoch replaces a good checkpoint.
        """
        seconds = self.seconds or time.perf_counter() - self.started
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        for key in ("train/loss", "val/loss", "val/acc"):
            if key in trainer.callback_metrics:
                row[key] = trainer.callback_metrics[key].item()
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = seconds
        loader: Any = trainer.train_dataloader
        row["clips_per_second"] = len(loader.dataset) / seconds
        if not math.isfinite(row.get("train/loss", 0.0)):
            raise InputError(
                f"training diverged in epoch {trainer.current_epoch + 1}, its loss is not finite: lower optimizer.lr"
            )
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write metrics.csv."""
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.directory / "metrics.csv.tmp"
        with open(unfinished, "w", newline="") as file:
            table = csv.DictWriter(file, self.rows[-1])
            table.writeheader()
            table.writerows(self.rows)
        os.replace(unfinished, self.directory / "metrics.csv")

    def on_fit_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Plot the curves; write the rows too, which a resumed run that was done already has not."""
        if trainer.is_global_zero and self.rows:
            self.write()
            self.plot(self.directory / "training_curves.png")

    def plot(self, path: Path) -> None:
        """Loss of training and validation, and the validation accuracy where there is one, over the epochs."""
        from matplotlib.figure import Figure  # without pyplot, which looks for a screen

        panels = [("loss (KL divergence, log loss)", ["train/loss", "val/loss"])]
        if "val/acc" in self.rows[-1]:
            panels.append(("macro-average accuracy", ["val/acc"]))
        figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        for axes, (title, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for key in keys:
                if key in self.rows[-1]:
                    axes.plot(epochs, [row[key] for row in self.rows], label=key.split("/")[0], marker=".")
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylim(bottom=0, top=1 if "accuracy" in title else None)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(path, dpi=120)

    def totals(self) -> dict[str, float]:
        """Epochs, seconds and clips a second over all epochs: the `training` part of results.json."""
        seconds = sum(row["seconds"] for row in self.rows)
        clips = sum(row["seconds"] * row["clips_per_second"] for row in self.rows)
        return {"epochs": len(self.rows), "seconds": seconds, "clips_per_second": clips / seconds}

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue them."""
        self.rows = list(state_dict["rows"])
