"""python -m asc.predict: the files it finds, its output, and its errors."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import soundfile
from classifiers import classifier, save
from command import ENVIRONMENT, REPOSITORY, start

from asc import InputError, SceneClassifier
from asc.export import export
from asc.inference import Window
from asc.predict.__main__ import main
from asc.predict.output import clock, edges, plot_timeline, print_windows, segments
from asc.predict.sources import find_sound_files, microphone

RATE = 8000  # of the classifier, whose clips are half a second


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with model.onnx, which takes a waveform, and any.ckpt of one classifier."""
    folder = tmp_path_factory.mktemp("run")
    model = classifier()
    export(model, folder / "model.onnx", with_frontend=True)
    save(model, folder / "any.ckpt")
    return folder


@pytest.fixture
def model(run):
    return SceneClassifier.load_from_checkpoint(run / "any.ckpt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with recordings of 0.5, 2 and 0.3 s."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "sounds/deep").mkdir(parents=True)
    for name, seconds, channels in (("a.wav", 0.5, 1), ("deep/b.flac", 2, 2), ("deep/c.ogg", 0.3, 1)):
        wave = 0.1 * rng.standard_normal((round(seconds * RATE), channels)) * np.linspace(0, 1, channels + 1)[1:]
        soundfile.write(tmp_path / "sounds" / name, wave, RATE)
    return tmp_path


def predict(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    status = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    out, err = capsys.readouterr()
    return status, out, err


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("name", ["model.onnx", "any.ckpt"])
def test_json_has_the_probabilities_of_classify(name, run, model, folder, capsys):
    status, out, err = predict(capsys, run / name, "sounds", "--json")
    assert status == 0
    assert "3 files, 0:02.8 of sound" in err
    assert [record["file"] for record in records(out)] == ["sounds/a.wav", "sounds/deep/b.flac", "sounds/deep/c.ogg"]
    for record in records(out):
        expected = model.classify(record["file"])
        assert record["probabilities"] == pytest.approx(expected, abs=1e-4)
        assert record["label"] == max(expected, key=expected.get)
    assert [record["seconds"] for record in records(out)] == [0.5, 2.0, 0.3]
    assert ["timeline" in record for record in records(out)] == [False, True, False]
    assert [part["start"] for part in records(out)[1]["timeline"]] == [0, 0.5, 1, 1.5]


def test_csv_has_a_row_for_each_window(run, folder, capsys):
    status, out, _ = predict(capsys, run / "model.onnx", "sounds/deep/b.flac", "--hop", "0.25", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert list(rows[0]) == ["file", "start", "end", "label", "indoor", "outdoor", "transportation"]
    assert [(row["start"], row["end"]) for row in rows[:2]] == [("0.000", "0.500"), ("0.250", "0.750")]
    assert len(rows) == 7
    for row in rows:
        values = {label: float(row[label]) for label in ("indoor", "outdoor", "transportation")}
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(values, key=values.get)


def test_channel_replaces_that_of_training(run, model, folder, capsys):
    predictions = {}
    for channel in (0, 1, "mean"):
        _, out, _ = predict(capsys, run / "model.onnx", "sounds/deep/b.flac", "--json", "--channel", channel)
        model.channel = channel
        predictions[channel] = records(out)[0]["probabilities"]
        assert predictions[channel] == pytest.approx(model.classify("sounds/deep/b.flac"), abs=1e-4)
    assert predictions[0] != predictions[1] != predictions["mean"]


def test_unreadable_files_are_reported_and_the_others_classified(run, folder, capsys):
    (folder / "text.wav").write_text("hello")
    (folder / "empty").mkdir()
    soundfile.write("one.wav", [0.5], RATE)
    soundfile.write("nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    bad = ["text.wav", "gone.wav", "one.wav", "nan.wav", "empty", "no*.wav"]
    status, out, err = predict(
        capsys, run / "model.onnx", *bad, "sounds/a.wav", "./sounds//a.wav", "sounds/*.wav", "--json"
    )
    assert status == 1
    assert [record["file"] for record in records(out)] == ["sounds/a.wav"]
    assert len(err.splitlines()) == len(bad)
    for name in bad:
        assert f"error: {name}" in err
    for form in ([], ["--csv"]):
        assert predict(capsys, run / "model.onnx", *bad, *form)[:2] == (1, "")


def test_control_characters_are_escaped(run, folder, capsys):
    evil = "evil\x1b]0;title\x07\nname\u202e.wav"
    os.rename("sounds/a.wav", evil)
    os.rename("sounds/deep/c.ogg", b"sounds/\xff.ogg")
    (folder / "bad\x1b[31m.wav").touch()
    status, out, err = predict(capsys, run / "model.onnx", ".")
    assert status == 1
    assert r"evil\x1b]0;title\x07\nname\u202e.wav" in out
    assert r"sounds/\udcff.ogg" in out
    assert r"bad\x1b[31m.wav is not a sound file" in err
    assert not any(c in out + err for c in "\x1b\x07\u202e")
    _, out, _ = predict(capsys, run / "model.onnx", ".", "--json")
    assert {record["file"] for record in records(out)} == {evil, "sounds/\udcff.ogg", "sounds/deep/b.flac"}
    print_windows("table", ["a\x1b[31m", "b"], None, windows((0, 1, 0.9)))
    assert r"\x1b[31m" in capsys.readouterr().out


def test_names_that_begin_with_a_dash(run, folder, capsys):
    os.rename("sounds/a.wav", "-a.wav")
    for words in (["--json", "--", "-a.wav"], ["./-a.wav", "--json"]):
        status, out, _ = predict(capsys, run / "model.onnx", *words)
        assert (status, records(out)[0]["file"]) == (0, "-a.wav")


def test_folders_and_patterns_are_searched_without_cycles(folder):
    os.symlink("..", "sounds/deep/up")
    os.symlink("self.wav", "sounds/self.wav")
    os.symlink("sounds", "link")
    for name in ("sounds/._a.wav", "sounds/notes.txt", "sounds/D.WAV", "sounds/[x].wav"):
        (folder / name).touch()
    everything = ["D.WAV", "[x].wav", "a.wav", "self.wav", "deep/b.flac", "deep/c.ogg"]
    assert [str(path) for path in find_sound_files("sounds")] == [f"sounds/{name}" for name in everything]
    assert [str(path) for path in find_sound_files("link")] == [f"link/{name}" for name in everything]
    assert [path.name for path in find_sound_files("sounds/**/*.[fo]*[cg]")] == ["b.flac", "c.ogg"]
    assert [path.name for path in find_sound_files(f"{folder}/s*/?.wav")] == ["a.wav"]
    assert [path.name for path in find_sound_files("sounds/[x].wav")] == ["[x].wav"]
    assert [str(path) for path in find_sound_files("soun*/deep")] == ["sounds/deep/b.flac", "sounds/deep/c.ogg"]
    assert [str(path) for path in find_sound_files("sounds/deep/../*.WAV")] == ["sounds/deep/../D.WAV"]
    for word in ("sounds/**b", "a\0*"):
        with pytest.raises(InputError, match="pattern"):
            find_sound_files(word)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sounds", "--hop", "0"], "--hop=0"),
        (["sounds", "--hop", "nan"], "--hop=nan"),
        (["sounds", "--threads", "0"], "--threads=0"),
        (["sounds", "--channel=left"], "--channel=left"),
        (["sounds", "--channel=-1"], "--channel=-1"),
        (["sounds/deep/b.flac", "--channel=2"], "channel=2"),
        (["sounds", "--picture", "x.png"], "--picture=x.png"),
        (["sounds/a.wav", "--picture", "x.mp4"], "--picture=x.mp4"),
        (["sounds/a.wav", "--picture", "gone/x.png"], "--picture=gone/x.png"),
        ([], "--microphone"),
        (["sounds", "--microphone"], "--microphone"),
        (["--microphone", "--picture", "x.png"], "--picture"),
    ],
)
def test_invalid_options_are_reported_in_one_sentence(words, named, run, folder, capsys):
    status, out, err = predict(capsys, run / "model.onnx", *words)
    assert status in (1, 2)
    assert not [line for line in out.splitlines() if "sounds" in line]
    assert named in err.splitlines()[-1]


def test_a_run_is_not_taken_for_recordings(folder, capsys):
    (folder / "run").mkdir()
    (folder / "run/results.json").write_text("{}")
    status, out, err = predict(capsys, folder / "run", folder / "sounds")
    assert (status, out) == (1, "")
    assert "run/int8.ckpt" in err


def windows(*values: tuple[float, float, float]) -> list[Window]:
    return [Window(start, end, np.array([first, 1 - first])) for start, end, first in values]


def test_timeline_joins_windows_of_a_label_which_meet_within_overlaps(capsys):
    overlapping = windows((0, 2, 0.9), (1, 3, 0.7), (2, 4, 0.2), (2.5, 4.5, 0.6))
    assert edges(overlapping).tolist() == [0, 1.5, 2.5, 3.25, 4.5]
    joined = segments(overlapping, ["a", "b"])
    assert [part[:3] for part in joined] == [(0, 2.5, "a"), (2.5, 3.25, "b"), (3.25, 4.5, "a")]
    assert [part[3] for part in joined] == pytest.approx([0.8, 0.8, 0.6])
    print_windows("table", ["a", "b"], "x.wav", overlapping)
    print_windows("table", ["a", "b"], "y.wav", overlapping[:2])
    assert [row.split() for row in capsys.readouterr().out.splitlines()] == [
        ["a", "0.60", "4.5", "x.wav"],
        ["a", "0.80", "0:00.0", "-", "0:02.5"],
        ["b", "0.80", "0:02.5", "-", "0:03.2"],
        ["a", "0.60", "0:03.2", "-", "0:04.5"],
        ["a", "0.80", "3.0", "y.wav"],
    ]
    assert clock(59.96) == "1:00.0"


def test_picture_shows_ten_labels_at_most(run, folder, capsys):
    status, _, _ = predict(capsys, run / "model.onnx", "sounds/deep/b.flac", "--picture", "x.png", "--hop", 0.1)
    assert status == 0
    assert (folder / "x.png").read_bytes().startswith(b"\x89PNG")
    many = [Window(i, i + 1, np.full(30, 1 / 30)) for i in range(20)]
    plot_timeline("$x_{$ \x1b.wav", many, [f"$l_{{$ {i}" for i in range(30)], folder / "many.svg")
    assert "21 others" in (folder / "many.svg").read_text()


def test_onnx_file_and_standard_input_need_neither_torch_nor_pandas(run, model, folder):
    """In a process of its own, since this one has imported torch."""
    script = (
        "import sys; from asc.predict.__main__ import main; main(sys.argv[1:]); "
        "print({'torch', 'pandas', 'hydra', 'scipy', 'matplotlib', 'sounddevice'} & sys.modules.keys())"
    )
    with open("sounds/a.wav", "rb") as stream:
        process = start(script, str(run / "model.onnx"), "-", "--json", script="-c", stdin=stream)
        out, err = process.communicate(timeout=60)
    first, last = out.splitlines()
    assert (process.returncode, err, last) == (0, "", "set()")
    assert json.loads(first)["file"] == "standard input"
    assert json.loads(first)["probabilities"] == pytest.approx(model.classify("sounds/a.wav"), abs=1e-4)


def test_without_a_checkpoint_the_network_in_the_package_predicts(folder):
    """It needs no torch, either."""
    program = "import sys, asc.predict.__main__ as p; p.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    process = start(program, str(folder / "sounds/a.wav"), "--json", script="-c")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert list(json.loads(out)["probabilities"]) == ["indoor", "outdoor", "transportation"]
    assert "asc/pretrained/README.md" in err


def test_ctrl_c_stops_within_a_long_file(run, folder):
    with soundfile.SoundFile("long.flac", "w", RATE, 1) as file:
        for _ in range(20):
            file.write(0.1 * np.random.default_rng(0).standard_normal(60 * RATE))
    words = [str(run / "model.onnx"), f"{folder}/sounds/a.wav", f"{folder}/long.flac", "--hop", "0.01", "--json"]
    process = start("asc.predict", *words, script="-m")
    assert "a.wav" in process.stdout.readline()  # the long one has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "\nstopped\n")


@pytest.mark.nightly
def test_a_closed_pipe_and_a_full_disk_end_without_a_traceback(run, folder):
    words = ["asc.predict", str(run / "model.onnx"), f"{folder}/sounds"]
    with start(*words, "--json", script="-m") as process:
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (1, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            pipes = {"stdout": full, "stderr": subprocess.PIPE, "text": True}
            done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, env=ENVIRONMENT, **pipes)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: ")


def test_missing_sounddevice_is_reported(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # as if not installed
    status, out, err = predict(capsys, run / "model.onnx", "--microphone")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "sounddevice" in err


def test_the_microphone_is_classified_until_ctrl_c(run, capsys, monkeypatch):
    """The loop on a recording in place of a device."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(2 * 44_100).astype(np.float32)

    def recorded():
        yield from np.split(wave, 20)
        raise KeyboardInterrupt

    main_module = sys.modules["asc.predict.__main__"]
    monkeypatch.setattr(main_module, "microphone", lambda channel: ("a\x1bdevice", 44_100, recorded()))
    status, out, err = predict(capsys, run / "model.onnx", "--microphone", "--hop", "0.5", "--csv")
    assert status == 0
    assert r"listening to a\x1bdevice" in err
    ends = [float(row["end"]) for row in csv.DictReader(io.StringIO(out))]
    assert ends == pytest.approx([0.5, 1, 1.5], abs=0.1)  # the resampler returns blocks of 0.07 s


DEVICE = """
import threading, numpy as np
class PortAudioError(Exception): pass
def query_devices(kind=None): return {"name": "default", "max_input_channels": 128, "default_samplerate": 44100.0}
class InputStream:
    def __init__(self, rate, block, channels=1, dtype=None, callback=None):
        if channels > 2: raise PortAudioError("Invalid number of channels [PaErrorCode -9998]")
        if rate not in RATES: raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        self.made, self.on = (block, channels, callback), True
    def __enter__(self):
        block, channels, callback = self.made
        sound = np.arange(channels, dtype="float32")[None].repeat(block, 0)
        def record():
            while self.on: callback(sound, block, None, None); threading.Event().wait(0.01)
        threading.Thread(target=record, daemon=True).start()
    def __exit__(self, *error): self.on = False
"""


@pytest.mark.parametrize(("rates", "channel", "value"), [([44100], 0, 0), ([48000], 1, 1), ([44100], "mean", 0.5)])
def test_a_device_opens_with_the_channels_and_a_rate_that_it_has(monkeypatch, rates, channel, value):
    """As ALSA's default on a Raspberry Pi: it claims 128 channels, and may refuse its own rate."""
    device = ModuleType("sounddevice")
    exec(DEVICE.replace("RATES", str(rates)), device.__dict__)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    name, rate, pieces = microphone(channel)
    assert (name, [rate]) == ("default", rates)
    assert set(next(pieces)) == {np.float32(value)}
    pieces.close()
    with pytest.raises(InputError, match="-9998"):
        microphone(2)
