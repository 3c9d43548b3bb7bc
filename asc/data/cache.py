"""The cache: each clip's features, since the frontend is fixed, and its length, computed once."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from asc.errors import InputError
from asc.frontend import Frontend


def cache_path(directory: Path, settings: dict, paths: Sequence[Path]) -> Path:
    """The file of these clips under these settings; another setting, or a clip that changed, is another name."""
    stats = [(str(path), path.stat()) for path in paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    key = hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()
    return directory / f"{key[:24]}.npy"


@contextmanager
def write_once(file: Path) -> Iterator[Path | None]:
    """Where to write `file`, which gets its name when it is whole, or None if another process has written it by now.

    One process writes while others that want the same file wait; the lock of one that is killed is free again, and
    what it has written is there to go on with.

    Raises:
        InputError: the folder cannot be written.
    """
    part, lock = file.with_suffix(".part"), FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that writes {file}", file=sys.stderr)
            lock.acquire()
        if file.exists():
            yield None
        else:
            yield part
            os.replace(part, file)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)  # with the file there, nobody needs it any more
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"data.cache_dir={file.parent} cannot be written ({why}): choose another") from error
    finally:
        lock.release()


def load_or_compute(directory: Path, paths: Sequence[Path], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The small array computed for these files: now, or by an earlier run."""
    file = cache_path(directory, {}, paths)
    if not file.exists():
        values = compute()
        with write_once(file) as part:
            if part:
                with open(part, "wb") as out:
                    np.save(out, values)
    return np.load(file)


@torch.inference_mode()
def write_features(
    file: Path,
    frontend: Frontend,
    waves: Callable[[int], Iterable[Tensor]],
    clips: int,
    samples: int,
    device: torch.device,
) -> None:
    """Write the spectrograms of all clips as one array (clips, n_bins, frames), going on with one that was begun.

    Logarithms fit float16 (a step of 0.008 where neighbouring frames differ by 1), plain magnitudes do not.

    Args:
        file: to write.
        frontend: computes the features.
        waves: waves(n) gives batches (batch, samples) of all clips but the first n.
        clips: how many there are.
        samples: of each.
        device: to compute on.

    Raises:
        InputError: the folder cannot be written, or a clip cannot be read.
    """
    frontend = frontend.to(device)
    shape = (clips, *frontend.spectrogram(torch.zeros(1, samples, device=device)).shape[2:])
    dtype = np.dtype(np.float16 if frontend.log else np.float32)
    with write_once(file) as part:
        if not part:
            return
        try:
            with open(part, "ab") as out:
                done = begin_or_resume(out, shape, dtype)
                with tqdm(total=clips, initial=done, desc="features", unit="clip", leave=False, disable=None) as bar:
                    for wave in waves(done) if done < clips else ():
                        features = frontend.spectrogram(wave.to(device)).squeeze(1)
                        out.write(features.cpu().numpy().astype(dtype).tobytes())
                        bar.update(len(wave))
                out.flush()
                os.fsync(out.fileno())
        except InputError:  # a clip's fault: once that is mended, the features have another name
            part.unlink()
            raise


def begin_or_resume(out: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Write the header of an array to an empty file, or cut a begun one after its last whole row; the rows there."""
    header = io.BytesIO()
    facts: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    start, row = header.tell(), dtype.itemsize * int(np.prod(shape[1:]))
    done = max(0, (out.seek(0, os.SEEK_END) - start) // row)
    out.truncate(start + done * row if done else 0)
    if not done:
        out.write(header.getvalue())
    return done
