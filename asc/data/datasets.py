"""Datasets of waveforms and of cached features, and a batch sampler for one or several processes."""

import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from asc.audio import Sound, fit_length, open_sound, read_excerpt
from asc.data.lists import Clip
from asc.data.variants import alter
from asc.errors import InputError

Batch = tuple[int, int]  # index of an epoch, and of a batch within it


class WaveBatch(NamedTuple):
    """Decoded clips: wave (batch, samples), float32, and targets, class indices (batch,) or (batch, n_classes)."""

    wave: Tensor
    target: Tensor


class FeatureBatch(NamedTuple):
    """Cached clips: spectrogram (batch, 1, n_bins, frames), not standardized, and targets as in `WaveBatch`."""

    spectrogram: Tensor
    target: Tensor


class BatchSampler(Sampler[list[int]]):
    """Indices of the clips in each batch; across all processes, each clip once per epoch, unless `length` is set.

    The order depends only on seed and epoch, so a resumed run continues in the same order.

    Args:
        clips: number of clips.
        size: clips in a batch of each process; the last batch may be smaller.
        seed: seed for shuffling; None: no shuffling.
        processes, rank: number of processes that share the clips, and the index of this one.
        start: epoch and batch at which a run resumes.
        length: clips in an epoch. No clip is drawn a second time before all have been drawn once. None: each clip once.

    Raises:
        InputError: there are fewer clips than processes.
    """

    def __init__(
        self,
        clips: int,
        size: int,
        seed: int | None = None,
        processes: int = 1,
        rank: int = 0,
        start: Batch = (0, 0),
        length: int | None = None,
    ):
        self.length = length or clips
        if self.length < processes:
            raise InputError(f"{self.length} clips cannot be shared by {processes} processes: reduce trainer.devices")
        self.clips, self.size, self.seed, self.processes, self.rank = clips, size, seed, processes, rank
        self.start, self.epoch = start, start[0]  # data workers fetch the first batches before `set_epoch`
        step = size * processes
        self.starts = list(range(0, self.length, step))
        if self.length - self.starts[-1] < processes:  # too few for every process: merge them into the batch before
            self.starts.pop()

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        rounds = [torch.arange(self.clips)] * math.ceil(self.length / self.clips)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            rounds = [torch.randperm(self.clips, generator=generator) for _ in rounds]
        order = torch.cat(rounds)
        batches = list(zip(self.starts, [*self.starts[1:], self.length], strict=True))
        for start, end in batches[self.start[1] if self.epoch == self.start[0] else 0 :]:
            yield order[start + self.rank : end : self.processes].tolist()


def class_indices(clips: Sequence[Clip], labels: Sequence[str]) -> Tensor:
    """Class index (clips,) of each clip: the position of its label in `labels`."""
    index = {label: position for position, label in enumerate(labels)}
    return torch.tensor([index[clip.label] for clip in clips])


class WaveDataset(Dataset):
    """Decodes the `WaveBatch` of a list of indices."""

    def __init__(self, clips: Sequence[Clip], targets: Tensor, rate: int, samples: int, channel: int | str):
        self.clips, self.targets = clips, targets
        self.rate, self.samples, self.channel = rate, samples, channel
        self.clip_bytes = 4 * samples
        self.opened: tuple[Path, Sound] | None = (
            None  # the last clip's file: to seek anew in an MP3 of hours takes long
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, indices: list[int]) -> WaveBatch:
        waves = [torch.from_numpy(self.wave(self.clips[index])) for index in indices]
        return WaveBatch(torch.stack(waves), self.targets[indices])

    def wave(self, clip: Clip) -> np.ndarray:
        """The waveform (samples,) of a clip."""
        start = round(clip.start * self.rate)
        wave = read_excerpt(self.sound(clip.path), clip.path, self.rate, self.channel, self.samples, start)
        wave = fit_length(wave, self.samples)
        if clip.variant is None:
            return wave
        other = clip.variant.other
        return alter(wave, self.rate, clip.variant, None if other is None else self.wave(other))

    def sound(self, path: Path) -> Sound:
        """The file, opened unless it was the last one."""
        if self.opened is None or self.opened[0] != path:
            if self.opened:
                self.opened[1].close()
            self.opened = path, open_sound(path)
        return self.opened[1]


class FeatureDataset(Dataset):
    """Reads the `FeatureBatch` of a list of indices from cached features.

    Args:
        clips: clips of the split.
        targets: class indices (clips,) or soft labels (clips, n_classes).
        features: those of all splits (clips, n_bins, frames): a memory-mapped array, or a tensor on a device.
        rows: row in `features` of each clip.
    """

    def __init__(self, clips: Sequence[Clip], targets: Tensor, features: np.ndarray | Tensor, rows: dict[Clip, int]):
        # targets and rows are on the features' device, so only a batch's indices are transferred to a GPU
        self.device = features.device if isinstance(features, Tensor) else torch.device("cpu")
        self.features, self.targets = features, targets.to(self.device)
        self.rows = torch.tensor([rows[clip] for clip in clips], device=self.device)
        self.clip_bytes = features[0].nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: list[int]) -> FeatureBatch:
        index = torch.tensor(indices).to(self.device, non_blocking=True)
        rows = self.rows[index]
        if isinstance(self.features, Tensor):
            x = self.features[rows]
        else:
            x = torch.from_numpy(np.asarray(self.features[rows.numpy()]))
            if isinstance(self.features.base, mmap.mmap) and hasattr(self.features.base, "madvise"):
                self.features.base.madvise(mmap.MADV_DONTNEED)  # the pages stay in the page cache, outside this process
        return FeatureBatch(x.unsqueeze(1), self.targets[index])
