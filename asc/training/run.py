"""The run of a command: train.py's training and compress.py's fine-tuning go through the same steps."""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from asc.classifier import SceneClassifier
from asc.cli import resume_hint
from asc.data import SceneData
from asc.errors import InputError, check_choice, check_number
from asc.export import export_or_checkpoint
from asc.training.checkpoints import AtomicCheckpointIO, ExactResume, check_resumable, last_checkpoint
from asc.training.distributed import check_processes, single_process_trainer
from asc.training.history import History
from asc.training.progress import ClipsProgressBar
from asc.training.results import cache_summary, results_table, summary, write_results


def begin_run(cfg: DictConfig, checkpoint: Path | None, precisions: tuple[str, ...]) -> Path:
    """Check what can be checked before anything is read, and seed the random numbers; the run's directory.

    Args:
        cfg: of the command.
        checkpoint: where the run will save each epoch; None if it cannot be resumed.
        precisions: of the trainer that the command works with.

    Raises:
        InputError: a setting is invalid, or the directory holds another run.
    """
    check_number("seed", cfg.seed, int, 0, 2**32 - 1)
    check_number("trainer.max_epochs", cfg.trainer.max_epochs, int, 1)
    check_choice("trainer.precision", cfg.trainer.precision, precisions)
    directory = Path(cfg.run_dir)
    resumes = checkpoint is not None and cfg.checkpoint and checkpoint.resolve() == Path(cfg.checkpoint).resolve()
    if not resumes and checkpoint is not None and checkpoint.exists():
        raise InputError(f"{directory} holds a run: resume it by checkpoint={checkpoint}, or set another hydra.run.dir")
    if not resumes and (
        (directory / "results.json").exists() or [*directory.glob("*.ckpt"), *directory.glob("checkpoints/*.ckpt")]
    ):
        raise InputError(f"{directory} holds a run: set another hydra.run.dir")
    pl.seed_everything(cfg.seed, verbose=False)
    return directory


def refuse_other_run(directory: Path, checkpoint: Path | None) -> None:
    """Refuse to write over a run; where `checkpoint` is there, it can be resumed.

    Raises:
        InputError: the directory holds a run.
    """
    if checkpoint and checkpoint.exists():
        raise InputError(f"{directory} holds a run: resume it by checkpoint={checkpoint}, or set another hydra.run.dir")
    if any(next(directory.glob(name), None) for name in ("results.json", "*.ckpt", "checkpoints/*.ckpt")):
        raise InputError(f"{directory} holds a run: set another hydra.run.dir")


class Run:
    """One training: from a classifier and its data to results.json.

    Args:
        cfg: settings of the command: callbacks, trainer, seed, run_dir.
        model: to train.
        data: after `setup`.
        checkpoint: where to save each epoch; None for a run that cannot be resumed.
        callbacks: further ones, first in line.
        logger: of Lightning, beside the history.

    Raises:
        InputError: parts that do not go together.
    """

    def __init__(
        self,
        cfg: DictConfig,
        model: SceneClassifier,
        data: SceneData,
        checkpoint: Path | None,
        callbacks: list[pl.Callback] | None = None,
        logger: Any = None,
    ):
        self.cfg, self.model, self.data, self.checkpoint = cfg, model, data, checkpoint
        self.directory = Path(cfg.run_dir)
        self.history = History(self.directory)
        own = [self.history, ClipsProgressBar(), ExactResume(cfg.seed), *(callbacks or [])]
        own += [instantiate(callback) for callback in cfg.callbacks.values()]
        if checkpoint:
            own.append(last_checkpoint(checkpoint))  # after the best one, whose score belongs into the file
        self.trainer: pl.Trainer = instantiate(
            cfg.trainer,
            callbacks=own,
            logger=logger or False,
            enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in own),
            plugins=[AtomicCheckpointIO()],
        )
        self.check()

    def check(self) -> None:
        """Refuse parts that do not go together."""
        if self.data.sample_rate != self.model.sample_rate:
            raise InputError(
                f"data.sample_rate={self.data.sample_rate} is not frontend.sample_rate={self.model.sample_rate}: "
                "set both by sample_rate"
            )
        check_processes(self.trainer)
        self.data.check_length(self.model.frontend.min_samples)
        self.model.complexity()  # the network refuses features that its pooling would leave nothing of

    def prepare(self, fit_frontend: bool, resume: str | None = None) -> None:
        """Say what will be trained, then compute the features, or find those of an earlier run.

        Args:
            fit_frontend: give a standardizing frontend the statistics of the training list.
            resume: the checkpoint to go on from, checked before any feature is computed.

        Raises:
            InputError: the checkpoint is that of a run with other settings.
        """
        if resume:
            check_resumable(resume, self.model, self.trainer)
        main = self.trainer.is_global_zero
        if main:
            print(summary(self.data, self.model), flush=True)
        frontend, device = self.model.frontend, self.trainer.strategy.root_device
        if self.data.cache:
            path = self.data.cache_path(self.model.hparams["frontend"])
            self.data.build_cache(path, frontend, device)
            self.data.load_cache(path, device)
            if main:
                print(cache_summary(path))
        if fit_frontend and frontend.standardized:
            frontend.fit(self.data.spectrograms(frontend, device))
        if main:
            print()

    def fit(self, resume: str | None) -> bool:
        """Train, from the checkpoint `resume` that `prepare` has checked; whether this process is the one that goes on.

        Ctrl-C ends the command and prints how to resume.
        """
        try:
            self.trainer.fit(self.model, self.data, ckpt_path=resume, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            sys.exit(resume_hint(self.checkpoint, self.directory) if self.trainer.is_global_zero else 1)
        return self.trainer.is_global_zero

    def test(self, model: SceneClassifier, checkpoint: Path, save: bool = False, **settings: Any) -> float:
        """Test `model`, in this process alone, and write what came out.

        Args:
            model: the trained classifier.
            checkpoint: its file.
            save: write it there, inference weights only.
            settings: of the trainer that tests, where they are not those of the training.

        Returns:
            What a sweep optimizes: the macro-average accuracy on validation, or on test where nothing is held out.
        """
        tester = single_process_trainer(self.cfg.trainer, [ClipsProgressBar()], **settings)
        tester.test(model, self.data, verbose=False)
        if save:
            tester.save_checkpoint(checkpoint, weights_only=True)
        file = export_or_checkpoint(model, self.directory / "model.onnx", checkpoint)
        results = write_results(self.directory, checkpoint, file, model, self.history.totals())
        print(results_table(results) + f"\nrun    {self.directory}")
        if self.data.clips["val"]:
            return tester.validate(model, self.data, verbose=False)[0]["val/acc"]
        return results["test"]["macro_accuracy"]
