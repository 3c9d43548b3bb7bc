"""The frontend as ONNX nodes."""

import numpy as np

from asc.errors import InputError
from asc.export.graph import Graph
from asc.frontend import TINY, Frontend, Spectrogram


def add_frontend(graph: Graph, frontend: Frontend) -> None:
    """Add the frontend, from wave (batch, samples) to features (batch, 1, n_bins, frames).

    Raises:
        InputError: it is trainable or not a `Spectrogram`.
    """
    if not isinstance(frontend, Spectrogram):
        raise InputError(f"{type(frontend).__name__} cannot be exported: export the network alone")
    if frontend.trainable:
        raise InputError("a trainable_stft frontend cannot be exported: export the network alone")
    n_fft, half = frontend.n_fft, frontend.n_fft // 2
    left = (n_fft - frontend.win_length) // 2
    window = np.zeros(n_fft, np.float32)
    window[left : left + frontend.win_length] = frontend.window.cpu()
    graph.then("Pad", graph.constant(np.array([0, half, 0, half])), mode="reflect")
    graph.then("Unsqueeze", graph.constant(np.array([2])))  # (batch, samples, 1): real numbers
    step = graph.constant(np.int64(frontend.hop_length))
    graph.then("STFT", step, graph.constant(window))  # (batch, frames, n_fft // 2 + 1, 2)
    graph.then("ReduceL2", axes=[3], keepdims=0)
    if frontend.frames:
        graph.then("Slice", *(graph.constant(np.array([n])) for n in (0, frontend.frames, 1)))
    if frontend.power != 1:
        graph.then("Pow", graph.constant(np.float32(frontend.power)))
    if frontend.weights is not None:
        graph.then("MatMul", graph.constant(frontend.weights.cpu().T))
    if frontend.normalize:
        add_normalized_log(graph, frontend)
    elif frontend.log:
        graph.then("Add", graph.constant(np.float32(frontend.eps)))
        graph.then("Log")
    graph.then("Transpose", perm=[0, 2, 1])
    if frontend.standardized:
        graph.then("Sub", graph.constant(frontend.mean.cpu()))
        graph.then("Div", graph.constant(frontend.std.cpu()))
    graph.then("Unsqueeze", graph.constant(np.array([1])))


def add_normalized_log(graph: Graph, frontend: Spectrogram) -> None:
    """Add `Spectrogram.normalized_log`, of (batch, frames, n_bins)."""
    peak = graph.node("ReduceMax", graph.x, axes=[1, 2])
    graph.then("Div", graph.node("Max", peak, graph.constant(np.float32(TINY))))
    graph.then("Max", graph.constant(np.float32(frontend.floor)))
    clip, band = [1, 2], [1]
    if frontend.normalize == "level":
        square = graph.node("ReduceMean", graph.node("Mul", graph.x, graph.x), axes=clip)
        graph.then("Div", graph.node("Sqrt", square))
        graph.then("Log")
    else:
        graph.then("Log")
        graph.then("Sub", graph.node("ReduceMean", graph.x, axes=clip if frontend.normalize == "clip" else band))
    if not frontend.log:
        graph.then("Exp")
