"""Small classifiers, and what is done to them without the command line."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytorch_lightning as pl
import torch
from torch import nn
from torch.ao.nn.intrinsic.qat import freeze_bn_stats

from asc import SceneClassifier
from asc.compress import QAT, Prune
from asc.data.datasets import FeatureBatch
from asc.quantization.convert import ENGINES

BASELINE = {"_target_": "asc.nets.Dcase2020Baseline", "n_bins": 32}
NETS = {"cnn": {}, "baseline": BASELINE}
HERE = [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]


def lived_in(net: nn.Module) -> nn.Module:
    """The network with batch norms such as training leaves them, far from the identity."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.2, 2)
                layer.bias.uniform_(-1, 1)
                layer.running_mean.uniform_(-1, 1)
                layer.running_var.uniform_(0.2, 2)
    return net.eval()


def classifier(net: dict | None = None, frontend: dict | None = None, **changes) -> SceneClassifier:
    """A small untrained classifier of half-second clips, with batch norms that do something."""
    settings = {"n_fft": 512, "win_length": 512, "hop_length": 128, "n_bins": 32, "f_min": 50} | (frontend or {})
    model = SceneClassifier(
        frontend={"_target_": "asc.frontend.Spectrogram", "sample_rate": 8000, **settings},
        net={"_target_": "asc.nets.PhamCNN"} | (net or {}),
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3},
        labels=["indoor", "outdoor", "transportation"],
        clip_samples=4000,
        **changes,
    )
    lived_in(model.net)
    return model.eval()


def save(model: SceneClassifier, path: Path) -> Path:
    """A checkpoint of the model alone."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def clips(model: SceneClassifier, count: int = 8) -> torch.Tensor:
    """Features of noises of different loudness."""
    wave = torch.randn(count, model.clip_samples) * torch.logspace(-3, 0, count).unsqueeze(1)
    with torch.inference_mode():
        return model.frontend(wave)


def observed(model: SceneClassifier, phase: QAT) -> SceneClassifier:
    """The classifier with fake quantization that has seen some clips, its batch norms still as they were."""
    model = phase.begin(model)
    for layer in model.net.train().apply(freeze_bn_stats).modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    with torch.no_grad():
        for _ in range(3):
            model.net(clips(model))
    return model.eval()


def fit(model: SceneClassifier, *callbacks: pl.Callback, epochs: int = 1) -> SceneClassifier:
    """Fine-tune it on noise for a few steps."""
    batches = [FeatureBatch(clips(model).clone(), torch.randint(3, (8,))) for _ in range(2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model.train(), loader)
    return model.eval()


def prune_at_once(model: SceneClassifier, **settings) -> SceneClassifier:
    """The classifier pruned without fine-tuning; `model` itself is, too."""
    phase = Prune(schedule="constant", **settings)
    trainer = pl.Trainer(logger=False, barebones=True, accelerator="cpu", max_epochs=1)
    phase.on_train_epoch_start(trainer, model)
    phase.on_train_end(trainer, model)
    return phase.finish(model)


def logits(model: SceneClassifier, features: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.net(features)


def onnx_logs(path: Path, features: torch.Tensor, engine: str | None = None) -> torch.Tensor:
    """Log probabilities by ONNX Runtime, which differ from logits by a number a clip.

    Files for qnnpack have weights of full 8 bits, whose products overflow the 16-bit sums of x86 processors without
    VNNI: they are run as the floats that they stand for.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if engine == "qnnpack":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.log(session.run(None, {"features": features.numpy()})[0]))


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root of the mean squared difference, over the standard deviation of what is expected."""
    return ((actual - expected).square().mean().sqrt() / expected.std()).item()
