"""Callbacks about where a run stands: which epoch is kept, and how a resumed run goes on as it would have."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from asc.classifier import SceneClassifier, read_checkpoint
from asc.errors import InputError


class KeepBest(Checkpoint):
    """last.ckpt after each epoch, and best.ckpt: the best epoch on validation, or the last one without validation.

    Lightning's ModelCheckpoint writes last.ckpt only where it also writes a best one, and forgets the best so far when
    a run is resumed in another directory.

    Args:
        directory: where to write them.
        monitor: the validation figure to maximize.
        after_epoch: number of first epochs that cannot be the best; the official baseline leaves out 50.
    """

    def __init__(self, directory: str, monitor: str = "val/acc", after_epoch: int = 0):
        self.last, self.best = Path(directory) / "last.ckpt", Path(directory) / "best.ckpt"
        self.monitor, self.after_epoch = monitor, after_epoch
        self.best_score = -math.inf

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Write last.ckpt and, if this epoch is the best so far, best.ckpt."""
        is_best = self.is_best(trainer)  # first: the score so far belongs into the file
        if is_best:
            save_whole(trainer, self.best)
        save_whole(trainer, self.last)

    def is_best(self, trainer: pl.Trainer) -> bool:
        """Whether this epoch is to be kept."""
        if self.monitor not in trainer.callback_metrics:
            return True
        too_early = trainer.current_epoch < min(self.after_epoch, (trainer.max_epochs or 1) - 1)
        score = trainer.callback_metrics[self.monitor].item()
        if too_early or score <= self.best_score:
            return False
        self.best_score = score
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"best_score": self.best_score, "best": str(self.best)}

    def on_load_checkpoint(self, trainer: pl.Trainer, model: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a schedule that was laid out for another number of steps: it would end too early or too late.

        Raises:
            InputError: tells both numbers.
        """
        steps = trainer.estimated_stepping_batches
        for scheduler in checkpoint["lr_schedulers"]:
            if scheduler.get("total_steps", steps) != steps:
                raise InputError(
                    f"the checkpoint's learning rate is laid out for {scheduler['total_steps']} steps, not {steps}: "
                    "keep the trainer's settings of its run, trainer.max_epochs above all"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best epoch so far along, also into another directory."""
        earlier = Path(state_dict["best"])
        if earlier.is_file():
            self.best_score = state_dict["best_score"]
            if earlier.resolve() != self.best.resolve():
                self.best.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(earlier, self.best)


class KeepLast(Checkpoint):
    """The newest epoch, to go on from.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: str):
        self.path = Path(path)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Write the checkpoint."""
        save_whole(trainer, self.path)


def save_whole(trainer: pl.Trainer, path: Path, weights_only: bool = False) -> None:
    """Write a checkpoint whole or not at all, whenever the process is killed.

    Args:
        trainer: whose model to save, and, without `weights_only`, all that a resumed run needs.
        path: of the checkpoint.
        weights_only: leave out what inference does not need.
    """
    unfinished = path.with_suffix(".tmp")
    trainer.save_checkpoint(unfinished, weights_only)
    if trainer.is_global_zero:
        os.replace(unfinished, path)


class EpochSeed(pl.Callback):
    """Seed each epoch by its number, so that what it draws does not depend on how the run got there.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Seed torch, from which dropout and the augmentation draw."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)


def check_resumable(path: str, model: SceneClassifier, epochs: int) -> None:
    """Refuse to resume from a checkpoint of another model, or of a run longer than `epochs`.

    Raises:
        InputError: says what differs.
    """
    checkpoint = read_checkpoint(path)
    saved, now = checkpoint["hyper_parameters"], dict(model.hparams)
    differing = sorted(key for key in now if saved.get(key) != now[key])
    if differing:
        raise InputError(
            f"checkpoint={path} was trained with another {', '.join(differing)}: "
            "resume with the settings of its run, which are in its .hydra/overrides.yaml"
        )
    if checkpoint["epoch"] + 1 > epochs:
        raise InputError(
            f"checkpoint={path} has done {checkpoint['epoch'] + 1} epochs: give trainer.max_epochs at least as many"
        )
