"""Recordings and endless streams through a predictor whose answers are known."""

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asc import InputError
from asc.listen import closing_pool, listen, listen_live, listen_to_all, map_ahead

RATE, SAMPLES = 1000, 500


class Loudness:
    """Answers a waveform with its root mean square, and the rest to 1."""

    labels = ["loud", "quiet"]
    sample_rate, clip_samples, min_samples = RATE, SAMPLES, 10
    channel = 0

    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        assert waves.dtype == np.float32
        assert waves.shape[1] == SAMPLES
        rms = np.sqrt(np.square(waves).mean(1))
        return np.stack([rms, 1 - rms], 1)


def write(path: Path, wave: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def steps(*levels: float) -> np.ndarray:
    """Half a second of each level."""
    return np.repeat(np.float32(levels), SAMPLES)


def told(windows) -> list[tuple[float, float, float]]:
    return [(window.start, window.end, round(float(window.probabilities[0]), 6)) for window in windows]


def test_each_window_gets_its_own_answer(tmp_path):
    file = write(tmp_path / "a.wav", steps(0.1, 0.5, 0.9))
    expected = [(0, 0.5, 0.1), (0.5, 1, 0.5), (1, 1.5, 0.9)]
    assert told(listen(Loudness(), file)) == expected
    with closing_pool(3) as pool:
        assert told(listen(Loudness(), file, pool=pool, ahead=2)) == expected


def test_a_hop_gives_overlapping_windows_and_the_last_ends_with_the_file(tmp_path):
    file = write(tmp_path / "a.wav", steps(0, 1, 1)[:1200])
    heard = told(listen(Loudness(), file, hop=0.25))
    half = round(math.sqrt(0.5), 6)
    assert heard == [(0, 0.5, 0), (0.25, 0.75, half), (0.5, 1, 1), (0.7, 1.2, 1)]


def test_a_short_file_ends_where_it_ends(tmp_path):
    file = write(tmp_path / "a.wav", steps(0.3)[:123])
    assert told(listen(Loudness(), file)) == [(0, 0.123, 0.3)]


def test_silence_has_an_answer_and_what_is_no_sound_has_none(tmp_path):
    assert told(listen(Loudness(), write(tmp_path / "silence.wav", steps(0, 0)))) == [(0, 0.5, 0), (0.5, 1, 0)]
    with pytest.raises(InputError, match=r"one.wav is shorter than one window: give 0.010 s"):
        list(listen(Loudness(), write(tmp_path / "one.wav", steps(0.5)[:1])))
    for value, why in ((np.nan, "not finite numbers"), (np.inf, "not finite numbers"), (-1e30, "beyond all samples")):
        with pytest.raises(InputError, match=f"no.wav holds samples that are {why}"):
            list(listen(Loudness(), write(tmp_path / "no.wav", steps(0, value))))
    integers = write(tmp_path / "integers.wav", steps(2.0**31))
    assert told(listen(Loudness(), integers)) == [(0, 0.5, 2.0**31)]


def test_damaged_weights_are_told(tmp_path):
    class Damaged(Loudness):
        def probabilities(self, waves):
            return np.full((len(waves), 2), np.nan, np.float32)

    with pytest.raises(InputError, match=r"answers .*a.wav with NaN: its weights are damaged"):
        list(listen(Damaged(), write(tmp_path / "a.wav", steps(0.5))))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_many_files_are_heard_as_each_alone_in_their_order(threads, tmp_path):
    rng = np.random.default_rng(0)
    files = [
        write(tmp_path / f"{n}.wav", steps(*rng.uniform(0, 1, 1 + n % 4)), 1000 + 500 * (n % 2)) for n in range(20)
    ]
    files.insert(7, tmp_path / "missing.wav")
    answers = list(listen_to_all(Loudness(), files, hop=0.2, threads=threads))
    assert [path for path, _ in answers] == files
    for path, windows in answers:
        if path.name == "missing.wav":
            assert isinstance(windows, InputError)
            assert "missing.wav does not exist" in str(windows)
        else:
            assert told(windows) == told(listen(Loudness(), path, hop=0.2))


def test_progress_is_the_fraction_of_each_file(tmp_path):
    files = [write(tmp_path / f"{n}.wav", steps(*[0.5] * (n + 1))[:-77]) for n in range(3)]
    fractions = dict.fromkeys(files, 0.0)

    def advance(path: Path, fraction: float) -> None:
        fractions[path] += fraction

    list(listen_to_all(Loudness(), files, threads=2, on_progress=advance))
    assert list(fractions.values()) == pytest.approx([1, 1, 1])


def test_ctrl_c_stops_all_threads_amid_a_long_file(tmp_path):
    file = write(tmp_path / "long.wav", steps(*[0.5] * 1000))
    heard = []

    class Pressed(Loudness):
        def probabilities(self, waves):
            heard.append(1)
            if len(heard) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().probabilities(waves)

    before, threads = signal.signal(signal.SIGINT, signal.default_int_handler), threading.active_count()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(listen_to_all(Pressed(), [file], threads=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) < 500
    assert threading.active_count() == threads


def test_no_more_is_read_than_ahead():
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with closing_pool(4) as pool:
        for result in map_ahead(pool, lambda x: x * x, numbers(), ahead=3):
            assert len(taken) <= math.isqrt(result) + 3
    assert len(taken) == 20


def blocks(wave: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return iter(np.split(wave, range(size, len(wave), size)))


def test_a_stream_is_answered_every_hop_once_there_is_enough(tmp_path):
    wave = steps(0.1, 0.5, 0.9)
    heard = told(listen_live(Loudness(), blocks(wave, 50), RATE, hop=0.25))
    expected = told(listen(Loudness(), write(tmp_path / "a.wav", wave), hop=0.25))
    assert heard == expected
    assert [end for _, end, _ in heard] == [0.5, 0.75, 1.0, 1.25, 1.5]


def test_of_several_late_windows_only_the_newest_is_computed():
    heard = told(listen_live(Loudness(), iter([steps(0.1)[:400], steps(0.1, 0.2, 0.3), steps(0.4)[:250]]), RATE, 0.2))
    assert [end for _, end, _ in heard] == [1.9, 2.15]  # due at 0.5, 0.7 ... 1.9, then at 2.1


def test_a_stream_of_another_rate_is_resampled():
    time = np.arange(4 * 4410) / 4410
    tone = np.float32(0.5 * np.sin(2 * np.pi * 50 * time))
    heard = told(listen_live(Loudness(), blocks(tone, 441), 4410, hop=1))
    assert len(heard) == 4
    assert [loudness for *_, loudness in heard] == pytest.approx([0.5 / math.sqrt(2)] * 4, abs=0.01)


def test_a_stream_of_nan_is_told():
    with pytest.raises(InputError, match="the sound holds NaN"):
        list(listen_live(Loudness(), iter([steps(np.nan)]), RATE, hop=1))
