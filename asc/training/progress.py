"""Progress bar of a run."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from asc.classifier import SceneClassifier


class ClipsProgressBar(TQDMProgressBar):
    """Lightning's bar, counting clips; without a terminal it prints a line for each epoch instead."""

    shown = 0.0  # time of the last update, s

    def setup(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, model, stage)
        if not sys.stdout.isatty():
            self.disable()

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        loader: Any = self.trainer.train_dataloader
        bar.unit, bar.unit_scale = " clips", loader.sampler.size
        bar.bar_format = "{desc} |{bar}| {rate_fmt}, {remaining} left{postfix}"
        return bar

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, model)
        if not sys.stdout.isatty() and trainer.is_global_zero:
            names = {"train/loss": "loss", "val/loss": "val_loss", "val/acc": "val_acc"}
            metrics = trainer.callback_metrics
            cells = [f"{name} {metrics[key].item():.3f}" for key, name in names.items() if key in metrics]
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  " + "  ".join(cells), flush=True)

    def init_test_tqdm(self) -> Any:
        bar = super().init_test_tqdm()
        bar.leave = False  # clear the bar when done
        return bar

    def _should_update(self, current: int, total: int) -> bool:
        """Update at most ten times a second, since reading the loss waits for the GPU."""
        is_due = current == total or time.monotonic() - self.shown >= 0.1
        if not (is_due and super()._should_update(current, total)):
            return False
        self.shown = time.monotonic()
        return True

    def get_metrics(self, trainer: pl.Trainer, model: SceneClassifier) -> dict[str, Any]:
        """The metrics to show, with short names."""
        metrics = super().get_metrics(trainer, model)
        shown = {"val_acc": metrics["val/acc"]} if "val/acc" in metrics else {}
        losses = model.train_losses.value  # of each batch
        return {"loss": losses[-1].mean().item(), **shown} if losses else shown
