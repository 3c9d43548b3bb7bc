"""Training, validation and test splits: all clips of a location go into the same split."""

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from asc.data.lists import Clip, fault
from asc.errors import InputError


def split_faults(train: Sequence[Clip], test: Sequence[Clip], labels: Sequence[str], where: Path) -> Iterator[str]:
    """A label outside `labels` or spelt in two ways, a file or location in both lists, a file at two locations."""
    spellings = [unicodedata.normalize("NFC", label).casefold().strip() for label in labels]
    alike = [label for label, spelling in zip(labels, spellings, strict=True) if spellings.count(spelling) > 1]
    yield from fault(where, "labels that differ only in spelling", alike, "write them alike")
    unknown = [f"{clip.path.name} {clip.label}" for clip in [*train, *test] if clip.label not in labels]
    yield from fault(where, "clips with an unknown label", unknown, f"expected {', '.join(labels)}")
    both = {clip.path for clip in train} & {clip.path for clip in test}
    yield from fault(where, "files in both train and test", sorted(path.name for path in both))
    shared = {clip.location for clip in train} & {clip.location for clip in test}
    yield from fault(where, "locations in both train and test", sorted(shared), "keep each location in one list")
    first: dict[tuple[int, int], Clip] = {}
    aliases = []
    for clip in (clip for clip in [*train, *test] if clip.path.exists()):
        status = clip.path.stat()
        known = first.setdefault((status.st_dev, status.st_ino), clip)  # by links, the same file
        if known.location != clip.location and known.path != clip.path:
            aliases.append(f"{known.path.name} = {clip.path.name}")
    yield from fault(where, "files at two locations under two names", aliases, "keep one of the names")


def by_location(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Group the clips by location, in order of first appearance."""
    locations: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        locations[clip.location].append(clip)
    return list(locations.values())


def cross_validation(clips: Sequence[Clip], folds: int, seed: int) -> list[list[Clip]]:
    """Split the clips into folds by location, with about equal numbers of clips in total and for each label.

    Raises:
        InputError: a label has fewer locations than there are folds.
    """
    groups = by_location(clips)
    scarce = [label for label, n in Counter(group[0].label for group in groups).items() if n < folds]
    if scarce:
        raise InputError(f"invalid data.cv={folds}: expected at most as many folds as {scarce[0]} has locations")
    random.Random(f"{seed} folds").shuffle(groups)
    groups.sort(key=len, reverse=True)  # stable, so ties stay shuffled; small groups come last and even out the parts
    parts: list[list[Clip]] = [[] for _ in range(folds)]
    for group in groups:
        label = group[0].label
        smallest = min(parts, key=lambda part: (sum(clip.label == label for clip in part), len(part)))
        smallest.extend(group)
    return parts


def hold_out(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Split by location into (train, validation) with about `fraction` of each class; every class stays in train."""
    by_label: dict[str, list[list[Clip]]] = defaultdict(list)
    for group in by_location(clips):
        by_label[group[0].label].append(group)
    remaining = Counter(clip.label for clip in clips)
    validation: set[Clip] = set()
    for label in sorted(by_label):
        groups = by_label[label]
        random.Random(f"{seed} {label}").shuffle(groups)
        wanted = fraction * sum(map(len, groups))
        for group in groups:
            taken = Counter(clip.label for clip in group)
            fits = wanted >= len(group) / 2  # taking the group gets closer to `wanted`
            if fits and all(remaining[name] > count for name, count in taken.items()):
                validation.update(group)
                wanted -= len(group)
                remaining -= taken
    return [clip for clip in clips if clip not in validation], [clip for clip in clips if clip in validation]
