"""This package's candidates: each function does the set-up and returns the function to time."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from asc.classifier import SceneClassifier
from asc.compress import QAT
from asc.export import export
from asc.frontend import Spectrogram
from asc.machine import keep_freed_memory

RATE, SECONDS, CLASSES = 44100, 10, 3
MATRIX = 2048  # rows and columns of the matrices whose product bounds the arithmetic


def use(device: str, threads: int) -> Callable[[], None]:
    """Set the number of threads; return the function that waits for the device."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return torch.get_device_module(device).synchronize


def classifier() -> SceneClassifier:
    """The report's system, untrained."""
    return SceneClassifier(
        frontend={"_target_": "asc.frontend.Spectrogram", "sample_rate": RATE},
        net={"_target_": "asc.nets.PhamCNN"},
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-4},
        labels=[str(number) for number in range(CLASSES)],
        clip_samples=RATE * SECONDS,
    )


def inferring(function: Callable[[Tensor], Tensor], x: Tensor, wait: Callable[[], None]) -> Callable[[], None]:
    """What computes `function` of x without gradients, and waits for the device."""

    @torch.inference_mode()
    def run() -> None:
        function(x)
        wait()

    return run


def frontend(device: str, threads: int, clips: int) -> Callable[[], None]:
    """Features of a batch of clips."""
    wait = use(device, threads)
    layer = classifier().frontend.to(device)
    waves = 0.05 * torch.randn(clips, RATE * SECONDS, device=device)
    return inferring(layer, waves, wait)


def fourier(device: str, threads: int, clips: int) -> Callable[[], None]:
    """The bound on `frontend`: its FFTs, on frames already cut."""
    wait = use(device, threads)
    layer = classifier().frontend
    assert isinstance(layer, Spectrogram)
    frames = torch.randn(clips, RATE * SECONDS // layer.hop_length + 1, layer.n_fft, device=device)
    return inferring(torch.fft.rfft, frames, wait)


def products(device: str, threads: int, size: int = MATRIX) -> Callable[[], None]:
    """The bound on arithmetic: a product of two matrices, size^3 multiply-accumulates."""
    wait = use(device, threads)
    left, right = torch.randn(2, size, size, device=device)
    return inferring(left.matmul, right, wait)


def step(model: SceneClassifier, precision: str) -> Callable[[Tensor, Tensor], None]:
    """One training step on features and soft labels in plain PyTorch."""
    optimizer = instantiate(model.hparams["optimizer"], params=model.parameters())
    bfloat16 = precision == "bf16"

    def run(x: Tensor, target: Tensor) -> None:
        if target.ndim == 1:
            target = F.one_hot(target, len(model.labels)).to(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            log_probs = F.log_softmax(model.net(x), dim=-1)
        loss = F.kl_div(log_probs, target, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def training(device: str, threads: int, batch: int, precision: str = "32", compiled: bool = False) -> Callable:
    """A training step."""
    wait = use(device, threads)
    model = classifier().to(device).train()
    if compiled:
        model.net.compile(mode="reduce-overhead")
    x = torch.randn(batch, 1, 128, 428, device=device)
    target = torch.rand(batch, CLASSES, device=device).softmax(-1)
    one = step(model, precision)

    def run() -> None:
        one(x, target)
        wait()

    return run


def inference(device: str, threads: int, batch: int) -> Callable[[], None]:
    """Logits of a batch of features."""
    wait = use(device, threads)
    net = classifier().folded().net.to(device)
    x = torch.randn(batch, 1, 128, 428, device=device)
    return inferring(net, x, wait)


def integers() -> SceneClassifier:
    """The report's system in 8 bits, batch norms folded, untrained, with ranges observed on noise."""
    phase = QAT()
    model = phase.begin(classifier())
    model.net.train()(4 * torch.randn(4, 1, 128, 428) - 12)
    return phase.finish(model)


def pytorch_integers(threads: int) -> Callable[[], None]:
    """One clip through PyTorch's integer kernels."""
    wait = use("cpu", threads)
    return inferring(integers().net, 4 * torch.randn(1, 1, 128, 428) - 12, wait)


def onnx_integers(threads: int) -> Callable[[], None]:
    """One clip through ONNX Runtime's integer kernels."""
    import onnxruntime

    use("cpu", threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(str(export(integers(), Path(folder) / "model.onnx")), options)
    features = {"features": (4 * torch.randn(1, 1, 128, 428) - 12).numpy()}

    def run() -> None:
        session.run(None, features)

    return run
