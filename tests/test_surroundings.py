"""What the system takes from a command: worker processes, memory, home, output, file locks, the time of day."""

import ctypes
import errno
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from command import ENVIRONMENT, call, results, rows, run

from asc import InputError
from asc.benchmark.growth import Stopwatch
from asc.data import SceneData, audio
from asc.data.cache import load_or_compute
from asc.data.synthetic import write_scenes
from asc.settings import literal
from asc.training.results import from_home

FORK = multiprocessing.get_context("fork")
CLONE_NEWNS = 0x20000  # of linux/sched.h: mounts of one's own
ENDED = "error: a process that decodes clips has ended, perhaps for lack of memory or of space in /dev/shm: "


@pytest.fixture
def quick(job, tmp_path) -> list[str]:
    return [*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={tmp_path}/run"]


@pytest.fixture(scope="module")
def checkpoint(job, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("short")
    assert call(*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={directory}") is None
    return directory / "checkpoints/best.ckpt"


# A busy machine


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP tells how its threads wait")
@pytest.mark.parametrize(("of_user", "spin"), [({}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, True)])
def test_threads_wait_asleep_unless_the_user_says_otherwise(of_user, spin):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in names}
    done = run("import asc, torch", script="-c", env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **of_user})
    (count,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert (int(count) > 0) == spin


# Worker processes


@pytest.fixture
def killed_workers(monkeypatch) -> None:
    """Each process that this one starts gets SIGKILL, as from a system without memory, when it decodes a clip."""
    here, read_wave = os.getpid(), audio.read_wave

    def read_or_die(*arguments: object) -> torch.Tensor:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_wave(*arguments)

    monkeypatch.setattr(audio, "read_wave", read_or_die)


@pytest.mark.usefixtures("killed_workers")
@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_worker_that_the_system_kills_is_one_sentence(quick, tmp_path, cache):
    told = call(*quick, "data.num_workers=2", f"data.cache={cache}", f"data.cache_dir={tmp_path}/cache")
    assert told == ENDED + "free some, set data.num_workers=0 or reduce data.batch_size"
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert len(list(tmp_path.glob("cache/*.npy"))) == (cache == "true"), "the durations"


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
def test_without_shared_memory_clips_are_decoded_here(quick, options):
    words = [*quick, "data.num_workers=2", "data.cache=false"]
    process = FORK.Process(target=with_shared_memory, args=(options, *words), kwargs={"script": "train.py"})
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


def test_paths_are_taken_as_one_writes_them(quick, tiny, tmp_path, monkeypatch):
    home = tmp_path / "Jürgen's a=b (1)"
    home.mkdir()
    (home / "tau").symlink_to(tiny)
    monkeypatch.setenv("HOME", str(home))
    assert call(*quick, "data.root=~/tau", f"hydra.run.dir={home}/run") is None
    checkpoint = f"checkpoint={home}/run/checkpoints/best.ckpt"
    small = ["trainer.max_epochs=1", "data.num_workers=0"]
    assert call(checkpoint, *small, "phase=prune", "hydra.run.dir=~/pruned", script="compress.py") is None
    assert results(home / "pruned")["stage"] == "pruned"
    assert call(f"{home}/pruned/pruned.ckpt", "data=dcase", "data.root=~/tau", "--json", script="asc.evaluate") is None


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("data.root=~/a b", "data.root={home}/a b"),
        ("data.root=/ü", 'data.root="/ü"'),
        ('+a.b=/ü"', "+a.b='/ü\"'"),
        ("optimizer.lr=1e-3,3e-4", None),
        ("callbacks=[mixup", None),
        ("data.root='~/x'", None),
        ("~callbacks.spec_augment", None),
        ("--config-dir=/ü", None),
        ("hydra.run.dir=", None),
    ],
)
def test_words_that_hydra_reads_stay(word, read):
    assert literal(word) == (word if read is None else read.format(home=Path("~").expanduser()))


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


def test_letters_that_the_output_lacks_are_escaped(tmp_path):
    for label in ("Straße", "Wald"):
        (tmp_path / label).mkdir()
        for number in range(2):
            soundfile.write(tmp_path / label / f"{number}.wav", np.full(800, 0.1 + 0.1 * number), 8000)
    settings = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = run("asc.check", str(tmp_path), script="-m", env=settings)
    assert not done.stderr
    assert "Stra\\xdfe" in done.stdout


# File locks


def locks_fail(patch: pytest.MonkeyPatch, number: int, *names: str) -> None:
    """As a network file system does it, which cannot be mounted here."""

    def refused(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        patch.setattr(f"fcntl.{name}", refused)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_directory_without_locks_is_named(number, quick, tmp_path, monkeypatch):
    locks_fail(monkeypatch, number, "flock", "lockf")
    why = os.strerror(number)
    assert call(*quick) == f"error: {tmp_path}/run cannot be written ({why}): set another hydra.run.dir"
    with pytest.raises(InputError, match=rf"data.cache_dir={tmp_path} cannot be written \({why}, {tmp_path}/x"):
        load_or_compute(tmp_path / "x.npy", 3, lambda: np.zeros(3))
    with pytest.raises(InputError, match=rf"data.root={tmp_path}/scenes cannot be written \({why}"):
        write_scenes(tmp_path / "scenes")


def test_where_the_system_knows_no_locks_a_file_is_one(quick, tmp_path, monkeypatch):
    locks_fail(monkeypatch, errno.ENOSYS, "flock")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flock not supported")
        assert call(*quick) is None
    assert not (tmp_path / "run/.lock").exists()


# The time of day


def test_durations_do_not_depend_on_a_clock_that_is_set(quick, tmp_path, monkeypatch):
    now = time.time()
    backwards = (now - hour * 3600 for hour in itertools.count())
    monkeypatch.setattr(time, "time", lambda: next(backwards))
    assert call(*quick, f"data.cache_dir={tmp_path}/cache") is None
    assert 0 < results(tmp_path / "run")["training"]["seconds"] < 60
    (row,) = rows(tmp_path / "run/metrics.csv")
    assert 0 < float(row["clips_per_second"]) < math.inf
    watch = Stopwatch(str(tmp_path / "watch.json"))
    watch.on_train_batch_start(None, None, [], 0)
    watch.on_train_end(None, SimpleNamespace(device=torch.device("cpu")))
    watched = json.loads((tmp_path / "watch.json").read_text())
    assert watched["first"] <= watched["last"]
