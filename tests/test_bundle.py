"""The folder for the device, without torch, and its page in a browser."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from browser import browser, console_errors, show_at
from classifiers import classifier, lived_in, logits, observed, save
from command import REPOSITORY, call
from tiny import RATE, sound

import asc.bundle.folder
import asc.bundle.page
from asc import SceneClassifier
from asc.audio import read_wave
from asc.bundle import measure
from asc.bundle.__main__ import find_checkpoint, main
from asc.bundle.folder import frontend_settings, write_bundle
from asc.bundle.page import PACKAGE, SCRIPT, WASM, Runtime, find_runtime, page
from asc.compress import QAT
from asc.frontend import Spectrogram
from asc.machine import peak_memory, processor

LABELS = ["indoor", "outdoor", "transportation"]
FILES = ["README.md", "example.py", "frontend.json", "frontend.onnx", "labels.txt", "model.onnx", "requirements.txt"]
NO_TORCH = """
import json, sys
sys.modules |= dict.fromkeys(("torch", "torchaudio", "asc", "soxr", "scipy", "librosa", "pytorch_lightning", "onnx"))
from pathlib import Path
from example import Classifier
classify = Classifier(Path.cwd()).classify
print(json.dumps([classify(name) for name in sys.stdin.read().splitlines()]))
"""
RESULTS = {
    "stage": "float",
    "checkpoint": "checkpoints/best.ckpt",
    "labels": LABELS,
    "test": {
        "accuracy": 0.75,
        "macro_accuracy": 0.722,
        "log_loss": 0.5,
        "class_accuracy": dict(zip(LABELS, (0.5, 2 / 3, 1.0), strict=True)),
        "confusion_matrix": [[1, 1, 0], [0, 2, 1], [0, 0, 7]],
    },
    "complexity": dict.fromkeys(("parameters", "nonzero_parameters", "macs", "file_bytes"), 9)
    | {"size_kb": 4.0, "dcase2020_size_kb": 4.0},
    "training": {"epochs": 1, "seconds": 1.0, "clips_per_second": 1.0},
}


def answers(bundle: Path, paths: list[Path]) -> np.ndarray:
    """Probabilities (files, labels) of the bundle's example where torch and asc cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], cwd=bundle, input="\n".join(map(str, paths)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.array([list(answer.values()) for answer in json.loads(done.stdout)])


def expected(model: SceneClassifier, paths: list[Path]) -> np.ndarray:
    return np.array([list(model.classify(path).values()) for path in paths])


def untrained(paths: list[Path], rate: int, seconds: float, **frontend) -> SceneClassifier:
    """A classifier whose last bias makes it predict all labels for these recordings."""
    model = classifier(frontend={"normalize": "level", **frontend}, channel="mean")
    settings = {**model.hparams, "clip_samples": round(seconds * rate)}
    settings["frontend"] = {**settings["frontend"], "sample_rate": rate}
    model = SceneClassifier(**settings).eval()
    lived_in(model.net)
    waves = np.stack([np.resize(read_wave(path, rate, "mean"), model.clip_samples) for path in paths])
    with torch.inference_mode():
        model.net.dense.bias -= logits(model, model.frontend(torch.from_numpy(waves))).mean(0)
    return model


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    """Recordings of several rates, lengths and channels."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(1)
    wave = np.concatenate([sound(scene, rng) for scene in ("indoor", "outdoor", "transportation", "outdoor")])
    waves = (
        {f"{index}.wav": (sound(label, rng), RATE) for index, label in enumerate(LABELS)}
        | {
            "long.wav": (wave[: round(5.3 * RATE)], RATE),  # which is the model's
            "stereo.wav": (np.stack([wave, rng.standard_normal(len(wave))], 1), 44100),
            "short.flac": (wave[20_000:27_000], 22050),
            "odd.wav": (wave[: 3 * RATE], 16001),
        }
    )
    for name, (samples, rate) in waves.items():
        soundfile.write(folder / name, samples, rate)
    return {name: folder / name for name in waves}


@pytest.fixture(scope="module")
def model(recordings) -> SceneClassifier:
    torch.manual_seed(0)  # conftest's fixture comes after those of a module
    return untrained(list(recordings.values()), RATE, 2)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory) -> Path:
    """The bundle of a run's directory, by the command line."""
    run = tmp_path_factory.mktemp("run")
    (run / "checkpoints").mkdir()
    save(model, run / "checkpoints/best.ckpt")
    (run / "results.json").write_text(json.dumps(RESULTS))
    with redirect_stdout(io.StringIO()) as out:
        assert call(str(run), "--json", script="asc.bundle") is None
    printed = json.loads(out.getvalue())
    assert printed["folder"] == str(run / "bundle")
    assert printed["files"] == {path.name: path.stat().st_size for path in (run / "bundle").iterdir()}
    assert sorted(printed["files"]) == FILES
    assert printed["checkpoint"].endswith("checkpoints/best.ckpt")
    assert printed["real_time_factor"] == pytest.approx(printed["seconds"] / 2)
    return run / "bundle"


def test_example_predicts_as_pytorch(bundle, model, recordings):
    ours, theirs = expected(model, list(recordings.values())), answers(bundle, list(recordings.values()))
    # the last two: 0.3 s with sound where the resamplers roll off, and 16,001 Hz, which the example takes as 16,000
    np.testing.assert_allclose(theirs[:-2], ours[:-2], atol=1e-3)
    np.testing.assert_allclose(theirs[-2:], ours[-2:], atol=0.05)
    assert len(set(ours.argmax(1))) == 3
    assert (theirs.argmax(1) == ours.argmax(1)).all()


@pytest.mark.nightly
def test_example_in_8_bits_predicts_as_pytorch_on_real_recordings(shared, tmp_path):
    with open(shared / "scenes3/evaluation_setup/fold1_evaluate.csv", newline="") as lines:
        paths = [shared / "scenes3" / row["filename"] for row in csv.DictReader(lines, delimiter="\t")][::2]
    int8 = QAT().finish(observed(untrained(paths[::2], 8000, 10, hop_length=512), QAT()))
    main([str(save(int8, tmp_path / "int8.ckpt")), str(tmp_path / "bundle")])
    ours, theirs = expected(int8, paths), answers(tmp_path / "bundle", paths)
    assert len(set(ours.argmax(1))) == 3
    assert np.abs(theirs - ours).max() < 0.02  # integer kernels round differently
    second, first = np.sort(ours)[:, -2:].T
    assert (theirs.argmax(1) == ours.argmax(1))[first - second > 0.02].all()


def test_example_imports_what_its_requirements_name(bundle):
    lines = (bundle / "example.py").read_text().splitlines()
    packages = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    needed = {re.split("[>=]", line)[0] for line in (bundle / "requirements.txt").read_text().splitlines()}
    assert packages - sys.stdlib_module_names == needed


def test_example_is_a_program_with_errors_of_one_line(bundle, recordings, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    paths = [recordings["short.flac"], tmp_path / "bad.wav"]
    done = subprocess.run([sys.executable, bundle / "example.py", *paths], capture_output=True, text=True)
    assert re.fullmatch(r"\S*short.flac  indoor \d\.\d+  outdoor \d\.\d+  transportation \d\.\d+\n", done.stdout)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(paths[1]) in done.stderr


@pytest.mark.nightly
def test_onnx_runtime_stores_no_identifier(bundle, recordings, tmp_path):
    """By default it stores a number of this device in the home directory."""
    home = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    home |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    for words in ([bundle / "example.py"], ["-m", "asc.predict", bundle / "model.onnx"]):
        subprocess.run([sys.executable, *words, recordings["short.flac"]], env=home, cwd=REPOSITORY, check=True)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()], words


def test_readme_and_settings_suffice_for_another_program(bundle, model):
    settings = json.loads((bundle / "frontend.json").read_text())
    assert (settings["sample_rate"], settings["clip_samples"]) == (RATE, 2 * RATE)
    wave = torch.randn(1, 2 * RATE)
    torch.testing.assert_close(Spectrogram(**settings["frontend"])(wave), model.frontend(wave))
    text = (bundle / "README.md").read_text()
    for name in set(FILES) - {"README.md"}:
        assert f"| {name} | {(bundle / name).stat().st_size:,} |" in text
    assert "| macro-average accuracy | 0.722 |" in text
    assert "12 test clips" in text
    assert processor() in text
    assert "{" not in text
    assert "index.html" not in text


def test_memory_excludes_the_measuring_process(bundle):
    measured = measure.measure(bundle, 2.0)
    if measured["memory"] is None:
        pytest.skip("this system does not report the peak of memory")
    assert 2e7 < measured["libraries"] < measured["memory"] < 2.5e8 < peak_memory()
    assert 0 < measured["seconds"] == 2 * measured["real_time_factor"] < 10


def test_settings_contain_the_statistics_of_the_training_set():
    model = classifier(frontend={"standardize": True})
    model.frontend.mean[3], model.frontend.std[3] = 5, 7
    settings = frontend_settings(model)["frontend"]
    assert (settings["mean"][3], settings["std"][3]) == (5, 7)


def test_labels_are_escaped(tmp_path):
    model = classifier()
    model.labels = ["a\x1b[2Jb\nc", "<b>|</b>", "</script><script>alert(1)</script>"]
    write_bundle(model, tmp_path / "bundle", None, None)
    assert (tmp_path / "bundle/labels.txt").read_text().splitlines() == [r"a\x1b[2Jb\nc", *model.labels[1:]]
    text = (tmp_path / "bundle/README.md").read_text()
    assert "<b>" not in text
    assert "\x1b" not in text
    html = page(tmp_path / "bundle", frontend_settings(model), model.labels, Runtime("1", b"", b""))
    assert html.count("</script>") == html.count("<script ") == 7


def test_folder_is_written_whole_and_replaces_only_a_bundle(tmp_path, monkeypatch):
    checkpoint, folder = save(classifier(), tmp_path / "best.ckpt"), tmp_path / "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "diary.txt").write_text("dear diary")
    for words in ([], ["--force"]):
        with pytest.raises(SystemExit, match=f"DIR={foreign}"):
            main([str(checkpoint), str(foreign), *words])
    main([str(checkpoint), str(folder)])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(asc.bundle.folder, "measure", interrupt)
        with pytest.raises(SystemExit):
            main([str(checkpoint), str(folder), "--force"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "index.html").touch()
    main([str(checkpoint), str(folder), "--force"])
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "foreign", "mine"]


def write_package(folder: Path, name: str) -> Path:
    """The package npm installs, and an archive of it."""
    (folder / "package/dist").mkdir(parents=True)
    (folder / "package/package.json").write_text(json.dumps({"name": name, "version": "9"}))
    (folder / "package" / SCRIPT).write_text("script")
    (folder / "package" / WASM).write_text("wasm")
    return Path(shutil.make_archive(str(folder / name), "gztar", folder, "package"))


def test_runtime_is_read_from_an_archive_a_package_or_node_modules(tmp_path, monkeypatch):
    archive = write_package(tmp_path, PACKAGE)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / PACKAGE).symlink_to(tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    for place in (archive, tmp_path / "package", tmp_path, None):
        assert find_runtime(place) == Runtime("9", b"script", b"wasm")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["missing.ckpt"], "checkpoint=missing.ckpt"),
        (["."], "RUN=."),
        (["own.ckpt"], "Thirds"),
        (["best.ckpt", "no/where"], f"no{os.sep}"),
        (["best.ckpt", "--web", "missing.tgz"], "--web=missing.tgz"),
        (["best.ckpt", "--web", "."], "--web=."),
        (["best.ckpt", "--web", "other.tar.gz"], "--web=other.tar.gz"),
        (["best.ckpt", "--web"], "onnxruntime-web cannot be downloaded"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_input_is_one_sentence_and_writes_nothing(words, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asc.bundle.page, "URL", "http://127.0.0.1:9/onnxruntime-web.tgz")  # nobody answers
    model = classifier()
    save(model, tmp_path / "best.ckpt")
    frontend = {"_target_": "tiny.Thirds", "sample_rate": 8000}
    save(SceneClassifier(**{**model.hparams, "frontend": frontend}), tmp_path / "own.ckpt")
    write_package(tmp_path, "other")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--trusted", "tiny"])
    assert named in stopped.value.code
    assert "\n" not in stopped.value.code
    assert sorted(tmp_path.iterdir()) == before


def test_the_8_bit_network_of_a_run_is_preferred(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "pruned.ckpt", "int8.ckpt"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path) == tmp_path / name
    assert find_checkpoint(tmp_path / "pruned.ckpt") == tmp_path / "pruned.ckpt"


# The page. ASC_ONNXRUNTIME_WEB names a folder with npm's package onnxruntime-web.


@pytest.fixture(scope="module")
def web(request, tmp_path_factory) -> Path:
    """The bundle of a trained run with its page."""
    place = os.environ.get("ASC_ONNXRUNTIME_WEB", "")
    if not Path(place).is_dir() or not place:
        pytest.skip("npm's onnxruntime-web is not here (ASC_ONNXRUNTIME_WEB)")
    directory, _ = request.getfixturevalue("trained")
    folder = tmp_path_factory.mktemp("web") / "bundle"
    main([str(directory), str(folder), "--web", place])
    return folder


def wait(driver, condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, driver.find_element("tag name", "body").text
        time.sleep(0.05)


def text(driver, name: str) -> str:
    return driver.find_element("id", name).get_attribute("textContent")


def open_page(driver, folder: Path) -> None:
    driver.get((folder / "index.html").as_uri())
    wait(driver, lambda: text(driver, "status") == "Ready." or text(driver, "error"))
    assert text(driver, "error") == ""


def drop(driver, path: Path) -> str:
    """Give the page a recording; what it says at the end."""
    driver.execute_script("document.getElementById('status').textContent = ''")
    driver.find_element("id", "file").send_keys(str(path))
    wait(driver, lambda: "%" in text(driver, "status") or text(driver, "error"))
    return text(driver, "error") or text(driver, "status")


def shown(driver) -> np.ndarray:
    values = driver.find_elements("css selector", "#scores .value")
    return np.array([float(value.get_attribute("data-probability")) for value in values])


def colors(driver) -> int:
    """How many the spectrogram has."""
    return driver.execute_script(
        "const c = document.getElementById('spectrogram');"
        "const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);"
        "return new Set(d).size"
    )


def test_the_page_computes_what_the_example_does(web, recordings, tmp_path):
    names = list(recordings)
    theirs = answers(web, list(recordings.values()))
    bad, brief = tmp_path / "<b>bad.wav", tmp_path / "brief.wav"
    bad.write_text("no sound")
    soundfile.write(brief, np.ones(100) / 2, RATE)
    with browser(1280, 900, "--use-fake-ui-for-media-stream=deny") as driver:
        open_page(driver, web)
        for name, answer in zip(names, theirs, strict=True):
            said = drop(driver, recordings[name])
            np.testing.assert_allclose(shown(driver), answer, atol=1e-3, err_msg=name)
            assert said.startswith(LABELS[answer.argmax()])
        assert drop(driver, recordings["long.wav"]).endswith("mean of 3 windows of 2 s.")
        table = driver.find_elements("css selector", "#rows tr")
        assert [row.get_attribute("textContent")[:8] for row in table] == ["0 s2 sin", "2 s4 sou", "3.3 s5.3"]
        assert colors(driver) > 50
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                show_at(driver, width, scheme=scheme)
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert "<b>bad.wav is not a sound file" in drop(driver, bad)
        assert "shorter than one window: give at least 0.128 s" in drop(driver, brief)
        driver.find_element("id", "listen").click()
        wait(driver, lambda: "microphone" in text(driver, "error"))
        assert text(driver, "error") == "The microphone was refused: allow it for this page in the browser's settings."
        assert console_errors(driver) == []


def test_the_page_listens_to_the_microphone(web, tmp_path):
    noise = tmp_path / "noise.wav"
    wave = np.concatenate([sound("outdoor", np.random.default_rng(5)) for _ in range(6)])
    soundfile.write(noise, wave, RATE)
    with browser(390, 900, f"--use-file-for-fake-audio-capture={noise}") as driver:
        open_page(driver, web)
        button = driver.find_element("id", "listen")
        button.click()
        wait(driver, lambda: text(driver, "source") == "the last 2 s")
        assert text(driver, "status").startswith("Listening: ")
        assert text(driver, "answer").startswith("outdoor")
        assert colors(driver) > 50
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert text(driver, "status") == "Stopped."
        assert console_errors(driver) == []
