"""The files of a dataset, from the server to its folder.

The folder's `.download` holds what is under way: NAME.part (bytes so far), NAME (whole, to be checked and unpacked) and
NAME.done (unpacked: the MD5, then each file's bytes and path). Each step ends by renaming a file, so that the next run
goes on wherever this one stops.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from asc.download.catalog import Dataset, File
from asc.download.transfer import Transfer, size_of
from asc.download.unpack import unpack
from asc.errors import InputError, WriteError
from asc.files import atomic_write

ATTEMPTS = 3  # at a file whose MD5 is wrong
GROWTH = 1.25  # bytes of a folder to those of its archives: 1.17 for 24-bit stereo, 1.12 for mono


@dataclass(frozen=True)
class Folder:
    """The folder of a dataset, whole or in part."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / ".download"

    def prepare(self, dataset: Dataset) -> None:
        """Make the folder.

        Raises:
            InputError: it holds something else.
            WriteError: it cannot be made.
        """
        owner, origin = self.state / ".dataset", dataset.files[0].name  # the same for all that extends a dataset
        try:
            if not self.state.exists() and any((self.root / name).exists() for name in ("meta.csv", "audio")):
                raise InputError(f"{self.root} holds data that were not downloaded here: choose another folder")
            if owner.exists() and owner.read_text() != origin:
                raise InputError(f"{self.root} holds another dataset: choose another folder")
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self.root} cannot be made a folder ({error.strerror}): choose another place") from None
        with atomic_write(owner) as temporary:
            temporary.write_text(origin)

    def archive(self, file: File) -> Path:
        return self.state / file.name

    def arrived(self, file: File) -> int:
        """Bytes of a file that need not be downloaded."""
        archive = self.archive(file)
        return size_of(archive) or size_of(archive.with_name(archive.name + ".part"))

    def holds(self, file: File) -> bool:
        """Whether all that was in a file is still there."""
        try:
            md5, *lines = self.done(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return False
        contents = [line.partition("\t") for line in lines]
        return md5 == str(file.md5) and all(size_of(self.root / path) == int(size) for size, _, path in contents)

    def mark(self, file: File, sizes: dict[str, int]) -> None:
        """Note that a file is unpacked into files of these sizes."""
        lines = [str(file.md5), *(f"{size}\t{path}" for path, size in sizes.items())]
        with atomic_write(self.done(file)) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")

    def done(self, file: File) -> Path:
        return self.state / f"{file.name}.done"

    def missing(self, files: Iterable[File]) -> list[File]:
        return [file for file in files if not self.holds(file)]

    def space_needed(self, missing: list[File], keep_zips: bool, parallel: int) -> int:
        """Bytes of disk that the missing files take until the last one is unpacked."""
        sizes = sorted((file.size or 0 for file in missing), reverse=True)
        archives = sum(sizes if keep_zips else sizes[:parallel])
        arrived = sum(self.arrived(file) for file in missing)
        return max(0, int(sum(sizes) * GROWTH) + archives - arrived)

    def space_free(self) -> int:
        """Bytes of disk that are free."""
        there = next(path for path in (self.root.absolute(), *self.root.absolute().parents) if os.path.exists(path))
        return shutil.disk_usage(there).free


async def download(
    folder: Folder,
    files: list[File],
    transfer: Transfer,
    parallel: int,
    keep_zips: bool,
    finished: Callable[[File], None],
) -> list[File]:
    """Download the files, check and unpack them, `parallel` at a time; return those that failed.

    Raises:
        WriteError: the disk is full or not writable.
    """
    free = asyncio.Semaphore(parallel)
    failed = []

    async def get(file: File) -> None:
        async with free:
            try:
                await get_file(folder, file, transfer, keep_zips)
            except WriteError:
                raise
            except InputError as error:
                transfer.report(str(error))
                failed.append(file)
            except OSError as error:  # such as of a folder; those of files are WriteErrors already
                why = f"{folder.root} cannot be written ({error.strerror})"
                raise WriteError(f"{why}: free space or choose another place") from None
            else:
                finished(file)

    try:
        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(get(file))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return failed


async def get_file(folder: Folder, file: File, transfer: Transfer, keep_zips: bool) -> None:
    """Download a file, check it, and put what it holds into the folder."""
    archive = folder.archive(file)
    await get_checked(archive, file, transfer)
    if not file.is_archive:
        target = folder.root / file.folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        archive.replace(target)
        folder.mark(file, {f"{file.folder}/{file.name}": size_of(target)})
        return
    try:
        sizes = await unpack(archive, folder.root)
    except WriteError:
        raise
    except InputError:
        archive.unlink()  # the next run starts afresh
        raise
    if not keep_zips:
        archive.unlink()  # before the mark, or a run that is killed here would leave the archive for ever
    folder.mark(file, sizes)


async def get_checked(archive: Path, file: File, transfer: Transfer) -> None:
    """Download a file until its MD5 is right.

    Raises:
        InputError: it is wrong ATTEMPTS times, or the download fails.
    """
    for _ in range(ATTEMPTS):
        if not archive.exists():
            await transfer.fetch(file.url, archive, file.size, resume=file.md5 is not None)
        found = await asyncio.to_thread(md5_of, archive)
        if file.md5 in (None, found):
            return
        transfer.progress(-size_of(archive))
        archive.unlink()
        transfer.report(f"{file.name}: wrong bytes arrived (MD5 {found}), downloading it again")
    raise InputError(
        f"{file.url}: its MD5 is not {file.md5}, {ATTEMPTS} times: the server sends another file; try later or --mirror"
    )


def md5_of(path: Path) -> str:
    """The MD5 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
