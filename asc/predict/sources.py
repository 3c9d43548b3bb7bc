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
from asc.errors import InputError, WriteError, one_line

PIECE_SECONDS = 0.1  # of a piece from the microphone
MAX_SILENCE_SECONDS = 10.0  # without a piece


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
        raise InputError(f"{word} has no sound files, such as .wav or .flac: check the folder or the pattern")
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
    """A temporary file with the content of a stream, in which libsndfile can seek.

    Raises:
        WriteError: there is not enough space.
    """
    with tempfile.NamedTemporaryFile(prefix="asc-") as file:
        try:
            shutil.copyfileobj(stream, file)
            file.flush()
        except OSError as error:
            raise WriteError(
                f"standard input cannot be stored in {file.name}: {error.strerror}; set TMPDIR to a larger folder"
            ) from error
        yield Path(file.name)


def microphone(channel: int | str) -> tuple[str, int, Generator[np.ndarray, None, None]]:
    """Name and rate in Hz of the default input, and its waveform in endless pieces (samples,), float32.

    Args:
        channel: index from 0, or "mean" for the mean of all channels; ignored for a device with one channel.

    Raises:
        InputError: sounddevice, PortAudio or a device is missing, or the device has no such channel.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the C library is missing
        raise InputError(
            f"--microphone needs sounddevice and PortAudio: {one_line(error)}; pip install sounddevice, "
            "and on Debian apt install libportaudio2"
        ) from error
    try:
        device = sounddevice.query_devices(kind="input")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(f"--microphone has no input device: {one_line(error)}; connect one, or give files") from error
    channels, rate = int(device["max_input_channels"]), int(device["default_samplerate"])
    if channels > 1 and channel != "mean" and int(channel) >= channels:
        raise InputError(f"invalid --channel={channel}: expected 0 to {channels - 1}, or mean")
    return str(device["name"]), rate, recorded(sounddevice, rate, channels, channel)


def recorded(sounddevice: Any, rate: int, channels: int, channel: int | str) -> Generator[np.ndarray, None, None]:
    """Pieces (samples,) from the device; all that it recorded while the caller was busy is one piece.

    Raises:
        InputError: the device does not record, or stops.
    """
    blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def store(block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        mono = block.mean(axis=1) if channel == "mean" else block[:, 0 if channels == 1 else int(channel)]
        blocks.put(mono.copy())

    size = round(PIECE_SECONDS * rate)
    try:
        with sounddevice.InputStream(rate, size, channels=channels, dtype="float32", callback=store):
            while True:
                piece = [blocks.get(timeout=MAX_SILENCE_SECONDS)]
                while not blocks.empty():
                    piece.append(blocks.get())
                yield np.concatenate(piece)
    except (sounddevice.PortAudioError, queue.Empty) as error:
        raise InputError(f"the microphone does not record: {one_line(error)}; close other programs using it") from error
