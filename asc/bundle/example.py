"""The scene in recordings: python example.py clip.wav ... Needs onnxruntime, numpy and soundfile."""

import json
import os
import sys
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported

import numpy as np
import onnxruntime
import soundfile


class Classifier:
    """The model in a folder, on one thread: a recording of any rate, channels and length -> {label: probability}."""

    def __init__(self, folder):
        self.settings = json.loads((folder / "frontend.json").read_text("utf-8"))
        self.labels = (folder / "labels.txt").read_text("utf-8").splitlines()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        files = (str(folder / name) for name in ("frontend.onnx", "model.onnx"))
        self.sessions = [onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]) for file in files]

    def classify(self, path):  # a long recording: the mean of its windows
        names = ("sample_rate", "clip_samples", "min_samples", "channel")
        rows = [self.probabilities(wave[None]) for wave in windows(path, *map(self.settings.get, names))]
        return dict(zip(self.labels, np.mean(rows, axis=0).tolist(), strict=True))

    def probabilities(self, x):
        for session in self.sessions:  # wave -> features -> probabilities
            (x,) = session.run(None, {session.get_inputs()[0].name: x})
        return x[0]


def windows(path, rate, samples, shortest, channel):
    """Windows of one channel at `rate`; the last ends with the recording, and a shorter recording is repeated."""
    info = soundfile.info(path)
    new, orig = Fraction(rate, info.samplerate).limit_denominator(2000).as_integer_ratio()
    total = -(-info.frames * new // orig)  # samples at `rate`
    if total < shortest:
        raise ValueError(f"{path} is shorter than {shortest / rate:.3f} s")
    # resampling: `new` samples for each `orig` by a windowed sinc with 64 zeros a side
    times = 1 if orig == new else 1 + 500 // orig  # in longer steps, overlapping pieces need less memory
    orig, new = times * orig, times * new
    cutoff = (1 if orig == new else 0.956) * min(orig, new)  # in the middle of the transition of soxr, as in training
    width = 0 if orig == new else int(64 * orig / cutoff) + 1
    zeros = (np.arange(-width, width + orig) / orig - np.arange(new)[:, None] / new) * cutoff
    filters = np.sinc(zeros) * np.cos(np.pi * zeros / 128) ** 2 * (np.abs(zeros) < 64) * cutoff / orig
    filters = filters.T.astype(np.float32)
    for start in (*range(0, total - samples, samples), max(total - samples, 0)):
        first, count = start // new * orig - width, -(-(start % new + samples) // new) * orig + 2 * width
        wave, _ = soundfile.read(path, count + min(first, 0), max(first, 0), None, "float32", True, 0)  # zeros beyond
        wave = wave.mean(axis=1) if channel == "mean" else wave[:, channel if wave.shape[1] > 1 else 0]
        pieces = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (max(-first, 0), 0)), 2 * width + orig)[::orig]
        yield np.resize((pieces @ filters).ravel()[start % new :][: min(samples, total)], samples)


if __name__ == "__main__":
    sys.tracebacklimit = 0  # an error is one line
    if len(sys.argv) < 2:
        sys.exit("usage: python example.py RECORDING... (WAV, FLAC, Ogg or MP3)")
    classifier = Classifier(Path(__file__).parent)
    for name in sys.argv[1:]:
        print(name, *(f"{label} {value:.3f}" for label, value in classifier.classify(name).items()), sep="  ")
