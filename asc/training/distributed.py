"""Training shared by several processes, on the devices of one machine or of many; the test is one process's."""

from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import ParallelStrategy

from asc.errors import InputError
from asc.training.checkpoints import AtomicCheckpointIO


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse a sweep whose runs would each start processes: these are started by the sweep's own command line.

    Raises:
        InputError: says what else can be done.
    """
    strategy = trainer.strategy
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_sweep or trainer.world_size == 1:
        return
    if isinstance(strategy, ParallelStrategy) and not strategy.cluster_environment.creates_processes_externally:  # type: ignore[union-attr]
        raise InputError(
            f"a sweep (-m) cannot train each run in {trainer.world_size} processes: "
            "give trainer=default, one device a run, or start the runs one by one"
        )


def single_process_trainer(settings: DictConfig, callbacks: list[pl.Callback], **changes: Any) -> pl.Trainer:
    """A trainer of this process alone, which tests each clip once, whatever number of processes has trained."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    alone = {
        "strategy": "auto",
        "devices": 1,
        "num_nodes": 1,
        "plugins": [LightningEnvironment(), AtomicCheckpointIO()],
        **changes,
    }
    return instantiate(settings, **alone, logger=False, enable_checkpointing=False, callbacks=callbacks)
