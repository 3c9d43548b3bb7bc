"""The cache on disk: features and durations of clips, computed once."""

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
    """The cache file of these clips under these settings; its name changes with a setting or a clip."""
    stats = [(str(path), path.stat()) for path in paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    key = hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()
    return directory / f"{key[:24]}.npy"


@contextmanager
def write_once(file: Path) -> Iterator[Path | None]:
    """Lock `file` for writing: the temporary path to write to, or None if another process has just written it.

    `file` appears when it is complete. Other processes that want it wait. A killed process releases its lock and
    leaves its temporary file for the next one to resume.

    Raises:
        InputError: the folder is not writable.
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
        Path(lock.lock_file).unlink(missing_ok=True)  # the file exists, so nobody needs the lock
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"data.cache_dir={file.parent} cannot be written ({why}): choose another") from error
    finally:
        lock.release()


def load_or_compute(directory: Path, paths: Sequence[Path], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The small array of these files, from the cache or computed now."""
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
    """Write the spectrograms of all clips as one array (clips, n_bins, frames), or resume an interrupted write.

    Log features fit float16, whose step of 0.008 is small against differences of 1 between frames. Magnitudes do not.

    Args:
        file: where to write.
        frontend: computes the features.
        waves: waves(n) yields batches (batch, samples) of all clips but the first n.
        clips: number of clips.
        samples: of each clip.
        device: where to compute.

    Raises:
        InputError: the folder is not writable, or a clip is not readable.
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
        except InputError:  # an invalid clip: replacing it changes the name of the cache file
            part.unlink()
            raise


def begin_or_resume(out: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Write the .npy header to an empty file, or truncate a partial one after its last full row; return its rows."""
    header = io.BytesIO()
    fields: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    start, row = header.tell(), dtype.itemsize * int(np.prod(shape[1:]))
    done = max(0, (out.seek(0, os.SEEK_END) - start) // row)
    out.truncate(start + done * row if done else 0)
    if not done:
        out.write(header.getvalue())
    return done
