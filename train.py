"""Train a scene classifier, test its best checkpoint and write the results: python train.py --help."""

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from asc.training.run_dir import explain_interruption
from asc.training.sweep import check_search, check_size, run_job, sweep_summary


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job; return the sweep objective."""
    return run_job(cfg, train)


def train(cfg: DictConfig) -> float | None:
    """Return the macro-average accuracy of the best checkpoint on validation clips; None without validation."""
    import pytorch_lightning as pl  # torch takes seconds to import: not for --help and mistyped settings

    from asc.classifier import SceneClassifier
    from asc.complexity import KB
    from asc.export import export_or_checkpoint
    from asc.results import results_table, write_results
    from asc.training.callbacks import History, progress_bar
    from asc.training.checkpoints import ExactResume, last_checkpoints, replace_weights
    from asc.training.loggers import log_augmentation, log_results, make_logger, open_log
    from asc.training.parts import callbacks_of, check_parts, make_trainer, prepare_features, trusted_modules
    from asc.training.testing import make_tester, recalibrate_batch_norm, validation_accuracy

    directory = Path(cfg.run_dir)
    best, last = directory / "checkpoints/best.ckpt", directory / "checkpoints/last.ckpt"
    trusted = trusted_modules(cfg)
    pl.seed_everything(cfg.seed, verbose=False)

    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    check_search(data.clips["val"])
    model = instantiate(cfg.model, labels=data.labels, clip_samples=data.clip_samples)
    if cfg.init:
        model.start_from(SceneClassifier.load_from_checkpoint(cfg.init, trusted=trusted))
    check_size(model.complexity().parameters * 4 / KB, cfg.max_size_kb)  # all, since untrained biases are zeros

    logger, history, augmentation = make_logger(cfg.logger), History(directory), callbacks_of(cfg.augmentation)
    callbacks = [history, progress_bar(), ExactResume(cfg.seed), *augmentation, *callbacks_of(cfg.callbacks)]
    callbacks += last_checkpoints(last, cfg.save_minutes)
    trainer = make_trainer(cfg.trainer, callbacks=callbacks, logger=logger or False)
    check_parts(cfg, trainer, model, data, augmentation)
    with open_log(logger):
        prepare_features(trainer, model, data, fit_frontend=not cfg.init)
        if cfg.compile:
            model.net.compile(mode=cfg.compile, dynamic=False)  # a smaller last batch is compiled apart from the others
        if logger and trainer.is_global_zero:
            log_augmentation(logger, model, data, augmentation, directory / "augmentation.png")
        with explain_interruption(cfg, last, data.batch_size):
            trainer.fit(model, data, ckpt_path=cfg.checkpoint, weights_only=True)
        if not trainer.is_global_zero:
            return None  # one process tests; Hydra uses its objective

        model = SceneClassifier.load_from_checkpoint(best, trusted=trusted)
        tester = make_tester(cfg.trainer)
        if cfg.recalibrate_batch_norm:
            recalibrate_batch_norm(model.to(tester.strategy.root_device), data)
            replace_weights(best, model)
        tester.test(model, data, verbose=False)
        objective = validation_accuracy(tester, model, data)
        file = export_or_checkpoint(model, directory, best)
        results = write_results(directory, best, file, model, data, history.totals(trainer.precision))
        print(results_table(results) + f"\nrun    {directory}")
        log_results(logger, results, directory / "confusion_matrix.png")
    return objective


if __name__ == "__main__":
    with sweep_summary():
        main()
