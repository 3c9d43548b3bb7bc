import math
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asc.data.audio import read_wave
from asc.errors import InputError
from asc.sound import duration, fit_length

RATE = 44100


@pytest.fixture
def samples() -> np.ndarray:
    """A second of stereo noise."""
    return np.random.default_rng(0).uniform(-0.9, 0.9, (RATE, 2)).astype("float32")


@pytest.fixture
def clip(tmp_path, samples) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


def tone(hertz: float, rate: int, samples: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


# What comes out


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac"])
@pytest.mark.parametrize("bits", [16, 24])
def test_integers_read_as_their_share_of_full_scale(tmp_path, name, bits):
    full = 2 ** (bits - 1)
    integers = np.random.default_rng(0).integers(-full, full, RATE, dtype=np.int32)
    integers[:2] = -full, full - 1
    soundfile.write(tmp_path / name, integers << (32 - bits), RATE, subtype=f"PCM_{bits}")  # from 32 bits, low bits 0
    wave = read_wave(tmp_path / name, RATE)
    assert wave.dtype == torch.float32
    assert torch.equal(wave, torch.from_numpy(integers / full).float())  # 24 bits fit into float32


def test_floats_read_as_they_are(clip, samples):
    assert torch.equal(read_wave(clip, RATE), torch.from_numpy(samples[:, 0]))


@pytest.mark.parametrize("name", ["clip.ogg", "clip.mp3"])
def test_compressed_sound_reads_whole(tmp_path, name):
    sound = tone(1000, RATE, RATE)
    soundfile.write(tmp_path / name, sound, RATE)
    wave = read_wave(tmp_path / name, RATE)
    assert len(wave) == RATE
    assert np.abs(wave.numpy() - sound)[4410:-4410].max() < 0.05


@pytest.mark.parametrize("channel", [0, 1])
def test_a_channel_is_chosen_by_its_index(clip, samples, channel):
    assert torch.equal(read_wave(clip, RATE, channel), torch.from_numpy(samples[:, channel]))


def test_the_mean_is_of_all_channels(clip, samples):
    left, right = torch.from_numpy(samples.T.copy())
    torch.testing.assert_close(read_wave(clip, RATE, "mean"), (left + right) / 2)


@pytest.mark.parametrize("channel", [0, 1, "mean"])
def test_a_mono_file_has_one_choice(tmp_path, samples, channel):
    soundfile.write(tmp_path / "mono.wav", samples[:, 0], RATE, subtype="FLOAT")
    assert torch.equal(read_wave(tmp_path / "mono.wav", RATE, channel), torch.from_numpy(samples[:, 0]))


@pytest.mark.parametrize("channel", [2, -1, "left"])
def test_a_channel_that_is_not_there_is_refused(clip, channel):
    with pytest.raises(InputError, match=f"clip.wav.*{channel}.*0 to 1"):
        read_wave(clip, RATE, channel)


def test_the_header_tells_the_duration(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(24000), 16000)
    assert duration(tmp_path / "clip.wav") == 1.5


# Resampling


def test_resampling_keeps_a_tone(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(1000, 48000, 48000), 48000, subtype="FLOAT")
    wave = read_wave(tmp_path / "tone.wav", 44100).numpy()
    # the same sine on the new grid: amplitude, frequency and instant; the ends ring
    assert np.abs(wave - tone(1000, 44100, 44100))[441:-441].max() < 1e-3


def test_resampling_takes_out_what_the_new_rate_cannot_hold(tmp_path):
    # 12 kHz at 16 kHz would come back as 4 kHz
    soundfile.write(tmp_path / "tone.wav", tone(12000, 48000, 48000), 48000, subtype="FLOAT")
    assert read_wave(tmp_path / "tone.wav", 16000)[160:-160].abs().max() < 0.005


@pytest.mark.parametrize("length", [47999, 48000, 48001])
def test_resampling_keeps_the_duration(tmp_path, length):
    soundfile.write(tmp_path / "clip.wav", np.zeros(length), 48000)
    assert len(read_wave(tmp_path / "clip.wav", 44100)) == math.ceil(length * 441 / 480)


# The first so many samples


@pytest.mark.parametrize(
    ("rate", "new"),
    [(16000, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (48000, 44100), (44100, 48000), (11025, 48000)],
)
def test_the_first_samples_are_those_of_the_whole(tmp_path, rate, new):
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).uniform(-0.9, 0.9, 2000), rate, subtype="FLOAT")
    whole = read_wave(tmp_path / "clip.wav", new)
    for samples in (1, 2, 3, 100, 160, 161, 441, len(whole) - 1, len(whole), len(whole) + 1, 10 * len(whole)):
        wave = read_wave(tmp_path / "clip.wav", new, samples=samples)
        torch.testing.assert_close(wave, whole[:samples], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("new", "sound"), [(RATE, 1000), (16000, 3300), (48000, 1200)])
def test_no_more_is_decoded_than_the_first_samples_need(tmp_path, samples, new, sound):
    """What comes after so much sound would be refused."""
    samples[sound:] = np.nan
    soundfile.write(tmp_path / "clip.wav", samples, RATE, subtype="FLOAT")
    wave = read_wave(tmp_path / "clip.wav", new, samples=1000)
    assert len(wave) == 1000
    assert "finite" in refusal(tmp_path / "clip.wav", lambda path: read_wave(path, new, samples=2000))


# Samples from within


@pytest.mark.parametrize(
    ("rate", "new"),
    [(16000, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (48000, 44100), (44100, 48000), (44101, 16000)],
)
def test_samples_from_within_are_those_of_the_whole(tmp_path, rate, new):
    soundfile.write(tmp_path / "clip.flac", np.random.default_rng(0).uniform(-0.9, 0.9, 6000), rate, subtype="PCM_24")
    whole = read_wave(tmp_path / "clip.flac", new)
    for start in (1, 7, 159, 160, 161, 441, 442, 1000, len(whole) - 1):
        for samples in (1, 100, 441, None):
            wave = read_wave(tmp_path / "clip.flac", new, samples=samples, start=start)
            expected = whole[start:] if samples is None else whole[start : start + samples]
            torch.testing.assert_close(wave, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["clip.ogg", "clip.mp3"])
def test_compressed_sound_is_found_within(tmp_path, name):
    """A frame of MP3 depends on some before it."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE)
    soundfile.write(tmp_path / name, tone(440, RATE, 3 * RATE) + noise, RATE)
    whole = read_wave(tmp_path / name, RATE)
    for start in (1, 500, RATE, 2 * RATE + 333):
        wave = read_wave(tmp_path / name, RATE, samples=RATE // 2, start=start)
        torch.testing.assert_close(wave, whole[start : start + RATE // 2], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("new", "margin"), [(RATE, 0), (16000, 1000), (48000, 500)])
def test_nothing_is_decoded_that_the_samples_do_not_need(tmp_path, samples, new, margin):
    samples[: 20000 - margin] = samples[30000:] = np.nan
    soundfile.write(tmp_path / "clip.wav", samples, RATE, subtype="FLOAT")
    start = math.ceil(20000 * new / RATE)
    assert read_wave(tmp_path / "clip.wav", new, samples=1000, start=start).isfinite().all()
    assert "finite" in refusal(tmp_path / "clip.wav", lambda path: read_wave(path, new, samples=1000, start=1000))


def test_a_recording_that_ends_before_is_refused(clip):
    assert "ends before 2 s" in refusal(clip, lambda path: read_wave(path, RATE, samples=10, start=2 * RATE))


# Bad files: one line that names the file


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def refusal(path: Path, function=lambda path: read_wave(path, RATE)) -> str:
    with pytest.raises(InputError) as refused:
        function(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("function", [duration, lambda path: read_wave(path, RATE)], ids=["duration", "read_wave"])
def test_what_is_no_sound_file_is_refused(tmp_path, function):
    bad = tmp_path / "bad.wav"
    assert "does not exist" in refusal(bad, function)
    bad.write_bytes(b"")
    assert "not a sound file" in refusal(bad, function)
    bad.write_text("This is text.\n" * 100)
    assert "not a sound file" in refusal(bad, function)
    soundfile.write(bad, np.zeros(0), RATE)
    assert "0 samples" in refusal(bad, function)


@pytest.mark.parametrize("function", [duration, lambda path: read_wave(path, RATE)], ids=["duration", "read_wave"])
@pytest.mark.parametrize("share", [0.5, 0.999])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_that_is_cut_off_is_refused(tmp_path, samples, subtype, share, function):
    soundfile.write(tmp_path / "cut.wav", samples, RATE, subtype=subtype)
    cut(tmp_path / "cut.wav", share)
    assert "cut off" in refusal(tmp_path / "cut.wav", function)


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("suffix", ["aiff", "au", "caf", "flac", "nist", "ogg", "opus", "rf64", "voc", "w64"])
def test_a_file_of_any_format_that_is_cut_off_is_refused(tmp_path, samples, suffix, share):
    path = tmp_path / f"a.{suffix}"
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(path, samples, 48000, **kind)
    assert len(read_wave(path, 48000)) == len(samples)
    cut(path, share)
    refusal(path)


@pytest.mark.parametrize("suffix", ["nist", "voc"])
def test_the_header_of_an_old_format_tells_that_it_is_cut_off(tmp_path, samples, suffix):
    """Otherwise what is left would pass for the whole."""
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    assert duration(path) == len(samples) / RATE
    cut(path, 0.999)
    assert "cut off" in refusal(path, duration)


@pytest.mark.parametrize("kind", ["AVR", "IRCAM", "MAT5", "PAF", "PVF", "SD2"])
def test_a_format_that_does_not_tell_where_its_end_is_is_refused(tmp_path, samples, kind):
    soundfile.write(tmp_path / "a", samples, RATE, format=kind, subtype="PCM_16")
    assert f"a is {kind}, a format" in refusal(tmp_path / "a", duration)


def test_a_wav_cut_within_its_header_is_refused(clip):
    clip.write_bytes(clip.read_bytes()[:20])
    refusal(clip)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("name", ["cut.flac", "cut.mp3"])
def test_compressed_sound_that_is_cut_off_is_refused(tmp_path, samples, name, share):
    soundfile.write(tmp_path / name, samples, RATE)
    cut(tmp_path / name, share)
    refusal(tmp_path / name)


def test_a_wav_recorded_as_a_stream_reads_whole(tmp_path, samples):
    """A program that writes to a pipe cannot return to fill in the length: it leaves all ones."""
    path = tmp_path / "stream.wav"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    expected = read_wave(path, RATE)
    data = bytearray(path.read_bytes())
    assert struct.unpack_from("<4sI", data, 36) == (b"data", RATE * 2 * 2)  # 2 channels of 2 bytes
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert torch.equal(read_wave(path, RATE), expected)


def test_a_flac_recorded_as_a_stream_is_refused(tmp_path, samples):
    path = tmp_path / "stream.flac"
    soundfile.write(path, samples, RATE)
    data = bytearray(path.read_bytes())
    # the first block begins after "fLaC" and its own 4 bytes; 13.5 bytes into it are 36 bits of length; 0: not known
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path, samples, value):
    samples[100] = value
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    assert "finite" in refusal(tmp_path / "bad.wav")


def test_a_headerless_file_is_refused(tmp_path):
    (tmp_path / "bad.raw").write_bytes(bytes(1000))
    refusal(tmp_path / "bad.raw")


# Length


def test_fit_length_repeats_and_cuts():
    wave = torch.tensor([1.0, 2.0, 3.0])
    assert fit_length(wave, 2).tolist() == [1, 2]
    assert fit_length(wave, 3).tolist() == [1, 2, 3]
    assert fit_length(wave, 7).tolist() == [1, 2, 3, 1, 2, 3, 1]


# Real clips


def test_tau_clips_read_as_soundfile_reads_them(shared):
    paths = sorted((shared / "tau24" / "audio").glob("*.wav"))
    lengths: Counter[int] = Counter()
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (48000, 2, "PCM_24")
        wave = read_wave(path, 48000, 0)
        assert torch.equal(wave, torch.from_numpy(soundfile.read(path, dtype="float32")[0][:, 0].copy()))
        assert duration(path) == len(wave) / 48000
        lengths[len(wave)] += 1
    # shared/data/README.md: two are one sample long and two one sample short
    assert lengths == {480000: 4, 480001: 2, 479999: 2}
