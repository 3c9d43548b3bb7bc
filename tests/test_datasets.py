"""Batches: the share of each process, the order of clips, and features from file or device."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.distributed import DistributedSampler

from asc import InputError
from asc.data.datasets import BatchSampler, FeatureDataset, class_indices
from asc.data.lists import Clip

LABELS = ["indoor", "outdoor", "transportation"]
STATUS = Path("/proc/self/status")


def shares(
    clips: int, processes: int, seed: int | None = 0, epoch: int = 0, length: int | None = None
) -> list[list[list[int]]]:
    """The batches of each process, of four clips each."""
    samplers = [BatchSampler(clips, 4, seed, processes, rank, length=length) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    lists = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in lists] == [len(sampler) for sampler in samplers]
    return lists


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_clip_is_in_one_batch_of_one_process(processes, seed):
    for clips in range(processes, 26):
        lists = shares(clips, processes, seed, epoch=2)
        assert sorted(clip for batches in lists for batch in batches for clip in batch) == list(range(clips))
        assert len({len(batches) for batches in lists}) == 1, "a process would wait for the others for ever"
        for step in zip(*lists, strict=True):
            sizes = [len(batch) for batch in step]
            assert min(sizes) >= 1
            assert max(sizes) - min(sizes) <= 1, "the processes' gradients count the same"
        assert all(len(batch) == 4 for batches in lists for batch in batches[:-1])


def test_the_batches_of_all_processes_are_one_larger_batch():
    alone = list(BatchSampler(36, 12, seed=0))
    for whole, step in zip(alone, zip(*shares(36, 3), strict=True), strict=True):
        assert sorted(whole) == sorted(clip for batch in step for clip in batch)


def test_the_order_is_that_of_torchs_distributed_sampler():
    orders = []
    for seed in (0, 1):
        for epoch in (0, 1, 5):
            sampler = DistributedSampler(range(26), num_replicas=1, rank=0, seed=seed)
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
            assert shares(26, 1, seed, epoch) == [[orders[-1][start : start + 4] for start in range(0, 26, 4)]]
    assert len({tuple(order) for order in orders[:3]}) == 3  # another one each epoch
    assert orders[0] != orders[3]


@pytest.mark.parametrize("processes", [1, 3])
def test_an_epoch_of_a_given_length_draws_all_clips_alike(processes):
    for length in range(3, 40):
        epochs = []
        for epoch in range(3):
            lists = shares(10, processes, epoch=epoch, length=length)
            epochs.append([clip for batches in lists for batch in batches for clip in batch])
            assert len({len(batches) for batches in lists}) == 1, "a process would wait for the others for ever"
        for drawn in epochs:
            counts = np.bincount(drawn, minlength=10)
            assert counts.sum() == length
            assert counts.max() - counts.min() <= 1
        if length % 10:
            assert len({tuple(np.bincount(drawn, minlength=10)) for drawn in epochs}) > 1, "other clips in each epoch"


def test_without_a_seed_the_order_is_the_lists():
    assert shares(6, 1, seed=None, epoch=3) == [[[0, 1, 2, 3], [4, 5]]]


def test_fewer_clips_than_processes_are_rejected():
    assert shares(3, 3) != []
    with pytest.raises(InputError, match=r"2 clips .* 3 processes.*trainer.devices"):
        shares(2, 3)


@pytest.fixture
def stored(tmp_path) -> tuple[list[Clip], np.ndarray, dict[Clip, int]]:
    """64 clips, their features in a file of 64 MB, mapped into memory, and the rows there, in another order."""
    clips = [Clip(tmp_path / f"{number}.wav", LABELS[number % 3], f"place {number}") for number in range(64)]
    rng = np.random.default_rng(0)
    np.save(tmp_path / "features.npy", rng.integers(0, 255, (64, 128, 2**13), dtype=np.uint8).view(np.float16))
    rows = dict(zip(clips, rng.permutation(64).tolist(), strict=True))
    return clips, np.load(tmp_path / "features.npy", mmap_mode="r"), rows


def test_features_are_the_same_from_the_file_and_from_the_device(stored):
    clips, array, rows = stored
    mapped, held = (
        FeatureDataset(clips[:40], class_indices(clips[:40], LABELS), x, rows)
        for x in (array, torch.from_numpy(np.array(array)))
    )
    assert len(mapped) == len(held) == 40
    for indices in ([0], [39, 2, 17], list(range(40))):
        (x, target), (same, also) = mapped[indices], held[indices]
        assert x.shape == (len(indices), 1, 128, 2**12)
        assert torch.equal(x.view(torch.int16), same.view(torch.int16))  # bits, since some are those of a NaN
        assert torch.equal(target, also)
        assert [LABELS[label] for label in target] == [clips[index].label for index in indices]
        for features, index in zip(x, indices, strict=True):
            assert np.array_equal(features[0].numpy().view(np.int16), array[rows[clips[index]]].view(np.int16))


def mapped_bytes() -> int:
    """Bytes of files that this process has in memory."""
    counts = re.findall(r"Rss(?:File|Shmem):\s+(\d+) kB", STATUS.read_text())
    return 1024 * sum(map(int, counts))


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc/self/status")
def test_reading_all_features_does_not_keep_them_in_memory(stored):
    clips, array, rows = stored
    features = FeatureDataset(clips, class_indices(clips, LABELS), array, rows)
    before = mapped_bytes()
    for index in range(0, len(clips), 4):
        features[list(range(index, index + 4))]
        assert mapped_bytes() - before < array.nbytes / 8
    array.view(np.uint8)[..., ::1024].sum()  # so the measure would have told: this reads every page
    assert mapped_bytes() - before > array.nbytes * 3 / 4
