"""Download a file over HTTP: resumed after interruptions, retried on server or network errors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from asc.errors import one_line

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # status codes after which another attempt may succeed
FIRST_PAUSE, MAX_PAUSE = 0.5, 300  # seconds between attempts; each pause is twice the previous one
MEBIBYTE = 1 << 20


class TransferError(Exception):
    """A file cannot be downloaded."""


@dataclass
class ResumingDownloader:
    """A downloader for pooch. Partial downloads of FILE are kept in FILE.part, from which the next call resumes.

    Only the hash of the whole file, which pooch compares, verifies that the parts fit together.

    Attributes:
        retries: further attempts that may fail in a row without receiving a mebibyte.
        timeout: seconds to wait for a silent server.
        progress: called with the number of bytes received, negative for discarded bytes.
        report: called with a sentence about each failed attempt.
    """

    retries: int = 8
    timeout: float = 60
    progress: Callable[[int], None] = lambda n_bytes: None
    report: Callable[[str], None] = print

    def __call__(self, url: str, output_file: str | Path, pooch: Any = None) -> None:
        """Download `url` to `output_file`; a file without a hash in pooch's registry is not resumed.

        Raises:
            TransferError: the server does not have the file, or all attempts failed.
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
                failures = 1 if size_of(part) >= longest + MEBIBYTE else failures + 1
                longest = max(longest, size_of(part))
                response = error.response
                if failures > self.retries or (response is not None and response.status_code not in TRANSIENT):
                    raise TransferError(f"{url}: {one_line(error)}") from error
                asked = "" if response is None else response.headers.get("Retry-After", "")  # seconds, or a date
                pause = min(int(asked) if asked.isdecimal() else FIRST_PAUSE * 2 ** (failures - 1), MAX_PAUSE)
                self.report(f"{name}: {one_line(error)}; retry {failures} of {self.retries} in {pause:.1f} s")
                time.sleep(pause)
        part.replace(output_file)

    def receive(self, url: str, part: Path, resume: bool) -> None:
        """Send one request, and append the body to `part`."""
        here = size_of(part) if resume else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # the file is already complete
            response.raise_for_status()
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise TransferError(f"{url} returned a web page: log in to the network, or try --mirror")
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:  # nothing to resume, or the server lacks ranges
                self.progress(-size_of(part))
                part.unlink(missing_ok=True)
            with open(part, "ab") as file:
                for data in response.iter_content(1 << 16):
                    file.write(data)
                    self.progress(len(data))


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it is missing or inaccessible."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
