"""The READMEs show after `$ ` what the commands print, apart from numbers, places and what a network decides."""

import doctest
import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout

from command import REPOSITORY, call

from asc.data.synthetic import write_scenes

READMES = sorted(file for where in ("", "*/", "asc/*/") for file in REPOSITORY.glob(f"{where}README.md"))
DIFFERING = {  # between machines
    r"(?<!\S)/\S+": "/",
    r"audio/\S+": "audio/",
    r"(?<=one thread of ).*|(?<=precision   ).*": "",
    r"\b(indoor|outdoor|transportation)\b|\b(over|under)(?=confident)": "",
    r"\d[\d.,:]*(e-\d+)?[kMGT]?": "0",
    r"[ -]+": " ",
}


def shown() -> list[tuple[str, str]]:
    """The commands in the READMEs and their output; the others use the runs of train.py and compress.py."""
    blocks = [re.findall(r"^```\n(\$ .*?)^```$", file.read_text(), re.M | re.S) for file in READMES]
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(sum(blocks, [])), re.M)
    return sorted(found, key=lambda pair: ("train.py" not in pair[0], "compress.py" not in pair[0]))


def printed(command: str) -> str:
    program, *words = shlex.split(command)
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
        status = call(*words[program == "python" :], script=words[0] if program == "python" else program)
    assert status in (None, 0), (command, status)
    return output.getvalue()


def comparable(text: str) -> str:
    for pattern, token in DIFFERING.items():
        text = re.sub(pattern, token, text)
    return text


def test_the_readmes_show_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "data/synthetic", seconds=1)  # the same files as train.py makes, but shorter
    options, checker = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, doctest.OutputChecker()
    commands = shown()
    assert {"check", "download", "evaluate", "predict", "report", "export", "bundle"} <= {
        command.split()[1] for command, _ in commands
    }
    for command, output in commands:
        text = printed(command)
        assert checker.check_output(comparable(output), comparable(text), options), f"$ {command}\n{text}"
