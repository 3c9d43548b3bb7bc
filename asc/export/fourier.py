"""The magnitude of the short-time Fourier transform as ONNX nodes: products of matrices.

ONNX Runtime's own STFT takes several times as long. A transform of n = rows * columns samples is two steps of shorter
ones (Cooley and Tukey, 1965). With sample columns * i + j and frequency k = a + rows * b,

    y[a, j] = sum over i of x[columns * i + j] exp(2 pi sqrt(-1) columns i a / n)
    X[k]    = sum over j of y[a, j] exp(2 pi sqrt(-1) j k / n).

The samples are real, so a up to rows / 2 is enough: the magnitude at n - k is that at k. Frames shorter than the
transform need few i. Angles are integers modulo n until the sine, so that float32 keeps them exact.
"""

import numpy as np
from onnx import TensorProto

from asc.export.graph import Graph
from asc.frontend import Spectrogram


def add_magnitudes(graph: Graph, frontend: Spectrogram, samples: int) -> np.ndarray:
    """Add the magnitudes, from wave (batch, samples) to (batch, frames, values).

    Returns:
        index of the frequency (values,) of each value, from 0 to n_fft // 2; some occur twice.
    """
    n, length = frontend.n_fft, frontend.win_length
    columns = min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: length / d + 2 * d)  # fewest operations
    rows, used = n // columns, -(-length // columns)  # used rows of samples; the others are zero
    half = rows // 2 + 1
    frames = add_frames(graph, frontend, samples, used * columns)

    a, i = np.arange(half)[:, None], np.arange(used)
    first = graph.node("Concat", *circle(graph, n, a, columns * i), axis=0)  # (2 half, used)
    graph.append("Reshape", graph.constant(np.array([-1, used, columns])))
    graph.x = graph.node("MatMul", first, graph.x)
    graph.append("Reshape", graph.constant(np.array([-1, 2, half, columns])))
    graph.append("Transpose", perm=[2, 0, 1, 3])
    graph.append("Reshape", graph.constant(np.array([half, -1, 2 * columns])))  # real and imaginary parts

    j, k = np.arange(columns)[:, None], a[..., None] + rows * np.arange(columns)
    cosine, sine = circle(graph, n, j, k)  # (half, columns, columns)
    rotations = [graph.node("Concat", *part, axis=1) for part in ((cosine, graph.node("Neg", sine)), (sine, cosine))]
    parts = [graph.node("MatMul", graph.x, rotation) for rotation in rotations]
    graph.x = graph.node("Sqrt", graph.node("Add", *(graph.node("Mul", part, part) for part in parts)))
    graph.append("Transpose", perm=[1, 0, 2])
    graph.append("Reshape", graph.constant(np.array([-1, frames, half * columns])))
    return np.minimum(k, n - k).ravel()


def add_frames(graph: Graph, frontend: Spectrogram, samples: int, length: int) -> int:
    """Add windowed frames of `length` samples, zeros after the window; return their number."""
    n, hop, window = frontend.n_fft, frontend.hop_length, np.zeros(length, np.float32)
    window[: frontend.win_length] = frontend.window.cpu()
    count = 1 + (samples + n // 2 * 2 - n) // hop
    frames = min(count, frontend.frames or count)
    pieces = -(-length // hop)  # of a frame, each a hop
    left = n // 2 - (n - frontend.win_length) // 2
    right = max(0, (frames + pieces - 1) * hop - left - samples)
    reflected = min(right, n // 2)
    pads = [
        graph.constant(np.array([0, before, 0, after])) for before, after in ((left, reflected), (0, right - reflected))
    ]
    graph.append("Pad", pads[0], mode="reflect")
    graph.append("Pad", pads[1])  # what the window makes zero
    bounds = [graph.constant(np.array([value])) for value in (0, (frames + pieces - 1) * hop, 1)]
    graph.append("Slice", *bounds)
    graph.append("Reshape", graph.constant(np.array([0, -1, hop])))
    one = graph.constant(np.array([1]))
    starts = [(graph.constant(np.array([p])), graph.constant(np.array([p + frames]))) for p in range(pieces)]
    graph.x = graph.node("Concat", *(graph.node("Slice", graph.x, *ends, one) for ends in starts), axis=2)
    zero, end, axis = (graph.constant(np.array([value])) for value in (0, length, 2))
    graph.append("Slice", zero, end, axis)
    graph.append("Mul", graph.constant(window))
    return frames


def circle(graph: Graph, n: int, one: np.ndarray, other: np.ndarray) -> tuple[str, str]:
    """Cosine and sine of 2 pi one * other / n, integers; ONNX Runtime computes them once, when it loads the file."""
    product = graph.node("Mul", *(graph.constant(factor.astype(np.int32)) for factor in (one, other)))
    turns = graph.node("Cast", graph.node("Mod", product, graph.constant(np.int32(n))), to=TensorProto.FLOAT)
    angle = graph.node("Mul", turns, graph.constant(np.float32(2 * np.pi / n)))
    return graph.node("Cos", angle), graph.node("Sin", angle)
