"""This package's contestants: each function does the set-up and returns the function to time."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from asc.benchmark.products import use
from asc.classifier import SceneClassifier
from asc.cli import silence_libraries
from asc.compress import QAT
from asc.export import export
from asc.frontend import Spectrogram
from asc.settings import compose_settings

RATE, SECONDS, CLASSES = 44100, 10, 3


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


def epochs(device: str, threads: int, overrides: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of epochs of train.py, and of the bare steps: the same augmentation, on batches in memory."""
    wait = use(device, threads)
    silence_libraries()
    cfg = compose_settings("train", [*overrides, f"trainer.accelerator={device}", "trainer.max_epochs=1"])
    data = instantiate(cfg.data)
    data.setup()
    model = instantiate(cfg.model, labels=data.labels, clip_samples=data.clip_samples)
    data.cache_features(model.hparams["frontend"], model.frontend, torch.device(device))
    bare_model = copy.deepcopy(model).to(device).train()
    batches = [(x.to(device).float(), target.to(device)) for x, target in data.loader("train", shuffle=True)]
    augment = [instantiate(node) for node in cfg.augmentation.values()]
    bare_step = step(bare_model, "32")
    whole, bare = [], []
    for _ in range(1 + rounds):
        timer = pl.callbacks.Timer()
        settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = instantiate(cfg.trainer, callbacks=[*augment, timer], **settings)
        trainer.fit(model, data)
        whole.append(timer.time_elapsed("train"))
        start = time.perf_counter()
        for index, pair in enumerate(batches):
            batch = list(pair)
            for callback in augment:
                callback.on_train_batch_start(trainer, bare_model, batch, index)
            bare_step(*batch)
        wait()
        bare.append(time.perf_counter() - start)
    return whole[1:], bare[1:]


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
