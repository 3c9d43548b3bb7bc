"""Download a dataset's files over HTTP, verify them and unpack them into its folder.

The folder's `.download` holds NAME.part (bytes so far), NAME (whole, to be checked and unpacked) and NAME.done
(unpacked: the MD5, then each file's bytes and path). Renaming a file ends each step, so the next run resumes there.
"""

import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

import requests
from pooch import Pooch
from tqdm import tqdm

from asc.download.catalog import File
from asc.errors import InputError, WriteError, one_line, printable
from asc.files import atomic_write

PARALLEL = 4  # files downloaded at a time
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # status codes after which another attempt may succeed
FIRST_PAUSE, MAX_PAUSE = 1.0, 300  # seconds between attempts; each pause is twice the previous one
HASH_RETRIES = 2  # further downloads of a file with a wrong MD5
LAYOUT = ("audio", "evaluation_setup")  # folders of a dataset; any other top-level folder is the dataset's own


@dataclass
class ResumingDownloader:
    """A downloader for pooch. Partial downloads of FILE are kept in FILE.part, from which the next call resumes.

    Only the hash of the whole file, which pooch compares, verifies that the parts fit together: a file without a hash
    in pooch's registry is not resumed.

    Attributes:
        retries: further attempts that may fail in a row without receiving a mebibyte.
        timeout: seconds to wait for a silent server.
        progress: called with the number of bytes received, negative for discarded bytes.
    """

    retries: int = 8
    timeout: float = 60
    progress: Callable[[int], None] = lambda n_bytes: None

    def __call__(self, url: str, output_file: str | Path, pooch: Any = None) -> None:
        """Download `url` to `output_file`.

        Raises:
            InputError: the server does not have the file, or all attempts failed.
            OSError: the file cannot be written.
        """
        name = url.rpartition("/")[2]
        part = Path(output_file).with_name(f"{name}.part")
        resume = pooch is None or pooch.registry[name] is not None
        failures, longest = 0, size_of(part)
        while True:
            try:
                self.receive(url, part, resume)
                break
            except requests.RequestException as error:
                failures = 1 if size_of(part) >= longest + 2**20 else failures + 1
                longest = max(longest, size_of(part))
                if failures > self.retries or (
                    error.response is not None and error.response.status_code not in TRANSIENT
                ):
                    raise InputError(f"{url}: {one_line(error)}") from error
                pause = min(FIRST_PAUSE * 2 ** (failures - 1), MAX_PAUSE)
                why = f"{name}: {one_line(error)}; retry {failures} of {self.retries} in {pause:.1f} s"
                tqdm.write(printable(why), file=sys.stderr)
                time.sleep(pause)
        part.replace(output_file)

    def receive(self, url: str, part: Path, resume: bool) -> None:
        """Send one request, and append the body to `part`."""
        here = size_of(part) if resume else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == 416:  # the file is already complete
                return
            response.raise_for_status()
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise InputError(f"{url} returned a web page: log in to the network")
            if response.status_code != 206:  # the whole file: nothing to resume, or the server lacks ranges
                self.progress(-size_of(part))
                part.unlink(missing_ok=True)
            with open(part, "ab") as file:
                for data in response.iter_content(2**16):
                    file.write(data)
                    self.progress(len(data))


def fetch(root: Path, files: list[File], download: ResumingDownloader) -> Iterator[tuple[File, str | None]]:
    """Download, check and unpack files into a dataset's folder; yield each with the reason if it failed."""
    state = root / ".download"
    registry = {file.name: file.md5 and f"md5:{file.md5}" for file in files}
    store = Pooch(state, "", registry, {file.name: file.url for file in files}, retry_if_failed=HASH_RETRIES)

    def get(file: File) -> tuple[File, str | None]:
        archive = state / file.name
        try:
            if not archive.exists():  # pooch's own first download would be lost if it were killed while it hashes
                download(file.url, archive, store)
            store.fetch(file.name, downloader=download)  # compares the hash, and downloads a wrong file again
            install(file, archive, root)
        except WriteError:
            raise
        except ValueError as error:
            return file, f"{file.name}: {error}"
        return file, None

    with ThreadPool(PARALLEL) as pool:  # daemon threads: Ctrl-C does not wait for them
        yield from pool.imap_unordered(get, files)


def install(file: File, archive: Path, root: Path) -> None:
    """Unpack an archive without its top folder, or move another file; record the new files in NAME.done.

    Raises:
        InputError: the archive is damaged, which deletes it, or a name in it leads out of `root`.
        WriteError: a file cannot be written.
    """
    if file.name.endswith(".zip"):
        try:
            with ZipFile(archive) as contents:
                members = {target_path(item.filename): item for item in contents.infolist() if not item.is_dir()}
                for target, member in members.items():
                    (root / target).parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(root / target) as new, contents.open(member) as source, open(new, "wb") as output:
                        shutil.copyfileobj(source, output)
        except (BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: encrypted
            archive.unlink()
            raise InputError(f"not a readable zip archive ({error}): run it again") from error
        archive.unlink()  # before its record: a run killed in between would otherwise leave the archive for ever
        sizes = {target: member.file_size for target, member in members.items()}
    else:
        sizes = {f"{file.folder}/{file.name}": size_of(archive)}
        (root / file.folder).mkdir(parents=True, exist_ok=True)
        archive.replace(root / file.folder / file.name)
    with atomic_write(root / ".download" / f"{file.name}.done") as temporary:
        lines = [str(file.md5), *(f"{size}\t{path}" for path, size in sizes.items())]
        temporary.write_text("\n".join(lines), encoding="utf-8")


def target_path(name: str) -> str:
    """Path of an archive's member below the dataset's folder, without the archive's top folder.

    Raises:
        InputError: the path leads out of the folder, or to a hidden file.
    """
    first, *others = parts = PurePosixPath(name.replace("\\", "/")).parts
    if any(part.startswith((".", "/")) or ":" in part for part in parts):
        raise InputError(f"the archive is not safe to unpack, {name[:100]!r} leaves the folder: do not use this server")
    return "/".join(parts if first in LAYOUT or not others else others)


def is_complete(root: Path, file: File) -> bool:
    """Whether a dataset's folder contains everything from a file."""
    record = root / ".download" / f"{file.name}.done"
    md5, *lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else [""]
    contents = [line.partition("\t") for line in lines]
    return md5 == str(file.md5) and all(size_of(root / path) == int(size) for size, _, path in contents)


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it is missing."""
    return path.stat().st_size if path.is_file() else 0
