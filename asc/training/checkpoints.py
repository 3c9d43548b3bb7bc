"""Checkpoints of a run: which epochs are saved, atomic writes, and exact resuming."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase, unfinished_phase
from asc.data.datamodule import next_batch
from asc.errors import InputError
from asc.files import atomic_write
from asc.loading import differing_settings, read_checkpoint
from asc.settings import checked


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole: a killed process or a full disk leaves the old file.

    Lightning's own writes to the system's temporary folder, and moving a file to another disk is not atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with atomic_write(path) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            super().save_checkpoint(checkpoint, temporary, storage_options)


def replace_weights(path: Path, model: SceneClassifier) -> None:
    """Replace the weights in the model's checkpoint, and nothing else."""
    checkpoint = read_checkpoint(path)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({**checkpoint, "state_dict": state}, path)


def last_checkpoint(path: Path) -> ModelCheckpoint:
    """Saves each epoch to `path`, so that an interrupted run can resume."""
    return ModelCheckpoint(path.parent, path.stem, save_on_train_epoch_end=True, enable_version_counter=False)


class BestCheckpoint(ModelCheckpoint):
    """Saves best.ckpt: the best epoch on validation, or the last epoch without validation.

    Lightning's ModelCheckpoint cannot skip the first epochs, fails without its metric, and loses the best score when a
    run resumes in another directory.

    Args:
        dirpath: folder of best.ckpt.
        monitor: validation metric to maximize.
        after_epoch: number of first epochs to ignore; the official baseline ignores 50.
    """

    state_key = "BestCheckpoint"  # ModelCheckpoint's contains the metric, which may be None

    @checked("callbacks.checkpoint")
    def __init__(self, dirpath: str, monitor: str = "val/acc", after_epoch: NonNegativeInt = 0):
        super().__init__(
            dirpath,
            "best",
            monitor,
            mode="max",
            save_weights_only=True,  # last.ckpt is the one to resume from
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.after_epoch = after_epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not sum(trainer.num_val_batches):
            self.monitor = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch if it is the best so far.

        Raises:
            InputError: validation does not log `monitor`.
        """
        if self.monitor and self.monitor not in trainer.callback_metrics:
            raise InputError(f"unknown callbacks.checkpoint.monitor={self.monitor}: choose from val/acc")
        if not self.monitor or trainer.current_epoch >= min(self.after_epoch, (trainer.max_epochs or 1) - 1):
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch so far, copied from the earlier directory if it is another one."""
        earlier, path = Path(state_dict["best_model_path"]), Path(str(self.dirpath)) / "best.ckpt"
        if not earlier.is_file():  # the run was moved
            earlier = path
        if not earlier.is_file():
            return
        if earlier.resolve() != path.resolve():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(earlier, path)
        score = state_dict["best_model_score"]
        models = {} if score is None else {str(path): score}
        moved = {"dirpath": self.dirpath, "best_model_path": str(path), "kth_best_model_path": str(path)}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models})


class SaveWithinEpochs(Checkpoint):
    """Saves last.ckpt within an epoch too, if epochs take hours. Lightning calls it after all other callbacks.

    Args:
        path: of last.ckpt.
        minutes: between two saves.
    """

    def __init__(self, path: Path, minutes: float):
        self.path, self.seconds = path, 60 * minutes
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save after an optimizer step, except the epoch's last, after which it is saved anyway."""
        is_step = (next_batch(trainer)[1] % trainer.accumulate_grad_batches) == 0
        if is_step and not trainer.is_last_batch and time.monotonic() - self.saved >= self.seconds:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class ExactResume(pl.Callback):
    """A resumed run ends like an uninterrupted one: on a CPU with bit-identical weights.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.within_epoch: dict[str, Any] | None = None  # state of an epoch that was interrupted

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Seed torch, from which dropout and augmentation draw, for this epoch and process."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch * 1_009 + trainer.global_rank)

    def on_save_checkpoint(self, trainer: pl.Trainer, model: SceneClassifier, checkpoint: dict[str, Any]) -> None:
        """Within an epoch, save torch's random state and the losses so far, which Lightning does not."""
        if next_batch(trainer)[1]:
            random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
            checkpoint["within_epoch"] = {"random": random, "losses": model.train_losses.value}

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, *args: Any) -> None:
        """Resume within an epoch, for which Lightning does not call `on_train_epoch_start` again."""
        if self.within_epoch:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(trainer, model)
            torch.set_rng_state(self.within_epoch["random"]["cpu"])
            torch.cuda.set_rng_state_all(self.within_epoch["random"]["cuda"])
            for losses in self.within_epoch.get("losses", []):  # earlier files have none
                model.train_losses.update(losses.to(model.device))
        self.within_epoch = None

    def on_load_checkpoint(self, trainer: pl.Trainer, model: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a scheduler with another number of steps: it would end too early or too late.

        Raises:
            InputError: names both numbers.
        """
        self.within_epoch = checkpoint.get("within_epoch")
        steps = trainer.estimated_stepping_batches
        for scheduler in checkpoint["lr_schedulers"]:
            if scheduler.get("total_steps", steps) != steps:
                raise InputError(
                    f"the checkpoint's learning rate is laid out for {scheduler['total_steps']} steps, not {steps}: "
                    "use the trainer settings of its run, above all trainer.max_epochs"
                )


def check_resumable(path: str, model: SceneClassifier, trainer: pl.Trainer) -> None:
    """Refuse to resume from a checkpoint of another model or phase, without optimizer state, or of more epochs.

    Raises:
        InputError: names what differs.
    """
    checkpoint = read_checkpoint(path)
    if unfinished_phase(path) and not any(isinstance(callback, Phase) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise InputError(f"checkpoint={path} is of a run of compress.py: resume it by this command and resume=")
    classifier = {"_target_": "asc.SceneClassifier"}
    if differing := differing_settings(
        {**checkpoint["hyper_parameters"], **classifier}, {**model.hparams, **classifier}
    ):
        raise InputError(
            f"checkpoint={path} was trained with another {', '.join(differing)}: "
            "resume with the settings of its run, which are in its .hydra/overrides.yaml"
        )
    if not checkpoint.get("optimizer_states"):
        raise InputError(f"checkpoint={path} holds weights alone: resume from last.ckpt of its run, or start by init=")
    done = checkpoint["epoch"] + 1
    if done > (trainer.max_epochs or 0):
        raise InputError(f"checkpoint={path} has done {done} epochs: set trainer.max_epochs to at least {done}")
