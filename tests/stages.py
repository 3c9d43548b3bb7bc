"""A classifier at every stage, and what ONNX Runtime makes of its file."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tiny import classifier, lived_in, save
from torch import nn
from torch.ao.nn.intrinsic.qat import freeze_bn_stats

from asc import SceneClassifier
from asc.compress import QAT
from asc.rewrite.quantize import ENGINES

__all__ = ["HERE", "classifier", "clips", "error", "fake_quantized", "lived_in", "logits", "onnx_logs", "save"]
HERE = [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]


def clips(model: SceneClassifier, count: int = 8) -> torch.Tensor:
    """Features of noises of different loudness."""
    wave = torch.randn(count, model.clip_samples) * torch.logspace(-3, 0, count).unsqueeze(1)
    with torch.inference_mode():
        return model.frontend(wave)


def fake_quantized(model: SceneClassifier, phase: QAT) -> SceneClassifier:
    """The classifier with fake quantization that has seen some clips, its batch norms still as they were."""
    model = phase.begin(model)
    model.net.train().apply(freeze_bn_stats)
    for layer in model.net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    with torch.no_grad():
        for _ in range(3):
            model.net(clips(model))
    return model.eval()


def logits(model: SceneClassifier, features: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.net(features)


def onnx_logs(path: Path, features: torch.Tensor) -> torch.Tensor:
    """Log probabilities by ONNX Runtime, which differ from logits by a number a clip."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.log(session.run(None, {"features": features.numpy()})[0]))


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root of the mean squared difference, over the deviation of what is expected."""
    return ((actual - expected).square().mean().sqrt() / expected.std()).item()
