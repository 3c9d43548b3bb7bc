"""The directory of a run: one process at a time works in it, on one run."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from command import call
from omegaconf import OmegaConf
from tiny import PLAIN

from asc import InputError
from asc.errors import WriteError
from asc.training.run_dir import lock_run_dir

FORK = multiprocessing.get_context("fork")


def hold(directory: Path, worker: bool) -> None:
    """Work in the directory for a minute; with a worker process, as those that decode clips."""
    with lock_run_dir(directory):
        if worker:
            FORK.Process(target=time.sleep, args=(60,)).start()
        (directory / "ready").touch()
        time.sleep(60)


def test_a_second_process_is_refused_and_leaves_the_first_ones_files(job, tmp_path):
    with lock_run_dir(tmp_path):
        assert call(*job, f"hydra.run.dir={tmp_path}") == (
            f"error: {tmp_path} is in use by another process: wait for it, or set another hydra.run.dir"
        )
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
    assert call(*job, *PLAIN, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") is None


@pytest.mark.parametrize("worker", [False, True])
def test_the_system_frees_the_directory_of_a_process_that_was_killed(tmp_path, worker):
    process = FORK.Process(target=hold, args=(tmp_path, worker))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(InputError, match="in use"), lock_run_dir(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock_run_dir(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteError, match=r"file/run cannot be written \(Not a directory\)"),
        lock_run_dir(tmp_path / "file/run"),
    ):
        pass


def test_a_rejected_run_leaves_the_one_that_is_there(trained, job):
    directory, _ = trained
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert "contains a run: set another" in str(call(*job, "seed=5", f"hydra.run.dir={directory}"))
    words = [f"checkpoint={directory}/checkpoints/best.ckpt", "phase=prune", f"hydra.run.dir={directory}"]
    assert "contains a run: set another" in str(call(*words, script="compress.py"))
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("last", ["checkpoints/last.ckpt", "qat.ckpt"])
def test_an_unfinished_run_is_not_overwritten_but_resumed(job, tmp_path, last):
    (tmp_path / last).parent.mkdir(exist_ok=True)
    (tmp_path / last).touch()
    assert f"resume with checkpoint={tmp_path / last}" in str(call(*job, f"hydra.run.dir={tmp_path}"))
    assert not (tmp_path / ".hydra").exists()


def test_a_run_saves_its_settings_as_hydra_does(trained):
    folder = trained[0] / ".hydra"
    assert "trainer.max_epochs=20" in OmegaConf.load(folder / "overrides.yaml")
    assert OmegaConf.load(folder / "config.yaml").trainer.max_epochs == 20
    assert OmegaConf.load(folder / "hydra.yaml").hydra.job.name == "train"
