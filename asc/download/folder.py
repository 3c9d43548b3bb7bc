"""The files of a dataset, from the server to its folder.

The folder's `.download` holds what is under way: NAME.part (bytes so far), NAME (whole, to be checked and unpacked) and
NAME.done (unpacked: the MD5, then each file's bytes and path). Each step ends by renaming a file, so that the next run
goes on wherever this one stops.
"""

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from pooch import Pooch

from asc.download.catalog import Dataset, File
from asc.download.transfer import ResumingDownloader, TransferError, size_of
from asc.errors import InputError, WriteError
from asc.files import atomic_write

HASH_RETRIES = 2  # further downloads of a file with a wrong MD5
GROWTH = 1.25  # ratio of a folder's size to its archives': 1.17 for 24-bit stereo, 1.12 for mono
LAYOUT = ("audio", "evaluation_setup")  # folders of a dataset; any other top-level folder is the dataset's own
# exceptions of zipfile for damaged archives, and for an unknown compression (NotImplementedError) or a password
UNREADABLE = (BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)


@dataclass(frozen=True)
class Folder:
    """The folder of a complete or partial dataset."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / ".download"

    def prepare(self, dataset: Dataset) -> None:
        """Create the folder.

        Raises:
            InputError: it contains something else.
        """
        owner, origin = self.state / ".dataset", dataset.files[0].name  # the same for all extensions of a dataset
        if not self.state.exists() and any((self.root / name).exists() for name in ("meta.csv", "audio")):
            raise InputError(f"{self.root} contains data that were not downloaded here: choose another folder")
        if owner.exists() and owner.read_text() != origin:
            raise InputError(f"{self.root} contains another dataset: choose another folder")
        self.state.mkdir(parents=True, exist_ok=True)
        with atomic_write(owner) as temporary:
            temporary.write_text(origin)

    def arrived(self, file: File) -> int:
        """Bytes of a file that need not be downloaded."""
        archive = self.state / file.name
        return size_of(archive) or size_of(self.state / f"{file.name}.part")

    def holds(self, file: File) -> bool:
        """Whether the folder still contains everything from a file."""
        try:
            md5, *lines = (self.state / f"{file.name}.done").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return False
        contents = [line.partition("\t") for line in lines]
        return md5 == str(file.md5) and all(size_of(self.root / path) == int(size) for size, _, path in contents)

    def missing(self, files: Iterable[File]) -> list[File]:
        return [file for file in files if not self.holds(file)]

    def space_needed(self, missing: list[File], keep_zips: bool, parallel: int) -> int:
        """Bytes of disk that the missing files need until the last one is unpacked."""
        sizes = sorted((file.size or 0 for file in missing), reverse=True)
        archives = sum(sizes if keep_zips else sizes[:parallel])
        arrived = sum(self.arrived(file) for file in missing)
        return max(0, int(sum(sizes) * GROWTH) + archives - arrived)

    def space_free(self) -> int:
        """Free disk space in bytes."""
        there = next(path for path in (self.root.absolute(), *self.root.absolute().parents) if os.path.exists(path))
        return shutil.disk_usage(there).free

    def fetch(
        self, files: list[File], download: ResumingDownloader, parallel: int, keep_zips: bool
    ) -> Iterator[tuple[File, str | None]]:
        """Download, check and unpack the files, `parallel` at a time; yield each with the reason if it failed.

        Raises:
            OSError, WriteError: the disk is full or not writable.
        """
        for leftover in self.state.glob("tmp*"):  # pooch's temporary files, left by a killed process
            leftover.unlink()
        store = Pooch(
            path=self.state,
            base_url="",
            registry={file.name: file.md5 and f"md5:{file.md5}" for file in files},
            urls={file.name: file.url for file in files},
            retry_if_failed=HASH_RETRIES,
        )

        def get(file: File) -> tuple[File, str | None]:
            archive = self.state / file.name
            try:
                if not archive.exists():  # pooch's own first download would be lost if it were killed while it hashes
                    download(file.url, archive, store)
                store.fetch(file.name, downloader=download)  # compares the hash, and downloads a wrong file again
                self.install(file, archive, keep_zips)
            except WriteError:
                raise
            except (TransferError, ValueError) as error:
                return file, f"{file.name}: {error}"
            return file, None

        with ThreadPool(parallel) as pool:  # daemon threads: Ctrl-C does not wait for them
            yield from pool.imap_unordered(get, files)

    def install(self, file: File, archive: Path, keep_zips: bool) -> None:
        """Unpack a downloaded archive, or move another file to its place, and record the bytes of each new file."""
        if file.is_archive:
            sizes = unpack(archive, self.root)
            if not keep_zips:
                archive.unlink()  # before the record, or a run that is killed here would leave the archive for ever
        else:
            sizes = {f"{file.folder}/{file.name}": size_of(archive)}
            (self.root / file.folder).mkdir(parents=True, exist_ok=True)
            archive.replace(self.root / file.folder / file.name)
        lines = [str(file.md5), *(f"{size}\t{path}" for path, size in sizes.items())]
        with atomic_write(self.state / f"{file.name}.done") as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")


def unpack(path: Path, root: Path) -> dict[str, int]:
    """Write the files of an archive below `root`, each atomically, without the archive's top folder.

    Returns:
        The bytes of each file by its path below `root`.

    Raises:
        InputError: the archive is damaged, which deletes it, or a name in it leads out of `root`.
        WriteError: a file cannot be written.
    """
    try:
        with ZipFile(path) as archive:
            members = {target_path(member.filename): member for member in archive.infolist() if not member.is_dir()}
            for target, member in members.items():
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(root / target) as new, archive.open(member) as source, open(new, "wb") as file:
                    shutil.copyfileobj(source, file, length=1 << 20)
    except UNREADABLE as error:
        path.unlink()
        raise InputError(f"not a readable zip archive ({error}): run it again, or try --mirror") from error
    return {target: member.file_size for target, member in members.items()}


def target_path(name: str) -> str:
    r"""Path of an archive's member below the dataset's folder.

    >>> target_path("TAU-urban-acoustic-scenes-2019-development/audio/bus-lyon-1-2-a.wav")
    'audio/bus-lyon-1-2-a.wav'

    Raises:
        InputError: the path leads out of the folder, or to a hidden file.
    """
    first, *others = parts = PurePosixPath(name.replace("\\", "/")).parts
    if any(part.startswith((".", "/")) or ":" in part for part in parts):
        raise InputError(f"the archive is not safe to unpack, {name[:100]!r} leaves the folder: do not use this server")
    return "/".join(parts if first in LAYOUT or not others else others)
