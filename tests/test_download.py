"""asc.download against a server on this machine with the faults of real ones."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command import ENVIRONMENT, REPOSITORY, start
from faulty_server import Site, serve

from asc.download.__main__ import main
from asc.download.catalog import names, read_dataset
from asc.download.transfer import retry_after

TOP = "TAU-tiny-development"
NOISE = random.Random(0).randbytes(3_000_000)  # does not shrink in an archive


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


TREE = {
    "README.md": b"# TAU",
    "meta.csv": b"filename\tscene_label\n",
    "evaluation_setup/fold1_train.csv": b"filename\n",
    **{f"audio/bus-lyon-1-{i}-a.wav": NOISE[i * 100_000 : (i + 1) * 100_000] for i in range(12)},
}
PARTS = {
    "doc": ["README.md"],
    "meta": ["meta.csv", "evaluation_setup/fold1_train.csv"],
    "audio.1": [name for name in TREE if name.startswith("audio/")][:6],
    "audio.2": [name for name in TREE if name.startswith("audio/")][6:],
}
ZIPS = {
    f"tiny.{part}.zip": zipped({f"{TOP}/{name}": TREE[name] for name in members}) for part, members in PARTS.items()
}
FIRST, SECOND = "tiny.audio.1.zip", "tiny.audio.2.zip"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Retries come soon."""
    monkeypatch.setattr("asc.download.transfer.FIRST_PAUSE", 0.02)


@pytest.fixture
def site():
    with serve(dict(ZIPS)) as served:
        yield served


def described(path: Path, site: Site, sizes: dict[str, int | str] | None = None, checked: bool = True) -> str:
    """A dataset's file about what the site serves now; `sizes` for files of other sizes."""
    lines = [
        f"      {name} {(sizes or {}).get(name, len(content))} {hashlib.md5(content).hexdigest() if checked else '-'}"
        for name, content in site.files.items()
    ]
    texts = [f"{key}: the {key}" for key in ("title", "content", "page", "licence", "citation")]
    path.write_text("\n".join([*texts, "sources:", f"  - url: {site.url}", "    files: |", *lines]) + "\n")
    return str(path)


@pytest.fixture
def dataset(site, tmp_path):
    return described(tmp_path / "tiny.yaml", site)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def tree(root: Path) -> dict[str, bytes]:
    """All files that a user sees."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".download/")}


def failure(capsys, *arguments: object) -> str:
    """What the command says when it fails: one sentence at last, no traceback."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert str(stop.value.code).startswith("error: ")
    return errors + str(stop.value.code)


# what is downloaded


def test_the_folder_is_one_to_train_on(dataset, root, site, capsys):
    main([dataset, str(root)])
    assert tree(root) == TREE
    out = capsys.readouterr().out
    assert out.index("the licence") < out.index(FIRST)
    assert out.endswith(f"python train.py data=dcase data.root={root}\n")
    assert not list((root / ".download").glob("*.zip"))
    assert sorted(site.requests) == sorted((name, None) for name in ZIPS)


def test_nothing_is_fetched_twice(dataset, root, site):
    main([dataset, str(root)])
    site.requests.clear()
    main([dataset, str(root)])
    assert not site.requests
    lost = root / "audio/bus-lyon-1-7-a.wav"
    lost.unlink()
    main([dataset, str(root)])
    assert site.requests == [(SECOND, None)]
    assert tree(root) == TREE


def test_dry_run_fetches_nothing(dataset, root, site, capsys):
    main([dataset, str(root), "--dry-run"])
    assert "the licence" in capsys.readouterr().out
    main([dataset, str(root), "--dry-run", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert {file["name"]: file["bytes"] for file in plan["files"]} == {name: len(zip) for name, zip in ZIPS.items()}
    assert not plan["complete"]
    assert not site.requests
    assert not root.exists()


def test_meta_only_leaves_the_recordings_for_later(dataset, root, site, capsys):
    main([dataset, str(root), "--meta-only"])
    assert tree(root) == {name: content for name, content in TREE.items() if not name.startswith("audio/")}
    assert "train.py" not in capsys.readouterr().out
    main([dataset, str(root)])
    assert tree(root) == TREE
    assert len(site.requests) == len(ZIPS)


def test_a_mirror_serves_what_the_origin_does_not(site, tmp_path, root):
    dataset = described(tmp_path / "tiny.yaml", site)
    text = Path(dataset).read_text()
    Path(dataset).write_text(text.replace(site.url, "http://127.0.0.1:1/"))
    main([dataset, str(root), "--mirror", site.url.rstrip("/"), "--keep-zips"])
    assert tree(root) == TREE
    assert {path.name: path.read_bytes() for path in (root / ".download").glob("*.zip")} == ZIPS


def test_lists_beside_archives_need_no_size_and_no_checksum(site, tmp_path, root, capsys):
    site.files = {"split5.csv": b"filename\naudio/a.wav\n"}
    dataset = described(tmp_path / "tiny.yaml", site, {"split5.csv": "-"}, checked=False)
    text = Path(dataset).read_text()
    Path(dataset).write_text(text.replace("    files:", "    folder: split_setup\n    files:"))
    site.faults["split5.csv"] = ["drop", "drop"]
    main([dataset, str(root), "--dry-run"])
    assert "not checked" in capsys.readouterr().out
    main([dataset, str(root)])
    assert tree(root) == {"split_setup/split5.csv": b"filename\naudio/a.wav\n"}
    assert site.requests == [("split5.csv", None)] * 3  # without a checksum, nothing proves that parts fit together


# what the server and the network do


@pytest.mark.parametrize("fault", ["drop", "stall", "wrong", "longer", 503, 429, "shifted"])
@pytest.mark.parametrize("ranges", [True, False])
def test_faults_that_pass(fault, ranges, dataset, root, site):
    site.ranges = ranges
    site.faults = {FIRST: ["drop", fault], SECOND: [fault, fault]}
    main([dataset, str(root), "--timeout", "0.3" if fault == "stall" else "30"])
    assert tree(root) == TREE
    assert [name for name, _ in site.requests].count(FIRST) >= (2 if fault == "shifted" and not ranges else 3)


def test_a_broken_transfer_goes_on_where_it_stopped(dataset, root, site):
    site.faults = {FIRST: ["drop"]}
    main([dataset, str(root)])
    resumed = [wanted for name, wanted in site.requests if name == FIRST]
    assert resumed == [None, f"bytes={len(ZIPS[FIRST]) // 2}-"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, "404 Not Found"),
        ("page", "web page"),
        ("wrong", "MD5"),
        (503, "503 Service Unavailable; 3 attempts failed"),
        ("stall", "stopped sending"),
    ],
)
def test_faults_that_last(fault, words, dataset, root, site, capsys):
    """The other files arrive, and the next run fetches what is missing."""
    site.faults = {FIRST: [fault] * 6}
    said = failure(capsys, dataset, root, "--retries", 2, "--timeout", 0.3 if fault == "stall" else 30)
    assert words in said
    assert said.endswith(f"error: 1 of 4 files failed ({FIRST}): see above, then run it again")
    assert set(TREE) - set(tree(root)) == set(PARTS["audio.1"])
    site.faults = {}
    main([dataset, str(root)])
    assert tree(root) == TREE


def test_a_server_that_is_not_there(dataset, root, capsys):
    assert "no connection to 127.0.0.1" in failure(
        capsys, dataset, root, "--mirror", "http://127.0.0.1:1", "--retries", 1
    )


def test_a_file_that_shrank_on_the_server(site, tmp_path, root, capsys):
    """It is asked for its end, which does not exist, then from the start."""
    dataset = described(tmp_path / "tiny.yaml", site)
    site.files[FIRST] = ZIPS[FIRST][:-1000]
    said = failure(capsys, dataset, root, "--retries", 2)
    assert f"{len(ZIPS[FIRST]) - 1000:,} bytes arrived instead of {len(ZIPS[FIRST]):,}" in said
    assert "ends before byte" in said


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("7") == 7
    assert retry_after("99999") == 300
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert retry_after("soon") is None
    assert retry_after(None) is None


# what archives do


def link() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(f"{TOP}/audio/link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def lying() -> bytes:
    """The directory says that the file has a byte less than it has."""
    content = bytearray(zipped({f"{TOP}/audio/a.wav": b"x" * 1000}))
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (999).to_bytes(4, "little")
    return bytes(content)


def strange() -> bytes:
    """Compressed by a method that zipfile does not know."""
    content = bytearray(zipped({f"{TOP}/audio/a.wav": b"x" * 1000}))
    for at in (8, content.index(b"PK\x01\x02") + 10):  # in the file's header and in the directory
        content[at : at + 2] = (99).to_bytes(2, "little")
    return bytes(content)


OUTSIDE = "leaves the dataset's folder"
DAMAGED = "not a readable zip archive"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: zipped({"../evil": b"x"}), OUTSIDE),
    "ancestor": (lambda: zipped({f"{TOP}/audio/../../../evil": b"x"}), OUTSIDE),
    "absolute": (lambda: zipped({"/tmp/evil": b"x"}), OUTSIDE),
    "drive": (lambda: zipped({"C:/evil": b"x"}), OUTSIDE),
    "backslash": (lambda: zipped({f"{TOP}\\..\\..\\evil": b"x"}), OUTSIDE),
    "state": (lambda: zipped({f"{TOP}/.download/tiny.doc.zip.done": b"x"}), OUTSIDE),
    "terminal": (lambda: zipped({f"{TOP}/\x1b[31m": b"x"}), "'TAU-tiny-development/\\x1b[31m'"),
    "twice": (lambda: zipped({f"{TOP}/audio/a": b"x", "audio/a": b"y"}), "occurs twice"),
    "bomb": (lambda: zipped({f"{TOP}/audio/bomb": bytes(101_000_000)}), "would grow to 101,000,000 bytes"),
    "many": (lambda: zipped({f"{TOP}/{i}": b"" for i in range(25_000)}), "would grow to 102,400,000 bytes"),
    "link": (link, "is a link"),
    "lying": (lying, DAMAGED),
    "strange": (strange, DAMAGED),
    "truncated": (lambda: ZIPS[FIRST][:-100], DAMAGED),
    "damaged": (lambda: ZIPS[FIRST][:5000] + b"\0" + ZIPS[FIRST][5001:], DAMAGED),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_that_are_not_unpacked(kind, site, tmp_path, root, capsys):
    make, words = HOSTILE[kind]
    site.files = {FIRST: make()}
    said = failure(capsys, described(tmp_path / "tiny.yaml", site), root)
    assert words in said
    assert "\x1b" not in said
    assert not tree(root)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "data"}
    assert not list((root / ".download").glob(f"{FIRST}*"))


# what the user and the machine do


def start_download(*arguments: object) -> subprocess.Popen:
    return start("-m", "asc.download", *map(str, arguments), script="-u")


def test_killed_at_any_time_it_ends_with_the_same_folder(dataset, root, site):
    site.bytes_per_second = 1_000_000
    draw = random.Random(1)
    for _ in range(3):
        process = start_download(dataset, root)
        until = time.monotonic() + 20
        asked = len(site.requests)
        while len(site.requests) == asked and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    site.bytes_per_second = float("inf")
    main([dataset, str(root)])
    assert tree(root) == TREE


def test_an_archive_that_is_there_is_not_downloaded(dataset, root, site):
    """It may be of a run that was killed before it unpacked it, or put there by hand; a wrong one is replaced."""
    folder = root / ".download"
    folder.mkdir(parents=True)
    (folder / FIRST).write_bytes(ZIPS[FIRST])
    (folder / SECOND).write_bytes(ZIPS[FIRST])
    main([dataset, str(root)])
    assert FIRST not in [name for name, _ in site.requests]
    assert (SECOND, None) in site.requests
    assert tree(root) == TREE


def test_ctrl_c_says_how_to_resume(dataset, root, site):
    site.bytes_per_second = 200_000
    process, part = start_download(dataset, root), root / f".download/{FIRST}.part"
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == f"\nstopped: what has arrived is kept. Resume with\n  python -m asc.download {dataset} {root}\n"
    assert part.exists()


def test_only_one_process_fills_a_folder(dataset, root, site, capsys):
    site.bytes_per_second = 100_000
    process = start_download(dataset, root)
    while not site.requests and process.poll() is None:
        time.sleep(0.01)
    assert "is being downloaded to already" in failure(capsys, dataset, root)
    process.kill()
    process.communicate()


def test_space_is_checked_before(site, tmp_path, root, capsys):
    dataset = described(tmp_path / "tiny.yaml", site, {FIRST: 10**15})
    assert "needs 2.25PB: free space first" in failure(capsys, dataset, root)
    assert not site.requests
    assert not root.exists()


@pytest.mark.skipif(not shutil.which("mount") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up(dataset, site, tmp_path, capsys):
    """Another program takes the space that was free before."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        root = small / "data"
        site.bytes_per_second = 200_000
        process = start_download(dataset, root)
        while len(site.requests) < 3 and process.poll() is None:
            time.sleep(0.01)
        filler = small / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=100k"], capture_output=True)
        _, err = process.communicate(timeout=30)
        site.bytes_per_second = float("inf")
        assert process.returncode == 1
        assert err.startswith("error: ")
        assert "No space left on device" in err
        assert err.count("\n") == 1
        filler.unlink()
        main([dataset, str(root)])
        assert tree(root) == TREE
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_folders_that_hold_something_else(dataset, root, site, tmp_path, capsys):
    root.mkdir()
    (root / "meta.csv").write_text("mine")
    assert "were not downloaded here" in failure(capsys, dataset, root)
    (root / "meta.csv").unlink()
    main([dataset, str(root), "--meta-only"])
    site.files = {"other.zip": ZIPS[FIRST]}
    assert "holds another dataset" in failure(capsys, described(tmp_path / "other.yaml", site), root)
    assert "cannot be made a folder" in failure(capsys, dataset, dataset)


def test_wrong_arguments(root, tmp_path, capsys):
    assert "unknown dataset 'tau'" in failure(capsys, "tau", root)
    assert "missing" in failure(capsys, "tau2019")
    assert "invalid --parallel=0" in failure(capsys, "tau2019", root, "--parallel", 0)
    assert "is not readable" in failure(capsys, tmp_path / "none.yaml", root)
    assert "not of HTTP" in failure(capsys, "tau2019", root, "--mirror", "ftp://example.org")
    own = tmp_path / "own.yaml"
    for text in ("[", "a: b", "sources: 3", 'title: "\\e[31m"', "- x"):
        own.write_text(text)
        said = failure(capsys, own, root)
        assert "does not describe a dataset" in said
        assert "\x1b" not in said


# the datasets


@pytest.mark.parametrize("name", names())
def test_each_dataset_is_one_of_conf(name):
    dataset = read_dataset(name)
    assert (REPOSITORY / f"conf/data/{dataset.data}.yaml").exists()
    assert all(len(file.md5 or "0" * 32) == 32 and int(file.md5 or "0", 16) >= 0 for file in dataset.files)
    assert len({file.name for file in dataset.files} | {file.md5 for file in dataset.files if file.md5}) >= 36


def test_sizes_are_those_published():
    """The records of Zenodo give 35.5, 27.4 and 27.5 GB."""
    assert read_dataset("tau2020_3class").size == 35_543_717_092
    assert read_dataset("tau2020_mobile").size == 27_364_817_167
    assert read_dataset("dcase2024").files[:-6] == read_dataset("tau2022_mobile").files
    file = read_dataset("dcase2024").files[-1]
    assert (file.name, file.folder, file.size, file.md5) == ("test.csv", "split_setup", None, None)


def test_the_list(capsys):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names()
    main(["--list", "--json"])
    assert json.loads(capsys.readouterr().out)["tau2019"]["bytes"] == 35_622_537_482


def test_it_starts_without_torch():
    code = "import sys, asc.download.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=ENVIRONMENT).returncode == 0
