"""The cache on disk: features and durations of clips, computed once, and checked whenever they are used again."""

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nnAudio
import numpy as np
import scipy
import soundfile
import soxr
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from asc.errors import InputError, WriteError
from asc.files import atomic_write
from asc.torch_pair import torchaudio

LIBRARIES = {
    "libsndfile": soundfile.__libsndfile_version__,
    "nnAudio": nnAudio.__version__,
    "scipy": scipy.__version__,
    "soxr": soxr.__version__,
    "torch": torch.__version__,
    "torchaudio": torchaudio.__version__,
}
CHECKSUM_BYTES = 4  # at the end of a file: the CRC-32 of its content
CHUNK = 2**24  # bytes checked at a time


def cache_path(directory: Path, settings: dict, paths: Sequence[Path], code: Iterable[ModuleType]) -> Path:
    """The cache file of these clips under these settings.

    Args:
        directory: folder of the cache.
        settings: all settings that affect the values.
        paths: audio files; their sizes and times are part of the key.
        code: modules that compute the values. The key hashes their source, so any edit invalidates the cache.
    """
    stats = [(str(path), path.stat()) for path in paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    key = hashlib.sha256(json.dumps([settings, files, LIBRARIES], sort_keys=True).encode())
    for module in code:
        if file := getattr(module, "__file__", None):  # none in a notebook
            key.update(Path(file).read_bytes())
    return directory / f"{key.hexdigest()[:24]}.npy"


def load_or_compute(
    path: Path, shape: tuple[int, ...], dtype: Any, compute: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """The array of a cache file, memory-mapped; computed first if the file is missing or damaged.

    One process computes, others that need the file wait. The file is written atomically.

    Args:
        path: the cache file.
        shape: shape of the array.
        dtype: data type of the array.
        compute: compute() yields the array's rows in blocks, in order.

    Raises:
        InputError: the directory is not writable, or from `compute`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process to compute {path}", file=sys.stderr)
            lock.acquire()
        try:
            if not is_intact(path):
                write(path, shape, np.dtype(dtype), compute())
        finally:
            lock.release()
        return np.load(path, mmap_mode="r")
    except (OSError, WriteError) as error:
        raise InputError(
            f"data.cache_dir={path.parent} cannot be used: {getattr(error, 'strerror', None) or error}; "
            "free space or choose another"
        ) from error


def write(path: Path, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
    """Write an .npy file from blocks of rows, with a checksum after its end; a failure leaves no file."""
    with atomic_write(path) as temporary:
        with open(temporary, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype).data)
        with open(temporary, "r+b") as file:
            checksum = crc32(file, os.path.getsize(temporary))
            file.write(checksum)


def is_intact(path: Path) -> bool:
    """Whether the file exists and its checksum matches; this reads the whole file."""
    if not path.is_file() or (size := path.stat().st_size - CHECKSUM_BYTES) <= 0:
        return False
    with open(path, "rb") as file:
        checksum = crc32(file, size)
        if file.read() == checksum:
            return True
    print(f"{path} is damaged: computing it again", file=sys.stderr)
    return False


def crc32(file: Any, size: int) -> bytes:
    """The CRC-32 of the next `size` bytes of a file."""
    checksum = 0
    with tqdm(total=size, desc="checking cache", unit="B", unit_scale=True, leave=False, disable=None, delay=2) as bar:
        for start in range(0, size, CHUNK):
            content = file.read(min(CHUNK, size - start))
            checksum = zlib.crc32(content, checksum)
            bar.update(len(content))
    return checksum.to_bytes(CHECKSUM_BYTES, "little")
