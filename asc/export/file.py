"""A classifier, its frontend or both as an ONNX file."""

import json
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from asc.classifier import SceneClassifier
from asc.errors import InputError, WriteError
from asc.export.floats import add_float, add_frontend
from asc.export.graph import DOMAIN, OPSET, Graph, unpack
from asc.export.integers import Accumulator, QuantParams, add_integer
from asc.files import atomic_write
from asc.inference import FRONTEND
from asc.quantization.fold import fold_checked
from asc.quantization.graph import INPUT, LayerGraph
from asc.version import __version__


def export(model: SceneClassifier, path: Path, with_frontend: bool = False) -> Path:
    """Write a classifier as ONNX; any batch size, clips of the training length, probabilities in the labels' order.

    Args:
        model: a classifier of stage float, pruned or int8.
        path: output file.
        with_frontend: input is a waveform (batch, samples) instead of features (batch, 1, n_bins, frames).

    Raises:
        InputError: the stage is qat, a layer or the frontend has no ONNX form here, or the file cannot be written.
    """
    if model.stage == "qat":
        raise InputError("cannot export a checkpoint of stage qat: export int8.ckpt of the same run")
    graph = Graph("wave" if with_frontend else "features")
    if with_frontend:
        add_frontend(graph, model.frontend, model.clip_samples)
    add_net(graph, model)
    shape = [model.clip_samples] if with_frontend else list(model.example_features().shape[1:])
    return write(graph, shape, "probabilities", [len(model.labels)], model, path)


def export_frontend(model: SceneClassifier, path: Path) -> Path:
    """Write a classifier's frontend as ONNX, from wave (batch, samples) to features (batch, 1, n_bins, frames).

    Raises:
        InputError: the frontend is trainable or not of `asc.frontend.Spectrogram`; or the file cannot be written.
    """
    graph = Graph("wave")
    add_frontend(graph, model.frontend, model.clip_samples)
    return write(graph, [model.clip_samples], "features", list(model.example_features().shape[1:]), model, path)


def export_or_checkpoint(model: SceneClassifier, directory: Path, checkpoint: Path) -> Path:
    """Write frontend.onnx and model.onnx if the classifier has an ONNX form; return the file for a device.

    This is model.onnx, or else the checkpoint.
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


def add_net(graph: Graph, model: SceneClassifier) -> None:
    """Add the network, from features (batch, 1, n_bins, frames) to probabilities (batch, n_classes)."""
    features = model.example_features().cpu()
    is_int8 = model.stage == "int8"
    layers = model.net if is_int8 else fold_checked(model.net, features).cpu()
    assert isinstance(layers, LayerGraph)
    names, values = {INPUT: graph.x}, {INPUT: features}
    params: dict[int, QuantParams | Accumulator | None] = {INPUT: None}
    with torch.inference_mode():
        for index, layer in enumerate(layers):
            first, *others = layers.inputs[index]
            graph.x, x, other_names = names[first], values[first], [names[other] for other in others]
            if is_int8:
                pooled = is_pooled(layers, index)
                params[index] = add_integer(graph, layer, x, params[first], *other_names, is_pooled=pooled)
            else:
                add_float(graph, layer, x, *other_names)
            names[index] = graph.x
            values[index] = layer(*(values[source] for source in layers.inputs[index]))
    graph.append("Softmax", axis=1)


def is_pooled(layers: LayerGraph, index: int) -> bool:
    """Whether the output of a layer is used only by max pooling."""
    users = layers.users(index)
    while len(users) == 1 and isinstance(layers[users[0]], nn.Identity):
        users = layers.users(users[0])
    return len(users) == 1 and isinstance(layers[users[0]], nn.MaxPool2d)


def write(
    graph: Graph, input_shape: list[int], output: str, output_shape: list[int], model: SceneClassifier, path: Path
) -> Path:
    """Write a graph, whose newest value becomes `output`; the shapes are those of one clip."""
    graph.nodes[-1].output[0] = output
    graph.remove_unused()
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in ((graph.source, input_shape), (output, output_shape))
    )
    opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(DOMAIN, 1)] * graph.has_sparse
    functions = [unpack()] * graph.has_sparse
    net = helper.make_graph(graph.nodes, "asc", inputs, outputs, list(graph.initializers.values()))
    proto = helper.make_model(net, opset_imports=opsets, functions=functions, ir_version=8)
    names = ("labels", "sample_rate", "clip_samples", "min_samples", "channel")
    metadata = {name: json.dumps(getattr(model, name)) for name in names} | {"asc_version": json.dumps(__version__)}
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    with atomic_write(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path
