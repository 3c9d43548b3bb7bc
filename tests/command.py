"""The commands of the repository, and what their runs leave."""

import csv
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
if not os.access(Path("~").expanduser(), os.W_OK):  # of which libraries would complain on stderr
    os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
CACHE = tempfile.TemporaryDirectory(prefix="asc-cache-")  # removed with this process
os.environ["ASC_CACHE"] = CACHE.name  # instead of the user's
# with the classes in tiny.py, and on the CPU, where a run can be repeated bit for bit
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "CUDA_VISIBLE_DEVICES": ""}


def start(*arguments: str, script: str = "train.py", **settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        **{"cwd": REPOSITORY, "env": ENVIRONMENT, **settings},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a job in the background of a script hands down that it ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*arguments: str, script: str = "train.py", **settings) -> subprocess.CompletedProcess:
    """A command in a process of its own, to its end."""
    process = start(*arguments, script=script, **settings)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def call(*words: str, script: str = "train.py") -> int | str | None:
    """The command line in this process, since each start costs seconds of imports; what it exits with.

    `script` is train.py, compress.py or a module such as asc.report.
    """
    on_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules.*", RuntimeWarning)  # of tests that import it
        patch.setattr(sys, "argv", [script, *words])
        try:
            if script.endswith(".py"):
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__")
        except SystemExit as stop:
            return stop.code
        finally:
            signal.signal(signal.SIGINT, on_interrupt)  # which Lightning ignores once it has come
    return None


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text())


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
