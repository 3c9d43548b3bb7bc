"""The page of asc.report, in a browser as well."""

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from browser import browser, console_errors, show_at
from classifiers import classifier, save

from asc import InputError
from asc.data.lists import Clip
from asc.predictions import write_predictions
from asc.report.__main__ import main
from asc.report.curves import read_history
from asc.report.mistakes import worst_mistakes
from asc.report.palette import DARK, LIGHT
from asc.report.recording import RATE, mp3, spectrogram
from asc.report.runs import read_run
from asc.report.systems import group

LABELS = ["indoor", "outdoor", "transportation"]
CLIPS = [  # file name, true label, probabilities by the first run and by the second
    ("audio/a.wav", "indoor", [0.9, 0.05, 0.05], [0.8, 0.1, 0.1]),  # right
    ("audio/b.wav", "outdoor", [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]),  # one is wrong
    ("audio/c.wav", "outdoor", [0.9, 0.05, 0.05], [0.7, 0.1, 0.2]),  # both are
    ("audio/gone.wav", "transportation", [0.9, 0.05, 0.05], [0.98, 0.01, 0.01]),
    ("../secret.wav", "transportation", [0.98, 0.01, 0.01], [0.98, 0.01, 0.01]),
]


def write_run(directory: Path, root: Path, net: dict, column: int, labels: list[str] = LABELS) -> Path:
    """A run of an untrained classifier, with made-up results."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra/config.yaml").write_text(f"optimizer:\n  lr: {column}.0\nnet:\n  pooling: max\n")
    path = save(classifier(net), directory / "best.ckpt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "datamodule_hyper_parameters": {"root": str(root), "fold": 1, "seed": 0}}, path)
    results = {
        "stage": "float",
        "checkpoint": str(path),
        "labels": labels,
        "test": {
            **{"accuracy": 0.5 + column / 10, "macro_accuracy": 0.6, "log_loss": 1.0},
            "confusion_matrix": [[3, 1, 0], [0, 4, 0], [2, 0, 2]],
        },
        "complexity": {
            **{"parameters": 1000, "nonzero_parameters": 1000, "size_kb": 4.0 + column},
            **{"dcase2020_size_kb": 3.5, "macs": 10**6, "file_bytes": 4096},
        },
        "training": {"epochs": 3},
    }
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "metrics.csv").write_text("epoch,train/loss,val/acc\n1,1.0,0.4\n2,0.8,0.5\n3,0.7,0.6\n")
    with open(directory / "predictions.csv", "w", newline="") as file:
        rows = [(name, scene, *by_run[column]) for name, scene, *by_run in CLIPS]
        csv.writer(file).writerows([("filename", "scene_label", *labels), *rows])
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs, a clip of which is gone, and one on other data."""
    place = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for folder in ("scenes", "others"):
        (place / folder / "audio").mkdir(parents=True)
        for clip in "abc":
            soundfile.write(place / folder / f"audio/{clip}.wav", 0.01 * rng.standard_normal(8000), 8000)
    soundfile.write(place / "secret.wav", 0.1 * rng.standard_normal(8000), 8000)
    write_run(place / "runs/first", place / "scenes", {"pooling": "max"}, 0)
    write_run(place / "runs/second", place / "scenes", {"_target_": "asc.nets.Dcase2020Baseline", "n_bins": 32}, 1)
    write_run(place / "runs/third", place / "others", {"pooling": "max"}, 0)
    return place / "runs"


@pytest.fixture(scope="module")
def page(runs) -> Path:
    path = runs.parent / "report.html"
    main([str(runs), "--html", str(path), "--mistakes", "4"])
    return path


def sources(html: str, kind: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(rf"data:{kind};base64,([^\"]+)", html)]


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it(page, driver, width):
    show_at(driver, width)
    driver.get(page.as_uri())
    rows = driver.execute_script(
        "return [...document.querySelectorAll('table.systems')].map("
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].slice(0, 4).map(cell => cell.textContent)))"
    )
    assert rows == [
        [["DCASE 2020 baseline", "1", "60.0", "60.0"], ["CNN", "1", "60.0", "50.0"]],
        [["CNN", "1", "60.0", "50.0"]],
    ]
    script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert driver.execute_script(script)  # tables scroll in boxes of their own
    images = driver.execute_script(
        "return [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.alt])"
    )
    assert len(images) == 4  # of three clips each the fourth is gone and the fifth outside
    assert all(natural > 0 and shown > 100 and alt for natural, shown, alt in images)
    plots = driver.execute_script(
        "return [...document.querySelectorAll('svg')].map("
        "svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height, svg.ariaLabel])"
    )
    assert len(plots) == 6  # of each task: size, latency, training
    assert all(250 < across < width and down > 200 and text for across, down, text in plots)
    played = driver.execute_async_script(
        "const done = arguments[0], player = document.querySelector('audio');"
        "player.ontimeupdate = () => player.currentTime > 0.1 && done([player.currentTime, player.duration]);"
        "player.onerror = () => done('error'); player.play().catch(error => done(String(error)));"
    )
    assert played[0] > 0.1
    assert played[1] == pytest.approx(0.5, abs=0.1)  # seconds of a training clip
    assert console_errors(driver) == []


def test_it_follows_dark_mode_and_the_keyboard_reaches_its_boxes(page, driver):
    driver.get(page.as_uri())
    colors = {}
    for scheme in ("light", "dark"):
        show_at(driver, 390, scheme=scheme)
        script = (
            "const text = [...document.querySelectorAll('svg text')].find(text => text.textContent == 'CNN');"
            "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill]"
        )
        colors[scheme] = driver.execute_script(script)
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        expected = [f"rgb({', '.join(map(str, rgb(palette[name])))})" for name in ("paper", "ink")]
        assert colors[scheme] == expected
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('*')].filter(box => box.scrollWidth > box.clientWidth + 1 && "
        "getComputedStyle(box).overflowX == 'auto').map(box => [box.tabIndex, box.role, box.ariaLabel])"
    )
    assert boxes
    assert all(index == 0 and role == "region" and label for index, role, label in boxes)
    levels = driver.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    script = "return [...document.querySelectorAll('th')].every(th => th.scope)"
    assert driver.execute_script(script)
    assert driver.execute_script("return document.querySelectorAll('main').length") == 1
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


def test_it_needs_nothing_from_elsewhere(page):
    html = page.read_text()
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'>) ]{0,12})""", html))
    assert all(address.startswith(("data:", "#")) for address in addresses), addresses
    assert "<script" not in html
    assert len(html) < 500_000


def test_what_it_says_of_recordings(page):
    html = page.read_text()
    assert html.count("The recording is no longer in the dataset’s folder".replace("’", "&#39;")) == 2
    assert html.count("The recording has no place below the dataset&#39;s folder") == 2
    assert html.count('<figure class="mistake">') == 8
    assert "look at their licences" in html


def test_without_audio(runs, tmp_path, capsys):
    main([str(runs), "--html", str(tmp_path / "quiet.html"), "--no-audio", "--no-latency"])
    html = (tmp_path / "quiet.html").read_text()
    assert "<audio" not in html
    assert not sources(html, "audio/mpeg")
    assert sources(html, "image/png")
    assert "licences" not in html
    assert "latency" not in html.replace("Accuracy, size, latency", "")
    assert capsys.readouterr().out.endswith(f"\npage     {tmp_path}/quiet.html\n")


def test_two_pages_of_the_same_runs_are_the_same(runs, tmp_path, capsys):
    for name in "ab":
        main([str(runs / "first"), "--html", str(tmp_path / name), "--no-latency", "--mistakes", "1"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_worst_mistakes_by_hand(runs):
    [task] = group([read_run(runs / "first"), read_run(runs / "second")])
    worst = worst_mistakes(task, 9)
    assert [mistake.filename for mistake in worst] == ["../secret.wav", "audio/gone.wav", "audio/c.wav", "audio/b.wav"]
    assert worst[2].cross_entropy == pytest.approx(-(np.log(0.05) + np.log(0.1)) / 2)
    answers = [
        (answer.system.name, answer.label, answer.probability, answer.of_true_label) for answer in worst[3].answers
    ]
    assert answers == [("DCASE 2020 baseline", "outdoor", 0.6, 0.6), ("CNN", "indoor", 0.6, 0.3)]
    assert worst_mistakes(task, 0) == []


def test_predictions_that_no_run_writes_are_refused(runs, tmp_path):
    run = shutil.copytree(runs / "first", tmp_path / "run")
    for text in (
        *("filename,scene_label,indoor\n", "a.wav,indoor,1,0,0\n", "", "\x00\xff"),
        *(f"filename,scene_label,indoor,outdoor,transportation\n{row}\n" for row in (
            *("a.wav,indoor,nan,0,0", "a.wav,park,1,0,0", "a.wav,indoor,1,0", "a.wav,indoor,2,0,0", "a.wav"),
        )),
    ):  # fmt: skip
        (run / "predictions.csv").write_text(text)
        with pytest.raises(InputError, match=r"predictions.csv is not what a finished run writes"):
            worst_mistakes(*group([read_run(run)]), 3)
    (run / "predictions.csv").unlink()
    assert worst_mistakes(*group([read_run(run)]), 3) == []


def test_a_recording_whose_name_is_no_unicode_is_on_the_page_and_so_is_a_clip_from_within(runs, tmp_path, capsys):
    run, root = shutil.copytree(runs / "first", tmp_path / "run"), runs.parent / "scenes"
    sound = root / "audio" / os.fsdecode(b"r\xe4.wav")  # a letter of Latin-1
    soundfile.write(
        os.fsencode(sound), np.repeat([0.0, 0.01], 8000) * np.random.default_rng(0).standard_normal(16000), 8000
    )
    clips = [Clip(sound, "indoor", "here"), Clip(sound, "indoor", "here", start=1.0), Clip(sound, "indoor", "", 9.0)]
    write_predictions(run / "predictions.csv", root, clips, LABELS, [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]])
    main([str(run), "--html", str(tmp_path / "page.html"), "--no-latency"])
    html = (tmp_path / "page.html").read_text()
    assert "<code>audio/r\\udce4.wav</code>" in html
    silent, loud = (soundfile.read(io.BytesIO(part))[0] for part in sources(html, "audio/mpeg"))
    assert np.abs(silent).max() < 0.01 < np.abs(loud).max(), "the second half of the recording, not the first"
    assert html.count("cannot be read") == 1, "what begins after the end"


def test_histories_that_no_run_writes_are_refused(tmp_path):
    assert read_history(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,val/acc\n1,0.5,\n2,0.25,\n")
    assert read_history(tmp_path) == {"train/loss": [(1, 0.5), (2, 0.25)]}
    for text in ("epoch,train/loss\n1,many\n", "epoch,train/loss\n1,inf\n", "train/loss\n1\n"):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(InputError, match=r"metrics.csv is not what a finished run writes"):
            read_history(tmp_path)


def test_what_others_wrote_stays_text(runs, tmp_path, capsys):
    evil = '<script>alert("x")</script>$\\frac'
    run = write_run(tmp_path / evil.replace("/", "_"), tmp_path / "<b>data", {"pooling": "max"}, 0)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "labels": [evil, "outdoor", "_transportation"]}))
    with open(run / "predictions.csv", "w", newline="") as file:
        head, row = ("filename", "scene_label", evil, "outdoor", "_transportation"), (evil, evil, 0.1, 0.8, 0.1)
        csv.writer(file).writerows([head, row])
    main([str(run), "--html", str(tmp_path / "page.html"), "--no-latency", "--picture", str(tmp_path / "plot.svg")])
    html = (tmp_path / "page.html").read_text()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def luminance(color: str) -> float:
    """Of WCAG 2."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.array(rgb(color)) / 255
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # as WebAIM's checker has it


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colors_are_legible(palette):
    """WCAG 2, level AA: 4.5 for text, 3 for graphics."""
    for text in ("ink", "muted", "link"):
        assert contrast(palette[text], palette["paper"]) >= 4.5, text
    for background in ("panel", "shade"):
        assert contrast(palette["ink"], palette[background]) >= 4.5, background
    for series in (name for name in palette if name.startswith("series")):
        assert contrast(palette[series], palette["paper"]) >= 3, series
    assert palette.keys() == LIGHT.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)  # an SVG's color tells its name


def test_the_sound_of_a_page_is_that_of_the_clip():
    wave = 0.001 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    [content] = sources(mp3(wave), "audio/mpeg")
    heard, rate = soundfile.read(io.BytesIO(content))
    assert rate == RATE
    assert len(content) < 40_000
    spectrum = np.abs(np.fft.rfft(heard[RATE // 2 : RATE // 2 + RATE]))
    assert spectrum.argmax() == 1000  # Hz
    assert np.abs(heard).max() == pytest.approx(0.9, abs=0.1)  # full scale


def test_a_spectrogram_has_low_frequencies_at_the_bottom():
    from PIL import Image

    features = np.zeros((32, 50))
    features[3] = 1.0
    [content] = sources(spectrogram(features), "image/png")
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=int)
    assert pixels.shape == (32, 50)
    assert (pixels.argmax(0) == 32 - 1 - 3).all()
