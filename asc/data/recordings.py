"""Recordings in one folder per class: find them, cut them into clips, hold some out for the test, find copies."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from itertools import chain, combinations
from os.path import commonprefix
from pathlib import Path
from statistics import median

from asc.audio import SUFFIXES
from asc.data.lists import TAU_NAME, Clip, fault, shorten
from asc.data.splits import by_location, hold_out
from asc.errors import InputError

# the split that a folder with class folders is, by its name in lower case
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
SEPARATOR = "[-_ ]"  # of the parts of a name
FOLD = re.compile(r"(fold|split)[ _-]?\d+")  # in lower case
# what Windows, Linux, macOS and Synology leave on disks and in archives
SYSTEM = {"System Volume Information", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini", "lost+found", "__MACOSX", "@eaDir"}
MAX_CLIP_SECONDS = 10.0  # unless set
SAMPLE = 2**16  # bytes from the middle of a file that are compared


@dataclass(frozen=True)
class Folder:
    """Contents of a folder of recordings.

    Attributes:
        recordings: by split: "train", "val" and "test" if the folders at the top are splits, else "" for all. A
            recording is a clip that starts at 0 s.
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
        InputError: `root` is not a folder, or a class folder's name is not printable.
        OSError: a folder is unreadable.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that contains the class folders")
    parents = split_folders(root)
    found = Folder({split: [] for split in ("", "train", "val", "test") if split in parents.values()}, [], [])
    for parent, split in parents.items():
        used = set()
        for file in files_below(parent):
            label, *inner = file.relative_to(parent).parts
            if not inner or not is_recording(file):
                found.others.append(file)
                continue
            if not label.isprintable():
                raise InputError(f"{root}: the folder {label!r} has control characters in its name: rename it")
            used.add(label)
            location = f"{label}/{file.stem if len(inner) == 1 else inner[0]}"
            found.recordings[split].append(Clip(file, label, location))
        found.empty.extend(path for path in visible(parent) if path.is_dir() and path.name not in used)
    if root not in parents:
        found.others.extend(path for path in visible(root) if path.is_file())
        found.empty.extend(path for path in visible(root) if path.is_dir() and path not in parents)
    return found


def split_folders(root: Path) -> dict[Path, str]:
    """The folders that contain class folders, and their splits: `root` itself with "", unless its folders are splits.

    Folders are splits if they are named so and have class folders, and if they are train and test, or no other folder
    has recordings: a class may be named train, the railway.
    """
    folders = [path for path in visible(root) if path.is_dir()]
    splits = {
        folder: SPLITS[folder.name.casefold()]
        for folder in folders
        if folder.name.casefold() in SPLITS and not any(map(is_recording, visible(folder)))
    }
    others = chain.from_iterable(files_below(folder) for folder in folders if folder not in splits)
    are_splits = {"train", "test"} <= set(splits.values()) or not any(map(is_recording, others))
    return splits if splits and are_splits else {root: ""}


def is_recording(path: Path) -> bool:
    """Whether the suffix is that of a sound file."""
    return path.suffix.lower() in SUFFIXES


def check_classes(found: Folder, root: Path) -> None:
    """Check that there are classes to train on.

    Raises:
        InputError: a split or classes are missing, or the folders are splits, folds or a whole dataset; with a remedy.
    """
    labels = sorted({recording.label for recordings in found.recordings.values() for recording in recordings})
    if labels and all(label.casefold() in SPLITS or FOLD.fullmatch(label.casefold()) for label in labels):
        raise InputError(
            f"{root}: {shorten(labels)} are names of splits or folds, not of classes: put the recordings of each class "
            "into a folder with its name"
        )
    if "" not in found.recordings and (lacking := {"train", "test"} - found.recordings.keys()):
        what = f"its folders are splits ({', '.join(found.recordings)}), but there is no {' and no '.join(lacking)}"
        raise InputError(f"{root}: {what}: add or rename one, or put the class folders directly into {root}")
    empty = [split for split, recordings in found.recordings.items() if not recordings]
    if empty or len(labels) < 2:
        where, classes = (root / empty[0], "none") if empty else (root, ", ".join(labels))
        raise InputError(f"{where}: expected class folders with recordings, found {classes}: {remedy(found, root)}")


def remedy(found: Folder, root: Path) -> str:
    """What to do with a folder that does not have two class folders."""
    if metas := sorted([*root.glob("meta.csv"), *root.glob("*/meta.csv")]):
        return f"{metas[0]} has labels, so set data=dcase data.root={metas[0].parent}"
    recordings = [recording for group in found.recordings.values() for recording in group]
    labels = {recording.label for recording in recordings}
    if labels == {"audio"} and all(TAU_NAME.fullmatch(recording.path.stem) for recording in recordings):
        return f"for TAU's lists, python -m asc.download DATASET {root} --meta-only; then set data=dcase"
    tops = {root / label for label in labels}
    if len(tops) == 1 and any(path.is_dir() for path in visible(*tops)):
        return f"if {min(tops)} contains the class folders, set data.root to it"
    if len(labels) == 1:
        return "a classifier needs two classes or more: add a folder with recordings of another"
    return "put the recordings of each class into a folder with its name"


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden files and those of the operating system."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in SYSTEM)


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


def divide(clips: dict[str, list[Clip]], fraction: float, seed: int, root: Path) -> dict[str, list[Clip]]:
    """The clips by split: that of the folders, or "train" and "test" with about `fraction` of each class for the test.

    Raises:
        InputError: a class has a single location, or none of its locations is held out.
    """
    if "" not in clips:  # the same name in two folders is not the same location
        return {
            split: [replace(clip, location=f"{split}/{clip.location}") for clip in part]
            for split, part in clips.items()
        }
    locations = Counter(group[0].label for group in by_location(clips[""]))
    if single := sorted(label for label, count in locations.items() if count < 2):
        raise InputError(
            f"{root}: {shorten(single)} has a single recording or subfolder, but training and test need one each: "
            "add another, or sort the recordings into the folders train and test"
        )
    train, test = hold_out(clips[""], fraction, seed)
    if untested := sorted(locations.keys() - {clip.label for clip in test}):
        raise InputError(f"data.test_fraction={fraction} holds out no recording of {shorten(untested)}: increase it")
    return {"train": train, "test": test}


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


def same_sources(splits: dict[str, list[Clip]], root: Path) -> Iterator[str]:
    """A sentence if recordings in two splits have names that differ in the last part alone, as parts of one source.

    Names cannot prove it, so that recordings are not grouped by them. A source has a number: rain_1 and rain_2 are
    numbered recordings of a class.
    """
    found: dict[str, dict[Path, str]] = defaultdict(dict)  # by label, the splits of recordings outside of subfolders
    for split, clips in splits.items():
        for clip in clips:
            if clip.path.parent.name == clip.label:
                found[clip.label][clip.path] = split
    names = []
    for split_of in found.values():
        ending = commonprefix([path.stem[::-1] for path in split_of])[::-1]  # ESC-50's names end with their class
        ending = ending[re.search(rf"{SEPARATOR}|$", ending).start() :]  # type: ignore[union-attr]
        first: dict[str, dict[str, Path]] = defaultdict(dict)  # by source and split
        for path, split in split_of.items():
            source = re.match(rf"(.*\d.*){SEPARATOR}", path.stem.removesuffix(ending))
            if source:
                first[source[1]].setdefault(split, path)
        pairs = (list(paths.values())[:2] for paths in first.values() if len(paths) > 1)
        names += [" and ".join(str(path.relative_to(root)) for path in pair) for pair in pairs]
    what = "recordings in different splits whose names differ in the last part alone"
    yield from fault(root, what, names, "if they are parts of one source, put each source into a subfolder")


def matches(one: Sequence[Clip], other: Sequence[Clip], key: Callable[[Clip], Hashable]) -> list[tuple[Clip, Clip]]:
    """Pairs of clips with the same key, for each of `other` the first of `one`."""
    first = {key(clip): clip for clip in reversed(one)}
    return [(first[value], clip) for clip in other if (value := key(clip)) in first]
