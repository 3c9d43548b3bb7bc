"""The folder for the device, without torch, and its page in a browser."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from browser import browser, console_errors, show_at
from classifiers import classifier, lived_in, logits, observed, save
from command import REPOSITORY, call, results
from tiny import RATE, sound

import asc.bundle.folder
import asc.bundle.page
from asc import SceneClassifier
from asc.audio import windows
from asc.bundle import measure, trial
from asc.bundle.__main__ import find_checkpoint, main
from asc.bundle.folder import frontend_settings, write_bundle
from asc.bundle.page import Runtime, find_runtime
from asc.compress import QAT
from asc.frontend import Spectrogram
from asc.machine import peak_memory, processor

LABELS = ["indoor", "outdoor", "transportation"]
FILES = ["README.md", "example.py", "frontend.json", "frontend.onnx", "labels.txt", "model.onnx", "requirements.txt"]
NO_TORCH = """
import json, sys
sys.modules |= dict.fromkeys(("torch", "torchaudio", "asc", "scipy", "librosa", "pytorch_lightning", "onnx"))
from pathlib import Path
from example import Classifier
classify = Classifier(Path.cwd()).classify
print(json.dumps([classify(name) for name in sys.stdin.read().splitlines()]))
"""


def answers(bundle: Path, paths: list[Path]) -> np.ndarray:
    """Probabilities (files, labels) of the bundle's example where torch and asc cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], cwd=bundle, input="\n".join(map(str, paths)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.array([list(answer.values()) for answer in json.loads(done.stdout)])


def expected(model: SceneClassifier, paths: list[Path]) -> np.ndarray:
    return np.array([list(model.classify(path).values()) for path in paths])


def held_out(root: Path) -> list[Path]:
    with open(root / "evaluation_setup/fold1_evaluate.csv", newline="") as lines:
        return [root / row["filename"] for row in csv.DictReader(lines, delimiter="\t")]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 2)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory) -> Path:
    """The bundle of a run on the tiny dataset, by the command line."""
    folder = tmp_path_factory.mktemp("bundle") / "mine"
    with redirect_stdout(io.StringIO()) as out:
        assert call(str(trained[0]), str(folder), "--json", script="asc.bundle") is None
    told = json.loads(out.getvalue())
    assert told["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sorted(told["files"]) == FILES
    assert told["checkpoint"].endswith("checkpoints/best.ckpt")
    assert told["real_time_factor"] == pytest.approx(told["seconds"] / 2)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    """Recordings of several rates, lengths and channels."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(1)
    wave = np.concatenate([sound(scene, rng) for scene in ("indoor", "outdoor", "transportation", "outdoor")])
    made = {
        "long.wav": (wave[: round(5.3 * RATE)], RATE),  # which is the model's
        "stereo.wav": (np.stack([wave, rng.standard_normal(len(wave))], 1), 44100),
        "short.flac": (wave[20_000:27_000], 22050),
        "odd.wav": (wave[: 3 * RATE], 16001),
    }
    for name, (samples, rate) in made.items():
        soundfile.write(folder / name, samples, rate)
    return {name: folder / name for name in made}


def test_without_torch_it_decides_as_pytorch_does(bundle, trained, tiny, recordings):
    model = SceneClassifier.load_from_checkpoint(trained[0] / "checkpoints/best.ckpt")
    paths = [*held_out(tiny), *recordings.values()]
    ours, theirs = expected(model, paths), answers(bundle, paths)
    # the last two: 0.3 s with sound where the resamplers roll off, and 16,001 Hz, which the example takes as 16,000
    np.testing.assert_allclose(theirs[:-2], ours[:-2], atol=1e-4)
    np.testing.assert_allclose(theirs[-2:], ours[-2:], atol=0.05)
    assert len(set(ours.argmax(1))) == 3
    assert (theirs.argmax(1) == ours.argmax(1)).all()


@pytest.mark.nightly
def test_in_8_bits_it_decides_as_pytorch_does_on_real_recordings(shared, tmp_path):
    """By an untrained network, whose last bias makes it tell the clips apart."""
    paths = held_out(shared / "scenes3")
    assert len(paths) == 56
    short = classifier(frontend={"normalize": "level", "hop_length": 512}, channel="mean")
    model = SceneClassifier(**{**short.hparams, "clip_samples": 80_000})
    lived_in(model.net)
    waves = [next(windows(path, 8000, "mean", 80_000))[1] for path in paths[::4]]
    with torch.inference_mode():
        model.net.dense.bias -= logits(model, model.frontend(torch.from_numpy(np.stack(waves)))).mean(0)
    int8 = QAT().finish(observed(model, QAT()))
    folder = tmp_path / "bundle"
    main([str(save(int8, tmp_path / "int8.ckpt")), str(folder)])
    ours, theirs = expected(int8, paths), answers(folder, paths)
    assert len(set(ours.argmax(1))) == 3
    assert np.abs(theirs - ours).max() < 0.02  # integer kernels round differently
    second, first = np.sort(ours)[:, -2:].T
    assert (theirs.argmax(1) == ours.argmax(1))[first - second > 0.02].all()


def test_the_example_is_short_and_needs_what_its_requirements_name(bundle):
    lines = (bundle / "example.py").read_text().splitlines()
    assert len(lines) <= 64
    assert max(map(len, lines)) <= 120
    packages = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    needed = {re.split("[>=]", line)[0] for line in (bundle / "requirements.txt").read_text().splitlines()}
    assert packages - sys.stdlib_module_names == needed


def test_the_example_is_a_program_whose_errors_are_one_line(bundle, recordings, tmp_path):
    def example(path: Path) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, bundle / "example.py", path], capture_output=True, text=True)

    done = example(recordings["short.flac"])
    assert done.returncode == 0
    assert re.fullmatch(r"\S*short.flac  indoor 0\.\d+  outdoor 0\.\d+  transportation 0\.\d+\n", done.stdout)
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    done = example(bad)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(bad) in done.stderr


def test_onnx_runtime_tells_nobody(bundle, recordings, tmp_path):
    """Without a word, it leaves a number of this device in the home directory, by which it would be known."""
    home = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    home |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    for words in ([bundle / "example.py"], ["-m", "asc.predict", bundle / "model.onnx"]):
        subprocess.run([sys.executable, *words, recordings["short.flac"]], env=home, cwd=REPOSITORY, check=True)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()], words


def test_readme_and_settings_tell_what_another_program_needs(bundle, trained):
    settings = json.loads((bundle / "frontend.json").read_text())
    assert settings["sample_rate"] == RATE
    assert settings["clip_samples"] == 2 * RATE
    rebuilt = Spectrogram(**settings["frontend"])
    wave = torch.randn(1, 2 * RATE)
    model = SceneClassifier.load_from_checkpoint(trained[0] / "checkpoints/best.ckpt")
    torch.testing.assert_close(rebuilt(wave), model.frontend(wave))

    text = (bundle / "README.md").read_text()
    for name in set(FILES) - {"README.md"}:
        assert f"| {name} | {(bundle / name).stat().st_size:,} |" in text
    test = results(trained[0])["test"]
    assert f"| macro-average accuracy | {test['macro_accuracy']:.3f} |" in text
    assert "12 test clips" in text
    assert processor() in text
    assert "$" not in text
    assert "index.html" not in text


def test_memory_is_that_of_the_example_alone(bundle):
    """Not of this process, which started it and holds torch."""
    told = measure.measure(bundle, 2.0)
    if told.memory is None:
        pytest.skip("this system does not tell the peak of memory")
    assert 2e7 < told.libraries < told.memory < 2.5e8 < peak_memory()
    assert 0 < told.seconds < 10
    assert trial.peak_memory() > told.memory


def test_the_statistics_of_the_training_set_are_among_the_settings(tmp_path):
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
    settings = {**frontend_settings(model)}
    html = asc.bundle.page.page(tmp_path / "bundle", settings, model.labels, Runtime("1", b"", b""))
    assert html.count("</script>") == html.count("<script ") == 7


def test_a_folder_appears_whole_and_replaces_none_but_a_bundle(tmp_path, monkeypatch):
    checkpoint, folder = save(classifier(), tmp_path / "best.ckpt"), tmp_path / "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "diary.txt").write_text("dear diary")
    with pytest.raises(SystemExit, match="foreign is there already: give another folder, or --force"):
        main([str(checkpoint), str(foreign)])
    with pytest.raises(SystemExit, match="foreign is not a bundle"):
        main([str(checkpoint), str(foreign), "--force"])
    main([str(checkpoint), str(folder)])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(asc.bundle.folder, "measure", interrupted)
        with pytest.raises(SystemExit) as stopped:
            main([str(checkpoint), str(folder), "--force"])
        assert stopped.value.code == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "index.html").touch()
    main([str(checkpoint), str(folder), "--force"])
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "foreign", "mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.ckpt"], "invalid checkpoint=missing.ckpt"),
        (["."], r"\. holds none of int8.ckpt, pruned.ckpt, checkpoints/best.ckpt"),
        (["own.ckpt"], "cannot export the frontend Thirds"),
        (["best.ckpt", "no/where"], "no/where cannot be written"),
        (["best.ckpt", "--web", "missing.tgz"], "missing.tgz is neither a folder nor an archive of onnxruntime-web"),
        (["best.ckpt", "--web", "."], r"\. does not hold onnxruntime-web with dist/"),
        (["best.ckpt", "--web", "other.tgz"], "other.tgz does not hold onnxruntime-web"),
        (["best.ckpt", "--web"], "npm is not installed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    save(classifier(), tmp_path / "best.ckpt")
    save(own_frontend(), tmp_path / "own.ckpt")
    with tarfile.open("other.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(OTHER)
        archive.addfile(member, io.BytesIO(OTHER))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--trusted", "tiny"])
    assert re.search(message, stopped.value.code)
    assert "\n" not in stopped.value.code
    assert sorted(tmp_path.iterdir()) == before


OTHER = b'{"name": "other"}'


def own_frontend() -> SceneClassifier:
    model = classifier()
    frontend = {"_target_": "tiny.Thirds", "sample_rate": 8000}
    return SceneClassifier(**{**model.hparams, "frontend": frontend})


def test_of_a_run_the_8_bit_network_is_taken(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "pruned.ckpt", "int8.ckpt"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path) == tmp_path / name
    assert find_checkpoint(tmp_path / "pruned.ckpt") == tmp_path / "pruned.ckpt"


# The page. ASC_ONNXRUNTIME_WEB names a folder with npm's package onnxruntime-web.


@pytest.fixture(scope="module")
def web(bundle) -> Path:
    """The bundle with its page."""
    place = os.environ.get("ASC_ONNXRUNTIME_WEB", "")
    if not Path(place).is_dir() or not place:
        pytest.skip("npm's onnxruntime-web is not here (ASC_ONNXRUNTIME_WEB)")
    labels = (bundle / "labels.txt").read_text().splitlines()
    settings = json.loads((bundle / "frontend.json").read_text())
    (bundle / "index.html").write_text(asc.bundle.page.page(bundle, settings, labels, find_runtime(Path(place))))
    return bundle


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
