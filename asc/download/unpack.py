"""Unpack a zip archive that may be hostile: nothing outside the folder, no links, no more bytes than plausible."""

import asyncio
import re
import shutil
import stat
import zlib
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from asc.errors import InputError
from asc.files import atomic_write

LAYOUT = ("audio", "evaluation_setup")  # the folders of a dataset: any other folder at the top is the dataset's own
EXPANSION = 4  # times that an archive's bytes may grow: 1.2 for TAU's recordings
SMALL = 100_000_000  # bytes to which any archive may grow: lists shrink to a tenth or less in an archive
BLOCK = 4096  # bytes that a file takes on disk at least
# what zipfile raises for damaged archives, and for a compression that it does not know (NotImplementedError)
UNREADABLE = (BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)
ENCRYPTED = 0x1  # flag bit of a member


async def unpack(path: Path, root: Path) -> dict[str, int]:
    """Write the files of an archive below `root`, each one whole, without the folder at the archive's top.

    All members are checked before the first is written.

    Returns:
        The bytes of each file by its path below `root`.

    Raises:
        InputError: the archive is damaged or not safe.
        WriteError: a file cannot be written.
        OSError: a folder cannot be made.
    """
    try:
        with ZipFile(path) as archive:
            members = checked_members(archive, path)
            for target, member in members.items():
                # in a thread, a file at a time: downloads go on meanwhile, and Ctrl-C waits for one file only
                await asyncio.to_thread(extract, archive, member, root / target)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a readable zip archive ({error}): run again to download it again") from None
    return {target: member.file_size for target, member in members.items()}


def checked_members(archive: ZipFile, path: Path) -> dict[str, ZipInfo]:
    """The files of an archive by their paths below the dataset's folder.

    Raises:
        InputError: a name leaves the folder or occurs twice, a member is a link or encrypted, or the files are too
            large for the archive.
    """
    members: dict[str, ZipInfo] = {}
    for member in archive.infolist():
        target = target_path(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        why = None
        if target is None:
            why = "leaves the dataset's folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is a link or a device"
        elif member.flag_bits & ENCRYPTED:
            why = "is encrypted"
        elif target in members:
            why = "occurs twice"
        if why:
            raise InputError(f"{path} is not safe to unpack: {member.filename[:100]!r} {why}; do not use this server")
        if target and not member.is_dir():
            members[target] = member
    total = sum(max(member.file_size, BLOCK) for member in members.values())
    if total > max(EXPANSION * path.stat().st_size, SMALL):
        raise InputError(f"{path} is not safe to unpack: it would grow to {total:,} bytes; do not use this server")
    return members


def target_path(name: str) -> str | None:
    r"""Where a member goes below the dataset's folder; "" for that folder itself, None where it must not go.

    >>> target_path("TAU-urban-acoustic-scenes-2019-development/audio/bus-lyon-1-2-a.wav")
    'audio/bus-lyon-1-2-a.wav'
    >>> [target_path(name) for name in ("TAU/../../evil", "/etc/passwd", "C:/evil", "TAU\\..\\evil", "TAU/.download/x")]
    [None, None, None, None, None]
    """
    parts = name.removesuffix("/").split("/")
    if any(part.startswith(".") or not part or len(part.encode()) > 200 for part in parts):  # hidden files as well
        return None
    if re.search(r"[\x00-\x1f\x7f-\x9f:\\]", name):
        return None
    is_top_folder = len(parts) > 1 or name.endswith("/")
    return str(PurePosixPath(*parts[1:] if is_top_folder and parts[0] not in LAYOUT else parts)).removeprefix(".")


def extract(archive: ZipFile, member: ZipInfo, target: Path) -> None:
    """Write a member to `target`, whole; zipfile reads no more than the member's size and checks its CRC."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary, archive.open(member) as source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, length=1 << 20)
