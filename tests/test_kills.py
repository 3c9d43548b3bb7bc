"""SIGINT, SIGTERM and SIGKILL at any instant: no file is half written, and a resumed run ends as if undisturbed.

`pytest -m "nightly or not nightly" tests/test_kills.py --kills 20` sends more of them.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from command import call, results, rows
from tiny import PLAIN
from whole import check_whole

from asc.export.__main__ import main as export
from asc.loading import read_checkpoint

FORK = multiprocessing.get_context("fork")  # real processes, without the seconds of importing torch


class Kill(NamedTuple):
    """A signal, and when: as a fraction of the time that the work takes."""

    signal: signal.Signals
    instant: float


@pytest.fixture
def kills(request) -> list[Kill]:
    draw = random.Random(request.config.getoption("--fuzz-seed"))
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    return [Kill(signals[n % 3], draw.random()) for n in range(request.config.getoption("--kills"))]


def start(work: Callable[[], object], log: Path) -> multiprocessing.process.BaseProcess:
    """Start the work in a process of its own, whose output goes to the log."""

    def logged() -> None:
        with open(log, "a", buffering=1) as out, redirect_stdout(out), redirect_stderr(out):
            sys.exit(work())

    process = FORK.Process(target=logged)
    process.start()
    return process


def duration(work: Callable[[], object], log: Path) -> float:
    """Seconds that the work takes, undisturbed."""
    begin = time.monotonic()
    process = start(work, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.monotonic() - begin


def disturb(work: Callable[[], object], kill: Kill, seconds: float, log: Path) -> None:
    """Start the work, and send the signal at its instant."""
    process = start(work, log)
    time.sleep(kill.instant * seconds)
    os.kill(process.pid, kill.signal)  # a process that has ended keeps its id until it is waited for
    process.join(60)
    assert process.exitcode is not None, f"{kill} did not end it: {log.read_text()}"


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if ".hydra" not in path.parts)


def same(one: object, other: object) -> bool:
    """Whether two entries of a state are equal; a quantized layer stores its weights in a tuple."""
    if isinstance(other, tuple):
        return all(map(same, one, other))
    return torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other


def check_runs(run: Callable[..., object], last: str, setting: str, kills: list[Kill], folder: Path) -> None:
    """Disturb a run, resume it, and compare it with an undisturbed one.

    Args:
        run: of further words of the command line.
        last: the checkpoint to resume from, below the run's directory.
        setting: name of the setting that resumes.
        kills: each disturbs a new run.
        folder: for the runs.
    """
    whole, log = folder / "whole", folder / "log"
    seconds = duration(lambda: run(f"hydra.run.dir={whole}"), log)
    for number, kill in enumerate(kills):
        there = folder / str(number)
        disturb(lambda there=there: run(f"hydra.run.dir={there}"), kill, seconds, log)
        check_whole(there)
        resume = [f"{setting}={there / last}"] if (there / last).exists() else []
        resumed = run(*resume, f"hydra.run.dir={there}")
        assert resumed is None, f"{kill}: {resumed}"
        assert names(there) == names(whole), kill
        check_whole(there)
        for path in whole.rglob("*.ckpt"):
            ours, theirs = (read_checkpoint(place / path.relative_to(whole))["state_dict"] for place in (there, whole))
            assert all(same(ours[key], theirs[key]) for key in theirs), (kill, path.name)
        assert results(there)["test"] == results(whole)["test"], kill
        losses = [[row["train/loss"] for row in rows(place / "metrics.csv")] for place in (there, whole)]
        assert losses[0] == losses[1], kill
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.nightly
def test_a_killed_training_is_resumed(job, tmp_path, kills):
    words = [*job, *PLAIN, "augmentation=[mixup]", "trainer.max_epochs=3", "data.val_fraction=0.25"]
    check_runs(lambda *more: call(*words, *more), "checkpoints/last.ckpt", "checkpoint", kills, tmp_path)


@pytest.mark.nightly
def test_a_killed_quantization_is_resumed(trained, tmp_path, kills):
    words = [f"checkpoint={trained[0]}/checkpoints/best.ckpt", "phase=qat", "trainer.max_epochs=3"]
    check_runs(lambda *more: call(*words, *more, script="compress.py"), "qat.ckpt", "resume", kills, tmp_path)


@pytest.mark.nightly
def test_a_killed_export_leaves_no_half_of_a_file(trained, tmp_path, kills, monkeypatch):
    path = tmp_path / "there/wave.onnx"
    path.parent.mkdir()
    words = [f"{trained[0]}/checkpoints/best.ckpt", "--frontend", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    seconds = duration(export, tmp_path / "log")
    whole = path.read_bytes()
    for kill in kills:
        path.unlink(missing_ok=True)
        disturb(export, kill, seconds, tmp_path / "log")
        assert not path.exists() or path.read_bytes() == whole, kill
        export()
        assert path.read_bytes() == whole
        assert names(path.parent) == ["wave.onnx"], kill
