"""The cache on disk: features and durations of clips, computed once, and checked whenever they are used again."""

import hashlib
import io
import json
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import nnAudio
import numpy as np
import scipy
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from asc.errors import InputError, printable
from asc.frontend import Frontend
from asc.torch_pair import torchaudio

try:
    import fcntl
except ImportError:  # Windows has no POSIX locks
    fcntl = None  # type: ignore[assignment]

LIBRARIES = {
    "libsndfile": soundfile.__libsndfile_version__,
    "nnAudio": nnAudio.__version__,
    "scipy": scipy.__version__,
    "torch": torch.__version__,
    "torchaudio": torchaudio.__version__,
}

BLOCK = 4  # rows that a process computes at a time; few, since waveforms pass through shared memory

Compute = Callable[[Iterable[range]], Iterable[tuple[range, np.ndarray]]]


def cache_path(directory: Path, settings: dict, paths: Sequence[Path], code: Iterable[ModuleType]) -> Path:
    """The cache file of these clips under these settings; its name changes with a setting, a clip or a program.

    Args:
        directory: of the cache.
        settings: that the values depend on.
        paths: files of the clips.
        code: modules that compute the values. Their source counts, not a version number, which somebody would forget
            to raise; a changed comment costs a computation.
    """
    stats = [(str(path), path.stat()) for path in paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    key = hashlib.sha256(json.dumps([settings, files, LIBRARIES], sort_keys=True).encode())
    for module in code:
        if file := getattr(module, "__file__", None):  # none in a notebook
            key.update(Path(file).read_bytes())
    return directory / f"{key.hexdigest()[:24]}.npy"


class CacheFile:
    """An .npy file of rows of one shape, each with a checksum.

    It is a structured array (rows,) of `values` and `crc32`, and gets its name when it is complete. Processes that need
    it at the same time, even on several machines, share the work block by block. A process claims a block by locking
    its bytes in a temporary file, and writes it there. The system unlocks what a killed process has claimed, so that
    another computes it. The bytes of the file do not depend on which process computes a block.

    Args:
        path: of the file.
        rows: their number.
        shape, dtype: of the values of a row.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: type[np.floating]):
        self.path, self.part, self.rows = path, path.with_suffix(".part"), rows
        self.row = np.dtype([("values", dtype, shape), ("crc32", "<u4")])
        header = io.BytesIO()
        fields: dict[str, Any] = {"descr": self.row.descr, "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(header, fields)
        self.header = header.getvalue()
        self.size = len(self.header) + rows * self.row.itemsize

    def load(self) -> np.ndarray:
        """The values of all rows, memory-mapped."""
        return np.load(self.path, mmap_mode="r")["values"]

    def write(self, compute: Compute) -> None:
        """Write the file, unless it exists and is intact, together with the processes that do so at the same time.

        Args:
            compute: compute(blocks) yields each block, a range of rows, with its values. It takes a block when it
                begins to compute it, since no other process can from then on.

        Raises:
            InputError: the folder is not writable, or from `compute`, whose file is then deleted; the processes that
                take the block afterwards raise it too.
        """
        if fcntl is None:
            raise InputError("data.cache=true needs the file locks of Linux or macOS: set data.cache=false")
        while not self.is_intact():
            with self._opened() as file:
                try:
                    for rows, values in compute(self._claimed(file)):
                        file.seek(self._place(rows)[1])
                        file.write(self._with_checksums(values))
                        file.flush()
                        fcntl.lockf(file, fcntl.LOCK_UN, *self._place(rows))
                except InputError:  # an invalid clip: replacing it changes the name of the cache file
                    Path(file.name).unlink(missing_ok=True)
                    raise
                self._lock_whole(file)  # no other process writes any more
                is_mine = self.part.exists() and os.path.samefile(file.fileno(), self.part)  # not completed or deleted
                if is_mine and all(self._is_written(file, rows) for rows in self._blocks()):
                    os.fsync(file.fileno())
                    os.replace(self.part, self.path)

    def is_intact(self) -> bool:
        """Whether the file exists and holds what was written; reads all of it."""
        try:
            with open(self.path, "rb") as file:
                return self._all_intact(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}): delete it, or choose another data.cache_dir"
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the temporary file, which another process may have begun; or the file itself, if it is damaged."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for directory in filter(Path.is_dir, (self.path, self.part)):
                directory.rmdir()
            with open(self.part, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666)) as file:
                if not self.path.exists():  # asked only now, when no other process completes it unnoticed
                    os.pwrite(file.fileno(), self.header, 0)
                    yield file
                    return
            self.part.unlink(missing_ok=True)
            with open(self.path, "r+b") as file:
                self._forget_damaged(file)
                yield file
        except OSError as error:
            why = f"{error.strerror or error}, {error.filename or self.path}"
            raise InputError(
                f"data.cache_dir={self.path.parent} cannot be written ({why}): free space or choose another"
            ) from error

    def _forget_damaged(self, file: BinaryIO) -> None:
        """Mark damaged blocks as not written."""
        self._lock_whole(file)
        if not self._all_intact(file):
            print(f"{printable(str(self.path))} is damaged: computing it again", file=sys.stderr)
            file.truncate(self.size)
            os.pwrite(file.fileno(), self.header, 0)
            for rows in self._blocks():
                if not self._are_intact(file, rows):
                    os.pwrite(file.fileno(), bytes(4), sum(self._place(rows)) - 4)
        fcntl.lockf(file, fcntl.LOCK_UN)

    def _claimed(self, file: BinaryIO) -> Iterator[range]:
        """Lock and yield the blocks that are not written, except those that another process has locked."""
        of_others: deque[range] = deque()
        for rows in self._blocks():
            for block in [rows, *([of_others.popleft()] if of_others else [])]:  # whose process may have died since
                if not self._locked(file, *self._place(block)):
                    of_others.append(block)
                elif self._is_written(file, block):
                    fcntl.lockf(file, fcntl.LOCK_UN, *self._place(block))
                else:
                    yield block

    def _locked(self, file: BinaryIO, size: int = 0, start: int = 0) -> bool:
        """Lock bytes of the file, by default all, unless another process has."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def _lock_whole(self, file: BinaryIO) -> None:
        if not self._locked(file):
            print(f"waiting for another process that writes {self.path}", file=sys.stderr)
            fcntl.lockf(file, fcntl.LOCK_EX)

    def _blocks(self) -> Iterator[range]:
        return (range(first, min(first + BLOCK, self.rows)) for first in range(0, self.rows, BLOCK))

    def _place(self, rows: range) -> tuple[int, int]:
        """Size of these rows and their start in the file, bytes."""
        return len(rows) * self.row.itemsize, len(self.header) + rows.start * self.row.itemsize

    def _is_written(self, file: BinaryIO, rows: range) -> bool:
        """Whether the last checksum of a block is there, which does not exclude damage."""
        return any(os.pread(file.fileno(), 4, sum(self._place(rows)) - 4))

    def _are_intact(self, file: BinaryIO, rows: range) -> bool:
        """Whether the rows are as they were written."""
        size, start = self._place(rows)
        content = os.pread(file.fileno(), size, start)
        return len(content) == size and all(
            checksum(row["values"]) == row["crc32"] for row in np.frombuffer(content, self.row)
        )

    def _all_intact(self, file: BinaryIO) -> bool:
        """Whether size, header and all rows are as they were written."""
        if os.fstat(file.fileno()).st_size != self.size or os.pread(file.fileno(), len(self.header), 0) != self.header:
            return False
        blocks = tqdm(list(self._blocks()), "checking cache", unit_scale=BLOCK, leave=False, disable=None, delay=2)
        return all(self._are_intact(file, rows) for rows in blocks)

    def _with_checksums(self, values: np.ndarray) -> bytes:
        """The bytes of rows with these values."""
        rows = np.empty(len(values), self.row)
        rows["values"] = values
        rows["crc32"] = [checksum(row) for row in rows["values"]]
        return rows.tobytes()


def checksum(values: np.ndarray) -> int:
    """The CRC-32 of a row, never 0, which marks a row that is not written."""
    return zlib.crc32(values.tobytes()) or 1


def load_or_compute(path: Path, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """A small array (size,) in float64, from the cache or computed now."""
    file = CacheFile(path, 1, (size,), np.float64)
    file.write(lambda blocks: ((rows, compute()[None]) for rows in blocks))
    return np.array(file.load()[0])


@torch.inference_mode()
def write_features(
    path: Path,
    frontend: Frontend,
    waves: Callable[[Iterable[range]], Iterable[Tensor]],
    clips: int,
    samples: int,
    device: torch.device,
) -> np.ndarray:
    """Write the spectrograms of all clips (clips, n_bins, frames), or what is missing of them; return them.

    Log features fit float16, whose step of 0.008 is small against differences of 1 between frames. Magnitudes do not.

    Args:
        path: where to write.
        frontend: computes the features.
        waves: waves(blocks) yields the waveforms (batch, samples) of each block of clips, taking blocks when it needs
            them.
        clips: number of clips.
        samples: of each clip.
        device: where to compute.

    Raises:
        InputError: the folder is not writable, or a clip is not readable.
    """
    frontend = frontend.to(device)
    shape = frontend.spectrogram(torch.zeros(1, samples, device=device)).shape[2:]
    file = CacheFile(path, clips, tuple(shape), np.float16 if frontend.log else np.float32)

    def features(blocks: Iterable[range]) -> Iterator[tuple[range, np.ndarray]]:
        to_read, to_write = tee(blocks)
        with tqdm(total=clips, desc="features", unit="clip", leave=False, disable=None) as bar:
            for wave, rows in zip(waves(to_read), to_write, strict=True):
                yield rows, frontend.spectrogram(wave.to(device)).squeeze(1).cpu().numpy()
                bar.update(max(0, rows.stop - bar.n))  # all before it are written or in hand, whoever computes them

    file.write(features)
    return file.load()
