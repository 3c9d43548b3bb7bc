"""The memory of a process: kept between operations, and how much it was."""

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next operation instead of giving it back to the system.

    Each operation of a training step takes and returns hundreds of MB, and without this every step pays for having
    the pages mapped and zeroed again, several times the arithmetic. Call it before the first large tensor. Without
    glibc (macOS, Windows, musl) it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
    mallopt(M_TOP_PAD, 2**30)


def peak_memory() -> int | None:
    """The most bytes that this process has had in memory at a time; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
