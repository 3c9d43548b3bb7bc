"""Recordings and streams through a classifier whose probabilities are known, and classifiers from ONNX files."""

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from classifiers import classifier, observed, prune_at_once, save
from command import ENVIRONMENT, run

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.export import export, export_frontend
from asc.inference import closing_pool, load_classifier, map_ahead, predict_file, predict_files, predict_stream

RATE, SAMPLES = 1000, 500


class Loudness:
    """A classifier whose first probability is the root mean square of the waveform."""

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


def rounded(windows) -> list[tuple[float, float, float]]:
    return [(window.start, window.end, round(float(window.probabilities[0]), 6)) for window in windows]


def test_each_window_has_its_own_probabilities(tmp_path):
    file = write(tmp_path / "a.wav", steps(0.1, 0.5, 0.9))
    expected = [(0, 0.5, 0.1), (0.5, 1, 0.5), (1, 1.5, 0.9)]
    assert rounded(predict_file(Loudness(), file)) == expected
    with closing_pool(3) as pool:
        assert rounded(predict_file(Loudness(), file, pool=pool, ahead=2)) == expected


def test_a_hop_gives_overlapping_windows_and_the_last_ends_with_the_file(tmp_path):
    file = write(tmp_path / "a.wav", steps(0, 1, 1)[:1200])
    half = round(math.sqrt(0.5), 6)
    assert rounded(predict_file(Loudness(), file, hop=0.25)) == [
        *((0, 0.5, 0), (0.25, 0.75, half), (0.5, 1, 1), (0.7, 1.2, 1))
    ]
    short = write(tmp_path / "short.wav", steps(0.3)[:123])
    assert rounded(predict_file(Loudness(), short)) == [(0, 0.123, 0.3)]


def test_probabilities_that_are_not_finite_are_reported(tmp_path):
    class Damaged(Loudness):
        def probabilities(self, waves):
            return np.full((len(waves), 2), np.nan, np.float32)

    with pytest.raises(InputError, match="finite"):
        list(predict_file(Damaged(), write(tmp_path / "a.wav", steps(0.5))))
    with pytest.raises(InputError, match="finite"):
        list(predict_stream(Loudness(), iter([steps(np.nan)]), RATE, hop=1))


@pytest.mark.parametrize("threads", [1, 8])
def test_many_files_are_classified_as_each_alone_in_their_order(threads, tmp_path):
    rng = np.random.default_rng(0)
    files = [
        write(tmp_path / f"{n}.wav", steps(*rng.uniform(0, 1, 1 + n % 4)), 1000 + 500 * (n % 2)) for n in range(20)
    ]
    files.insert(7, tmp_path / "missing.wav")
    found = list(predict_files(Loudness(), files, hop=0.2, threads=threads))
    assert [path for path, _ in found] == files
    for path, windows in found:
        if path.name == "missing.wav":
            assert isinstance(windows, InputError)
        else:
            assert rounded(windows) == rounded(predict_file(Loudness(), path, hop=0.2))


def test_progress_adds_up_to_one_for_each_file(tmp_path):
    files = [write(tmp_path / f"{n}.wav", steps(*[0.5] * (n + 1))[:-77]) for n in range(3)]
    fractions = dict.fromkeys(files, 0.0)

    def advance(path: Path, fraction: float) -> None:
        fractions[path] += fraction

    list(predict_files(Loudness(), files, threads=2, on_progress=advance))
    assert list(fractions.values()) == pytest.approx([1, 1, 1])


def test_ctrl_c_stops_all_threads_within_a_long_file(tmp_path):
    file = write(tmp_path / "long.wav", steps(*[0.5] * 1000))
    calls = []

    class Interrupted(Loudness):
        def probabilities(self, waves):
            calls.append(1)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().probabilities(waves)

    before, threads = signal.signal(signal.SIGINT, signal.default_int_handler), threading.active_count()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(predict_files(Interrupted(), [file], threads=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) < 500
    assert threading.active_count() == threads


def test_map_ahead_takes_no_more_inputs_than_ahead():
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


def test_a_stream_gives_the_windows_of_a_file(tmp_path):
    wave = steps(0.1, 0.5, 0.9)
    found = rounded(predict_stream(Loudness(), blocks(wave, 50), RATE, hop=0.25))
    assert found == rounded(predict_file(Loudness(), write(tmp_path / "a.wav", wave), hop=0.25))
    assert [end for _, end, _ in found] == [0.5, 0.75, 1.0, 1.25, 1.5]


def test_of_several_windows_that_are_due_only_the_newest_is_computed():
    pieces = iter([steps(0.1)[:400], steps(0.1, 0.2, 0.3), steps(0.4)[:250]])
    found = rounded(predict_stream(Loudness(), pieces, RATE, 0.2))
    assert [end for _, end, _ in found] == [1.9, 2.15]  # due at 0.5, 0.7 ... 1.9, then at 2.1


def test_a_stream_of_another_rate_is_resampled():
    tone = np.float32(0.5 * np.sin(2 * np.pi * 50 * np.arange(4 * 4410) / 4410))
    found = rounded(predict_stream(Loudness(), blocks(tone, 441), 4410, hop=1))
    assert [loudness for *_, loudness in found] == pytest.approx([0.5 / math.sqrt(2)] * len(found), abs=0.01)
    assert len(found) >= 3


# ONNX files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """model.onnx, frontend.onnx, whole.onnx and any.ckpt of one classifier."""
    folder = tmp_path_factory.mktemp("run")
    model = classifier()
    export(model, folder / "model.onnx")
    export_frontend(model, folder / "frontend.onnx")
    export(model, folder / "whole.onnx", with_frontend=True)
    save(model, folder / "any.ckpt")
    return folder


def waves(count: int = 16, samples: int = 4000) -> np.ndarray:
    levels = np.logspace(-3, -0.5, count)[:, None]
    return (levels * np.random.default_rng(0).standard_normal((count, samples))).astype(np.float32)


@pytest.mark.parametrize("name", ["model.onnx", "whole.onnx"])
def test_an_onnx_file_gives_the_probabilities_of_its_checkpoint(name, folder, tmp_path):
    ours, theirs = load_classifier(folder / "any.ckpt"), load_classifier(folder / name)
    assert isinstance(ours, SceneClassifier)
    for fact in ("labels", "sample_rate", "clip_samples", "min_samples", "channel"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    np.testing.assert_allclose(theirs.probabilities(waves()), ours.probabilities(waves()), atol=1e-4)
    soundfile.write(tmp_path / "long.wav", waves(1, 30_000)[0], 11_025, subtype="FLOAT")
    mean = np.mean([window.probabilities for window in predict_file(theirs, tmp_path / "long.wav", 0.3)], axis=0)
    assert list(ours.classify(tmp_path / "long.wav", 0.3).values()) == pytest.approx(mean.tolist(), abs=1e-4)


def test_an_8_bit_onnx_file_gives_the_probabilities_of_its_checkpoint(tmp_path):
    int8 = QAT().finish(observed(prune_at_once(classifier(channel="mean"), amount=0.5), QAT()))
    export(int8, tmp_path / "model.onnx")
    export_frontend(int8, tmp_path / "frontend.onnx")
    file = load_classifier(tmp_path / "model.onnx", threads=1)
    assert file.channel == "mean"
    assert np.abs(int8.probabilities(waves()) - file.probabilities(waves())).max() < 0.05


def test_features_need_the_frontend_of_the_same_run(folder, tmp_path):
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(InputError, match=r"frontend\.onnx is missing"):
        load_classifier(tmp_path / "model.onnx")
    export_frontend(classifier(frontend={"n_bins": 48}), tmp_path / "frontend.onnx")
    with pytest.raises(InputError, match="unlike its metadata"):
        load_classifier(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "changes",
    [{"labels": "not JSON"}, {"labels": '["a"]'}, {"sample_rate": "0"}, {"clip_samples": "9"}, {"channel": "-1"}],
)
def test_metadata_that_do_not_fit_are_reported(changes, folder, tmp_path):
    model = onnx.load(folder / "whole.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | changes)
    onnx.save(model, tmp_path / "whole.onnx")
    with pytest.raises(InputError, match=r"whole\.onnx has"):
        load_classifier(tmp_path / "whole.onnx")


def test_a_file_that_is_no_onnx_graph_is_reported(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("folder.onnx", "text.onnx", "missing.onnx"):
        with pytest.raises(InputError, match=f"{name} cannot be loaded by ONNX Runtime") as caught:
            load_classifier(tmp_path / name)
        assert caught.value.__cause__ is not None


def test_prediction_with_an_onnx_file_imports_neither_torch_nor_pandas(folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", waves(1)[0], 8000, subtype="FLOAT")
    program = (
        "import sys; sys.argv = ['predict', *sys.argv[1:]]; import asc.predict.__main__ as predict; predict.main();"
        "assert not {'torch', 'pandas', 'pydantic_settings'} & set(sys.modules)"
    )
    done = run(program, str(folder / "model.onnx"), str(tmp_path / "a.wav"), script="-c", env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
