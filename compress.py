"""Compress a trained scene classifier, test it and write what came out: python compress.py --help."""

from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from asc import InputError, SceneClassifier
from asc.cli import exit_on_input_error, silence_libraries
from asc.data import SceneData
from asc.loading import read_checkpoint
from asc.training.memory import keep_freed_memory
from asc.training.run import Run, begin_run


@hydra.main(version_base="1.3", config_path="conf", config_name="compress")
def main(cfg: DictConfig) -> float:
    """One job of the command line; returns what a sweep optimizes."""
    silence_libraries()
    keep_freed_memory()
    with exit_on_input_error():
        return compress(cfg)


def compress(cfg: DictConfig) -> float:
    """Macro-average accuracy of the compressed classifier: on validation, or on test where nothing is held out."""
    phase = instantiate(cfg.phase)
    unfinished = Path(cfg.run_dir) / phase.checkpoint if phase.checkpoint else None
    directory = begin_run(cfg, unfinished, precisions=("32-true",))

    parts: Any = OmegaConf.to_container(cfg, resolve=True)
    training = {name: parts[name] for name in ("optimizer", "scheduler")}
    source = SceneClassifier.load_from_checkpoint(cfg.checkpoint, trusted=tuple(cfg.trusted), **training)
    model = phase.begin(source)
    data = remembered_data(cfg, model)
    run = Run(cfg, model.train(), data, unfinished, callbacks=[phase])
    resume = cfg.checkpoint if phase.is_unfinished(source) else None
    run.prepare(fit_frontend=False, resume=resume)
    if not run.fit(resume):
        return 0.0  # what follows is the first process's, whose figure Hydra takes

    model = phase.finish(model)
    return run.test(model, directory / f"{model.stage}.ckpt", save=True, accelerator="cpu")


def remembered_data(cfg: DictConfig, model: SceneClassifier) -> SceneData:
    """The data that the checkpoint was trained on, with the settings that were given to replace its own.

    Raises:
        InputError: the checkpoint does not say which, or the labels are not the model's.
    """
    given: Any = OmegaConf.to_container(cfg.data, resolve=True)
    settings = {name: value for name, value in given.items() if value is not None and name != "_target_"}
    remembered = read_checkpoint(cfg.checkpoint).get("datamodule_hyper_parameters", {})
    same = {name: remembered[name] for name in ("seed",) if name in remembered}  # of the split: no clip changes sides
    settings = {**remembered, **settings, **same, "sample_rate": model.sample_rate, "channel": model.channel}
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
    return data


if __name__ == "__main__":
    main()
