"""asc.download against a server on this machine with the faults of real ones."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import ENVIRONMENT, REPOSITORY, start
from faulty_server import Site, serve

from asc.download.__main__ import main
from asc.download.catalog import names, read_dataset
from asc.download.transfer import ResumingDownloader

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
def short_pauses(monkeypatch):
    monkeypatch.setattr("asc.download.transfer.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


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


def test_download_fills_a_folder_to_train_on(dataset, root, site, capsys):
    main([dataset, str(root)])
    assert tree(root) == TREE
    out = capsys.readouterr().out
    assert max(out.index("the licence"), out.index("the citation")) < out.index(FIRST)
    assert f"data.root={root}" in out
    assert not list((root / ".download").glob("*.zip"))
    assert sorted(site.requests) == sorted((name, None) for name in ZIPS)


def test_second_run_fetches_only_the_archives_of_lost_files(dataset, root, site):
    main([dataset, str(root)])
    site.requests.clear()
    main([dataset, str(root)])
    assert not site.requests
    lost = root / "audio/bus-lyon-1-7-a.wav"
    lost.unlink()
    main([dataset, str(root)])
    assert site.requests == [(SECOND, None)]
    assert tree(root) == TREE


def test_dry_run_downloads_nothing(dataset, root, site, capsys):
    main([dataset, str(root), "--dry-run", "--json"])
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert "the licence" in err
    assert {file["name"]: file["bytes"] for file in plan["files"]} == {name: len(zip) for name, zip in ZIPS.items()}
    assert not plan["complete"]
    assert not site.requests
    assert not root.exists()


def test_meta_only_downloads_all_but_the_recordings(dataset, root, site, capsys):
    main([dataset, str(root), "--meta-only"])
    assert tree(root) == {name: content for name, content in TREE.items() if not name.startswith("audio/")}
    assert "train.py" not in capsys.readouterr().out


def test_file_without_md5_is_downloaded_from_its_start(site, tmp_path, root):
    site.files = {"split5.csv": b"filename\naudio/a.wav\n"}
    dataset = described(tmp_path / "tiny.yaml", site, {"split5.csv": "-"}, checked=False)
    text = Path(dataset).read_text()
    Path(dataset).write_text(text.replace("    files:", "    folder: split_setup\n    files:"))
    site.faults["split5.csv"] = ["drop", "drop"]
    main([dataset, str(root)])
    assert tree(root) == {"split_setup/split5.csv": b"filename\naudio/a.wav\n"}
    assert site.requests == [("split5.csv", None)] * 3  # without a checksum, nothing proves that parts fit together


# what the server and the network do


@pytest.mark.parametrize("fault", ["drop", "stall", "wrong", "longer", 503, 429])
@pytest.mark.parametrize("ranges", [True, False])
def test_download_survives_a_passing_fault(fault, ranges, dataset, root, site):
    site.ranges = ranges
    site.faults = {FIRST: ["drop", fault], SECOND: [fault, fault]}
    main([dataset, str(root), "--timeout", "0.3" if fault == "stall" else "30"])
    assert tree(root) == TREE
    first, resumed, _ = [wanted for name, wanted in site.requests if name == FIRST]
    half = len(ZIPS[FIRST]) // 2
    assert first is None
    assert half - 2**16 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= half  # bytes are read in blocks


def test_progress_adds_up_to_the_bytes_of_the_file(site, tmp_path):
    site.ranges, site.faults = False, {FIRST: ["drop"]}
    arrived = []
    ResumingDownloader(progress=arrived.append)(site.url + FIRST, tmp_path / FIRST)
    assert sum(arrived) == len(ZIPS[FIRST])
    assert (tmp_path / FIRST).read_bytes() == ZIPS[FIRST]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, "404 Client Error"),
        ("page", "web page"),
        ("wrong", "MD5"),
        (503, "503 Server Error"),
        ("stall", "Read timed out"),
    ],
)
def test_lasting_fault_of_one_file_spares_the_others(fault, words, dataset, root, site, capsys):
    site.faults = {FIRST: [fault] * 6}
    said = failure(capsys, dataset, root, "--retries", 2, "--timeout", 0.3 if fault == "stall" else 30)
    assert words in said
    assert f"1 of 4 files failed ({FIRST})" in said
    assert set(TREE) - set(tree(root)) == set(PARTS["audio.1"])
    site.faults = {}
    main([dataset, str(root)])
    assert tree(root) == TREE


def test_unreachable_server_is_named(dataset, root, site, capsys):
    Path(dataset).write_text(Path(dataset).read_text().replace(site.url, "http://127.0.0.1:1"))
    assert "127.0.0.1" in failure(capsys, dataset, root, "--retries", 1)


# what archives do


OUTSIDE = "leaves the folder"
DAMAGED = "not a readable zip archive"
ARCHIVES = {
    "parent": (zipped({"../evil": b"x"}), OUTSIDE),
    "ancestor": (zipped({f"{TOP}/good": b"x", f"{TOP}/audio/../../../evil": b"x"}), OUTSIDE),
    "absolute": (zipped({"/tmp/evil": b"x"}), OUTSIDE),
    "backslash": (zipped({f"{TOP}\\..\\..\\evil": b"x"}), OUTSIDE),
    "state": (zipped({f"{TOP}/.download/tiny.doc.zip.done": b"x"}), OUTSIDE),
    "truncated": (ZIPS[FIRST][:-100], DAMAGED),
    "damaged": (ZIPS[FIRST][:5000] + b"\0" + ZIPS[FIRST][5001:], DAMAGED),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_unsafe_or_damaged_archive_leaves_no_file(kind, site, tmp_path, root, capsys):
    site.files[FIRST], words = ARCHIVES[kind]
    site.files = {FIRST: site.files[FIRST]}
    assert words in failure(capsys, described(tmp_path / "tiny.yaml", site), root)
    assert not tree(root)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "data"}


# what the user and the machine do


def start_download(*arguments: object) -> subprocess.Popen:
    return start("-m", "asc.download", *map(str, arguments), script="-u")


def wait_for_requests(process: subprocess.Popen, site: Site, count: int) -> None:
    until = time.monotonic() + 20
    while len(site.requests) < count and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)


def test_download_killed_at_any_time_ends_with_the_same_folder(dataset, root, site):
    site.bytes_per_second = 1_000_000
    draw = random.Random(1)
    for _ in range(3):
        asked = len(site.requests)
        process = start_download(dataset, root)
        wait_for_requests(process, site, asked + 1)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    site.bytes_per_second = float("inf")
    main([dataset, str(root)])
    assert tree(root) == TREE


def test_archive_put_there_beforehand_is_checked_and_not_downloaded(dataset, root, site, capsys):
    """It may be of a run that was killed before it unpacked it, or put there by hand; a wrong one is replaced."""
    folder = root / ".download"
    folder.mkdir(parents=True)
    (folder / FIRST).write_bytes(ZIPS[FIRST])
    (folder / SECOND).write_bytes(ZIPS[FIRST])
    (folder / "tiny.meta.zip.part").write_bytes(ZIPS["tiny.meta.zip"])
    (root / "meta.csv").mkdir()  # in place of a file
    assert "meta.csv cannot be written" in failure(capsys, dataset, root)
    for thread in threading.enumerate():  # those of the command, which end with its process
        if thread.name.endswith("(worker)"):
            thread.join(30)
    (root / "meta.csv").rmdir()
    main([dataset, str(root)])
    assert FIRST not in [name for name, _ in site.requests]
    assert (SECOND, None) in site.requests
    assert tree(root) == TREE


def test_ctrl_c_keeps_what_has_arrived_and_another_process_is_rejected(dataset, root, site, capsys):
    site.bytes_per_second = 100_000
    process, part = start_download(dataset, root), root / f".download/{FIRST}.part"
    wait_for_requests(process, site, 4)
    assert "is locked by another download" in failure(capsys, dataset, root)
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert part.exists()


def test_missing_disk_space_is_reported_before_any_request(site, tmp_path, root, capsys):
    dataset = described(tmp_path / "tiny.yaml", site, {FIRST: 10**15})
    assert "needs 2.25PB" in failure(capsys, dataset, root)
    assert not site.requests
    assert not root.exists()


def test_folder_with_other_data_is_rejected(dataset, root, site, tmp_path, capsys):
    root.mkdir()
    (root / "meta.csv").write_text("mine")
    assert "contains other data" in failure(capsys, dataset, root)
    assert tree(root) == {"meta.csv": b"mine"}
    (root / "meta.csv").unlink()
    main([dataset, str(root), "--meta-only"])
    site.files = {"other.zip": ZIPS[FIRST]}
    assert "contains other data" in failure(capsys, described(tmp_path / "other.yaml", site), root)
    assert dataset in failure(capsys, dataset, dataset)  # a file in place of the folder


def test_wrong_arguments_get_one_sentence(root, tmp_path, capsys):
    assert "'tau'" in failure(capsys, "tau", root)
    assert "missing" in failure(capsys, "tau2019")
    assert "--retries=-1" in failure(capsys, "tau2019", root, "--retries", -1)
    assert "none.yaml" in failure(capsys, tmp_path / "none.yaml", root)
    own = tmp_path / "own.yaml"
    for text in ("[", "a: b", "sources: 3", "- x"):
        own.write_text(text)
        assert "own.yaml does not describe a dataset" in failure(capsys, own, root)


# the datasets


@pytest.mark.parametrize("name", names())
def test_each_dataset_has_a_choice_in_conf_data(name):
    dataset = read_dataset(name)
    assert all(len(file.md5 or "0" * 32) == 32 and int(file.md5 or "0", 16) >= 0 for file in dataset.files)
    if "{data}" in dataset.use:  # not a teacher
        assert (REPOSITORY / f"conf/data/{dataset.data}.yaml").exists()
        assert len({file.name for file in dataset.files} | {file.md5 for file in dataset.files if file.md5}) >= 36


def test_sizes_match_the_records_of_zenodo():
    """The records of Zenodo give 35.5, 27.4 and 27.5 GB."""
    for name, size in (("tau2020_3class", 35_543_717_092), ("tau2020_mobile", 27_364_817_167)):
        assert sum(file.bytes for file in read_dataset(name).files) == size
    assert read_dataset("dcase2024").files[:-6] == read_dataset("tau2022_mobile").files
    file = read_dataset("dcase2024").files[-1]
    assert (file.name, file.folder, file.bytes, file.md5) == ("test.csv", "split_setup", None, None)


def test_list_shows_every_dataset_and_its_bytes(capsys):
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names()
    main(["--list", "--json"])
    assert json.loads(capsys.readouterr().out)["tau2019"]["bytes"] == 35_622_537_482


def test_it_starts_without_torch():
    code = "import sys, asc.download.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=ENVIRONMENT).returncode == 0
