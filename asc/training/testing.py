"""Test a trained classifier in a single process, even after distributed training."""

from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.ao.nn import quantized as nnq
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from asc.classifier import SceneClassifier
from asc.data import SceneData
from asc.training.callbacks import progress_bar
from asc.training.checkpoints import AtomicCheckpointIO
from asc.training.parts import make_trainer


def make_tester(settings: DictConfig, **changes: Any) -> pl.Trainer:
    """A trainer for this process only, to test each clip once.

    Args:
        settings: settings of the trainer used for training.
        changes: settings to replace.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    single = {
        "strategy": "auto",
        "devices": 1,
        "num_nodes": 1,
        "plugins": [LightningEnvironment(), AtomicCheckpointIO()],
        "precision": "32-true",  # as the network will be used
        **changes,
    }
    return make_trainer(settings, **single, logger=False, enable_checkpointing=False, callbacks=[progress_bar()])


@torch.no_grad()
def recalibrate_batch_norm(model: SceneClassifier, data: SceneData) -> None:
    """Set the running statistics to those of whole, unaugmented training clips, as in inference.

    Training leaves the statistics of its last batches of mixed and masked excerpts. `torch.optim.swa_utils.update_bn`
    would do the same, but with dropout active.
    """
    norms = [
        layer
        for layer in model.net.eval().modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nnq.BatchNorm2d)  # 8-bit layers are fixed
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    batches = data.loader("train", whole=True) if norms else ()
    for batch in tqdm(batches, "recalibrating batch norms", leave=False, disable=None, delay=1):
        features, _ = model.on_after_batch_transfer(model.transfer_batch_to_device(batch, model.device, 0), 0)
        model.net(features)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def validation_accuracy(tester: pl.Trainer, model: SceneClassifier, data: SceneData) -> float | None:
    """Macro-average accuracy on validation clips, the objective of a sweep; None if no clips are held out."""
    return tester.validate(model, data, verbose=False)[0]["val/acc"] if data.clips["val"] else None
