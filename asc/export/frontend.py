"""The frontend as ONNX nodes."""

import numpy as np

from asc.errors import InputError
from asc.export.graph import Graph
from asc.frontend import MIN_PEAK, Frontend, Spectrogram


def add_frontend(graph: Graph, frontend: Frontend) -> None:
    """Add the frontend, from wave (batch, samples) to features (batch, 1, n_bins, frames).

    Raises:
        InputError: it is trainable or not a `Spectrogram`.
    """
    if not isinstance(frontend, Spectrogram):
        raise InputError(f"cannot export the frontend {type(frontend).__name__}: export the network alone")
    if frontend.trainable:
        raise InputError("cannot export a frontend with trainable_stft=true: export the network alone")
    n_fft, half = frontend.n_fft, frontend.n_fft // 2
    left = (n_fft - frontend.win_length) // 2
    window = np.zeros(n_fft, np.float32)
    window[left : left + frontend.win_length] = frontend.window.cpu()
    graph.append("Pad", graph.constant(np.array([0, half, 0, half])), mode="reflect")
    graph.append("Unsqueeze", graph.constant(np.array([2])))  # (batch, samples, 1): real numbers
    step = graph.constant(np.int64(frontend.hop_length))
    graph.append("STFT", step, graph.constant(window))  # (batch, frames, n_fft // 2 + 1, 2)
    graph.append("ReduceL2", axes=[3], keepdims=0)
    if frontend.frames:
        graph.append("Slice", *(graph.constant(np.array([n])) for n in (0, frontend.frames, 1)))
    if frontend.power != 1:
        graph.append("Pow", graph.constant(np.float32(frontend.power)))
    if frontend.weights is not None:
        graph.append("MatMul", graph.constant(frontend.weights.cpu().T))
    if frontend.normalize:
        add_normalized_log(graph, frontend)
    elif frontend.log:
        graph.append("Add", graph.constant(np.float32(frontend.eps)))
        graph.append("Log")
    graph.append("Transpose", perm=[0, 2, 1])
    if frontend.standardized:
        graph.append("Sub", graph.constant(frontend.mean.cpu()))
        graph.append("Div", graph.constant(frontend.std.cpu()))
    graph.append("Unsqueeze", graph.constant(np.array([1])))


def add_normalized_log(graph: Graph, frontend: Spectrogram) -> None:
    """Add `Spectrogram.normalized_log`, of (batch, frames, n_bins)."""
    peak = graph.node("ReduceMax", graph.x, axes=[1, 2])
    graph.append("Div", graph.node("Max", peak, graph.constant(np.float32(MIN_PEAK))))
    graph.append("Max", graph.constant(np.float32(frontend.floor)))
    clip, band = [1, 2], [1]
    if frontend.normalize == "level":
        square = graph.node("ReduceMean", graph.node("Mul", graph.x, graph.x), axes=clip)
        graph.append("Div", graph.node("Sqrt", square))
        graph.append("Log")
    else:
        graph.append("Log")
        graph.append("Sub", graph.node("ReduceMean", graph.x, axes=clip if frontend.normalize == "clip" else band))
    if not frontend.log:
        graph.append("Exp")
