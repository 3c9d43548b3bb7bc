"""Faults of a dataset's sounds, which stop or spoil a run, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from asc.check.dataset import Dataset
from asc.check.sounds import Sound
from asc.data.lists import Clip, fault
from asc.data.recordings import matches, same_names

MIN_LEVEL = -70.0  # dB full scale, root mean square: near the noise of a 16-bit recorder
MAX_OFFSET = 0.02  # of full scale


def sound_faults(dataset: Dataset, sounds: dict[Path, Sound], unreadable: dict[Path, str]) -> Iterator[str]:
    """A sentence for each fault that stops or spoils a run."""
    yield from unreadable.values()
    files, root = audible_files(dataset, sounds), dataset.root
    for one, other in combinations([split for split in files if split != "unused"], 2):
        pairs = matches(files[one], files[other], lambda clip: sounds[clip.path].digest)
        names = [f"{first.name(root)} = {second.name(root)}" for first, second in pairs]
        what = f"recordings in {one} and {other} that sound the same"
        yield from fault(root, what, names, "remove one of each pair: the accuracy would be too high")


def sound_warnings(dataset: Dataset, sounds: dict[Path, Sound]) -> Iterator[str]:
    """A sentence for each property that may be intended."""
    root, files = dataset.root, audible_files(dataset, sounds)
    for split, clips in files.items():
        first: dict[str, Clip] = {}
        pairs = [(first.setdefault(sounds[clip.path].digest, clip), clip) for clip in clips]
        names = [f"{one.name(root)} = {other.name(root)}" for one, other in pairs if one is not other]
        yield from fault(root, f"recordings twice in {split}", names, "keep one of each")
    if dataset.layout == "folder" and len(files) == 2:
        digests = {split: {sounds[clip.path].digest for clip in clips} for split, clips in files.items()}
        common = set.intersection(*digests.values())
        different = {
            split: [clip for clip in clips if sounds[clip.path].digest not in common] for split, clips in files.items()
        }
        yield from same_names(different, {path: sound.seconds for path, sound in sounds.items()}, root)

    warnings: list[tuple[str, Callable[[Sound], object], str]] = [
        ("digitally silent files", lambda sound: sound.peak == 0, "remove them: they have no scene"),
        (
            "files with a silent channel",
            lambda sound: sound.peak > 0 and sound.silent_channels,
            "data.channel chooses another, by default channel 0",
        ),
        (
            f"files quieter than {MIN_LEVEL:g} dB",
            lambda sound: sound.peak > 0 and sound.level < MIN_LEVEL,
            "check the recorder's gain",
        ),
        ("clipped files", lambda sound: sound.runs, "lower the recorder's gain, or keep them if they are few"),
        (f"files with a DC offset over {MAX_OFFSET:g}", lambda sound: sound.offset > MAX_OFFSET, "filter it out"),
    ]
    if dataset.layout == "TAU" and sounds:
        usual = Counter(round(sound.seconds, 2) for sound in sounds.values()).most_common(1)[0][0]
        what, remedy = f"clips that are not {usual:g} s long, as most are", "longer ones are cut, shorter ones repeated"
        warnings.insert(0, (what, lambda sound: round(sound.seconds, 2) != usual, remedy))
    for what, condition, remedy in warnings:
        names = [str(path.relative_to(root)) for path, sound in sounds.items() if condition(sound)]
        yield from fault(root, what, names, remedy)
    yield from format_by_class(dataset, sounds)


def format_by_class(dataset: Dataset, sounds: dict[Path, Sound]) -> Iterator[str]:
    """Classes whose sample rates and numbers of channels no other class has: the network may learn the recorder."""
    formats: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for clip in (clip for clips in dataset.splits.values() for clip in clips if clip.path in sounds):
        formats[clip.label].add((sounds[clip.path].rate, sounds[clip.path].channels))
    own = [label for label in formats if not any(formats[label] & formats[other] for other in formats.keys() - {label})]
    if len(formats) > 1:
        what = "classes with a sample rate or number of channels of their own"
        yield from fault(dataset.root, what, sorted(own), "a network may learn the recorder, not the scene")


def audible_files(dataset: Dataset, sounds: dict[Path, Sound]) -> dict[str, list[Clip]]:
    """By split, a clip for each readable file that is not silent: all silent files are equal."""
    audible = {path for path, sound in sounds.items() if sound.peak > 0}
    return {
        split: list(dict.fromkeys(replace(clip, start=0.0) for clip in clips if clip.path in audible))
        for split, clips in dataset.splits.items()
    }
