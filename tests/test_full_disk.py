"""Commands on a disk that fills up: one sentence names the file, and no half-written file stays."""

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

pytestmark = pytest.mark.nightly

PAGE = 4096  # bytes
SMALL = ["frontend.n_fft=512", "frontend.win_length=512", "frontend.hop_length=256", "net.filters=[4,4,4,4]"]
TRAIN = ["data=dcase", "data.root={tiny}", *SETTINGS, *SMALL, "trainer.max_epochs=1", "hydra.run.dir={disk}/run"]
COMPRESS = ["checkpoint={best}", "trainer.max_epochs=1", "data.num_workers=0", "hydra.run.dir={disk}/run"]
COMMANDS = {  # script, words, and pages that are fewer than what it writes
    "train": ("train.py", [*TRAIN, "data.cache_dir={disk}/cache"], 340),
    "tensorboard": ("train.py", [*TRAIN, "data.cache_dir={cache}", "logger=tensorboard"], 140),
    "qat": ("compress.py", [*COMPRESS, "phase=qat", "data.cache_dir={disk}/cache"], 340),
    "export": ("asc.export", ["{best}", "--frontend", "--output", "{disk}/wave.onnx"], 30),
    "evaluate": ("asc.evaluate", ["{best}", "--output", "{disk}/evaluation", "data.cache_dir={disk}/cache"], 20),
    "report": ("asc.report", ["{run}", "--html", "{disk}/page.html", "--no-latency"], 20),
    "bundle": ("asc.bundle", ["{run}", "{disk}/bundle"], 35),
    "predict": ("asc.predict", ["{best}", "{clip}", "--picture", "{disk}/timeline.png"], 5),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 4 MB."""
    path = tmp_path_factory.mktemp("disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield path
    gc.collect()  # features are memory-mapped
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture(scope="module")
def places(disk, tiny, tmp_path_factory) -> dict[str, object]:
    """The paths for {} in the words of the commands."""
    folder = tmp_path_factory.mktemp("full")
    run, cache = folder / "run", folder / "cache"
    assert call(*(word.format(tiny=tiny, disk=folder) for word in TRAIN), f"data.cache_dir={cache}") is None
    clip, best = next((tiny / "audio").iterdir()), run / "checkpoints/best.ckpt"
    return {"tiny": tiny, "clip": clip, "disk": disk, "run": run, "cache": cache, "best": best}


def fill(disk: Path, pages: int) -> None:
    """Leave so many pages of the disk free."""
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, (os.statvfs(disk).f_bavail - pages) * PAGE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(command, places, disk, request, capfd):
    script, words, most = COMMANDS[command]
    draw = random.Random(f"{command} {request.config.getoption('--fuzz-seed')}")
    for pages in (draw.randrange(most) for _ in range(request.config.getoption("--rooms"))):
        gc.collect()
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        fill(disk, pages)
        message = str(call(*(word.format(**places) for word in words), script=script))
        assert message.startswith("error: "), pages
        assert len(message.splitlines()) == 1, pages
        assert "Traceback" not in capfd.readouterr().err, pages
        (disk / "filler").unlink()
        shutil.rmtree(disk / "cache", ignore_errors=True)  # continues where it stopped
        check_whole(disk)
        names = [path.name for path in disk.rglob("*")]
        assert not [name for name in names if ".tmp" in name], pages
        assert "results.json" not in names, pages


def test_a_run_to_resume_keeps_its_settings_on_a_full_disk(places, disk):
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(places["run"], disk / "run")
    (disk / "run/results.json").unlink()
    files = list((disk / "run/.hydra").iterdir())
    before = [path.read_text() for path in files]
    fill(disk, 0)
    words = [word.format(**places) for word in COMMANDS["train"][1]]
    message = call(*words, f"checkpoint={disk}/run/checkpoints/last.ckpt", "seed=5")
    assert message.startswith(f"error: {disk}/run/.hydra/config.yaml")
    assert [path.read_text() for path in files] == before
