"""A device for machines without a GPU. It computes on the CPU, but refuses tensors of the CPU as a GPU does, and notes
what makes a program wait for a GPU."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ASC = Path(__file__).resolve().parents[1] / "asc"
COPIES, INDEXING = {"_to_copy", "copy_"}, {"index", "index_put", "index_put_"}  # what takes tensors of both
# what needs a value on the CPU; indexing does by booleans, or if its indices are there
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2"}


class Backend(backend_registration._DummyBackendModule):
    """What torch asks a device's module for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class OnDevice(torch.Tensor):
    """A tensor of the device; its values are in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="emulated:0"
        )
        tensor.inner = inner
        return tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """By which torch knows that a module's parameter cannot change its values alone."""
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: object) -> "OnDevice":
        return OnDevice(inner["inner"])

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: object) -> str:
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} outside an Emulation")


class Emulation(TorchDispatchMode):
    """Inside, there is the device; torch has an accelerator for the rest of the process.

    Attributes:
        waits: what made the program wait, and in which lines of asc.
    """

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(torch, "emulated"):
            backend_registration._setup_privateuseone_for_python_backend("emulated", Backend())
        self.device = torch.device("emulated", 0)
        self.waits: list[str] = []
        self.before: list[bool] = []

    def __enter__(self) -> "Emulation":
        self.before.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) copies by an operation
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.before.pop())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the CPU, if the device could run it."""
        kwargs = kwargs or {}
        with self:  # in inference mode operations come that are made of others
            if (out := function.decompose(*args, **kwargs)) is not NotImplemented:
                return out
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = [isinstance(tensor, OnDevice) for tensor in tensors]
        target = kwargs.get("device")
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        goes = any(on_device) if target is None else torch.device(target).type == "emulated"
        if name == "copy_":
            goes = on_device[0]
        strangers = [tensor for tensor, there in zip(tensors, on_device, strict=True) if not there and tensor.ndim]
        if any(on_device) and strangers and name not in COPIES | INDEXING:  # a GPU takes single numbers
            raise RuntimeError(f"{function}: tensors of two devices")
        is_copied = name in COPIES and len(set(on_device) | {goes}) > 1 and not non_blocking(function, args, kwargs)
        by_values = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        if any(on_device) and (is_copied or name in WAITS or by_values or (strangers and name in INDEXING)):
            self.waits.append(f"{name} {where()}")
        inner_args, inner_kwargs = tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
        with normal_tensors():
            out = function(*inner_args, **inner_kwargs)
            if not goes:
                return out
            return return_and_correct_aliasing(function, args, kwargs, tree_map_only(torch.Tensor, OnDevice, out))


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Leave inference mode, whose tensors have no views outside it."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


def non_blocking(function: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a copy is asked for that the program need not wait for."""
    position = [argument.name for argument in function._schema.arguments].index("non_blocking")
    return args[position] if position < len(args) else kwargs.get("non_blocking", False)


def where() -> str:
    """The line of asc that runs, or else the last one that is not of torch."""
    lines = traceback.extract_stack()
    ours = [line for line in lines if Path(line.filename).is_relative_to(ASC)] or lines[:1]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


class EmulatedAccelerator(CPUAccelerator):
    """The device for Lightning's Trainer."""

    def setup_device(self, device: torch.device) -> None:
        """It is there."""
