"""Real-time factor and memory of a bundle on this machine."""

import importlib.metadata
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

from asc.errors import InputError
from asc.machine import peak_memory, processor

RATE = 48_000  # Hz, of most recorders
ROUNDS = 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Measurement:
    """Time and memory for a clip on one thread: reading, resampling, frontend and network.

    Attributes:
        clip_seconds: length of the clip.
        seconds: to classify it, the median of ROUNDS.
        memory: peak of the process in bytes, None if the system does not report it.
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
    """Measure a bundle's example on noise, in a process without torch.

    Raises:
        InputError: onnxruntime is not installed, or the example fails.
    """
    try:
        onnxruntime = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("a bundle is measured with ONNX Runtime: pip install onnxruntime") from error
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(clip_seconds * RATE))
    with tempfile.TemporaryDirectory() as temporary:
        clip = Path(temporary, "noise.wav")
        soundfile.write(clip, noise, RATE)
        command = [sys.executable, "-m", __name__, str(folder.resolve()), str(clip), str(ROUNDS)]
        home = Path(__file__).parents[2]  # of the package, which need not be installed
        environment = os.environ | ONE_THREAD
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"the bundle's example fails on this machine: {reason}; pip install -U onnxruntime")
    software = f"{platform.system()}, Python {platform.python_version()}, onnxruntime {onnxruntime}"
    return Measurement(clip_seconds, **json.loads(done.stdout), processor=processor(), software=software)


def time_example(folder: str, clip: str, rounds: str) -> None:
    """Classify the clip once, and then `rounds` times; print the fields of `Measurement` as JSON."""
    example = runpy.run_path(str(Path(folder, "example.py")))
    libraries = peak_memory()
    classifier = example["Classifier"](Path(folder))
    seconds = []
    for _ in range(1 + int(rounds)):
        start = time.perf_counter()
        classifier.classify(clip)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": median(seconds[1:]), "memory": peak_memory(), "libraries": libraries}))


if __name__ == "__main__":
    time_example(*sys.argv[1:])
