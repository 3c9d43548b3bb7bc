"""SceneData: splits, order and length of clips, and invalid data."""

from pathlib import Path

import pytest
import torch
from classifiers import classifier
from pytorch_lightning.utilities import move_data_to_device
from tiny import RATE, SECONDS, write_tiny
from torch.utils.data._utils.pin_memory import pin_memory

from asc import InputError
from asc.data import SceneData
from asc.data.datasets import FeatureBatch, WaveBatch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny")


def scenes(root: Path, **settings) -> SceneData:
    data = SceneData(str(root), **{"sample_rate": RATE, "num_workers": 0, "batch_size": 5, "cache": False, **settings})
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
        return [index for batch in loader.sampler for index in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 1)) == list(range(24))


@pytest.mark.parametrize("length", [7, 60])
def test_an_epochs_length_is_that_of_training_alone(root, length):
    data = scenes(root, val_fraction=0.25, epoch_clips=length)
    assert sum(len(batch.target) for batch in data.train_dataloader()) == length
    assert [sum(len(batch.target) for batch in data.loader(split)) for split in ("train", "val", "test")] == [18, 6, 12]


def test_an_error_in_a_worker_process_keeps_its_sentence(root, tmp_path):
    data = scenes(root, num_workers=1, channel=0)
    data.clips["test"][0].path.rename(tmp_path / "away.wav")
    try:
        with pytest.raises(InputError, match="No such file"):
            list(data.loader("test"))
    finally:
        (tmp_path / "away.wav").rename(data.clips["test"][0].path)


def test_a_resumed_run_must_have_the_same_clips_and_batches(root):
    state = scenes(root, val_fraction=0.25).state_dict()
    scenes(root, val_fraction=0.25, num_workers=1).load_state_dict(state)
    with pytest.raises(InputError, match="different training clips, validation clips"):
        scenes(root).load_state_dict(state)
    with pytest.raises(InputError, match="different data.epoch_clips"):
        scenes(root, val_fraction=0.25, epoch_clips=20).load_state_dict(state)
    with pytest.raises(InputError, match="different data.batch_size"):
        scenes(root, val_fraction=0.25, batch_size=7).load_state_dict(state)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_file_under_a_second_name_in_the_other_list_is_rejected(tmp_path, link):
    root = write_tiny(tmp_path / "tiny")
    first, other = root / "audio/indoor-oslo-0-0-a.wav", root / "audio/indoor-oslo-5-1-a.wav"
    other.unlink()
    getattr(other, link)(first)
    with pytest.raises(InputError, match="files at two locations.*: 1 .indoor-oslo-0-0-a.wav = indoor-oslo-5-1-a.wav"):
        scenes(root)


def test_links_to_audio_on_another_disk_are_followed(tmp_path):
    root = write_tiny(tmp_path / "tiny")
    (root / "audio").rename(tmp_path / "disk")
    (root / "audio").symlink_to(tmp_path / "disk")
    assert sum(map(len, scenes(root).clips.values())) == 36


def test_a_class_without_training_files_is_rejected(tmp_path):
    root = write_tiny(tmp_path / "tiny")
    for path in root.glob("audio/outdoor-oslo-10[0-3]-*"):
        path.unlink()
    with pytest.raises(InputError, match="all train clips of outdoor are missing or unreadable"):
        scenes(root, missing="skip")


@pytest.mark.parametrize(
    "settings",
    [{"val_fraction": 1}, {"missing": "ignore"}, {"batch_size": 0}, {"clip_seconds": -1}, {"cache": "maybe"}],
)
def test_settings_out_of_range_are_rejected(root, settings):
    with pytest.raises(InputError, match=f"data.{next(iter(settings))}="):
        scenes(root, **settings)


def test_clips_are_as_long_as_most_training_clips(shared):
    esc = scenes(shared / "esc10", sample_rate=44100)
    assert (esc.clip_samples, len(esc.labels)) == (5 * 44100, 10)
    tau = scenes(shared / "tau24", sample_rate=48000)  # two of these clips are a sample long, two a sample short
    assert tau.clip_samples == 480_000
    assert {tau.dataset("train")[[index]][0].shape[1] for index in range(len(tau.clips["train"]))} == {480_000}


def test_pinning_and_transfer_keep_the_type_of_a_batch(root, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # needs a GPU
    (batch, *_) = scenes(root, num_workers=1).loader("test")
    for copy in (pin_memory(batch), move_data_to_device(batch, torch.device("cpu"))):
        assert type(copy) is WaveBatch
        assert torch.equal(copy.wave, batch.wave)


@pytest.mark.parametrize("kind", [WaveBatch, FeatureBatch])
def test_the_classifier_tells_sound_from_features_by_type(kind):
    """Three clips of features without bins would have the rank of waveforms."""
    model = classifier()
    wave = torch.randn(3, RATE)
    spectrogram = model.frontend.spectrogram(wave)
    batch = kind(wave if kind is WaveBatch else spectrogram, torch.arange(3))
    features, target = model.on_after_batch_transfer(batch, 0)
    assert torch.equal(features, model.frontend.standardize(spectrogram))
    assert torch.equal(target, torch.arange(3))
