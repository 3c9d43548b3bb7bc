"""Recordings in one folder per class: find them, cut them into clips, hold some out for the test, find copies."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TypeVar

from tqdm import tqdm

from asc.audio import SUFFIXES
from asc.data.lists import Clip, fault, shorten
from asc.data.splits import by_location, hold_out
from asc.errors import InputError

SPLITS = ("train", "test")  # top-level folders that contain the class folders
MAX_CLIP_SECONDS = 10.0  # unless set
UNREADABLE = {".m4a", ".aac", ".mp4", ".wma", ".amr", ".3gp", ".webm", ".mov"}  # audio that libsndfile cannot read

SAMPLE = 4096  # bytes from the middle of a file: enough to distinguish most files
Item = TypeVar("Item")


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
        InputError: there are no recordings, or a folder is unreadable or its name not printable.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that contains the class folders")
    found = Folder({}, [], [])
    given = all((root / split).is_dir() for split in SPLITS)
    for split in SPLITS if given else ("",):
        found.recordings[split] = []
        read_classes(root / split, found.recordings[split], found)
        if not found.recordings[split]:
            raise InputError(f"{root / split} contains no sound files in class folders: {remedy(root, found)}")
    if given:
        found.others.extend(path for path in visible(root) if path.is_file())
        found.empty.extend(path for path in visible(root) if path.is_dir() and path.name not in SPLITS)
    labels = {recording.label for recordings in found.recordings.values() for recording in recordings}
    if len(labels) < 2:
        raise InputError(f"{root}: all recordings are in the folder {labels.pop()}: {remedy(root, found)}")
    return found


def remedy(root: Path, found: Folder) -> str:
    """Advice to the user if no classes are found."""
    if (root / "meta.csv").exists():
        return "it has a meta.csv, so set data=dcase"
    if any(path.suffix.lower() in UNREADABLE for path in found.others):
        return "convert its recordings to WAV or FLAC"
    return "put the recordings of each class into a folder with its name"


def read_classes(folder: Path, recordings: list[Clip], found: Folder) -> None:
    """Add the contents of the class folders in `folder`."""
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
    """The entries of a folder, sorted by name, without hidden files.

    Raises:
        InputError: the folder is not readable.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): change its permissions") from error


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


def cut(recording: Clip, duration: float, length: float) -> list[Clip]:
    """The clips of `length` seconds of a recording.

    A remainder shorter than half a clip is dropped. A longer one, or a recording shorter than a clip, becomes a clip.
    """
    count = max(1, int(duration / length + 0.5))
    return [replace(recording, start=number * length) for number in range(count)]


def cut_all(recordings: dict[str, list[Clip]], durations: dict[Path, float], length: float) -> dict[str, list[Clip]]:
    """The clips of `length` seconds of all recordings, by split."""
    return {
        split: [clip for recording in group for clip in cut(recording, durations[recording.path], length)]
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
    single = sorted(label for label, count in locations.items() if count < 2)
    if single:
        raise InputError(
            f"{root}: {shorten(single)} has a single recording or subfolder, but training and test need one each: "
            "add another, or sort the recordings into the folders train and test"
        )
    train, test = hold_out(clips[""], fraction, seed)
    if untested := sorted(locations.keys() - {clip.label for clip in test}):
        raise InputError(f"data.test_fraction={fraction} holds out no recording of {shorten(untested)}: increase it")
    return train, test


def notes(found: Folder, root: Path) -> list[str]:
    """Sentences about ignored files and folders."""
    sentences = []
    if found.others:
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in found.others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(4))
        advice = ""
        if suffixes.keys() & UNREADABLE:
            advice = "; convert recordings to WAV or FLAC"
        elif suffixes.keys() & SUFFIXES:
            advice = "; put recordings into the folder of their class"
        sentences.append(f"{root}: {len(found.others)} files are ignored ({kinds}){advice}")
    names = [str(path.relative_to(root)) for path in found.empty]
    return sentences + list(fault(root, "folders without recordings of a class are ignored", names, "remove them"))


def leaks(splits: dict[str, list[Clip]], durations: dict[Path, float], root: Path) -> list[str]:
    """Signs that a recording appears in two splits: sentences for each pair of splits."""
    sentences: list[str] = []
    files = {name: list({clip.path: clip for clip in clips}.values()) for name, clips in splits.items()}
    for one, other in combinations(files, 2):
        copies = same_content(*([clip.path for clip in files[name]] for name in (one, other)))
        names = [f"{first.relative_to(root)} = {second.relative_to(root)}" for first, second in copies]
        sentences += fault(root, f"the same recordings in {one} and {other}", names, "remove one of them")
        copied = {second for _, second in copies}
        rest = [clip for clip in files[other] if clip.path not in copied]
        sentences += same_names({one: files[one], other: rest}, durations, root)
    return sentences


def same_names(splits: dict[str, list[Clip]], durations: dict[Path, float], root: Path) -> Iterator[str]:
    """A sentence for each pair of splits with recordings of the same class, name and length."""
    for one, other in combinations(splits, 2):
        pairs = matches(
            splits[one], splits[other], lambda clip: (clip.label, clip.path.stem, round(durations[clip.path], 2))
        )
        names = sorted({str(second.path.relative_to(root)) for _, second in pairs})
        what = f"recordings in {one} and {other} with the same name and length"
        yield from fault(root, what, names, "if they are the same sound, put both into one subfolder")


def matches(one: Sequence[Item], other: Sequence[Item], key: Callable[[Item], Hashable]) -> list[tuple[Item, Item]]:
    """Pairs of items with the same key, for each of `other` the first of `one`."""
    first: dict[Hashable, Item] = {}
    for item in one:
        first.setdefault(key(item), item)
    return [(first[value], item) for item in other if (value := key(item)) in first]


def same_content(one: Sequence[Path], other: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files with the same bytes; only files of the same size and middle are read whole."""
    for key in (lambda path: path.stat().st_size, middle):
        found = {path: key(path) for path in [*one, *other]}
        common = {found[path] for path in one} & {found[path] for path in other}
        one, other = ([path for path in paths if found[path] in common] for paths in (one, other))
    bar = tqdm([*one, *other], "comparing", unit="file", leave=False, disable=None, delay=2)
    whole = {path: content(path) for path in bar}
    return matches(one, other, whole.__getitem__)


def middle(path: Path) -> tuple[int, bytes]:
    """The size of a file and bytes from its middle."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(size // 2)
        return size, file.read(SAMPLE)


def content(path: Path) -> bytes:
    """Digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
