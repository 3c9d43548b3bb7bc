"""SceneData: a dataset in the TAU layout as batches of waveforms or cached features."""

import hashlib
import math
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import asc.frontend
from asc import audio, media
from asc.data import datasets
from asc.data import variants as variants_of
from asc.data.cache import cache_path, load_or_compute
from asc.data.datasets import Batch, BatchSampler, FeatureBatch, FeatureDataset, WaveDataset, class_indices
from asc.data.lists import Clip, fault, raise_first, read_all, read_labelled, read_lists
from asc.data.splits import cross_validation, hold_out, split_faults
from asc.data.unlabelled import unlabelled_clips
from asc.errors import InputError, check_number
from asc.files import expand_home
from asc.frontend import Frontend
from asc.loading import build
from asc.settings import SampleRate, Seed, UnitInterval, checked
from asc.teachers import Teacher
from asc.teachers.targets import Targets, teach

BLOCK = 4  # clips whose features are computed at a time
SOUND_CODE = [datasets, variants_of, audio, media]  # on which the waveforms depend
PREFETCH = 2  # batches that each worker prefetches


class SceneData(LightningDataModule):
    """Train, validation and test clips of a folder in the layout of TAU Urban Acoustic Scenes.

    Args:
        root: the folder with meta.csv, audio/ and the lists.
        fold: replaces {fold} in the names of the lists; with `cv`, the test fold, from 1.
        cv: number of cross-validation folds over the clips of both lists (of fold 1), grouped by location, balanced by
            label and shuffled by `seed`; None uses the lists as they are.
        train_list, test_list: lists below `root`; labels may be in meta.csv only.
        labels: the label set, in the order of the network's outputs; None: the labels in the training list, sorted.
        sample_rate: Hz; clips at another rate are resampled.
        channel: index from 0, or "mean".
        clip_seconds: length of every clip; longer ones are cut, shorter ones repeated. None: the most common length of
            training clips.
        batch_size: clips in a batch, in each process.
        epoch_clips: clips in an epoch of training, drawn anew for each; None: each training clip once.
        val_fraction: fraction of the training clips held out for validation, by location; 0 for none.
        missing: "error" rejects missing and unreadable recordings, "skip" leaves them out, and damaged ones, too:
            it decodes each recording once before the first run.
        num_workers: processes that decode clips; None: one for each core, at most 8.
        cache: compute features once and cache them on disk.
        cache_dir: folder of the cache; default: the environment variable ASC_CACHE.
        seed: seed of the validation split and the order of the clips.
        teacher: Hydra node of a `Teacher`, for `learn_targets`; None: the targets are the labels.
        unlabelled: folder of recordings without labels, for the teacher to label. The labelled clips are repeated until
            they are a quarter of those to train on.
        variants: altered copies of each training and unlabelled clip, for the teacher to label (`asc.data.variants`).
        label_weight: weight of the label in the target of a labelled clip; the rest is the teacher's prediction.

    After `setup`: `labels`, `clip_samples` and `clips`, a dictionary of the splits "train", "val", "test" and, if set,
    "unlabelled".
    """

    @checked("data")
    def __init__(
        self,
        root: Annotated[str, Field(min_length=1)],
        fold: PositiveInt = 1,
        cv: Annotated[int, Field(ge=2, le=1000)] | None = None,
        train_list: str = "evaluation_setup/fold{fold}_train.csv",
        test_list: str = "evaluation_setup/fold{fold}_evaluate.csv",
        labels: Annotated[Sequence[str], Field(max_length=10_000)] | None = None,
        sample_rate: SampleRate = 44100,
        channel: NonNegativeInt | Literal["mean"] = 0,
        clip_seconds: Annotated[float, Field(ge=0.001, le=600)] | None = None,
        batch_size: PositiveInt = 100,
        epoch_clips: PositiveInt | None = None,
        val_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.0,
        missing: Literal["error", "skip"] = "error",
        num_workers: Annotated[int, Field(ge=0, le=128)] | None = None,
        cache: bool = True,
        cache_dir: Annotated[str, Field(min_length=1)] = os.environ.get("ASC_CACHE", "~/.cache/asc"),
        seed: Seed = 0,
        teacher: dict[str, Any] | None = None,
        unlabelled: Annotated[str, Field(min_length=1)] | None = None,
        variants: NonNegativeInt = 0,
        label_weight: UnitInterval = 0.5,
    ):
        super().__init__()
        if (unlabelled or variants) and not teacher:
            setting = f"data.unlabelled={unlabelled}" if unlabelled else f"data.variants={variants}"
            raise InputError(f"{setting} needs a teacher: set teacher=efficientat teacher.weights=FILE")
        unlabelled = unlabelled and str(expand_home(unlabelled).resolve())
        if teacher and "_target_" not in teacher:
            raise InputError(f"invalid teacher={teacher}: expected teacher=efficientat (or onnx) teacher.weights=FILE")
        if teacher and isinstance(teacher.get("weights"), str):
            teacher = {**teacher, "weights": str(expand_home(teacher["weights"]).resolve())}
        if cv:
            check_number("data.fold", fold, int, 1, cv)
        if repeated := [label for label, count in Counter(labels or []).items() if count > 1]:
            raise InputError(f"invalid data.labels={list(labels or [])}: expected {repeated[0]} once")
        root, labels = str(expand_home(root).resolve()), list(labels or [])
        self.save_hyperparameters(logger=False)  # compress.py reads them from the checkpoint
        self.root, self.fold, self.cv, self.labels = Path(root), fold, cv, labels
        self.lists = [name.replace("{fold}", "1" if cv else str(fold)) for name in (train_list, test_list)]
        self.sample_rate, self.channel, self.clip_seconds = sample_rate, channel, clip_seconds
        self.batch_size, self.epoch_clips = batch_size, epoch_clips
        self.val_fraction, self.missing = val_fraction, missing
        self.num_workers = min(cores(), 8) if num_workers is None else num_workers
        self.cache, self.cache_dir, self.seed = cache, expand_home(cache_dir).absolute(), seed
        self.clips: dict[str, list[Clip]] = {}
        self.seconds: dict[Clip, float] = {}
        self.durations: dict[Path, float] = {}  # seconds of the files
        self.unreadable: list[Path] = []
        self.teacher, self.unlabelled, self.label_weight = teacher, unlabelled, label_weight
        self.variants = variants
        self.soft_targets: Tensor | None = None  # of training clips and unlabelled clips, after `learn_targets`
        self.features: np.ndarray | Tensor | None = None  # of all clips, in the order of `cached_clips`
        self.start = (0, 0)  # epoch and batch at which training starts

    def state_dict(self) -> dict[str, Any]:
        """Values that must not change when a run resumes, and `start`: the (epoch, batch) at which it resumes."""
        splits = [split for split in ("train", "val", "test", "unlabelled") if split in self.clips]
        digest: dict[str, str] = {}
        for split in splits:
            rows = [self.identity(clip) for clip in self.clips[split]]
            digest[split] = hashlib.sha256(repr(rows).encode()).hexdigest()
        if self.teacher:
            digest["teacher"] = repr(self.teacher)
            digest["data.label_weight"], digest["data.variants"] = str(self.label_weight), str(self.variants)
        start = next_batch(self.trainer) if self.trainer else (0, 0)
        settings = {"data.batch_size": str(self.batch_size), "data.epoch_clips": self.epoch_clips}
        return {**settings, "data.seed": str(self.seed), **digest, "start": start}

    def identity(self, clip: Clip) -> tuple:
        """Key of a clip, independent of where the dataset is stored."""
        return clip.path.name, clip.label

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the next batch; reject other data, since validation or test clips could leak into training.

        Raises:
            InputError: names the values that differ.
        """
        names = {"train": "training clips", "val": "validation clips"}
        names |= {split: f"{split} clips" for split in ("test", "unlabelled")}
        now = self.state_dict()
        differing = [names.get(key, key) for key in now if key != "start" and state_dict.get(key) != now[key]]
        if differing:
            raise InputError(f"the checkpoint's run used different {', '.join(differing)}: resume with its settings")
        self.start = state_dict.get("start", self.start)

    def draws_test(self) -> bool:
        """Whether the test clips are drawn from all recordings, so that they depend on every one of them."""
        return bool(self.cv)

    def compare_test(self, checkpoint: dict[str, Any]) -> None:
        """Warn if the test clips are drawn and are not those of the checkpoint's run."""
        before = checkpoint.get(type(self).__qualname__, {}).get("test")
        if before and self.draws_test() and before != self.state_dict()["test"]:
            print(
                f"warning: {self.root} has other test clips than the checkpoint's run had, since recordings were added "
                "or removed, or settings differ: it may have been trained on some of them",
                file=sys.stderr,
            )

    def setup(self, stage: str | None = None) -> None:
        """Read and check the lists and the headers of all files, before training starts.

        Raises:
            InputError: the lists, their files or the split are invalid.
        """
        if self.clips:  # Lightning calls this before fit and before test
            return
        splits = self.read_splits()
        if self.cv:
            folds = cross_validation(list(dict.fromkeys(chain.from_iterable(splits.values()))), self.cv, self.seed)
            test = folds.pop(self.fold - 1)
            splits = {"train": list(chain.from_iterable(folds)), "test": test}
        self.use(splits)

    def read_splits(self) -> dict[str, list[Clip]]:
        """The clips for training and testing, and perhaps those for validation; with `cv`, all, divided in any way.

        Raises:
            InputError: a list is missing or invalid.
        """
        train, test = read_lists(self.root, self.lists)
        return {"train": train, "test": test}

    def read_only(self, split: str) -> list[Clip]:
        """The clips to evaluate a classifier on that knows `labels`: "test" needs no training list, "all" no list.

        Raises:
            InputError: the list is missing or invalid.
        """
        has_meta, lists = (self.root / "meta.csv").exists(), self.lists[1:]
        if split == "all":
            if has_meta:
                return read_all(self.root)
            lists = [name for name in self.lists if (self.root / name).exists()] or lists
        if has_meta:
            return read_lists(self.root, lists)[0]
        return [clip for name in lists for clip in read_labelled(self.root / name, self.root)]

    def use(self, splits: dict[str, list[Clip]]) -> None:
        """Check the clips of these splits and set `clips`; without "train", `labels` and `clip_seconds` must be set.

        Raises:
            InputError: the files or the split are invalid.
        """
        splits = {"train": [], "val": [], **splits}
        listed = [*splits["train"], *splits["val"]]
        self.labels = self.labels or sorted({clip.label for clip in splits["train"]})
        if len(self.labels) < 2:
            raise InputError(f"{self.root}: all clips are {self.labels[0]}: a classifier needs at least two labels")
        others = [clip for split, clips in splits.items() if split not in ("train", "val") for clip in clips]
        raise_first(split_faults(listed, others, self.labels, self.root))
        splits = self.readable(splits)
        self.seconds = {clip: self.seconds_of(clip) for clip in chain.from_iterable(splits.values())}
        # rounded to 0.01 s: some TAU clips are a sample longer or shorter than 10 s
        lengths = Counter(round(self.seconds[clip], 2) for clip in splits["train"])
        self.clip_samples = round((self.clip_seconds or lengths.most_common(1)[0][0]) * self.sample_rate)
        if self.val_fraction and splits["train"] and not splits["val"]:
            splits["train"], splits["val"] = hold_out(splits["train"], self.val_fraction, self.seed)
            if not splits["val"]:
                raise InputError(f"data.val_fraction={self.val_fraction} holds out no clips: increase it or set 0")
        self.clips = splits
        if self.unlabelled:
            labelled, length = [*chain.from_iterable(splits.values())], self.clip_samples / self.sample_rate
            self.clips["unlabelled"] = unlabelled_clips(Path(self.unlabelled), labelled, length, self.read_durations)
        if self.variants and splits["train"]:
            others = self.clips.get("unlabelled", [])
            clips = [*splits["train"], *others]
            self.clips["unlabelled"] = [*others, *variants_of.variants(clips, self.variants, self.seed)]

    def readable(self, splits: dict[str, list[Clip]]) -> dict[str, list[Clip]]:
        """The clips whose files can be read; for the others see `missing`.

        Raises:
            InputError: those of a class to train on are unreadable, or those of a split.
        """
        paths = dict.fromkeys(clip.path for clip in chain.from_iterable(splits.values()))
        self.durations |= self.read_durations([path for path in paths if path not in self.durations])
        present = {split: [clip for clip in clips if clip.path in self.durations] for split, clips in splits.items()}
        for split, clips in splits.items():
            lost = {clip.label for clip in clips} - {clip.label for clip in present[split]}
            if lost and (split in ("train", "") or not present[split]):
                what = f"all {split or 'the'} clips of {', '.join(sorted(lost))} are missing or unreadable"
                raise InputError(f"{self.root}: {what}: replace them")
        return present

    def seconds_of(self, clip: Clip) -> float:
        """Duration of a clip in seconds."""
        return self.durations[clip.path]

    def read_durations(self, paths: list[Path]) -> dict[Path, float]:
        """Seconds of the files that can be read, from the cache or by `audio.durations`; for the others see `missing`.

        Raises:
            InputError: counts the unreadable files and names the first, and their list.
        """
        files = [path for path in paths if path.is_file()]
        whole = self.missing == "skip"  # else damage within a recording is found when its clip is read
        if self.cache and files:
            cached = cache_path(self.cache_dir, {"whole": whole}, files, [audio, media])
            seconds = load_or_compute(
                cached, (len(files),), np.float64, lambda: [np.array(audio.durations(files, whole))]
            )
            durations = dict(zip(files, seconds.tolist(), strict=True))
        else:
            durations = dict(zip(files, audio.durations(files, whole), strict=True))
        faults = {path: f"{path} does not exist" for path in paths if path not in durations}
        for path in [path for path in files if math.isnan(durations[path])]:
            try:
                durations[path] = audio.duration(path, whole)  # its permissions may have changed since
            except InputError as error:
                faults[path] = str(error)
                del durations[path]
        if faults:
            self.unreadable += faults
            first, listed = next(iter(faults.values())), list_in_run("unreadable.txt", self.unreadable)
            what = f"{len(faults)} of {len(paths)} recordings are missing or unreadable ({first}){listed}"
            if self.missing == "error":
                remedy = "complete or remove them, or leave them out with data.missing=skip"
                raise InputError(f"{what}: {remedy if durations else f'check data.root={self.root}'}")
            print(f"{what}: left out", file=sys.stderr)
        return durations

    def check_length(self, samples: int) -> None:
        """Reject clips shorter than `samples`, one window of the frontend: repeating them would make a tone.

        Raises:
            InputError: counts them and names the first few.
        """
        seconds = samples / self.sample_rate
        if self.clip_samples < samples:
            raise InputError(f"clips are shorter than one window: set data.clip_seconds to at least {seconds:.3f}")
        short = [clip for clip in self.seconds if self.seconds[clip] < seconds]
        listed = list_in_run("too_short.txt", [clip.path for clip in short]) if short else ""
        what, names = f"clips shorter than one window ({seconds:.3f} s)", [clip.name(self.root) for clip in short]
        raise_first(fault(self.root, what, names, f"remove them{listed}"))

    def cached_clips(self) -> list[Clip]:
        """The clips of all splits in the order of the cache's rows, which does not depend on the split."""
        clips = chain.from_iterable(self.clips.values())
        return sorted(clips, key=lambda clip: (str(clip.path), clip.start, clip.variant.seed if clip.variant else -1))

    def cache_path(self, settings: dict, frontend: Frontend) -> Path:
        """The cache file of the features that this frontend, built from `settings`, computes."""
        clips = self.cached_clips()
        settings = settings | {"rate": self.sample_rate, "channel": self.channel, "samples": self.clip_samples}
        if any(clip.start for clip in clips):
            settings["starts"] = [clip.start for clip in clips]
        settings |= variant_settings(clips)
        code = [sys.modules[type(frontend).__module__], asc.frontend, *SOUND_CODE]
        return cache_path(self.cache_dir, settings, [clip.path for clip in clips], code)

    def cache_features(self, settings: dict, frontend: Frontend, device: torch.device) -> Path:
        """Serve batches from cached features from now on, on the GPU if they fit; return their file.

        Raises:
            InputError: the frontend is trainable.
        """
        if frontend.trainable:
            raise InputError("frontend.trainable_stft=true needs data.cache=false: its features change at every step")
        frontend.to(device)
        clips = self.cached_clips()
        with torch.inference_mode():
            shape = frontend.spectrogram(torch.zeros(1, self.clip_samples, device=device)).shape[2:]
        # float16 resolves log features to 0.008, far below frame differences of about 1, but cannot hold magnitudes
        dtype = np.float16 if frontend.log else np.float32
        path = self.cache_path(settings, frontend)

        def features(wave: Tensor) -> Tensor:
            return frontend.spectrogram(wave.to(device)).squeeze(1)

        compute = partial(self._compute, features, self.wave_dataset(clips, torch.zeros(len(clips))))
        self.features = load_or_compute(path, (len(clips), *shape), dtype, compute)
        if fits_on(device, self.features.nbytes):
            self.features = torch.from_numpy(np.array(self.features)).to(device)
        return path

    def _compute(self, function: Callable[[Tensor], Tensor], dataset: WaveDataset) -> Iterator[np.ndarray]:
        """`function` of the waveforms of all clips, a few at a time: they pass through shared memory."""
        waves = self._loader(dataset, BatchSampler(len(dataset), BLOCK), BLOCK)
        for wave, _ in tqdm(waves, "features", unit="batch", leave=False, disable=None):
            with torch.inference_mode():
                yield function(wave).cpu().numpy()

    def wave_dataset(self, clips: Sequence[Clip], targets: Tensor) -> WaveDataset:
        return WaveDataset(clips, targets, self.sample_rate, self.clip_samples, self.channel)

    def learn_targets(self) -> Targets:
        """Replace the labels of the training clips by what the teacher makes of them: see `Targets`.

        Raises:
            InputError: the teacher's file is missing or invalid, or a class has a single location.
        """
        teacher: Teacher = build(self.teacher or {})
        train, unlabelled = self.clips["train"], self.clips.get("unlabelled", [])
        classes = class_indices(train, self.labels)
        embeddings = self.embeddings(teacher, [*train, *unlabelled])
        labelled, others = embeddings[: len(train)], embeddings[len(train) :]
        places, n_classes = [clip.location for clip in train], len(self.labels)
        targets = teach(labelled, classes.numpy(), places, others, n_classes, [clip.location for clip in unlabelled])
        one_hot = torch.eye(n_classes)[classes]
        mixed = torch.lerp(torch.tensor(targets.labelled, dtype=torch.float32), one_hot, self.label_weight)
        self.soft_targets = torch.cat([mixed, torch.tensor(targets.unlabelled, dtype=torch.float32)])
        return targets

    def embeddings(self, teacher: Teacher, clips: list[Clip]) -> np.ndarray:
        """The teacher's embeddings (clips, width), computed once; clips are scaled to a peak of 1."""
        rate, samples = teacher.sample_rate, round(self.clip_samples / self.sample_rate * teacher.sample_rate)

        def embedding(wave: Tensor) -> Tensor:
            return teacher(wave / wave.abs().amax(1, keepdim=True).clamp_min(1e-6))

        with torch.inference_mode():
            width = embedding(torch.linspace(-1, 1, samples)[None]).shape[1]
        dataset = WaveDataset(clips, torch.zeros(len(clips)), rate, samples, "mean")
        starts = [clip.start for clip in clips]
        settings = {"teacher": teacher.digest(), "rate": rate, "samples": samples, "starts": starts}
        settings |= variant_settings(clips)
        code = [sys.modules[type(teacher).__module__], *SOUND_CODE]
        path = cache_path(self.cache_dir, settings, [clip.path for clip in clips], code)
        compute = partial(self._compute, embedding, dataset)
        if not self.cache:
            return np.concatenate([*compute()])
        return load_or_compute(path, (len(clips), width), np.float32, compute)

    def dataset(self, split: str) -> WaveDataset | FeatureDataset:
        """The dataset of "train", "val" or "test"."""
        clips = self.clips[split]
        targets = class_indices(clips, self.labels)
        if split == "train" and self.soft_targets is not None:
            unlabelled = self.clips.get("unlabelled", [])
            copies = max(1, round(len(unlabelled) / len(clips) / 3))
            labelled, others = self.soft_targets[: len(clips)], self.soft_targets[len(clips) :]
            clips, targets = [*clips * copies, *unlabelled], torch.cat([labelled.repeat(copies, 1), others])
        if self.features is None:
            return self.wave_dataset(clips, targets)
        rows = {clip: row for row, clip in enumerate(self.cached_clips())}
        return FeatureDataset(clips, targets, self.features, rows)

    def loader(self, split: str, shuffle: bool = False, whole: bool = False, start: Batch = (0, 0)) -> DataLoader:
        """Batches of a split: `WaveBatch`, or `FeatureBatch` after `cache_features`.

        Args:
            split: "train", "val" or "test". Once a trainer is attached, processes share its clips.
            shuffle: use a different order in each epoch.
            whole: give each process all clips.
            start: epoch and batch to start at.
        """
        dataset, seed = self.dataset(split), self.seed if shuffle else None
        processes, rank = (1, 0) if whole or not self.trainer else (self.trainer.world_size, self.trainer.global_rank)
        length = self.epoch_clips if shuffle else None
        batches = BatchSampler(len(dataset), self.batch_size, seed, processes, rank, start, length)
        return self._loader(dataset, batches, self.batch_size)

    def spectrograms(self, frontend: Frontend, device: torch.device) -> Iterator[Tensor]:
        """Batches of unstandardized features of the training list, held-out clips included."""
        frontend.to(device)
        for batch in chain.from_iterable(self.loader(split) for split in ("train", "val") if self.clips[split]):
            with torch.no_grad():
                is_cached = isinstance(batch, FeatureBatch)
                yield batch.spectrogram if is_cached else frontend.spectrogram(batch.wave.to(device))

    def _loader(self, dataset: WaveDataset | FeatureDataset, batches: Iterable[list[int]], size: int) -> DataLoader:
        on_gpu = isinstance(dataset, FeatureDataset) and isinstance(dataset.features, Tensor)
        to_gpu = not on_gpu and self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        # indexing cached features is faster than a worker's transfer, unless a GPU computes meanwhile
        workers = self.num_workers if isinstance(dataset, WaveDataset) or to_gpu else 0
        workers = workers_with_room(workers, size * dataset.clip_bytes)
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=batches,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            # explicit: a sweep's launcher may set a default start method that fails in its worker processes
            multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
            pin_memory=to_gpu,
            generator=torch.Generator(),  # not the global one, from which dropout and mixup draw
        )

    def train_dataloader(self) -> DataLoader:
        return self.loader("train", shuffle=True, start=self.start)

    def val_dataloader(self) -> DataLoader | list:
        return self.loader("val") if self.clips["val"] else []

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")

    predict_dataloader = test_dataloader


def variant_settings(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """What the cache's key needs to know of variants."""
    found = [repr(clip.variant) for clip in clips]
    return {"variants": found} if any(clip.variant for clip in clips) else {}


def list_in_run(name: str, paths: Sequence[Path]) -> str:
    """Write these paths, one a line, to a file in the run's directory; the words that say so, "" outside a run."""
    from hydra.core.hydra_config import HydraConfig

    directory = Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
    if directory is None or not directory.is_dir():  # in a notebook, perhaps after a run
        return ""
    file = directory / name
    file.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in paths))
    return f", listed in {file}"


def next_batch(trainer: Trainer) -> Batch:
    """The (epoch, batch) at which training continues, from 0; after the last batch, the next epoch's first."""
    loop: Any = trainer.fit_loop
    epoch, batch = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
    return epoch.processed, batch.ready if epoch.processed < epoch.ready else 0


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_with_room(workers: int, batch_bytes: int) -> int:
    """Number of worker processes, at most `workers`, whose batches fit in shared memory: more would hang.

    Docker gives a container 64 MB of it. Half is reserved for another loader.
    """
    try:
        multiprocessing.Lock()
        free = shutil.disk_usage("/dev/shm").free if sys.platform == "linux" else math.inf
    except OSError:  # there is none
        return 0
    return int(min(workers, free / 2 / (PREFETCH * batch_bytes)))


def fits_on(device: torch.device, size: int) -> bool:
    """Whether `size` bytes take at most half of the free GPU memory; training needs the rest."""
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 2
