"""Check before the first training step that a batch fits into memory, by measuring a step of two clips."""

import copy
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asc.classifier import SceneClassifier
from asc.errors import InputError

CLIPS = 2
HEAP = (
    2.4  # bytes of a process for each byte of tensors on a CPU: gaps and oneDNN's buffers; the most that was measured
)
FILES = {  # limit and usage of a control group, in versions 2 and 1
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


class CheckBatchMemory(pl.Callback):
    """Refuses a batch that cannot fit. Comes after the augmentation, which may change the size of clips and batch.

    Args:
        batch_size: clips of a batch before augmentation.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.checked = False

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Check once, without side effects on training.

        Raises:
            InputError: gives the memory that the batch needs, the free memory, and the batch size that fits.
        """
        if self.checked:
            return
        self.checked = True
        x = batch[0]
        free = available_memory(x.device)
        if free is None:
            return
        if x.device.type == "cpu":
            free //= trainer.num_devices  # all processes share it
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.enable_grad():
            net = copy.deepcopy(model.net)
            with trainer.precision_plugin.forward_context():
                clips = x[:CLIPS].detach()
                clip = step_memory(lambda: net(clips).float().sum().backward(), x.device) // len(clips)
        needed = len(x) * clip
        if needed > free:
            fits = self.batch_size * free // needed
            hint = f"set data.batch_size={fits} or less" if fits else "give shorter clips or a smaller network"
            raise InputError(
                f"a step of data.batch_size={self.batch_size} needs about {needed / 1e9:.1f} GB of memory and "
                f"{free / 1e9:.1f} GB are free: {hint}"
            )


def step_memory(step: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a step allocates, at its peak."""
    if device.type == "cuda":
        step()  # the first one also allocates cuBLAS' workspace, whose size does not depend on the batch
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with Storages() as storages:
        step()
    return int(HEAP * storages.peak)


class Storages(TorchDispatchMode):
    """Counts the bytes of the tensors that operations in the block create, until they are freed.

    Attributes:
        peak: the most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed."""
        address, size = storage.data_ptr(), storage.nbytes()
        if size and address not in self.alive:
            self.alive.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, address, size)

    def free(self, address: int, size: int) -> None:
        """Stop counting a storage."""
        self.alive.discard(address)
        self.now -= size


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate on the device; None if the system does not report it.

    Args:
        device: CPU or GPU.
        root: of the file system, for tests.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        machine = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return max(0, min([machine, *container_memory(root)]))


def container_memory(root: Path) -> Iterator[int]:
    """Bytes left in each Linux control group (version 2 or 1) of this process."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in FILES:
            continue
        top = root / "sys/fs/cgroup" / controllers
        limit, usage = FILES[controllers]
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                if most != "max":
                    yield int(most) - used + int(stat["inactive_file"])  # the page cache is freed on demand
            except (OSError, KeyError):  # no limit, or not readable
                pass
            if folder == top:
                break
