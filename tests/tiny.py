"""A tiny dataset in the TAU layout: 36 clips of 2 s at 16 kHz that differ in plain ways, to train on in a second, and
classes such as a user would bring."""

import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from torch import nn

from asc import SceneClassifier
from asc.compress import Phase
from asc.frontend import Frontend
from asc.nets import PhamCNN
from asc.nets.layers import MaxPoolOverTime

RATE, SECONDS = 16000, 2
SETTINGS = [f"sample_rate={RATE}", "data.num_workers=0", "data.batch_size=4", "trainer.max_epochs=2"]


def sound(scene: str, rng: np.random.Generator) -> np.ndarray:
    """Noise below 1 kHz, noise above 3 kHz, or a tone that comes and goes."""
    time = np.arange(RATE * SECONDS) / RATE
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    frequency = np.fft.rfftfreq(len(time), 1 / RATE)
    if scene == "indoor":
        return np.fft.irfft(spectrum * (frequency < 1000)) * 0.1
    if scene == "outdoor":
        return np.fft.irfft(spectrum * (frequency > 3000)) * 0.1
    return 0.1 * np.sin(2 * np.pi * 2000 * time) * (1 + np.sin(2 * np.pi * 4 * time)) + 1e-3 * np.fft.irfft(spectrum)


class OwnNet(PhamCNN):
    """A network from outside the package, as a user would bring one."""


class FixedNet(OwnNet):
    """A network whose width cannot be chosen."""

    def __init__(self, n_classes: int):
        super().__init__(n_classes)


class NoBias(PhamCNN):
    """A network whose convolutions leave the shift to batch norm."""

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.bias = None


class Plain(nn.Sequential):
    """A network without batch norm and dropout: what it learns of a clip does not depend on the clips beside it."""

    def __init__(self, n_classes: int, **others: object):  # those of PhamCNN, in whose place it is named
        pooled = MaxPoolOverTime(height=32)  # 128 bins to 4
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), pooled, nn.Flatten(), nn.Linear(4 * 8, n_classes))


class Rounded(Phase):
    """A phase of compression from outside the package: weights rounded to whole steps, then fine-tuned, then again.

    Args:
        steps: for 1.
    """

    def __init__(self, steps: int = 16):
        self.steps = steps

    def begin(self, model: SceneClassifier) -> SceneClassifier:
        return self.rounded(model)

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return self.rounded(model).with_net(model.net, stage="pruned")

    def rounded(self, model: SceneClassifier) -> SceneClassifier:
        with torch.no_grad():
            for value in model.net.parameters():
                value.copy_((value * self.steps).round() / self.steps)
        return model


class Thirds(Frontend):
    """A frontend from outside the package: log magnitudes of frames of 20 ms, every third frequency."""

    log = True

    def __init__(self, sample_rate: int):
        super().__init__()
        self.sample_rate = sample_rate

    @property
    def min_samples(self) -> int:
        return self.sample_rate // 50

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        frames = wave.unfold(-1, self.min_samples, self.min_samples)  # (batch, frames, samples)
        return (torch.fft.rfft(frames).abs()[..., ::3] + 1e-6).log().transpose(1, 2).unsqueeze(1)


class CtrlC(pl.Callback):
    """Presses Ctrl-C in the midst of an epoch, or sends another signal.

    Args:
        epoch: its number, from 0.
        signal: its name.
        batch: its number, from 0.
    """

    def __init__(self, epoch: int, signal: str = "SIGINT", batch: int = 1):
        self.epoch, self.signal, self.batch = epoch, signal, batch

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: list, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            signal.raise_signal(signal.Signals[self.signal])


def ctrl_c(epoch: int, signal: str = "SIGINT", batch: int = 1) -> list[str]:
    """Words of a command line that is interrupted so."""
    node = {"_target_": "tiny.CtrlC", "epoch": epoch, "signal": signal, "batch": batch}
    return [f"+callbacks.ctrl_c.{name}={value}" for name, value in node.items()]


class Score(pl.Callback):
    """A metric of validation that is what the test says.

    Args:
        values: of the epochs, logged as val/score.
    """

    def __init__(self, values: list[float]):
        self.values = values

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        model.log("val/score", self.values[trainer.current_epoch])


PLAIN = [  # arguments of a run that rounding changes little
    "net._target_=tiny.Plain",
    "frontend.standardize=true",
    "augmentation=[]",
    "optimizer._target_=torch.optim.SGD",  # Adam divides by the gradient's size
    "optimizer.lr=0.1",
]


def write_list(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def write_tiny(root: Path) -> Path:
    """Six locations a class, two of them for test, two clips each."""
    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    meta, train, test = [], [], []
    for number, scene in enumerate(["indoor", "outdoor", "transportation"]):
        for location in range(6):
            for segment in range(2):
                place = f"oslo-{100 * number + location}"
                name = f"audio/{scene}-{place}-{segment}-a.wav"
                soundfile.write(root / name, sound(scene, rng), RATE)
                meta.append(f"{name}\t{scene}\t{place}\ta")
                (train if location < 4 else test).append(f"{name}\t{scene}")
    write_list(root / "meta.csv", "filename\tscene_label\tidentifier\tsource_label", meta)
    write_list(root / "evaluation_setup/fold1_train.csv", "filename\tscene_label", train)
    write_list(root / "evaluation_setup/fold1_evaluate.csv", "filename\tscene_label", test)
    return root


def encode(path: Path, wave: np.ndarray, rate: int = 44100, codec: str | None = None, **options: str) -> Path:
    """Write wave (channels, samples) by FFmpeg, as the suffix says; `options` are the container's."""
    layout = "mono" if len(wave) == 1 else "stereo"
    with av.open(str(path), "w", options=options) as container:
        name = codec or container.default_audio_codec
        stream: Any = container.add_stream(name, rate=rate, layout=layout)
        to_format = av.AudioResampler(stream.codec_context.codec.audio_formats[0].name, layout, rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave, np.float32), "fltp", layout)
        frame.sample_rate = rate
        for part in [*to_format.resample(frame), *to_format.resample(None), None]:
            container.mux(stream.encode(part))
    return path
