"""Batch norms' running statistics, measured again after training."""

import torch
from torch.ao.nn import quantized as nnq
from torch.nn.modules.batchnorm import _BatchNorm

from asc.classifier import SceneClassifier
from asc.data import SceneData


@torch.no_grad()
def recalibrate_batch_norm(model: SceneClassifier, data: SceneData) -> None:
    """Set the running statistics to those of whole training clips without augmentation, as inference gets them.

    Training leaves the statistics of its last batches of mixed and masked excerpts. `torch.optim.swa_utils.update_bn`
    would do the same, but with dropout active.
    """
    norms = [
        layer
        for layer in model.net.eval().modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nnq.BatchNorm2d)  # 8-bit ones measure nothing
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    for batch in data.loader("train", whole=True) if norms else ():
        features, _ = model.on_after_batch_transfer([part.to(model.device) for part in batch], 0)
        model.net(features)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
