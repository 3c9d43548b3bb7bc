"""Distributed training on one or many machines, and testing in a single process."""

from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import ParallelStrategy

from asc.errors import SweepError
from asc.training.checkpoints import AtomicCheckpointIO


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse a sweep whose runs would each start processes: Lightning starts them with the sweep's command line.

    Raises:
        SweepError: names the alternatives.
    """
    strategy = trainer.strategy
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_sweep or trainer.world_size == 1:
        return
    if isinstance(strategy, ParallelStrategy) and not strategy.cluster_environment.creates_processes_externally:  # type: ignore[union-attr]
        raise SweepError(
            f"a sweep (-m) cannot train each run in {trainer.world_size} processes: "
            "set trainer=default for one device a run, or start the runs one by one"
        )


def single_process_trainer(settings: DictConfig, callbacks: list[pl.Callback], **changes: Any) -> pl.Trainer:
    """A trainer for this process only, which tests each clip once, even after distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    single = {
        "strategy": "auto",
        "devices": 1,
        "num_nodes": 1,
        "plugins": [LightningEnvironment(), AtomicCheckpointIO()],
        **changes,
    }
    return instantiate(settings, **single, logger=False, enable_checkpointing=False, callbacks=callbacks)
