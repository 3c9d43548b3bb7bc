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

QUIET = -70.0  # dB full scale, root mean square: near the noise of a 16-bit recorder
OFFSET = 0.02  # of full scale


def sound_faults(dataset: Dataset, sounds: dict[Path, Sound], unreadable: dict[Path, str]) -> Iterator[str]:
    """What stops or spoils a run, a sentence each."""
    yield from unreadable.values()
    files, root = audible_files(dataset, sounds), dataset.root
    for one, other in combinations([split for split in files if split != "unused"], 2):
        pairs = matches(files[one], files[other], lambda clip: sounds[clip.path].digest)
        names = [f"{first.name(root)} = {second.name(root)}" for first, second in pairs]
        what = f"recordings in {one} and {other} that sound the same"
        yield from fault(root, what, names, "remove one of each pair: the accuracy would be too high")


def sound_warnings(dataset: Dataset, sounds: dict[Path, Sound]) -> Iterator[str]:
    """What may be intended, a sentence each."""
    root, files = dataset.root, audible_files(dataset, sounds)
    yield from same_sounds(root, files, sounds)
    if dataset.layout == "folder" and len(files) == 2:
        different = {split: without_matches(files, split, sounds) for split in files}
        yield from same_names(different, {path: sound.seconds for path, sound in sounds.items()}, root)

    def files_where(condition: Callable[[Sound], object]) -> list[str]:
        return [str(path.relative_to(root)) for path, sound in sounds.items() if condition(sound)]

    if dataset.layout == "TAU" and sounds:
        usual = Counter(round(sound.seconds, 2) for sound in sounds.values()).most_common(1)[0][0]
        other = files_where(lambda sound: round(sound.seconds, 2) != usual)
        what = f"clips that are not {usual:g} s long, as most are"
        yield from fault(root, what, other, "longer ones are cut, shorter ones repeated")
    silent = files_where(lambda sound: sound.peak == 0)
    yield from fault(root, "digitally silent files", silent, "remove them: they are of no scene")
    partly = files_where(lambda sound: sound.peak > 0 and sound.silent_channels)
    yield from fault(root, "files with a silent channel", partly, "data.channel chooses another, channel 0 is read")
    quiet = files_where(lambda sound: sound.peak > 0 and sound.level < QUIET)
    yield from fault(root, f"files quieter than {QUIET:g} dB", quiet, "check the recorder's gain")
    clipped = files_where(lambda sound: sound.runs)
    yield from fault(root, "clipped files", clipped, "lower the recorder's gain, or keep them if they are few")
    offset = files_where(lambda sound: sound.offset > OFFSET)
    yield from fault(root, f"files with a DC offset over {OFFSET:g}", offset, "filter it out")
    yield from format_by_class(dataset, sounds)


def format_by_class(dataset: Dataset, sounds: dict[Path, Sound]) -> Iterator[str]:
    """Classes whose sample rates and numbers of channels no other class has: the network may learn the recorder."""
    formats: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for clips in dataset.splits.values():
        for clip in clips:
            if clip.path in sounds:
                formats[clip.label].add((sounds[clip.path].rate, sounds[clip.path].channels))
    apart = [
        label
        for label, own in formats.items()
        if not any(own & others for other, others in formats.items() if other != label)
    ]
    if len(formats) > 1:
        what = "classes with a sample rate or number of channels of their own"
        yield from fault(dataset.root, what, sorted(apart), "a network may learn the recorder, not the scene")


def same_sounds(root: Path, files: dict[str, list[Clip]], sounds: dict[Path, Sound]) -> Iterator[str]:
    """Files with the same sound in one split."""
    for split, clips in files.items():
        first: dict[str, Clip] = {}
        pairs = [(first.setdefault(sounds[clip.path].digest, clip), clip) for clip in clips]
        names = [f"{one.name(root)} = {other.name(root)}" for one, other in pairs if one is not other]
        yield from fault(root, f"recordings twice in {split}", names, "keep one of each")


def audible_files(dataset: Dataset, sounds: dict[Path, Sound]) -> dict[str, list[Clip]]:
    """By split, a clip for each readable file that is not silent: all silent files are the same."""
    audible = {path for path, sound in sounds.items() if sound.peak > 0}
    return {
        split: list(dict.fromkeys(replace(clip, start=0.0) for clip in clips if clip.path in audible))
        for split, clips in dataset.splits.items()
    }


def without_matches(files: dict[str, list[Clip]], split: str, sounds: dict[Path, Sound]) -> list[Clip]:
    """The files of a split whose sound is in no other split."""
    others = {sounds[clip.path].digest for name, clips in files.items() if name != split for clip in clips}
    return [clip for clip in files[split] if sounds[clip.path].digest not in others]
