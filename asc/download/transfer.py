"""Fetch a file over HTTP: resumed where it stopped, retried when the server or the network fails."""

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import aiohttp

from asc.errors import InputError, WriteError

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # status codes after which another attempt may succeed
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 300  # seconds between attempts; each pause is twice as long as the last
LARGEST_UNKNOWN = 100_000_000  # bytes of a file whose size is not known: no server may fill the disk
MEBIBYTE = 1 << 20


class TransferError(Exception):
    """This attempt failed, another may succeed."""

    pause: float | None = None  # seconds that the server asks to wait


@dataclass
class Transfer:
    """How to fetch files.

    Attributes:
        session: the HTTP client.
        retries: attempts in a row that may bring nothing new, after the first.
        progress: called with the bytes that arrived, or minus the bytes that were discarded.
        report: called with a sentence on each failed attempt.
    """

    session: aiohttp.ClientSession
    retries: int
    progress: Callable[[int], None]
    report: Callable[[str], None]

    async def fetch(self, url: str, path: Path, size: int | None, resume: bool) -> None:
        """Write the file at `url` to `path`, whole; until then its bytes are in `path` + ".part".

        Args:
            url: where it is.
            path: where it goes.
            size: bytes that it must have; None: not known.
            resume: go on after the bytes that an earlier attempt left. Only the whole file's checksum tells whether
                they belong together.

        Raises:
            InputError: the server does not have the file, or all attempts failed.
            WriteError: the file cannot be written.
        """
        part = path.with_name(path.name + ".part")
        failures, longest = 0, 0
        while True:
            try:
                await self.attempt(url, part, size, resume and size is not None)
                part.replace(path)
                return
            except TransferError as error:
                here = size_of(part)
                failures = 1 if here >= longest + MEBIBYTE else failures + 1  # no end of small progress
                longest = max(longest, here)
                if failures > self.retries:
                    raise InputError(
                        f"{url}: {error}; {failures} attempts failed: check the network, then run it again"
                    ) from None
                pause = error.pause if error.pause is not None else backoff(failures)
                self.report(f"{path.name}: {error}; retry {failures} of {self.retries} in {pause:.1f} s")
                await asyncio.sleep(pause)
            except OSError as error:
                raise WriteError(f"{part} cannot be written ({error.strerror}): free space, then run again") from error

    async def attempt(self, url: str, part: Path, size: int | None, resume: bool) -> None:
        """Send one request, and append what arrives to `part`."""
        here = size_of(part)
        if here and (not resume or here > (size or 0)):
            self.restart(part)
            here = 0
        if here and here == size:
            return
        with connection_errors(url):
            async with self.session.get(url, headers={"Range": f"bytes={here}-"} if here else {}) as response:
                if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self.restart(part)
                    raise TransferError(f"the server's file ends before byte {here:,}")
                check(response)
                if response.status == HTTPStatus.OK:  # to a server without ranges, or to a first request
                    self.restart(part)
                elif first_byte(response) != here:
                    self.restart(part)
                    raise TransferError("the server sent other bytes than asked for")
                await self.receive(response, part, size or LARGEST_UNKNOWN)
        if size is not None and size_of(part) != size:
            raise TransferError(f"{size_of(part):,} bytes arrived instead of {size:,}")

    async def receive(self, response: aiohttp.ClientResponse, part: Path, most: int) -> None:
        """Append the body to `part`, which may have `most` bytes."""
        with open(part, "ab", buffering=0) as file:
            here = file.tell()
            async for data in response.content.iter_any():
                here += len(data)
                if here > most:
                    self.restart(part)
                    raise TransferError(f"the server sent more than the {most:,} bytes expected")
                file.write(data)
                self.progress(len(data))

    def restart(self, part: Path) -> None:
        """Discard what has arrived."""
        self.progress(-size_of(part))
        part.unlink(missing_ok=True)


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Raise the HTTP client's errors as TransferError, or as InputError where no other attempt would succeed."""
    try:
        yield
    except TimeoutError:
        raise TransferError("the server stopped sending") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise InputError(
            f"{url}: the server's certificate is not trusted ({error.certificate_error}): "
            "install your system's certificates or set SSL_CERT_FILE"
        ) from None
    except aiohttp.InvalidURL:
        raise InputError(f"{url} is not a URL: check --mirror") from None
    except aiohttp.ClientConnectorError as error:
        raise TransferError(f"no connection to {error.host} ({error.os_error.strerror or 'unknown'})") from None
    except (aiohttp.ClientError, ssl.SSLError, ConnectionError) as error:
        raise TransferError(f"the connection broke ({type(error).__name__})") from None


def backoff(failures: int) -> float:
    """Seconds to wait after failures in a row, at random so that parallel downloads do not meet again."""
    return min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.5)


def check(response: aiohttp.ClientResponse) -> None:
    """Refuse a response that is not the file or the rest of it.

    Raises:
        TransferError: the server may answer otherwise in a while.
        InputError: it will not.
    """
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        if response.content_type == "text/html":
            raise InputError(f"{response.url} answers with a web page: log in to the network, or try --mirror")
        return
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    if status not in TRANSIENT:
        raise InputError(f"{response.url} answers {status} {phrase}: check the dataset's page, or try --mirror")
    error = TransferError(f"the server answers {status} {phrase}")
    error.pause = retry_after(response.headers.get("Retry-After"))
    raise error


def first_byte(response: aiohttp.ClientResponse) -> int:
    """The position in the file of the first byte of a partial body; -1 if the server does not tell."""
    unit, _, positions = response.headers.get("Content-Range", "").partition(" ")
    start = positions.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else -1


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which gives seconds or a date; None if it gives neither."""
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return min(float(text), LONGEST_PAUSE) if text.strip().isdecimal() else None
    seconds = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none or it is out of reach."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
