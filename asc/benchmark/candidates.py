"""What is timed: each function does the set-up, in a process of its own, and returns the function to time."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from asc.audio import read_wave, resample_stream
from asc.classifier import SceneClassifier
from asc.compress import QAT
from asc.export import export, export_frontend
from asc.inference import Classifier, OnnxClassifier, predict_files
from asc.machine import keep_freed_memory
from asc.session import open_session

RATE, SECONDS, CLASSES = 44100, 10, 3
FILES = 24  # recordings to predict
WINDOW, HOP, BINS, FRAMES = 2048, 1024, 128, 428  # the frontend's defaults
MATRIX = 2048  # rows and columns of the matrices whose product bounds the arithmetic
BLOCKS = [  # Table 2 of the report: filters, kernel, pooling and its padding, dropout
    (32, 3, (2, 4), "same", 0.20),
    (64, 3, (2, 2), "same", 0.25),
    (128, 1, (2, 4), "valid", 0.30),
    (256, 1, None, None, 0.35),
]


def pytorch(threads: int, make: Callable[..., Callable], *arguments: Any) -> Callable[[], object]:
    """A candidate of PyTorch, set up as train.py does, with a number of threads."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return make(*arguments)


def noise(clips: int, device: str = "cpu") -> Tensor:
    """Features (clips, 1, bins, frames) of noise, scaled as log magnitudes are."""
    return 4 * torch.randn(clips, 1, BINS, FRAMES, device=device) - 12


def classifier() -> SceneClassifier:
    """The report's system, untrained."""
    return SceneClassifier(
        frontend={"_target_": "asc.frontend.Spectrogram", "sample_rate": RATE},
        net={"_target_": "asc.nets.PhamCNN"},
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-4},
        labels=[str(number) for number in range(CLASSES)],
        clip_samples=RATE * SECONDS,
    )


def frontend(device: str, clips: int) -> Callable[[], Tensor]:
    """Features of a batch of clips."""
    waves = 0.05 * torch.randn(clips, RATE * SECONDS, device=device)
    return torch.inference_mode()(partial(classifier().frontend.to(device), waves))


def fourier(device: str, clips: int) -> Callable[[], Tensor]:
    """The bound on `frontend`: its FFTs, on frames already cut."""
    return partial(torch.fft.rfft, torch.randn(clips, RATE * SECONDS // HOP + 1, WINDOW, device=device))


def products(device: str, size: int = MATRIX) -> Callable[[], Tensor]:
    """The bound on arithmetic: a product of two matrices, size^3 multiply-accumulates."""
    left, right = torch.randn(2, size, size, device=device)
    return partial(left.matmul, right)


def step(model: SceneClassifier, dtype: torch.dtype = torch.float32) -> Callable[[Tensor, Tensor], None]:
    """One training step on features and labels, hard or soft, in plain PyTorch; bfloat16 by autocast."""
    optimizer = instantiate(model.hparams["optimizer"], params=model.parameters())

    def run(x: Tensor, target: Tensor) -> None:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model.net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def training(device: str, batch: int, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """A training step."""
    model = classifier().to(device).train()
    return partial(step(model, dtype), noise(batch, device), torch.rand(batch, CLASSES, device=device).softmax(-1))


def inference(device: str, batch: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """Logits of a batch of features; bfloat16 by autocast."""
    precision = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    return torch.inference_mode()(precision(partial(classifier().folded().net.to(device), noise(batch, device))))


def integers() -> SceneClassifier:
    """The report's system in 8 bits, batch norms folded, untrained, with ranges observed on noise."""
    phase = QAT()
    model = phase.begin(classifier())
    model.net.train()(noise(4))
    return phase.finish(model)


def pytorch_integers() -> Callable[[], Tensor]:
    """One clip through PyTorch's integer kernels."""
    return torch.inference_mode()(partial(integers().net, noise(1)))


def onnx_integers() -> Callable[[], list]:
    """One clip through ONNX Runtime's integer kernels."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export(integers(), Path(folder, "model.onnx")), threads=1)
    return partial(session.run, None, {"features": noise(1).numpy()})


@cache
def recordings() -> tuple[Path, list[Path]]:
    """A folder, removed with this process, and recordings in it: noise at 48 kHz, stereo, 24 bits."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    files = [folder / f"{number}.wav" for number in range(FILES)]
    for file in files:
        noise = 0.05 * np.random.default_rng(0).standard_normal((48000 * SECONDS, 2))
        soundfile.write(file, noise, 48000, subtype="PCM_24")
    return folder, files


def onnx_classifier() -> OnnxClassifier:
    """The report's system in 8 bits, exported."""
    folder, _ = recordings()
    model = integers()
    export_frontend(model, folder / "frontend.onnx")
    return OnnxClassifier(export(model, folder / "model.onnx"), threads=1)


def prediction(threads: int, make: Callable[[], Classifier]) -> Callable[[], list]:
    """All recordings to probabilities, as asc.predict computes them."""
    _, files = recordings()
    classifier = make()
    return lambda: list(predict_files(classifier, files, threads=threads))


def librosa_prediction(threads: int) -> Callable[[], None]:
    """All recordings to probabilities, by the script that one would write."""
    import librosa

    _, files = recordings()
    path = onnx_classifier().path
    sessions = [open_session(file, threads) for file in (path.with_name("frontend.onnx"), path)]

    def run() -> None:
        for file in files:
            wave, _ = librosa.load(file, sr=RATE)
            x = wave[None]
            for session in sessions:
                (x,) = session.run(None, {session.get_inputs()[0].name: x})

    return run


def decoding() -> Callable[[], np.ndarray]:
    """A recording to the samples of its first channel."""
    _, (file, *_) = recordings()
    return partial(read_wave, file, 48000)


def resampling() -> Callable[[], list[np.ndarray]]:
    """The samples of a recording to the network's rate."""
    wave = decoding()()
    return lambda: list(resample_stream([wave], 48000, RATE))


def onnx_frontend() -> Callable[[], list]:
    """Features of one clip by ONNX Runtime."""
    session = onnx_classifier().sessions[0]
    return partial(session.run, None, {"wave": 0.05 * torch.randn(1, RATE * SECONDS).numpy()})


def gammatone(clips: int) -> Callable[[], None]:
    """Gammatone spectrograms (Table 1) by the gammatone package, which takes one clip at a time."""
    from gammatone.fftweight import fft_gtgram

    waves = 0.05 * np.random.default_rng(0).standard_normal((clips, RATE * SECONDS))

    def run() -> None:
        for wave in waves:
            np.log(fft_gtgram(wave, RATE, WINDOW / RATE, HOP / RATE, BINS, 10) + 1e-10)

    return run


def keras_model(threads: int) -> tuple[Any, Any]:
    """TensorFlow, and the report's network in Keras, compiled."""
    import tensorflow as tf
    from tf_keras import Model, layers, optimizers, regularizers

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    x = inputs = layers.Input((BINS, FRAMES, 1))
    l2 = regularizers.l2(0.5e-4)
    for filters, kernel, pool, padding, dropout in BLOCKS:
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(filters, kernel, padding="same", activation="relu", kernel_regularizer=l2)(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(pool, padding=padding)(x) if pool else layers.GlobalMaxPooling2D()(x)
        x = layers.Dropout(dropout)(x)
    model = Model(inputs, layers.Dense(CLASSES, activation="softmax", kernel_regularizer=l2)(x))
    model.compile(optimizer=optimizers.Adam(1e-3), loss="kullback_leibler_divergence")
    return tf, model


def keras_training(threads: int, batch: int) -> Callable[[], None]:
    """A training step of Keras."""
    tf, model = keras_model(threads)
    target = tf.one_hot(np.arange(batch) % CLASSES, CLASSES)
    return partial(model.train_on_batch, tf.constant(noise(batch).movedim(1, -1).numpy()), target)


def keras_inference(threads: int, batch: int) -> Callable[[], None]:
    """Probabilities of a batch of features by Keras."""
    tf, model = keras_model(threads)
    x, graph = tf.constant(noise(batch).movedim(1, -1).numpy()), tf.function(lambda value: model(value, training=False))
    return lambda: graph(x).numpy()


def tflite_integers() -> Callable[[], None]:
    """One clip through the untrained network after TensorFlow Lite's full-integer post-training quantization."""
    tf, model = keras_model(threads=2)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([clip[None]] for clip in noise(8).movedim(1, -1).numpy())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise(1).movedim(1, -1).numpy())
    return interpreter.invoke
