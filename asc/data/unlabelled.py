"""Recordings without labels, whose targets a teacher gives."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from asc.audio import SUFFIXES, open_sound, read_pieces
from asc.data.lists import Clip, shorten
from asc.data.recordings import cut_all, files_below
from asc.errors import InputError


def unlabelled_clips(
    folder: Path, labelled: Sequence[Clip], length: float, durations_of: Callable[[list[Path]], dict[Path, float]]
) -> list[Clip]:
    """The clips of `length` seconds of all recordings below a folder, but for copies of the labelled ones.

    Args:
        folder: a folder of recordings, at any depth.
        labelled: the clips of all splits; a recording with the samples of one of theirs is left out.
        length: seconds.
        durations_of: seconds of those of these files that can be read.

    Raises:
        InputError: there is no such folder, or it contains no other recordings.
    """
    below = files_below(folder) if folder.is_dir() else []
    files = [path for path in below if path.suffix.lower() in SUFFIXES]
    known = list(dict.fromkeys(clip.path for clip in labelled))
    seconds = durations_of([*files, *known])
    files = [path for path in files if path in seconds]
    lengths = {seconds[path] for path in files} & {seconds[path] for path in known}
    alike = dict.fromkeys(path for path in [*known, *files] if seconds[path] in lengths)
    comparing = tqdm(alike, "looking for copies", unit="file", leave=False, disable=None, delay=1)
    digests = {path: samples_digest(path) for path in comparing}
    known_digests = {digests[path] for path in known if path in digests}
    copies = {path for path in files if digests.get(path) in known_digests}
    if copies:
        names = shorten(sorted(path.name for path in copies))
        print(f"{folder}: {len(copies)} of the labelled recordings are left out ({names})", file=sys.stderr)
    recordings = [Clip(path, "", "") for path in files if path not in copies]
    if not recordings:
        raise InputError(f"invalid data.unlabelled={folder}: expected a folder with sound files that are not labelled")
    return cut_all({"": recordings}, seconds, length)[""]


def samples_digest(path: Path) -> bytes:
    """Digest of the samples of a recording, the same in every lossless format."""
    digest = hashlib.blake2b()
    with open_sound(path) as sound:
        for piece in read_pieces(sound, sound.frames, "mean", path):
            digest.update(piece.tobytes())
    return digest.digest()
