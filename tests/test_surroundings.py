"""What the system takes from a command: worker processes, shared memory, the home directory, standard output."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import call, results

from asc import InputError
from asc.data import SceneData
from asc.training.results import from_home

FORK = multiprocessing.get_context("fork")
CLONE_NEWNS = 0x20000  # of linux/sched.h: mounts of one's own
ENDED = "error: a process that decodes clips has ended, perhaps for lack of memory or of space in /dev/shm: "


@pytest.fixture
def quick(job, tmp_path) -> list[str]:
    return [*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={tmp_path}/run"]


@pytest.fixture(scope="module")
def checkpoint(job, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("short") / "run"
    assert call(*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={run}") is None
    return run / "checkpoints/best.ckpt"


@pytest.fixture
def submission(checkpoint, tiny, tmp_path) -> list[str]:
    """Words of asc.submission, with clips enough for worker processes."""
    (tmp_path / "evaluation/audio").mkdir(parents=True)
    for number, path in enumerate(sorted((tiny / "audio").iterdir())[:20]):
        (tmp_path / f"evaluation/audio/{number}.wav").symlink_to(path)
    (tmp_path / "authors.yaml").write_text(
        "authors: [{lastname: Doe, firstname: Jane, email: jane@example.org, corresponding: true, "
        "affiliation: {abbreviation: UX, institute: X, location: 'X, Y'}}]"
    )
    return [
        *(str(checkpoint), f"{tmp_path}/evaluation", "--name", "N", "--abbreviation", "A"),
        *("--authors", f"{tmp_path}/authors.yaml", "--rehearsal", "--output", str(tmp_path)),
    ]


# Worker processes


@contextmanager
def first_worker_killed() -> Iterator[None]:
    """Send SIGKILL, as the system does where memory runs out, to the first process that this one starts."""
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.0005):
            if workers := multiprocessing.active_children():
                os.kill(workers[0].pid, signal.SIGKILL)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_worker_that_the_system_kills_is_one_sentence(quick, tmp_path, cache):
    with first_worker_killed():
        told = call(*quick, "data.num_workers=2", f"data.cache={cache}", f"data.cache_dir={tmp_path}/cache")
    assert told == ENDED + "free some, set data.num_workers=0 or reduce data.batch_size"
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert len(list(tmp_path.glob("cache/*.npy"))) == (cache == "true"), "the durations"


def test_in_a_command_without_hydra_too(submission, monkeypatch):
    monkeypatch.delitem(sys.modules, "hydra")  # as when it is started alone
    with first_worker_killed():
        assert str(call(*submission, script="asc.submission")).startswith(ENDED)


# Shared memory


def with_shared_memory(options: str, *words: str, script: str) -> None:
    """Run a command that sees another /dev/shm; exit with 77 where mounting is not allowed."""
    mounts = (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", options, "tmpfs", "/dev/shm"])
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) or any(
        subprocess.run(["mount", *mount], capture_output=True).returncode for mount in mounts
    ):
        os._exit(77)
    sys.exit(call(*words, script=script))


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are Linux's")
@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_without_shared_memory_clips_are_decoded_here(submission, options):
    process = FORK.Process(target=with_shared_memory, args=(options, *submission), kwargs={"script": "asc.submission"})
    process.start()
    process.join(30)
    is_alive = process.is_alive()
    process.kill()
    assert not is_alive, "it waits for its worker processes"
    if process.exitcode == 77:
        pytest.skip("nothing can be mounted here")
    assert process.exitcode == 0


# The home directory


def test_a_home_that_is_not_known_is_one_sentence(quick, tmp_path):
    assert str(call(*quick, "data.root='~no_such_user/tau'")) == (
        "error: ~no_such_user/tau begins with a home directory that is not known: give the whole path"
    )
    told = call("~no_such_user/tau", script="asc.check")
    assert told == "error: ~no_such_user/tau begins with a home directory that is not known: give the whole path"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_user_without_home_needs_none_for_a_path_of_its_own(tiny, tmp_path):
    def nobody() -> None:
        os.environ.pop("HOME")
        os.setuid(54321)  # without a line in /etc/passwd
        with pytest.raises(InputError, match=r"^~/\.cache/asc begins with a home directory that is not known"):
            SceneData(str(tiny), cache_dir="~/.cache/asc")
        SceneData(str(tiny), cache_dir=str(tmp_path))
        assert from_home(tmp_path) == str(tmp_path)

    process = FORK.Process(target=nobody)
    process.start()
    process.join()
    assert process.exitcode == 0


# Standard output


def test_a_run_needs_no_standard_output(quick, tmp_path):
    def closed() -> None:
        os.close(1)
        sys.stdout = None  # what Python makes of >&-
        sys.exit(call(*quick))

    process = FORK.Process(target=closed)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert results(tmp_path / "run")["stage"] == "float"
