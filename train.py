"""Train a scene classifier, test its best checkpoint and write the results: python train.py --help."""

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from asc.cli import silence_libraries
from asc.errors import InputError
from asc.training.directory import lock_run_dir
from asc.training.memory import keep_freed_memory
from asc.training.sweep import check_search, check_size, run_job, sweep_summary


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job; return the sweep objective."""
    silence_libraries()
    keep_freed_memory()
    return run_job(cfg, train)


@lock_run_dir
def train(cfg: DictConfig) -> float | None:
    """Return the macro-average accuracy of the best checkpoint on validation clips; None without validation."""
    from asc.classifier import SceneClassifier  # after --help and wrong settings, since torch takes seconds
    from asc.complexity import KB
    from asc.training.run import Run, begin_run

    checkpoints = Path(cfg.run_dir) / "checkpoints"
    best, last = checkpoints / "best.ckpt", checkpoints / "last.ckpt"
    begin_run(cfg, last, precisions=("32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16"))
    if "checkpoint" not in cfg.callbacks:
        raise InputError("callbacks.checkpoint writes best.ckpt, which is tested in the end: leave it in")

    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    check_search(data.clips["val"])
    model = instantiate(cfg.model, labels=data.labels, clip_samples=data.clip_samples)
    instantiate(cfg.optimizer, params=model.parameters())  # fail early on invalid settings
    if cfg.init:
        model.start_from(SceneClassifier.load_from_checkpoint(cfg.init, trusted=trusted(cfg)))
    run = Run(cfg, model, data, last)
    check_size(model.complexity().parameters * 4 / KB, cfg.max_size_kb)  # all, since untrained biases are zeros
    run.prepare(fit_frontend=not cfg.init, resume=cfg.checkpoint)
    if cfg.compile:
        # takes effect at the first step; dynamic=False compiles a smaller last batch apart from the others
        model.net.compile(mode=cfg.compile, dynamic=False)
    if not run.fit(resume=cfg.checkpoint):
        return None  # only the main process tests; Hydra uses its return value

    return run.test(SceneClassifier.load_from_checkpoint(best, trusted=trusted(cfg)), best)


def trusted(cfg: DictConfig) -> list[str]:
    """Modules of the classes in the settings."""
    parts = (cfg.frontend, cfg.net, cfg.optimizer, cfg.scheduler)
    return [part["_target_"].rpartition(".")[0] for part in parts if part]


if __name__ == "__main__":
    with sweep_summary():
        main()
