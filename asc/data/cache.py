"""The cache on disk: features and durations of clips, computed once, and checked whenever they are used again."""

import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
from filelock import FileLock, Timeout
from tqdm import tqdm

from asc.errors import InputError, WriteError
from asc.files import atomic_write

LIBRARIES = {name: version(name) for name in ("av", "nnAudio", "scipy", "soxr", "torch", "torchaudio")}
LIBRARIES["libsndfile"] = soundfile.__libsndfile_version__
RESIDUE = 0x2144DF1C  # the CRC-32 of any content that is followed by its own CRC-32
CHUNK = 2**24  # bytes checked at a time


def cache_path(directory: Path, settings: dict, paths: Sequence[Path], code: Iterable[ModuleType]) -> Path:
    """The cache file of these clips in this folder.

    Args:
        directory: folder of the cache.
        settings: all settings that affect the values.
        paths: audio files; their sizes and times are part of the key.
        code: modules that compute the values. The key hashes their source, so any edit invalidates the cache.
    """
    files = [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths]
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
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    checksum = 0
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        for part in chain([header.getbuffer()], (np.ascontiguousarray(block, dtype).data for block in blocks)):
            file.write(part)
            checksum = zlib.crc32(part, checksum)
        file.write(checksum.to_bytes(4, "little"))


def is_intact(path: Path) -> bool:
    """Whether the file exists and its checksum matches; this reads the whole file."""
    if not path.is_file():
        return False
    checksum = 0
    with open(path, "rb") as file:
        parts, total = iter(lambda: file.read(CHUNK), b""), path.stat().st_size // CHUNK + 1
        for part in tqdm(parts, "checking the cache", total, leave=False, disable=None, delay=1):
            checksum = zlib.crc32(part, checksum)
    if checksum != RESIDUE:
        print(f"{path} is damaged: computing it again", file=sys.stderr)
    return checksum == RESIDUE
