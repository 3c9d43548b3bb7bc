"""Every command with bad arguments, damaged files and files of another kind: a sentence, or an answer that makes sense.

`pytest tests/test_fuzz_commands.py --tries 500 --fuzz-seed 1` tries more of them, four for each of the number.
"""

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import call
from damage import VALUES, damaged, odd_thing
from tiny import RATE, SETTINGS, sound

from asc import InputError, SceneClassifier
from asc.errors import printable
from asc.predictor import load_predictor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits of memory")
LIMIT = 20  # s
MEMORY = 6 * 2**30  # bytes of addresses, beyond what the process has
SMALL = ["frontend.n_fft=512", "frontend.win_length=512", "frontend.hop_length=256", "frontend.n_bins=32"]
ONE_EPOCH = ["trainer.max_epochs=1", "data.num_workers=0"]


@dataclass(frozen=True)
class Command:
    """A command line that is good, in the folder of `world`.

    Attributes:
        script: the module, or a function of this file.
        words: its arguments.
        options: that it knows besides.
        files: that it reads, which are damaged.
        fixed: words that stay: without them it would take long, or reach for the network.
        is_slow: is tried less often.
    """

    script: str
    words: str
    options: str = ""
    files: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    is_slow: bool = False


PYTHON = ("load", "classify", "forward")  # functions of this file
CHECKPOINTS = ("run/checkpoints/best.ckpt", "int8/int8.ckpt")
ONNX = ("int8/model.onnx", "int8/frontend.onnx")
SOUNDS = ("sounds/a.wav", "sounds/b.flac", "sounds/c.ogg", "sounds/d.mp3")
TABLES = ("data/meta.csv", "data/evaluation_setup/fold1_train.csv", "data/evaluation_setup/fold1_evaluate.csv")
CLIP = "data/audio/outdoor-oslo-104-0-a.wav"
FIGURES = ("run/results.json", "int8/results.json")
OF_RUN = ("run/predictions.csv", "run/metrics.csv", "run/.hydra/config.yaml")
PREDICT = "--json --csv --hop --picture --microphone --channel --threads --trusted"
EVALUATE = "--split --output --json --worst --seed --trusted data.fold data.cv data.batch_size data.labels"
REPORT = "--html --mistakes --no-audio --picture --no-latency --json --compare"
COMMANDS = [
    Command("asc.predict", "run/checkpoints/best.ckpt sounds --json", PREDICT, (*CHECKPOINTS[:1], *SOUNDS)),
    Command("asc.predict", "int8/int8.ckpt sounds/a.wav sounds/b.flac", PREDICT, (*CHECKPOINTS[1:], *SOUNDS[:2])),
    Command("asc.predict", "int8/model.onnx sounds/c.ogg --csv --hop 0.5", PREDICT, (*ONNX, *SOUNDS[2:3])),
    Command("asc.predict", "int8/model.onnx sounds/d.mp3 --picture out/a.png --channel mean", PREDICT, SOUNDS[3:]),
    Command(
        "asc.evaluate",
        "run/checkpoints/best.ckpt --output out --json",
        EVALUATE,
        (*CHECKPOINTS[:1], *TABLES),
        is_slow=True,
    ),
    Command(
        "asc.evaluate", "int8/model.onnx data=dcase data.root=data --output out --json", EVALUATE, ONNX, is_slow=True
    ),
    Command("asc.report", "run int8 --json --no-latency", REPORT, (*FIGURES, *CHECKPOINTS, *OF_RUN)),
    Command("asc.report", "run int8 --html out/a.html --no-latency", REPORT, (*FIGURES, *OF_RUN), is_slow=True),
    Command("asc.report", "--compare run int8", REPORT, (*FIGURES, *CHECKPOINTS)),
    Command("asc.export", "run/checkpoints/best.ckpt --output out/a.onnx --frontend", "--trusted", CHECKPOINTS[:1]),
    Command("asc.export", "int8/int8.ckpt --output out/a.onnx", "--trusted", CHECKPOINTS[1:]),
    Command(
        "asc.bundle", "int8 out/bundle --json", "--force --trusted", (*CHECKPOINTS[1:], *FIGURES[1:]), is_slow=True
    ),
    Command("asc.check", "data --json", "--fold --train-list --test-list", (*TABLES, CLIP)),
    Command("asc.check", "classes", "--json", ("classes/one/a.wav", "classes/two/b.flac")),
    Command(
        "asc.logistic_regression",
        "data=dcase data.root=data data.cache_dir=cache sample_rate=16000 data.num_workers=0",
        "data.cv data.fold seed data.channel data.clip_seconds",
        TABLES,
        fixed=("data=dcase", "data.root=data", "data.cache_dir=cache", "data.num_workers=0"),
        is_slow=True,
    ),
    Command(
        "asc.download",
        "tau2020_3class out/tau --dry-run",
        "--list --meta-only --keep-zips --mirror --parallel --retries --timeout --json",
        fixed=("--dry-run",),
    ),
    Command("asc.benchmark", "frontend", "--device --threads --batch --rounds --json"),  # refused: no conf/ is here
    Command("load", "run/checkpoints/best.ckpt", files=CHECKPOINTS[:1]),
    Command("load", "int8/int8.ckpt", files=CHECKPOINTS[1:]),
    Command("load", "int8/model.onnx", files=ONNX),
    Command("classify", "sounds/a.wav", files=SOUNDS[:1]),
    Command("classify", "sounds/d.mp3", files=SOUNDS[3:]),
    Command("forward", "wave"),
]
NONSENSE = [  # words of a command line
    *("", "abc", "0", "-1", "1.5", "1e400", "nan", "inf", "2147483648", "9" * 30, "true", "null", "é１💥", "--", "-"),
    *("..", ".", "missing/deep/file", "x" * 255, "x" * 5000, "\x1b[31mred", "two\nlines", "\udcff\udcfe", "~nobody"),
    *("[", "*", "**", "%s", "{}", "{fold}", "${oc.env:HOME}", "a=b=c", "=", "++x=1", "data.root=", "data.nothing=1"),
    *("loop", "null-device", "full-device", "pipe", "unreadable", "folder", "run", "data", "sounds/a.wav"),
    *("run/checkpoints/last.ckpt", "int8/qat.ckpt", "int8/int8.ckpt", "run/model.onnx", "int8/frontend.onnx"),
    *("run/results.json", "run/predictions.csv", "data/meta.csv", "-x", "--nothing", "--json=1", "--output", "--help"),
    *("other-labels.ckpt", "classes", "out", "out/new", "out/new.json", "out/new/new.json", "run/checkpoints"),
]


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory) -> Iterator[Path]:
    """A folder with good files of each kind, and odd ones, which is the current directory."""
    root = tmp_path_factory.mktemp("fuzz") / "world"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody answers
        patch.setenv("https_proxy", "http://127.0.0.1:9")
        patch.chdir(root)
        fill(root, tiny)
        copy(root, root.with_name("good"))
        patch.chdir(root.parent)
        yield root


def copy(folder: Path, to: Path) -> None:
    """Put a copy of a folder, with its pipes and links, in the place of another."""
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", folder, to], check=True)


def fill(root: Path, tiny: Path) -> None:
    """Make the files of `world`."""
    shutil.copytree(tiny, root / "data")
    run, int8 = ([*ONE_EPOCH, f"hydra.run.dir={root / name}"] for name in ("run", "int8"))
    data = ["data=dcase", f"data.root={root}/data", "data.cache=false", *SETTINGS[:-1]]
    assert call(*data, *SMALL, *run) is None
    assert call(f"checkpoint={root}/run/checkpoints/best.ckpt", "phase=qat", *int8, script="compress.py") is None
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    content["hyper_parameters"]["labels"] = ["rain", "street", "wood"]
    torch.save(content, "other-labels.ckpt")
    rng = np.random.default_rng(0)
    for name in SOUNDS:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(name, sound("indoor", rng), RATE)
    for label, suffix in (("one", "wav"), ("two", "flac")):
        Path("classes", label).mkdir(parents=True)
        for letter in "ab":
            soundfile.write(f"classes/{label}/{letter}.{suffix}", sound("outdoor", rng), RATE)
    Path("loop").symlink_to("loop")
    Path("null-device").symlink_to("/dev/null")
    Path("full-device").symlink_to("/dev/full")
    os.mkfifo("pipe")
    Path("unreadable").write_text("secret")
    Path("unreadable").chmod(0)
    Path("folder").mkdir()
    Path("out").mkdir()


def load(path: str) -> None:
    """Python: load a classifier and use it."""
    predictor = load_predictor(path, threads=1)
    wave = np.random.default_rng(0).standard_normal((2, predictor.clip_samples)).astype(np.float32)
    show(predictor.labels, predictor.probabilities(0.1 * wave))


def classify(path: str) -> None:
    """Python: the scene in a file."""
    model = SceneClassifier.load_from_checkpoint("run/checkpoints/best.ckpt")
    probabilities = model.classify(path)
    show(list(probabilities), np.array([list(probabilities.values())]))


def forward(kind: str) -> None:
    """Python: logits of a waveform, the good one or one of many bad ones."""
    chance = random.Random(repr(kind))
    good = 0.1 * torch.randn(2, RATE)
    bad = [
        *VALUES, good.numpy(), good.tolist(), good.int(), good.double(), good.half(), good.bfloat16(), good.bool(),
        good.to(torch.complex64), good[0], good[None], good[None, None], good[:, :1], good[:0], good[:, :0],
        good * torch.inf, good * 1e30, good * 1e-30, good * 0, good.to_sparse(),
        torch.tensor(1.0), good.byte(), good.clone().requires_grad_(), good[:, ::2], good.t(),
        torch.quantize_per_tensor(good, 0.1, 0, torch.qint8), torch.full((1, RATE), torch.nan),
    ]  # fmt: skip
    model = SceneClassifier.load_from_checkpoint("run/checkpoints/best.ckpt")
    with torch.inference_mode():
        logits = model(good if kind == "wave" else chance.choice(bad))
    show(model.labels, logits.softmax(-1).numpy())


def show(labels: list[str], rows: np.ndarray) -> None:
    """Print probabilities as `asc.predict` does."""
    for row in rows:
        print(json.dumps({"probabilities": dict(zip(labels, row.tolist(), strict=True))}))


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit status (below 0: the signal that killed it), output, and seconds."""

    status: int
    out: str
    err: str
    seconds: float


def outcome(script: str, words: list[str], forked: bool) -> Outcome:
    """Run a command, in a fork of this process where it may crash without an exception."""
    start = time.monotonic()
    if forked:
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(perform(script, words)))
        process.start()
        process.join(2 * LIMIT)
        process.kill()
        process.join()
        status = process.exitcode or 0
    else:
        status = perform(script, words)
    seconds = time.monotonic() - start
    out, err = (path.read_text("utf-8", "surrogateescape") for path in (Path("../stdout"), Path("../stderr")))
    return Outcome(status, out, err, seconds)


def perform(script: str, words: list[str]) -> int:
    """The exit status of a command with bounded time and memory; its output is in files."""
    memory = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with (
        open(os.devnull) as nothing,
        open("../stdout", "w", encoding="utf-8") as out,
        open("../stderr", "w", encoding="utf-8", errors="backslashreplace") as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, stream in (("stdin", nothing), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        resource.setrlimit(resource.RLIMIT_AS, (memory + MEMORY, hard))
        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(LIMIT)
        try:
            code = globals()[script](*words) if script in PYTHON else call(*words, script=script)
        except InputError as error:  # of Python, where the user meets it as it is
            code = f"error: {printable(str(error))}"
        except BaseException:
            code = traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if isinstance(code, str):
            print(code, file=err)
            return 1
        return code or 0


def too_long(*_: object) -> None:
    """What the alarm calls."""
    raise BaseException("too long")


def fault(command: Command, done: Outcome) -> str | None:
    """What is wrong with the outcome of a try."""
    if done.seconds >= LIMIT or "BaseException: too long" in done.err:
        return f"over {LIMIT} s"
    if done.status < 0:
        return f"killed by signal {-done.status}"
    if "Traceback" in done.err or "Traceback" in done.out:
        return "traceback"
    if done.status == 2:
        return None if done.err.startswith("usage: ") else "exit 2 without usage"
    if "\x1b" in done.out + done.err:
        return "ESC in the output"
    if done.status == 0:
        return insane(done.out)
    lines = [line for line in done.err.splitlines() if not is_progress(line)]
    if command.script == "asc.check" and not lines and "fault" in done.out:
        return None
    if not lines or not all(line.startswith("error: ") for line in lines):
        return "not a sentence"
    return "several sentences" if len(lines) > 1 and command.script != "asc.predict" else None


def is_progress(line: str) -> bool:
    """Whether a line on standard error is a notice beside the answer; libsndfile's decoder of MP3 writes some."""
    return bool(re.match(r"rehearsal: |\d+ files, |Note: |Warning: |\[src/libmpg123", line))


def insane(out: str) -> str | None:
    """What no good answer holds: probabilities that do not add up to 1, accuracies beyond 0 to 1."""
    try:
        values = [json.loads(out)]
    except ValueError:
        values = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    for name, figure in (pair for value in values for pair in figures(value)):
        numbers = list(figure.values()) if isinstance(figure, dict) else np.ravel(figure).tolist()
        is_good = all(number is None or 0 <= number <= 1 for number in numbers)
        if not is_good or (name == "probabilities" and abs(sum(numbers) - 1) > 1e-3):
            return f"{name}={figure}"
    return None


def figures(value: object) -> Iterator[tuple[str, object]]:
    """The named accuracies and sets of probabilities within an answer."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("probabilities", "accuracy", "macro_accuracy", "class_accuracy"):
                yield name, inner
            else:
                yield from figures(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from figures(inner)


def files_of(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Size, time and inode of everything in a folder."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder, name)
            about = path.lstat()
            found[path] = (0, 0, about.st_ino) if path.is_dir() else (about.st_size, about.st_mtime_ns, about.st_ino)
    return found


def bad_words(command: Command, chance: random.Random) -> list[str]:
    """The command's words with one or two of them replaced, lost, added or repeated."""
    words = command.words.split()
    if command.script in PYTHON:
        return [chance.choice(NONSENSE)]
    for _ in range(chance.choice([1, 1, 2])):
        position = chance.randrange(len(words) + 1)
        is_free = position < len(words) and words[position] not in command.fixed
        match chance.randrange(4):
            case 0 if is_free:
                words[position] = chance.choice(NONSENSE)
            case 1 if is_free and len(words) > 1:
                del words[position]
            case 2 if command.options:
                option, value = chance.choice(command.options.split()), chance.choice(NONSENSE)
                words[position:position] = [f"{option}={value}"] if "." in option else [option, value]
            case _:
                words.insert(position, chance.choice(NONSENSE))
    return words


def spoiled_file(command: Command, chance: random.Random) -> str:
    """Damage one of the files that a command reads; what was done to it."""
    name = chance.choice(command.files)
    path = Path(name)
    if chance.random() < 0.1:
        path.unlink()
        odd_thing(path, chance)
        kind = "is not there" if not os.path.lexists(path) else oct(path.lstat().st_mode)
    else:
        others = [Path(other) for one in COMMANDS for other in one.files]
        content = damaged(path, others, chance)
        path.write_bytes(content)
        kind = f"{len(content)} bytes, {content[:30]!r}"
    return f"{name}: {kind}"


def attempt(world: Path, seed: str) -> tuple[str, Outcome, str | None]:
    """One try: what it was, what came of it, and what is wrong with that."""
    chance = random.Random(seed)
    copy(world.with_name("good"), world)
    os.chdir(world)
    try:
        [command] = chance.choices(COMMANDS, [0.2 if command.is_slow else 1 for command in COMMANDS])
        words, what, kind = command.words.split(), "all is well", chance.random()
        if kind < 0.65 and command.files:
            what = spoiled_file(command, chance)
        elif kind < 0.95:
            words, what = bad_words(command, chance), "arguments"
        before = files_of(world)
        done = outcome(command.script, words, forked=what.partition(":")[0].endswith(".onnx"))
        wrong = fault(command, done) or touched(before, world, done)
        if what == "all is well" and done.status and command.script != "asc.benchmark":
            wrong = "refused"
        return f"{seed}: {command.script} {words} ({what})", done, wrong
    finally:
        os.chdir(world.parent)


def touched(before: dict[Path, tuple[int, int, int]], world: Path, done: Outcome) -> str | None:
    """What a command should not have done to the files of its folder."""
    after = files_of(world)
    changed = [str(path.relative_to(world)) for path in before if after.get(path) != before[path]]
    new = [path for path in after.keys() - before.keys() if not path.is_relative_to(world / "cache")]
    rests = [str(path.relative_to(world)) for path in new if ".tmp" in path.name or done.status]
    if changed or rests:
        return f"changed {changed}, left {rests}"
    return None


def test_bad_words_and_files_are_refused_in_a_sentence_or_harmless(world, request):
    seed, faults = request.config.getoption("--fuzz-seed"), []
    for number in range(4 * request.config.getoption("--tries")):
        what, done, wrong = attempt(world, f"{seed}-{number}")
        if wrong:
            faults.append(f"{what}\n  {wrong}: {done.out[-300:]!r} {done.err[-600:]}")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
