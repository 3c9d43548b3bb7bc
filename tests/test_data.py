"""Batches: what is in them, in which order, with and without the feature cache."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, SECONDS, write_tiny

from asc import InputError
from asc.data import SceneData
from asc.frontend import Spectrogram

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny")


def scenes(root: Path, **settings) -> SceneData:
    data = SceneData(str(root), **{"sample_rate": RATE, "num_workers": 0, "batch_size": 5, **settings})
    data.setup()
    return data


def test_every_clip_is_in_its_split_once(root):
    data = scenes(root, val_fraction=0.25)
    sizes = {split: len(clips) for split, clips in data.clips.items()}
    assert sizes == {"train": 18, "val": 6, "test": 12}  # 4 locations a class: 1 of them held out
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {clip.location for clip in data.clips[one]} & {clip.location for clip in data.clips[other]}
    assert data.labels == ["indoor", "outdoor", "transportation"]
    assert data.clip_samples == RATE * SECONDS


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed(root):
    def order(seed: int, epoch: int) -> list[int]:
        loader = scenes(root, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return list(loader.sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 1)) == list(range(24))


def test_cached_features_are_the_frontends_own(root, tmp_path):
    frontend = Spectrogram(RATE)
    data = scenes(root, cache_dir=str(tmp_path))
    waves = list(data.loader("test"))
    file = data.cache_features(frontend, {"any": 1}, CPU)
    assert file.parent == tmp_path
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    for (wave, target), (features, same) in zip(waves, data.loader("test"), strict=True):
        assert torch.equal(target, same)
        # float16 has 11 bits: a step is 2^-10 of the value's power of two
        torch.testing.assert_close(features.float(), frontend(wave), rtol=2**-11, atol=1e-4)


def test_the_cache_is_used_again_until_a_clip_or_a_setting_changes(root, tmp_path):
    def cached(settings: dict, **changes) -> Path:
        return scenes(root, cache_dir=str(tmp_path), **changes).cache_features(Spectrogram(RATE), settings, CPU)

    file = cached({"n_bins": 128})
    written = file.stat().st_mtime_ns
    assert cached({"n_bins": 128}, val_fraction=0.5, seed=3) == file, "another split of the same clips is the same file"
    assert file.stat().st_mtime_ns == written
    assert cached({"n_bins": 64}) != file
    clip = root / "audio/indoor-oslo-0-0-a.wav"
    sound = clip.read_bytes()
    clip.write_bytes(sound[:-2] + b"\x01\x00")
    assert cached({"n_bins": 128}) != file


def test_plain_magnitudes_are_kept_in_full(root, tmp_path):
    """The smallest of them would vanish in float16."""
    data = scenes(root, cache_dir=str(tmp_path))
    data.cache_features(Spectrogram(RATE, log=False), {}, CPU)
    features, _ = data.dataset("test")[0]
    assert features.dtype == torch.float32


def test_a_trainable_frontend_is_not_cached(root, tmp_path):
    data = scenes(root, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match="data.cache=false"):
        data.cache_features(Spectrogram(RATE, trainable_stft=True), {}, CPU)


def test_a_build_that_fails_leaves_no_file(root, tmp_path):
    data = scenes(root, cache_dir=str(tmp_path))
    broken = data.clips["test"][-1].path
    sound = broken.read_bytes()
    try:
        samples = np.full(RATE * SECONDS, np.nan, np.float32)
        soundfile.write(broken, samples, RATE, subtype="FLOAT")
        with pytest.raises(InputError, match="NaN"):
            data.cache_features(Spectrogram(RATE), {}, CPU)
    finally:
        broken.write_bytes(sound)
    assert not list(tmp_path.iterdir())


def test_a_fault_in_a_worker_process_keeps_its_sentence(root, tmp_path):
    data = scenes(root, num_workers=1, channel=0)
    data.clips["test"][0].path.rename(tmp_path / "away.wav")
    try:
        with pytest.raises(InputError, match="does not exist"):
            list(data.loader("test"))
    finally:
        (tmp_path / "away.wav").rename(data.clips["test"][0].path)


def test_a_run_goes_on_with_its_own_clips_alone(root):
    """Another split would let clips of the validation slip into training."""
    state = scenes(root, val_fraction=0.25).state_dict()
    scenes(root, val_fraction=0.25, num_workers=1).load_state_dict(state)
    with pytest.raises(InputError, match="other training clips, validation clips"):
        scenes(root).load_state_dict(state)
    with pytest.raises(InputError, match="other data.batch_size"):
        scenes(root, val_fraction=0.25, batch_size=7).load_state_dict(state)


@pytest.mark.parametrize(
    "settings",
    [{"val_fraction": 1}, {"missing": "ignore"}, {"batch_size": 0}, {"clip_seconds": -1}, {"cache": "maybe"}],
)
def test_settings_out_of_range_are_refused(root, settings):
    with pytest.raises(InputError, match=f"data.{next(iter(settings))}="):
        scenes(root, **settings)


def test_clips_are_as_long_as_most_training_clips(shared):
    assert scenes(shared / "esc10", sample_rate=44100).clip_samples == 5 * 44100
    tau = scenes(shared / "tau24", sample_rate=48000)  # two of these clips are a sample long, two a sample short
    assert tau.clip_samples == 480_000
    assert {len(wave) for wave, _ in tau.dataset("train")} == {480_000}


@pytest.mark.parametrize(("name", "labels"), [("scenes3", 3), ("esc10", 10)])
def test_labels_come_from_the_data(shared, name, labels):
    assert len(scenes(shared / name).labels) == labels
