"""Sound from the microphone, in pieces."""

import queue
from collections.abc import Generator
from typing import Any

import numpy as np

from asc.errors import InputError

PIECE = 0.1  # seconds


def microphone(channel: int | str) -> tuple[str, int, Generator[np.ndarray, None, None]]:
    """Name and rate in Hz of the default input, and its waveform in endless pieces (samples,), float32.

    Args:
        channel: index from 0, or "mean" for the mean of all channels. A device with one channel gives that.

    Raises:
        InputError: the extra, PortAudio or a device is missing, or the device has no such channel.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise InputError("--microphone needs the package sounddevice: pip install sounddevice") from error
    except OSError as error:  # sounddevice is there, the C library is not
        raise InputError("--microphone needs PortAudio: install it, on Debian as libportaudio2") from error
    try:
        device = sounddevice.query_devices(kind="input")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError("--microphone found no sound device that records: connect one, or give files") from error
    count, rate = int(device["max_input_channels"]), int(device["default_samplerate"])
    if count > 1 and channel != "mean" and int(channel) >= count:
        raise InputError(f"the microphone has no channel {channel}: give --channel 0 to {count - 1}, or mean")
    return str(device["name"]), rate, pieces(sounddevice, rate, count, channel)


def pieces(sounddevice: Any, rate: int, count: int, channel: int | str) -> Generator[np.ndarray, None, None]:
    """What the device records; all that came while the caller was busy is one piece.

    Raises:
        InputError: the device refuses to record, or stops.
    """
    recorded: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def keep(block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        mono = block.mean(axis=1) if channel == "mean" else block[:, 0 if count == 1 else int(channel)]
        recorded.put(mono.copy())

    try:
        with sounddevice.InputStream(rate, round(PIECE * rate), channels=count, dtype="float32", callback=keep):
            while True:
                blocks = [recorded.get(timeout=10)]
                while not recorded.empty():
                    blocks.append(recorded.get())
                yield np.concatenate(blocks)
    except (sounddevice.PortAudioError, queue.Empty) as error:
        why = " ".join(str(error).split()) or "no sound for 10 s"
        raise InputError(f"the microphone does not record ({why}): check that no other program holds it") from error
