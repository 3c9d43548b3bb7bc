"""Checkpoints of a run: which epochs are saved, atomic writes, and exact resuming."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase, phase_of
from asc.data.datamodule import next_batch
from asc.errors import InputError
from asc.files import atomic_write
from asc.loading import differing_settings, read_checkpoint
from asc.settings import checked


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: a killed process or a full disk leaves the old file.

    Lightning's own class writes to the system's temporary folder; a move to another disk is not atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with atomic_write(path) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            super().save_checkpoint(checkpoint, temporary, storage_options)


def replace_weights(path: Path, model: SceneClassifier) -> None:
    """Replace the weights in the checkpoint `path` with those of `model`."""
    checkpoint = read_checkpoint(path)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({**checkpoint, "state_dict": state}, path)


class BestCheckpoint(ModelCheckpoint):
    """Saves best.ckpt, weights only: the best epoch on validation, or the last epoch without validation.

    It saves when validation ends, so that last.ckpt, saved when the epoch ends, stores the best score so far.
    Lightning's ModelCheckpoint cannot skip the first epochs, fails without its metric, and loses the best score when a
    run resumes in another directory.

    Args:
        dirpath: folder of best.ckpt.
        monitor: validation metric to maximize, or a loss to minimize.
        after_epoch: number of initial epochs to ignore; the official baseline ignores 50.
    """

    state_key = "BestCheckpoint"  # ModelCheckpoint's contains the metric, which may be None

    @checked("callbacks.checkpoint")
    def __init__(self, dirpath: str, monitor: str = "val/acc", after_epoch: NonNegativeInt = 0):
        mode = "min" if monitor.endswith("loss") else "max"
        super().__init__(dirpath, "best", monitor, mode=mode, save_weights_only=True, enable_version_counter=False)
        self.after_epoch = after_epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._save_on_train_epoch_end = not sum(trainer.num_val_batches)
        if self._save_on_train_epoch_end:
            self.monitor = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= min(self.after_epoch, (trainer.max_epochs or 1) - 1):
            super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch so far, and copy it from the earlier directory if the run resumes in another one."""
        earlier, path = Path(state_dict["best_model_path"]), Path(str(self.dirpath)) / "best.ckpt"
        if earlier.is_file() and earlier.resolve() != path.resolve():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(earlier, path)
        if path.is_file():  # otherwise only the remaining epochs compete
            score = state_dict["best_model_score"]
            models = {} if score is None else {str(path): score}
            moved = {"dirpath": self.dirpath, "best_model_path": str(path), "kth_best_model_path": str(path)}
            super().load_state_dict({**state_dict, **moved, "best_k_models": models})


class SaveWithinEpochs(ModelCheckpoint):
    """Also saves `path`, last.ckpt, every `minutes` within an epoch, for epochs that take hours."""

    def __init__(self, path: Path, minutes: float):
        interval = timedelta(minutes=minutes)
        super().__init__(path.parent, path.stem, train_time_interval=interval, enable_version_counter=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save only after an optimizer step, except the epoch's last, which `last_checkpoints` saves."""
        if not trainer.is_last_batch and next_batch(trainer)[1] % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, *args)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a run may resume without this callback."""
        return {}


def last_checkpoints(path: Path, minutes: float | None) -> list[ModelCheckpoint]:
    """Callbacks that save the run to `path` after each epoch and, if set, every `minutes` within an epoch."""
    each_epoch = ModelCheckpoint(path.parent, path.stem, save_on_train_epoch_end=True, enable_version_counter=False)
    return [each_epoch, SaveWithinEpochs(path, minutes)] if minutes else [each_epoch]


class ExactResume(pl.Callback):
    """A resumed run ends like an uninterrupted one: on a CPU with bit-identical weights.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.within_epoch: dict[str, Any] | None = None  # state of the interrupted epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Seed torch, from which dropout and augmentation draw, for this epoch and process."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)

    def on_save_checkpoint(self, trainer: pl.Trainer, model: SceneClassifier, checkpoint: dict[str, Any]) -> None:
        """Within an epoch, save torch's random state and the losses so far, which Lightning does not."""
        if next_batch(trainer)[1]:
            random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
            checkpoint["within_epoch"] = {"random": random, "losses": model.train_losses.value}

    def on_train_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Restore this state. The first batch draws the next random numbers."""
        if self.within_epoch:
            torch.set_rng_state(self.within_epoch["random"]["cpu"])
            torch.cuda.set_rng_state_all(self.within_epoch["random"]["cuda"])
            for losses in self.within_epoch["losses"]:
                model.train_losses.update(losses.to(model.device))

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, *args: Any) -> None:
        """Call on_train_epoch_start of the other callbacks, which Lightning skips when resuming within an epoch."""
        if self.within_epoch:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if callback is not self:
                    callback.on_train_epoch_start(trainer, model)
        self.within_epoch = None

    def on_load_checkpoint(self, trainer: pl.Trainer, model: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reject a scheduler with a different number of steps: it would end too early or too late.

        Raises:
            InputError: names both numbers.
        """
        self.within_epoch = checkpoint.get("within_epoch")
        steps = trainer.estimated_stepping_batches
        for scheduler in checkpoint["lr_schedulers"]:
            if scheduler.get("total_steps", steps) != steps:
                raise InputError(
                    f"the checkpoint's learning rate is scheduled for {scheduler['total_steps']} steps, not {steps}: "
                    "use the trainer settings of its run, above all trainer.max_epochs, or start anew"
                )


def check_resumable(path: str, model: SceneClassifier, trainer: pl.Trainer) -> None:
    """Reject a checkpoint of another model or phase, without optimizer state, or with more epochs.

    Raises:
        InputError: names what differs.
    """
    checkpoint = read_checkpoint(path)
    if phase_of(checkpoint) and not any(isinstance(callback, Phase) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise InputError(
            f"invalid checkpoint={path}: expected a run of train.py; resume this one with compress.py resume="
        )
    classifier = {"_target_": "asc.SceneClassifier"}
    if differing := differing_settings(
        {**checkpoint["hyper_parameters"], **classifier}, {**model.hparams, **classifier}
    ):
        raise InputError(
            f"checkpoint={path} was trained with a different {', '.join(differing)}: "
            "resume with the settings of its run, which are in its .hydra/overrides.yaml"
        )
    if not checkpoint.get("optimizer_states"):
        raise InputError(f"checkpoint={path} has no optimizer state: resume from last.ckpt, or start anew with init=")
    done = checkpoint["epoch"] + 1
    if done > (trainer.max_epochs or 0):
        raise InputError(f"checkpoint={path} has completed {done} epochs: set trainer.max_epochs to at least {done}")
    if done == trainer.max_epochs and "within_epoch" not in checkpoint:
        print(f"{path} has completed all {done} epochs: there is no more to train, only to test")
