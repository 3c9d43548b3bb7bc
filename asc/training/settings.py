"""Schema of the settings that our classes do not check: the command's, Lightning's and the optimizer's."""

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


def with_checkpoint(callbacks: dict[str, Any]) -> dict[str, Any]:
    """Reject training without best.ckpt, which is tested at the end."""
    if "checkpoint" not in callbacks:
        raise ValueError("callbacks.checkpoint, which writes best.ckpt")
    return callbacks


Name = Annotated[str, Field(min_length=1)]
LearningRate = Annotated[float, Field(gt=0, le=100)]  # anything larger is a typo
Batches = PositiveInt | Annotated[float, Field(gt=0, le=1)]  # a number, or a fraction of all


class Settings(BaseModel):
    """Settings of a group; the instantiated class checks any others."""

    model_config = ConfigDict(**STRICT, extra="allow", protected_namespaces=())


class Command(Settings):
    """Settings outside the groups."""

    seed: Seed
    sample_rate: SampleRate | None
    recalibrate_batch_norm: bool
    save_minutes: PositiveFloat | None
    max_size_kb: PositiveFloat | None


class Training(Command):
    """Settings of train.py outside the groups."""

    checkpoint: Name | None
    init: Name | None
    compile: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    callbacks: Annotated[dict[str, Any], AfterValidator(with_checkpoint)]


class Compression(Command):
    """Settings of compress.py outside the groups."""

    checkpoint: Name | Annotated[list[str], Field(min_length=1)]
    resume: Name | None
    trusted: list[str]


class Trainer(Settings):
    """Settings of Lightning's Trainer."""

    max_epochs: PositiveInt
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16", 32, 16]
    devices: PositiveInt | Literal["auto"] | list[NonNegativeInt] = 1
    strategy: Literal["auto", "ddp"] = "auto"  # spawned or forked processes do not return results
    fast_dev_run: Literal[False] = False  # it writes no checkpoint to test
    overfit_batches: Literal[0] = 0  # it replaces our sampler: use limit_train_batches
    accumulate_grad_batches: PositiveInt = 1
    check_val_every_n_epoch: PositiveInt = 1
    log_every_n_steps: NonNegativeInt = 1
    num_sanity_val_steps: int = 0
    limit_train_batches: Batches = 1.0
    limit_val_batches: Batches = 1.0
    limit_test_batches: Batches = 1.0


class FineTuner(Trainer):
    """Settings of Lightning's Trainer in compress.py: fake quantization fails in half precision."""

    precision: Literal["32-true", "32", 32]


class Optimizer(Settings):
    """Settings of a class in torch.optim."""

    lr: LearningRate = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Scheduler(Settings):
    """Settings of a class in torch.optim.lr_scheduler."""

    max_lr: LearningRate = 1e-3
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3


def check_settings(cfg: DictConfig) -> None:
    """Check the settings of a command before anything is computed.

    Raises:
        InputError: names the first invalid setting.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    is_compression = "phase" in settings
    if is_compression and settings["net"] and "net" not in settings["phase"]:
        raise InputError(
            "invalid net: expected null, for the network of the checkpoint; only phase=distill trains another"
        )
    groups: dict[str, type[Settings]] = {
        "": Compression if is_compression else Training,
        "trainer": FineTuner if is_compression else Trainer,
        "optimizer": Optimizer,
        "scheduler": Scheduler,
    }
    for group, model in groups.items():
        try:
            model.model_validate((settings[group] if group else settings) or {})
        except ValidationError as error:
            raise InputError(sentence(group, error)) from error
