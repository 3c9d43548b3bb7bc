"""This machine: its processor, and the memory of this process."""

import ctypes
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def processor() -> str:
    """Name of the CPU, or its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system.

    A training step allocates and frees hundreds of MB in each operation. By default the system maps and zeroes these
    pages again every time, which is several times slower than the arithmetic. Call this before creating large
    tensors. Without glibc (macOS, Windows, musl) it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
    mallopt(M_TOP_PAD, 2**30)


def peak_memory() -> int | None:
    """Peak memory of this process in bytes; None if the system does not report it."""
    try:  # getrusage reports the parent process's peak if that is larger
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    except (OSError, KeyError):  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_gpu_memory() -> int | None:
    """Peak memory of this process's tensors on its GPU in bytes, in training; None if it has used none."""
    import torch  # imported here, since it needs more memory than the rest of this module

    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
