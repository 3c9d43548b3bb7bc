"""What is kept between runs: the same as without it, whole or not there, and computed once, whoever is killed when."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from command import call, rows
from tiny import PLAIN, RATE, SECONDS

from asc import InputError
from asc.data import SceneData
from asc.data.cache import LIBRARIES, CacheFile, cache_path
from asc.frontend import Frontend, Spectrogram

CPU = torch.device("cpu")
CLIPS = 36
FORK = multiprocessing.get_context("fork")  # processes as real as others, without the seconds of importing torch


@pytest.fixture
def root(tiny, tmp_path) -> Path:
    """Clips of the test's own, which it may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def scenes(root: Path, folder: Path, **settings) -> SceneData:
    data = SceneData(str(root), sample_rate=RATE, num_workers=0, cache_dir=str(folder), **settings)
    data.setup()
    return data


def cached(data: SceneData, frontend: Frontend, settings: dict | None = None) -> Path:
    """The file of all clips' features, made where it is not there; the batches of `data` hold them from here on."""
    return data.cache_features(settings or {}, frontend, CPU)


def build(root: Path, folder: Path, frontend: Frontend | None = None, **settings) -> Path:
    return cached(scenes(root, folder, **settings), frontend or Watched())


def features_in(folder: Path) -> list[Path]:
    """The features there; the lengths of clips are a file too."""
    return [file for file in folder.glob("*.npy") if np.load(file, mmap_mode="r")["values"].ndim == 3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sounds(root: Path) -> list[Path]:
    """The clips in the order in which their features are kept."""
    return sorted((root / "audio").iterdir())


def spoil(path: Path) -> None:
    """Make a file unreadable, and what tells that a file has changed as it was."""
    was = path.stat()
    path.write_bytes(bytes(was.st_size))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


class Watched(Spectrogram):
    """A frontend that tells how many clips it has had, takes its time, and may be killed with its process.

    Args:
        left: clips after which the process is killed.
        pause: seconds before each batch.
    """

    def __init__(self, left: int = CLIPS, pause: float = 0.0):
        super().__init__(RATE)
        self.left, self.pause, self.clips = left, pause, 0

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        if wave.any():  # silence only tells the features' shape
            if self.clips >= self.left:
                self.killed()
            self.clips += len(wave)
            time.sleep(self.pause)
        return super().spectrogram(wave)

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def beside(function: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=function)
    process.start()
    return process


# The same as without


def test_cached_features_are_the_frontends_own(root, folder):
    frontend = Spectrogram(RATE)
    data = scenes(root, folder, batch_size=5)
    waves = list(data.loader("test"))
    file = cached(data, frontend, {"any": 1})
    assert features_in(folder) == [file]
    assert {path.suffix for path in folder.iterdir()} == {".npy"}
    for (wave, target), (features, same) in zip(waves, data.loader("test"), strict=True):
        assert torch.equal(target, same)
        # float16 has 11 bits: a step is 2^-10 of the value's power of two
        torch.testing.assert_close(features.float(), frontend(wave), rtol=2**-11, atol=1e-4)


def test_plain_magnitudes_are_kept_in_full(root, folder):
    """The smallest of them would vanish in float16."""
    data = scenes(root, folder)
    cached(data, Spectrogram(RATE, log=False))
    features, _ = data.dataset("test")[[0]]
    assert features.dtype == torch.float32


def trained_with(cache: str, job: list[str], directory: Path, *words: str) -> tuple[list[float], dict]:
    """Losses of the epochs, and results of the test."""
    assert call(*job, *words, f"data.cache={cache}", f"hydra.run.dir={directory / cache}") is None
    losses = [float(row["train/loss"]) for row in rows(directory / cache / "metrics.csv")]
    return losses, json.loads((directory / cache / "results.json").read_text())["test"]


def test_a_run_learns_the_same_with_and_without_the_cache(job, tmp_path):
    """To the rounding of sums where the cache does not round, which takes features that are no logarithms."""
    words = ["frontend.log=false", "frontend.standardize=true"]
    cached, computed = (trained_with(cache, job, tmp_path, *words) for cache in ("true", "false"))
    assert cached[0] == pytest.approx(computed[0], rel=1e-5)
    assert cached[1]["confusion_matrix"] == computed[1]["confusion_matrix"]
    assert cached[1]["log_loss"] == pytest.approx(computed[1]["log_loss"], rel=1e-4)


def test_a_run_learns_nearly_the_same_from_rounded_features(job, tmp_path):
    """In a network without batch norm, which makes as much of the rounding as of other noise in a batch of four."""
    cached, computed = (trained_with(cache, job, tmp_path, *PLAIN) for cache in ("true", "false"))
    assert cached[0] == pytest.approx(computed[0], abs=0.01)
    assert cached[1]["confusion_matrix"] == computed[1]["confusion_matrix"]
    assert cached[1]["log_loss"] == pytest.approx(computed[1]["log_loss"], abs=0.01)


# Used again


def test_features_are_used_again_until_a_clip_or_a_setting_changes(root, folder):
    def file_of(settings: dict, **changes) -> Path:
        return cached(scenes(root, folder, **changes), Spectrogram(RATE), settings)

    file = file_of({"n_bins": 128})
    written = file.stat().st_mtime_ns
    assert file_of({"n_bins": 128}, val_fraction=0.5, seed=3) == file, "other splits of the clips share a file"
    assert file.stat().st_mtime_ns == written
    assert file_of({"n_bins": 64}) != file
    assert file_of({"n_bins": 128}, clip_seconds=1) != file
    clip = sounds(root)[0]
    sound = clip.read_bytes()
    clip.write_bytes(sound[:-2] + b"\x01\x00")
    assert file_of({"n_bins": 128}) != file


def test_clips_whose_features_are_kept_are_not_opened_again(root, folder):
    file = build(root, folder)
    for clip in sounds(root):
        spoil(clip)
    assert build(root, folder) == file
    with pytest.raises(InputError, match=f"not a sound file.* {CLIPS - 1} files more"):
        scenes(root, folder, cache=False)


def test_a_trainable_frontend_is_not_cached(root, folder):
    with pytest.raises(InputError, match="data.cache=false"):
        build(root, folder, Spectrogram(RATE, trainable_stft=True))


# Interrupted


def test_a_build_that_was_killed_goes_on_where_it_stopped(root, folder, tmp_path):
    whole = build(root, tmp_path / "whole").read_bytes()
    killed = beside(lambda: build(root, folder, Watched(left=20)))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not features_in(folder)
    assert len(list(folder.glob("*.part"))) == 1
    for clip in sounds(root)[:20]:
        spoil(clip)  # nobody decodes it again
    frontend = Watched()
    file = build(root, folder, frontend)
    assert frontend.clips == CLIPS - 20
    assert file.read_bytes() == whole
    assert {path.suffix for path in folder.iterdir()} == {".npy"}


@pytest.mark.parametrize("left", ["nothing", "half the header", "the header", "half a row", "9.5 rows", "all rows"])
def test_a_build_goes_on_from_whatever_was_left(root, folder, left):
    file = build(root, folder)
    whole, array = file.read_bytes(), np.load(file, mmap_mode="r")
    header, row = array.offset, array[0].nbytes
    assert len(whole) == header + CLIPS * row
    size, done = {
        "nothing": (0, 0),
        "half the header": (header // 2, 0),
        "the header": (header, 0),
        "half a row": (header + row // 2, 0),
        "9.5 rows": (header + 9 * row + row // 2, 8),  # two blocks of four
        "all rows": (len(whole), CLIPS),  # killed between the last row and the file's name
    }[left]
    file.rename(file.with_suffix(".part"))
    os.truncate(file.with_suffix(".part"), size)
    frontend = Watched()
    assert build(root, folder, frontend) == file
    assert frontend.clips == CLIPS - done
    assert file.read_bytes() == whole


def test_a_clip_that_cannot_be_read_leaves_no_features(root, folder):
    samples = np.full(RATE * SECONDS, np.nan, np.float32)
    soundfile.write(sounds(root)[-1], samples, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        build(root, folder)
    assert not features_in(folder)
    assert not list(folder.glob("*.part"))


# Several processes


def together(processes: int, work: Callable[[int, Watched], object]) -> tuple[list[int], list[str]]:
    """The clips that each of some processes has computed which do the same work at the same time, and their errors.

    Args:
        work: gets the number of its process, and a frontend that counts the clips.
    """
    ready, told = FORK.Barrier(processes), FORK.SimpleQueue()

    def work_at_once(number: int) -> None:
        frontend, error = Watched(pause=0.15), ""
        ready.wait()
        try:
            work(number, frontend)
        except InputError as invalid:
            error = str(invalid)
        told.put((number, frontend.clips, error))

    started = [beside(partial(work_at_once, number)) for number in range(processes)]
    ends = sorted(told.get() for _ in started)
    for process in started:
        process.join()
    return [clips for _, clips, _ in ends], [error for _, _, error in ends]


def test_processes_that_build_at_once_share_the_clips(root, folder, tmp_path):
    whole = build(root, tmp_path / "whole")
    computed, _ = together(3, lambda _, frontend: build(root, folder, frontend))
    assert sum(computed) == CLIPS
    assert min(computed) > 0
    assert (folder / whole.name).read_bytes() == whole.read_bytes()
    assert names(folder) == names(tmp_path / "whole")  # no .part


@pytest.mark.parametrize("left", [0, 8, 16])
def test_what_a_killed_process_had_in_hand_is_computed_by_one_that_came_later(root, folder, tmp_path, left):
    whole = build(root, tmp_path / "whole")
    has_last_block, has_company = FORK.Event(), FORK.Event()

    class Killed(Watched):
        def killed(self) -> None:
            has_last_block.set()
            has_company.wait(60)
            super().killed()

    class Later(Watched):
        def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
            if wave.any():  # this process now computes, while the other still holds its last block
                has_company.set()
            return super().spectrogram(wave)

    killed = beside(lambda: build(root, folder, Killed(left)))
    assert has_last_block.wait(60)
    frontend = Later()
    assert build(root, folder, frontend).read_bytes() == whole.read_bytes()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert frontend.clips == CLIPS - left
    assert names(folder) == names(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_that_waits_for_one_that_is_killed_does_its_part(root, folder, tmp_path, workers, capfd):
    """Also if the processes that decode for it live a while longer."""
    whole = build(root, tmp_path / "whole")
    build(root, folder).unlink()  # but for the lengths of the clips

    def stall() -> None:
        data = scenes(root, folder)
        data.num_workers = workers
        cached(data, Watched(pause=60))

    stalled = beside(stall)
    while not list(folder.glob("*.part")):
        time.sleep(0.001)
    time.sleep(0.5)  # it has claimed a block, or four
    waiting = beside(lambda: build(root, folder))
    while f"waiting for another process that writes {folder / whole.name}" not in capfd.readouterr().err:
        time.sleep(0.01)
    assert not features_in(folder)
    stalled.kill()
    waiting.join(3)
    assert waiting.exitcode == 0
    assert (folder / whole.name).read_bytes() == whole.read_bytes()


def test_what_a_killed_process_had_in_hand_is_taken_up_before_all_else_is_done(folder):
    file, has_begun = CacheFile(folder / "any.npy", 40, (3,), np.float64), FORK.Event()

    def stall(blocks: Iterable[range]) -> Iterator[tuple[range, np.ndarray]]:
        next(iter(blocks))
        has_begun.set()
        time.sleep(60)
        yield from ()

    stalled, taken = beside(lambda: file.write(stall)), []
    has_begun.wait()

    def compute(blocks: Iterable[range]) -> Iterator[tuple[range, np.ndarray]]:
        for block in blocks:
            taken.append(block.start)
            if len(taken) == 3:
                stalled.kill()
                stalled.join()
            yield block, np.zeros((len(block), 3))

    file.write(compute)
    assert taken == [4, 8, 12, 0, 16, 20, 24, 28, 32, 36]


def test_files_that_processes_finish_at_the_same_time_are_written_once(folder):
    """Small ones, so that they meet in the moments at which a file is begun and gets its name."""
    files, rows, processes = 40, 9, 4
    expected = np.arange(rows, dtype=np.float64)[:, None] + np.arange(3)
    ready = FORK.Barrier(processes)

    def write_all(number: int, count: Watched) -> None:
        def compute(blocks: Iterable[range]) -> Iterator[tuple[range, np.ndarray]]:
            for block in blocks:
                count.clips += len(block)
                yield block, expected[block.start : block.stop]

        delay = random.Random(number)
        for name in range(files):
            file = CacheFile(folder / f"{name}.npy", rows, (3,), np.float64)
            ready.wait()
            time.sleep(delay.random() / 1000)
            file.write(compute)
            np.testing.assert_array_equal(file.load(), expected)

    computed, _ = together(processes, write_all)
    assert sum(computed) == files * rows
    assert names(folder) == sorted(f"{name}.npy" for name in range(files))
    assert len({path.read_bytes() for path in folder.iterdir()}) == 1


def test_a_clip_that_cannot_be_read_soon_ends_every_process_with_its_sentence(root, folder):
    samples = np.full(RATE * SECONDS, np.nan, np.float32)
    soundfile.write(sounds(root)[1], samples, RATE, subtype="FLOAT")
    computed, errors = together(2, lambda _, frontend: build(root, folder, frontend))
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"{sounds(root)[1]} holds samples that are not finite")
    assert sum(computed) < CLIPS / 2, "one tries again what the other has left, before it computes all others"
    assert not features_in(folder)
    assert not list(folder.glob("*.part"))


def test_where_a_process_has_no_room_the_others_go_on(root, folder, tmp_path):
    whole = build(root, tmp_path / "whole")

    def build_too(number: int, frontend: Watched) -> None:
        with full_disk(100_000) if number else nullcontext():
            build(root, folder, frontend)

    computed, errors = together(2, build_too)
    assert errors[0] == ""
    assert errors[1].startswith(f"data.cache_dir={folder} cannot be written (File too large")
    assert computed[0] > 0
    assert (folder / whole.name).read_bytes() == whole.read_bytes()
    assert names(folder) == names(tmp_path / "whole")


# No place


@pytest.mark.parametrize("step", ["lengths", "features"])
def test_a_folder_that_cannot_be_made_is_named(root, step):
    folder = root / "meta.csv/cache"
    with pytest.raises(InputError, match=f"data.cache_dir={folder} cannot be written"):
        build(root, folder, cache=step == "lengths")  # without it no lengths are kept


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file of this process grow over so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(root, folder, tmp_path):
    whole = build(root, tmp_path / "whole").read_bytes()
    with full_disk(100_000), pytest.raises(InputError, match=f"data.cache_dir={folder} cannot be written"):
        build(root, folder)
    assert not features_in(folder)
    frontend = Watched()
    assert build(root, folder, frontend).read_bytes() == whole
    assert 0 < frontend.clips < CLIPS


# Damaged


def damage(file: Path, how: str) -> None:
    """Spoil a file that is in the cache."""
    content = bytearray(file.read_bytes())
    match how:
        case "empty":
            content.clear()
        case "cut off":
            del content[len(content) // 2 :]
        case "longer":
            content += b"0"
        case "zeros":
            content = bytearray(len(content))
        case "zeros below the header":
            content[256:] = bytes(len(content) - 256)
        case "a bit":
            content[-100] ^= 1
        case "garbage":
            content = bytearray(np.random.default_rng(0).bytes(len(content)))
        case "text":
            content = bytearray(b"<html>\n")
        case "another array":
            file.unlink()
            return np.save(file, np.zeros((CLIPS, 3, 4), np.float16))
        case "a directory":
            file.unlink()
            return file.mkdir()
    file.write_bytes(content)
    return None


DAMAGE = ["empty", "cut off", "longer", "zeros", "zeros below the header", "a bit", "garbage", "text", "another array"]


@pytest.mark.parametrize("how", [*DAMAGE, "a directory"])
def test_a_damaged_file_is_noticed_named_and_made_anew(root, folder, how, capsys):
    file = build(root, folder)
    lengths = next(path for path in folder.glob("*.npy") if path != file)
    whole = [path.read_bytes() for path in (file, lengths)]
    for path in (file, lengths):
        damage(path, how)
    assert build(root, folder) == file
    assert [path.read_bytes() for path in (file, lengths)] == whole
    assert names(folder) == sorted([file.name, lengths.name])
    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if "damaged" in line] == (
        [f"{path} is damaged: computing it again" for path in (lengths, file)] if how != "a directory" else []
    )
    build(root, folder)
    assert capsys.readouterr().err == "", "it is intact now"


@pytest.mark.parametrize("how", [*DAMAGE, "a directory"])
def test_an_interrupted_build_does_not_go_on_from_damage(root, folder, how):
    file = build(root, folder)
    whole, part = file.read_bytes(), file.with_suffix(".part")
    file.rename(part)
    damage(part, how)
    assert build(root, folder) == file
    assert file.read_bytes() == whole


def test_only_damaged_blocks_are_computed_again(root, folder):
    file = build(root, folder)
    whole, row = file.read_bytes(), np.load(file, mmap_mode="r").itemsize
    spoiled = bytearray(whole)
    spoiled[-5 * row] ^= 1  # in the fifth row from behind, and in the tenth: both in blocks of four
    spoiled[-10 * row] ^= 1
    file.write_bytes(spoiled)
    frontend = Watched()
    assert build(root, folder, frontend).read_bytes() == whole
    assert frontend.clips == 8


def test_a_directory_with_files_in_the_way_is_named(root, folder):
    file = build(root, folder)
    file.unlink()
    file.mkdir()
    (file / "somebodys.txt").touch()
    with pytest.raises(InputError, match=rf"cannot be written \(Directory not empty, {file}\)"):
        build(root, folder)
    assert (file / "somebodys.txt").exists()


# Computed by other code


def test_another_version_of_the_code_or_of_a_library_has_a_file_of_its_own(root, folder, monkeypatch, tmp_path):
    paths, module = sounds(root), ModuleType("own")
    module.__file__ = str(tmp_path / "own.py")

    def name(source: str) -> str:
        (tmp_path / "own.py").write_text(source)
        return cache_path(folder, {}, paths, [module]).name

    first = name("x = 1")
    assert name("x = 2") != first == name("x = 1")
    for library in LIBRARIES:
        with monkeypatch.context() as patch:
            patch.setitem(LIBRARIES, library, "0.0.1")
            assert name("x = 1") != first
    assert cache_path(folder, {}, paths, [ModuleType("of a notebook")]).name != first


def test_a_frontend_of_ones_own_counts_with_its_code(root, folder):
    assert build(root, folder, Spectrogram(RATE)) != build(root, folder, Watched()), "they are in different modules"
