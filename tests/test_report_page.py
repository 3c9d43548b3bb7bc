"""The page of asc.report, in a browser as well."""

import base64
import csv
import io
import os
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import test_report
import torch
from browser import browser, console_errors, show_at
from classifiers import classifier, save
from test_report import LABELS

from asc import InputError
from asc.data.lists import Clip
from asc.report.__main__ import main
from asc.report.page import RATE, mp3, spectrogram, worst_mistakes
from asc.report.plot import DARK, LIGHT, read_history
from asc.report.runs import group, read_run
from asc.results import write_predictions

CLIPS = [  # file name, true label, probabilities by the first run and by the second
    ("audio/a.wav", "indoor", [0.9, 0.05, 0.05], [0.8, 0.1, 0.1]),  # right
    ("audio/b.wav", "outdoor", [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]),  # one is wrong
    ("audio/c.wav", "outdoor", [0.9, 0.05, 0.05], [0.7, 0.1, 0.2]),  # both are
    ("audio/gone.wav", "transportation", [0.9, 0.05, 0.05], [0.98, 0.01, 0.01]),
    ("../secret.wav", "transportation", [0.98, 0.01, 0.01], [0.98, 0.01, 0.01]),
]


def write_run(directory: Path, root: Path, net: dict, column: int, labels: list[str] = LABELS) -> Path:
    """A run of an untrained classifier, with made-up results."""
    test_report.write_run(
        directory,
        accuracy=0.5 + column / 10,
        labels=labels,
        checkpoint="best.ckpt",
        config={"optimizer": {"lr": float(column)}, "net": {"pooling": "max"}},
        size_kb=4.0 + column,
    )
    path = save(classifier(net), directory / "best.ckpt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "datamodule_hyper_parameters": {"root": str(root), "fold": 1, "seed": 0}}, path)
    (directory / "metrics.csv").write_text("epoch,train/loss,val/acc\n1,1.0,0.4\n2,0.8,\n3,0.7,0.6\n")
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
def test_browser_shows_tables_plots_and_recordings(page, driver, width):
    show_at(driver, width)
    driver.get(page.as_uri())
    rows = driver.execute_script(
        "return [...document.querySelectorAll('table.systems')].map("
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].slice(0, 4).map(cell => cell.textContent)))"
    )
    assert rows == [
        [["DCASE 2020 baseline", "1", "70.0", "60.0"], ["CNN", "1", "60.0", "50.0"]],
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


@pytest.mark.parametrize(("scheme", "palette"), [("light", LIGHT), ("dark", DARK)])
def test_plots_follow_the_color_scheme(page, driver, scheme, palette):
    show_at(driver, 390, scheme=scheme)
    driver.get(page.as_uri())
    colors = driver.execute_script(
        "const text = [...document.querySelectorAll('svg text')].find(text => text.textContent == 'CNN');"
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill]"
    )
    assert colors == [f"rgb({', '.join(map(str, rgb(palette[name])))})" for name in ("paper", "ink")]


def test_page_is_accessible(page, driver):
    """The keyboard reaches boxes that scroll, headings skip no level, cells have headings, and ids are unique."""
    show_at(driver, 390)
    driver.get(page.as_uri())
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('*')].filter(box => box.scrollWidth > box.clientWidth + 1 && "
        "getComputedStyle(box).overflowX == 'auto').map(box => [box.tabIndex, box.role, box.ariaLabel])"
    )
    assert boxes
    assert all(index == 0 and role == "region" and label for index, role, label in boxes)
    levels = driver.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert driver.execute_script("return [...document.querySelectorAll('th')].every(th => th.scope)")
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


def test_page_needs_no_other_file_and_names_missing_recordings(page):
    html = page.read_text()
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'>) ]{0,12})""", html))
    assert all(address.startswith(("data:", "#")) for address in addresses), addresses
    assert "<script" not in html
    assert len(html) < 500_000
    assert html.count("no longer in the dataset&#39;s folder") == 2
    assert html.count("no place below the dataset&#39;s folder") == 2
    assert html.count('<figure class="mistake">') == 8


def test_page_without_audio_has_spectrograms_only(runs, tmp_path, capsys):
    for name in "ab":
        main([str(runs), "--html", str(tmp_path / name), "--no-audio", "--no-latency"])
    html = (tmp_path / "a").read_text()
    assert html == (tmp_path / "b").read_text()
    assert "<audio" not in html
    assert not sources(html, "audio/mpeg")
    assert sources(html, "image/png")
    assert "licences" not in html
    assert "latency" not in html.replace("Accuracy, size, latency", "")


def test_worst_mistakes_by_hand(runs):
    [task] = group([read_run(runs / "first"), read_run(runs / "second")])
    worst = worst_mistakes(task, 9)
    # mean cross-entropy of c: -(ln 0.05 + ln 0.1) / 2; of b: -(ln 0.3 + ln 0.6) / 2
    assert [mistake.filename for mistake in worst] == ["../secret.wav", "audio/gone.wav", "audio/c.wav", "audio/b.wav"]
    predictions = [tuple(row) for row in worst[3].predictions]
    assert predictions == [("DCASE 2020 baseline", "outdoor", 0.6, 0.6), ("CNN", "indoor", 0.6, 0.3)]
    assert worst_mistakes(task, 0) == []


def test_damaged_files_of_a_run_are_rejected_and_missing_ones_left_out(runs, tmp_path):
    run = shutil.copytree(runs / "first", tmp_path / "run")
    assert read_history(run)["val/acc"].dropna().to_dict() == {1: 0.4, 3: 0.6}
    (run / "predictions.csv").write_text("filename,scene_label,indoor\n")
    (run / "metrics.csv").write_text("epoch,train/loss\n1,many\n")
    for read in (lambda: worst_mistakes(*group([read_run(run)]), 3), lambda: read_history(run)):
        with pytest.raises(InputError, match=r"\.csv cannot be read: .*; repeat or exclude the run"):
            read()
    (run / "predictions.csv").unlink()
    (run / "metrics.csv").unlink()
    main([str(run), "--html", str(tmp_path / "page.html"), "--no-latency"])
    assert "Worst mistakes" not in (tmp_path / "page.html").read_text()


def test_recordings_may_have_names_that_are_not_unicode_and_start_within_files(runs, tmp_path, capsys):
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
    assert html.count("cannot be read") == 1, "the clip that starts after the end"


def test_labels_and_folders_with_markup_stay_text(runs, tmp_path, capsys):
    evil = '<script>alert("x")</script>$\\frac'
    labels = [evil, "outdoor", "_transportation"]
    run = write_run(tmp_path / evil.replace("/", "_"), tmp_path / "<b>data", {"pooling": "max"}, 0, labels)
    with open(run / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("filename", "scene_label", *labels), (evil, evil, 0.1, 0.8, 0.1)])
    main([str(run), "--html", str(tmp_path / "page.html"), "--no-latency", "--picture", str(tmp_path / "plot.svg")])
    html = (tmp_path / "page.html").read_text()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    parts = np.array([rgb(one), rgb(other)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colors_have_the_contrast_of_wcag_aa(palette):
    """4.5 for text, 3 for graphics."""
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # as WebAIM's checker has it
    for text in ("ink", "muted", "link"):
        assert contrast(palette[text], palette["paper"]) >= 4.5, text
    for background in ("panel", "shade"):
        assert contrast(palette["ink"], palette[background]) >= 4.5, background
    for series in (name for name in palette if name.startswith("series")):
        assert contrast(palette[series], palette["paper"]) >= 3, series
    assert len(set(LIGHT.values())) == len(LIGHT)  # an SVG's color identifies its name


def test_sound_of_a_page_has_the_clips_frequency_at_full_scale():
    wave = 0.001 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    [content] = sources(mp3(wave), "audio/mpeg")
    heard, rate = soundfile.read(io.BytesIO(content))
    assert rate == RATE
    assert len(content) < 40_000
    assert np.abs(np.fft.rfft(heard[RATE // 2 : RATE // 2 + RATE])).argmax() == 1000  # Hz
    assert np.abs(heard).max() == pytest.approx(0.9, abs=0.1)


def test_spectrogram_has_low_frequencies_at_the_bottom():
    features = np.zeros((32, 50))
    features[3] = 1.0
    [content] = sources(spectrogram(features), "image/png")
    pixels = matplotlib.image.imread(io.BytesIO(content))[..., :3].sum(-1)
    assert pixels.shape == (32, 50)
    assert (pixels.argmax(0) == 32 - 1 - 3).all()
