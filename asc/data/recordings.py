"""Recordings in one folder per class: find them, cut them into clips, hold some out for the test, find copies."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from itertools import combinations
from pathlib import Path
from statistics import median

from asc.audio import SUFFIXES
from asc.data.lists import Clip, fault, shorten
from asc.data.splits import by_location, hold_out
from asc.errors import InputError

SPLITS = ("train", "test")  # top-level folders that contain the class folders
MAX_CLIP_SECONDS = 10.0  # unless set
SAMPLE = 2**16  # bytes from the middle of a file that are compared


@dataclass(frozen=True)
class Folder:
    """Contents of a folder of recordings.

    Attributes:
        recordings: by split: "train" and "test" if these folders are at the top, else "" for all. A recording is a
            clip that starts at 0 s.
        others: files other than sound files, and sound files outside the class folders.
        empty: folders without sound files.
    """

    recordings: dict[str, list[Clip]]
    others: list[Path]
    empty: list[Path]


def read_folder(root: Path) -> Folder:
    """Find the recordings below `root`; hidden files and folders are ignored.

    A recording directly in the folder of its class is a location of its own; recordings in a subfolder share one.

    Raises:
        InputError: there are no recordings, or a folder's name is not printable.
        OSError: a folder is unreadable.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that contains the class folders")
    given = all((root / split).is_dir() for split in SPLITS)
    found = Folder({split: [] for split in (SPLITS if given else ("",))}, [], [])
    for split, recordings in found.recordings.items():
        for file in files_below(root / split):
            label, *inner = file.relative_to(root / split).parts
            if not inner or file.suffix.lower() not in SUFFIXES:
                found.others.append(file)
                continue
            if not label.isprintable():
                raise InputError(f"{root}: the folder {label!r} has control characters in its name: rename it")
            recordings.append(Clip(file, label, f"{label}/{file.stem if len(inner) == 1 else inner[0]}"))
        used = {recording.label for recording in recordings}
        found.empty.extend(path for path in visible(root / split) if path.is_dir() and path.name not in used)
    if given:
        found.others.extend(path for path in visible(root) if path.is_file())
        found.empty.extend(path for path in visible(root) if path.is_dir() and path.name not in SPLITS)
    labels = {recording.label for recordings in found.recordings.values() for recording in recordings}
    empty = [split for split, recordings in found.recordings.items() if not recordings]
    if empty or len(labels) < 2:
        remedy = "put the recordings of each class into a folder with its name"
        if (root / "meta.csv").exists():
            remedy = "it has a meta.csv, so set data=dcase"
        where, classes = (root / empty[0], "none") if empty else (root, ", ".join(labels))
        raise InputError(f"{where}: expected class folders with recordings, found {classes}: {remedy}")
    return found


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path, parents: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All visible files below a folder; symbolic links are followed, except cycles."""
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
    return min(MAX_CLIP_SECONDS, round(median(durations), 2))


def cut_all(recordings: dict[str, list[Clip]], durations: dict[Path, float], length: float) -> dict[str, list[Clip]]:
    """The clips of `length` seconds of all recordings, by split.

    A remainder shorter than half a clip is dropped. A longer one, or a recording shorter than a clip, becomes a clip.
    """
    return {
        split: [
            replace(recording, start=number * length)
            for recording in group
            for number in range(max(1, int(durations[recording.path] / length + 0.5)))
        ]
        for split, group in recordings.items()
    }


def divide(clips: dict[str, list[Clip]], fraction: float, seed: int, root: Path) -> tuple[list[Clip], list[Clip]]:
    """The (train, test) clips: from the folders of these names, or with about `fraction` of each class for the test.

    Raises:
        InputError: a class has a single location, or none of its locations is held out.
    """
    if "" not in clips:  # the same name in both folders is not the same location
        train, test = (
            [replace(clip, location=f"{split}/{clip.location}") for clip in clips[split]] for split in SPLITS
        )
        return train, test
    locations = Counter(group[0].label for group in by_location(clips[""]))
    if single := sorted(label for label, count in locations.items() if count < 2):
        raise InputError(
            f"{root}: {shorten(single)} has a single recording or subfolder, but training and test need one each: "
            "add another, or sort the recordings into the folders train and test"
        )
    train, test = hold_out(clips[""], fraction, seed)
    if untested := sorted(locations.keys() - {clip.label for clip in test}):
        raise InputError(f"data.test_fraction={fraction} holds out no recording of {shorten(untested)}: increase it")
    return train, test


def notes(found: Folder, root: Path) -> list[str]:
    """Sentences about ignored files and folders; ignored recordings are named first."""
    others = sorted(found.others, key=lambda path: path.suffix.lower() not in SUFFIXES)
    remedy = "recordings must be sound files such as WAV, MP3 or M4A, and in the folder of their class"
    empty = [str(path.relative_to(root)) for path in found.empty]
    return [
        *fault(root, "files that are ignored", [str(path.relative_to(root)) for path in others], remedy),
        *fault(root, "folders without recordings of a class are ignored", empty, "remove them"),
    ]


def leaks(splits: dict[str, list[Clip]], root: Path) -> Iterator[str]:
    """A sentence for each pair of splits that contain copies of the same recording."""
    files = {split: list({clip.path: clip for clip in clips}.values()) for split, clips in splits.items()}
    contents = {clip.path: content(clip.path) for clips in files.values() for clip in clips}
    for one, other in combinations(files, 2):
        alike = matches(files[one], files[other], lambda clip: contents[clip.path])
        pairs = [(first, second) for first, second in alike if cmp(first.path, second.path, shallow=False)]
        names = [f"{first.path.relative_to(root)} = {second.path.relative_to(root)}" for first, second in pairs]
        yield from fault(root, f"the same recordings in {one} and {other}", names, "remove one of them")


def content(path: Path) -> tuple[int, bytes]:
    """Size of a file and a digest of its middle, which distinguish most recordings."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, (size - SAMPLE) // 2))
        return size, hashlib.blake2b(file.read(SAMPLE)).digest()


def same_names(splits: dict[str, list[Clip]], durations: dict[Path, float], root: Path) -> Iterator[str]:
    """A sentence for each pair of splits with recordings of the same class, name and length."""
    for one, other in combinations(splits, 2):
        pairs = matches(
            splits[one], splits[other], lambda clip: (clip.label, clip.path.stem, round(durations[clip.path], 2))
        )
        names = sorted({str(second.path.relative_to(root)) for _, second in pairs})
        what = f"recordings in {one} and {other} with the same name and length"
        yield from fault(root, what, names, "if they are the same sound, put both into one subfolder")


def matches(one: Sequence[Clip], other: Sequence[Clip], key: Callable[[Clip], Hashable]) -> list[tuple[Clip, Clip]]:
    """Pairs of clips with the same key, for each of `other` the first of `one`."""
    first = {key(clip): clip for clip in reversed(one)}
    return [(first[value], clip) for clip in other if (value := key(clip)) in first]
