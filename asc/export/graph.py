"""An ONNX graph under construction, and how it stores arrays with many zeros."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

OPSET = 17
DOMAIN = "asc"


class Graph:
    """Nodes and initializers of an ONNX graph.

    Attributes:
        source: name of the input.
        x: name of the newest value, the input of the next appended node.
    """

    def __init__(self, source: str):
        self.x = self.source = source
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[bytes, onnx.TensorProto] = {}
        self.has_sparse = False

    def constant(self, array: np.ndarray | np.generic | Tensor) -> str:
        """Add an array in the smaller of its two forms and return its name."""
        array = np.asarray(array)
        sparse_bytes = np.count_nonzero(array) * array.itemsize + array.size / 8 + 200  # 200 for the node
        return self.add_sparse_initializer(array) if sparse_bytes < array.nbytes else self.add_initializer(array)

    def add_sparse_initializer(self, array: np.ndarray) -> str:
        """Add the non-zero values and a bit for each value; the runtime unpacks them when it loads the file."""
        self.has_sparse = True
        bits = np.packbits(array != 0)[:, None]
        parts = (bits, np.insert(array[array != 0], 0, 0), np.array(array.shape))
        return self.node("Unpack", *map(self.add_initializer, parts), domain=DOMAIN)

    def add_initializer(self, array: np.ndarray) -> str:
        """Add a dense array; equal arrays are stored once."""
        proto = numpy_helper.from_array(array)
        stored = self.initializers.setdefault(proto.SerializeToString(), proto)
        stored.name = stored.name or f"c{len(self.initializers)}"
        return stored.name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def append(self, kind: str, *others: str, **attributes: Any) -> None:
        """Add a node with the newest value as its first input; its output becomes the newest value."""
        self.x = self.node(kind, self.x, *others, **attributes)

    def remove_unused(self) -> None:
        """Remove the nodes on which the last one does not depend."""
        taken = set(self.nodes[-1].output)
        for node in reversed(list(self.nodes)):
            if taken.isdisjoint(node.output):
                self.nodes.remove(node)
            else:
                taken.update(node.input)


def unpack() -> onnx.FunctionProto:
    """The function that makes a dense array of the bits (bytes, 1), a zero and the non-zero values, and the shape.

    The running sum of the bits is the index of each non-zero value. ONNX Runtime computes all of it when it loads the
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
