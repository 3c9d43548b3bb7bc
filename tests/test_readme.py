"""What the README tells to type works, in its order, and the files it names are there."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import REPOSITORY, call
from mobilenet import published
from tiny import RATE, SETTINGS

README = (REPOSITORY / "README.md").read_text()
QUICK = {"train.py": [*SETTINGS, "trainer.max_epochs=1"], "compress.py": ["trainer.max_epochs=1", "data.num_workers=0"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The command lines in words, but for the first block, which installs and which other tests run as it stands."""
    lines = [line for block in blocks("")[1:] for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("python ", "pytest "))]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the README's runs/ and report.png go."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def own(tiny, place) -> Path:
    """Recordings in a folder for each class, such as a user has."""
    for file in sorted(tiny.glob("audio/*.wav")):
        label, _, name = file.name.partition("-")
        (place / "own" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / "own" / label / name)
    return place / "own"


def filled_in(words: list[str], tiny: Path, own: Path, place: Path) -> list[str]:
    """A command of the README with this machine's folders, and without what takes a network or the whole challenge."""
    folder = own if "data=folder" in words or words[0] == "asc.check" else tiny
    names = {"DIR": folder, "RECORDINGS": own, "MORE": place / "more", "TEACHER": place}
    words = [re.sub(r"\b(DIR|RECORDINGS|MORE|TEACHER)\b", lambda found: str(names[found[0]]), word) for word in words]
    words = [word for word in words if word != "--web"]
    words = [re.sub(r"\bruns\b", str(place / "runs"), word) for word in words]
    extra = {
        "asc.download": ["--dry-run"],
        "asc.evaluate": ["--output", str(place / "evaluation")],
    }
    return [*words, *extra.get(words[0], [])]


def test_every_command_works(tiny, own, place, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    torch.save(published(0.1), place / "mn04_as_mAP_432.pt")
    (place / "more").mkdir()
    soundfile.write(place / "more/night.wav", np.random.default_rng(0).normal(0, 0.1, 4 * RATE), RATE)
    cache = tmp_path_factory.mktemp("cache")
    done = []
    for _, program, *words in commands():
        words = filled_in(words, tiny, own, place)
        if program in QUICK:
            given = {word.partition("=")[0] for word in words}
            quick = [word for word in QUICK[program] if word.partition("=")[0] not in given]
            assert call(*words, *quick, f"data.cache_dir={cache}", script=program) is None, words
            done.append(program)
        else:
            assert program == "-m"
            assert call(*words[1:], script=words[0]) in (None, 0), words
            done.append(words[0])
    commanded = ["check", "download", "evaluate", "predict", "report", "bundle"]
    assert {"train.py", "compress.py", *(f"asc.{name}" for name in commanded)} <= set(done)
    assert (place / "runs/report.html").exists()


def test_every_python_block_works(tiny, place, tmp_path):
    """After the commands above, whose run it loads."""
    assert (place / "runs/int8/int8.ckpt").exists(), "run the whole file"
    clip = shutil.copy(next(tiny.glob("audio/indoor*.wav")), tmp_path / "clip.wav")
    names: dict = {"wave": 0.1 * torch.randn(2, 2 * RATE)}
    for block in blocks("python"):
        exec(block.replace('"runs/', f'"{place}/runs/').replace("clip.wav", str(clip)), names)
    assert names["logits"].shape == (2, 3)


def test_every_file_that_it_names_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_it_is_a_page():
    assert len(README.splitlines()) <= 160
