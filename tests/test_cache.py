"""The cache of features: the same as without it, computed once, complete or absent, and checked when it is used."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from command import call, results, rows
from tiny import RATE

from asc import InputError
from asc.data import SceneData
from asc.data.cache import LIBRARIES, cache_path
from asc.frontend import Frontend, Spectrogram

CPU = torch.device("cpu")
CLIPS = 36
FORK = multiprocessing.get_context("fork")  # without the seconds of importing torch


@pytest.fixture
def root(tiny, tmp_path) -> Path:
    """A copy of the clips, which a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def scenes(root: Path, folder: Path, **settings) -> SceneData:
    data = SceneData(str(root), sample_rate=RATE, num_workers=0, cache_dir=str(folder), **settings)
    data.setup()
    return data


def build(root: Path, folder: Path, frontend: Frontend | None = None, settings: dict | None = None, **changes) -> Path:
    """The file of all clips' features."""
    return scenes(root, folder, **changes).cache_features(settings or {}, frontend or Spectrogram(RATE), CPU)


def sounds(root: Path) -> list[Path]:
    return sorted((root / "audio").iterdir())


class Watched(Spectrogram):
    """A frontend that counts its clips, and kills its process after `left` of them."""

    def __init__(self, left: int = CLIPS, pause: float = 0.0):
        super().__init__(RATE)
        self.left, self.pause, self.clips = left, pause, 0

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        if wave.any():  # silence only gives the shape
            if self.clips >= self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            self.clips += len(wave)
            time.sleep(self.pause)
        return super().spectrogram(wave)


def start(function: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=function)
    process.start()
    return process


# The same as without


@pytest.mark.parametrize(("log", "dtype"), [(True, torch.float16), (False, torch.float32)])
def test_cached_features_equal_the_frontends(log, dtype, root, folder):
    frontend = Spectrogram(RATE, log=log)
    data = scenes(root, folder, batch_size=5)
    waves = list(data.loader("test"))
    data.cache_features({}, frontend, CPU)
    for (wave, target), (features, same) in zip(waves, data.loader("test"), strict=True):
        assert torch.equal(target, same)
        assert features.dtype == dtype
        # float16 has 11 bits: a step is 2^-10 of the value's power of two
        torch.testing.assert_close(features.float(), frontend(wave), rtol=2**-11 if log else 1e-6, atol=1e-4)


def test_a_run_learns_the_same_with_and_without_the_cache(job, tmp_path):
    """To the rounding of sums: features that are no logarithms are stored in float32."""
    losses, tests = [], []
    for cache in ("true", "false"):
        words = ["frontend.log=false", "frontend.standardize=true", f"data.cache={cache}"]
        assert call(*job, *words, f"hydra.run.dir={tmp_path}/{cache}") is None
        losses.append([float(row["train/loss"]) for row in rows(tmp_path / cache / "metrics.csv")])
        tests.append(results(tmp_path / cache)["test"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert tests[0]["confusion_matrix"] == tests[1]["confusion_matrix"]
    assert tests[0]["log_loss"] == pytest.approx(tests[1]["log_loss"], rel=1e-4)


# Used again


def test_the_file_is_used_until_a_clip_or_a_setting_changes(root, folder):
    file = build(root, folder, settings={"n_bins": 128})
    written = file.stat().st_mtime_ns
    assert build(root, folder, settings={"n_bins": 128}, val_fraction=0.5, seed=3) == file, "splits share a file"
    assert file.stat().st_mtime_ns == written
    assert build(root, folder, settings={"n_bins": 64}) != file
    assert build(root, folder, settings={"n_bins": 128}, clip_seconds=1) != file
    clip = sounds(root)[0]
    clip.write_bytes(clip.read_bytes()[:-2] + b"\x01\x00")
    assert build(root, folder, settings={"n_bins": 128}) != file


def test_the_key_hashes_source_and_libraries(tmp_path, monkeypatch):
    source = tmp_path / "own.py"
    source.write_text("a = 1\n")
    module = ModuleType("own")
    module.__file__ = str(source)
    before = cache_path(tmp_path, {}, [], [module])
    source.write_text("a = 2\n")
    edited = cache_path(tmp_path, {}, [], [module])
    monkeypatch.setitem(LIBRARIES, "soxr", "0")
    assert len({before, edited, cache_path(tmp_path, {}, [], [module])}) == 3


def test_cached_clips_are_not_decoded_again(root, folder):
    file = build(root, folder)
    for clip in sounds(root):
        status = clip.stat()
        clip.write_bytes(bytes(status.st_size))
        os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build(root, folder) == file
    with pytest.raises(InputError, match="not a sound file"):
        scenes(root, folder, cache=False)


def test_a_trainable_frontend_is_rejected(root, folder):
    with pytest.raises(InputError, match="data.cache=false"):
        build(root, folder, Spectrogram(RATE, trainable_stft=True))


# Interrupted, shared, damaged


def test_a_killed_process_leaves_no_file_and_the_next_one_writes_the_same(root, folder, tmp_path):
    expected = build(root, tmp_path / "other").read_bytes()
    killed = start(lambda: build(root, folder, Watched(left=20)))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(list(folder.glob("[0-9a-f]*.npy"))) == 1, "the durations"
    frontend = Watched()
    assert build(root, folder, frontend).read_bytes() == expected
    assert frontend.clips == CLIPS
    assert not list(folder.glob(".*tmp*"))


def test_processes_that_need_the_same_features_compute_them_once(root, folder, tmp_path):
    counts = [tmp_path / f"{number}" for number in range(3)]

    def count(path: Path) -> None:
        frontend = Watched(pause=0.05)
        build(root, folder, frontend)
        path.write_text(str(frontend.clips))

    processes = [start(lambda path=path: count(path)) for path in counts]
    for process in processes:
        process.join()
    assert sorted(int(path.read_text()) for path in counts) == [0, 0, CLIPS]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header"])
def test_a_damaged_file_is_computed_again(damage, root, folder, capsys):
    file = build(root, folder)
    expected = file.read_bytes()
    damaged = bytearray(expected)
    if damage in ("flip", "header"):
        damaged[20 if damage == "header" else len(damaged) // 2] ^= 1
    file.write_bytes({"cut": expected[:-1000], "empty": b""}.get(damage, damaged))
    assert build(root, folder).read_bytes() == expected
    assert "damaged" in capsys.readouterr().err or damage == "empty"


def test_a_cache_directory_that_cannot_be_written_is_named(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"data.cache_dir={tmp_path}/file"):
        build(root, tmp_path / "file")
