"""Time and memory of a bundle's example on this machine."""

import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from asc.errors import InputError
from asc.machine import peak_memory, processor

RATE = 48_000  # Hz, of most recorders
ROUNDS = 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def measure(folder: Path, clip_seconds: float) -> dict[str, Any]:
    """Measure a bundle's example on noise: reading, resampling, frontend and network, on one thread without torch.

    Returns:
        `real_time_factor`: computing time over the sound's length; below 1, the device keeps up. `clip_seconds`: the
        sound's length. `seconds`: to classify it, the median of ROUNDS. `memory`: peak of the process in bytes, None
        if the system does not report it. `libraries`: the part of it that Python and its packages take before a file
        is loaded. `processor`: name of the CPU. `software`: versions.

    Raises:
        InputError: the example fails, as without onnxruntime.
    """
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(clip_seconds * RATE))
    with tempfile.TemporaryDirectory() as temporary:
        clip = Path(temporary, "noise.wav")
        soundfile.write(clip, noise, RATE)
        command = [sys.executable, "-m", __name__, str(folder.resolve()), str(clip), str(ROUNDS)]
        home = Path(__file__).parents[2]  # of the package, which need not be installed
        done = subprocess.run(command, cwd=home, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"the bundle's example fails on this machine: {reason}; pip install -U onnxruntime")
    measured = json.loads(done.stdout)
    return {"real_time_factor": measured["seconds"] / clip_seconds, "clip_seconds": clip_seconds, **measured}


def time_example(folder: str, clip: str, rounds: str) -> None:
    """Classify the clip once, and then `rounds` times; print what was measured as JSON."""
    example = runpy.run_path(str(Path(folder, "example.py")))
    libraries = peak_memory()
    classifier = example["Classifier"](Path(folder))
    seconds = []
    for _ in range(1 + int(rounds)):
        start = time.perf_counter()
        classifier.classify(clip)
        seconds.append(time.perf_counter() - start)
    measured = {"seconds": median(seconds[1:]), "memory": peak_memory(), "libraries": libraries}
    versions = f"Python {platform.python_version()}, onnxruntime {example['onnxruntime'].__version__}"
    print(json.dumps({**measured, "processor": processor(), "software": f"{platform.system()}, {versions}"}))


if __name__ == "__main__":
    time_example(*sys.argv[1:])
