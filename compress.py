"""Compress a trained scene classifier, test it and write the results: python compress.py --help."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from asc.cli import silence_libraries
from asc.errors import InputError
from asc.training.directory import lock_run_dir
from asc.training.memory import keep_freed_memory
from asc.training.sweep import check_search, check_size, run_job, sweep_summary

if TYPE_CHECKING:
    from asc import SceneClassifier
    from asc.data import SceneData


@hydra.main(version_base="1.3", config_path="conf", config_name="compress")
def main(cfg: DictConfig) -> float | None:
    """Run one job; return the sweep objective."""
    silence_libraries()
    keep_freed_memory()
    return run_job(cfg, compress)


@lock_run_dir
def compress(cfg: DictConfig) -> float | None:
    """Return the macro-average accuracy of the compressed classifier on validation clips; None without validation."""
    from asc.classifier import SceneClassifier  # after --help and wrong settings, since torch takes seconds
    from asc.compress.phase import refuse_unfinished
    from asc.training.run import Run, begin_run

    phase = instantiate(cfg.phase)
    last = Path(cfg.run_dir) / phase.checkpoint
    directory = begin_run(cfg, last, precisions=("32-true", "32"))
    if cfg.resume:
        phase.check_resumable(cfg.resume)

    parts: Any = OmegaConf.to_container(cfg, resolve=True)
    training = {name: parts[name] for name in ("optimizer", "scheduler")}
    checkpoints = [parts["checkpoint"]] if isinstance(parts["checkpoint"], str) else parts["checkpoint"]
    for path in checkpoints:
        refuse_unfinished(path)
    trusted = tuple(cfg.trusted)
    source, *others = [SceneClassifier.load_from_checkpoint(path, trusted=trusted, **training) for path in checkpoints]
    model = phase.begin(source, *others)
    data = training_data(cfg, checkpoints[0], model)
    check_search(data.clips["val"])
    run = Run(cfg, model.train(), data, last, callbacks=[phase])
    run.prepare(fit_frontend=False, resume=cfg.resume)
    if not run.fit(cfg.resume):
        return None  # only the main process tests; Hydra uses its return value

    model = phase.finish(model)
    objective = run.test(model, directory / f"{model.stage}.ckpt", save=True, accelerator="cpu")
    check_size(model.complexity().size_kb, cfg.max_size_kb)
    return objective


def training_data(cfg: DictConfig, checkpoint: str, model: "SceneClassifier") -> "SceneData":
    """The data that the checkpoint was trained on, with the overrides in `cfg`.

    Raises:
        InputError: the checkpoint does not name its data, or the labels differ from the model's.
    """
    from asc.data import scene_data
    from asc.loading import read_checkpoint

    node: Any = OmegaConf.to_container(cfg.data, resolve=True)
    overrides = {name: value for name, value in node.items() if value is not None and name != "_target_"}
    saved = read_checkpoint(checkpoint).get("datamodule_hyper_parameters", {})
    given = {
        **overrides,
        "sample_rate": model.sample_rate,
        "channel": model.channel,
        "clip_seconds": model.clip_samples / model.sample_rate,
    }
    if "root" not in {**saved, **given}:
        raise InputError(f"checkpoint={checkpoint} does not name its training data: give data=dcase data.root=DIR")
    data = scene_data(saved, given, get_class(node["_target_"]) if "_target_" in node else None)
    data.setup()
    if set(data.labels) != set(model.labels):
        raise InputError(
            f"data.root={data.root} has the labels {', '.join(data.labels)}, but the checkpoint has "
            f"{', '.join(model.labels)}: give the data it was trained on"
        )
    data.labels = model.labels
    return data


if __name__ == "__main__":
    with sweep_summary():
        main()
