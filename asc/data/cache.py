"""The cache on disk: features and durations of clips, computed once, and checked whenever they are used again."""

import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import nnAudio
import numpy as np
import scipy
import soundfile
import torch
import torchaudio
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from asc.errors import InputError, printable
from asc.frontend import Frontend

LIBRARIES = {
    "libsndfile": soundfile.__libsndfile_version__,
    "nnAudio": nnAudio.__version__,
    "scipy": scipy.__version__,
    "torch": torch.__version__,
    "torchaudio": torchaudio.__version__,
}


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
    """An .npy file of equal rows, written row by row, each with a checksum that tells whether it is still as written.

    It is a structured array (rows,) of `values` and `crc32`. It appears when it is complete. Several processes that
    want it wait for one that writes it; if that is killed, the next one resumes its temporary file.

    Args:
        path: of the file.
        rows: their number.
        shape, dtype: of the values of a row.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: type[np.floating]):
        self.path, self.rows = path, rows
        self.row = np.dtype([("values", dtype, shape), ("crc32", "<u4")])
        header = io.BytesIO()
        fields: dict[str, Any] = {"descr": self.row.descr, "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(header, fields)
        self.header = header.getvalue()

    def load(self) -> np.ndarray:
        """The values of all rows, memory-mapped."""
        return np.load(self.path, mmap_mode="r")["values"]

    def write(self, batches: Callable[[int], Iterable[np.ndarray]]) -> None:
        """Write the file, unless it exists and is intact: a damaged one is written anew from the damage on.

        Args:
            batches: batches(n) yields the values of all rows but the first n.

        Raises:
            InputError: the folder is not writable, or from `batches`, whose temporary file is then deleted.
        """
        if self.is_intact():
            return
        with self._locked() as part:
            if self.is_intact():  # by now: another process has just written it
                return
            for directory in filter(Path.is_dir, (self.path, part)):
                directory.rmdir()
            if self.path.exists():
                print(f"{printable(str(self.path))} is damaged: computing it again", file=sys.stderr)
                os.replace(self.path, part)
            try:
                with open(part, "a+b") as file:
                    done = self._begin_or_resume(file)
                    for values in batches(done) if done < self.rows else ():
                        file.write(self._with_checksums(values))
                    file.flush()
                    os.fsync(file.fileno())
            except InputError:  # an invalid clip: replacing it changes the name of the cache file
                part.unlink()
                raise
            os.replace(part, self.path)

    def is_intact(self) -> bool:
        """Whether the file exists and holds what was written; reads all of it."""
        try:
            with open(self.path, "rb") as file:
                size = len(self.header) + self.rows * self.row.itemsize
                return os.fstat(file.fileno()).st_size == size and self._intact_rows(file) == self.rows
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}): delete it, or choose another data.cache_dir"
            ) from error

    def _intact_rows(self, file: io.BufferedReader | io.BufferedRandom) -> int:
        """The number of rows before the first that is cut off or not as it was written."""
        file.seek(0)
        if file.read(len(self.header)) != self.header:
            return 0
        row = memoryview(bytearray(self.row.itemsize))
        values, checksum = row[:-4], row[-4:]
        for number in tqdm(range(self.rows), "checking cache", leave=False, disable=None, delay=2):
            if file.readinto(row) < len(row) or zlib.crc32(values) != int.from_bytes(checksum, "little"):
                return number
        return self.rows

    def _begin_or_resume(self, file: io.BufferedReader | io.BufferedRandom) -> int:
        """Truncate a partial file after its last intact row, or begin it; return its rows."""
        done = self._intact_rows(file)
        file.truncate(len(self.header) + done * self.row.itemsize if done else 0)
        if not done:
            file.write(self.header)
        return done

    def _with_checksums(self, values: np.ndarray) -> bytes:
        """The bytes of rows with these values."""
        rows = np.empty(len(values), self.row)
        rows["values"] = values
        rows["crc32"] = [zlib.crc32(row.tobytes()) for row in rows["values"]]
        return rows.tobytes()

    @contextmanager
    def _locked(self) -> Iterator[Path]:
        """Lock the file for writing, and yield the path of the temporary one. A killed process releases its lock."""
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"waiting for another process that writes {self.path}", file=sys.stderr)
                lock.acquire()
            yield self.path.with_suffix(".part")
            Path(lock.lock_file).unlink(missing_ok=True)  # the file exists, so nobody needs the lock
        except OSError as error:
            why = f"{error.strerror or error}, {error.filename or self.path}"
            raise InputError(
                f"data.cache_dir={self.path.parent} cannot be written ({why}): free space or choose another"
            ) from error
        finally:
            lock.release()


def load_or_compute(path: Path, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """A small array (size,) in float64, from the cache or computed now."""
    file = CacheFile(path, 1, (size,), np.float64)
    file.write(lambda _: [compute()[None]])
    return np.array(file.load()[0])


@torch.inference_mode()
def write_features(
    path: Path,
    frontend: Frontend,
    waves: Callable[[int], Iterable[Tensor]],
    clips: int,
    samples: int,
    device: torch.device,
) -> np.ndarray:
    """Write the spectrograms of all clips (clips, n_bins, frames), or resume an interrupted write; return them.

    Log features fit float16, whose step of 0.008 is small against differences of 1 between frames. Magnitudes do not.

    Args:
        path: where to write.
        frontend: computes the features.
        waves: waves(n) yields batches (batch, samples) of all clips but the first n.
        clips: number of clips.
        samples: of each clip.
        device: where to compute.

    Raises:
        InputError: the folder is not writable, or a clip is not readable.
    """
    frontend = frontend.to(device)
    shape = frontend.spectrogram(torch.zeros(1, samples, device=device)).shape[2:]
    file = CacheFile(path, clips, tuple(shape), np.float16 if frontend.log else np.float32)

    def features(done: int) -> Iterator[np.ndarray]:
        with tqdm(total=clips, initial=done, desc="features", unit="clip", leave=False, disable=None) as bar:
            for wave in waves(done):
                yield frontend.spectrogram(wave.to(device)).squeeze(1).cpu().numpy()
                bar.update(len(wave))

    file.write(features)
    return file.load()
