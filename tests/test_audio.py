"""Sound files to waveforms: decoded, resampled and cut as by soundfile and soxr at once."""

import math
import os
import struct
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import soxr
from tiny import encode

from asc import InputError
from asc.audio import duration, fit_length, read_wave, resample_stream, resampled_length, windows

RATE = 44100
RATES = [(16000, 16000), (48000, 44100), (24000, 44100), (22050, 16000), (8000, 44100), (44100, 48000), (44101, 44100)]


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (samples, channels)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE, **kind: str) -> Path:
    soundfile.write(path, wave, rate, **({"subtype": "FLOAT"} if path.suffix == ".wav" and not kind else kind))
    return path


def resampled(wave: np.ndarray, old: int, new: int) -> np.ndarray:
    """The whole waveform at once, by soxr."""
    return soxr.resample(wave, old, new, quality="HQ") if old != new else wave


# Decoding


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac"])
@pytest.mark.parametrize("bits", [16, 24])
def test_integer_samples_are_fractions_of_full_scale(tmp_path, name, bits):
    full = 2 ** (bits - 1)
    integers = np.random.default_rng(0).integers(-full, full, RATE, dtype=np.int32)
    integers[:2] = -full, full - 1
    write(tmp_path / name, integers << (32 - bits), subtype=f"PCM_{bits}")
    wave = read_wave(tmp_path / name, RATE)
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, (integers / full).astype(np.float32))  # 24 bits fit into float32


@pytest.mark.parametrize("name", ["clip.ogg", "clip.mp3"])
def test_compressed_files_decode_whole(tmp_path, name):
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    wave = read_wave(write(tmp_path / name, tone), RATE)
    assert len(wave) == RATE
    assert np.abs(wave - tone)[4410:-4410].max() < 0.05


def test_channels_are_picked_by_index_or_averaged(tmp_path):
    samples = noise(RATE, 2)
    stereo, mono = write(tmp_path / "stereo.wav", samples), write(tmp_path / "mono.wav", samples[:, 0])
    for channel in (0, 1):
        np.testing.assert_array_equal(read_wave(stereo, RATE, channel), samples[:, channel])
    np.testing.assert_allclose(read_wave(stereo, RATE, "mean"), samples.mean(1), atol=1e-7)
    for channel in (0, 1, "mean"):
        np.testing.assert_array_equal(read_wave(mono, RATE, channel), samples[:, 0])
    for channel in (2, -1, "left"):
        with pytest.raises(InputError, match=f"invalid channel={channel}"):
            read_wave(stereo, RATE, channel)


# Resampling


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_stream_is_resampled_as_the_whole_at_once(old, new):
    wave = noise(30011)[:, 0]
    pieces = list(resample_stream(np.split(wave, [1, 40, 7000, 7001, 20000]), old, new))
    expected = resampled(np.append(wave, np.zeros(100, np.float32)), old, new)
    np.testing.assert_allclose(np.concatenate(pieces), expected[: math.ceil(len(wave) * new / old)], atol=1e-6)


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize("samples", [1, 2, 3080, 4799, 4800, 4801])  # 3080 at 24 kHz are 5659.5 at 44.1 kHz
def test_resampling_rounds_the_length_up(old, new, samples):
    pieces = resample_stream(np.split(np.ones(samples, np.float32), 2 if samples % 2 == 0 else 1), old, new)
    assert sum(map(len, pieces)) == resampled_length(samples, old, new) == math.ceil(Fraction(samples * new, old))


def test_resampling_preserves_a_tone_and_removes_what_would_alias(tmp_path):
    time = np.arange(48000) / 48000
    low = write(tmp_path / "low.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 48000)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert np.abs(read_wave(low, RATE) - expected)[441:-441].max() < 1e-4  # the ends ring
    high = write(tmp_path / "high.wav", 0.5 * np.sin(2 * np.pi * 12000 * time), 48000)
    assert np.abs(read_wave(high, 16000)[160:-160]).max() < 1e-4  # would be 4 kHz


# Excerpts


@pytest.mark.parametrize(("old", "new"), RATES)
def test_an_excerpt_equals_that_of_the_whole(tmp_path, old, new):
    path = write(tmp_path / "clip.flac", noise(3 * old)[:, 0], old, subtype="PCM_24")
    whole = read_wave(path, new)
    for start in (0, 1, 441, 2 * new + 77, len(whole) - 1):
        for samples in (1, new // 2, None):
            expected = whole[start:] if samples is None else whole[start : start + samples]
            np.testing.assert_allclose(read_wave(path, new, samples=samples, start=start), expected, atol=1e-5)
    with pytest.raises(InputError, match="ends before 4 s"):
        read_wave(path, new, samples=10, start=4 * new)


@pytest.mark.parametrize("name", ["clip.ogg", "clip.mp3"])
def test_an_excerpt_of_a_compressed_file_equals_that_of_the_whole(tmp_path, name):
    """A frame of MP3 depends on frames before it."""
    path = write(tmp_path / name, noise(3 * RATE)[:, 0])
    whole = read_wave(path, RATE)
    for start in (1, 500, 2 * RATE + 333):
        excerpt = read_wave(path, RATE, samples=RATE // 2, start=start)
        np.testing.assert_allclose(excerpt, whole[start : start + RATE // 2], atol=1e-4)


@pytest.mark.parametrize(("new", "margin"), [(RATE, 0), (16000, 9000), (48000, 9000)])
def test_only_what_an_excerpt_needs_is_decoded(tmp_path, new, margin):
    """Decoding the rest would fail."""
    samples = noise(2 * RATE)
    samples[: 30000 - margin] = samples[35000 + margin :] = np.nan
    path = write(tmp_path / "clip.wav", samples)
    assert np.isfinite(read_wave(path, new, samples=1000, start=-(-30000 * new // RATE))).all()
    with pytest.raises(InputError, match="NaN"):
        read_wave(path, new, samples=1000, start=1000)


@pytest.mark.parametrize(("rate", "hop"), [(8000, None), (8000, 0.35), (8000, 2.5), (11025, 0.5), (48000, None)])
def test_windows_equal_those_of_the_whole_file(rate, hop, tmp_path):
    path = write(tmp_path / "long.wav", noise(int(23.4 * rate)), rate)
    whole, n = read_wave(path, 8000), 8000
    found = list(windows(path, 8000, 0, n, hop))
    step = round(hop * 8000) if hop else n
    assert [start for start, _ in found] == [*range(0, len(whole) - n, step), len(whole) - n]
    for start, wave in found:
        np.testing.assert_allclose(wave, whole[start : start + n], atol=1e-6)


def test_a_file_shorter_than_a_window_is_repeated(tmp_path):
    path = write(tmp_path / "short.wav", noise(3000), 8000)
    ((start, wave),) = windows(path, 8000, 0, 8000)
    assert start == 0
    np.testing.assert_array_equal(wave, np.tile(noise(3000)[:, 0], 3)[:8000])
    with pytest.raises(InputError, match=r"short\.wav is shorter than one window"):
        next(windows(path, 8000, 0, 8000, shortest=4000))
    assert fit_length(np.array([1.0, 2, 3]), 2).tolist() == [1, 2]


# Invalid files


def error_of(path: Path, function=lambda path: read_wave(path, RATE)) -> str:
    with pytest.raises(InputError) as caught:
        function(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("function", [duration, lambda path: read_wave(path, RATE)], ids=["duration", "read_wave"])
def test_a_file_without_sound_is_reported(tmp_path, function):
    bad = tmp_path / "bad.wav"
    assert "No such file" in error_of(bad, function)
    for content in (b"", b"This is text.\n" * 100, bytes(1000)):
        bad.write_bytes(content)
        assert "not a sound file" in error_of(bad, function)
    write(bad, np.zeros(0))
    assert "0 samples" in error_of(bad, function)
    write(bad, noise(100), 2_000_000_000)
    assert "2000000000" in error_of(bad, function)


SUFFIXES = ["wav", "aiff", "au", "caf", "flac", "ogg", "opus", "rf64", "w64"]


@pytest.mark.parametrize(("suffix", "share"), [*product(SUFFIXES, (0.5, 0.99)), ("mp3", 0.5)])
def test_a_truncated_file_is_reported(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write(path, noise(RATE, 2), 48000, **({"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}))
    assert abs(len(read_wave(path, 48000)) - RATE) < 1200  # MP3 pads its last frame
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    error_of(path)


def wav(path: Path, data: bytes, stated: int, riff: int | None = None, before: bytes = b"", after: bytes = b"") -> Path:
    """A mono 16-bit WAV whose header states these lengths."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", min(stated + 36, 2**32 - 1) if riff is None else riff, b"WAVE")
    path.write_bytes(head + form + before + struct.pack("<4sI", b"data", stated) + data + after)
    return path


FILLER = struct.pack("<4sI", b"FLLR", 4044) + bytes(4044)
LENGTH = 4 * RATE  # bytes of two seconds


@pytest.mark.parametrize(
    ("stated", "riff", "rest"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF, {}),  # ffmpeg into a pipe
        (0xFFFFFFFF - 36, 0xFFFFFFFF, {}),
        (0x7FFFF000, 0x7FFFF024, {}),  # sox
        (0x80000000, 0x80000024, {}),  # arecord
        (0x7FFFFFFF - 36, 0x7FFFFFFF, {}),
        (LENGTH + 44, LENGTH + 80, {}),  # a recorder that counts the header as data
        (LENGTH + 1, LENGTH + 37, {}),  # the last byte is missing
        (0, 0, {}),  # power failed
        (0, 36, {}),
        (0, 4088, {"before": FILLER}),  # the same on macOS
        (44, LENGTH + 36, {}),
        (LENGTH, None, {"after": b"\x01\x02\x03" * 171}),
        (LENGTH, None, {"after": struct.pack("<4sI", b"id3 ", 10**6) + bytes(10**6)}),  # a picture
    ],
)
def test_a_wav_reads_whole_whatever_length_its_header_states(tmp_path, stated, riff, rest):
    samples = np.random.default_rng(0).integers(-30000, 30000, 2 * RATE, np.int16)
    path = wav(tmp_path / "a.wav", samples.tobytes(), stated, riff, **rest)
    assert duration(path) == 2
    np.testing.assert_array_equal(read_wave(path, RATE), (samples / 2**15).astype(np.float32))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_an_unfinished_wav_that_begins_in_silence_reads_whole(tmp_path, subtype):
    samples = noise(2 * RATE)
    samples[:100] = 0
    path = write(tmp_path / "a.wav", samples, subtype=subtype)
    expected, finished = read_wave(path, RATE), path.read_bytes()
    unfinished = bytearray(finished)
    data = finished.index(b"data")
    unfinished[4:8] = unfinished[data + 4 : data + 8] = bytes(4)
    path.write_bytes(unfinished)
    np.testing.assert_array_equal(read_wave(path, RATE), expected)
    path.write_bytes(finished + bytes(10**6))  # a file that is filled up with zeros
    np.testing.assert_array_equal(read_wave(path, RATE), expected)


def test_a_wav_of_more_than_4_gib_reads_whole(tmp_path):
    """Its length does not fit into the header, which has all ones or the remainder; the file is sparse."""
    size = 5_000_000_000
    for stated in (size % 2**32, 0xFFFFFFFF):
        path = wav(tmp_path / "long.wav", b"", stated)
        with open(path, "r+b") as file:
            file.truncate(44 + size)
        assert duration(path) == size // 2 / RATE
        with open(path, "r+b") as file:
            file.seek(44 + size - 2 * RATE)
            file.write(np.arange(100, dtype="<i2").tobytes())
        np.testing.assert_array_equal(
            read_wave(path, RATE, 0, 100, size // 2 - RATE), np.arange(100) / np.float32(2**15)
        )


def test_a_flac_of_unknown_length_reads_whole(tmp_path):
    """As of a program that writes to a pipe and cannot return to fill in the length."""
    path = write(tmp_path / "stream.flac", noise(RATE, 2))
    expected = read_wave(path, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of length, 13.5 bytes into the first block, which begins at byte 8
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_wave(path, RATE), expected)


PHONE = {"a.m4a": {}, "a.mp4": {"codec": "aac"}, "a.3gp": {"codec": "aac"}, "a.aac": {}, "a.webm": {"codec": "libopus"}}
TONE = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(3 * 48000) / 48000, dtype=np.float32)[None]


@pytest.mark.parametrize("name", [*PHONE, "a.mp3", "a.mp2", "a.ac3"])
def test_phones_and_players_files_read_as_what_was_encoded(tmp_path, name):
    path = encode(tmp_path / name, TONE, 48000, **PHONE.get(name, {}))
    wave = read_wave(path, 48000)
    assert 0 <= len(wave) - TONE.size < 2500  # some formats keep the encoder's padding
    delay = int(np.argmax(np.abs(wave) > 0.25)) - int(np.argmax(TONE > 0.25))
    late = wave[delay:][4800:-4800]
    assert np.abs(late - TONE[0, 4800 : 4800 + len(late)])[: TONE.size - 9600].max() < 0.1
    path.rename(tmp_path / "named.wav")  # the content decides
    np.testing.assert_array_equal(read_wave(tmp_path / "named.wav", 48000), wave)


@pytest.mark.parametrize("parts", [["a.mp3"], ["a.mp3", "a.mp3"], ["zeros", "a.mp3"]])
@pytest.mark.parametrize("xing", ["0", "1"])
def test_an_mp3_is_as_long_as_its_decoded_sound(tmp_path, parts, xing):
    """Without the header of Xing, its length can only be guessed, from a bit rate that here changes in the middle."""
    rng = np.random.default_rng(0)
    loud_first = np.concatenate([0.5 * rng.standard_normal(10 * 44100), np.zeros(10 * 44100)])[None]
    path = encode(tmp_path / "a.mp3", loud_first, write_xing=xing)
    content = {"a.mp3": path.read_bytes(), "zeros": bytes(2000)}
    path.write_bytes(b"".join(content[part] for part in parts))
    assert duration(path) == pytest.approx(20 * parts.count("a.mp3"), abs=0.1)
    assert len(read_wave(path, 44100)) == round(44100 * duration(path))


@pytest.mark.parametrize("name", ["a.mp3", "a.webm"])
def test_an_excerpt_from_the_middle_of_a_long_file_is_in_place(tmp_path, name):
    """A chirp: each moment has its own frequency."""
    time = np.arange(40 * 48000) / 48000
    path = encode(
        tmp_path / name, 0.5 * np.sin(2 * np.pi * (100 + 50 * time) * time)[None], 48000, **PHONE.get(name, {})
    )
    whole = read_wave(path, 48000)
    for start in (0, 1000, 300_000, 1_800_000):
        part, expected = read_wave(path, 48000, 0, 4800, start), whole[start : start + 4800]
        shifts = [np.abs(part[24:-24] - expected[24 + shift : 4776 + shift]).max() for shift in range(-24, 25)]
        assert min(shifts) < 1e-3  # half a millisecond: WebM's time stamps are in milliseconds
        assert name != "a.mp3" or shifts[24] == 0


@pytest.mark.parametrize("codec", ["gsm", "mp3"])
def test_an_excerpt_of_a_voice_recorders_wav_equals_that_of_the_whole(tmp_path, codec):
    path = tmp_path / "a.wav"
    if codec == "gsm":
        write(path, TONE[0], 48000, subtype="GSM610")
    else:
        encode(path, TONE, 48000, "libmp3lame")
    whole = read_wave(path, 48000)
    assert len(whole) == pytest.approx(TONE.size, abs=2500)
    np.testing.assert_allclose(read_wave(path, 48000, 0, 4800, 100_000), whole[100_000:104_800], atol=1e-4)


def test_a_truncated_recording_of_a_phone_is_reported(tmp_path):
    for name in ("a.m4a", "a.webm"):
        path = encode(tmp_path / name, TONE, 48000, **PHONE.get(name, {}))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        error_of(path)


def test_a_codec_that_nothing_decodes_is_reported(tmp_path):
    content = bytearray(wav(tmp_path / "a.wav", bytes(LENGTH), LENGTH).read_bytes())
    content[20:22] = b"\x99\x99"  # the codec
    (tmp_path / "a.wav").write_bytes(content)
    assert "known codec" in error_of(tmp_path / "a.wav")


def test_what_is_no_sound_opens_no_other_file(tmp_path):
    """A playlist would name others, at any address."""
    encode(tmp_path / "a.mp3", TONE, 48000)
    for content in ("#EXTM3U\n#EXTINF:3,\na.mp3\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile a.mp3\n"):
        (tmp_path / "list.mp3").write_text(content)
        assert "not a sound file" in error_of(tmp_path / "list.mp3")
    picture = tmp_path / "picture.mp3"
    matplotlib.image.imsave(picture, np.zeros((8, 8)), format="png")
    assert "not a sound file" in error_of(picture)


def test_a_name_is_no_address(tmp_path):
    path = encode(tmp_path / "a.mp3", TONE, 48000)
    for name in ("14:26:11 #2 100%.mp3", "http:a.mp3", os.fsdecode(b"caf\xe9.mp3")):
        path = path.rename(tmp_path / name)
        assert duration(path) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_samples_that_are_no_sound_are_reported(tmp_path, value):
    samples = noise(RATE)
    samples[100] = value
    assert "NaN" in error_of(write(tmp_path / "bad.wav", samples))


def test_tau_clips_decode_as_soundfile_decodes_them(shared):
    lengths: Counter[int] = Counter()
    for path in sorted((shared / "tau24" / "audio").glob("*.wav")):
        wave = read_wave(path, 48000, 0)
        np.testing.assert_array_equal(wave, soundfile.read(path, dtype="float32")[0][:, 0])
        assert duration(path) == len(wave) / 48000
        lengths[len(wave)] += 1
    assert lengths == {480000: 4, 480001: 2, 479999: 2}  # shared/data/README.md
