"""A network as the graph of its layers, for folding, 8-bit arithmetic, filter pruning and ONNX export."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import FloatFunctional

from asc.errors import InputError, one_line
from asc.nets.layers import AvgPoolOverTime, MaxPoolOverTime, MeanStdPoolOverTime

INPUT = -1  # index of the network's input in a `LayerGraph`


class Add(nn.Module):
    """The sum of two branches, as a layer: a sum of 8-bit integers has a scale and zero point of its own.

    Args:
        with_relu: rectify the sum, whose range then has no negative values.
    """

    def __init__(self, with_relu: bool = False) -> None:
        super().__init__()
        self.functional, self.with_relu = FloatFunctional(), with_relu

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of two tensors of one shape."""
        return self.functional.add_relu(x, y) if self.with_relu else self.functional.add(x, y)


class LayerGraph(nn.Sequential):
    """Layers in the order in which they run. A chain of them is an `nn.Sequential`, sums make it a graph.

    Attributes:
        inputs: for each layer the indices of the layers whose outputs are its inputs, `INPUT` for the network's input.
        last_use: for each index the last layer that uses its output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[int, ...]] = []
        self.last_use: dict[int, int] = {}

    def add(self, layer: nn.Module, *inputs: int) -> int:
        """Append a layer whose inputs are the outputs of these layers; return its index."""
        self.append(layer)
        self.inputs.append(inputs)
        index = len(self) - 1
        self.last_use.update(dict.fromkeys(inputs, index))
        return index

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last layer."""
        values = {INPUT: x}
        for index, layer in enumerate(self):
            inputs = self.inputs[index]
            values[index] = layer(*(values[source] for source in inputs))
            for source in set(inputs):  # free memory as early as a chain does
                if self.last_use[source] == index:
                    del values[source]
        return values[len(self) - 1]

    def users(self, index: int) -> list[int]:
        """Indices of the layers that use the output of the layer at `index`."""
        return [user for user, inputs in enumerate(self.inputs) if index in inputs]

    def follows(self, index: int, kind: type[nn.Module]) -> bool:
        """Whether the layer at `index` is the only user of the output of a layer of this kind."""
        source = self.inputs[index][0]
        return source != INPUT and isinstance(self[source], kind) and len(self.users(source)) == 1

    @property
    def is_chain(self) -> bool:
        """Whether each layer's input is the output of the one before."""
        return self.inputs == [(index - 1,) for index in range(len(self))]


LAYERS = (
    *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Linear, nn.Identity, Add),
    *(nn.MaxPool2d, nn.AvgPool2d, MaxPoolOverTime, AvgPoolOverTime, MeanStdPoolOverTime),
)
# Functions and methods that become layers. Any reshaping is treated as nn.Flatten; `check_same` detects other kinds.
FUNCTIONS: dict[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), Add),
    **dict.fromkeys((torch.relu, F.relu, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((torch.flatten, torch.squeeze, "flatten", "reshape", "squeeze", "view"), nn.Flatten),
}


class LayerTracer(fx.Tracer):
    """Records the calls of layers; treats every condition on sizes as false, as in checks that do not raise."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A layer has no children."""
        return isinstance(m, LAYERS) or (next(m.children(), None) is None and not isinstance(m, nn.Sequential))

    def to_bool(self, obj: fx.Proxy) -> bool:
        """`if x.shape[-1] < 5: raise ...` does not raise."""
        return False


def layer_graph(net: nn.Module) -> LayerGraph:
    """The layers of `net`, not copies of them, in the order in which its `forward` calls them.

    Raises:
        InputError: torch.fx cannot trace `forward`, or it does more than layers of `LAYERS` and sums do.
    """
    failure = f"cannot quantize or export {type(net).__name__}"
    try:
        nodes = list(LayerTracer().trace(net).nodes)
    except Exception as error:  # a network may use a Proxy in any way
        raise InputError(f"{failure}: torch.fx: {one_line(error)}") from error
    graph = LayerGraph()
    indices = {nodes[0].name: INPUT}  # of the values of nodes, in `graph`
    for node in nodes:
        layer = layer_of(net, node)
        if layer is None and node.op != "output":
            continue
        taken = operands(node, layer)
        unknown = [value for value in taken if value not in indices]
        if unknown and node.op in ("call_module", "output"):
            raise InputError(f"{failure} with the step {unknown[0]}: use layers, and sums of two of their outputs")
        if layer is not None and not unknown:
            indices[node.name] = add_once(graph, net, layer, [indices[value] for value in taken])
    if indices[taken[0]] != len(graph) - 1:
        raise InputError(f"{failure}: remove the layers after the last one whose output it uses")
    return graph


def layer_of(net: nn.Module, node: fx.Node) -> nn.Module | None:
    """The layer that a node runs; None for other calls, which may only compute sizes."""
    if node.op in ("call_function", "call_method"):
        return FUNCTIONS[node.target]() if node.target in FUNCTIONS else None
    if node.op != "call_module":
        return None
    layer = net.get_submodule(str(node.target))
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        return AvgPoolOverTime()
    if not is_supported(layer):
        raise InputError(
            f"cannot quantize or export {type(net).__name__} with the layer {layer}: use convolutions padded with a "
            "number of zeros, batch norms, ReLU, max and average pooling, dense layers and sums"
        )
    return layer


def is_supported(layer: nn.Module) -> bool:
    """Whether folding, 8-bit kernels and ONNX support the layer with its settings."""
    if isinstance(layer, nn.Conv2d):
        return not isinstance(layer.padding, str) and layer.padding_mode == "zeros"
    if isinstance(layer, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats
    if isinstance(layer, nn.AvgPool2d):
        return not layer.ceil_mode and layer.divisor_override is None
    return isinstance(layer, LAYERS)


def operands(node: fx.Node, layer: nn.Module | None) -> list[str]:
    """Names of a node's input values; the string of a constant matches no value."""
    values = [str(value) for value in (*node.args, *node.kwargs.values())]
    return values if layer is None or isinstance(layer, Add) else values[:1]  # the others are sizes or `inplace`


def add_once(graph: LayerGraph, net: nn.Module, layer: nn.Module, inputs: list[int]) -> int:
    """Add a layer unless it does nothing; return the index of its output.

    Raises:
        InputError: the layer has weights and is in the graph already, where each call is rewritten separately.
    """
    is_flat = inputs[0] != INPUT and isinstance(graph[inputs[0]], nn.Flatten)
    if isinstance(layer, nn.Identity) or (is_flat and isinstance(layer, nn.Flatten)):
        return inputs[0]
    if any(layer is earlier for earlier in graph):
        if next(layer.parameters(), None) is not None:
            raise InputError(
                f"cannot quantize or export {type(net).__name__}, which runs {layer} twice: use two layers"
            )
        layer = copy.deepcopy(layer)
    return graph.add(layer, *inputs)


def graph_with_biases(net: nn.Module) -> LayerGraph:
    """A copy of `layer_graph` in which all layers have biases, as folding and 8-bit arithmetic need."""
    graph = copy.deepcopy(layer_graph(net))
    for layer in graph:
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight.flatten(1)[:, 0]))
    return graph


def check_same(graph: LayerGraph, net: nn.Module, features: Tensor) -> None:
    """Reject a graph that computes something else than the network it was made from.

    Raises:
        InputError: on random features of the shape of `features` the outputs differ by more than rounding.
    """
    x = torch.randn_like(features).cpu()
    with torch.inference_mode():
        ours, theirs = (copy.deepcopy(part).cpu().eval()(x) for part in (graph, net))
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-3 * theirs.abs().max():
        raise InputError(
            f"cannot quantize or export {type(net).__name__}: it computes something else than its layers; "
            "avoid conditions on the input, and operations in place"
        )
