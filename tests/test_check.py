"""What a dataset is said to hold, against arithmetic; and every fault that a run would meet, told before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command import REPOSITORY
from tiny import RATE, SECONDS, write_tiny

from asc.check.__main__ import main
from asc.check.sounds import BLOCK, analyze


@pytest.fixture
def root(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "data"))


def check(root: Path, capsys, *words: str) -> tuple[int, dict]:
    """The exit status and what --json prints."""
    with pytest.raises(SystemExit) as stop:
        main([str(root), "--json", *words])
    return stop.value.code, json.loads(capsys.readouterr().out)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


# A sound


def test_level_peak_offset_and_clipping_are_those_of_arithmetic(tmp_path):
    time = np.arange(RATE) / RATE
    left = 0.25 + 0.5 * np.sin(2 * np.pi * 100 * time)
    right = np.zeros(RATE)
    right[[10, 100, 101, 200, 201, 202, 300, 301, 302, 303]] = 1, 1, 1, -1, -1, -1, 1, 1, 1, 1  # two runs
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="PCM_16")
    sound = analyze(tmp_path / "a.wav")
    assert (sound.seconds, sound.rate, sound.channels, sound.format) == (1, RATE, 2, "WAV PCM_16")
    assert (sound.runs, sound.clipped, sound.silent_channels) == (2, 10 / (2 * RATE), ())
    assert sound.peak == 1
    assert sound.offset == pytest.approx(0.25, abs=1e-4)
    power = (0.25**2 + 0.5**2 / 2) / 2 + 10 / (2 * RATE)
    assert sound.level == pytest.approx(10 * np.log10(power), abs=1e-3)


@pytest.mark.parametrize("first", [BLOCK - 3, BLOCK - 2, BLOCK - 1, BLOCK])
def test_blocks_do_not_cut_what_is_counted(tmp_path, first):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, BLOCK + 100)
    wave[first : first + 4] = 1
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    sound = analyze(tmp_path / "a.wav")
    assert (sound.runs, sound.clipped) == (1, 4 / len(wave))
    assert sound.level == pytest.approx(10 * np.log10(np.mean(wave**2)), abs=1e-4)


def test_the_same_samples_have_the_same_digest_in_any_format(tmp_path):
    digests = set()
    for name, subtype in (("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("b.wav", "PCM_24"), ("c.wav", "FLOAT")):
        soundfile.write(tmp_path / name, (noise(1) * 2**15).round() / 2**15, RATE, subtype=subtype)
        digests.add(analyze(tmp_path / name).digest)
    assert len(digests) == 1
    soundfile.write(tmp_path / "d.wav", noise(1), RATE // 2)
    assert analyze(tmp_path / "d.wav").digest not in digests


# A sound dataset


def test_a_dataset_without_faults_is_counted(root, capsys):
    status, told = check(root, capsys)
    assert status == 0
    assert told["faults"] == told["warnings"] == []
    assert (told["layout"], told["files"], told["clips"]) == ("TAU", 36, 36)
    assert told["hours"] == pytest.approx(36 * SECONDS / 3600)
    row = {"train": 8, "test": 4, "unused": 0, "locations": 6}
    assert told["classes"] == dict.fromkeys(("indoor", "outdoor", "transportation"), row)
    assert told["locations"] == {"train": 12, "test": 6}
    assert told["cities"] == {"train": {"oslo": 24}, "test": {"oslo": 12}}
    assert told["scenes"]["test"] == {"indoor": 4, "outdoor": 4, "transportation": 4}
    assert told["sample_rates"] == {str(RATE): 36}
    assert told["formats"] == {"WAV PCM_16": 36}
    assert told["seconds"] == {str(float(SECONDS)): 36}
    assert len(told["sounds"]) == 36
    assert {sound["channels"] for sound in told["sounds"]} == {1}


@pytest.mark.parametrize(("name", "clips", "recordings"), [("scenes3", 184, 88), ("tau24", 8, 7)])
def test_real_datasets_have_no_faults(shared, capsys, name, clips, recordings):
    status, told = check(shared / name, capsys)
    assert (status, told["faults"], told["clips"]) == (0, [], clips)
    assert sum(told["locations"].values()) == recordings


# Faults and warnings


def spoil_row(root: Path, list_name: str, old: str, new: str) -> None:
    path = root / list_name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


FOLD = "evaluation_setup/fold1_"
FILE = "audio/indoor-oslo-0-0-a.wav"  # of the training list
TEST = "audio/indoor-oslo-5-1-a.wav"  # of the test list
FAULTS = {
    "missing": (lambda root: (root / FILE).unlink(), "missing audio files (train): 1 (audio/indoor-oslo-0-0-a.wav)"),
    "cut off": (lambda root: (root / FILE).write_bytes((root / FILE).read_bytes()[:9999]), "is truncated"),
    "text": (lambda root: (root / FILE).write_text("text"), "is not a sound file"),
    "nan": (lambda root: soundfile.write(root / FILE, [np.nan] * 999, RATE, subtype="FLOAT"), "NaN"),
    "copy": (lambda root: shutil.copy(root / FILE, root / TEST), "in train and test that sound the same: 1 (" + FILE),
    "unlisted": (lambda root: spoil_row(root, "meta.csv", FILE, "audio/x.wav"), "files without a row in meta.csv: 1"),
    "label": (lambda root: spoil_row(root, f"{FOLD}train.csv", "\tindoor", "\tbeach"), "labels other than in meta.csv"),
    "outside": (lambda root: spoil_row(root, f"{FOLD}train.csv", FILE, "../outside.wav"), "or contain '..': 1"),
    "location": (lambda root: spoil_row(root, "meta.csv", "\toslo-5", "\toslo-1"), "locations in both train and test"),
    "no list": (lambda root: (root / f"{FOLD}train.csv").unlink(), "fold1_train.csv does not exist"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_ends_in_status_1(root, capsys, fault):
    spoil, sentence = FAULTS[fault]
    spoil(root)
    status, told = check(root, capsys)
    assert status == 1
    assert any(sentence in told_of for told_of in told["faults"]), told["faults"]
    assert len(told["sounds"]) == 36 - (fault in ("missing", "cut off", "text", "nan", "unlisted"))


def test_faults_are_told_all_at_once(root, capsys):
    for fault in ("cut off", "label", "location"):
        FAULTS[fault][0](root)
    _, told = check(root, capsys)
    assert len(told["faults"]) == 3


def test_what_may_be_meant_so_is_a_warning(root, capsys):
    for number, (name, wave) in enumerate(
        {
            "silent": np.zeros(SECONDS * RATE),
            "deaf": np.stack([noise(SECONDS), np.zeros(SECONDS * RATE)], 1),
            "quiet": 1e-4 * noise(SECONDS),
            "clipped": (9 * noise(SECONDS)).clip(-1, 1),
            "offset": 0.2 + noise(SECONDS),
            "short": noise(1),
        }.items()
    ):
        soundfile.write(root / f"audio/indoor-oslo-{number % 4}-{number // 4}-a.wav", wave, RATE, subtype="PCM_24")
        assert name
    shutil.copy(root / "audio/outdoor-oslo-100-0-a.wav", root / "audio/outdoor-oslo-101-0-a.wav")
    shutil.copy(root / FILE, root / "audio/stray.wav")
    status, told = check(root, capsys)
    assert (status, told["faults"]) == (0, [])
    expected = [
        "sound files without a row in meta.csv: 1 (audio/stray.wav)",
        "recordings twice in train: 1 (audio/outdoor-oslo-100-0-a.wav = audio/outdoor-oslo-101-0-a.wav)",
        f"clips that are not {SECONDS} s long, as most are: 1 (audio/indoor-oslo-1-1-a.wav)",
        "digitally silent files: 1 (audio/indoor-oslo-0-0-a.wav)",
        "files with a silent channel: 1 (audio/indoor-oslo-1-0-a.wav)",
        "files quieter than -70 dB: 1 (audio/indoor-oslo-2-0-a.wav)",
        "clipped files: 1 (audio/indoor-oslo-3-0-a.wav)",
        "files with a DC offset over 0.02: 1 (audio/indoor-oslo-0-1-a.wav)",
    ]
    assert len(told["warnings"]) == len(expected)
    for warning, sentence in zip(told["warnings"], expected, strict=True):
        assert sentence in warning


def test_a_class_with_a_format_of_its_own_is_told(root, capsys):
    for path in root.glob("audio/outdoor*"):
        wave, _ = soundfile.read(path)
        soundfile.write(path, wave, 2 * RATE)
    _, told = check(root, capsys)
    assert any("number of channels of their own: 1 (outdoor)" in warning for warning in told["warnings"])


# A folder for each class


def test_a_folder_is_divided_as_a_run_divides_it(tmp_path, capsys):
    for number, label in enumerate(("rain", "street")):
        for walk in range(4):
            (tmp_path / label).mkdir(exist_ok=True)
            soundfile.write(tmp_path / label / f"{walk}.flac", noise(25, 10 * number + walk), RATE)
    status, told = check(tmp_path, capsys)
    assert (status, told["layout"], told["faults"], told["warnings"]) == (0, "folder", [], [])
    assert told["files"] == 8
    row = {"train": 9, "test": 3, "locations": 4}  # 25 s are three clips
    assert told["classes"] == {"rain": row, "street": row}
    shutil.copy(tmp_path / "rain/0.flac", tmp_path / "rain/copy.flac")
    shutil.copy(tmp_path / "rain/0.flac", tmp_path / "rain/again.flac")
    shutil.copy(tmp_path / "rain/0.flac", tmp_path / "rain/once.flac")
    status, told = check(tmp_path, capsys)
    assert status == 1
    assert "in train and test that sound the same: 2 (rain/0.flac = rain/" in told["faults"][0]
    assert "#t=" not in told["faults"][0]
    for path in (tmp_path / "street").iterdir():
        if path.stem != "0":
            path.rename(tmp_path / "rain" / f"street-{path.name}")
    status, told = check(tmp_path, capsys)
    assert status == 1
    assert any("street has a single recording" in fault for fault in told["faults"])


# The command


def test_the_tables_fit_and_escape_what_a_terminal_would_obey(root, capsys):
    text = (root / "meta.csv").read_text()
    for path in (root / "meta.csv", *root.glob("evaluation_setup/*")):
        path.write_text(path.read_text().replace("\toutdoor", "\tout\x1b[31mdoor" + "s" * 60))
    assert text != (root / "meta.csv").read_text()
    with pytest.raises(SystemExit):
        main([str(root)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "no faults" in out
    assert max(map(len, out.splitlines()[1:])) <= 100  # below the path


def test_what_is_no_dataset_is_one_sentence(tmp_path):
    for folder, sentence in ((tmp_path / "nowhere", "is not a directory"), (tmp_path, "contains no sound files")):
        with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
            main([str(folder)])


def test_the_command_runs_without_torch_and_with_a_closed_pipe(tiny):
    command = f"{sys.executable} -m asc.check {tiny} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{tiny}: lists in the TAU layout\n"
    assert done.stderr == ""
    script = "import sys, asc.check.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60).returncode == 0


def test_lists_may_be_others(tmp_path, capsys):
    root = write_tiny(tmp_path / "tiny")
    (root / "evaluation_setup").rename(root / "split_setup")
    assert check(root, capsys)[0] == 1
    words = ["--train-list", "split_setup/fold{fold}_train.csv", "--test-list", "split_setup/fold1_evaluate.csv"]
    status, told = check(root, capsys, *words)
    assert (status, told["locations"]) == (0, {"train": 12, "test": 6})
