"""Memory of a training process on a CPU."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_blocks() -> None:
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
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 2**30)
