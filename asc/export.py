"""ONNX files of a classifier: python -m asc.export CHECKPOINT [--frontend] [--output FILE].

The float network is written with its batch norms folded, the 8-bit one in QDQ form: integers for weights and biases,
and a QuantizeLinear, DequantizeLinear pair after each layer, which ONNX Runtime and others turn into integer kernels.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.quantized import ConvReLU2d, LinearReLU

from asc.classifier import SceneClassifier
from asc.cli import exit_on_input_error, silence_libraries
from asc.errors import InputError, WriteError
from asc.files import written_whole
from asc.frontend import TINY, Frontend, Spectrogram
from asc.nets.pool import AvgPoolOverTime, MaxPoolOverTime, MeanStdPoolOverTime
from asc.onnx_predictor import FRONTEND
from asc.rewrite.fold import ConstantPad, Shift, fold_checked
from asc.rewrite.graph import INPUT, Add, LayerGraph
from asc.rewrite.quantize import AddReLU

OPSET = 17  # the first with STFT
DOMAIN = "asc"


class Graph:
    """Nodes and constants of an ONNX graph; `source` names its input, `x` the value that the next node takes."""

    def __init__(self, x: str):
        self.x = self.source = x
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[bytes, onnx.TensorProto] = {}
        self.has_packed = False

    def constant(self, array: np.ndarray | np.generic | Tensor) -> str:
        """Store an array, packed where that is smaller, and return its name."""
        array = np.asarray(array)
        packed_bytes = np.count_nonzero(array) * array.itemsize + array.size / 8 + 200  # 200 for the node
        if packed_bytes < array.nbytes:
            return self.packed(array)
        return self.stored(array)

    def packed(self, array: np.ndarray) -> str:
        """Store the values that are not zero, and a bit for each value; the runtime unpacks them when it loads."""
        self.has_packed = True
        bits = np.packbits(array != 0)[:, None]
        parts = (bits, np.insert(array[array != 0], 0, 0), np.array(array.shape))
        return self.node("Unpack", *map(self.stored, parts), domain=DOMAIN)

    def stored(self, array: np.ndarray) -> str:
        """Store an array as it is, equal ones once."""
        proto = numpy_helper.from_array(array)
        stored = self.constants.setdefault(proto.SerializeToString(), proto)
        stored.name = stored.name or f"c{len(self.constants)}"
        return stored.name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def then(self, kind: str, *others: str, **attributes: Any) -> None:
        """Add a node that goes on from the newest value."""
        self.x = self.node(kind, self.x, *others, **attributes)


def unpack() -> onnx.FunctionProto:
    """The function that makes a dense array of the bits (bytes, 1), a zero and the other values, and the shape.

    The number of bits up to a value that is not zero is its place. ONNX Runtime computes all of it when it loads the
    file, which it would not do for NonZero.
    """
    body = """
        shifts = Constant <value = uint8[1,8] {7,6,5,4,3,2,1,0}> ()
        two = Constant <value = uint8[1] {2}> ()
        all = Constant <value = int64[1] {-1}> ()
        first = Constant <value = int64[1] {0}> ()
        axis = Constant <value = int64 {0}> ()
        shifted = BitShift <direction = "RIGHT"> (mask, shifts)
        bits = Mod (shifted, two)
        flat = Reshape (bits, all)
        ones = Cast <to = 7> (flat)
        sums = CumSum (ones, axis)
        places = Mul (sums, ones)
        found = Gather (values, places)
        count = ReduceProd (shape)
        cut = Slice (found, first, count)
        y = Reshape (cut, shape)
    """
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]> Unpack (mask, values, shape) => (y)'
    return onnx.parser.parse_function(f"{header} {{ {body} }}")


def add_float(graph: Graph, layer: nn.Module, shape: Sequence[int], *others: str) -> None:
    """Add a float layer whose input has this shape; `others` are the names of further inputs."""
    if isinstance(layer, ConstantPad):
        pads = np.array([0, 0, layer.height, layer.width] * 2)
        graph.then("Pad", graph.constant(pads), graph.constant(np.float32(layer.value.item())))
    elif isinstance(layer, Shift):
        graph.then("Add", graph.constant(layer.shift))
    elif isinstance(layer, nn.Conv2d):
        graph.then("Conv", *float_weights(graph, layer), **convolution(layer))
    elif isinstance(layer, nn.Linear):
        graph.then("Gemm", *float_weights(graph, layer), transB=1)
    elif isinstance(layer, nn.BatchNorm2d):
        add_batch_norm(graph, layer)
    elif isinstance(layer, Add):
        graph.then("Add", *others)
    elif isinstance(layer, nn.AvgPool2d | AvgPoolOverTime):
        add_average(graph, layer, shape)
    elif isinstance(layer, MeanStdPoolOverTime):
        add_mean_std(graph, layer, shape)
    else:
        add_same(graph, layer, shape)


def float_weights(graph: Graph, layer: nn.Conv2d | nn.Linear) -> list[str]:
    """Names of the kernel and the bias."""
    assert layer.bias is not None  # folding gives each layer one
    return [graph.constant(value.detach().cpu()) for value in (layer.weight, layer.bias)]


def convolution(layer: nn.Conv2d | nnq.Conv2d) -> dict[str, Any]:
    """Attributes of ONNX's Conv."""
    pads = [int(side) for side in layer.padding] * 2
    groups = {"group": layer.groups} if layer.groups > 1 else {}
    return {"pads": pads, "strides": list(layer.stride), "dilations": list(layer.dilation), **groups}


def add_batch_norm(graph: Graph, layer: Any) -> None:
    """Add a batch norm that could not be folded."""
    values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    names = [graph.constant(value.detach().cpu()) for value in values]
    graph.then("BatchNormalization", *names, epsilon=layer.eps)


def add_average(graph: Graph, layer: nn.AvgPool2d | AvgPoolOverTime, shape: Sequence[int]) -> None:
    """Add average pooling, of floats."""
    if isinstance(layer, AvgPoolOverTime):
        kernel = list(layer.kernel_size(torch.empty(*shape)))
        graph.then("AveragePool", kernel_shape=kernel, strides=kernel)
    else:
        kernel, strides, pads = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding) * 2
        counted = int(layer.count_include_pad)
        graph.then("AveragePool", kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=counted)


def add_mean_std(graph: Graph, layer: MeanStdPoolOverTime, shape: Sequence[int]) -> None:
    """Add the mean and the standard deviation over the whole map, of floats."""
    kernel, x = list(layer.kernel_size(torch.empty(*shape))), graph.x
    mean = graph.node("AveragePool", x, kernel_shape=kernel)
    deviation = graph.node("Sub", x, mean)
    variance = graph.node("AveragePool", graph.node("Mul", deviation, deviation), kernel_shape=kernel)
    std = graph.node("Sqrt", graph.node("Add", variance, graph.constant(np.float32(layer.eps))))
    graph.x = graph.node("Concat", mean, std, axis=2)


def add_same(graph: Graph, layer: nn.Module, shape: Sequence[int]) -> None:
    """Add ReLU, max pooling or flattening, which do the same to integers as to floats."""
    if isinstance(layer, nn.ReLU):
        graph.then("Relu")
    elif isinstance(layer, nn.Flatten):
        graph.then("Flatten")
    elif isinstance(layer, MaxPoolOverTime):
        kernel = list(layer.kernel_size(torch.empty(*shape)))
        graph.then("MaxPool", kernel_shape=kernel, strides=kernel)
    elif isinstance(layer, nn.MaxPool2d):
        padding, dilation = pair(layer.padding), pair(layer.dilation)
        unusual = {"pads": padding * 2} if any(padding) else {}
        unusual |= {"dilations": dilation} if dilation != [1, 1] else {}
        kernel, strides = pair(layer.kernel_size), pair(layer.stride)
        graph.then("MaxPool", kernel_shape=kernel, strides=strides, ceil_mode=int(layer.ceil_mode), **unusual)
    else:
        raise InputError(f"{layer} cannot be exported to ONNX")


def pair(value: int | Sequence[int]) -> list[int]:
    """One number for height and width, or the two."""
    return [value, value] if isinstance(value, int) else list(value)


class Grid:
    """Scale and zero point of a value of an 8-bit graph."""

    def __init__(self, graph: Graph, scale: float, zero_point: int):
        self.scale = np.float32(scale)
        self.names = [graph.constant(self.scale), graph.constant(np.uint8(zero_point))]

    def apply(self, graph: Graph) -> None:
        """Put the newest value on the grid."""
        graph.then("QuantizeLinear", *self.names)
        graph.then("DequantizeLinear", *self.names)


def add_integer(graph: Graph, layer: nn.Module, shape: Sequence[int], grid: Grid | None, *others: str) -> Grid | None:
    """Add a layer of an 8-bit network, whose input is on `grid`; return that of its output, None for floats."""
    if isinstance(layer, nnq.Quantize):
        grid = Grid(graph, float(layer.scale), int(layer.zero_point))
    elif isinstance(layer, nnq.DeQuantize):
        return None
    elif isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
        return grid
    elif grid is None:
        add_float(graph, layer, shape)
        return None
    elif isinstance(layer, nnq.Conv2d | nnq.Linear):
        weights = add_integer_weights(graph, layer, grid)
        if isinstance(layer, nnq.Conv2d):
            graph.then("Conv", *weights, **convolution(layer))
        else:
            graph.then("Gemm", *weights, transB=1)
        if isinstance(layer, ConvReLU2d | LinearReLU):
            graph.then("Relu")
        grid = Grid(graph, layer.scale, layer.zero_point)
    elif isinstance(layer, nnq.BatchNorm2d):
        add_batch_norm(graph, layer)
        grid = Grid(graph, float(layer.scale), int(layer.zero_point))  # type: ignore[arg-type]
    elif isinstance(layer, Add):
        graph.then("Add", *others)
        if isinstance(layer, AddReLU):
            graph.then("Relu")
        grid = Grid(graph, layer.functional.scale, layer.functional.zero_point)  # type: ignore[arg-type]
    else:
        add_same(graph, layer, shape)
    grid.apply(graph)
    return grid


def add_integer_weights(graph: Graph, layer: nnq.Conv2d | nnq.Linear, grid: Grid) -> list[str]:
    """Names of the kernel, 8-bit by output channel, and the bias, 32-bit on the grid of the sums."""
    weight = layer.weight()
    scales = weight.q_per_channel_scales().float().numpy()
    sums = (scales * grid.scale).astype(np.float32)
    bias = np.rint(layer.bias().detach().double().numpy() / sums.astype(np.float64))
    if np.abs(bias).max() > np.iinfo(np.int32).max:
        raise InputError("a bias does not fit its 32-bit grid: the features are too small, scale them up")
    kernel = graph.node("DequantizeLinear", graph.constant(weight.int_repr()), graph.constant(scales), axis=0)
    return [kernel, graph.node("DequantizeLinear", graph.constant(bias.astype(np.int32)), graph.constant(sums), axis=0)]


def add_net(graph: Graph, model: SceneClassifier) -> None:
    """Add the network, from features (batch, 1, n_bins, frames) to probabilities (batch, n_classes)."""
    features = model.example_features().cpu()
    is_int8 = model.stage == "int8"
    layers = model.net if is_int8 else fold_checked(model.net, features).cpu()
    assert isinstance(layers, LayerGraph)
    names, values, grids = {INPUT: graph.x}, {INPUT: features}, dict[int, Grid | None]({INPUT: None})
    with torch.inference_mode():
        for position, (layer, inputs) in enumerate(zip(layers, layers.inputs, strict=True)):
            first, *others = inputs
            graph.x, shape, other_names = names[first], values[first].shape, [names[other] for other in others]
            if is_int8:
                grids[position] = add_integer(graph, layer, shape, grids[first], *other_names)
            else:
                add_float(graph, layer, shape, *other_names)
            names[position] = graph.x
            values[position] = layer(*(values[source] for source in inputs))
    graph.then("Softmax", axis=1)


def add_frontend(graph: Graph, frontend: Frontend) -> None:
    """Add the frontend, from wave (batch, samples) to features (batch, 1, n_bins, frames)."""
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


def export(model: SceneClassifier, path: Path, with_frontend: bool = False) -> Path:
    """Write a classifier as ONNX; any batch size, clips of the training length, probabilities in the labels' order.

    Args:
        model: of stage float, pruned or int8.
        path: of the file.
        with_frontend: take a waveform (batch, samples) instead of features (batch, 1, n_bins, frames).

    Raises:
        InputError: the network is in quantization-aware training, or not a graph of layers that ONNX gets here; or the
            file cannot be written.
    """
    if model.stage == "qat":
        raise InputError("a checkpoint of stage qat is half quantized: export int8.ckpt of the same run")
    graph = Graph("wave" if with_frontend else "features")
    if with_frontend:
        add_frontend(graph, model.frontend)
    add_net(graph, model)
    shape = [model.clip_samples] if with_frontend else list(model.example_features().shape[1:])
    return write(graph, shape, "probabilities", [len(model.labels)], model, path)


def export_frontend(model: SceneClassifier, path: Path) -> Path:
    """Write a classifier's frontend as ONNX, from wave (batch, samples) to features (batch, 1, n_bins, frames).

    Raises:
        InputError: the frontend is trainable or not of `asc.frontend.Spectrogram`; or the file cannot be written.
    """
    graph = Graph("wave")
    add_frontend(graph, model.frontend)
    return write(graph, [model.clip_samples], "features", list(model.example_features().shape[1:]), model, path)


def write(graph: Graph, source: list[int], result: str, target: list[int], model: SceneClassifier, path: Path) -> Path:
    """Write a graph whose value `result`, each of shape `target`, comes from inputs of shape `source`."""
    graph.nodes[-1].output[0] = result
    inputs, outputs = (
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", *shape])]
        for value, shape in ((graph.source, source), (result, target))
    )
    opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(DOMAIN, 1)] * graph.has_packed
    functions = [unpack()] * graph.has_packed
    net = helper.make_graph(graph.nodes, "asc", inputs, outputs, list(graph.constants.values()))
    proto = helper.make_model(net, opset_imports=opsets, functions=functions, ir_version=8)
    facts = {
        "labels": model.labels,
        "sample_rate": model.sample_rate,
        "clip_samples": model.clip_samples,
        "min_samples": model.min_samples,
        "channel": model.channel,
    }
    helper.set_model_props(proto, {fact: json.dumps(value) for fact, value in facts.items()})
    onnx.checker.check_model(proto)
    with written_whole(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path


def export_or_checkpoint(model: SceneClassifier, directory: Path, checkpoint: Path) -> Path:
    """What a device would load: model.onnx, or the checkpoint of a network that has no such file.

    Beside it lies frontend.onnx, unless there is none for this frontend; both are written here.
    """
    file = checkpoint
    for part, name in ((export_frontend, FRONTEND), (export, "model.onnx")):
        try:
            file = part(model, directory / name)
        except WriteError:
            raise
        except InputError:  # no ONNX form
            file = checkpoint
    return file


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.export", description="Write a checkpoint's classifier as ONNX."
    )
    parser.add_argument("checkpoint", type=Path, help="best.ckpt, pruned.ckpt or int8.ckpt of a run")
    parser.add_argument("--frontend", action="store_true", help="take a waveform instead of features")
    parser.add_argument("--output", type=Path, help="the file; beside the checkpoint where it is not given")
    parser.add_argument("--trusted", nargs="*", default=(), help="modules whose classes the checkpoint may name")
    arguments = parser.parse_args()
    silence_libraries()
    with exit_on_input_error():
        name = "model_with_frontend.onnx" if arguments.frontend else "model.onnx"
        path = arguments.output or arguments.checkpoint.with_name(name)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--output={path} cannot be written: give a file in a directory that is there")
        model = SceneClassifier.load_from_checkpoint(arguments.checkpoint, trusted=arguments.trusted)
        export(model, path, arguments.frontend)
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
