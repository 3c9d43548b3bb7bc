"""The steps that training in train.py and fine-tuning in compress.py share."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from asc.classifier import SceneClassifier
from asc.cli import resume_hint
from asc.data import SceneData
from asc.errors import InputError, check_choice
from asc.export import export_or_checkpoint
from asc.training.batch_memory import CheckBatchMemory
from asc.training.batch_norm import recalibrate_batch_norm
from asc.training.checkpoints import (
    AtomicCheckpointIO,
    ExactResume,
    SaveWithinEpochs,
    check_resumable,
    last_checkpoint,
    replace_weights,
)
from asc.training.directory import refuse_other_run, resume_setting
from asc.training.distributed import check_processes, single_process_trainer
from asc.training.history import History
from asc.training.loggers import LogAugmentation, close_logger, log_results, make_logger, open_logger, writing_log
from asc.training.progress import ClipsProgressBar
from asc.training.results import cache_summary, results_table, summary, write_results


def begin_run(cfg: DictConfig, checkpoint: Path, precisions: tuple[str, ...]) -> Path:
    """Check precision and directory, seed the random numbers and return the run's directory.

    Args:
        cfg: settings of the command.
        checkpoint: where the run will save each epoch.
        precisions: values of trainer.precision that the command supports.

    Raises:
        InputError: the precision is not supported, or the directory holds another run.
    """
    check_choice("trainer.precision", str(cfg.trainer.precision), precisions)
    directory = Path(cfg.run_dir)
    setting = resume_setting(cfg)
    if not (cfg[setting] and checkpoint.resolve() == Path(cfg[setting]).resolve()):
        refuse_other_run(directory, checkpoint, setting)
    pl.seed_everything(cfg.seed, verbose=False)
    return directory


class Run:
    """One training: from a classifier and its data to results.json.

    Args:
        cfg: settings of the command: callbacks, trainer, logger, seed, run_dir, save_minutes.
        model: the classifier to train.
        data: after `setup`.
        checkpoint: where to save each epoch.
        callbacks: further callbacks, called after the augmentation.

    Raises:
        InputError: the parts do not fit together.
    """

    def __init__(
        self,
        cfg: DictConfig,
        model: SceneClassifier,
        data: SceneData,
        checkpoint: Path,
        callbacks: list[pl.Callback] | None = None,
    ):
        self.cfg, self.model, self.data, self.checkpoint = cfg, model, data, checkpoint
        self.directory = Path(cfg.run_dir)
        self.history = History(self.directory)
        self.logger = make_logger(cfg.logger)
        all_callbacks = [self.history, ClipsProgressBar(), ExactResume(cfg.seed)]
        if self.logger:
            all_callbacks.append(LogAugmentation(self.directory / "augmentation.png"))  # before the augmentation
        all_callbacks += [instantiate(callback) for callback in cfg.callbacks.values()]
        all_callbacks += callbacks or []
        all_callbacks.append(CheckBatchMemory(min(data.batch_size, len(data.clips["train"]))))  # of the augmented batch
        if cfg.save_minutes:
            all_callbacks.append(SaveWithinEpochs(checkpoint, cfg.save_minutes))
        all_callbacks.append(last_checkpoint(checkpoint))  # after BestCheckpoint, whose score it saves
        self.trainer: pl.Trainer = instantiate(
            cfg.trainer, callbacks=all_callbacks, logger=self.logger or False, plugins=[AtomicCheckpointIO()]
        )
        self.check()

    def check(self) -> None:
        """Refuse parts that do not fit together."""
        if self.data.sample_rate != self.model.sample_rate:
            raise InputError(
                f"data.sample_rate={self.data.sample_rate} differs from frontend.sample_rate={self.model.sample_rate}: "
                "set both by sample_rate"
            )
        check_processes(self.trainer)
        if self.cfg.save_minutes and self.trainer.world_size > 1:
            raise InputError("save_minutes saves the state of one process, not of several: leave it out")
        self.data.check_length(self.model.frontend.min_samples)
        self.model.complexity()  # raises if the features are too small for the network's pooling

    def prepare(self, fit_frontend: bool, resume: str | None = None) -> None:
        """Print the summary, and compute the features or find them in the cache.

        Args:
            fit_frontend: compute the mean and standard deviation for a standardizing frontend.
            resume: the checkpoint to resume from, checked before any feature is computed.

        Raises:
            InputError: the checkpoint belongs to a run with other settings.
        """
        if resume:
            check_resumable(resume, self.model, self.trainer)
        main = self.trainer.is_global_zero
        if main:
            print(summary(self.data, self.model), flush=True)
        frontend, device = self.model.frontend, self.trainer.strategy.root_device
        if self.data.cache:
            path = self.data.cache_features(self.model.hparams["frontend"], frontend, device)
            if main:
                print(cache_summary(path))
        if fit_frontend and frontend.standardized:
            frontend.fit(self.data.spectrograms(frontend, device))
        if main:
            print()

    def fit(self, resume: str | None) -> bool:
        """Train, from the checkpoint `resume` that `prepare` has checked; return whether this is the main process.

        Ctrl-C ends the command and prints how to resume.
        """
        try:
            with writing_log(self.logger):
                open_logger(self.logger)
                self.trainer.fit(self.model, self.data, ckpt_path=resume, weights_only=True)
        except BaseException as error:
            with suppress(OSError):  # the log cannot be written, as `error` says already
                close_logger(self.logger, "failed")
            if isinstance(error, SystemExit):  # Lightning raises it on Ctrl-C
                hint = resume_hint(self.checkpoint, self.directory, resume_setting(self.cfg))
                sys.exit(hint if self.trainer.is_global_zero else 1)
            raise
        return self.trainer.is_global_zero

    def test(self, model: SceneClassifier, checkpoint: Path, save: bool = False, **settings: Any) -> float | None:
        """Refresh batch norms if set, test `model` in this process only, and write the results.

        Args:
            model: the trained classifier.
            checkpoint: its file.
            save: write the file, without optimizer state.
            settings: replace trainer settings for the test.

        Returns:
            The sweep objective: macro-average accuracy on validation clips; None if none are held out.
        """
        tester = single_process_trainer(self.cfg.trainer, [ClipsProgressBar()], **settings)
        if self.cfg.recalibrate_batch_norm:
            recalibrate_batch_norm(model.to(tester.strategy.root_device), self.data)
        tester.test(model, self.data, verbose=False)
        if save:
            tester.save_checkpoint(checkpoint, weights_only=True)
        elif self.cfg.recalibrate_batch_norm:
            replace_weights(checkpoint, model)
        file = export_or_checkpoint(model, self.directory, checkpoint)
        results = write_results(self.directory, checkpoint, file, model, self.data, self.history.totals())
        print(results_table(results) + f"\nrun    {self.directory}")
        if self.logger:
            with writing_log(self.logger):
                log_results(self.logger, results, self.directory / "confusion_matrix.png")
                close_logger(self.logger, "success")
        if not self.data.clips["val"]:
            return None
        return tester.validate(model, self.data, verbose=False)[0]["val/acc"]
