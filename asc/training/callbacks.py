"""Progress of a run by epoch: metrics.csv, a plot of the training curves, and a progress bar."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.files import atomic_write


class History(pl.Callback):
    """Writes metrics.csv, with a row for each epoch, and training_curves.png; a resumed run appends to the rows.

    Lightning's CSVLogger writes two rows an epoch, and deletes the earlier rows when a run resumes. Without a terminal,
    it prints a line for each epoch.

    Args:
        directory: where to write both files.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.rows: list[dict[str, float]] = []
        self.start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.start = time.perf_counter()
        self.seconds = 0.0
        self.clips = 0  # trained by this process in this epoch; fewer than all if it was resumed or limited

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: SceneClassifier, outputs: Any, batch: list, *_: Any
    ) -> None:
        self.clips += len(batch[1])
        if trainer.loggers:  # only then: Lightning needs milliseconds and waits for the GPU
            model.log("train/loss_step", model.train_losses.value[-1].mean(), sync_dist=True)

    def on_validation_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Stop the clock, since clips/s counts training only, and check the loss before best.ckpt is overwritten."""
        self.seconds = self.elapsed(model)
        self.loss(trainer, model)

    def elapsed(self, model: pl.LightningModule) -> float:
        """Seconds from the epoch's start to the end of its last step, which a GPU may still be computing."""
        torch.get_device_module(model.device).synchronize()
        return time.perf_counter() - self.start

    def loss(self, trainer: pl.Trainer, model: SceneClassifier) -> float:
        """Mean training loss of the epoch, of all processes.

        Raises:
            InputError: the loss is not finite.
        """
        loss = model.train_losses.compute().mean().item()
        if not math.isfinite(loss):
            raise InputError(
                f"training diverged in epoch {trainer.current_epoch + 1}: loss is not finite; lower optimizer.lr"
            )
        return loss

    def on_train_epoch_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Log the epoch's loss, append the epoch's row and write all rows."""
        seconds = self.seconds or self.elapsed(model)
        loss = self.loss(trainer, model)
        model.log("train/loss_epoch", loss, prog_bar=True, sync_dist=True)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "train/loss": loss}
        for key in ("val/loss", "val/acc"):
            if key in trainer.callback_metrics:
                row[key] = trainer.callback_metrics[key].item()
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row |= {"seconds": seconds, "clips_per_second": self.clips * trainer.world_size / seconds}
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write()
            if not sys.stdout.isatty():
                names = {"train/loss": "loss", "val/loss": "val_loss", "val/acc": "val_acc"}
                cells = [f"{name} {row[key]:.3f}" for key, name in names.items() if key in row]
                print(f"epoch {row['epoch']}/{trainer.max_epochs}  " + "  ".join(cells), flush=True)

    def write(self) -> None:
        """Write metrics.csv."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.directory / "metrics.csv") as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)

    def on_fit_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Plot the curves, and write the rows in case a resumed run had no epochs left."""
        if trainer.is_global_zero and self.rows:
            self.write()
            self.plot(self.directory / "training_curves.png")

    def plot(self, path: Path) -> None:
        """Plot losses and validation accuracy against epochs."""
        from matplotlib.figure import Figure  # pyplot would need a display

        table = pd.DataFrame(self.rows)
        panels = {"loss (KL divergence, log loss)": ["train/loss", "val/loss"], "macro-average accuracy": ["val/acc"]}
        shown = {title: [key for key in keys if key in table] for title, keys in panels.items()}
        shown = {title: keys for title, keys in shown.items() if keys}
        figure = Figure(figsize=(4.5 * len(shown), 3.5), layout="constrained")
        for axes, (title, keys) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            for key in keys:
                axes.plot(table.epoch, table[key], label=key.split("/")[0], marker=".")
            axes.set(title=title, xlabel="epoch", ylim=(0, 1 if "accuracy" in title else None))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend()
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def totals(self, precision: str) -> dict[str, Any]:
        """Epochs, seconds and clips per second of the run, and its precision: `training` in results.json."""
        seconds = sum(row["seconds"] for row in self.rows)
        clips = sum(row["seconds"] * row["clips_per_second"] for row in self.rows)
        measured = {"epochs": len(self.rows), "seconds": seconds, "clips_per_second": clips / seconds}
        return {**measured, "precision": precision}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def progress_bar() -> TQDMProgressBar:
    """Lightning's bar on a terminal; `History` prints lines elsewhere."""
    return TQDMProgressBar(refresh_rate=10 if sys.stdout.isatty() else 0)
