"""The directory of a run: one process at a time works in it, and none scatters its files elsewhere."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from command import call
from tiny import PLAIN

from asc import InputError
from asc.errors import WriteError
from asc.training.directory import locked

FORK = multiprocessing.get_context("fork")


def hold(directory: Path, worker: bool) -> None:
    """Work in the directory for a minute; with a worker process, as those that decode clips."""
    with locked(directory):
        if worker:
            FORK.Process(target=time.sleep, args=(60,)).start()
        (directory / "ready").touch()
        time.sleep(60)


def test_a_second_process_is_refused_and_leaves_the_first_ones_files(job, tmp_path):
    with locked(tmp_path):
        assert call(*job, f"hydra.run.dir={tmp_path}") == (
            f"error: {tmp_path} is in use by another process: wait for it, or set another hydra.run.dir"
        )
        assert {path.name for path in tmp_path.iterdir()} == {".hydra", ".lock"}, "Hydra's own, and the first one's"
    assert call(*job, *PLAIN, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") is None
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("worker", [False, True])
def test_the_system_frees_the_directory_of_a_process_that_was_killed(tmp_path, worker):
    process = FORK.Process(target=hold, args=(tmp_path, worker))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(InputError, match="in use"), locked(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteError, match=r"file/run cannot be written \(Not a directory\)"),
        locked(tmp_path / "file/run"),
    ):
        pass


@pytest.mark.parametrize(("kind", "words"), [("run", []), ("sweep", ["-m", "seed=0,1"])])
def test_a_run_is_not_scattered_in_the_current_directory(job, tmp_path, monkeypatch, kind, words):
    monkeypatch.chdir(tmp_path)
    message = call(*words, *job, f"hydra.{kind}.dir=")
    assert message == f"error: hydra.{kind}.dir is empty: name a directory, or leave it out"
    assert not list(tmp_path.rglob("*.ckpt"))
