"""Files are written whole or not at all."""

import errno
import os

import pytest

from asc import InputError
from asc.files import atomic_write, regular


def test_a_written_file_replaces_the_old_one(tmp_path):
    file = tmp_path / "table.csv"
    for text in ("old", "new"):
        with atomic_write(file) as temporary:
            assert temporary.suffix == ".csv"
            temporary.write_text(text)
        assert file.read_text() == text
    assert os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_file_alone(fault, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(fault), atomic_write(file) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise fault
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_what_the_system_refuses_is_one_sentence_that_names_the_file(tmp_path):
    with (
        pytest.raises(InputError, match=r"full.csv cannot be written \(No space left on device\)"),
        atomic_write(tmp_path / "full.csv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(InputError, match=r"gone/table.csv cannot be written \(No such file"),
        atomic_write(tmp_path / "gone/table.csv") as temporary,
    ):
        temporary.write_text("")


def test_a_pipe_is_neither_read_nor_replaced(tmp_path):
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    with (
        pytest.raises(InputError, match=r"table.csv cannot be written \(not a regular file\)"),
        atomic_write(pipe) as temporary,
    ):
        temporary.write_text("new")
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="not a regular file"):
        regular(pipe)
