"""The contents of a dataset against arithmetic; and the faults that a run would meet."""

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
from asc.check.sounds import BLOCK_VALUES, analyze


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


def test_level_peak_offset_and_clipping_match_arithmetic(tmp_path):
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


@pytest.mark.parametrize("first", range(BLOCK_VALUES - 3, BLOCK_VALUES + 1))
def test_runs_across_blocks_are_counted_once(tmp_path, first):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, BLOCK_VALUES + 100)
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


def test_a_dataset_without_faults_is_counted(root, capsys):
    status, report = check(root, capsys)
    assert status == 0
    assert report["faults"] == report["warnings"] == []
    assert (report["layout"], report["files"], report["clips"], len(report["sounds"])) == ("TAU", 36, 36, 36)
    assert report["hours"] == pytest.approx(36 * SECONDS / 3600)
    row = {"train": 8, "test": 4, "unused": 0, "locations": 6}
    assert report["classes"] == dict.fromkeys(("indoor", "outdoor", "transportation"), row)
    assert report["locations"] == {"train": 12, "test": 6}
    assert report["cities"] == {"train": {"oslo": 24}, "test": {"oslo": 12}}
    assert report["scenes"]["test"] == {"indoor": 4, "outdoor": 4, "transportation": 4}
    assert report["sample_rates"] == {str(RATE): 36}
    assert report["formats"] == {"WAV PCM_16": 36}
    assert report["seconds"] == {str(float(SECONDS)): 36}


def test_real_dataset_has_no_faults(shared, capsys):
    status, report = check(shared / "tau24", capsys)
    assert (status, report["faults"], report["clips"], sum(report["locations"].values())) == (0, [], 8, 7)


def spoil_row(root: Path, list_name: str, old: str, new: str) -> None:
    path = root / list_name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


FOLD = "evaluation_setup/fold1_"
FILE = "audio/indoor-oslo-0-0-a.wav"  # of the training list
TEST = "audio/indoor-oslo-5-1-a.wav"  # of the test list
FAULTS = {
    "missing": (lambda root: (root / FILE).unlink(), FILE),
    "cut off": (lambda root: (root / FILE).write_bytes((root / FILE).read_bytes()[:9999]), f"{FILE} is truncated"),
    "text": (lambda root: (root / FILE).write_text("text"), f"{FILE} is not a sound file"),
    "nan": (lambda root: soundfile.write(root / FILE, [np.nan] * 999, RATE, subtype="FLOAT"), "NaN"),
    "copy": (lambda root: shutil.copy(root / FILE, root / TEST), f"{FILE} = {TEST}"),
    "unlisted": (lambda root: spoil_row(root, "meta.csv", FILE, "audio/x.wav"), FILE),
    "label": (lambda root: spoil_row(root, f"{FOLD}train.csv", "\tindoor", "\tbeach"), "labels other than"),
    "outside": (lambda root: spoil_row(root, f"{FOLD}train.csv", FILE, "../outside.wav"), "../outside.wav"),
    "location": (lambda root: spoil_row(root, "meta.csv", "\toslo-5", "\toslo-1"), "locations in both"),
    "no list": (lambda root: (root / f"{FOLD}train.csv").unlink(), "fold1_train.csv"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_status_1(root, capsys, fault):
    spoil, sentence = FAULTS[fault]
    spoil(root)
    status, report = check(root, capsys)
    assert status == 1
    assert any(sentence in message for message in report["faults"]), report["faults"]
    assert len(report["sounds"]) == 36 - (fault in ("missing", "cut off", "text", "nan", "unlisted"))


def test_all_faults_are_reported_at_once_with_all_names(root, capsys):
    for fault in ("cut off", "label", "location"):
        FAULTS[fault][0](root)
    gone = [f"audio/outdoor-oslo-10{place}-{part}-a.wav" for place in range(4) for part in range(2)]
    for name in gone:
        (root / name).unlink()
    _, report = check(root, capsys)
    assert len(report["faults"]) == 4
    assert report["unreadable"] == [FILE]
    (sentence,) = (fault for fault in report["faults"] if "missing" in fault)
    assert report["names"][sentence] == gone


def test_suspect_sounds_are_warnings(root, capsys):
    waves = {
        "indoor-oslo-0-0": np.zeros(SECONDS * RATE),
        "indoor-oslo-1-0": np.stack([noise(SECONDS), np.zeros(SECONDS * RATE)], 1),
        "indoor-oslo-2-0": 1e-4 * noise(SECONDS),
        "indoor-oslo-3-0": (9 * noise(SECONDS)).clip(-1, 1),
        "indoor-oslo-0-1": 0.2 + noise(SECONDS),
        "indoor-oslo-1-1": noise(1),
    }
    for name, wave in waves.items():
        soundfile.write(root / f"audio/{name}-a.wav", wave, RATE, subtype="PCM_24")
    shutil.copy(root / "audio/outdoor-oslo-100-0-a.wav", root / "audio/outdoor-oslo-101-0-a.wav")
    shutil.copy(root / FILE, root / "audio/stray.wav")
    status, report = check(root, capsys)
    assert (status, report["faults"]) == (0, [])
    expected = [
        ("meta.csv", "stray"),
        ("twice in train", "outdoor-oslo-100-0-a.wav = audio/outdoor-oslo-101-0"),
        (f"not {SECONDS} s long", "indoor-oslo-1-1"),
        ("digitally silent", "indoor-oslo-0-0"),
        ("silent channel", "indoor-oslo-1-0"),
        ("quieter than -70 dB", "indoor-oslo-2-0"),
        ("clipped", "indoor-oslo-3-0"),
        ("DC offset over 0.02", "indoor-oslo-0-1"),
    ]
    for warning, (what, name) in zip(report["warnings"], expected, strict=True):
        assert what in warning
        assert f": 1 (audio/{name}-a.wav)" in warning or f": 1 (audio/{name}.wav)" in warning


def test_a_class_with_a_format_of_its_own_is_a_warning(root, capsys):
    for path in root.glob("audio/outdoor*"):
        wave, _ = soundfile.read(path)
        soundfile.write(path, wave, 2 * RATE)
    _, report = check(root, capsys)
    assert any("number of channels of their own: 1 (outdoor)" in warning for warning in report["warnings"])


def test_a_folder_is_divided_as_by_a_run(tmp_path, capsys):
    for number, label in enumerate(("rain", "street")):
        for walk in range(4):
            (tmp_path / label).mkdir(exist_ok=True)
            soundfile.write(tmp_path / label / f"{walk}.flac", noise(25, 10 * number + walk), RATE)
    status, report = check(tmp_path, capsys)
    assert (status, report["layout"], report["faults"], report["warnings"]) == (0, "folder", [], [])
    assert report["files"] == 8
    row = {"train": 9, "test": 3, "locations": 4}  # 25 s are three clips
    assert report["classes"] == {"rain": row, "street": row}
    for name in ("copy", "again", "once"):
        shutil.copy(tmp_path / "rain/0.flac", tmp_path / f"rain/{name}.flac")
    status, report = check(tmp_path, capsys)
    assert status == 1
    assert "in train and test that sound the same: 2 (rain/0.flac = rain/" in report["faults"][0]
    assert "#t=" not in report["faults"][0]
    for path in (tmp_path / "street").iterdir():
        if path.stem != "0":
            path.rename(tmp_path / "rain" / f"street-{path.name}")
    status, report = check(tmp_path, capsys)
    assert status == 1
    assert any("street has a single recording" in fault for fault in report["faults"])


def test_tables_fit_100_columns_and_escape_control_characters(root, capsys):
    for path in (root / "meta.csv", *root.glob("evaluation_setup/*")):
        path.write_text(path.read_text().replace("\toutdoor", "\tout\x1b[31mdoor" + "s" * 60))
    with pytest.raises(SystemExit):
        main([str(root)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"out\x1b[31mdoor" in out
    assert "no faults" in out
    assert max(map(len, out.splitlines()[1:])) <= 100  # below the path


def test_the_command_needs_no_torch(tiny):
    script = f"""if True:
        import sys
        from asc.check.__main__ import main
        try:
            main([{str(tiny)!r}])
        finally:
            assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tiny}: lists in the TAU layout\n")


def test_list_options_name_other_lists_and_other_folders_are_rejected(tmp_path, capsys):
    root = write_tiny(tmp_path / "tiny")
    (root / "evaluation_setup").rename(root / "split_setup")
    assert check(root, capsys)[0] == 1
    words = ["--train-list", "split_setup/fold{fold}_train.csv", "--test-list", "split_setup/fold1_evaluate.csv"]
    status, report = check(root, capsys, *words)
    assert (status, report["locations"]) == (0, {"train": 12, "test": 6})
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SystemExit, match=f"^error: .*{folder}"):
            main([str(folder)])
