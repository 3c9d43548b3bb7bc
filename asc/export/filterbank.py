"""The frontend's filterbank as ONNX nodes: a gammatone filterbank by its formula, in 20 KB instead of 1 MB."""

import numpy as np
from onnx import TensorProto

from asc.export.graph import Graph
from asc.frontend import Spectrogram

TOLERANCE = 1e-5  # of a band's largest weight


def add_filterbank(graph: Graph, frontend: Spectrogram, frequencies: np.ndarray) -> None:
    """Add the product with the filterbank, of (batch, frames, values) at these `frequencies`."""
    assert frontend.weights is not None
    weights = frontend.weights.cpu().double().numpy()
    name = ""
    if frontend.filterbank == "gammatone":
        halves, near, far, angles = gammatone(frontend)
        scale = weights.max(1) / response(halves, near, far, angles).max(0)
        error = np.abs(scale * response(halves, near, far, angles) - weights.T).max(0) / weights.max(1)
        if error.max() < TOLERANCE:
            name = add_response(graph, halves, near, far, angles, scale)
    name = name or graph.constant(weights.T.astype(np.float32))
    rows = graph.node("Gather", name, graph.constant(frequencies.astype(np.int32)), axis=0)
    count = graph.constant(np.bincount(frequencies)[frequencies, None].astype(np.uint8))
    graph.append("MatMul", graph.node("Div", rows, graph.node("Cast", count, to=TensorProto.FLOAT)))


def gammatone(frontend: Spectrogram) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The parameters of `response`: zeros and poles of gammatone filters (Slaney, 1993) in Ellis' weights.

    Each band has the poles r exp(+-i theta), four times, and four zeros r (cos(theta) +- sqrt(3 +- 2^1.5) sin(theta)).
    The weight of a frequency phi is the product of its distances |exp(i phi) - p| from the zeros, over that from the
    poles to the power 4. With p = rho exp(i alpha), without a difference of nearly equal numbers,

        |exp(i phi) - p|^2 = (1 - rho)^2 + 4 rho sin((phi - alpha) / 2)^2.

    Returns:
        phi / 2 (bins, 1); (1 - rho)^2, 4 rho and alpha / 2, each (6, 1, bands), of the zeros and the two poles.
    """
    rate, (f_min, f_max), bands = frontend.sample_rate, frontend.f_range, frontend.weights.shape[0]  # type: ignore
    quality, min_width = 9.26449, 24.7  # Glasberg and Moore, 1990
    offset = quality * min_width
    step = np.log((f_min + offset) / (f_max + offset)) / bands
    centers = (f_max + offset) * np.exp(step * np.arange(bands, 0, -1)) - offset
    width = 1.019 * (centers / quality + min_width)  # Hz
    r, theta = np.exp(-2 * np.pi * width / rate), 2 * np.pi * centers / rate
    factors = [sign * np.sqrt(3 + other * 2**1.5) for other in (1, -1) for sign in (1, -1)]
    zeros = [r * (np.cos(theta) + factor * np.sin(theta)) for factor in factors]
    points = np.array([*zeros, r * np.exp(1j * theta), r * np.exp(-1j * theta)])[:, None]
    rho, alpha = np.abs(points), np.angle(points)
    halves = np.pi * np.arange(frontend.n_fft // 2 + 1)[:, None] / frontend.n_fft
    return halves, (1 - rho) ** 2, 4 * rho, alpha / 2


def response(halves: np.ndarray, near: np.ndarray, far: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Weights (bins, bands) up to a factor for each band; see `gammatone`."""
    squares = near + far * np.sin(halves - angles) ** 2
    return np.sqrt(squares[:4].prod(0)) / squares[4:].prod(0) ** 2


def add_response(graph: Graph, halves: np.ndarray, *parts: np.ndarray) -> str:
    """Add `response` times its last argument, the scale; ONNX Runtime computes it once, when it loads the file."""
    near, far, angles, scale = (part.astype(np.float32) for part in parts)
    phase, squares = graph.constant(halves.astype(np.float32)), []
    for index in range(6):
        sine = graph.node("Sin", graph.node("Sub", phase, graph.constant(angles[index])))
        grown = graph.node("Mul", graph.constant(far[index]), graph.node("Mul", sine, sine))
        squares.append(graph.node("Add", graph.constant(near[index]), grown))
    zeros = squares[0]
    for factor in squares[1:4]:
        zeros = graph.node("Mul", zeros, factor)
    poles = graph.node("Mul", squares[4], squares[5])
    ratio = graph.node("Div", graph.node("Sqrt", zeros), graph.node("Mul", poles, poles))
    return graph.node("Mul", graph.constant(scale), ratio)
