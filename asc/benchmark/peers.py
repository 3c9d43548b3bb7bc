"""The alternatives, on a CPU: Keras and TensorFlow Lite, which the report used, and the gammatone package."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SHAPE, CLASSES = (128, 428, 1), 3
BLOCKS = [  # Table 2 of the report: filters, kernel, pooling and its padding, dropout
    (32, 3, (2, 4), "same", 0.20),
    (64, 3, (2, 2), "same", 0.25),
    (128, 1, (2, 4), "valid", 0.30),
    (256, 1, None, None, 0.35),
]


def has(module: str) -> bool:
    """Whether a module is installed."""
    return importlib.util.find_spec(module) is not None


def gammatone(clips: int) -> Callable[[], None]:
    """Gammatone spectrograms (Table 1) by the gammatone package, which takes one clip at a time."""
    from gammatone.fftweight import fft_gtgram

    waves = 0.05 * np.random.default_rng(0).standard_normal((clips, 441000))

    def run() -> None:
        for wave in waves:
            np.log(fft_gtgram(wave, 44100, 2048 / 44100, 1024 / 44100, 128, 10) + 1e-10)

    return run


@contextmanager
def silent() -> Iterator[None]:
    """Silence what native libraries write to stderr."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def keras_model(threads: int) -> tuple[Any, Any]:
    """TensorFlow, and the report's network in Keras, compiled."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with silent():
        import tensorflow as tf
        from tf_keras import Model, layers, optimizers, regularizers

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    x = inputs = layers.Input(SHAPE)
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


def noise(clips: int) -> np.ndarray:
    """Random features of `clips` clips, scaled as log magnitudes are."""
    return (4 * np.random.default_rng(0).standard_normal((clips, *SHAPE)) - 12).astype(np.float32)


def keras_training(threads: int, batch: int) -> Callable[[], None]:
    """A training step."""
    tf, model = keras_model(threads)
    x, target = tf.constant(noise(batch)), tf.one_hot(np.arange(batch) % CLASSES, CLASSES)

    def run() -> None:
        model.train_on_batch(x, target)

    return run


def keras_inference(threads: int, batch: int) -> Callable[[], None]:
    """Probabilities of a batch of features."""
    tf, model = keras_model(threads)
    x, graph = tf.constant(noise(batch)), tf.function(lambda value: model(value, training=False))

    def run() -> None:
        graph(x).numpy()

    return run


def tflite_integers(threads: int) -> Callable[[], None]:
    """One clip through the untrained network after TensorFlow Lite's full-integer post-training quantization."""
    tf, model = keras_model(2)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([clip[None]] for clip in noise(8))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with silent():
        interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=threads)
        interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise(1))
    return interpreter.invoke
