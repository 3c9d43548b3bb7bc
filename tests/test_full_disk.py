"""Every command on a disk that is full, or soon will be: a sentence that names the file, and no half of one.

`pytest tests/test_full_disk.py --rooms 20` tries more of them.
"""

import gc
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from command import call
from tiny import SETTINGS
from whole import check_whole

PAGE = 4096  # bytes
SMALL = ["frontend.n_fft=512", "frontend.win_length=512", "frontend.hop_length=256", "net.filters=[4,4,4,4]"]
COMPRESS = ["checkpoint={best}", "trainer.max_epochs=1", "data.num_workers=0", "data.cache_dir={disk}/cache"]
TRAIN = ["data=dcase", "data.root={tiny}", *SETTINGS, *SMALL, "trainer.max_epochs=1", "hydra.run.dir={disk}/run"]
COMMANDS = {  # script, words, and pages that are less than what it writes
    "train": ("train.py", [*TRAIN, "data.cache_dir={disk}/cache"], 340),
    "tensorboard": ("train.py", [*TRAIN, "data.cache_dir={cache}", "logger=tensorboard"], 140),
    "qat": ("compress.py", [*COMPRESS, "phase=qat", "hydra.run.dir={disk}/run"], 340),
    "prune": ("compress.py", [*COMPRESS, "phase=prune", "hydra.run.dir={disk}/run"], 340),
    "prune_filters": ("compress.py", [*COMPRESS, "phase=prune_filters", "hydra.run.dir={disk}/run"], 340),
    "distill": ("compress.py", [*COMPRESS, "phase=distill", "hydra.run.dir={disk}/run"], 340),
    "export": ("asc.export", ["{best}", "--frontend", "--output", "{disk}/wave.onnx"], 30),
    "evaluate": ("asc.evaluate", ["{best}", "--output", "{disk}/evaluation", "data.cache_dir={disk}/cache"], 20),
    "report": ("asc.report", ["{run}", "--html", "{disk}/page.html", "--picture", "{disk}/it.png", "--no-latency"], 50),
    "bundle": ("asc.bundle", ["{run}", "{disk}/bundle"], 35),
    "predict": ("asc.predict", ["{best}", "{clip}", "--picture", "{disk}/timeline.png"], 5),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk."""
    path = tmp_path_factory.mktemp("disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield path
    gc.collect()  # features are memory-mapped
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture(scope="module")
def places(disk, tiny, tmp_path_factory) -> dict[str, object]:
    """What stands in {} in the words of the commands."""
    folder = tmp_path_factory.mktemp("full")
    run, cache = folder / "run", folder / "cache"
    words = [word.format(tiny=tiny, disk=folder) for word in TRAIN]
    assert call(*words, f"data.cache_dir={cache}") is None
    clip = next((tiny / "audio").iterdir())
    best = run / "checkpoints/best.ckpt"
    return {"tiny": tiny, "clip": clip, "disk": disk, "run": run, "cache": cache, "best": best}


def leave(disk: Path, pages: int) -> None:
    """Empty the disk, and fill it but for so many pages."""
    gc.collect()
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    fill(disk, pages)


def fill(disk: Path, pages: int) -> None:
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, (os.statvfs(disk).f_bavail - pages) * PAGE)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_does_not_fit_is_named_and_no_half_of_it_is_left(command, places, disk, request, capfd):
    script, words, most = COMMANDS[command]
    rooms = request.config.getoption("--rooms")
    if rooms == 1 and command in ("tensorboard", "prune", "distill"):
        pytest.skip("much like others: give --rooms 20")
    draw = random.Random(f"{command} {request.config.getoption('--fuzz-seed')}")
    for pages in (draw.randrange(most) for _ in range(rooms)):
        leave(disk, pages)
        told = call(*(word.format(**places) for word in words), script=script)
        assert str(told).startswith("error: "), pages
        assert len(str(told).splitlines()) == 1, pages
        assert str(disk) in str(told) or "logger=tensorboard cannot" in str(told), (pages, told)
        assert "Traceback" not in capfd.readouterr().err, pages
        (disk / "filler").unlink()
        shutil.rmtree(disk / "cache", ignore_errors=True)  # goes on where it stopped: see test_cache.py
        check_whole(disk)
        left = [path.name for path in disk.rglob("*")]
        assert not [name for name in left if ".tmp" in name or name == ".lock"], pages
        assert "results.json" not in left, "a run that is not finished"


@pytest.mark.parametrize(("logger", "pages"), [("tensorboard", 5), ("mlflow", 25)])  # Hydra's settings take four
def test_a_log_that_does_not_fit_is_named(logger, pages, places, disk, capfd):
    script, words, _ = COMMANDS["tensorboard"]
    leave(disk, pages)
    told = call(*(word.format(**places) for word in words), f"logger={logger}", script=script)
    assert f"error: logger={logger} cannot write (No space left" in str(told)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_that_is_to_resume_keeps_its_settings(places, disk):
    leave(disk, 1000)
    shutil.copytree(places["run"], disk / "run")
    (disk / "run/results.json").unlink()
    files = list((disk / "run/.hydra").iterdir())
    before = [path.read_text() for path in files]
    (disk / "filler").unlink()
    fill(disk, 0)
    words = [word.format(**places) for word in COMMANDS["train"][1]]
    told = call(*words, f"checkpoint={disk}/run/checkpoints/last.ckpt", "seed=5")
    assert told.startswith(f"error: {disk}/run/.hydra/config.yaml cannot be written (No space left")
    assert [path.read_text() for path in files] == before
    assert len(before) == 3


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_disk_that_is_read_only_is_named(command, places, disk):
    script, words, _ = COMMANDS[command]
    leave(disk, 1000)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    told = call(*(word.format(**places) for word in words), script=script)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert told.startswith("error: ")
    assert f"{disk}/" in told
    assert "(Read-only file system" in told


def test_a_run_is_finished_when_all_its_files_are_written(places, tiny, tmp_path):
    (tmp_path / "run/confusion_matrix.png").mkdir(parents=True)
    words = [word.format(tiny=tiny, disk=tmp_path) for word in TRAIN]
    told = call(*words, f"data.cache_dir={places['cache']}")
    assert told.startswith(f"error: {tmp_path}/run/confusion_matrix.png cannot be written (Is a directory)")
    assert not (tmp_path / "run/results.json").exists(), "it could not be resumed"
