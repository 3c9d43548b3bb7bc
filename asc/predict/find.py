"""Find the sound files that the arguments of a command line name."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from asc.audio import SUFFIXES
from asc.errors import InputError, WriteError


def find_sound_files(word: str) -> list[Path]:
    """The file, the sound files below the folder, or those that the pattern matches, sorted by name.

    A folder is searched recursively, and a pattern may hold `**`; neither follows symbolic links to folders, which may
    lead back. Hidden files are left out.

    Raises:
        InputError: there are none.
    """
    path = Path(word)
    if os.path.isdir(path):
        files = sound_files_below(path)
        if not files:
            raise InputError(f"{path} holds no sound files, such as .wav or .flac: give another folder")
        return files
    if os.path.lexists(path) or not glob.has_magic(word):
        return [path]  # a missing file is reported when it is opened
    try:
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, OSError) as error:
        raise InputError(f"invalid pattern {word}: expected * and ? in names, or ** for any folders") from error
    visible = [match for match in matches if not match.name.startswith(".")]
    files = [file for match in visible for file in (sound_files_below(match) if match.is_dir() else [match])]
    if not files:
        raise InputError(f"{word} matches no sound file: check the pattern")
    return files


def sound_files_below(folder: Path) -> list[Path]:
    """Files below the folder that have the suffix of a sound file."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        sounds = (name for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."))
        found += [Path(parent, name) for name in sounds]
    return found


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[Path]:
    """A temporary file with the content of a stream, in which libsndfile can seek.

    Raises:
        WriteError: there is not enough space.
    """
    with tempfile.NamedTemporaryFile(prefix="asc-") as file:
        try:
            shutil.copyfileobj(stream, file)
            file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise WriteError(
                f"{folder} has no room for standard input ({error.strerror}): set TMPDIR to a larger folder"
            ) from error
        yield Path(file.name)
