"""FolderScenes: a folder a class, whose recordings of any length are cut into clips."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from statistics import median
from typing import Any

from asc.data.datamodule import SceneData
from asc.data.duplicates import matches, same_content
from asc.data.lists import Clip, fault, shorten
from asc.data.splits import by_location, hold_out
from asc.errors import InputError, check_number
from asc.sound import SUFFIXES

SPLITS = ("train", "test")  # folders at the top that hold the folders of the classes
LONGEST = 10.0  # seconds of a clip, unless set
UNREADABLE = {".m4a", ".aac", ".mp4", ".wma", ".amr", ".3gp", ".webm", ".mov"}  # sound that libsndfile does not read


@dataclass(frozen=True)
class Folder:
    """What a folder of recordings holds.

    Attributes:
        recordings: by split: "train" and "test" if these folders are at the top, else "" for all. A recording is a
            clip that begins with its file.
        others: files that are no sound files, and sound files outside the folders of the classes.
        empty: folders without sound files.
    """

    recordings: dict[str, list[Clip]]
    others: list[Path]
    empty: list[Path]


def read_folder(root: Path) -> Folder:
    """Find the recordings below `root`; hidden files and folders do not count.

    A recording directly in the folder of its class is a location of its own; those in a subfolder share one.

    Raises:
        InputError: there are no recordings, or a folder is not readable or its name not printable.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that holds a folder for each class")
    found = Folder({}, [], [])
    given = all((root / split).is_dir() for split in SPLITS)
    for split in SPLITS if given else ("",):
        found.recordings[split] = []
        read_classes(root / split, found.recordings[split], found)
        if not found.recordings[split]:
            raise InputError(f"{root / split} holds no sound files in folders: {no_recordings(root, found)}")
    if given:
        found.others.extend(path for path in visible(root) if path.is_file())
        found.empty.extend(path for path in visible(root) if path.is_dir() and path.name not in SPLITS)
    return found


def no_recordings(root: Path, found: Folder) -> str:
    """What to do where nothing is found."""
    if (root / "meta.csv").exists():
        return "it has a meta.csv, so take data=dcase"
    if any(path.suffix.lower() in UNREADABLE for path in found.others):
        return "convert its recordings to WAV or FLAC"
    return "put the recordings of each class into a folder with its name"


def read_classes(folder: Path, recordings: list[Clip], found: Folder) -> None:
    """Add what the folders of the classes in `folder` hold."""
    for path in visible(folder):
        if not path.is_dir():
            found.others.append(path)
            continue
        label, before = path.name, len(recordings)
        if not label.isprintable():
            raise InputError(f"{folder}: the folder {label!r} has control characters in its name: rename it")
        for entry in visible(path):
            location = f"{label}/{entry.name if entry.is_dir() else entry.stem}"
            for file in files_below(entry) if entry.is_dir() else [entry]:
                if file.suffix.lower() in SUFFIXES:
                    recordings.append(Clip(file, label, location))
                else:
                    found.others.append(file)
        if len(recordings) == before:
            found.empty.append(path)


def visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files.

    Raises:
        InputError: the folder is not readable.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): change its permissions") from error


def files_below(folder: Path, parents: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All visible files below a folder; links are followed, though not round in a circle."""
    real = folder.resolve()
    if real in parents:
        return
    for path in visible(folder):
        if path.is_dir():
            yield from files_below(path, (*parents, real))
        else:
            yield path


def clip_length(durations: Iterable[float]) -> float:
    """Seconds of the clips to cut from recordings of these durations: 10 s, or their median if that is less."""
    return min(LONGEST, round(median(durations), 2))


def cut(recording: Clip, duration: float, length: float) -> list[Clip]:
    """The clips of `length` seconds of a recording.

    A remainder shorter than half a clip is left out; any other makes a clip, as does a recording shorter than a clip.
    """
    count = max(1, int(duration / length + 0.5))
    return [replace(recording, start=number * length) for number in range(count)]


def hold_out_test(clips: Sequence[Clip], fraction: float, seed: int, root: Path) -> tuple[list[Clip], list[Clip]]:
    """Hold out about `fraction` of the clips of each class for the test, by location: (train, test).

    Raises:
        InputError: a class has a single location, or none of its locations is held out.
    """
    locations = Counter(group[0].label for group in by_location(clips))
    single = sorted(label for label, count in locations.items() if count < 2)
    if single:
        raise InputError(
            f"{root}: {shorten(single)} has one recording or subfolder, and one to train on and one to test on are "
            "needed: add another, or divide the recordings into the folders train and test"
        )
    train, test = hold_out(clips, fraction, seed)
    if untested := sorted(locations.keys() - {clip.label for clip in test}):
        raise InputError(f"data.test_fraction={fraction} holds out no recording of {shorten(untested)}: increase it")
    return train, test


def notes(found: Folder, root: Path) -> list[str]:
    """What of a folder is left out, a sentence each."""
    sentences = []
    if found.others:
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in found.others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(4))
        remedy = ""
        if suffixes.keys() & UNREADABLE:
            remedy = "; convert recordings to WAV or FLAC"
        elif suffixes.keys() & SUFFIXES:
            remedy = "; put recordings into the folder of their class"
        sentences.append(f"{root}: {len(found.others)} files are left out ({kinds}){remedy}")
    names = [str(path.relative_to(root)) for path in found.empty]
    return sentences + list(fault(root, "folders without recordings of a class are left out", names, "remove them"))


def leaks(splits: dict[str, list[Clip]], durations: dict[Path, float], root: Path) -> list[str]:
    """Signs that a recording is in two splits, a sentence for each pair of splits."""
    sentences: list[str] = []
    files = {name: list({clip.path: clip for clip in clips}.values()) for name, clips in splits.items()}
    for one, other in combinations(files, 2):
        copies = same_content(*([clip.path for clip in files[name]] for name in (one, other)))
        names = [f"{first.relative_to(root)} = {second.relative_to(root)}" for first, second in copies]
        sentences += fault(root, f"the same recordings in {one} and {other}", names, "remove one of them")

        alike = matches(
            files[one], files[other], lambda clip: (clip.label, clip.path.stem, round(durations[clip.path], 2))
        )
        names = [
            str(second.path.relative_to(root)) for first, second in alike if (first.path, second.path) not in copies
        ]
        what = f"recordings in {one} and {other} with the same name and length"
        sentences += fault(root, what, names, "if they are the same sound, put both into one subfolder")
    return sentences


class FolderScenes(SceneData):
    """Train, validation and test clips of DIR/<label>/..., or of DIR/train/<label>/... and DIR/test/<label>/...

    All clips of a location stay in one split: of a subfolder of a class, or of a recording directly in its folder.

    Args:
        root: the folder.
        test_fraction: fraction of the clips of each class to test on, unless there are train/ and test/.
        split_seed: of the choice of these clips, which `seed` does not change.
        settings: of SceneData. `clip_seconds` is the length to cut recordings into; None: 10 s, or the median length
            of the recordings if that is less.
    """

    def __init__(self, root: str, test_fraction: float = 0.25, split_seed: int = 0, **settings: Any):
        super().__init__(root, **settings)
        check_number("data.test_fraction", test_fraction, float, 0.01, 0.9)
        check_number("data.split_seed", split_seed, int, 0)
        if not self.cv and self.fold != 1:
            raise InputError(f"invalid data.fold={self.fold}: set data.cv too, the number of folds")
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.durations: dict[Path, float] = {}  # seconds of the recordings
        self.length = 0.0  # seconds of the clips

    def identity(self, clip: Clip) -> tuple:
        return clip.location, clip.path.name, clip.start

    def setup(self, stage: str | None = None) -> None:
        if self.clips:
            return
        super().setup(stage)
        for sentence in leaks(self.clips, self.durations, self.root):
            print(f"warning: {sentence}", file=sys.stderr)

    def read_split(self) -> tuple[list[Clip], list[Clip]]:
        found = read_folder(self.root)
        for sentence in notes(found, self.root):
            print(sentence, file=sys.stderr)
        paths = [recording.path for recordings in found.recordings.values() for recording in recordings]
        self.durations = dict(zip(paths, self._durations(paths), strict=True))
        self.length = self.clip_seconds or clip_length(self.durations.values())
        return self.divide(found.recordings)

    def divide(self, recordings: dict[str, list[Clip]]) -> tuple[list[Clip], list[Clip]]:
        """Cut recordings into clips and divide them into train and test."""
        clips = {
            split: [clip for each in group for clip in cut(each, self.durations[each.path], self.length)]
            for split, group in recordings.items()
        }
        if self.cv:
            return list(chain.from_iterable(clips.values())), []
        if "" in clips:
            return hold_out_test(clips[""], self.test_fraction, self.split_seed, self.root)
        # what has the same name in both folders is not the same location
        train, test = (
            [replace(clip, location=f"{split}/{clip.location}") for clip in clips[split]] for split in SPLITS
        )
        return train, test

    def _clip_seconds(self, train: list[Clip], test: list[Clip]) -> float:
        for clip in [*train, *test]:
            self.seconds[clip] = min(self.length, self.durations[clip.path] - clip.start)
        return self.length
