"""What a command needs of the system: threads, worker processes, shared memory, a home directory, standard output."""

import ctypes
import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import ENVIRONMENT, REPOSITORY, call, results, run

from asc import InputError
from asc.data import SceneData, datasets
from asc.settings import literal

FORK = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context()
CLONE_NEWNS = 0x20000  # of linux/sched.h: a mount namespace


@pytest.fixture
def quick(job, tmp_path) -> list[str]:
    return [*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={tmp_path}/run"]


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP prints how its threads wait")
@pytest.mark.parametrize(("policy", "spin"), [({}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, True)])
def test_openmp_threads_sleep_while_they_wait_unless_set_otherwise(policy, spin):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in names}
    done = run("import asc, torch", script="-c", env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **policy})
    (count,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert (int(count) > 0) == spin


def test_a_killed_worker_process_is_one_sentence(quick, tmp_path, monkeypatch):
    here, read_excerpt = os.getpid(), datasets.read_excerpt

    def read_or_die(*arguments: object) -> object:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_excerpt(*arguments)

    monkeypatch.setattr(datasets, "read_excerpt", read_or_die)
    message = call(*quick, "data.num_workers=2", "data.cache=false")
    assert message.startswith("error: DataLoader worker (pid")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.fixture
def windows(monkeypatch) -> None:
    """What Windows does otherwise: it starts processes anew, and does not delete an open file."""
    unlink = Path.unlink

    def checked_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.resolve() in {Path(f"/proc/self/fd/{name}").resolve() for name in os.listdir("/proc/self/fd")}:
            raise PermissionError(errno.EACCES, "it is being used by another process", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda _: multiprocessing.get_context("spawn"))
    monkeypatch.setattr(Path, "unlink", checked_unlink)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are found in /proc")
def test_on_windows_a_run_ends_well_and_worker_processes_compute_the_same_features(quick, tmp_path, request):
    for name in ("linux", "windows"):
        if name == "windows":
            request.getfixturevalue("windows")
        words = [f"data.cache_dir={tmp_path}/{name}", "data.num_workers=1", f"hydra.run.dir={tmp_path}/{name}"]
        assert call(*quick, *words) is None
    files = [sorted(tmp_path.glob(f"{name}/*.npy")) for name in ("linux", "windows")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 2, "durations and features"


def run_with_shared_memory(options: str, *words: str) -> None:
    """Train with another /dev/shm; exit with 77 where mounting is not allowed."""
    mounts = (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", options, "tmpfs", "/dev/shm"])
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) or any(
        subprocess.run(["mount", *mount], capture_output=True).returncode for mount in mounts
    ):
        os._exit(77)
    sys.exit(call(*words))


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="mounts are Linux's")
@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_without_shared_memory_the_main_process_decodes(quick, options):
    words = [*quick, "data.num_workers=2", "data.cache=false"]
    process = FORK.Process(target=run_with_shared_memory, args=(options, *words))
    process.start()
    process.join(60)
    is_alive = process.is_alive()
    process.kill()
    assert not is_alive, "it waits for its worker processes"
    if process.exitcode == 77:
        pytest.skip("nothing can be mounted here")
    assert process.exitcode == 0


def test_an_unknown_home_directory_is_one_sentence(quick):
    for message in (call(*quick, "data.root='~no_such_user/tau'"), call("~no_such_user/tau", script="asc.check")):
        assert str(message).startswith("error: ")
        assert "~no_such_user/tau" in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_user_without_home_can_name_another_cache(tiny, tmp_path):
    def nobody() -> None:
        os.environ.pop("HOME")
        os.setuid(54321)  # not in /etc/passwd
        with pytest.raises(InputError, match=r"~/\.cache/asc"):
            SceneData(str(tiny), cache_dir="~/.cache/asc")
        SceneData(str(tiny), cache_dir=str(tmp_path))

    process = FORK.Process(target=nobody)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_paths_with_special_characters_work_as_typed(quick, tiny, tmp_path, monkeypatch):
    home = tmp_path / "Jürgen's a=b (1)"
    home.mkdir()
    (home / "tau").symlink_to(tiny)
    monkeypatch.setenv("HOME", str(home))
    assert call(*quick, "data.root=~/tau", f"hydra.run.dir={home}/run") is None
    words = [f"checkpoint={home}/run/checkpoints/best.ckpt", "trainer.max_epochs=1", "data.num_workers=0"]
    assert call(*words, "phase=prune", "hydra.run.dir=~/pruned", script="compress.py") is None
    assert results(home / "pruned")["stage"] == "pruned"


def test_numbers_and_commas_in_paths_are_taken_as_typed(quick, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("20240512_060000").symlink_to(tiny)
    Path("a,b").symlink_to(tiny)
    assert call(*quick, "data.root=20240512_060000", "hydra.run.dir=1e3") is None
    words = ["checkpoint=1e3/checkpoints/best.ckpt", "data.root=a,b", "trainer.max_epochs=1", "data.num_workers=0"]
    assert call(*words, "phase=prune", "hydra.run.dir=2024_1", script="compress.py") is None
    assert results(Path("2024_1"))["stage"] == "pruned"


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("data.root=~/a b", "data.root={home}/a b"),
        ("data.root=/ü", 'data.root="/ü"'),
        ('+a.b=/ü"', '+a.b="/ü\\""'),
        ("optimizer.lr=1e-3,3e-4", None),
        ("data.root='~/x'", None),
        ("data.root=20240512_060000", 'data.root="20240512_060000"'),
        ("data.root=a,b", 'data.root="a,b"'),
        ("data.root=[1] x", 'data.root="[1] x"'),
        ("data.unlabelled=null", None),
        ("checkpoint=[A,B]", None),
        ("+seed=1_0", None),
        ("--config-dir=/ü", None),
        ("hydra.run.dir=", None),
    ],
)
def test_only_what_hydra_would_read_otherwise_gets_quotes(word, read):
    assert literal(word) == (word if read is None else read.format(home=Path("~").expanduser()))


def test_in_a_sweep_commas_separate_paths():
    assert literal("data.root=~/a,2024", is_sweep=True) == f'data.root={Path("~").expanduser()}/a,"2024"'
    assert literal("hydra.sweep.dir=a,b", is_sweep=True) == 'hydra.sweep.dir="a,b"'


def test_letters_that_the_output_lacks_are_escaped(tmp_path):
    for label in ("Straße", "Wald"):
        (tmp_path / label).mkdir()
        for number in range(2):
            soundfile.write(tmp_path / label / f"{number}.wav", np.full(800, 0.1 + 0.1 * number), 8000)
    done = run("asc.check", str(tmp_path), script="-m", env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert not done.stderr
    assert "Stra\\xdfe" in done.stdout


def test_asc_lists_and_runs_each_command(capsys):
    (entry,) = entry_points(group="console_scripts", name="asc")
    with pytest.raises(SystemExit, match="0"):
        entry.load()([])
    listed = capsys.readouterr().out
    for file in (REPOSITORY / "asc").glob("*/__main__.py"):
        name, helps = file.parent.name, []
        for main, words in ((entry.load(), [name]), (import_module(f"asc.{name}.__main__").main, [])):
            with pytest.raises(SystemExit, match="0"):
                main([*words, "--help"])
            helps.append(capsys.readouterr().out)
        assert helps[0] == helps[1]
        assert f"\n  {name} " in listed
