"""The parts of a run: built from settings or checkpoints, and checked for compatibility."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CUDAAccelerator
from tqdm import tqdm

from asc.classifier import SceneClassifier
from asc.complexity import KB
from asc.compress.phase import phase_of
from asc.data import SceneData, scene_data
from asc.errors import InputError, SweepError
from asc.loading import build, check_classes, read_checkpoint
from asc.table import text_table
from asc.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, check_resumable
from asc.training.run_dir import resume_setting


def callbacks_of(group: DictConfig) -> list[pl.Callback]:
    """The callbacks of a group of settings, in their order."""
    return [instantiate(node) for node in group.values()]


def trusted_modules(cfg: DictConfig) -> list[str]:
    """Modules of the classes named in the settings, which a checkpoint of such a run may also name."""
    parts = (cfg.frontend, cfg.net, cfg.optimizer, cfg.scheduler, cfg.teacher)
    return [part["_target_"].rpartition(".")[0] for part in parts if part]


def load_trained(cfg: DictConfig) -> tuple[list[SceneClassifier], SceneData]:
    """The classifiers in the checkpoints of compress.py, and the data of the first, with the overrides in `cfg`.

    The optimizer, scheduler and learning rates of `cfg` replace theirs.

    Raises:
        InputError: a checkpoint is of an unfinished run or does not name its data, or the labels differ.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    paths = [settings["checkpoint"]] if isinstance(settings["checkpoint"], str) else settings["checkpoint"]
    checkpoints = [read_checkpoint(path) for path in paths]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if phase_of(checkpoint):
            raise InputError(
                f"invalid checkpoint={path}: expected one of a finished run; "
                f"to resume its run, set resume={path} with the settings of the run"
            )
    training = {"optimizer": settings["optimizer"], "scheduler": settings["scheduler"], "backbone_lr_scale": 1.0}
    models = [
        SceneClassifier.load_from_checkpoint(path, trusted=settings["trusted"], content=content, **training)
        for path, content in zip(paths, checkpoints, strict=True)
    ]
    model = models[0]
    given = {name: value for name, value in settings["data"].items() if value is not None and name != "_target_"}
    given |= {"sample_rate": model.sample_rate, "channel": model.channel}
    given |= {"clip_seconds": model.clip_samples / model.sample_rate}
    saved = checkpoints[0].get("datamodule_hyper_parameters", {})
    check_classes(saved, settings["trusted"], ["teacher"])
    if "root" not in {**saved, **given}:
        raise InputError(f"checkpoint={paths[0]} does not name its training data: add data=dcase data.root=DIR")
    kind = settings["data"].get("_target_")
    data = scene_data(saved, given, get_class(kind) if kind else None)
    data.setup()
    if set(data.labels) != set(model.labels):
        raise InputError(
            f"invalid data.root={data.root}: expected clips of {', '.join(model.labels)}, as the checkpoint was "
            f"trained on, not of {', '.join(data.labels)}"
        )
    data.labels = model.labels
    data.compare_test(checkpoints[0])
    return models, data


def make_trainer(settings: DictConfig, **others: Any) -> pl.Trainer:
    """Lightning's Trainer from these settings and others, which replace them.

    Its GPU is one for CUDA: on Apple's, torch has neither fake quantization nor 64-bit floats.

    Raises:
        InputError: the GPU cannot compute.
    """
    chosen = others.get("accelerator", settings.accelerator)
    gpus = {"gpu": "cuda", "auto": "cuda" if CUDAAccelerator.is_available() else "cpu"}
    others = {"plugins": [AtomicCheckpointIO()], **others, "accelerator": gpus.get(chosen, chosen)}
    if others.get("precision", settings.precision) == "auto":
        others["precision"] = "bf16-mixed" if computes_bfloat16(others["accelerator"]) else "32-true"
    trainer = instantiate(settings, **others)
    device = trainer.strategy.root_device
    try:
        torch.zeros(1, device=device).add(1).item()  # fails if torch or the driver is too old or too new for the GPU
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{device} cannot compute ({reason}): set trainer.accelerator=cpu, or install a driver and a torch for it"
        ) from error
    return trainer


def computes_bfloat16(accelerator: str) -> bool:
    """Whether the processor, "cpu" or "cuda", has instructions for bfloat16, so that it is faster than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def reason_for(precision: str, device: torch.device) -> str:
    """Why trainer.precision=auto chooses this precision on the device; "" if it would choose another."""
    is_native = computes_bfloat16(device.type)
    if is_native != precision.startswith("bf16"):
        return ""
    return f": the {device.type} {'has' if is_native else 'lacks'} instructions for bfloat16"


def check_compiler(mode: str, device: torch.device) -> None:
    """Compile a function on the device, as torch.compile will the network after minutes of features.

    Raises:
        InputError: there is no compiler, or it fails.
    """
    try:
        torch.compile(torch.sin, mode=mode)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"invalid compile={mode}: nothing can be compiled here ({reason}); install a C++ compiler such as g++, or "
            "omit compile"
        ) from error


def try_augmentation(augmentation: Sequence[pl.Callback], trainer: pl.Trainer, model: SceneClassifier) -> None:
    """Augment silence, since a setting may not fit the features; random numbers are drawn again afterwards.

    Raises:
        InputError: names the setting.
    """
    batch = [model.example_features().clone(), torch.zeros(1, dtype=torch.long)]  # which a callback may edit
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for callback in augmentation:
            callback.on_train_batch_start(trainer, model, batch, 0)


def check_parts(
    cfg: DictConfig,
    trainer: pl.Trainer,
    model: SceneClassifier,
    data: SceneData,
    augmentation: Sequence[pl.Callback],
) -> None:
    """Reject incompatible parts before anything is computed.

    Raises:
        InputError: names the settings.
        SweepError: each run of a sweep would start processes.
    """
    if data.sample_rate != model.sample_rate:
        raise InputError(
            f"invalid data.sample_rate={data.sample_rate}: expected frontend.sample_rate={model.sample_rate}; "
            "set both by sample_rate"
        )
    data.check_length(model.frontend.min_samples)
    model.complexity()  # raises if the features are too small for the network's pooling
    try_augmentation(augmentation, trainer, model)
    best = trainer.checkpoint_callback
    if isinstance(best, BestCheckpoint) and best.monitor != "val/acc" and not data.clips["val"]:
        raise InputError(
            f"invalid callbacks.checkpoint.monitor={best.monitor}: expected val/acc, unless validation clips are held "
            "out by data.val_fraction"
        )
    optimizer = build(model.hparams["optimizer"], params=model.parameters())
    if model.hparams["scheduler"]:
        build(model.hparams["scheduler"], optimizer=optimizer, total_steps=100)
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if is_sweep and trainer.world_size > 1:  # Lightning would start its processes with the sweep's command line
        raise SweepError(
            f"a sweep (-m) cannot train each run in {trainer.world_size} processes: "
            "set trainer=default for one device a run, or start the runs one by one"
        )
    if cfg.save_minutes and trainer.world_size > 1:
        raise InputError(f"invalid save_minutes={cfg.save_minutes}: expected null for several processes")
    if resumed := cfg[resume_setting(cfg)]:
        check_resumable(resumed, model, trainer)
    if mode := cfg.get("compile"):
        check_compiler(mode, trainer.strategy.root_device)


def prepare_features(trainer: pl.Trainer, model: SceneClassifier, data: SceneData, fit_frontend: bool) -> None:
    """Print the summary, compute features and the teacher's targets or find them in the cache.

    Args:
        trainer: its device computes the features.
        model: its frontend computes the features.
        data: the data, after `setup`.
        fit_frontend: compute mean and standard deviation if the frontend standardizes.
    """
    frontend, device = model.frontend, trainer.strategy.root_device
    lines = [summary(data, model), f"precision   {trainer.precision}{reason_for(trainer.precision, device)}"]
    if data.teacher:
        name, targets = data.teacher["_target_"].rpartition(".")[2], data.learn_targets()
        unlabelled = data.clips.get("unlabelled", [])
        variants = sum(clip.variant is not None for clip in unlabelled)
        others = f"; {len(unlabelled) - variants:,} unlabelled clips" if unlabelled else ""
        others += f", {variants:,} variants" if variants else ""
        lines.append(f"teacher     {name}, {100 * targets.accuracy:.1f} % by cross-validation{others}")
    if data.cache:
        path = data.cache_features(model.hparams["frontend"], frontend, device)
        total = sum(file.stat().st_size for file in path.parent.glob("*.npy"))
        lines.append(
            f"features    {path.stat().st_size / 1e6:,.1f} MB of {total / 1e6:,.1f} MB in the cache, "
            f"which you may delete at any time:\n            {path.parent}"
        )
    if fit_frontend and frontend.standardized:
        batches = data.spectrograms(frontend, device)
        frontend.fit(tqdm(batches, "mean and deviation", unit="batch", leave=False, disable=None, delay=1))
    if trainer.is_global_zero:
        print("\n".join(lines) + "\n", flush=True)


def summary(data: SceneData, model: SceneClassifier) -> str:
    """Summary of data and network before training, at most 80 columns wide."""
    cost = model.complexity()
    name = model.hparams["net"]["_target_"].rpartition(".")[2]
    kilobytes = "to be 8-bit" if model.stage == "qat" else f"{cost.parameters * 4 / KB:.1f} KB"
    _, _, n_bins, frames = model.example_features().shape
    counts = {
        split: Counter(clip.label for clip in clips)
        for split, clips in data.clips.items()
        if clips and split != "unlabelled"
    }
    rows = [[label, *(f"{count[label]:,}" for count in counts.values())] for label in data.labels]
    rows.append(["all", *(f"{count.total():,}" for count in counts.values())])
    return (
        f"{text_table(rows, ['clips', *counts])}\n\n"
        f"input       {n_bins} bins x {frames} frames, from {model.clip_samples / model.sample_rate:g} s "
        f"at {model.sample_rate} Hz\n"
        f"network     {name}, {cost.parameters:,} parameters, {kilobytes}, {cost.macs / 1e6:.1f} M MACs"
    )
