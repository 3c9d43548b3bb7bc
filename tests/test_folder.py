"""Folders of recordings: found, cut into clips, divided, and used like any other dataset."""

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import call, results
from tiny import RATE, SETTINGS, sound

from asc import InputError
from asc.data import FolderScenes, SceneData, scene_data
from asc.data.lists import Clip
from asc.data.recordings import clip_length, cut_all, read_folder
from asc.frontend import Spectrogram

LABELS = ("indoor", "outdoor", "transportation")


def write(path: Path, seconds: float, scene: str = "indoor", seed: int = 0) -> Path:
    """A recording of so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *map(ord, str(path.name))])
    wave = np.tile(sound(scene, rng), 20)[: round(seconds * RATE)]
    soundfile.write(path, wave, RATE)
    return path


def write_own(root: Path) -> Path:
    """Each class: three recordings of 5 s, and a visit to a place with a recording of 4 s and one of 1 s."""
    for number, label in enumerate(LABELS):
        for walk in range(3):
            write(root / label / f"walk{walk}.wav", 5, label, 100 * number + walk)
        write(root / label / "visit/morning.flac", 4, label, 100 * number + 50)
        write(root / label / "visit/deep/evening.wav", 1, label, 100 * number + 51)
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "data")


def scenes(root: Path, **settings) -> FolderScenes:
    settings = {"sample_rate": RATE, "num_workers": 0, "clip_seconds": 2, "cache": False, **settings}
    data = FolderScenes(str(root), **settings)
    data.setup()
    return data


def places(clips: list[Clip]) -> set[str]:
    return {clip.location for clip in clips}


# Find


@pytest.mark.parametrize("name", ["a.WAV", "New Recording 2.m4a", "New Recording 2.qta", "Voice 001.3ga", "VID_1.MP4"])
def test_recordings_of_phones_are_found(tmp_path, name):
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain" / name).touch()
    assert [clip.path.name for clip in read_folder(tmp_path).recordings[""]] == [name]


# Cut


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (0.5, [0]),  # shorter than a clip: repeated
        (10, [0]),
        (14.9, [0]),  # 4.9 s are left out
        (15, [0, 10]),
        (479_999 / 48_000 * 3, [0, 10, 20]),  # a few samples short
        (64, [0, 10, 20, 30, 40, 50]),
    ],
)
def test_a_remainder_of_half_a_clip_makes_a_clip(seconds, starts):
    recording = Clip(Path("a.wav"), "rain", "a")
    clips = cut_all({"": [recording]}, {recording.path: seconds}, 10.0)[""]
    assert [clip.start for clip in clips] == starts


def test_clips_are_ten_seconds_or_as_most_recordings_are():
    assert clip_length([600, 5, 30]) == 10
    assert clip_length([5, 5.001, 4.999, 30]) == 5


def test_every_clip_is_in_one_split_with_all_of_its_location(own):
    data = scenes(own, val_fraction=0.3)
    clips = list(itertools.chain.from_iterable(data.clips.values()))
    # 5 s: clips at 0, 2 and, of 1 s, 4; 4 s: at 0 and 2; 1 s: one
    assert len(clips) == len(set(clips)) == 3 * (3 * 3 + 2 + 1)
    assert places(clips) == {f"{label}/{name}" for label in LABELS for name in ("walk0", "walk1", "walk2", "visit")}
    for one, other in itertools.combinations(data.clips.values(), 2):
        assert not places(one) & places(other)
    assert all({clip.label for clip in part} == set(LABELS) for part in data.clips.values())
    assert {data.seconds[clip] for clip in clips} == {1, 2}
    assert data.clip_samples == 2 * RATE


def test_a_clip_is_its_part_of_the_recording(own):
    data = scenes(own)
    dataset = data.dataset("train")
    for index, clip in enumerate(data.clips["train"]):
        wave = dataset[[index]][0][0].numpy()
        whole, _ = soundfile.read(clip.path, dtype="float32")
        part = whole[round(clip.start * RATE) :][: 2 * RATE]
        assert np.array_equal(wave[: len(part)], part)
        assert np.array_equal(wave[-len(part) :], part)  # half a clip is repeated


def test_cached_features_are_those_of_the_part(own, tmp_path):
    data, frontend = scenes(own, cache=True, cache_dir=str(tmp_path)), Spectrogram(RATE)
    waves = list(data.loader("test"))
    path = data.cache_features({}, frontend, torch.device("cpu"))
    for (wave, target), (features, same) in zip(waves, data.loader("test"), strict=True):
        assert torch.equal(target, same)
        torch.testing.assert_close(features.float(), frontend(wave), rtol=2**-11, atol=1e-4)
    # longer clips, which begin elsewhere, have a file of their own
    assert scenes(own, cache=True, cache_dir=str(tmp_path), clip_seconds=2.5).cache_path({}, frontend) != path


# Divided


def test_the_test_recordings_do_not_change_with_the_seed(own):
    """A teacher of another seed must not have learned test clips."""
    assert scenes(own, seed=0).clips["test"] == scenes(own, seed=1).clips["test"]
    others = [scenes(own, split_seed=seed).clips["test"] for seed in range(6)]
    assert any(other != others[0] for other in others)


def test_folders_train_and_test_are_the_split(own, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(own, tmp_path / split)
    for path in (tmp_path / "test").rglob("*.*"):
        write(path, 3, path.relative_to(tmp_path / "test").parts[0], seed=7)
    data = scenes(tmp_path)
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 36, "val": 0, "test": 30}
    for split in ("train", "test"):
        assert all(clip.path.is_relative_to(tmp_path / split) for clip in data.clips[split])
    folds = [scenes(tmp_path, cv=2, fold=fold).clips["test"] for fold in (1, 2)]
    assert sum(map(len, folds)) == 66
    assert not places(folds[0]) & places(folds[1]), "in cross-validation, the same name is the same location"


def folders(root: Path, *names: str) -> Path:
    """Each of these folders with two recordings of 2 s."""
    for number, name in enumerate(names):
        for part in range(2):
            write(root / name / f"{part}.wav", 2, seed=10 * number + part)
    return root


def of_each(*splits: str) -> list[str]:
    return [f"{split}/{label}" for split in splits for label in ("rain", "street")]


def test_a_folder_of_validation_clips_is_the_validation_set(tmp_path):
    root = folders(tmp_path, *of_each("Training", "valid", "Test"))
    data = scenes(root, val_fraction=0.5)
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 4, "val": 4, "test": 4}
    assert all(clip.path.is_relative_to(root / "valid") for clip in data.clips["val"])
    assert data.labels == ["rain", "street"]
    assert len(scenes(root, cv=2).clips["test"]) == 6
    write(root / "valid/snow/0.wav", 2)
    assert "unknown label: 1 (0.wav snow)" in rejection(root)


def test_a_class_may_be_named_train(tmp_path):
    assert scenes(folders(tmp_path, "train", "tram", "bus/monday", "bus/tuesday")).labels == ["bus", "train", "tram"]
    assert scenes(folders(tmp_path, "train/monday")).labels == ["bus", "train", "tram"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (of_each("train", "val"), r"are splits \(train, val\), but there is no test"),
        (of_each("Test"), "no train"),
        (("train", "val"), "train, val are names of splits"),
        (("train", "test"), "test, train are names of splits"),
        (("fold1", "fold2", "fold10"), "fold1, fold10, fold2 are names of .*folds, not of classes"),
        (of_each("fold1", "fold2"), "names of .*folds"),
        (of_each("mine"), "mine contains the class folders, set data.root to it"),
    ],
    ids=str,
)
def test_folders_that_are_not_classes_are_rejected(tmp_path, names, words):
    root = folders(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        scenes(root)


def test_a_dataset_unpacked_too_deep_or_without_its_lists_keeps_its_layout(tiny, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/TAU").symlink_to(tiny)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/audio").symlink_to(tiny / "audio")
    for kind in (FolderScenes, SceneData):
        for name, words in (("deep", f"data.root={tmp_path}/deep/TAU"), ("bare", "--meta-only")):
            assert words in str(pytest.raises(InputError, kind(str(tmp_path / name), cache=False).setup).value)


def test_a_run_resumes_on_the_same_clips_only(own):
    state = scenes(own).state_dict()
    scenes(own).load_state_dict(state)
    for changes in ({"clip_seconds": 1}, {"split_seed": 3}):
        with pytest.raises(InputError, match="different training clips"):
            scenes(own, **changes).load_state_dict(state)


# Faults


@pytest.fixture
def root(own, tmp_path) -> Path:
    return Path(shutil.copytree(own, tmp_path / "data"))


def rejection(root: Path, **settings) -> str:
    with pytest.raises(InputError) as rejected:
        scenes(root, **settings)
    assert "\n" not in str(rejected.value)
    return str(rejected.value)


def test_a_folder_without_classes_is_rejected_with_a_remedy(root, tmp_path, tiny):
    assert "is not a directory" in rejection(tmp_path / "nowhere")
    assert "data=dcase" in rejection(tiny)
    assert "data=folder" in str(pytest.raises(InputError, SceneData(str(root), cache=False).setup).value)
    (tmp_path / "empty").mkdir()
    assert "into a folder with its name" in rejection(tmp_path / "empty")
    shutil.rmtree(root / "outdoor")
    shutil.rmtree(root / "indoor")
    assert "found transportation" in rejection(root)


def test_too_few_recordings_and_invalid_settings_are_rejected(root):
    assert "data.test_fraction=0.01 holds out no recording of indoor, outdoor" in rejection(root, test_fraction=0.01)
    assert "invalid data.fold=2" in rejection(root, fold=2)
    for path in (root / "outdoor").glob("walk*"):
        path.unlink()
    assert "outdoor has a single recording or subfolder" in rejection(root)
    assert "invalid data.cv=2: expected at most as many folds as outdoor" in rejection(root, cv=2)


def test_files_outside_classes_are_counted(root, capsys):
    before = scenes(root).clips
    for name in (".DS_Store", "indoor/.hidden.wav", "indoor/notes.txt", "outdoor/visit/list.txt", "stray.wav"):
        (root / name).write_text("no recording")
    (root / "papers").mkdir()
    assert scenes(root).clips == before
    told = capsys.readouterr().err
    assert "files that are ignored: 3 (stray.wav, " in told
    assert "folders without recordings of a class are ignored: 1 (papers)" in told
    (root / "indoor").rename(root / "in\tdoor")
    assert "control characters" in rejection(root)


def test_links_are_followed_but_not_in_circles(root, tmp_path):
    (root / "indoor/visit").rename(tmp_path / "disk")
    (root / "indoor/visit").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/again").symlink_to(tmp_path / "disk")
    assert len(read_folder(root).recordings[""]) == 15
    (root / "outdoor/visit/again.wav").symlink_to(root / "outdoor/walk0.wav")  # at another location
    assert "files at two locations under two names" in rejection(root)


def test_the_same_recording_on_both_sides_is_told(root, capsys):
    scenes(root)
    assert "warning" not in capsys.readouterr().err
    data = scenes(root)
    train, test = (sorted({clip.path for clip in data.clips[split]}) for split in ("train", "test"))
    first = next(path for path in train if path.parent.name == "indoor")
    shutil.copy(first, next(path for path in test if path.parent.name == "indoor"))
    scenes(root)
    told = capsys.readouterr().err
    assert "warning: " in told
    assert f"the same recordings in train and test: 1 (indoor/{first.name} = indoor/" in told


@pytest.mark.parametrize(
    ("pattern", "is_told"),
    [
        ("1-{}-{}-0.wav", True),  # ESC-50: clip and take, then the class
        ("{}-3-0-{}.wav", True),  # UrbanSound8K
        ("20240512{}_0600{}.WAV", True),  # AudioMoth
        ("{}/{}.wav", False),
        ("{}{}.wav", False),
        ("rain_{}{}.wav", False),
    ],
)
def test_parts_of_a_source_on_both_sides_are_told(tmp_path, capsys, pattern, is_told):
    for number, (label, source) in enumerate(itertools.product(("rain", "street"), (10, 11, 12, 13))):
        for take in range(3):
            write(tmp_path / label / pattern.format(source, take), 2, seed=10 * number + take)
    scenes(tmp_path)
    told = capsys.readouterr().err
    assert ("whose names differ in the last part alone" in told) == is_told
    assert ("warning" in told) == is_told


def test_folders_of_operating_systems_are_ignored(root):
    before = scenes(root).clips
    for name in ("lost+found", "System Volume Information", "$RECYCLE.BIN", "__MACOSX", "indoor/@eaDir"):
        write(root / name / "found/0.wav", 2)
    assert scenes(root).clips == before


def test_unreadable_recordings_are_refused_or_skipped_and_listed(root, tmp_path, capsys):
    before = scenes(root, split_seed=1).clips
    broken = [root / "indoor/an empty.wav", root / "indoor/header.wav", root / "outdoor/visit/zeros.wav"]
    for path, content in zip(
        broken, [b"", broken[0].with_name("walk0.wav").read_bytes()[:44], bytes(10000)], strict=True
    ):
        path.write_bytes(content)
    cache = f"data.cache_dir={tmp_path}/cache"
    message = call("data=folder", f"data.root={root}", cache, f"hydra.run.dir={tmp_path}/run")
    assert f"3 of 18 recordings are missing or unreadable ({broken[0]} is" in message
    assert f"listed in {tmp_path}/run/unreadable.txt" in message
    assert "data.missing=skip" in message
    assert (tmp_path / "run/unreadable.txt").read_text().splitlines() == list(map(str, broken))
    for _ in range(2):  # then from the cache
        assert scenes(root, split_seed=1, missing="skip", cache=True, cache_dir=f"{tmp_path}/cache").clips == before
        assert "3 of 18 recordings" in capsys.readouterr().err
    for path in (root / "outdoor").rglob("*.*"):
        path.write_bytes(b"")
    assert "all the clips of outdoor are missing or unreadable" in rejection(root, missing="skip")


def test_a_recording_damaged_within_is_skipped(root, capsys):
    before = scenes(root).clips
    damaged = root / "indoor/damaged.flac"
    write(damaged, 4)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    damaged.write_bytes(content)
    assert damaged in {clip.path for clip in itertools.chain(*scenes(root).clips.values())}  # its header is valid
    assert scenes(root, missing="skip").clips == before
    assert "1 of 16 recordings are missing or unreadable" in capsys.readouterr().err


def test_other_test_clips_than_those_of_the_run_are_told(root, tmp_path, capsys):
    """A new recording changes which are drawn for the test: some of them were trained on."""
    own = ["data=folder", f"data.root={root}", f"data.cache_dir={tmp_path}/cache", *SETTINGS, "trainer.max_epochs=1"]
    assert call(*own, f"hydra.run.dir={tmp_path}/run") is None
    best = str(tmp_path / "run/checkpoints/best.ckpt")
    commands = [
        ([best, "--output", f"{tmp_path}/evaluation"], "asc.evaluate"),
        (
            [f"checkpoint={best}", "phase=prune", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/pruned"],
            "compress.py",
        ),
    ]
    capsys.readouterr()
    for is_told in (False, True):
        for words, script in commands:
            assert call(*words, script=script) is None
            assert ("may have been trained on" in capsys.readouterr().err) == is_told
        shutil.rmtree(tmp_path / "pruned")
        for number in range(8):
            write(root / f"indoor/new {number}.wav", 2, seed=number)


def test_recordings_shorter_than_a_window_are_named_below_the_folder(root):
    for label in ("indoor", "outdoor"):
        write(root / label / "short.wav", 0.01)
    with pytest.raises(InputError, match=r"clips shorter than one window .*: 2 \(.*indoor/short.wav.*; remove them"):
        scenes(root).check_length(RATE // 10)


# Checkpoints


def test_the_class_follows_from_the_settings(own, tmp_path):
    saved = dict(scenes(own, labels=LABELS, split_seed=5).hparams)
    assert (saved["root"], saved["labels"]) == (str(own), list(LABELS))
    data = scene_data(saved, {"batch_size": 7, "split_seed": 0})
    assert (type(data), data.batch_size, data.split_seed) == (FolderScenes, 7, 5)
    assert type(scene_data(saved, kind=SceneData)) is SceneData
    assert type(scene_data(dict(SceneData("somewhere").hparams))) is SceneData
    assert type(scene_data({"root": "somewhere", "seed": 1})) is SceneData  # of an earlier version
    with pytest.raises(InputError, match="settings of another class .command.: name it with data="):
        scene_data({**saved, "command": "rm"})


@pytest.mark.nightly
def test_training_and_pruning_on_a_folder_write_predictions_by_clip(own, tmp_path):
    words = ["trainer.max_epochs=1", "data.num_workers=0", f"data.cache_dir={tmp_path}/cache"]
    settings = [f"sample_rate={RATE}", "data.batch_size=4", "data.clip_seconds=2", "data.test_fraction=0.4"]
    assert call("data=folder", f"data.root={own}", *words, *settings, f"hydra.run.dir={tmp_path}/float") is None
    checkpoint = f"checkpoint={tmp_path}/float/checkpoints/best.ckpt"
    words += ["phase=prune", "phase.ramp_epochs=0", f"hydra.run.dir={tmp_path}/pruned"]
    assert call(checkpoint, *words, script="compress.py") is None
    expected = scenes(own, test_fraction=0.4).clips["test"]
    for run in ("float", "pruned"):
        with open(tmp_path / run / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["filename"] for row in rows] == [clip.name(own) for clip in expected]
        assert any("#t=2" in row["filename"] for row in rows)
        assert [row["scene_label"] for row in rows] == [clip.label for clip in expected]
        right = np.mean([max(LABELS, key=lambda label: float(row[label])) == row["scene_label"] for row in rows])
        assert results(tmp_path / run)["test"]["accuracy"] == pytest.approx(right)
