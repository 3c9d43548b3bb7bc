"""Matrix products, the bound on arithmetic, in a module that imports little: their process starts in no time."""

from collections.abc import Callable

import torch

from asc.machine import keep_freed_memory

SIZE = 2048  # of the matrices whose product bounds the arithmetic


def use(device: str, threads: int) -> Callable[[], None]:
    """Set the number of threads; return the function that waits for the device."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return torch.get_device_module(device).synchronize


def products(device: str, threads: int, size: int) -> Callable[[], None]:
    """The bound on arithmetic: a product of two matrices, size^3 multiply-accumulates."""
    wait = use(device, threads)
    left, right = torch.randn(2, size, size, device=device)

    def run() -> None:
        left @ right
        wait()

    return run
