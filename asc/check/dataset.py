"""The files, classes and splits of a dataset in either layout, despite its faults."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from asc.audio import SUFFIXES
from asc.check.sounds import Sound
from asc.data.lists import Clip, clips_in, fault, is_inside, list_faults, meta_rows, name_faults, read_table
from asc.data.recordings import clip_length, cut_all, divide, files_below, notes, read_folder
from asc.data.splits import split_faults
from asc.errors import InputError

TEST_FRACTION, SPLIT_SEED = 0.25, 0  # those of data=folder


@dataclass
class Dataset:
    """A dataset as its lists or folders describe it.

    Attributes:
        root: the folder.
        layout: "TAU" for lists, "folder" for a folder for each class.
        recordings: by split, a clip for each file: "train", "test", "unused"; or "" for folders that are not divided.
        splits: the clips of each split; `split` adds those of the folder layout, once the files' lengths are known.
        faults: a sentence for each fault that stops or spoils a run.
        warnings: a sentence for each property that may be intended.
    """

    root: Path
    layout: str
    recordings: dict[str, list[Clip]] = field(default_factory=dict)
    splits: dict[str, list[Clip]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        """All existing files, each once."""
        paths = dict.fromkeys(clip.path for clips in self.recordings.values() for clip in clips)
        return [path for path in paths if path.is_file()]

    def split(self, sounds: dict[Path, Sound]) -> None:
        """Split the readable recordings of a folder as data=folder does, and check the split."""
        if self.layout == "folder" and sounds:
            readable = {
                split: [clip for clip in clips if clip.path in sounds] for split, clips in self.recordings.items()
            }
            durations = {path: sound.seconds for path, sound in sounds.items()}
            clips = cut_all(readable, durations, clip_length(durations.values()))
            try:
                train, test = divide(clips, TEST_FRACTION, SPLIT_SEED, self.root)
                self.splits = {"train": train, "test": test}
            except InputError as error:
                self.faults.append(str(error))
                self.splits = {"all": [clip for group in clips.values() for clip in group]}
        if {"train", "test"} <= self.splits.keys():
            self.check_split(self.splits["train"], self.splits["test"])

    def check_split(self, train: list[Clip], test: list[Clip]) -> None:
        """Add the faults and warnings of a split into train and test."""
        labels = sorted({clip.label for clip in train})
        self.faults += split_faults(train, test, labels, self.root)
        if len(labels) == 1:
            self.faults.append(f"{self.root}: all training clips are {labels[0]}: add clips of another class")
        untested = sorted(set(labels) - {clip.label for clip in test})
        self.warnings += fault(self.root, "classes without test clips", untested, "their accuracy will be unknown")
        places = {(clip.label, clip.location) for clip in train}
        single = sorted(label for label, count in Counter(label for label, _ in places).items() if count == 1)
        what = "classes with a single location to train on"
        self.warnings += fault(self.root, what, single, "add recordings from other places")


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
    dataset.recordings = dict(dataset.splits)
    for split, clips in dataset.splits.items():
        missing = [str(clip.path.relative_to(root)) for clip in clips if not clip.path.is_file()]
        found = dataset.warnings if split == "unused" else dataset.faults
        found += fault(root, f"missing audio files ({split})", missing, "complete the dataset")
    names = {str(path.relative_to(root)) for path in files_below(root) if path.suffix.lower() in SUFFIXES}
    unknown = sorted(names - {str(Path(name)) for name in meta})
    dataset.warnings += fault(root, "sound files without a row in meta.csv", unknown, "add them")
    return dataset
