"""Paths and atomic file writes; pipes and devices are left alone."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asc.errors import InputError, WriteError


def expand_home(path: str | Path) -> Path:
    """The path with ~ replaced by the home directory.

    Raises:
        InputError: the user or the home directory is unknown, or the path contains a NUL character.
    """
    if "\0" in str(path):
        raise InputError(f"invalid path {path}: expected no NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} begins with an unknown home directory: give the absolute path") from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is moved there when the block ends and removed if it fails.

    A full disk, Ctrl-C or an error in the block leaves the old file, or none. The temporary path has the suffix of
    `path`, since some libraries choose the format by it.

    Raises:
        WriteError: the file cannot be written; names it and the system's reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        regular(path)  # root would replace /dev/null by a file
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        why = error.strerror or str(error)
        raise WriteError(f"{path} cannot be written ({why}): free space or choose another location") from error
    finally:
        with suppress(OSError):  # already moved, or never written
            temporary.unlink()


def regular(path: Path) -> Path:
    """The path of a file, unless it is a pipe or a device: reading might never end, and writing would replace it.

    Raises:
        OSError: the path is a pipe or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path
