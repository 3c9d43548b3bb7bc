"""This package's contestants: each function prepares one and returns what is to be timed."""

import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from asc.classifier import SceneClassifier
from asc.cli import silence_libraries
from asc.compress import QAT
from asc.export import export
from asc.training.memory import keep_freed_memory
from asc.training.run import Run

RATE, SECONDS, CLASSES = 44100, 10, 3


def on(device: str, threads: int) -> Callable[[], None]:
    """Settle where to compute; what waits until that has been done."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def classifier() -> SceneClassifier:
    """The report's system, untrained."""
    return SceneClassifier(
        frontend={"_target_": "asc.frontend.Spectrogram", "sample_rate": RATE},
        net={"_target_": "asc.nets.PhamCNN"},
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-4},
        labels=[str(number) for number in range(CLASSES)],
        clip_samples=RATE * SECONDS,
    )


def frontend(device: str, threads: int, clips: int) -> Callable[[], None]:
    """Features of so many clips at once."""
    wait = on(device, threads)
    layer = classifier().frontend.to(device)
    waves = 0.05 * torch.randn(clips, RATE * SECONDS, device=device)

    def run() -> None:
        with torch.inference_mode():
            layer(waves)
        wait()

    return run


def fourier(device: str, threads: int, clips: int) -> Callable[[], None]:
    """The bound of `frontend`: its Fourier transforms alone, of frames that lie ready."""
    wait = on(device, threads)
    layer = classifier().frontend
    frames = torch.randn(clips, RATE * SECONDS // layer.hop_length + 1, layer.n_fft, device=device)

    def run() -> None:
        with torch.inference_mode():
            torch.fft.rfft(frames)
        wait()

    return run


def products(device: str, threads: int, size: int) -> Callable[[], None]:
    """The bound of arithmetic: a product of two matrices, size^3 multiply-adds."""
    wait = on(device, threads)
    left, right = torch.randn(2, size, size, device=device)

    def run() -> None:
        left @ right
        wait()

    return run


def step(model: SceneClassifier, precision: str) -> Callable[[Tensor, Tensor], None]:
    """One training step on features and soft targets, as plain PyTorch."""
    optimizer = instantiate(model.hparams["optimizer"], params=model.parameters())
    narrow = precision == "bf16"

    def run(x: Tensor, target: Tensor) -> None:
        if target.ndim == 1:
            target = F.one_hot(target, len(model.labels)).to(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=narrow):
            log_probs = F.log_softmax(model.net(x), dim=-1)
        loss = F.kl_div(log_probs, target, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def training(device: str, threads: int, batch: int, precision: str = "32", compiled: bool = False) -> Callable:
    """A training step."""
    wait = on(device, threads)
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
    wait = on(device, threads)
    net = classifier().folded().net.to(device)
    x = torch.randn(batch, 1, 128, 428, device=device)

    def run() -> None:
        with torch.inference_mode():
            net(x)
        wait()

    return run


class Clock(pl.Callback):
    """Seconds of the training's epochs, checkpoints included."""

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Start in the first epoch."""
        if trainer.current_epoch == 0:
            self.start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def compose_settings(device: str, words: Sequence[str]) -> DictConfig:
    """The settings of train.py for these words of its command line."""
    accelerator = "gpu" if device == "cuda" else device
    with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        return compose("train", [*words, f"trainer.accelerator={accelerator}", "trainer.max_epochs=1"])


def epochs(device: str, threads: int, words: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of epochs of train.py, and of their bare steps in turn: augmentation included, all clips in memory."""
    wait = on(device, threads)
    silence_libraries()
    cfg = compose_settings(device, words)
    data = instantiate(cfg.data)
    data.setup()
    model = instantiate(cfg.model, labels=data.labels, clip_samples=data.clip_samples)
    path = data.cache_path(model.hparams["frontend"])
    data.build_cache(path, model.frontend, torch.device(device))
    data.load_cache(path, torch.device(device))
    plain = copy.deepcopy(model).to(device).train()
    batches = [(x.to(device).float(), target.to(device)) for x, target in data.loader("train", shuffle=True)]
    augment = [instantiate(node) for name, node in cfg.callbacks.items() if name != "checkpoint"]
    one = step(plain, "32")
    whole, bare = [], []
    for _ in range(1 + rounds):
        clock = Clock()
        run = Run(cfg, model, data, Path(cfg.run_dir) / "checkpoints/last.ckpt", callbacks=[clock])
        with contextlib.redirect_stdout(io.StringIO()):
            run.fit(resume=None)
        whole.append(clock.seconds)
        start = time.perf_counter()
        for number, pair in enumerate(batches):
            batch = list(pair)
            for callback in augment:
                callback.on_train_batch_start(run.trainer, plain, batch, number)
            one(*batch)
        wait()
        bare.append(time.perf_counter() - start)
    return whole[1:], bare[1:]


def integers() -> SceneClassifier:
    """The report's system in 8 bits, batch norms folded; untrained, ranges of values from noise."""
    phase = QAT()
    model = phase.begin(classifier())
    model.net.train()(4 * torch.randn(4, 1, 128, 428) - 12)
    return phase.finish(model)


def pytorch_integers(threads: int) -> Callable[[], None]:
    """A clip through PyTorch's integer kernels."""
    on("cpu", threads)
    net, x = integers().net, 4 * torch.randn(1, 1, 128, 428) - 12

    def run() -> None:
        with torch.inference_mode():
            net(x)

    return run


def onnx_integers(threads: int) -> Callable[[], None]:
    """A clip through ONNX Runtime's."""
    import onnxruntime

    on("cpu", threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(str(export(integers(), Path(folder) / "model.onnx")), options)
    features = {"features": (4 * torch.randn(1, 1, 128, 428) - 12).numpy()}

    def run() -> None:
        session.run(None, features)

    return run
