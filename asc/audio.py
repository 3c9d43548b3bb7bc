"""Sound files to waveforms: decode, pick a channel, resample, cut into windows. One path for training and prediction.

soundfile (libsndfile) decodes and soxr resamples, both in pieces: memory does not grow with the length of a file.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from asc.errors import InputError, check_number, one_line

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; outside this range the header is wrong or the recording useless
MAX_SAMPLE = 2.0**31  # some files store 32-bit integers as floats
BLOCK_SECONDS = 10.0  # length decoded at a time
WARM_UP = 0.1  # seconds before a clip, for soxr's filter; 0.05 s changes a sample by 1e-7
MP3_WARM_UP = 16 * 1152  # samples: without up to nine preceding frames, a frame decodes to silence
# libsndfile reads a truncated file without an error; its log has the declared and the actual number of bytes
CUT_OFF = r"(?:data|SSND|Data Size  |riff|Riff size) : (\d+) \(should be (\d+)\)"
SUFFIXES = frozenset(  # suffixes of the files that libsndfile reads
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
    + (".au", ".snd", ".caf", ".w64", ".rf64")
)
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")  # truncation is detected


def open_sound(path: Path) -> soundfile.SoundFile:
    """Open a sound file.

    Raises:
        InputError: the file is missing, empty, truncated, in an unsupported format, or its header is invalid.
    """
    try:
        with open(path, "rb"):
            pass
        # bytes, since POSIX names need not be valid Unicode
        sound = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless file has no sample rate
        reason = getattr(error, "error_string", "no header").rstrip(".")
        raise InputError(f"{path} is not a sound file: {reason}; replace or remove it") from error
    if sound.format not in FORMATS:
        raise InputError(f"{path} has the format {sound.format}: expected {', '.join(FORMATS)}; convert it")
    cut = re.search(CUT_OFF, sound.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < 0xFFFFFFFF:  # all ones: a stream of unknown length
        raise InputError(f"{path} is truncated: {cut[2]} of {cut[1]} bytes; replace or remove it")
    if re.search(r"Ogg ?: (Last page lacks|Junk after)", sound.extra_info):
        raise InputError(f"{path} is truncated within its last Ogg page; replace or remove it")
    if sound.frames > 2**48:
        raise InputError(f"{path} has no length in its header, as streams do; rewrite it with a complete header")
    if sound.frames == 0:
        raise InputError(f"{path} is empty (0 samples); replace or remove it")
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise InputError(f"{path} has {sound.samplerate} samples a second: expected {MIN_RATE} to {MAX_RATE}")
    return sound


def duration(path: Path) -> float:
    """Duration of a sound file in seconds, from its header.

    Raises:
        InputError: as in `open_sound`.
    """
    with open_sound(path) as sound:
        return sound.frames / sound.samplerate


def durations(paths: Sequence[Path]) -> list[float]:
    """Durations of all files in seconds.

    Raises:
        InputError: names the first invalid file and counts the others.
    """
    seconds, faults = [], []
    for path in tqdm(paths, "headers", unit="file", leave=False, disable=None, delay=1):
        try:
            seconds.append(duration(path))
        except InputError as error:
            faults.append(error)
    if faults:
        others = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}") from faults[0]
    return seconds


def decode(sound: soundfile.SoundFile, samples: int, path: Path) -> np.ndarray:
    """The next `samples` of all channels, float32 (samples, channels).

    Raises:
        InputError: the file is damaged or truncated, or has NaN, infinity or absurdly large samples.
    """
    try:
        wave = sound.read(samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be decoded: {one_line(error)} Replace or remove it") from error
    if len(wave) < samples:
        raise InputError(f"{path} is truncated: its header declares more samples; replace or remove it")
    if not (wave.min() >= -MAX_SAMPLE and wave.max() <= MAX_SAMPLE):  # false for NaN too
        raise InputError(f"{path} has samples that are NaN, infinite or beyond 2^31; replace or remove it")
    return wave


def to_mono(wave: np.ndarray, channel: int | str, path: Path) -> np.ndarray:
    """One channel (samples,) of wave (samples, channels): an index from 0, or "mean"; ignored for mono files.

    Raises:
        InputError: the file lacks the channel.
    """
    if wave.shape[1] == 1:
        return wave[:, 0]
    if channel == "mean":
        return wave.mean(axis=1)
    if not isinstance(channel, int) or not 0 <= channel < wave.shape[1]:
        raise InputError(f"invalid channel={channel} for {path}: expected 0 to {wave.shape[1] - 1}, or mean")
    return np.ascontiguousarray(wave[:, channel])


def read_pieces(sound: soundfile.SoundFile, samples: int, channel: int | str, path: Path) -> Iterator[np.ndarray]:
    """The next `samples` of one channel in pieces (n,), float32."""
    block = round(BLOCK_SECONDS * sound.samplerate)
    for start in range(0, samples, block):
        yield to_mono(decode(sound, min(block, samples - start), path), channel, path)


def resample_stream(pieces: Iterable[np.ndarray], old_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample a waveform that comes in pieces (n,), float32; the output is the same however it is cut.

    The total length is that of `resampled_length`.
    """
    if old_rate == new_rate:
        yield from pieces
        return
    stream = soxr.ResampleStream(old_rate, new_rate, num_channels=1, dtype="float32", quality="HQ")
    received = returned = 0
    for piece in pieces:
        resampled = stream.resample_chunk(piece)
        received, returned = received + len(piece), returned + len(resampled)
        yield resampled
    # soxr's rounding of the length at halves depends on floating point: append zeros, then cut
    silence = np.zeros(-(-old_rate // new_rate), np.float32)
    yield stream.resample_chunk(silence, last=True)[: resampled_length(received, old_rate, new_rate) - returned]


def resampled_length(samples: int, old_rate: int, new_rate: int) -> int:
    """Number of samples after resampling, rounded up."""
    return -(-samples * new_rate // old_rate)


def read_wave(
    path: Path, sample_rate: int, channel: int | str = 0, samples: int | None = None, start: int = 0
) -> np.ndarray:
    """Waveform (samples,), float32 in [-1, 1], from a sound file (WAV, FLAC, OGG, MP3...).

    Args:
        path: the sound file.
        sample_rate: Hz to resample to.
        channel: index from 0, or "mean" for the mean of all channels; ignored for mono files.
        samples: number to return, after resampling; no more than needed is decoded. None: all.
        start: first sample to return, after resampling.

    Raises:
        InputError: the file is missing, damaged, empty or ends before `start`, lacks the channel, or has NaN or
            infinity.
    """
    with open_sound(path) as sound:
        rate = sound.samplerate
        warm_up = 0 if rate == sample_rate else round(WARM_UP * rate)
        first = max(0, start * rate // sample_rate - warm_up)
        first -= first % (rate // gcd(rate, sample_rate))  # where a resampled sample coincides with an original one
        end = sound.frames
        if samples is not None:
            end = min(end, -(-(start + samples) * rate // sample_rate) + warm_up)
        if first >= end:
            raise InputError(f"{path} ends before {start / sample_rate:g} s; it was longer when the clips were cut")
        if first:
            seek(sound, first, path)
        wave = np.concatenate([*resample_stream(read_pieces(sound, end - first, channel, path), rate, sample_rate)])
    skipped = start - first * sample_rate // rate
    return wave[skipped : None if samples is None else skipped + samples]


def seek(sound: soundfile.SoundFile, sample: int, path: Path) -> None:
    """Move to this sample of the file.

    Raises:
        InputError: the file is damaged.
    """
    warm_up = min(sample, MP3_WARM_UP) if sound.format == "MP3" else 0
    try:
        sound.seek(sample - warm_up)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be decoded: {one_line(error)} Replace or remove it") from error
    if warm_up:
        decode(sound, warm_up, path)


def fit_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """The first `samples` of wave (n,); a shorter waveform is repeated: zero padding would add a silent scene."""
    return np.tile(wave, -(-samples // len(wave)))[:samples]


def window_starts(total: int, samples: int, step: int) -> Sequence[int]:
    """Start samples of the windows over `total` samples: every `step`, the last one aligned with the end."""
    last = max(total - samples, 0)
    return [*range(0, last, step), last]


def windows(
    path: Path, sample_rate: int, channel: int | str, samples: int, hop: float | None = None, shortest: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a sound file of any rate, channels and length.

    Args:
        path: the sound file.
        sample_rate: Hz of the windows.
        channel: index from 0, or "mean" for the mean of all channels; ignored for mono files.
        samples: length of each window; a shorter file is repeated.
        hop: seconds from one window to the next; None: no overlap. The last window ends with the file.
        shortest: samples that a file must have.

    Yields:
        (start, wave): the window's first sample and its waveform (samples,), float32.

    Raises:
        InputError: the file is not readable or too short.
    """
    if hop is not None:
        check_number("hop", hop, float, 0.001)
    with open_sound(path) as sound:
        total = resampled_length(sound.frames, sound.samplerate, sample_rate)
        if total < shortest:
            raise InputError(f"{path} is shorter than one window: expected at least {shortest / sample_rate:.3f} s")
        pieces = read_pieces(sound, sound.frames, channel, path)
        stream = resample_stream(pieces, sound.samplerate, sample_rate)
        buffer, first = np.empty(0, np.float32), 0  # samples still needed, and the position of the first
        for start in window_starts(total, samples, max(1, round(hop * sample_rate)) if hop else samples):
            passed = start - first
            while len(buffer) < passed + samples and (piece := next(stream, None)) is not None:
                buffer = np.concatenate([buffer, piece])
            buffer, first = buffer[passed:], start
            yield start, fit_length(buffer[:samples], samples)
