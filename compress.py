"""Compress a trained scene classifier, test it and write what came out: python compress.py --help."""

import sys
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from asc import InputError, SceneClassifier
from asc.classifier import read_checkpoint
from asc.cli import interrupted, one_sentence, quiet
from asc.data import SceneData
from asc.errors import check
from asc.export import device_file
from asc.results import kept, summary, table, write_results
from asc.training.checkpoints import check_resumable, save_whole
from asc.training.distributed import check_processes, single
from asc.training.memory import keep_freed_blocks


@hydra.main(version_base="1.3", config_path="conf", config_name="compress")
def main(cfg: DictConfig) -> float:
    """One job of the command line; returns the figure that a sweep optimizes."""
    quiet()
    keep_freed_blocks()
    with one_sentence():
        return compress(cfg)


def compress(cfg: DictConfig) -> float:
    """Macro-average accuracy of the compressed classifier: on validation, or on test where nothing is held out."""
    check("seed", cfg.seed, int, 0)
    check("trainer.max_epochs", cfg.trainer.max_epochs, int, 1)
    if cfg.trainer.precision != "32-true":
        raise InputError(f"trainer.precision={cfg.trainer.precision} will not do for compression: give 32-true")
    pl.seed_everything(cfg.seed, verbose=False)
    run_dir, unfinished = Path(cfg.run_dir), Path(cfg.run_dir) / "qat.ckpt"

    phase = instantiate(cfg.phase)
    source = load(cfg)
    model = phase.begin(source)
    resumed = cfg.checkpoint if source.stage == "qat" else None
    check_directory(run_dir, resumed)
    data = remembered_data(cfg, model)
    callbacks = {name: instantiate(callback) for name, callback in cfg.callbacks.items()}
    own = [phase, *callbacks.values()]
    trainer = instantiate(cfg.trainer, callbacks=own, logger=False, enable_checkpointing="checkpoint" in callbacks)
    check_processes(trainer)
    if resumed:
        check_resumable(resumed, model, cfg.trainer.max_epochs)

    if trainer.is_global_zero:
        print(summary(data, model), flush=True)
    device = trainer.strategy.root_device
    cache = data.cache_features(model.frontend, model.hparams["frontend"], device) if data.cache else None
    if trainer.is_global_zero:
        print(f"{kept(cache)}\n" if cache else "")
    try:
        trainer.fit(model.train(), data, ckpt_path=resumed, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        sys.exit(interrupted(unfinished, run_dir) if trainer.is_global_zero else 1)
    if not trainer.is_global_zero:
        return 0.0  # what follows is the first process's, whose figure Hydra takes

    model = phase.finish(model)
    tester = single(cfg.trainer, callbacks["progress"], accelerator="cpu")
    tester.test(model, data, verbose=False)
    checkpoint = run_dir / f"{model.stage}.ckpt"
    save_whole(tester, checkpoint, weights_only=True)
    file = device_file(model, run_dir, checkpoint)
    results = write_results(run_dir, checkpoint, file, model, callbacks["history"].totals())
    print(table(results) + f"\nrun    {run_dir}")
    if not data.clips["val"]:
        return results["test"]["macro_accuracy"]
    return tester.validate(model, data, verbose=False)[0]["val/acc"]


def load(cfg: DictConfig) -> SceneClassifier:
    """The classifier of the checkpoint, with the optimizer of the fine-tuning."""
    optimizer, scheduler = (
        OmegaConf.to_container(cfg[name], resolve=True) if cfg[name] else None for name in ("optimizer", "scheduler")
    )
    return SceneClassifier.load_from_checkpoint(
        cfg.checkpoint, trusted=tuple(cfg.trusted), optimizer=optimizer, scheduler=scheduler
    )


def check_directory(run_dir: Path, resumed: str | None) -> None:
    """Refuse to write over another run."""
    unfinished = run_dir / "qat.ckpt"
    if resumed and Path(resumed).resolve() == unfinished.resolve():
        return
    if unfinished.exists():
        raise InputError(
            f"{run_dir} holds a run: go on with it by checkpoint={unfinished}, or set another hydra.run.dir"
        )
    if any((run_dir / name).exists() for name in ("results.json", "checkpoints")):
        raise InputError(f"{run_dir} holds a run: set another hydra.run.dir")


def remembered_data(cfg: DictConfig, model: SceneClassifier) -> SceneData:
    """The data that the checkpoint was trained on, with the settings that were given to replace its own.

    Raises:
        InputError: the checkpoint does not say which, or the labels are not the model's.
    """
    given: Any = OmegaConf.to_container(cfg.data, resolve=True)
    settings = {name: value for name, value in given.items() if value is not None and name != "_target_"}
    remembered = read_checkpoint(cfg.checkpoint).get("datamodule_hyper_parameters", {})
    settings = {**remembered, **settings, "sample_rate": model.sample_rate, "channel": model.channel}
    if "root" not in settings:
        raise InputError(
            f"checkpoint={cfg.checkpoint} does not say what it was trained on: give data=dcase data.root=DIR"
        )
    data = SceneData(**settings)
    data.setup()
    if set(data.labels) != set(model.labels):
        raise InputError(
            f"{data.root} has the labels {', '.join(data.labels)}, but the checkpoint {', '.join(model.labels)}: "
            "give the data it was trained on by data.root=DIR"
        )
    data.labels = model.labels
    data.check_length(model.frontend.shortest)
    return data


if __name__ == "__main__":
    main()
