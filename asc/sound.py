"""Sound files without torch: open and check them, read them in pieces, resample, cut into windows.

`asc.data.audio` reads the clips of a dataset on top of this; here are the recordings of any length that a trained
classifier listens to.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from asc.errors import InputError, check_number

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz, of files: beyond, a header is wrong or a recording useless
LARGEST = 2.0**31  # of samples: integers of 32 bits that were written as floats
LARGEST_PERIOD = 2_000  # samples: see `rate_ratio`
ZEROS, ROLLOFF = 6, 0.99  # of the resampling filter: zero crossings a side, fraction of the Nyquist frequency
BLOCK_SECONDS = 10.0  # decoded at a time
MP3_FRAMES = 16 * 1152  # samples
# of the audio in WAV, AIFF and AU; of the file in W64 and RF64
CUT_OFF = r"(?:data|SSND|Data Size  |riff|Riff size) : (\d+) \(should be (\d+)\)"
SUFFIXES = frozenset(  # of the names of files that libsndfile reads
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
    + (".au", ".snd", ".caf", ".w64", ".rf64", ".voc", ".sph", ".nist")
)
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "VOC", "NIST")  # theirs


def open_sound(path: Path) -> soundfile.SoundFile:
    """Open a sound file.

    Raises:
        InputError: the file is missing, not audio, of a rare format, empty, cut off, or has an impossible header.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist or is not a file: check the path")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: check its permissions")
    try:
        # bytes, since a name need not be text; on Windows it is
        sound = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless file has no sample rate
        why = getattr(error, "error_string", "no header").rstrip(".")
        raise InputError(f"{path} is not a sound file ({why}): replace or remove it") from error
    if sound.format not in FORMATS:
        raise InputError(f"{path} is {sound.format}, a format that does not tell its length: convert it to WAV or FLAC")
    # libsndfile reads a truncated file without an error and reports it only in its log
    cut = re.search(CUT_OFF, sound.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < 0xFFFFFFFF:  # all ones: a stream of unknown length
        raise InputError(f"{path} is cut off: {cut[2]} of {cut[1]} bytes; replace or remove it")
    if re.search(r"Ogg ?: (Last page lacks|Junk after)", sound.extra_info):
        raise InputError(f"{path} is cut off: the last page of its Ogg stream is not whole; replace or remove it")
    promised = nist_samples(path) if sound.format == "NIST" else 0
    if sound.frames < promised or "Seems to be a truncated file" in sound.extra_info:  # the latter: VOC
        raise InputError(f"{path} is cut off: its header promises more samples; replace or remove it")
    if sound.frames > 2**48:
        raise InputError(f"{path} has no length in its header, as streams do: rewrite it with a complete header")
    if sound.frames == 0:
        raise InputError(f"{path} is empty (0 samples): replace or remove it")
    if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
        raise InputError(
            f"{path} has a sample rate of {sound.samplerate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}: resample it"
        )
    return sound


def nist_samples(path: Path) -> int:
    """Samples per channel by the header of a NIST SPHERE file, which libsndfile does not report; 0 if it has none."""
    with open(path, "rb") as file:
        count = re.search(rb"^sample_count -i (\d+)", file.read(1024), re.MULTILINE)
    return int(count[1]) if count else 0


def seek(sound: soundfile.SoundFile, sample: int, path: Path) -> None:
    """Move to this sample of the file, where reading continues.

    A frame of an MP3 needs up to nine frames before it, without which it is silent: they are decoded too.

    Raises:
        InputError: the file is damaged.
    """
    before = min(sample, MP3_FRAMES) if sound.format == "MP3" else 0
    try:
        sound.seek(sample - before)
        sound.read(before, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} is damaged ({error}): replace or remove it") from error


def duration(path: Path) -> float:
    """Seconds of a sound file.

    Raises:
        InputError: as in `open_sound`.
    """
    with open_sound(path) as sound:
        return sound.frames / sound.samplerate


def read_mono(sound: soundfile.SoundFile, samples: int, channel: int | str, path: Path) -> np.ndarray:
    """The next `samples` of one channel, float32 (samples,).

    Raises:
        InputError: the file is damaged or cut off, lacks the channel, or holds NaN or infinity.
    """
    wave = _one_channel(read_channels(sound, samples, path), channel, path)
    check_finite(wave, path)
    return wave


def read_channels(sound: soundfile.SoundFile, samples: int, path: Path) -> np.ndarray:
    """The next `samples` of all channels, float32 (samples, channels).

    Raises:
        InputError: the file is damaged or cut off.
    """
    try:
        decoded = sound.read(samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} is damaged ({error}): replace or remove it") from error
    if len(decoded) < samples:
        raise InputError(f"{path} is cut off: its header promises more samples; replace or remove it")
    return decoded


def check_finite(wave: np.ndarray, path: Path) -> None:
    """Refuse NaN, infinity, and numbers beyond all samples.

    Raises:
        InputError: names the file.
    """
    if not (wave.min() >= -LARGEST and wave.max() <= LARGEST):  # of NaN neither is true
        why = "beyond all samples" if np.isfinite(wave).all() else "not finite numbers (NaN or infinity)"
        raise InputError(f"{path} holds samples that are {why}: replace or remove it")


def _one_channel(samples: np.ndarray, channel: int | str, path: Path) -> np.ndarray:
    if samples.shape[1] == 1:
        return samples[:, 0]
    if channel == "mean":
        return samples.mean(axis=1)
    if not isinstance(channel, int) or not 0 <= channel < samples.shape[1]:
        last = samples.shape[1] - 1
        raise InputError(f"{path} has no channel {channel}: give 0 to {last}, or mean")
    return np.ascontiguousarray(samples[:, channel])


def rate_ratio(orig_rate: int, new_rate: int) -> Fraction:
    """`new_rate` / `orig_rate`, for which resampling repeats after at most LARGEST_PERIOD samples.

    Usual rates give it exactly. A rate like 44,101 Hz is taken as one within 0.05 %, less than a hundredth of a
    semitone: the exact filter would take gigabytes.
    """
    return Fraction(new_rate, orig_rate).limit_denominator(LARGEST_PERIOD)


@cache
def sinc_filters(orig: int, new: int) -> np.ndarray:
    """Windowed-sinc filters (new, width + orig + width), which turn `orig` samples and their surroundings into `new`.

    The formula is that of torchaudio's `Resample`: a sinc at 0.99 of the lower Nyquist frequency under a Hann window
    with six zero crossings on each side.
    """
    cutoff = ROLLOFF * min(orig, new)
    width = filter_width(orig, new)
    source = np.arange(-width, width + orig) / orig  # in periods of `orig` samples
    target = np.arange(new)[:, None] / new
    distance = (source - target) * cutoff  # in zero crossings
    window = np.cos(np.pi * distance / (2 * ZEROS)) ** 2 * (np.abs(distance) < ZEROS)
    return (np.sinc(distance) * window * cutoff / orig).astype(np.float32)


def filter_width(orig: int, new: int) -> int:
    """Samples at the original rate that a filter reaches on each side."""
    return math.ceil(ZEROS * orig / (ROLLOFF * min(orig, new)))


def resample(pieces: Iterator[np.ndarray], orig: int, new: int) -> Iterator[np.ndarray]:
    """Resample a waveform that comes in pieces; the output is the same however it is cut.

    In all, n samples become ceil(n * new / orig), as many as torchaudio's `Resample` returns.
    """
    if orig == new:
        yield from pieces
        return
    filters, width = sinc_filters(orig, new), filter_width(orig, new)
    rest, received, returned = np.zeros(width, np.float32), 0, 0
    for piece in pieces:
        received += len(piece)
        rest = np.concatenate([rest, piece])
        if (blocks := (len(rest) - 2 * width) // orig) > 0:
            yield _filtered(rest, filters, blocks, orig)
            returned += blocks * new
            rest = rest[blocks * orig :]
    missing = -(-received * new // orig) - returned
    rest = np.concatenate([rest, np.zeros(width + orig, np.float32)])
    if missing:
        yield _filtered(rest, filters, -(-missing // new), orig)[:missing]


def _filtered(wave: np.ndarray, filters: np.ndarray, blocks: int, orig: int) -> np.ndarray:
    """The output of the first `blocks` of `orig` samples: `wave` begins `width` samples before them."""
    surroundings = np.lib.stride_tricks.sliding_window_view(wave, filters.shape[1])[::orig][:blocks]
    return (surroundings @ filters.T).reshape(-1)


def fit_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """The first `samples` of wave (n,); a shorter waveform is repeated: zero padding would add a silent scene."""
    return np.tile(wave, -(-samples // len(wave)))[:samples]


def window_starts(total: int, samples: int, step: int) -> Sequence[int]:
    """First samples of the windows over `total` samples: every `step`, the last one aligned with the end."""
    last = max(total - samples, 0)
    return [*range(0, last, step), last]


def windows(
    path: Path, sample_rate: int, channel: int | str, samples: int, hop: float | None = None, shortest: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a file of any rate, channels and length, read in pieces so that memory does not grow with the length.

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
        ratio = rate_ratio(sound.samplerate, sample_rate)
        total = math.ceil(sound.frames * ratio)
        if total < shortest:
            raise InputError(f"{path} is shorter than one window: give {shortest / sample_rate:.3f} s")
        block = round(BLOCK_SECONDS * sound.samplerate)
        sizes = (min(block, sound.frames - start) for start in range(0, sound.frames, block))
        pieces = (read_mono(sound, size, channel, path) for size in sizes)
        stream = resample(pieces, ratio.denominator, ratio.numerator)
        buffer, first = np.empty(0, np.float32), 0  # samples read and not yet passed, and the first one's position
        step = max(1, round(hop * sample_rate)) if hop else samples
        for start in window_starts(total, samples, step):
            while True:
                passed = min(start - first, len(buffer))
                buffer, first = buffer[passed:], first + passed
                if first + len(buffer) >= min(start + samples, total):
                    break
                buffer = np.concatenate([buffer, next(stream)])
            yield start, fit_length(buffer[:samples], samples)
