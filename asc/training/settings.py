"""Check the settings of a command that no class of ours takes: the command's own, Lightning's and the optimizer's."""

import os
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from asc.errors import InputError
from asc.settings import STRICT, SampleRate, Seed, sentence


def names_class(node: dict[str, Any]) -> dict[str, Any]:
    """Refuse a group without a class."""
    if not (isinstance(node.get("_target_"), str) and "." in node["_target_"]):
        raise ValueError("a group whose _target_ names a class")
    if not isinstance(node.get("_recursive_", True), bool):
        raise ValueError("a group whose _recursive_ is true or false")
    if node.get("_convert_", "none") not in ("none", "partial", "object", "all"):
        raise ValueError("a group whose _convert_ is none, partial, object or all")
    return node


Group = Annotated[dict[str, Any], AfterValidator(names_class)]  # settings of a class, which checks them
LearningRate = Annotated[float, Field(gt=0, le=100)]
Batches = PositiveInt | Annotated[float, Field(gt=0, le=1)]  # a number, or a fraction of all


class Settings(BaseModel):
    """Settings of a group; those that are not named here are checked by the class that takes them."""

    model_config = ConfigDict(**STRICT, extra="allow", protected_namespaces=())


class Command(Settings):
    """Settings outside the groups, and the groups that may not be null."""

    seed: Seed
    sample_rate: SampleRate | None
    recalibrate_batch_norm: bool
    save_minutes: PositiveFloat | None
    run_dir: Annotated[str, Field(min_length=1)]
    init: Annotated[str, Field(min_length=1)] | None = None
    max_size_kb: PositiveFloat | None = None
    callbacks: dict[str, Group]
    trainer: Group
    optimizer: Group
    scheduler: Group | None
    data: dict[str, Any]


class Training(Command):
    """Of train.py."""

    checkpoint: Annotated[str, Field(min_length=1)] | None
    compile: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    data: Group
    frontend: Group
    net: Group
    model: Group


class Compression(Command):
    """Of compress.py."""

    checkpoint: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    resume: Annotated[str, Field(min_length=1)] | None
    trusted: list[str]
    phase: Group


def keeps_results(strategy: Any) -> Any:
    """Refuse a strategy that trains in processes whose results do not come back."""
    if isinstance(strategy, str) and strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise ValueError("auto or ddp")
    return strategy


class Trainer(Settings):
    """Of Lightning's Trainer."""

    max_epochs: PositiveInt
    accelerator: str = "auto"
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] | list[NonNegativeInt] = 1
    num_nodes: PositiveInt = 1
    strategy: Annotated[Any, AfterValidator(keeps_results)] = "auto"
    fast_dev_run: Literal[False] = False  # it writes no checkpoint to test
    overfit_batches: Literal[0] = 0  # it replaces our sampler: use limit_train_batches
    gradient_clip_val: PositiveFloat | None = None
    accumulate_grad_batches: PositiveInt = 1
    check_val_every_n_epoch: PositiveInt = 1
    log_every_n_steps: NonNegativeInt = 1
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] = 0
    limit_train_batches: Batches = 1.0
    limit_val_batches: Batches = 1.0
    limit_test_batches: Batches = 1.0


class Optimizer(Settings):
    """Of a class in torch.optim; a learning rate above 100 or a decay above 1 is a typing error."""

    lr: LearningRate = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Scheduler(Settings):
    """Of a class in torch.optim.lr_scheduler."""

    max_lr: LearningRate = 1e-3
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3


def check_settings(cfg: DictConfig) -> None:
    """Check the settings of a command before anything is computed.

    Raises:
        InputError: names the first setting that is wrong.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check("", Compression if "phase" in settings else Training, settings)
    check("trainer", Trainer, settings["trainer"])
    check("optimizer", Optimizer, settings["optimizer"])
    if settings["scheduler"] is not None:
        check("scheduler", Scheduler, settings["scheduler"])
    check_devices(settings["trainer"])


def check(group: str, model: type[Settings], settings: dict[str, Any]) -> None:
    """Check the settings of one group."""
    try:
        model.model_validate(settings)
    except ValidationError as error:
        raise InputError(sentence(group, error)) from error


def check_devices(trainer: dict[str, Any]) -> None:
    """Refuse more processes than one without a strategy, and more than cores on a CPU."""
    devices, strategy = trainer.get("devices", 1), trainer.get("strategy", "auto")
    if not isinstance(devices, int) or devices == 1:
        return
    if strategy == "auto":
        raise InputError(f"invalid trainer.devices={devices} in one process: choose trainer=ddp for several")
    cores = os.cpu_count() or 1
    if trainer.get("accelerator") == "cpu" and devices > cores:
        raise InputError(f"invalid trainer.devices={devices}: expected at most {cores}, the cores of this machine")
