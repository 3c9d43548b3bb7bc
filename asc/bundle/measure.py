"""Real-time factor and memory of a bundle on this machine."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from asc.bundle import trial
from asc.errors import InputError
from asc.machine import processor

RATE = 48_000  # Hz, of most recorders
ROUNDS = 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Measurement:
    """What a clip takes on one thread: reading, resampling, frontend and network.

    Attributes:
        clip_seconds: length of the clip.
        seconds: to classify it, the median of ROUNDS.
        memory: peak of the process in bytes, None where the system does not tell.
        libraries: the part of it that Python and its packages take before a file is loaded.
        processor: name of the CPU.
        software: versions.
    """

    clip_seconds: float
    seconds: float
    memory: int | None
    libraries: int | None
    processor: str
    software: str

    @property
    def real_time_factor(self) -> float:
        """Computing time over the sound's length: below 1, the device keeps up."""
        return self.seconds / self.clip_seconds


def measure(folder: Path, clip_seconds: float) -> Measurement:
    """Measure a bundle's example on noise, in a process of its own.

    Raises:
        InputError: onnxruntime is not installed, or the example fails.
    """
    try:
        onnxruntime = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("a bundle is tried with ONNX Runtime: pip install onnxruntime") from error
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(clip_seconds * RATE))
    with tempfile.TemporaryDirectory() as temporary:
        clip = Path(temporary, "noise.wav")
        soundfile.write(clip, noise, RATE)
        command = [sys.executable, trial.__file__, str(folder), str(clip), str(ROUNDS)]
        done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"the bundle's example fails on this machine ({why}): check pip install -U onnxruntime")
    software = f"{platform.system()}, Python {platform.python_version()}, onnxruntime {onnxruntime}"
    return Measurement(clip_seconds, **json.loads(done.stdout), processor=processor(), software=software)
