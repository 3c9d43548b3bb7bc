"""Features computed once: the frontend is fixed, so each clip's spectrogram is kept in a memory-mapped file."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asc.errors import InputError
from asc.frontend import Spectrogram


def cache_file(directory: Path, settings: dict, paths: Sequence[Path]) -> Path:
    """The file for these clips under these settings; another setting, or a file that changed, is another name."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()
    return directory / f"{key[:24]}.npy"


@torch.inference_mode()
def write_features(
    file: Path, frontend: Spectrogram, batches: Iterable[Tensor], clips: int, samples: int, device: torch.device
) -> None:
    """Write the spectrograms of all `batches` of waves (batch, samples) as one array (clips, n_bins, frames).

    Logarithms fit float16 (a step of 0.008 where neighbouring frames differ by 1), plain magnitudes do not. The file
    gets its name when it is whole, so that one left behind by a killed process is never taken for features.

    Raises:
        InputError: the folder cannot be written.
    """
    frontend = frontend.to(device)
    _, _, n_bins, frames = frontend.spectrogram(torch.zeros(1, samples, device=device)).shape
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    dtype = np.float16 if frontend.log else np.float32
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(unfinished, "w+", dtype, (clips, n_bins, frames))
    except OSError as error:
        raise InputError(f"data.cache_dir={file.parent} cannot be written ({error.strerror}): name another") from error
    try:
        done = 0
        with tqdm(total=clips, desc="features", unit="clip", leave=False, disable=None) as bar:
            for wave in batches:
                features = frontend.spectrogram(wave.to(device)).squeeze(1)
                array[done : done + len(wave)] = features.cpu().numpy()
                done += len(wave)
                bar.update(len(wave))
        array.flush()
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
