"""SIGINT, SIGTERM and SIGKILL at any instant: what is on disk is whole, and a rerun ends as if nothing had happened.

`pytest tests/test_kills.py --kills 20` sends more of them. asc.download has such a test in test_download.py.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from command import call, results, rows
from tiny import RATE
from whole import check_whole

from asc import export
from asc.data import SceneData
from asc.frontend import Spectrogram
from asc.loading import read_checkpoint

FORK = multiprocessing.get_context("fork")  # processes as real as others, without the seconds of importing torch
TRAIN = ["trainer.max_epochs=3", "data.val_fraction=0.25", "net.filters=[8,8,8,8]"]
QAT = ["phase=qat", "trainer.max_epochs=3", "data.num_workers=0"]


class Kill(NamedTuple):
    """A signal, and when: the fraction of the time that the work takes."""

    signal: signal.Signals
    instant: float


@pytest.fixture
def kills(request) -> list[Kill]:
    if not request.config.getoption("--kills"):
        pytest.skip("takes minutes: give --kills 20")
    draw = random.Random(request.config.getoption("--fuzz-seed"))
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    return [Kill(signals[n % 3], draw.random()) for n in range(request.config.getoption("--kills"))]


def start(work: Callable[[], object], log: Path) -> multiprocessing.process.BaseProcess:
    """The work in a process of its own, whose output goes to the log."""

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
    """Begin the work, and send the signal at its instant."""
    process = start(work, log)
    time.sleep(kill.instant * seconds)
    os.kill(process.pid, kill.signal)  # if it has ended, it has its id until it is waited for
    process.join(60)
    assert process.exitcode is not None, f"{kill} did not end it: {log.read_text()}"


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if ".hydra" not in path.parts)


def check_runs(run: Callable[..., object], last: str, setting: str, kills: list[Kill], folder: Path) -> None:
    """Disturb a run, then resume it where it left off, and compare it with one that was not disturbed.

    Args:
        run: of further words of the command line.
        last: the checkpoint from which it resumes, below its directory.
        setting: that resumes.
        kills: to try, each on a new run.
        folder: where to.
    """
    whole, log = folder / "whole", folder / "log"
    seconds = duration(lambda: run(f"hydra.run.dir={whole}"), log)
    for number, kill in enumerate(kills):
        there = folder / str(number)
        disturb(lambda there=there: run(f"hydra.run.dir={there}"), kill, seconds, log)
        check_whole(there)
        if not (there / last).exists():
            resumed = run(f"hydra.run.dir={there}")
        else:
            resumed = run(f"{setting}={there / last}", f"hydra.run.dir={there}")
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


def same(one: object, other: object) -> bool:
    """Whether two entries of a state are equal; a quantized layer keeps its kernel in a tuple, beside None."""
    if isinstance(other, tuple):
        return all(map(same, one, other))
    return torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other


@pytest.mark.slow
def test_a_training(job, tmp_path, kills):
    check_runs(lambda *words: call(*job, *TRAIN, *words), "checkpoints/last.ckpt", "checkpoint", kills, tmp_path)


@pytest.mark.slow
def test_a_quantization(job, tmp_path, kills):
    assert call(*job, *TRAIN, f"hydra.run.dir={tmp_path}/float") is None
    source = [f"checkpoint={tmp_path}/float/checkpoints/best.ckpt", *QAT]
    check_runs(lambda *words: call(*source, *words, script="compress.py"), "qat.ckpt", "resume", kills, tmp_path)


def build(tiny: Path, folder: Path) -> None:
    data = SceneData(str(tiny), sample_rate=RATE, num_workers=0, cache_dir=str(folder))
    data.setup()
    data.cache_features({}, Slow(RATE), torch.device("cpu"))


def check_same(folder: Path, whole: Path, kill: Kill) -> None:
    assert names(folder) == names(whole), kill
    for file in folder.iterdir():
        assert file.read_bytes() == (whole / file.name).read_bytes(), kill


def test_a_build_of_the_cache(tiny, tmp_path, kills):
    whole, log = tmp_path / "whole", tmp_path / "log"
    seconds = duration(lambda: build(tiny, whole), log)
    for number, kill in enumerate(kills):
        folder = tmp_path / str(number)
        disturb(lambda folder=folder: build(tiny, folder), kill, seconds, log)
        for file in folder.glob("*.npy"):
            assert file.read_bytes() == (whole / file.name).read_bytes(), kill
        build(tiny, folder)
        check_same(folder, whole, kill)


def test_a_build_of_the_cache_by_three_processes_of_which_one_is_left(tiny, tmp_path, kills):
    whole, log = tmp_path / "whole", tmp_path / "log"
    seconds = duration(lambda: build(tiny, whole), log)
    for number, kill in enumerate(kills):
        folder = tmp_path / str(number)
        work = partial(build, tiny, folder)
        other, left = start(work, log), start(work, log)
        disturb(work, kill, seconds / 2, log)
        other.kill()
        left.join(60)
        assert left.exitcode == 0, (kill, log.read_text())
        check_same(folder, whole, kill)


class Slow(Spectrogram):
    """A frontend that takes its time."""

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().spectrogram(wave)


def test_an_export(job, tmp_path, kills, monkeypatch):
    assert call(*job, *TRAIN, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/float") is None
    (tmp_path / "there").mkdir()
    path = tmp_path / "there/wave.onnx"
    words = [f"{tmp_path}/float/checkpoints/best.ckpt", "--frontend", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    seconds = duration(export.main, tmp_path / "log")
    whole = path.read_bytes()
    for kill in kills:
        path.unlink(missing_ok=True)
        disturb(export.main, kill, seconds, tmp_path / "log")
        assert not path.exists() or path.read_bytes() == whole, kill
        export.main()
        assert path.read_bytes() == whole
        assert names(path.parent) == ["wave.onnx"], kill
