"""Compress a trained scene classifier, test it and write the results: python compress.py --help."""

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from asc.training.run_dir import explain_interruption
from asc.training.sweep import check_search, check_size, run_job, sweep_summary


@hydra.main(version_base="1.3", config_path="conf", config_name="compress")
def main(cfg: DictConfig) -> float | None:
    """Run one job; return the sweep objective."""
    return run_job(cfg, compress)


def compress(cfg: DictConfig) -> float | None:
    """Return the macro-average accuracy of the compressed classifier on validation clips; None without validation."""
    import pytorch_lightning as pl  # torch takes seconds to import: not for --help and mistyped settings

    from asc.export import export_or_checkpoint
    from asc.results import results_table, write_results
    from asc.training.callbacks import History, progress_bar
    from asc.training.checkpoints import ExactResume, last_checkpoints
    from asc.training.loggers import log_augmentation, log_results, make_logger, open_log
    from asc.training.parts import callbacks_of, check_parts, load_trained, make_trainer, prepare_features
    from asc.training.testing import make_tester, recalibrate_batch_norm, validation_accuracy

    directory = Path(cfg.run_dir)
    phase = instantiate(cfg.phase)
    last = directory / phase.checkpoint
    if cfg.resume:
        phase.check_resumable(cfg.resume)
    pl.seed_everything(cfg.seed, verbose=False)

    models, data = load_trained(cfg)
    check_search(data.clips["val"])
    model = phase.begin(*models).train()

    logger, history, augmentation = make_logger(cfg.logger), History(directory), callbacks_of(cfg.augmentation)
    callbacks = [history, progress_bar(), ExactResume(cfg.seed), *augmentation, *callbacks_of(cfg.callbacks), phase]
    callbacks += last_checkpoints(last, cfg.save_minutes)
    trainer = make_trainer(cfg.trainer, callbacks=callbacks, logger=logger or False)
    check_parts(cfg, trainer, model, data, augmentation)
    with open_log(logger):
        prepare_features(trainer, model, data, fit_frontend=False)
        if logger and trainer.is_global_zero:
            log_augmentation(logger, model, data, augmentation, directory / "augmentation.png")
        with explain_interruption(cfg, last, data.batch_size):
            trainer.fit(model, data, ckpt_path=cfg.resume, weights_only=True)
        if not trainer.is_global_zero:
            return None  # one process tests; Hydra uses its objective

        model = phase.finish(model)
        checkpoint = directory / f"{model.stage}.ckpt"
        tester = make_tester(cfg.trainer, accelerator="cpu")
        if cfg.recalibrate_batch_norm:
            recalibrate_batch_norm(model.to("cpu"), data)
        tester.test(model, data, verbose=False)
        objective = validation_accuracy(tester, model, data)
        tester.save_checkpoint(checkpoint, weights_only=True)
        file = export_or_checkpoint(model, directory, checkpoint)
        results = write_results(directory, checkpoint, file, model, data, history.totals(trainer.precision))
        print(results_table(results) + f"\nrun    {directory}")
        log_results(logger, results, directory / "confusion_matrix.png")
    check_size(model.complexity().size_kb, cfg.max_size_kb)
    return objective


if __name__ == "__main__":
    with sweep_summary():
        main()
