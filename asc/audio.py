"""Sound files to waveforms: decode, pick a channel, resample, cut into windows. One path for training and prediction.

libsndfile or FFmpeg decodes and soxr resamples, both in pieces: memory does not grow with the length of a file.
"""

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from math import gcd, nan
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from asc.errors import InputError, check_number, one_line
from asc.media import Media

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; outside this range the header is wrong or the recording useless
MAX_SAMPLE = 2.0**31  # some files store 32-bit integers as floats
BLOCK_SECONDS = 10.0  # length decoded at a time
WARM_UP = 0.1  # seconds before a clip, for soxr's filter; 0.05 s changes a sample by 1e-7
# how the files begin that libsndfile reads: FFmpeg reads the others, and MP3, whose length libsndfile guesses
LIBSNDFILE = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
# libsndfile reads a truncated file without an error; its log has the declared and the actual number of bytes
CUT_OFF = r"(?:data|SSND|Data Size  |riff|Riff size) : (\d+) \(should be (\d+)\)"
MALFORMED = 3  # libsndfile's error for a known format with an invalid header, such as that of a truncated CAF
MAX_MISSING = 1024  # bytes: some recorders count the header as data
# what programs declare that write to a pipe and cannot return: ffmpeg all ones, sox and arecord about 2 GiB
PLACEHOLDERS = tuple(range(end - 2**13, end + 1) for end in (2**31, 2**32))
# what libsndfile meets after the data: samples if the length is 0 or too small; zeros may also fill up a finished file
AFTER_DATA = r"(?:Unknown chunk marker \(\w+\)|data : 0\nHave 0 marker) at position (\d+)"
SUFFIXES = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
    + (".au", ".snd", ".caf", ".w64", ".rf64", ".mp2", ".aac", ".ac3", ".amr", ".wma", ".wv")
    + (".m4a", ".m4b", ".mp4", ".mov", ".qta", ".3gp", ".3g2", ".3ga", ".webm", ".mka", ".mkv")
)
Sound: TypeAlias = soundfile.SoundFile | Media


def open_sound(path: Path) -> Sound:
    """Open a sound file.

    Raises:
        InputError: the file is missing, empty, truncated, in an unsupported format, or its header is invalid.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
    if not start:
        raise InputError(f"{path} is not a sound file: it is empty; replace or remove it")
    sound = open_by_header(path) if start in LIBSNDFILE else Media(path)
    if sound.frames == 0:
        raise InputError(f"{path} is empty (0 samples); replace or remove it")
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise InputError(f"{path} has {sound.samplerate} samples a second: expected {MIN_RATE} to {MAX_RATE}")
    return sound


def open_by_header(path: Path) -> Sound:
    """Open a sound file with libsndfile, or with FFmpeg if libsndfile does not know its codec or length.

    Raises:
        InputError: the file is truncated, or neither reads it.
    """
    try:
        # bytes, since POSIX names need not be valid Unicode
        sound = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except soundfile.LibsndfileError as error:
        if error.code == MALFORMED:
            raise InputError(f"{path} is not a sound file: {error.error_string}; replace or remove it") from error
        return Media(path)
    log, size = sound.extra_info, path.stat().st_size
    cut = re.search(CUT_OFF, log)
    if cut and int(cut[2]) < int(cut[1]) - MAX_MISSING and not any(int(cut[1]) in near for near in PLACEHOLDERS):
        raise InputError(f"{path} is truncated: {cut[2]} of {cut[1]} bytes; replace or remove it")
    if re.search(r"Ogg ?: (Last page lacks|Junk after)", log):
        raise InputError(f"{path} is truncated within its last Ogg page; replace or remove it")
    if sound.frames > 2**48 or not sound.seekable() or sound.subtype.startswith("MPEG"):  # a FLAC stream, GSM, MP3
        return Media(path)
    unknown = re.search(AFTER_DATA, log)
    # the header of a WAV states 0 or little if it was never finished, and the length modulo 4 GiB if it is longer
    if sound.format in ("WAV", "WAVEX") and (size > 2**32 or (unknown and size > 2 * int(unknown[1]))):
        samples = FromByte(path, data_offset(path))
        return soundfile.SoundFile(samples, "r", sound.samplerate, sound.channels, sound.subtype, sound.endian, "RAW")
    return sound


class FromByte(FileIO):
    """The bytes of a file from an offset on."""

    def __init__(self, path: Path, offset: int):
        super().__init__(path)
        self.offset = offset
        self.seek(0)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(position + (self.offset if whence == os.SEEK_SET else 0), whence) - self.offset

    def tell(self) -> int:
        return super().tell() - self.offset


def data_offset(path: Path) -> int:
    """Position of the first sample in a WAV file."""
    with open(path, "rb") as file:
        file.seek(12)  # past RIFF, its length and WAVE
        while len(chunk := file.read(8)) == 8 and not chunk.startswith(b"data"):
            (size,) = struct.unpack("<I", chunk[4:])
            file.seek(size + size % 2, os.SEEK_CUR)
        return file.tell()


def duration(path: Path, whole: bool = False) -> float:
    """Duration of a sound file in seconds, from its header; `whole`: decode it all, which finds damage anywhere.

    Raises:
        InputError: as in `open_sound`, and for `whole` as in `decode`.
    """
    with open_sound(path) as sound:
        if whole:
            for _ in read_pieces(sound, sound.frames, "mean", path):
                pass
        return sound.frames / sound.samplerate


def durations(paths: Sequence[Path], whole: bool = False) -> list[float]:
    """Durations of all files in seconds, as in `duration`; NaN for those that cannot be read."""
    seconds = []
    for path in tqdm(paths, "reading" if whole else "headers", unit="file", leave=False, disable=None, delay=1):
        try:
            seconds.append(duration(path, whole))
        except InputError:
            seconds.append(nan)
    return seconds


def decode(sound: Sound, samples: int, path: Path) -> np.ndarray:
    """The next `samples` of all channels, float32 (samples, channels).

    Raises:
        InputError: the file is damaged or truncated, or has NaN, infinity or absurdly large samples.
    """
    try:
        wave = sound.read(samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be decoded: {one_line(error)} Replace or remove it") from error
    if len(wave) < samples - sound.samplerate // 1000:  # some formats have time stamps in whole milliseconds
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


def read_pieces(sound: Sound, samples: int, channel: int | str, path: Path) -> Iterator[np.ndarray]:
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
    """Waveform (samples,), float32 in [-1, 1], from a sound file (WAV, FLAC, MP3, M4A...).

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
        return read_excerpt(sound, path, sample_rate, channel, samples, start)


def read_excerpt(
    sound: Sound, path: Path, sample_rate: int, channel: int | str, samples: int | None, start: int
) -> np.ndarray:
    """As `read_wave`, from an open file."""
    rate = sound.samplerate
    warm_up = 0 if rate == sample_rate else round(WARM_UP * rate)
    first = max(0, start * rate // sample_rate - warm_up)
    first -= first % (rate // gcd(rate, sample_rate))  # where a resampled sample coincides with an original one
    end = sound.frames
    if samples is not None:
        end = min(end, -(-(start + samples) * rate // sample_rate) + warm_up)
    if first >= end:
        raise InputError(f"{path} ends before {start / sample_rate:g} s; it was longer when the clips were cut")
    seek(sound, first, path)
    wave = np.concatenate([*resample_stream(read_pieces(sound, end - first, channel, path), rate, sample_rate)])
    skipped = start - first * sample_rate // rate
    return wave[skipped : None if samples is None else skipped + samples]


def seek(sound: Sound, sample: int, path: Path) -> None:
    """Move to this sample of the file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        sound.seek(sample)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be decoded: {one_line(error)} Replace or remove it") from error


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
