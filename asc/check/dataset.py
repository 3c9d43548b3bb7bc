"""The files, classes and splits of a dataset in either layout, its faults and its doubtful properties."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path

import pandas as pd

from asc.audio import SUFFIXES
from asc.data.lists import Clip, clips_in, fault, is_inside, list_faults, meta_rows, name_faults, read_table
from asc.data.recordings import (
    check_classes,
    clip_length,
    cut_all,
    divide,
    files_below,
    matches,
    notes,
    read_folder,
    same_names,
    same_sources,
)
from asc.data.splits import split_faults
from asc.errors import InputError

TEST_FRACTION, SPLIT_SEED = 0.25, 0  # those of data=folder
MIN_LEVEL = -70.0  # dB full scale, root mean square: near the noise of a 16-bit recorder
MAX_OFFSET = 0.02  # of full scale


@dataclass
class Dataset:
    """A dataset as its lists or folders describe it."""

    root: Path
    layout: str  # "TAU" for lists, "folder" for a folder for each class
    splits: dict[str, list[Clip]] = field(default_factory=dict)  # train, val, test, unused; "" for undivided folders
    faults: list[str] = field(default_factory=list)  # a sentence for each fault that stops or spoils a run
    warnings: list[str] = field(default_factory=list)  # a sentence for each property that may be intended

    def files(self) -> list[Path]:
        """All existing files, each once."""
        paths = dict.fromkeys(clip.path for clips in self.splits.values() for clip in clips)
        return [path for path in paths if path.is_file()]

    def add_sounds(self, sounds: pd.DataFrame, errors: list[str]) -> None:
        """Divide a folder, and add the faults and warnings of the splits and of the sounds (see `analyze_all`)."""
        if self.layout == "folder":
            self.divide_folder(sounds)
        if {"train", "test"} <= self.splits.keys():
            self.check_split([*self.splits["train"], *self.splits.get("val", [])], self.splits["test"])
        self.faults += errors
        digests = sounds.digest[sounds.peak > 0].to_dict()  # all silent files are equal
        files = {
            split: list(dict.fromkeys(replace(clip, start=0.0) for clip in clips if clip.path in digests))
            for split, clips in self.splits.items()
        }
        for one, other in combinations_with_replacement(files, 2):
            pairs = matches(files[one], files[other], lambda clip: digests[clip.path])
            copies = [f"{a.name(self.root)} = {b.name(self.root)}" for a, b in pairs if a is not b]
            if one == other:
                self.warnings += fault(self.root, f"recordings twice in {one}", copies, "keep one of each")
            elif "unused" not in (one, other):
                what, remedy = f"recordings in {one} and {other} that sound the same", "remove one of each pair"
                self.faults += fault(self.root, what, copies, f"{remedy}: the accuracy would be too high")
        if self.layout == "folder":
            self.warnings += same_names(files, sounds.seconds.to_dict(), self.root)
            self.warnings += same_sources(files, self.root)
        self.warnings += [*sound_warnings(self, sounds), *format_by_class(self, sounds)]

    def divide_folder(self, sounds: pd.DataFrame) -> None:
        """Divide the readable recordings as data=folder does."""
        durations = sounds.seconds.to_dict()
        found, self.splits = self.splits, {}
        if durations:
            readable = {split: [clip for clip in clips if clip.path in durations] for split, clips in found.items()}
            clips = cut_all(readable, durations, clip_length(durations.values()))
            try:
                self.splits = divide(clips, TEST_FRACTION, SPLIT_SEED, self.root)
            except InputError as error:
                self.faults.append(str(error))
                self.splits["all"] = [clip for group in clips.values() for clip in group]

    def check_split(self, train: list[Clip], test: list[Clip]) -> None:
        """Add the faults and warnings of a split into train and test."""
        labels = sorted({clip.label for clip in train})
        self.faults += split_faults(train, test, labels, self.root)
        if len(labels) == 1:
            self.faults.append(f"{self.root}: all training clips are {labels[0]}: add clips of another class")
        untested = sorted(set(labels) - {clip.label for clip in test})
        self.warnings += fault(self.root, "classes without test clips", untested, "their accuracy will be unknown")
        places = Counter(label for label, _ in {(clip.label, clip.location) for clip in train})
        single = sorted(label for label, count in places.items() if count == 1)
        what = "classes with a single location to train on"
        self.warnings += fault(self.root, what, single, "add recordings from other places")


def sound_warnings(dataset: Dataset, sounds: pd.DataFrame) -> Iterator[str]:
    """A sentence for each kind of suspect files."""
    audible, lengths = sounds.peak > 0, sounds.seconds.astype(float).round(2)
    usual = lengths.mode().min()
    suspect = {
        f"clips that are not {usual:g} s long, as most are": (
            (lengths != usual) & (dataset.layout == "TAU"),
            "longer ones are cut, shorter ones repeated",
        ),
        "digitally silent files": (~audible, "remove them: they have no scene"),
        "files with a silent channel": (
            audible & (sounds.silent_channels.map(len) > 0),
            "data.channel chooses another, by default channel 0",
        ),
        f"files quieter than {MIN_LEVEL:g} dB": (audible & (sounds.level < MIN_LEVEL), "check the recorder's gain"),
        "clipped files": (sounds.runs > 0, "lower the recorder's gain, or keep them if they are few"),
        f"files with a DC offset over {MAX_OFFSET:g}": (sounds.offset > MAX_OFFSET, "filter it out"),
    }
    for what, (where, remedy) in suspect.items():
        names = [str(path.relative_to(dataset.root)) for path in sounds.index[where]]
        yield from fault(dataset.root, what, names, remedy)


def format_by_class(dataset: Dataset, sounds: pd.DataFrame) -> Iterator[str]:
    """Classes whose sample rates and numbers of channels no other class has: the network may learn the recorder."""
    clips = [clip for clips in dataset.splits.values() for clip in clips if clip.path in sounds.index]
    formats = sounds.loc[[clip.path for clip in clips], ["rate", "channels"]].reset_index(drop=True)
    formats["label"] = [clip.label for clip in clips]
    is_own = formats.groupby(["rate", "channels"]).label.transform("nunique") == 1
    own = is_own.groupby(formats.label).all()
    if len(own) > 1:
        what = "classes with a sample rate or number of channels of their own"
        yield from fault(dataset.root, what, list(own.index[own]), "a network may learn the recorder, not the scene")


def read_dataset(root: Path, train_list: str, test_list: str) -> Dataset:
    """The dataset in this folder: with a meta.csv in the TAU layout, else with a folder for each class.

    Raises:
        InputError: the folder does not exist or has neither.
    """
    if not root.is_dir():
        raise InputError(f"invalid DIR={root}: expected the folder of a dataset")
    if (root / "meta.csv").exists():
        return read_tau(root, train_list, test_list)
    found = read_folder(root)
    check_classes(found, root)
    return Dataset(root, "folder", found.recordings, warnings=notes(found, root))


def read_tau(root: Path, train_list: str, test_list: str) -> Dataset:
    """A dataset in the TAU layout; rows with faults are left out and reported.

    Raises:
        InputError: meta.csv is no such table.
    """
    dataset = Dataset(root, "TAU")
    rows = meta_rows(root)
    dataset.faults += name_faults(root / "meta.csv", [row["filename"] for row in rows])
    meta = {row["filename"]: row for row in rows if is_inside(row["filename"])}
    for split, name in (("train", train_list), ("test", test_list)):
        try:
            listed = read_table(root / name, ["filename"])
        except InputError as error:
            dataset.faults.append(str(error))
            continue
        dataset.faults += list_faults(root / name, listed, meta)
        dataset.splits[split] = clips_in(root, [row for row in listed if row["filename"] in meta], meta)
    used = {clip.path for clips in dataset.splits.values() for clip in clips}
    dataset.splits["unused"] = [clip for clip in clips_in(root, list(meta.values()), meta) if clip.path not in used]
    for split, clips in dataset.splits.items():
        missing = [str(clip.path.relative_to(root)) for clip in clips if not clip.path.is_file()]
        found = dataset.warnings if split == "unused" else dataset.faults
        found += fault(root, f"missing audio files ({split})", missing, "complete the dataset")
    names = {str(path.relative_to(root)) for path in files_below(root) if path.suffix.lower() in SUFFIXES}
    unknown = sorted(names - {str(Path(name)) for name in meta})
    dataset.warnings += fault(root, "sound files without a row in meta.csv", unknown, "add them")
    return dataset
