"""Where the sound comes from: files that the arguments name, standard input, or the microphone."""

import glob
import os
import queue
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asc.audio import SUFFIXES
from asc.errors import InputError, one_line

PIECE_SECONDS = 0.1  # of a piece from the microphone
MAX_SILENCE_SECONDS = 10.0  # without a piece
COMMON_RATES = (48_000, 44_100)  # Hz, tried if the device refuses its default


def find_sound_files(word: str) -> list[Path]:
    """The file, the sound files below the folder, or those that match the pattern, sorted by name.

    A folder is searched recursively, and a pattern may contain `**`; neither follows symbolic links to folders, which
    may lead back. Hidden files are left out.

    Raises:
        InputError: there are none.
    """
    path = Path(word)
    if path.is_dir():
        matches = [path]
    elif os.path.lexists(path) or not glob.has_magic(word):
        return [path]  # opening a missing file reports it
    else:
        try:
            matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        except (ValueError, OSError) as error:
            raise InputError(f"invalid pattern {word}: expected * and ? in names, or ** for any folders") from error
    visible = [match for match in matches if match == path or not match.name.startswith(".")]
    files = [file for match in visible for file in (sound_files_below(match) if match.is_dir() else [match])]
    if not files:
        raise InputError(
            f"{word} has no sound files, such as .wav or .m4a: check the folder, or the pattern and its case"
        )

    return files


def sound_files_below(folder: Path) -> list[Path]:
    """Visible files below the folder that have the suffix of a sound file."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        found += [path for path in visible if path.suffix.lower() in SUFFIXES]
    return found


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[Path]:
    """A temporary file with the content of a stream, in which a decoder can seek."""
    with tempfile.NamedTemporaryFile(prefix="asc-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        yield Path(file.name)


def microphone(channel: int | str) -> tuple[str, int, Generator[np.ndarray, None, None]]:
    """Name and rate in Hz of the default input, and its waveform in endless pieces (samples,), float32.

    Args:
        channel: index from 0, or "mean" for the mean of the first two; ignored for a device with one channel.

    Raises:
        InputError: sounddevice, PortAudio or a device is missing, or the device does not open or has no such
            channel. The pieces raise it if the device does not record, or stops.
    """
    try:
        import sounddevice

        device = sounddevice.query_devices(kind="input")
    except Exception as error:  # PortAudio's has no other base, and cannot be named before the import
        raise InputError(
            f"--microphone needs sounddevice, PortAudio and an input device: {one_line(error)}; connect one, "
            "pip install sounddevice, and on Debian apt install libportaudio2"
        ) from error
    channels = int(device["max_input_channels"])
    if channels > 1 and channel != "mean" and int(channel) >= channels:
        raise InputError(f"invalid --channel={channel}: expected 0 to {channels - 1}, or mean")
    blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def store(block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        mono = block.mean(axis=1) if channel == "mean" else block[:, min(int(channel), block.shape[1] - 1)]
        blocks.put(mono.copy())

    # ALSA's default device claims up to 128 channels that do not open
    used = min(channels, 2 if channel == "mean" else int(channel) + 1)
    reason = ""
    for rate in dict.fromkeys((int(device["default_samplerate"]), *COMMON_RATES)):
        try:
            size = round(PIECE_SECONDS * rate)
            stream = sounddevice.InputStream(rate, size, channels=used, dtype="float32", callback=store)
            break
        except sounddevice.PortAudioError as error:
            reason = reason or f"{one_line(error)} at {rate} Hz"
    else:
        raise InputError(f"the microphone does not open: {reason}; close other programs using it")

    def pieces() -> Generator[np.ndarray, None, None]:
        try:
            with stream:
                while True:
                    piece = [blocks.get(timeout=MAX_SILENCE_SECONDS)]
                    while not blocks.empty():  # recorded while the caller was busy
                        piece.append(blocks.get())
                    yield np.concatenate(piece)
        except (sounddevice.PortAudioError, queue.Empty) as error:
            reason = f"{one_line(error)}; close other programs using it"
            raise InputError(f"the microphone does not record: {reason}") from error

    return str(device["name"]), rate, pieces()
