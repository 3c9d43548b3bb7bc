"""The history of a run: metrics.csv and a plot of the training curves."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.files import atomic_write


class History(pl.Callback):
    """Writes metrics.csv, with a row for each epoch, and training_curves.png; a resumed run appends to the rows.

    Args:
        directory: where to write them.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.rows: list[dict[str, float]] = []
        self.started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.clips = 0  # of this process; fewer than all in an epoch that was resumed or limited

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: SceneClassifier, outputs: Any, batch: list, *_: Any
    ) -> None:
        self.clips += len(batch[1])
        if trainer.loggers:  # otherwise not, since Lightning takes milliseconds and waits for the GPU
            model.log("train/loss_step", model.train_losses.value[-1].mean(), sync_dist=True)

    def on_validation_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Stop the clock: clips/s counts training only."""
        self.seconds = self.elapsed(model)

    def elapsed(self, model: pl.LightningModule) -> float:
        """Seconds from the epoch's start to the end of its last step, which a GPU may still be computing."""
        torch.get_device_module(model.device).synchronize()
        return time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Log the training loss, for the callbacks after this one too; append the epoch's row and write all rows.

        Raises:
            InputError: the loss is not finite; raised before this epoch overwrites a good checkpoint.
        """
        seconds = self.seconds or self.elapsed(model)
        loss = model.train_losses.compute().mean()
        model.log("train/loss", loss, logger=False, sync_dist=True)
        model.log("train/loss_epoch", loss, sync_dist=True)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        for key in ("train/loss", "val/loss", "val/acc"):
            if key in trainer.callback_metrics:
                row[key] = trainer.callback_metrics[key].item()
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = seconds
        row["clips_per_second"] = self.clips * trainer.world_size / seconds
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
        with atomic_write(self.directory / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            table = csv.DictWriter(file, self.rows[-1])
            table.writeheader()
            table.writerows(self.rows)

    def on_fit_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Plot the curves, and write the rows in case a resumed run had no epochs left."""
        if trainer.is_global_zero and self.rows:
            self.write()
            self.plot(self.directory / "training_curves.png")

    def plot(self, path: Path) -> None:
        """Plot losses and validation accuracy against epochs."""
        from matplotlib.figure import Figure  # pyplot would look for a display

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
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def totals(self) -> dict[str, float]:
        """Epochs, seconds and clips per second of the run: `training` in results.json."""
        seconds = sum(row["seconds"] for row in self.rows)
        clips = sum(row["seconds"] * row["clips_per_second"] for row in self.rows)
        return {"epochs": len(self.rows), "seconds": seconds, "clips_per_second": clips / seconds}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
