"""Train a scene classifier, test its best checkpoint and write what came out: python train.py --help."""

import sys
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from asc import InputError, SceneClassifier
from asc.cli import interrupted, one_sentence, quiet
from asc.data import SceneData
from asc.errors import check
from asc.export import device_file
from asc.results import kept, summary, table, write_results
from asc.training.checkpoints import check_resumable
from asc.training.distributed import check_processes, single
from asc.training.memory import keep_freed_blocks

COMPILE_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One job of the command line; returns the figure that a sweep optimizes."""
    quiet()
    keep_freed_blocks()
    with one_sentence():
        return train(cfg)


def train(cfg: DictConfig) -> float:
    """Macro-average accuracy of the best checkpoint: on validation, or on test where nothing is held out."""
    check("seed", cfg.seed, int, 0)
    check("trainer.max_epochs", cfg.trainer.max_epochs, int, 1)
    pl.seed_everything(cfg.seed, verbose=False)
    run_dir = Path(cfg.run_dir)
    best, last = run_dir / "checkpoints/best.ckpt", run_dir / "checkpoints/last.ckpt"
    if last.exists() and not (cfg.checkpoint and last.resolve() == Path(cfg.checkpoint).resolve()):
        raise InputError(f"{run_dir} holds a run: go on with it by checkpoint={last}, or set another hydra.run.dir")

    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    model = instantiate(cfg.model, labels=data.labels, clip_samples=data.clip_samples)
    instantiate(cfg.optimizer, params=model.parameters())  # a mistake in its settings shows now, not after the features
    callbacks = {name: instantiate(callback) for name, callback in cfg.callbacks.items()}
    trainer = instantiate(cfg.trainer, callbacks=list(callbacks.values()), logger=instantiate(cfg.logger) or False)
    check_run(data, model, callbacks, trainer, cfg.compile)
    if cfg.checkpoint:
        check_resumable(cfg.checkpoint, model, cfg.trainer.max_epochs)

    if trainer.is_global_zero:
        print(summary(data, model), flush=True)
    settings = OmegaConf.to_container(cfg.frontend, resolve=True)
    cache = data.cache_features(model.frontend, settings, trainer.strategy.root_device) if data.cache else None
    if trainer.is_global_zero:
        print(f"{kept(cache)}\n" if cache else "")
    if cfg.compile:
        model.net.compile(mode=cfg.compile)  # at the first step

    try:
        trainer.fit(model, data, ckpt_path=cfg.checkpoint, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        sys.exit(interrupted(last, run_dir) if trainer.is_global_zero else 1)
    if not trainer.is_global_zero:
        return 0.0  # what follows is the first process's, whose figure Hydra takes

    parts = [cfg.frontend, cfg.net, cfg.optimizer, cfg.scheduler]
    own = [part["_target_"].rpartition(".")[0] for part in parts if part]  # what the user chose is trusted
    model = SceneClassifier.load_from_checkpoint(best, trusted=own)
    single(cfg.trainer, callbacks["progress"]).test(model, data, verbose=False)
    results = write_results(run_dir, best, device_file(model, run_dir, best), model, callbacks["history"].totals())
    print(table(results) + f"\nrun    {run_dir}")
    validated = callbacks["checkpoint"].best_score
    return validated if data.clips["val"] else results["test"]["macro_accuracy"]


def check_run(
    data: SceneData, model: SceneClassifier, callbacks: dict, trainer: pl.Trainer, compile_mode: str | None
) -> None:
    """Refuse parts that do not go together."""
    if data.sample_rate != model.sample_rate:
        raise InputError(
            f"data.sample_rate={data.sample_rate} is not frontend.sample_rate={model.sample_rate}: "
            "set both by sample_rate"
        )
    if not {"checkpoint", "history", "progress"} <= callbacks.keys():
        raise InputError(
            "callbacks.checkpoint, callbacks.history and callbacks.progress tell how a run went: leave them in"
        )
    check_processes(trainer)
    if trainer.precision not in ("32-true", "16-mixed", "bf16-mixed"):
        raise InputError(f"trainer.precision={trainer.precision} will not do: give 32-true, 16-mixed or bf16-mixed")
    if compile_mode not in COMPILE_MODES:
        raise InputError(f"compile={compile_mode} is not known: choose null, {', '.join(COMPILE_MODES[1:])}")
    data.check_length(model.frontend.shortest)
    model.complexity()  # the network refuses features that its pooling would leave nothing of


if __name__ == "__main__":
    main()
